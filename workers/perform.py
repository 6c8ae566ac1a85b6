"""One run, whatever its kind: the function that a worker calls."""

from studies.definitions import AnyRun, Evaluate, FewShot, FineTune, Train
from workers.evaluation import evaluate
from workers.fewshot import evaluate_fewshot
from workers.supervision import Finished, Place, Supervisor
from workers.training import train


def perform(run: AnyRun, place: Place, supervisor: Supervisor) -> Finished:
    """Do the run at this place.

    Raises what `workers.supervision` names, OSError when the disk is full, torch.OutOfMemoryError when the device is,
    and ValueError for a definition that cannot be run.
    """
    match run:
        case Train() | FineTune():
            return train(run, place, supervisor)
        case Evaluate():
            return evaluate(run, place, supervisor)
        case FewShot():
            return evaluate_fewshot(run, place, supervisor)
