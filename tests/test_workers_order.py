"""The order of a training: each image once an epoch, the same wherever it is begun, and classes well mixed."""

import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.data.order import ROUND_BYTES, SPREAD, Block, Stream, cuts_of, shuffled_places

Numbers = NDArray[np.int64]


@given(
    rows=st.integers(1, 200),
    batch=st.integers(1, 70),
    first=st.integers(0, 50),
    steps=st.integers(1, 20),
    seed=st.integers(0),
)
@settings(max_examples=40, deadline=None)
def test_the_order_in_memory_does_not_depend_on_where_it_is_begun(
    rows: int, batch: int, first: int, steps: int, seed: int
) -> None:
    whole = shuffled_places(0, (first + steps) * batch, rows=rows, seed=seed)
    assert np.array_equal(whole[first * batch :], shuffled_places(first * batch, steps * batch, rows=rows, seed=seed))


@given(rows=st.integers(1, 200), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_each_epoch_in_memory_holds_every_place_once(rows: int, seed: int) -> None:
    place = shuffled_places(0, 3 * rows, rows=rows, seed=seed).reshape(3, rows)
    assert np.array_equal(np.sort(place, axis=1), np.tile(np.arange(rows), (3, 1)))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [shuffled_places(100 * epoch, 100, rows=100, seed=seed) for epoch in (0, 1) for seed in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 4
    streams = [stream(np.full(20, 5), seed=seed) for seed in (0, 1)]
    epochs = [taken(each, start, 100) for each in streams for start in (0, 100)]
    assert len({order.tobytes() for order in epochs}) == 4


def test_the_orders_are_pinned() -> None:
    found = {
        "memory": shuffled_places(35, 5, rows=100, seed=1).tolist(),
        "stream": taken(stream(np.array([3, 0, 7, 2, 5]), seed=1), 20, 10).tolist(),
    }
    assert json.dumps(found) == PINNED


PINNED = '{"memory": [73, 94, 30, 16, 64], "stream": [7, 15, 8, 16, 3, 11, 12, 10, 6, 5]}'


def stream(rows_G: Numbers, *, seed: int = 0, cuts: int = 3, image_bytes: float = ROUND_BYTES / 10) -> Stream:
    """A stream of about ten images in a round."""
    return Stream(rows_G.astype(np.int64), image_bytes=image_bytes, cuts=cuts, seed=seed)


def taken(order: Stream, position: int, images: int) -> Numbers:
    """The images from a position on."""
    found: list[Numbers] = []
    for block in order.blocks(position):
        found.append(block.numbers[max(0, position - block.first) :])
        if sum(map(len, found)) >= images:
            return np.concatenate(found)[:images]
    raise AssertionError("a stream has no end")


GROUPS = st.lists(st.integers(0, 25), min_size=1, max_size=60).filter(any).map(np.array)


@given(rows_G=GROUPS, cuts=st.integers(1, 4), images=st.floats(0.1, 200), seed=st.integers(0))
@settings(max_examples=80, deadline=None)
def test_each_epoch_of_a_stream_holds_every_image_once(rows_G: Numbers, cuts: int, images: float, seed: int) -> None:
    order = stream(rows_G, cuts=cuts, image_bytes=ROUND_BYTES / images, seed=seed)
    numbers = taken(order, 0, 3 * order.rows).reshape(3, -1)
    assert np.array_equal(np.sort(numbers, axis=1), np.tile(np.arange(rows_G.sum()), (3, 1)))


@given(rows_G=GROUPS, cuts=st.integers(1, 4), share=st.floats(0, 2.5), seed=st.integers(0))
@settings(max_examples=60, deadline=None)
def test_a_stream_goes_on_from_any_position_as_if_it_had_been_there_before(
    rows_G: Numbers, cuts: int, share: float, seed: int
) -> None:
    order = stream(rows_G, cuts=cuts, seed=seed)
    position = int(share * order.rows)
    whole = taken(order, 0, position + 2 * order.rows)
    begun_there = stream(rows_G, cuts=cuts, seed=seed)
    assert np.array_equal(whole[position:], taken(begun_there, position, 2 * order.rows))


@given(rows_G=GROUPS, cuts=st.integers(1, 4), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_blocks_follow_each_other_and_know_their_rounds_and_row_groups(rows_G: Numbers, cuts: int, seed: int) -> None:
    order = stream(rows_G, cuts=cuts, seed=seed)
    position = 0
    group_of = np.repeat(np.arange(len(rows_G)), rows_G)
    for block in islice(order.blocks(0), 40):
        assert block.first == position
        position += len(block.numbers)
        assert np.array_equal(block.groups, group_of[block.numbers])
        assert (block.rounds <= block.number).all()
        assert (block.rounds > block.number - SPREAD).all()
        for number in np.unique(block.rounds).tolist():
            found = order.round(block.epoch, number)
            here = np.sort(found.numbers[found.blocks == block.number])
            assert np.array_equal(here, np.sort(block.numbers[block.rounds == number]))


@given(rows_G=GROUPS, cuts=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_row_group_is_in_no_more_rounds_of_an_epoch_than_it_has_slices(rows_G: Numbers, cuts: int) -> None:
    order = stream(rows_G, cuts=cuts)
    rounds = [np.unique(order.round(0, number).groups) for number in range(order.rounds)]
    assert np.bincount(np.concatenate(rounds)).max() <= cuts


def test_images_wait_for_no_more_than_half_the_rounds_that_are_mixed() -> None:
    order = stream(np.full(3000, 20), image_bytes=ROUND_BYTES / 500)
    in_memory, read, most = 0, -1, 0
    for block in islice(order.blocks(0), order.rounds):
        while read < block.number:
            read += 1
            in_memory += len(order.round(0, read).numbers)
        most = max(most, in_memory)
        in_memory -= len(block.numbers)
    assert most < 1.1 * (SPREAD + 1) / 2 * 500


def different_classes(class_N: Numbers, batch: int) -> float:
    batches = class_N[: len(class_N) // batch * batch].reshape(-1, batch)
    return float(np.mean([len(np.unique(each)) for each in batches]))


def longest_run(class_N: Numbers) -> int:
    ends = np.flatnonzero(np.diff(class_N, append=-1))
    return int(np.diff(ends, prepend=-1).max())


def test_files_sorted_by_class_mix_more_than_half_of_the_classes_that_a_true_permutation_does() -> None:
    classes, images, image_bytes = 1000, 100, 110e3
    rows_G = np.full(classes * images // 20, 20)
    order = stream(rows_G, cuts=cuts_of(rows_G, image_bytes, mixed=False), image_bytes=image_bytes)
    class_N = taken(order, 0, order.rows) // images
    true_N = np.random.default_rng(0).permutation(classes * images) // images
    assert different_classes(class_N, 256) > 0.75 * different_classes(true_N, 256)
    assert different_classes(class_N, 4096) > 0.55 * different_classes(true_N, 4096)
    assert longest_run(class_N) <= 4
    # The ends of an epoch are no worse than its middle.
    for few_N in (class_N[:256], class_N[-256:]):
        assert different_classes(few_N, 256) > 100
        assert np.bincount(few_N).max() < 16


def test_row_groups_meet_others_in_another_epoch() -> None:
    order = stream(np.full(400, 10))
    first, second = (set(block_pairs(order, epoch)) for epoch in (0, 1))
    assert len(first & second) < 0.5 * len(first)


def block_pairs(order: Stream, epoch: int) -> list[tuple[int, int]]:
    """Pairs of images of one row group that come in one block."""

    def pairs(block: Block) -> list[tuple[int, int]]:
        at = np.argsort(block.numbers)
        number, group = block.numbers[at], block.groups[at]
        return [
            (int(a), int(b))
            for a, b, same in zip(number, number[1:], group == np.roll(group, -1), strict=False)
            if same
        ]

    blocks = (block for block in islice(order.blocks(epoch * order.rows), order.rounds))
    return [pair for block in blocks if block.epoch == epoch for pair in pairs(block)]


@pytest.mark.parametrize(
    ("groups", "group_rows", "image_bytes", "mixed", "cuts"),
    [
        (1000, 2, 110e3, False, 1),
        (1000, 10, 110e3, False, 3),
        (1000, 100, 110e3, False, 4),
        (1000, 100, 110e3, True, 1),
        (1000, 100, 2.5e3, False, 1),
        (10**7, 10, 110e3, False, 1),
    ],
)
def test_row_groups_are_cut_where_whole_ones_would_mix_too_few(
    groups: int, group_rows: int, image_bytes: float, mixed: bool, cuts: int
) -> None:
    assert cuts_of(np.full(groups, group_rows), image_bytes, mixed=mixed) == cuts


def test_a_thin_subset_is_not_read_more_than_once_an_epoch() -> None:
    rows_G = np.zeros(10_000, dtype=np.int64)
    rows_G[::3] = 1
    assert cuts_of(rows_G, 110e3, mixed=False) == 1
    order = stream(rows_G, cuts=1)
    assert np.array_equal(np.sort(taken(order, 0, order.rows)), np.arange(order.rows))


def test_a_stream_of_millions_of_images_is_begun_in_its_middle_without_a_table() -> None:
    order = stream(np.full(300_000, 23), cuts=4, image_bytes=90e3)
    position = 5 * order.rows // 2
    blocks = list(islice(order.blocks(position), 20))
    assert blocks[0].first <= position < blocks[1].first
    assert [block.first + len(block.numbers) for block in blocks[:-1]] == [block.first for block in blocks[1:]]
    numbers = np.concatenate([block.numbers for block in blocks])
    assert len(np.unique(numbers)) == len(numbers)
    # Of each round, all images are in some block.
    assert all((order.round(2, number).blocks < number + SPREAD).all() for number in (0, order.rounds - 1))
