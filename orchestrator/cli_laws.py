"""The commands that answer with laws: fits, predictions, and plans for the next runs.

Heavy imports are inside the commands, so that `--help` is instant.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.lookups import opened_store, settings_of, study_named, study_store
from orchestrator.options import Folder_, Json_, Name_, Store_
from orchestrator.series_options import Cost_, Data_, ImageSize_, Kind_, Price_, Quality_, Split_, question

if TYPE_CHECKING:
    from db.store import Store
    from orchestrator.frontier_reports import Frontier
    from orchestrator.law_reports import Fitted, Wish

laws = typer.Typer(rich_markup_mode=None)

_FORMS = (
    "power, saturating or double-saturating, of cost; surface or repeated-surface, of size and images; m4; isoflop."
)
Family_ = Annotated[str | None, typer.Option(help="One family's points alone.")]
Replicates_ = Annotated[int, typer.Option(min=2, help="Of the bootstrap, from which the intervals follow.")]
Seed_ = Annotated[int, typer.Option(min=0, help="Of the bootstrap's draws.")]


@laws.command()
def fit(
    study: Name_,
    form: Annotated[str, typer.Option(help=_FORMS)] = "saturating",
    by: Annotated[str | None, typer.Option(metavar="family", help="A law for each family.")] = None,
    family: Family_ = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="One network's points alone, as for m4.")] = None,
    points: Annotated[
        str | None,
        typer.Option(help="frontier or all. Default: of laws of cost the frontier, of others all.", show_default=False),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(metavar="FLOPS", help="Of a surface: say how this much compute is best split as well."),
    ] = None,
    method: Annotated[str, typer.Option(help="Of isoFLOP optima: akima, or parabola, which is biased.")] = "akima",
    replicates: Replicates_ = 1000,
    seed: Seed_ = 0,
    cost: Cost_ = "flops",
    quality: Quality_ = None,
    data: Data_ = None,
    split: Split_ = None,
    kind: Kind_ = None,
    image_size: ImageSize_ = None,
    price: Price_ = None,
    store: Store_ = None,
    folder: Folder_ = None,
    json: Json_ = False,
) -> None:
    """Fit a law of the error, with 95 % intervals and with warnings where it cannot be trusted.

    The law is kept in the store, bound to the results that it was fitted on: the same question about the same results
    is answered with the same digits.

    Example:  vitscale fit quickstart --form power --by family --points all
    """
    from orchestrator import frontier_reports, law_reports, screen, screen_laws

    law_reports.check_form(form)
    asked = question(quality, data, split, kind, image_size, cost, price)
    wish = law_reports.Wish(form, family, model, _on_frontier(points), method, replicates, seed)
    _check(wish, by, budget)
    with study_store(settings_of(store, folder), study) as (opened, found):
        answer = frontier_reports.frontier(opened, found, asked, by_family=by is not None)
        fitted, failed = _fitted(opened, answer, wish, by)
    splits = [law_reports.split_of(each, budget) for each in fitted] if budget else []
    if json:
        screen.print_json(law_reports.as_json(fitted, failed, splits, by_family=by is not None))
        return
    for note in answer.notes:
        screen.say(note)
    for number, each in enumerate(fitted):
        screen_laws.print_law(each, answer.series)
        if splits:
            screen_laws.print_split(splits[number], answer.series.direction)
    for name, why in failed:
        screen.say(f"no law for {name}: {why}")
    screen_laws.say_not_kept(fitted)


def _on_frontier(points: str | None) -> bool | None:
    if points not in (None, "frontier", "all"):
        raise ValueError(f"'{points}' names no points to fit on; valid: frontier, all")
    return None if points is None else points == "frontier"


def _check(wish: "Wish", by: str | None, budget: float | None) -> None:
    """Raise ValueError for options without effect."""
    from orchestrator.law_reports import SURFACES

    if by not in (None, "family"):
        raise ValueError(f"'{by}' is nothing to divide by; valid: family")
    if by and wish.family:
        raise ValueError("--by family is a law for each family, --family is one: choose one of them")
    if wish.method != "akima" and wish.form != "isoflop":
        raise ValueError("--method has an effect on isoFLOP optima alone: add --form isoflop")
    if wish.form == "isoflop" and wish.on_frontier is not None:
        raise ValueError("--points has no effect on isoFLOP optima, which need all points: leave it out")
    if budget is not None and wish.form not in SURFACES:
        raise ValueError("--budget splits compute by a surface: add --form surface")


def _fitted(
    store: "Store", found: "Frontier", wish: "Wish", by: str | None
) -> tuple[list["Fitted"], list[tuple[str, str]]]:
    """The laws, and the families that have none with the reason. Raises ValueError where there is no law at all."""
    from dataclasses import replace

    from orchestrator.law_reports import fitted

    if not by:
        return [fitted(store, found, wish)], []
    laws, failed = [], []
    for family in dict.fromkeys(point.family for point in found.points):
        try:
            laws.append(fitted(store, found, replace(wish, family=family)))
        except ValueError as error:  # one family's points are too few; the others' laws stand
            failed.append((family, str(error)))
    if not laws:
        raise ValueError("; ".join(f"{family}: {why}" for family, why in failed))
    return laws, failed


@laws.command()
def predict(
    study: Name_,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A network, by the study's name for it or as in ViT-L/16.")
    ] = None,
    parameters: Annotated[float | None, typer.Option(help="Parameters, instead of a network's name.")] = None,
    flops: Annotated[
        float | None, typer.Option(help="Training FLOPs, instead of a network: for a law of cost.")
    ] = None,
    images: Annotated[float | None, typer.Option(help="Training images seen, repeats counted.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the images, instead of --images.")] = None,
    data_rows: Annotated[
        float | None, typer.Option(help="Distinct training images. Default: the most in the study.")
    ] = None,
    form: Annotated[
        str | None, typer.Option(help="Form of the law. Default: surface; with --flops, saturating.")
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Whose law. Default: the network's, if there are several; all: of all together.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Predict more than 1,000 times beyond what the law was fitted on.")
    ] = False,
    replicates: Replicates_ = 1000,
    seed: Seed_ = 0,
    quality: Quality_ = None,
    data: Data_ = None,
    split: Split_ = None,
    kind: Kind_ = None,
    image_size: ImageSize_ = None,
    store: Store_ = None,
    folder: Folder_ = None,
    json: Json_ = False,
) -> None:
    """Predict the error of a network that was not trained, with its band, from a law of the study.

    Example:  vitscale predict quickstart --model ViT-Ti/2 --epochs 20
    """
    from orchestrator import frontier_reports, plan_reports, screen, screen_laws

    asked = plan_reports.Combination(model, parameters, flops, images, epochs, data_rows)
    wanted = question(quality, data, split, kind, image_size)
    with study_store(settings_of(store, folder), study) as (opened, found):
        answer = frontier_reports.frontier(opened, found, wanted, by_family=False)
        wish = _wish(form or ("surface" if flops is None else "saturating"), family, replicates, seed)
        forecast = plan_reports.forecast(opened, answer, asked, wish, force=force)
    if json:
        screen.print_json(plan_reports.forecast_json(forecast))
    else:
        screen_laws.print_forecast(forecast)


def _wish(form: str, family: str | None, replicates: int, seed: int) -> "Wish":
    from orchestrator.law_reports import Wish, check_form

    check_form(form)
    return Wish(form, family, replicates=replicates, seed=seed)


@laws.command("next")
def next_(
    study: Name_,
    budget: Annotated[float, typer.Option(metavar="FLOPS", help="Training FLOPs to spend, as in 5e20.")],
    target: Annotated[
        float | None,
        typer.Option(metavar="ERROR", help="An error to reach, as in 0.10. Default: that of the whole budget."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where they would run, as in h200, 8xh200 or v4-32 (TensorCores): time, and what fits."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="A configuration is proposed at most so often.")] = 3,
    form: Annotated[
        str | None,
        typer.Option(help="Form of the law. Default: surface; saturating where none can be planned by."),
    ] = None,
    family: Annotated[str | None, typer.Option(help="One family's law and networks alone.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Plan more than 1,000 times beyond what the law was fitted on.")
    ] = False,
    replicates: Replicates_ = 1000,
    seed: Seed_ = 0,
    quality: Quality_ = None,
    data: Data_ = None,
    split: Split_ = None,
    kind: Kind_ = None,
    image_size: ImageSize_ = None,
    store: Store_ = None,
    folder: Folder_ = None,
    json: Json_ = False,
) -> None:
    """Say which configurations to train next: those that make the law's interval at the target the narrowest.

    Candidates are the study's networks and their neighbours in size, each on as many images as the study trains on
    and two, four and eight times as many; and further seeds of them.

    Example:  vitscale next quickstart --budget 1e12 --target 0.01 --device h200
    """
    from orchestrator import frontier_reports, plan_reports, screen, screen_laws

    cluster = plan_reports.cluster_named(device) if device else None
    wanted = question(quality, data, split, kind, image_size)
    with study_store(settings_of(store, folder), study) as (opened, found):
        answer = frontier_reports.frontier(opened, found, wanted, by_family=False)
        wish = _wish(form or "saturating", family, replicates, seed)
        planned = plan_reports.plan if form else plan_reports.usual_plan
        plan = planned(opened, answer, budget, target, wish, cluster, seeds=seeds, force=force)
    if json:
        screen.print_json(plan_reports.plan_json(plan))
    else:
        screen_laws.print_plan(plan)


@laws.command("laws")
def list_laws(study: Name_, store: Store_ = None, folder: Folder_ = None, json: Json_ = False) -> None:
    """List the laws that were fitted to a study and are kept in the store.

    Example:  vitscale laws quickstart
    """
    from orchestrator import law_reports, screen, screen_laws

    with opened_store(settings_of(store, folder), create=False) as opened:
        kept = law_reports.kept(opened, study_named(opened, study))
    if json:
        screen.print_json(law_reports.kept_json(kept))
    else:
        screen_laws.print_laws(study, kept)
