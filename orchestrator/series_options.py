"""The options that say which points of a study are meant, and the question that they make together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.frontier_reports import Question

Quality_ = Annotated[
    str | None,
    typer.Option(
        "--quality",
        "--metric",
        metavar="METRIC",
        help="Metric, as in accuracy or accuracy_5shot; avg5 or mean(A,B), the mean over data sets.",
    ),
]
Split_ = Annotated[str | None, typer.Option(help="Split that the metric was measured on.")]
Data_ = Annotated[str | None, typer.Option(metavar="NAME", help="Data set of that split.")]
Kind_ = Annotated[str | None, typer.Option(help="evaluate, fewshot, or the name of a transfer.")]
ImageSize_ = Annotated[int | None, typer.Option(metavar="PIXELS", help="Side of the images there.")]
Cost_ = Annotated[
    str,
    typer.Option(
        metavar="AXIS",
        help="What is paid: flops (of the training), device-seconds, images (seen), parameters, forward-flops, money.",
    ),
]
Price_ = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[DEVICE=]PER_HOUR",
        help="With --cost money: what an hour of a device costs, as in 2.5 or h100=2.5; may be repeated.",
    ),
]


def question(
    quality: str | None,
    data: str | None,
    split: str | None,
    kind: str | None,
    image_size: int | None,
    cost: str = "flops",
    price: Sequence[str] | None = None,
) -> "Question":
    """What these options ask for. Raises ValueError for a price that is none."""
    from orchestrator.frontier_reports import Question

    return Question(quality, data, split, kind, image_size, cost, dict(map(_price, price)) if price else None)


def _price(text: str) -> tuple[str, float]:
    device, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise ValueError(f"'{text}' is no price of a device-hour: write it as in 2.5 or h100=2.5")
    return device, value


def two_numbers(text: str, example: str) -> tuple[float, float]:
    """The lesser and the larger of `2,4`. Raises ValueError for anything else."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"'{text}' is no pair of numbers: write it as in {example}") from None
    if not low <= high:
        raise ValueError(f"'{text}' has its larger number first: write it as in {example}")
    return low, high
