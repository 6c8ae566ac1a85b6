"""Reference studies: published results that come with this program. How one is read stands in its YAML file."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from studies import yaml_source
from studies.architectures import nearest
from studies.external import ONES, Columns, External, Quantity, SeriesFields, results_of
from studies.foreign_tables import ForeignTable, from_csv
from studies.frozen import Frozen, Listed

FOLDER = Path(__file__).parent / "references"


class CostColumn(Frozen):
    """A column of costs, in one of `studies.units.COST_UNITS`."""

    column: str
    unit: str


class QualityColumn(Frozen):
    """A column of qualities, and where they were measured."""

    column: str
    unit: str
    dataset: str
    split: str


class _File(Frozen):
    """What the YAML file of a reference says."""

    title: str
    source: str
    table: str
    """A CSV file beside it."""
    family: str
    label: str
    epochs: str
    data_rows: int
    """Distinct training images of all rows."""
    cost: CostColumn
    kind: str
    metric: str
    image_size: int
    qualities: Listed[QualityColumn]


@dataclass(frozen=True)
class Reference:
    """Published results."""

    name: str
    title: str
    source: str
    rows: tuple[External, ...]


def names() -> list[str]:
    """The reference studies that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def reference(name: str) -> Reference:
    """A reference study by its name. Raises ValueError with the nearest name when there is none."""
    if name not in names():
        raise ValueError(f"'{name}' is no reference study{nearest(name, names())}")
    content = yaml_source.read(FOLDER / f"{name}.yaml").data
    try:
        file = _File.model_validate(content)
    except ValidationError as error:  # only while one is written
        raise ValueError(f"studies/references/{name}.yaml: {error}") from None
    table = from_csv((FOLDER / file.table).read_text(encoding="utf-8"), file.table)
    rows = [row for quality in file.qualities for row in _rows(table, file, quality)]
    return Reference(name, file.title, file.source, tuple(rows))


def _rows(table: ForeignTable, file: _File, quality: QualityColumn) -> list[External]:
    rows = [str(file.data_rows)] * len(table.lines)
    with_data = ForeignTable(table.name, {**table.columns, "data_rows": rows}, table.lines)
    columns = Columns(
        costs=(Quantity(file.cost.column, file.cost.unit),),
        quality=Quantity(quality.column, quality.unit),
        family=file.family,
        label=file.label,
        data=Quantity("data_rows", ONES),
        epochs=file.epochs,
    )
    series = SeriesFields(file.kind, file.metric, quality.dataset, quality.split, file.image_size)
    return results_of(with_data, columns, series)
