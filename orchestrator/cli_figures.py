"""The command that draws figures; the drawing is in `orchestrator/figures/`.

Heavy imports are inside the command, so that `--help` is instant.
"""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.lookups import settings_of, study_store
from orchestrator.options import Folder_, Name_, Store_
from orchestrator.series_options import Cost_, Data_, ImageSize_, Kind_, Quality_, Split_, question

figures_app = typer.Typer(rich_markup_mode=None)


@figures_app.command()
def figure(
    which: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="transfer (by data set of the pre-training), fewshot (by images trained on), frontier, shape (which "
            "dimension to scale), throughput (and memory), scaling (compute, model and data).",
        ),
    ],
    study: Name_,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to draw: .svg, .pdf, .png, or .html.")],
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the interactive form too: one page, no network."),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(metavar="TEMPLATE", help="Where marks lead, as in https://host/runs/{key}. Default: #run-{key}."),
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="family", help="frontier: one for each family.")] = None,
    law: Annotated[
        str | None,
        typer.Option(metavar="FORM", help="frontier: power, saturating or double-saturating, with its band."),
    ] = None,
    cost: Cost_ = "flops",
    band: Annotated[
        str | None, typer.Option(metavar="FAMILY", help="transfer, fewshot: draw this family as a range.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="throughput: whose memory counts. Default: the study's, or tpu-v3.")
    ] = None,
    quality: Quality_ = None,
    data: Data_ = None,
    split: Split_ = None,
    kind: Kind_ = None,
    image_size: ImageSize_ = None,
    store: Store_ = None,
    folder: Folder_ = None,
) -> None:
    """Draw a figure of a study as the papers have it: every mark names its runs and leads to them.

    Example:  vitscale figure frontier quickstart frontier.svg --by family --html frontier.html
    """
    from orchestrator import figures, screen
    from orchestrator.figures import drawing

    if by not in (None, "family"):
        raise ValueError(f"'{by}' is nothing to divide by; valid: family")
    files = [file, html] if html else [file]
    for each in files:
        figures.check_format(each)
    if html and html.suffix.lower() != ".html":
        raise ValueError(f"'{html.name}' is no page: --html writes .html")
    address = link or figures.LINK
    figures.check_link(address)
    asked = question(quality, data, split, kind, image_size, cost)
    wanted = drawing.Wanted(asked=asked, by_family=by is not None, law=law, band=band, device=device)
    with study_store(settings_of(store, folder), study) as (opened, found):
        sheet = drawing.drawn(opened, found, which, wanted)
    for note in sheet.notes:
        screen.say(note)
    for each in files:
        figures.write(sheet, each, address)
        screen.say(f"wrote {each}")
