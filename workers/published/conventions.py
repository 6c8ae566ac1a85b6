"""What a convention of names is, and the links that its table makes between a file's tensors and ours, both ways."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from torch import Tensor

from studies.models import Gelu, Hybrid, ResNet, ViT
from workers.models.network import Network
from workers.published.layouts import Layout, Leaves

Row = tuple[str | tuple[str, ...], Leaves]
"""Their name of a layer, or of the equal parts that make up ours in this order, and its tensors."""
Table = Mapping[str, Row]
"""By our name of a layer or tensor. `{block}` counts the blocks of a transformer; `{unit}` a ResNet's units, for us
throughout and for them within a `{stage}`; `stage1` and `unit1` begin at 1."""


class FormatError(ValueError):
    """A file does not hold the weights that were asked for. The message says what is wrong with it."""


@dataclass(frozen=True)
class Convention:
    """The names that one code base gives to the tensors of one kind of model."""

    source: str
    """`vision_transformer`, `big_transfer`, `timm` or `huggingface`."""
    kind: str
    """`vit`, `resnet` or `hybrid`, as the field of our definitions."""
    signature: str
    """The name of a tensor that tells the convention."""
    table: Table
    prefixes: tuple[str, ...] = ("",)
    """What may stand before every name, for the code that wraps the network in another."""
    outside: tuple[str, ...] = ()
    """Beginnings of names that never have a prefix."""

    @property
    def gelu(self) -> Gelu:
        """The form of GELU that its code computes."""
        return "tanh" if self.source in ("vision_transformer", "big_transfer") else "exact"

    def __str__(self) -> str:
        return f"{self.source} ({self.kind})"

    @property
    def head_names(self) -> frozenset[str]:
        """What it calls the tensors that fine-tuning leaves behind: classifier and pre-logits (2010.11929v2, 3.2)."""
        rows = [self.table[name] for name in ("head", "pre_logits", "vit.head", "vit.pre_logits") if name in self.table]
        return frozenset(f"{name}{end}" for name, leaves in rows for end, _ in leaves.values())

    def prefix_in(self, names: Collection[str]) -> str | None:
        """What stands before the names of this convention; None when the names are of another."""
        return next((prefix for prefix in self.prefixes if prefix + self.signature in names), None)

    def spelled(self, name: str, prefix: str) -> str:
        """The name as a file with this prefix has it."""
        return name if any(name.startswith(begin) for begin in self.outside) else prefix + name


@dataclass(frozen=True)
class Link:
    """One tensor of a file, and which part of which tensor of ours it is."""

    ours: str
    theirs: str
    layout: Layout
    part: int = 0
    parts: int = 1

    def read(self, theirs: Tensor) -> Tensor:
        """The file's tensor in our layout."""
        return self.layout.read(theirs)

    def write(self, ours: Tensor, heads: int) -> Tensor:
        """Our tensor's part in the file's layout."""
        return self.layout.write(ours.chunk(self.parts)[self.part], heads)


def links(
    convention: Convention, network: Network, model: ViT | ResNet | Hybrid, *, beside: Collection[str] = ()
) -> list[Link]:
    """What each parameter of the network is called in a file of the convention, in the network's order.

    beside: parts of names whose parameters need no link.
    Raises FormatError naming the parameters that the convention has no names for.
    """
    body = model.body if isinstance(model, Hybrid) else model if isinstance(model, ResNet) else None
    places = [(stage, unit) for stage, count in enumerate(body.blocks if body else ()) for unit in range(count)]
    found: list[Link] = []
    nameless: list[str] = []
    for ours, _ in network.named_parameters():
        if not set(ours.split(".")) & set(beside):
            made = list(_links_of(convention.table, ours, places))
            found += made
            nameless += [] if made else [ours]
    if nameless:
        listed = ", ".join(nameless[:4]) + (f" and {len(nameless) - 4} more" if len(nameless) > 4 else "")
        raise FormatError(f"files of {convention} have no place for {listed}")
    return found


def _links_of(table: Table, ours: str, places: list[tuple[int, int]]) -> Iterator[Link]:
    numbers: dict[str, int] = {}
    if match := re.search(r"\b(block|unit)s\.(\d+)\.", ours):
        numbers = {match[1]: int(match[2])}
        if match[1] == "unit":
            stage, unit = places[int(match[2])]
            numbers = {"stage": stage, "unit": unit, "stage1": stage + 1, "unit1": unit + 1}
    general = re.sub(r"\b(block|unit)s\.\d+\.", r"\1s.{\1}.", ours)
    layer, _, leaf = general.rpartition(".")
    if general in table:  # a tensor that belongs to no layer
        layer, leaf = general, ""
    if layer not in table or leaf not in table[layer][1]:
        return
    theirs, leaves = table[layer]
    end, layout = leaves[leaf]
    parts = (theirs,) if isinstance(theirs, str) else theirs
    for part, name in enumerate(parts):
        yield Link(ours, name.format(**numbers) + end, layout, part, len(parts))


@dataclass(frozen=True)
class Place:
    """Where a tensor of a file belongs: the reverse of a link, before the number of units is known."""

    ours: str
    """With `{block}` filled in, and `{unit}` left open."""
    layout: Layout
    part: int
    stage: int
    unit: int


def place_of(convention: Convention, theirs: str) -> Place | None:
    """Where a tensor belongs by its name, without its prefix; None when the convention has no such name."""
    for ours, (names, leaves) in convention.table.items():
        parts = (names,) if isinstance(names, str) else names
        for (part, name), (leaf, (end, layout)) in product(enumerate(parts), leaves.items()):
            if match := re.fullmatch(_as_pattern(name + end), theirs):
                number = {field: int(value) for field, value in match.groupdict().items()}
                stage = number.get("stage", number.get("stage1", 1) - 1)
                unit = number.get("unit", number.get("unit1", 1) - 1)
                filled = ours.replace("{block}", str(number.get("block", 0)))
                return Place(f"{filled}.{leaf}" if leaf else filled, layout, part, stage, unit)
    return None


def _as_pattern(template: str) -> str:
    pieces = re.split(r"\{(\w+)(?::\w+)?\}", template)
    return "".join(f"(?P<{piece}>\\d+)" if index % 2 else re.escape(piece) for index, piece in enumerate(pieces))
