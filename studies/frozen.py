"""What every definition is made of: frozen, complete, strict about types; and the numbers that its fields may hold."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]

T = TypeVar("T")
Listed = Annotated[tuple[T, ...], Field(strict=False)]
"""A list, as YAML and JSON write tuples."""


class Frozen(BaseModel):
    """A configuration: it never changes once made, an unknown key is an error, and text is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
