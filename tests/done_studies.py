"""A folder with two studies that the installed command has worked on, and what their store holds."""

from pathlib import Path

from db import answers
from db.store import Store, default_url
from tests.command_line import TINY, TINY_RUNS, vitscale, write_study

EVALUATE = "evaluations: [{kind: split, split: test}]\n"
ONE_RUN = TINY.replace("epochs: [5, 10]", "epochs: 5").replace("seed: [0, 1]", "seed: 0").split("  - {model:")[0]
DIVERGING = (
    ONE_RUN.replace("name: tiny", "name: diverging").replace("recipe: small", "recipe: {base: small, lr_peak: 1.0e+30}")
    + EVALUATE
)


def submit_both(folder: Path) -> None:
    """Finish a study there, and one whose only training diverges."""
    finished = vitscale("submit", write_study(folder), cwd=folder)
    assert finished.code == 0, finished.err
    assert f"{TINY_RUNS} runs done, 0 failed" in finished.err
    assert finished.out == ""
    failed = vitscale("submit", write_study(folder, DIVERGING, "diverging.yaml"), cwd=folder)
    assert failed.code == 5, failed.err


def runs_of(folder: Path, study: str = "tiny") -> list[answers.Run]:
    """The runs of a study in a folder's store."""
    store = Store.open(default_url(folder), create=False)
    try:
        with store.read() as connection:
            found = answers.study_named(connection, study)
            assert found is not None
            return answers.runs_of(connection, found.id)
    finally:
        store.dispose()


def trained(folder: Path, family: str = "ViT") -> answers.Run:
    """A finished training of the tiny study."""
    return next(run for run in runs_of(folder) if (run.kind, run.state, run.family) == ("train", "done", family))
