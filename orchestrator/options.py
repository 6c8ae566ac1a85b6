"""What several commands take, each with its help text: spelled once, the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Store_ = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="SQLAlchemy URL of the store. Default: VITSCALE_STORE, or SQLite in the nearest .vitscale folder.",
    ),
]
Folder_ = Annotated[
    Path | None,
    typer.Option(
        "--folder", help="Folder of checkpoints and logs, seen by all workers. Default: VITSCALE_FOLDER, or .vitscale."
    ),
]
Datasets_ = Annotated[
    Path | None,
    typer.Option(
        "--datasets",
        metavar="FILE",
        help="Your list of data sets. Default: VITSCALE_DATASETS, or datasets.yaml in the folder.",
    ),
]
Json_ = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Study_ = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study file.")]
Name_ = Annotated[str, typer.Argument(metavar="STUDY", help="The name of a study in the store.")]
OptionalName_ = Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A submitted study; all without it.")]
Run_ = Annotated[str, typer.Argument(metavar="RUN", help="The first digits of a run's key.")]
Address_ = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", envvar="RAY_ADDRESS", help="A Ray cluster to hand the study to."),
]
Workers_ = Annotated[
    int | None, typer.Option("--workers", min=1, help="CPUs to use on this machine. Default: all of them.")
]
AnyNumerics_ = Annotated[
    bool,
    typer.Option(
        "--any-numerics",
        help="Go on from checkpoints that another kind of device or thread count wrote; the results say so.",
    ),
]
