"""A study on torch_xla from the command line, as on a TPU but for the device behind XLA."""

import json
from pathlib import Path

import pytest

from tests.command_line import vitscale, write_study

pytestmark = pytest.mark.xla

STUDY = """\
name: on-xla
title: One network, trained by XLA
source: tests
shows: nothing
shapes: {ViT: {t: {width: 8, depth: 1, mlp: 16, heads: 1}}}
grids: [{model: ViT-t/4, head: gap, data: digits, subset: 100, epochs: 5, recipe: small, seed: [0, 1]}]
evaluations: [{kind: split, split: test}]
"""


def test_a_study_runs_on_xla_and_its_results_say_so(tmp_path: Path) -> None:
    study = write_study(tmp_path, STUDY)
    done = vitscale(
        "submit",
        study,
        "--workers",
        "1",
        cwd=tmp_path,
        VITSCALE_DEVICE="xla",
        PJRT_DEVICE="CPU",
        RAY_AUTH_MODE="disabled",
    )
    assert done.code == 0, done.err
    assert "4 runs done, 0 failed" in done.err
    plan = json.loads(vitscale("plan", study, "--json", cwd=tmp_path).out)
    assert [run["state"] for run in plan["runs"]] == ["done"] * 4
    shown = json.loads(vitscale("show", plan["runs"][0]["key"], "--json", cwd=tmp_path).out)
    assert "xla" in shown["attempts"][0]["numerics"]
