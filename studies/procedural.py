"""The procedural image set: what decides its images, and their names; `workers/data/procedural.py` draws them."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt

from studies.frozen import Digest, Frozen
from studies.manifests import digest_of

REVISION = 1
"""Part of every fingerprint. Raise it when the generator draws other bytes."""

ENDLESS = 2**40
"""Rows of a split that no training will come to the end of."""

SPLIT_ROWS = {"train": ENDLESS, "validation": 10_000, "test": 10_000}
"""Images of each split; no two splits share one."""


class Shapes(Frozen):
    """Coloured images of two textured shapes on a textured ground. `docs/procedural.md` says what they are for.

    A class is an outline and a texture of the larger shape, an outline of the smaller one, and where the smaller one
    lies. Position, size, angle, colours, ground, other shapes and noise tell nothing about the class.
    """

    kind: Literal["shapes"] = "shapes"
    classes: Annotated[int, Field(ge=2, le=1_000_000)] = 32
    image_size: Annotated[int, Field(ge=8, le=1024)] = 32
    """Side of a square image in pixels. A row shows the same scene at any size."""
    difficulty: Annotated[float, Field(ge=0, le=1)] = 0.5
    """From 0, where images of a class are nearly alike, to 1; it counts in steps of 1/1024. A row keeps its class."""
    seed: NonNegativeInt = 0
    """Other seeds have other classes, and other images."""

    def fingerprint(self, split: str) -> Digest:
        """The name of the exact images of a split.

        Raises ValueError for an unknown split.
        """
        if split not in SPLIT_ROWS:
            raise ValueError(f"'{split}' is no split of procedural images; valid: {', '.join(SPLIT_ROWS)}")
        return digest_of({"revision": REVISION, "shapes": self.model_dump(mode="json"), "split": split})
