"""How long commands take to answer, as whole processes: what a user waits for after pressing Enter.

python -m benchmarks.commands
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import frontier, ledger_reads
from benchmarks.databases import fresh_urls, print_table
from db.store import Store
from studies.grid import load_study

REPEATS = 9
PLANNED_RUNS = 1_000
POINTS, FEW = 1_000_000, 40
VITSCALE = str(Path(sys.executable).with_name("vitscale"))
STUDY = """\
name: thousand
title: A thousand runs
source: benchmarks.commands
shows: nothing
defaults: {data: digits, head: gap, recipe: small, subset: [100, 200, 300, 500, 1000]}
grids:
  - architecture: ViT
    size: [Ti, S, B, L, H]
    patch: [1, 2, 4, 8]
    epochs: [10, 20, 40, 80, 160]
    seed: [0, 1]
"""


Timed = tuple[str, Sequence[str], float | str | None]
"""Name, command, goal: in seconds, or the command than which it takes at most twice as long and half a second more."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, fresh_urls() as urls, fresh_urls() as large:
        study = Path(folder) / "thousand.yaml"
        study.write_text(STUDY)
        assert len(load_study(study).runs) == PLANNED_RUNS
        for url in urls.values():
            store = Store.open(url)
            ledger_reads.fill(store)
            store.dispose()
        commands: list[Timed] = [
            ("python -c pass", (sys.executable, "-c", "pass"), None),
            ("python -c 'import torch'", (sys.executable, "-c", "import torch"), None),
            ("vitscale --help", (VITSCALE, "--help"), 0.4),
            (f"vitscale plan, {PLANNED_RUNS:,} runs, no store", (VITSCALE, "plan", str(study)), 1.0),
            (f"vitscale plan --json, {PLANNED_RUNS:,} runs", (VITSCALE, "plan", str(study), "--json"), 1.0),
        ]
        for dialect, url in urls.items():
            there = ("--store", url)
            commands += [
                (f"vitscale plan, a store of 10,000, {dialect}", (VITSCALE, "plan", str(study), *there), 1.0),
                (f"vitscale status, 10,000 runs, {dialect}", (VITSCALE, "status", *there), 1.0),
                (f"vitscale status --json, 10,000 runs, {dialect}", (VITSCALE, "status", "--json", *there), 1.0),
            ]
        commands += frontiers_of_many(large)
        # Its own working folder, and none of the user's settings: no store but the given one is found.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VITSCALE_")}
        table = []
        medians: dict[str, float] = {}
        for name, command, goal in commands:
            least, median, most, cpu = seconds(command, folder, environment)
            medians[name] = median
            limit = 2 * medians[goal] + 0.5 if isinstance(goal, str) else goal
            said = "-" if limit is None else f"< {limit:.1f} s: {'met' if median < limit else 'MISSED'}"
            torch = "-" if goal is None else "yes" if imports_torch(command, folder, environment) else "no"
            table.append((name, least, median, most, cpu, torch, said))
    load = os.getloadavg()[0]
    print(f"whole processes, {REPEATS} times each after one that does not count [s]; load average {load:.1f}")
    print_table(("command", "least", "median", "most", "CPU", "torch", "goal"), table)
    assert all(row[5] != "yes" for row in table), "a command that only reads imports torch"


def frontiers_of_many(urls: Mapping[str, str]) -> list[Timed]:
    """Fill stores with a study of few points and one of many, and ask for the frontier of each."""
    commands: list[Timed] = []
    for dialect, url in urls.items():
        store = Store.open(url)
        for study, rows in (("few", FEW), ("cloud", POINTS)):
            frontier.fill(store, url, *frontier.cloud(rows), study)
        store.dispose()
        few = f"vitscale frontier, {FEW} points, {dialect}"
        commands.append((few, (VITSCALE, "frontier", "few", "--store", url), 1.0))
        for options in ("", " --by family", " --hull", " --json"):
            command = (VITSCALE, "frontier", "cloud", *options.split(), "--store", url)
            commands.append((f"vitscale frontier{options}, {POINTS:,} points, {dialect}", command, few))
    return commands


def seconds(command: Sequence[str], folder: str, environment: Mapping[str, str]) -> tuple[float, float, float, float]:
    """Least, median and most time by the clock, and the median time of the processor, system calls included."""
    run(command, folder, environment)
    times, cpu = [], []
    for _ in range(REPEATS):
        before = os.times()
        start = time.perf_counter()
        run(command, folder, environment)
        times.append(time.perf_counter() - start)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        cpu.append(used)
    return min(times), statistics.median(times), max(times), statistics.median(cpu)


def imports_torch(command: Sequence[str], folder: str, environment: Mapping[str, str]) -> bool:
    """Whether the command imports torch, by the interpreter's own account."""
    answer = run(command, folder, {**environment, "PYTHONPROFILEIMPORTTIME": "1"})
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "typer" in imported
    return "torch" in imported


def run(command: Sequence[str], folder: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)


if __name__ == "__main__":
    main()
