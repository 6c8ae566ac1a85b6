"""Which image each place of each batch holds, and how far it is shifted: pure functions of (seed, step).

S = steps, B = batch. Nothing is kept from step to step, so a training can go on from anywhere.
"""

import numpy as np
from numpy.typing import NDArray

from studies.permutation import permuted


def rows_of_steps(first: int, steps: int, *, batch: int, rows: int, seed: int) -> NDArray[np.int64]:
    """The rows of the subset that steps first, first + 1, ... train on, (S, B).

    Positions run on through the epochs, and each epoch is a permutation of its own: each `rows` positions, wherever
    batches end, hold each row once.
    """
    position = np.arange(first * batch, (first + steps) * batch, dtype=np.int64)
    epoch, place = np.divmod(position, rows)
    row = np.empty_like(place)
    # Positions are in order, so those of one epoch lie together.
    begins = np.flatnonzero(np.diff(epoch, prepend=-1))
    for begin, end in zip(begins, [*begins[1:], len(position)], strict=True):
        row[begin:end] = permuted(place[begin:end], rows, seed, int(epoch[begin]))
    return row.reshape(steps, batch)


def shifts_of_steps(first: int, steps: int, *, batch: int, seed: int) -> NDArray[np.int64]:
    """How far steps first, first + 1, ... move each image down and to the right: -1, 0 or 1 pixels, (S, B, 2)."""
    # The step is in the upper half of Philox's counter: streams of two steps never meet.
    raw = [np.random.Philox(key=seed, counter=(first + step) << 128).random_raw(batch) for step in range(steps)]
    ninth = np.stack(raw) % np.uint64(9)
    return np.stack(np.divmod(ninth.astype(np.int64), 3), axis=-1) - 1
