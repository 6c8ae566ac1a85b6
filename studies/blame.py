"""Whose fault a wrong value is: turns a ValueError into an error of the study file at the place that is to blame."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from studies.yaml_source import Place, Source, StudyError


@contextmanager
def blamed(source: Source, *places: Place | None) -> Iterator[None]:
    """Turn a ValueError inside into an error of the file, at the first of these places that is given.

    Raises StudyError.
    """
    place = next((place for place in places if place is not None), ())
    try:
        yield
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        cause = detail.get("ctx", {}).get("error")
        raise source.error(place, str(cause) if cause else detail["msg"]) from None
    except ValueError as error:
        if isinstance(error, StudyError):
            raise
        raise source.error(place, str(error)) from None
