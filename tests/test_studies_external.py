"""Rows of foreign tables become results in our units, to the last digit, or a sentence about the cell that is wrong."""

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies import references, units
from studies.external import Columns, External, Quantity, SeriesFields, quantity, results_of
from studies.foreign_tables import ForeignTable, from_csv, from_json

SERIES = SeriesFields("evaluate", "accuracy", "imagenet", "validation", 224)


def read(text: str, unit: str = "percent", cost: str = "exaflops", **columns: object) -> list[External]:
    """The results of a CSV with the columns cost, quality, family and label."""
    chosen = {"costs": (Quantity("cost", cost),), "quality": Quantity("quality", unit), "family": "family"}
    return results_of(from_csv(text, "t.csv"), Columns(**{**chosen, "label": "label", **columns}), SERIES)  # type: ignore[arg-type]


def rows(*lines: str, heading: str = "cost,quality,family,label") -> str:
    return "\n".join([heading, *lines]) + "\n"


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("84.15", "percent", 0.8415),
        ("84.15 %", "percent", 0.8415),
        ("0.8415", "fraction", 0.8415),
        ("0.1585", "error", 0.8415),
        ("15.85", "error-percent", 0.8415),
        ("0.07", "error", 0.93),
        ("57.0", "percent", 0.57),
        ("8.415e1", "percent", 0.8415),
    ],
)
def test_a_quality_keeps_every_digit_of_its_text(text: str, unit: str, value: float) -> None:
    assert read(rows(f"1,{text},A,a"), unit)[0].value == value


@pytest.mark.parametrize("text", ["", "-", "NaN", "nan", "n/a", "inf", "-inf", "–"])
def test_a_quality_that_is_no_finite_number_is_kept_as_missing(text: str) -> None:
    missing, there = read(rows(f"1,{text},A,a", "2,50,A,b"))
    assert missing.value is None
    assert there.value == 0.5


@pytest.mark.parametrize("text", ["", "-", "nan", "inf", "0", "-3", "0.0", "1e999"])
def test_a_cost_that_nothing_can_be_bought_for_is_not_known(text: str) -> None:
    assert read(rows(f"{text},50,A,a"))[0].train_flops is None


@given(digits=st.integers(1, 10**16), power=st.integers(-8, 4))
def test_a_cost_in_exaflops_is_the_same_cost_in_flops(digits: int, power: int) -> None:
    exa = Decimal(digits).scaleb(power)
    [small] = read(rows(f"{exa},50,A,a"))
    [large] = read(rows(f"{exa.scaleb(18)},50,A,a"), cost="flops")
    assert small.train_flops == large.train_flops == float(exa.scaleb(18))
    assert small.key == large.key


@given(tenths=st.integers(11, 1000))
def test_percent_fraction_and_error_of_one_accuracy_are_one_result(tenths: int) -> None:
    percent = Decimal(tenths).scaleb(-1)
    share = percent.scaleb(-2)
    texts = {"percent": percent, "fraction": share, "error": 1 - share, "error-percent": 100 - percent}
    assert len({read(rows(f"1,{text},A,a"), unit)[0].key for unit, text in texts.items()}) == 1


@pytest.mark.parametrize(
    ("cost", "field", "factor"),
    [
        ("pfs-days", "train_flops", 8.64e19),
        ("gmacs", "train_flops", 2e9),
        ("zettaflops", "train_flops", 1e21),
        ("core-days", "device_seconds", 86_400.0),
        ("gpu-hours", "device_seconds", 3600.0),
        ("seconds", "device_seconds", 1.0),
        ("million-images", "images", 1e6),
        ("million-parameters", "parameters", 10**6),
        ("gflops-forward", "forward_flops", 1e9),
        ("usd", "money", 1.0),
    ],
)
def test_a_unit_of_cost_names_its_axis(cost: str, field: str, factor: float) -> None:
    assert getattr(read(rows("3,50,A,a"), cost=cost)[0], field) == 3 * factor


@pytest.mark.parametrize("spelled", ["exaFLOPs", "ExaFLOP", "EFLOPs", "exaflops", "EFLOP"])
def test_a_unit_is_known_whatever_its_capitals(spelled: str) -> None:
    assert units.unit_named(spelled, units.COST_UNITS).size == Decimal("1e18")


@pytest.mark.parametrize(
    ("text", "unit", "said"),
    [
        (rows("1,0.2,A,a", "1,84.15,A,b"), "fraction", "t.csv:3: column 'quality': 84.15 is above 1, where a fraction"),
        (rows("1,84.15,A,b"), "error", "say --quality quality:error-percent"),
        (rows("1,0.84,A,a", "1,0.9,A,b"), "percent", "say --quality quality:fraction"),
        (rows("1,101,A,a"), "percent", "t.csv:2: column 'quality': 101 is above 100"),
        (rows("1,-1,A,a"), "percent", "t.csv:2: column 'quality': -1 is below 0"),
        (rows("1,84.15±0.1,A,a"), "percent", "t.csv:2: column 'quality': '84.15±0.1' is no number"),
        (rows('"1,567",50,A,a'), "percent", "t.csv:2: column 'cost': '1,567' is no number: write it without commas"),
        (rows("1_000,50,A,a"), "percent", "t.csv:2: column 'cost': '1_000' is no number"),
        (rows("1,50,,a"), "percent", "t.csv:2: column 'family': is empty"),
        (rows("1,50,A,a\x07b"), "percent", "t.csv:2: column 'label': 'a\\x07b' has a character that is no text"),
        (rows("1,50,A"), "percent", "t.csv:2: 3 cells, where the heading has 4"),
        (rows("1,50,A,a", heading="cost,cost,family,label"), "percent", "two columns called 'cost'"),
        (rows("1,50,A,a", '1,"50,A,b'), "percent", "t.csv:3: no CSV"),
        ("", "percent", "t.csv is empty"),
        (rows("1,50,A,a", "1,51,A,a"), "percent", "t.csv:3 says 0.51 at 1e+18 flops of 'a', of which t.csv:2 says 0.5"),
    ],
)
def test_a_faulty_table_is_refused_in_a_sentence(text: str, unit: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        read(text, unit)


def test_counts_must_be_whole_and_positive_and_may_be_missing() -> None:
    heading = "cost,quality,family,label,size,data,epochs"
    size, data = Quantity("size", "million"), Quantity("data", "ones")
    good = rows("1,50,A,a,86.5,1281167,7", "1,50,A,b,,1281167,", heading=heading)
    first, second = read(good, size=size, data=data, epochs="epochs")
    assert (first.parameters, first.data_rows, first.epochs, first.images) == (86_500_000, 1_281_167, 7.0, 8_968_169.0)
    assert (second.parameters, second.epochs, second.images) == (None, None, None)
    for cells in ("0.0000005,1,1", "0,1,1", "1,-1,1", "1,1e30,1", "1,1,inf", "1,1,0"):
        with pytest.raises(ValueError, match=r"t\.csv:2: column"):
            read(rows(f"1,50,A,a,{cells}", heading=heading), size=size, data=data, epochs="epochs")


def test_a_cost_axis_is_named_by_one_column_alone() -> None:
    with pytest.raises(ValueError, match="second column that says flops"):
        read(rows("1,50,A,a"), costs=(Quantity("cost", "flops"), Quantity("quality", "exaflops")))


def test_a_row_said_twice_is_one_result() -> None:
    assert len(read(rows("1,50,A,a", "1.0,50.0,A,a"))) == 1


def test_a_label_may_have_several_costs() -> None:
    first, second = read(rows("1,50,A,a", "2,60,A,a"))
    assert first.configuration != second.configuration


def test_seeds_share_a_configuration_though_they_took_different_times() -> None:
    heading = "cost,quality,family,label,seed,time"
    costs = (Quantity("cost", "exaflops"), Quantity("time", "hours"))
    text = rows("1,50,A,a,0,3", "1,52,A,a,1,4", heading=heading)
    assert len({row.configuration for row in read(text, costs=costs, seed="seed")}) == 1
    assert len({row.configuration for row in read(text, costs=costs)}) == 2
    with pytest.raises(ValueError, match="column 'seed': is no seed"):
        read(rows("1,50,A,a,,3", heading=heading), costs=costs, seed="seed")


def test_the_kind_of_device_is_of_rows_that_took_time() -> None:
    heading = "cost,quality,family,label,time,device"
    text = rows("1,50,A,a,3,v3", "1,52,A,b,4,", "1,54,A,c,,v3", heading=heading)
    costs = (Quantity("cost", "exaflops"), Quantity("time", "hours"))
    assert [row.device for row in read(text, costs=costs, device="device")] == ["v3", None, None]
    assert [row.device for row in read(text, device="device")] == [None, None, None]
    columns = Columns(costs, Quantity("quality", "percent"), "family", "label")
    assert [row.device for row in results_of(from_csv(text, "t.csv"), columns, SERIES, "v4")] == ["v4", "v4", None]
    with pytest.raises(ValueError, match="has a character that is no text"):
        results_of(from_csv(text, "t.csv"), columns, SERIES, "v\n4")


def test_another_kind_of_device_is_another_network_but_for_seeds() -> None:
    text = rows("1,50,A,a,0,3,v3", "1,52,A,a,1,3,v4", heading="cost,quality,family,label,seed,time,device")
    costs = (Quantity("cost", "exaflops"), Quantity("time", "hours"))
    assert len({row.configuration for row in read(text, costs=costs, device="device")}) == 2
    assert len({row.configuration for row in read(text, costs=costs, device="device", seed="seed")}) == 1


def test_a_result_of_no_named_device_has_the_digests_of_before_there_were_any() -> None:
    first = next(row for row in references.reference("vit-paper").rows if row.dataset == "imagenet")
    assert first.key == "9c6fa0fde4b55fdfb1c8f2a2385e912155ffdf71132b28178bf3d1031693c010"
    assert first.configuration == "e4127ce65d149c847267331c5a32fb0560759fe0558eebe61111dbca8154e8c3"
    assert first.training == "82e96c6a2c2954f56efccce0cd8c7b59cceb71609c4d56d8e5f1b360e42be634"


def test_values_in_other_series_share_the_training() -> None:
    table = from_csv(rows("1,50,A,a"), "t.csv")
    columns = Columns((Quantity("cost", "flops"),), Quantity("quality", "percent"), "family", "label")
    other = SeriesFields("evaluate", "accuracy", "pets", "test", 224)
    [first], [second] = results_of(table, columns, SERIES), results_of(table, columns, other)
    assert first.training == second.training
    assert first.configuration != second.configuration


def test_a_metric_and_its_unit_must_agree() -> None:
    table = from_csv(rows("1,50,A,a"), "t.csv")
    for metric, unit, said in [
        ("loss_nats", "fraction", "less is better"),
        ("accuracy", "loss", "is no loss"),
        ("top1", "fraction", "is no quality"),
        ("accuracy_5shot_seed0", "fraction", "one support seed"),
    ]:
        columns = Columns((Quantity("cost", "flops"),), Quantity("quality", unit), "family", "label")
        with pytest.raises(ValueError, match=said):
            results_of(table, columns, SeriesFields("evaluate", metric, "imagenet", "test", 0))


# -------------------------------------------------------------------------------------------------------------- tables


def test_a_spreadsheet_with_semicolons_has_decimal_commas() -> None:
    table = from_csv("cost;quality;family;label\r\n1,5;84,15;A;a\r\n", "t.csv")
    columns = Columns((Quantity("cost", "exaflops"),), Quantity("quality", "percent"), "family", "label")
    [row] = results_of(table, columns, SERIES)
    assert (row.train_flops, row.value) == (1.5e18, 0.8415)


def test_tabs_quotes_and_empty_lines_are_csv_too() -> None:
    table = from_csv('a\t"b c"\n\n1\t"x\ty"\n', "t.csv")
    assert table.columns == {"a": ["1"], "b c": ["x\ty"]}
    assert table.lines == [3]


def test_json_keeps_the_digits_that_it_is_written_with() -> None:
    table = from_json('[{"a": 84.150, "b": 12345678901234567890}, {"a": NaN, "c": null}]', "t.json")
    assert table.columns == {"a": ["84.150", "NaN"], "b": ["12345678901234567890", ""], "c": ["", ""]}


def test_the_points_of_a_printed_frontier_are_a_table_that_names_its_series() -> None:
    table = from_json('{"metric": "accuracy", "split": "test", "points": [{"cost": 1e20}]}', "t.json")
    assert table.columns == {"cost": ["1e20"]}
    assert table.says == {"metric": "accuracy", "split": "test"}


@pytest.mark.parametrize("text", ["{", "3", '{"rows": []}', "[1, 2]", "[" * 100_000])
def test_json_that_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^t\.json"):
        from_json(text, "t.json")


def test_a_column_may_have_a_colon_in_its_name() -> None:
    table = ForeignTable("t.csv", {"top:1": ["1"], "cost": ["2"]}, [2])
    assert quantity("top:1", table, units.QUALITY_UNITS, "fraction") == Quantity("top:1", "fraction")
    assert quantity("top:1:percent", table, units.QUALITY_UNITS, "fraction") == Quantity("top:1", "percent")
    for text, said in [("costs", "did you mean 'cost'"), ("cost:exaflobs", "did you mean 'exaflops'")]:
        with pytest.raises(ValueError, match=said):
            quantity(text, table, units.COST_UNITS, "flops")
