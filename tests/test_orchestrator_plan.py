"""What `vitscale plan` says of trunks, fine-tunings and searches."""

import json
from pathlib import Path

from tests.command_in_process import vitscale

STUDY = """\
name: shared
title: Three lengths of one training
source: tests
shows: nothing
shapes: {ViT: {t: {width: 8, depth: 1, mlp: 16, heads: 1}}}
defaults:
  model: ViT-t/4
  data: digits
  head: gap
  recipe: {base: small, schedule: {kind: rsqrt, timescale: 50, cooldown_steps: 20}}
grids: [{steps: [60, 120, 240]}]
evaluations: [{kind: split, split: validation, every: 100}]
transfers:
  - {name: again, data: digits, recipe: small, epochs: 2, seeds: 0}
  - {name: tuned, data: digits, recipe: small, steps: 20, search: {lr_peak: [1e-3, 1e-2]}, seeds: [0, 1]}
"""


def test_plan_prices_trunks_fine_tunings_and_searches(tmp_path: Path) -> None:
    (tmp_path / "shared.yaml").write_text(STUDY)
    bill = json.loads(vitscale("plan", "shared.yaml", "--json", cwd=tmp_path).out)
    total = bill["total"]
    counts = {name: total[name] for name in ("trainings", "trunks", "finetunings", "evaluations", "searches")}
    assert counts == {"trainings": 3, "trunks": 2, "finetunings": 3, "evaluations": 6, "searches": 3}
    assert total["flops"] == sum(each["flops"] for each in [*bill["runs"], *bill["searches"]]) == total["flops_left"]
    assert 0 < total["flops_saved"] < total["flops"]
    assert 0 < total["flops_watched"] < total["flops"]
    assert {each["trials"] for each in bill["searches"]} == {2}
    keys = [each["key"] for each in bill["runs"]]
    assert all(keys.index(each["upstream"]) < index for index, each in enumerate(bill["runs"]) if "upstream" in each)
    assert all((each["memory_bytes"] is None) == (each["kind"] == "evaluate") for each in bill["runs"])
    assert {each["transfer"] for each in bill["runs"] if each["kind"] == "finetune"} == {"again"}


def test_the_table_names_trunks_transfers_and_searches(tmp_path: Path) -> None:
    (tmp_path / "shared.yaml").write_text(STUDY)
    table = vitscale("plan", "shared.yaml", cwd=tmp_path).out
    lines = table.splitlines()
    assert sum("ViT-t/4 (trunk)" in line for line in lines) == 2
    assert sum("ViT-t/4 @ digits (again)" in line for line in lines) == 3
    assert sum("ViT-t/4 @ digits  tuned" in line for line in lines) == 3
    said = "shared: 3 trainings, 2 shared trunks, 3 fine-tunings, 6 evaluations and 3 searches of 6 trials, "
    assert any(line.startswith(said) for line in lines)
    assert any(line.startswith("saved: ") and line.endswith("by trainings that share a trunk") for line in lines)
    assert any(line.startswith("of it: ") and line.endswith("for evaluations on the way") for line in lines)
