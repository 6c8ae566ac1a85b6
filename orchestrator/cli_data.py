"""The commands below `vitscale data`. Heavy imports are inside them, as in cli.py."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.lookups import settings_of
from orchestrator.options import Datasets_, Folder_, Json_, Workers_

data = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Name image sets, look into them, check every image, and drop duplicates of test images.

    Example:  vitscale data add imagenet /data/imagenet-1k""",
)

DataSet_ = Annotated[str, typer.Argument(metavar="NAME", help="The name of a data set.")]


@data.command("list")
def list_data(datasets: Datasets_ = None, folder: Folder_ = None, json: Json_ = False) -> None:
    """List all data sets: yours, and those that are built in.

    Example:  vitscale data list
    """
    from orchestrator import data_show, screen, screen_data

    found = data_show.all_data_sets(settings_of(None, folder, datasets))
    if json:
        screen.print_json(found)
    else:
        screen_data.print_data_sets(found)


@data.command("add")
def add_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the data set.")],
    location: Annotated[
        str, typer.Argument(metavar="LOCATION", help="Folder or URI (s3://, gs://, hdfs://) of Parquet shards.")
    ],
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPLIT=PATTERN",
            help="The files of a split, as train=data/train-*.parquet; may be repeated. Default: as files are called.",
        ),
    ] = None,
    image: Annotated[str, typer.Option(metavar="COLUMN", help="Column of encoded images.")] = "image",
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Column of labels, or of lists of them.")] = "label",
    index: Annotated[
        str | None,
        typer.Option(metavar="LOCATION", help="Where to write the index. Default: vitscale-index beside the shards."),
    ] = None,
    source: Annotated[str, typer.Option(metavar="TEXT", help="Where the data set comes from, for people.")] = "",
    development: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="A share of train to choose hyper-parameters on, as 2%; makes two splits."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of the data set of this name: its entry is gone then.")
    ] = False,
    datasets: Datasets_ = None,
    folder: Folder_ = None,
    workers: Workers_ = None,
    json: Json_ = False,
) -> None:
    """Register Parquet shards as they lie, and index them: nothing is copied.

    Images are encoded files in a column, as the Hugging Face hub ships them. A second call goes on after a stop.

    Example:  vitscale data add imagenet /data/imagenet-1k --development 1%
    """
    from orchestrator import data_add, screen, screen_data
    from studies.manifests import Columns

    added = data_add.add(
        settings_of(None, folder, datasets),
        name,
        _absolute(location),
        patterns=_patterns(split or []),
        columns=Columns(image=image, label=label),
        index=None if index is None else _absolute(index),
        source=source,
        development=development,
        replace=replace,
        cpus=workers,
    )
    if json:
        screen.print_json(added)
    else:
        screen_data.print_added(added)


@data.command("import")
def import_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the data set.")],
    files: Annotated[
        Path,
        typer.Argument(
            metavar="FROM",
            help="Class folders, CIFAR, MNIST's idx, .npz or .npy, WebDataset tars, a CSV of path,label, or Parquet.",
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(metavar="LOCATION", help="Where to write the shards. Default: data/NAME beside the registry."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The split to take, or what to call the only one. Default: all, or train.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="csv, cifar, idx, arrays, webdataset, parquet or folders. Default: as files look."),
    ] = None,
    image: Annotated[str | None, typer.Option(metavar="NAME", help="Column, array or member of images.")] = None,
    label: Annotated[str | None, typer.Option(metavar="NAME", help="Column, array or member of labels.")] = None,
    resize: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="Shorter side to make larger images smaller to, as JPEG."),
    ] = None,
    shards_mib: Annotated[int, typer.Option(min=1, metavar="MIB", help="Size of a shard.")] = 256,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave images out that cannot be decoded for --resize, and list them.")
    ] = False,
    source: Annotated[str, typer.Option(metavar="TEXT", help="Where the data set comes from, for people.")] = "",
    datasets: Datasets_ = None,
    folder: Folder_ = None,
    workers: Workers_ = None,
    json: Json_ = False,
) -> None:
    """Turn images in a foreign format into a registered data set of Parquet shards.

    Encoded images keep their bytes unless --resize is given; arrays become PNG. A second call goes on after a stop.

    Example:  vitscale data import cifar10 downloads/cifar-10-python.tar.gz
    """
    from orchestrator import data_import, screen, screen_data

    imported = data_import.import_(
        settings_of(None, folder, datasets).datasets,
        files,
        name,
        to=None if to is None else _absolute(to),
        format=format,
        split=split,
        image=image,
        label=label,
        resize=resize,
        shard_bytes=shards_mib * 2**20,
        skip_bad=skip_bad,
        cpus=workers,
        about=source,
    )
    if json:
        screen.print_json(imported)
    else:
        screen_data.print_imported(imported)


@data.command("show")
def show_data(
    name: DataSet_,
    split: Annotated[str | None, typer.Option(help="Split to look into. Default: train, or the first.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.png", help="Draw examples of its classes.")
    ] = None,
    datasets: Datasets_ = None,
    folder: Folder_ = None,
    json: Json_ = False,
) -> None:
    """Show a data set: its splits, counts of its classes and sizes of images, and examples in a picture.

    Example:  vitscale data show digits -o digits.png
    """
    from orchestrator import data_show, screen, screen_data

    report = data_show.show(settings_of(None, folder, datasets), name, split=split, picture=output)
    if json:
        screen.print_json(report)
    else:
        screen_data.print_data_set(report)
    if output is not None:
        screen.say(f"wrote {output}")


@data.command("check")
def check_data(
    name: DataSet_,
    split: Annotated[str | None, typer.Option(help="A stored split. Default: all of them.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out of trainings from now on; results count them.")
    ] = False,
    datasets: Datasets_ = None,
    folder: Folder_ = None,
    workers: Workers_ = None,
    json: Json_ = False,
) -> None:
    """Decode every image of a data set, and report those that are bad or odd, by shard and row.

    The rows that cannot be trained on go into a list beside the registry. Exit code 1 when there are any; 0 when images
    are only odd. A second call goes on after a stop.

    Example:  vitscale data check imagenet --skip-bad
    """
    from orchestrator import data_check, screen, screen_data

    report = data_check.check_data(
        settings_of(None, folder, datasets), name, split=split, skip_bad=skip_bad, cpus=workers
    )
    if json:
        screen.print_json(report)
    else:
        screen_data.print_check(report)
    if not report["sound"]:
        raise typer.Exit(1)


@data.command("dedup")
def dedup_data(
    name: DataSet_,
    against: Annotated[
        list[str], typer.Option(metavar="NAME:SPLIT", help="Images that must not be in it; may be repeated.")
    ],
    split: Annotated[str, typer.Option(help="Split to look for duplicates in.")] = "train",
    radius: Annotated[int | None, typer.Option(min=0, help="Bits of 64 that hashes may differ in.")] = None,
    new_split: Annotated[
        str | None, typer.Option("--as", metavar="SPLIT", help="Register a split without the duplicates.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Draw the pairs, the doubtful ones first.")
    ] = None,
    datasets: Datasets_ = None,
    folder: Folder_ = None,
    workers: Workers_ = None,
    json: Json_ = False,
) -> None:
    """Find images of a split that are in others, exactly or nearly, and list them so that a split can leave them out.

    Example:  vitscale data dedup imagenet --against pets:test --as train-clean --report pairs.html
    """
    from orchestrator import data_duplicates, screen, screen_data
    from studies.registry import load_registry

    settings = settings_of(None, folder, datasets)
    found = data_duplicates.dedup(
        settings,
        load_registry(settings.datasets),
        name,
        split,
        against,
        data_duplicates.RADIUS if radius is None else radius,
        new_split,
        report,
        cpus=workers,
    )
    if json:
        screen.print_json(found)
    else:
        screen_data.print_duplicates(found)


def _absolute(location: str) -> str:
    """A relative folder is one below the working folder."""
    return location if "://" in location else str(Path(location).absolute())


def _patterns(given: list[str]) -> dict[str, str]:
    """Patterns by split, of `SPLIT=PATTERN`. Raises ValueError for anything else, and for a split that comes twice."""
    patterns: dict[str, str] = {}
    for text in given:
        split, equals, pattern = text.partition("=")
        if not (split and equals and pattern):
            raise ValueError(f"'{text}' names no files of a split: write it as train=train-*.parquet")
        if split in patterns:
            raise ValueError(f"the split {split} is given twice: write one pattern, as in {split}={split}-*.parquet")
        patterns[split] = pattern
    return patterns
