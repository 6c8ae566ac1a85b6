"""Trunks: trainings by the reciprocal square root that differ only in their length share the steps before their
cooldowns (arXiv:2106.04560v2, section 3.5). Which trunks pay, and who starts from which. `workers/training.py` starts.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from studies.definitions import Train, canonical_json
from studies.planned import PlannedRun
from studies.schedules import ReciprocalSqrt


def with_trunks(trainings: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The trainings, those that share steps with a trunk to start from, and the trunks; each after what it starts from.

    A trunk ends where the cooldown of one training begins, and starts where another ends. Keys and bits of a training
    are what they are without; one that keeps its best weights, or has none to share with, stays alone.
    """
    groups: dict[str, list[PlannedRun]] = defaultdict(list)
    for planned in trainings:
        groups[_shared(planned)].append(planned)
    made = [each for group in groups.values() for each in _of_group(group)]
    return sorted(made, key=lambda planned: planned.training.examples)


def branch_point(run: Train) -> int:
    """The steps before the cooldown of a training by the reciprocal square root."""
    assert isinstance(run.recipe.schedule, ReciprocalSqrt)
    return run.steps - run.recipe.schedule.cooldown_steps


def trunk_of(run: Train) -> Train:
    """The training whose last state is the one of `run` before its cooldown."""
    schedule = run.recipe.schedule.model_copy(update={"cooldown_steps": 0})
    recipe = run.recipe.model_copy(update={"schedule": schedule})
    examples = branch_point(run) * run.recipe.batch
    return Train.model_validate({**dict(run), "recipe": recipe, "examples": examples})


def _shared(planned: PlannedRun) -> str:
    """Equal for trainings that can share a trunk."""
    run = planned.root
    if not isinstance(run.recipe.schedule, ReciprocalSqrt) or any(watch.keep == "best" for watch in run.watches):
        return planned.key
    fields = run.model_dump(mode="json")
    del fields["examples"], fields["recipe"]["schedule"]["cooldown_steps"]
    return canonical_json(fields)


def _of_group(group: list[PlannedRun]) -> list[PlannedRun]:
    """The trainings of a group with the trunks between them, where these make it cheaper."""
    if len(group) < 2:
        return group
    by_point: dict[int, list[PlannedRun]] = defaultdict(list)
    for planned in group:
        by_point[branch_point(planned.root)].append(planned)
    made: list[PlannedRun] = []
    trunk: PlannedRun | None = None  # the longest so far
    points = sorted(by_point)
    for point in points:
        branches = by_point[point]
        warm = branches[0].root.recipe.warmup_steps < point  # no training is shorter than its warm-up
        whole = next((each for each in branches if each.root.steps == point), None)
        starting = len(branches) - (whole is not None) + (point != points[-1])
        if whole is not None:  # it has no cooldown, and so is a trunk itself
            trunk = replace(whole, trunk=trunk)
            made.append(trunk)
        elif warm and starting > 1:
            trunk = _trunk(branches[0], trunk)
            made.append(trunk)
        made += [replace(each, trunk=trunk) for each in branches if each is not whole]
    return made if sum(each.flops for each in made) < sum(each.flops for each in group) else group


def _trunk(branch: PlannedRun, start: PlannedRun | None) -> PlannedRun:
    run = trunk_of(branch.root)
    epochs = run.examples / run.data.rows
    return PlannedRun(run, run, branch.model, branch.family, epochs, role="trunk", trunk=start)
