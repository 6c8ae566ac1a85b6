"""Study files: what is accepted, how grids expand, and that every fault is named with its place."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.definitions import Recipe
from studies.grid import Study, load_study
from studies.models import Hybrid, ViT
from studies.schedules import Linear
from studies.yaml_source import MOST_BYTES, StudyError

HEAD = """\
name: mini
title: A title
source: A source
shows: Something
defaults: {data: digits, recipe: small, head: gap}
"""
SHAPES = """\
shapes:
  ViT: {xs: {width: 32, depth: 2, mlp: 64, heads: 2}, m: {width: 64, depth: 4, mlp: 128, heads: 4}}
  ResNet: {r: {blocks: [1, 1], width: 8, root: 3x3, groups: 4}}
"""


def study(folder: Path, text: str) -> Study:
    path = folder / "study.yaml"
    path.write_text(text)
    return load_study(path, "study.yaml")


def error(folder: Path, text: str) -> str:
    with pytest.raises(StudyError) as caught:
        study(folder, text)
    return str(caught.value)


def labels(made: Study) -> list[tuple[str, int, float, int]]:
    return [
        (planned.model, planned.training.data.rows, planned.epochs, planned.training.seed)
        for planned in made.runs
        if planned.run.kind == "train"
    ]


def test_lists_multiply(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        HEAD
        + SHAPES
        + "grids: [{architecture: ViT, size: [xs, m], patch: [2, 4], subset: 500, epochs: 2, seed: [0, 1]}]",
    )
    assert len(made.runs) == 8
    assert {label[0] for label in labels(made)} == {"ViT-xs/2", "ViT-xs/4", "ViT-m/2", "ViT-m/4"}


def test_blocks_add_and_a_cell_that_two_blocks_name_is_one_run(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        HEAD + SHAPES + "grids:\n  - {model: ViT-xs/2, epochs: [2, 4]}\n  - {model: ViT-xs/2, epochs: [4, 8]}\n",
    )
    assert sorted(label[2] for label in labels(made)) == [2, 4, 8]
    assert [dropped.why for dropped in made.dropped] == ["the same run as a cell before it"]


def test_zip_pairs(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        HEAD + SHAPES + "grids: [{architecture: ViT, patch: 2, zip: {size: [xs, m], epochs: [2, 8]}, seed: [0, 1]}]",
    )
    assert sorted({(label[0], label[2]) for label in labels(made)}) == [("ViT-m/2", 8.0), ("ViT-xs/2", 2.0)]


def test_exclude_removes_and_says_by_which_line(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        HEAD
        + SHAPES
        + "grids:\n  - architecture: ViT\n    size: [xs, m]\n    patch: [2, 4]\n    epochs: 2\n    exclude:\n      - {size: m, patch: 4}\n",
    )
    assert {label[0] for label in labels(made)} == {"ViT-xs/2", "ViT-xs/4", "ViT-m/2"}
    assert [(dropped.cell, dropped.why) for dropped in made.dropped] == [
        ("ViT-m/4 data=digits epochs=2.0", "excluded by line 15")
    ]


def test_resnets_hybrids_named_models_and_written_shapes(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        HEAD.replace(", head: gap", "")
        + SHAPES
        + """
grids:
  - {architecture: r, size: [x1, x2], epochs: 2}
  - {architecture: r+ViT, size: xs, patch: 2, epochs: 2}
  - {model: [ViT-xs/4, rx3], epochs: 2}
  - {model: {kind: resnet, blocks: [1], width: 4, root: 3x3, groups: 2}, epochs: 2}
""",
    )
    assert {(planned.model, planned.family) for planned in made.runs} == {
        ("rx1", "ResNet"),
        ("rx2", "ResNet"),
        ("r+ViT-xs/2", "Hybrid"),
        ("ViT-xs/4", "ViT"),
        ("rx3", "ResNet"),
        ("resnet 1 width 4", "ResNet"),
    }


def test_a_recipe_is_overridden_field_by_field(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        HEAD + SHAPES + "grids: [{model: ViT-xs/2, epochs: 2, recipe: {base: small, lr_peak: 3e-4, batch: 25}}]",
    )
    training = made.runs[0].training
    assert training.recipe.lr_peak == 3e-4
    assert training.recipe.batch == 25
    assert training.recipe.weight_decay == 0.1
    assert training.examples == 2000


def test_a_recipe_may_be_written_out(tmp_path: Path) -> None:
    written = "{lr_peak: 3e-4, schedule: linear, warmup_steps: 5, weight_decay: 0, batch: 100}"
    made = study(tmp_path, HEAD + SHAPES + f"grids: [{{model: ViT-xs/2, epochs: 2, recipe: {written}}}]")
    assert made.runs[0].training.recipe == Recipe(
        lr_peak=3e-4, schedule=Linear(), warmup_steps=5, weight_decay=0, batch=100
    )


def test_a_named_model_is_altered_field_by_field_and_named_by_what_was_replaced(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        HEAD
        + SHAPES
        + """
grids:
  - epochs: 2
    model:
      - {base: ViT-xs/2, position: none}
      - {base: ViT-xs/2, head: map}
      - {base: r+ViT-xs/2, body: {form: post-activation}, vit: {patch: 1}}
""",
    )
    models = {planned.model: planned.training.model for planned in made.runs}
    bag, pooled = models["ViT-xs/2 position=none"], models["ViT-xs/2 head=map"]
    hybrid = models["r+ViT-xs/2 form=post-activation patch=1"]
    assert isinstance(bag, ViT)
    assert isinstance(pooled, ViT)
    assert isinstance(hybrid, Hybrid)
    assert (bag.head, bag.position, pooled.head, pooled.position) == ("gap", "none", "map", "learned-1d")
    assert (hybrid.body.form, hybrid.body.width, hybrid.vit.patch, hybrid.vit.head) == ("post-activation", 8, 1, "gap")


def test_a_sweep_multiplies_recipe_fields_and_shares_one_name(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        HEAD
        + SHAPES
        + "grids: [{model: ViT-xs/2, epochs: [2, 4], seed: [0, 1], sweep: {lr_peak: [1e-3, 3e-3]}}]\n"
        + "evaluations: [{kind: split, split: validation}]\n",
    )
    trainings = [planned for planned in made.runs if planned.run.kind == "train"]
    assert len(trainings) == 8
    assert len({planned.sweep for planned in trainings}) == 2
    assert {planned.searched for planned in trainings} == {'{"lr_peak": 0.001}', '{"lr_peak": 0.003}'}


def test_evaluations_follow_their_training_and_know_its_key(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        HEAD
        + SHAPES
        + "grids: [{model: [ViT-xs/2, ViT-xs/4], epochs: 2}]\n"
        + "evaluations: [{kind: split, split: test}, {kind: fewshot, shots: [1, 5], l2: 16}]\n",
    )
    assert [planned.run.kind for planned in made.runs] == ["train", "evaluate", "fewshot"] * 2
    assert [planned.upstream for planned in made.runs[1:3]] == [made.runs[0].key] * 2
    assert made.runs[0].train_flops < made.runs[3].train_flops, "the cheapest training is first"


def test_the_whole_split_is_used_without_a_subset(tmp_path: Path) -> None:
    made = study(tmp_path, HEAD + SHAPES + "grids: [{model: ViT-xs/2, epochs: 2}]")
    assert made.runs[0].training.data.rows == 1000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grids: [{model: ViT-xs/2, epoch: 2}]", "9:27: unknown key 'epoch'; did you mean 'epochs'?"),
        ("grid: []", "the key 'grids' is missing"),
        ("grids: [{model: ViT-xs/3, epochs: 2}]", "9:17: patches of 3 pixels do not divide the image of 8 pixels; these do: 1, 2, 4, 8"),
        ("grids: [{architecture: ViT, size: [xs, n], patch: 2, epochs: 2}]", "9:40: 'n' is no ViT size"),
        ("grids: [{architecture: Vit, size: xs, patch: 2, epochs: 2}]", "9:24: "),
        ("grids: [{architecture: ViT, size: xs, patch: [2, 3], epochs: 2}]", "9:50: patches of 3 pixels"),
        ("grids: [{model: ViT-xs/2, epochs: 2, subset: [500, 5000]}]", "9:52: a subset of 5,000 images is larger than the train split of digits: 1,000"),
        ("grids: [{model: ViT-xs/2, epochs: two}]", "9:35: grids.0.epochs: 'two' should be a number"),
        ("grids: [{model: ViT-xs/2, epochs: 2, seed: 1.5}]", "9:44: "),
        ("grids: [{model: ViT-xs/2, epochs: 2, seed: -1}]", "9:44: grids.0.seed: -1 should be greater than or equal to 0"),
        ("grids: [{model: ViT-xs/2, epochs: .inf}]", "9:35: "),
        ("grids: [{model: ViT-xs/2, epochs: 2, data: digit}]", "9:44: 'digit' is no data set; did you mean 'digits'?"),
        ("grids: [{model: ViT-xs/2, epochs: 2, recipe: smal}]", "9:46: 'smal' is no recipe; did you mean 'small'?"),
        ("grids: [{model: ViT-xs/2, epochs: 2, recipe: {base: small, lr: 1}}]", "9:60: unknown key 'lr'"),
        ("grids: [{model: ViT-xs/2, epochs: 2, recipe: {base: small, batch: big}}]", "9:67: "),
        ("grids: [{model: {kind: vit, patch: 2, width: 30, depth: 1, mlp: 8, heads: 4}, epochs: 2}]", "30; the nearest that do: 3"),
        ("grids: [{model: {kind: vitt, patch: 2}, epochs: 2}]", "'vitt' is not valid; did you mean 'vit'?"),
        ("grids: [{model: ViT-xs/2, patch: 4, epochs: 2}]", "9:34: 'patch' has no effect beside 'model'"),
        ("grids: [{model: rx1, head: token, epochs: 2}]", "9:28: 'head' has no effect on the ResNet rx1"),
        ("grids: [{model: {base: ViT-xs/2, positon: none}, epochs: 2}]", "9:34: unknown key 'positon'; did you mean 'position'?"),
        ("grids: [{model: {base: ViT-xs/2, position: nome}, epochs: 2}]", "9:44: grids.0.model.position: 'nome' is not valid; did you mean 'none'?"),
        ("grids: [{model: {base: ViT-ys/2, position: none}, epochs: 2}]", "9:24: 'ys' is no ViT size"),
        ("grids: [{model: {base: ViT-xs/2, position: relative, position_at: layers}, epochs: 2}]", "9:17: position_at: layers is for learned-1d and learned-2d, not for relative"),
        ("grids: [{model: {base: ViT-xs/2}, epochs: 2}]", "9:17: nothing is replaced"),
        ("grids: [{model: {base: 2, head: map}, epochs: 2}]", "9:24: base: the name of a model is expected"),
        ("grids: [{model: Axial-ViT-xs/2, head: token, epochs: 2}]", "axial attention has no class token: the head token cannot be; valid: gap, map"),
        ("grids: [{model: ViT-xs/2, epochs: 2, recipe: {lr_peak: 1}}]", "9:46: grids.0.recipe: the key 'schedule' is missing"),
        ("grids: [{epochs: 2}]", "9:9: the grid names no architecture"),
        ("grids: [{model: ViT-xs/2}]", "9:9: the grid has no 'epochs'"),
        ("grids: [{model: ViT-xs/2, epochs: 0.01}]", "9:35: 0.01 epochs of 1,000 images are less than one batch of 25"),
        ("grids: [{model: ViT-xs/2, epochs: 0.2}]", "9:35: a warm-up of 10 steps needs a longer training than 8 steps"),
        ("grids: [{model: ViT-xs/2, epochs: 2, exclude: [{epochs: 3}]}]", "9:48: this exclusion removes nothing"),
        ("grids: [{architecture: ViT, patch: 2, zip: {size: [xs, m], epochs: [1]}}]", "9:44: zip pairs two or more lists of one length"),
        ("grids: [{model: ViT-xs/2, epochs: 2, zip: {epochs: [1, 2], seed: [0, 1]}}]", "9:44: 'epochs' is zipped and multiplied"),
        ("grids: [{model: ViT-xs/2, epochs: 2, zip: {epoch: [1, 2], seed: [0, 1]}}]", "9:44: unknown key 'epoch'"),
        ("grids: [{model: ViT-xs/2, epochs: 2, sweep: {lr_peak: [1e-3, 1e-2]}}]", "9:38: a sweep is decided on the validation split"),
        ("grids: [{model: ViT-xs/2, epochs: 2}]\nevaluations: [{kind: split, split: tset}]", "10:36: 'tset' is no split of digits; did you mean 'test'?"),
        ("grids: [{model: ViT-xs/2, epochs: 2}]\nevaluations: [{kind: spilt, split: test}]", "'spilt' is not valid; did you mean 'split'?"),
        ("grids: [{model: ViT-xs/2, epochs: 2}]\nevaluations: [{kind: split, split: test}, {kind: split, split: test}]", "10:43: 'accuracy' on test is measured twice: see line 10"),
        ("grids: [{model: ViT-xs/2, epochs: 2}]\nevaluations: [{kind: fewshot, shots: [500], l2: 1}]", "10:38: 500 shots of 10 classes"),
        ("grids: [{model: ViT-xs/2, epochs: 2}]\nname: again", "10:1: found duplicate key"),
        ("grids: [{model: ViT-xs/2, epochs: 2}", "expected"),
        ("grids: [{model: !!python/object/apply:os.system ['true'], epochs: 2}]", "9:17: the tag "),
        ("grids: [{model: !name ViT-xs/2, epochs: 2}]", "9:17: the tag '!name' is not allowed"),
        ("grids: &a [*a]", "9:"),
        ("grids: [{model: ViT-xs/2, epochs: 2}]\nresources: &a {cpus: *a}", "10:12: resources.cpus: None should be a whole number"),
        ("grids: [{model: R50x1, epochs: 2026-11-20}]", "is not allowed here; put it in quotes"),
        ("grids: [{? [1] : 2}]", ""),
        ("grids:\n  - {model: ViT-xs/2, size: [xs, m]}:\n  - {model: ViT-xs/4}", "a list or a mapping stands where a key is expected"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place_and_a_cure(tmp_path: Path, text: str, expected: str) -> None:
    said = error(tmp_path, HEAD + SHAPES + text + "\n")
    assert re.match(r"^study\.yaml:\d+:\d+: \S", said), said
    assert expected in said
    assert "\n" not in said


def test_a_published_shape_keeps_its_meaning(tmp_path: Path) -> None:
    text = HEAD + "shapes: {ViT: {B: {width: 8, depth: 1, mlp: 8, heads: 1}}}\ngrids: [{model: ViT-B/2, epochs: 2}]"
    assert "'B' is a published shape" in error(tmp_path, text)


def test_a_file_of_10_megabytes_is_refused_at_once(tmp_path: Path) -> None:
    said = error(tmp_path, "a: " + "x" * 10_000_000)
    assert f"a study has at most {MOST_BYTES:,}" in said


def test_aliases_that_expand_without_end_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "aliases expand to more than" in error(tmp_path, "\n".join(lines))


def test_an_alias_that_contains_itself_is_refused(tmp_path: Path) -> None:
    assert error(tmp_path, "&a\nname: *a\n") == "study.yaml:1:1: this alias contains itself"


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    assert "nested too deeply" in error(tmp_path, "a: " + "[" * 3000 + "]" * 3000)


def test_a_grid_without_end_is_refused(tmp_path: Path) -> None:
    numbers = ", ".join(map(str, range(400)))
    text = f"grids: [{{model: ViT-xs/2, epochs: 2, seed: [{numbers}], subset: [{numbers.replace('0, ', '400, ', 1)}]}}]"
    assert "160,000 cells; at most 100,000" in error(tmp_path, HEAD + SHAPES + text)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: \x00", b"", b"- 1\n- 2\n", b"7", b"null"])
def test_what_is_no_study_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=r"^study\.yaml:\d+:\d+: "):
        load_study(path, "study.yaml")


def test_a_missing_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"none\.yaml: cannot be read: No such file"):
        load_study(tmp_path / "none.yaml")


QUICKSTART = Path(__file__).parent.parent / "studies" / "quickstart.yaml"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_study_is_refused_or_read_but_never_breaks(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    text = QUICKSTART.read_text()
    at = data.draw(st.integers(0, len(text) - 1))
    cut = data.draw(st.integers(0, 12))
    new = data.draw(st.text("abexyz0129-.:,[]{}&*!'\" \n", max_size=6))
    path = tmp_path_factory.mktemp("damaged") / "study.yaml"
    path.write_text(text[:at] + new + text[at + cut :])
    try:
        load_study(path)
    except StudyError as refused:
        assert re.search(r"study\.yaml:\d+:\d+: ", str(refused))  # noqa: PT017
