"""How tokens know their place: tables that are added to them, and relative keys (arXiv:2010.11929v2, appendix D.4).

B = images, T = tokens, D = width, H, W = rows and columns of patches, d = half the width, or the width of a head,
N = heads, O = offsets between two tokens (2T - 1). Patches are in raster order; a class token stands before them.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.models import ViT
from workers.models.draws import Draws

Grid = tuple[int, int]
"""Rows and columns of patches."""

_STD = 0.02
"""Spread of a table's first values in vision_transformer, "from BERT". The code of the forms of D.4 was not released;
they start the same way here."""


class Positioned(nn.Module):
    """A module that adds a table of positions to its tokens, or none."""

    def make_positions(self, model: ViT, grid: Grid | None) -> None:
        """Give the module the model's table for a grid, without values; for None it adds nothing."""
        rows, columns = grid or (0, 0)
        form = model.position if grid else "none"
        width, half = model.width, model.width // 2
        self.grid = grid
        token_has_row = model.has_token and form == "learned-1d" and model.code == "vision-transformer"
        self.token_without_row = model.has_token and not token_has_row
        self.std = _STD if model.code == "vision-transformer" else width**-0.5
        self.position_TD = _table(rows * columns + token_has_row, width) if form == "learned-1d" else None
        self.position_row_Hd = _table(rows, half) if form == "learned-2d" else None
        self.position_col_Wd = _table(columns, half) if form == "learned-2d" else None
        self.sincos_TD: Tensor | None
        sincos_TD = torch.empty(rows * columns, width) if form == "sincos-2d" else None
        self.register_buffer("sincos_TD", sincos_TD, persistent=False)

    def table(self) -> Tensor | None:
        """What is added to the tokens, (T, D), or None; it has no row for a class token without a position."""
        if self.position_row_Hd is not None and self.position_col_Wd is not None:
            row_Hd, column_Wd = self.position_row_Hd, self.position_col_Wd
            row_HWd = row_Hd[:, None].expand(-1, len(column_Wd), -1)
            column_HWd = column_Wd[None].expand(len(row_Hd), -1, -1)
            return torch.cat([row_HWd, column_HWd], dim=-1).flatten(0, 1)
        return self.sincos_TD if self.position_TD is None else self.position_TD

    def positioned(self, x_BTD: Tensor) -> Tensor:
        """The tokens with their positions added."""
        table_TD = self.table()
        if table_TD is None:
            return x_BTD
        if self.token_without_row:
            table_TD = functional.pad(table_TD, (0, 0, 1, 0))
        return x_BTD + table_TD

    def initialize_positions(self, draws: Draws) -> None:
        """Normal numbers, with the spread of the released code."""
        tables = {
            "position": self.position_TD,
            "position_row": self.position_row_Hd,
            "position_col": self.position_col_Wd,
        }
        for name, table in tables.items():
            if table is not None:
                draws.normal(name, table, std=self.std)

    def fill_constants(self) -> None:
        """Write the sines and cosines, where these are the positions."""
        if self.sincos_TD is not None:
            assert self.grid is not None
            self.sincos_TD.copy_(sincos(self.grid, self.sincos_TD.shape[1]))


def sincos(grid: Grid, width: int) -> Tensor:
    """Sine and cosine of column and row at width / 4 wavelengths, (T, D), float32, as big_vision's posemb_sincos_2d.

    Worked out in float64 on the CPU, so that every device has the same.
    """
    row_T, column_T = (place.reshape(-1) for place in np.mgrid[: grid[0], : grid[1]])
    quarter = width // 4
    omega_d = 10_000.0 ** -(np.arange(quarter) / max(quarter - 1, 1))
    row_Td, column_Td = np.outer(row_T, omega_d), np.outer(column_T, omega_d)
    table_TD = np.concatenate([np.sin(column_Td), np.cos(column_Td), np.sin(row_Td), np.cos(row_Td)], axis=1)
    return torch.from_numpy(table_TD.astype(np.float32))


def relative_bias(q_BNTd: Tensor, offset_OD: Tensor) -> Tensor:
    """What relative positions add to the logits of attention, (B, N, T, T): each query's product with a key for the
    offset from the token it looks at, scaled as the content's logits are.

    offset_OD: a key for every head and offset; row o is that of queries o - (T - 1) places after their key.
    """
    heads, width = q_BNTd.shape[1], q_BNTd.shape[3]
    # Reversed, so that along a row of logits the key moves forward.
    offset_NdO = offset_OD.flip(0).view(-1, heads, width).permute(1, 2, 0)
    return skewed((q_BNTd * width**-0.5) @ offset_NdO)


def skewed(x_BNTO: Tensor) -> Tensor:
    """out[..., i, j] = x[..., i, j - i + T - 1], (B, N, T, T): from offsets to places.

    By padding and reshaping alone: a gather would need a deterministic scatter for its gradient.
    """
    tokens = x_BNTO.shape[2]
    # Rows one longer, in a memory cut into rows one shorter than that: each row starts one place later than the last.
    flat_BNX = functional.pad(functional.pad(x_BNTO, (0, 1)).flatten(2), (0, tokens - 1))
    shorter_BNXO = flat_BNX.view(*x_BNTO.shape[:2], tokens + 1, 2 * tokens - 1)
    return shorter_BNXO[:, :, :tokens, tokens - 1 :]


def _table(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(rows, width))
