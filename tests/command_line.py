"""The installed `vitscale` command for tests, run as a user runs it, and small studies to run it on."""

import os
import pty
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from select import select

MOST_SECONDS = 120
VITSCALE = str(Path(sys.executable).parent / "vitscale")

TINY = """\
name: tiny
title: Two networks of a few hundred parameters
source: tests
shows: nothing
shapes:
  ViT:
    t: {width: 8, depth: 1, mlp: 16, heads: 1}
defaults: {data: digits, subset: 100, recipe: small, epochs: [5, 10]}
grids:
  - {architecture: ViT, size: t, patch: 4, head: gap, seed: [0, 1]}
  - {model: {kind: resnet, blocks: [1], width: 4, root: 3x3, groups: 1}, epochs: 4}
evaluations:
  - {kind: split, split: test}
  - {kind: split, split: validation}
  - {kind: fewshot, shots: [1, 5], l2: 16, seeds: 0}
"""
"""Five trainings of at most 40 steps, each evaluated three times."""
TINY_RUNS = 20


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would steer the command, and with these values."""
    steering = ("VITSCALE_", "RAY_", "NO_COLOR", "FORCE_COLOR", "TTY_", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    return {**kept, "TERM": "xterm-256color", **extra}


def vitscale(*arguments: str | Path, cwd: Path, **variables: str) -> Ended:
    """Run the command with pipes as its streams and nothing to read."""
    done = subprocess.run(
        [VITSCALE, *map(str, arguments)],
        cwd=cwd,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def vitscale_on_terminal(*arguments: str | Path, cwd: Path, typed: str = "", **variables: str) -> Ended:
    """Run the command on a pseudo-terminal of its own; what it prints on both streams is in `out`."""
    ours, its = pty.openpty()
    os.write(ours, typed.encode())
    process = subprocess.Popen(
        [VITSCALE, *map(str, arguments)], cwd=cwd, env=environment(variables), stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    printed, deadline = b"", time.monotonic() + MOST_SECONDS
    try:
        while time.monotonic() < deadline:
            if select([ours], [], [], 0.2)[0]:
                try:
                    piece = os.read(ours, 65536)
                except OSError:  # the command has left the terminal
                    break
                if not piece:
                    break
                printed += piece
        return Ended(process.wait(timeout=max(1.0, deadline - time.monotonic())), printed.decode(), "")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)


def write_study(folder: Path, text: str = TINY, name: str = "tiny.yaml") -> Path:
    """A study file in a folder."""
    file = folder / name
    file.write_text(text)
    return file
