"""The command in the process of the test: what it prints and ends with as in `command_line.py`, without the second that
a new process takes, and with its warnings as errors.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from orchestrator.cli import main
from tests.command_line import Ended, environment


def vitscale(*arguments: str | Path, cwd: Path, **variables: str) -> Ended:
    """Run a command that starts no workers, in a folder and with these variables."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        patch.dict(os.environ, environment(variables), clear=True),
        patch.object(sys, "argv", ["vitscale", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Ended(code, out.getvalue(), err.getvalue())


def asked(*arguments: str | Path, cwd: Path) -> Any:
    """What a command prints as JSON."""
    ended = vitscale(*arguments, "--json", cwd=cwd)
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def digits(number: float) -> int:
    """Significant digits that a number is printed with."""
    return len(repr(number).replace(".", "").split("e")[0].strip("-0"))
