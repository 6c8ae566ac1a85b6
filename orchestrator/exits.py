"""What an error means to the user: one sentence, and an exit code that stays the same."""

import os
import sys


def sentence(error: Exception) -> str:
    """What the user reads about an error, with the cure where there is one."""
    from db.store import StoreMissing

    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, StoreMissing):
        return f"{error}; make one with: vitscale submit STUDY.yaml, or name one with --store"
    return str(error)


def exit_code(error: Exception) -> int | None:
    """The exit code of an error that needs no traceback; None for a fault of ours."""
    from db.store import StoreError, StoreMissing, StoreUnreachable
    from orchestrator.cluster import ClusterUnreachable
    from orchestrator.data_jobs import TaskDied
    from orchestrator.driver import CannotWork
    from orchestrator.reports import NotFound
    from workers.supervision import DataError

    if isinstance(error, BrokenPipeError):  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, NotFound | StoreMissing):
        return 3
    if isinstance(error, StoreUnreachable | ClusterUnreachable):
        return 6
    if isinstance(error, ValueError):  # what the user said has no meaning
        return 2
    return 1 if isinstance(error, StoreError | CannotWork | TaskDied | DataError | OSError) else None
