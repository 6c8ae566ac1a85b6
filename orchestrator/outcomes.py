"""What the end of an attempt means for its run: an exception becomes an outcome of the ledger."""

from workers.supervision import CheckpointError, DataError, NotFinite, OtherNumerics


def outcome_of(error: BaseException) -> str:
    """The outcome that an exception of a run stands for.

    `user_error` and `not_finite` would come again and are final; the others spend the failure budget.
    """
    if isinstance(error, NotFinite):
        return "not_finite"
    if isinstance(error, OtherNumerics):
        return "user_error"
    if isinstance(error, DataError | CheckpointError):
        return "data_error"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "out_of_memory"
    if isinstance(error, ValueError):
        return "user_error"
    return "unknown"


def one_line(error: BaseException) -> str:
    """The exception in one line of at most 500 characters."""
    text = " ".join(str(error).split()) or "no message"
    named = text if type(error).__module__.startswith("workers.") else f"{type(error).__name__}: {text}"
    return named[:500]
