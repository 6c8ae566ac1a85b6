"""How published files lay out a tensor that our networks have: each layout can be read, written, and asked for shapes.

I = inputs, O = outputs, h, w = sides of a filter, N = heads, d = width of a head, D = N * d. Ours are torch's layouts:
(O, I) for linear layers, (O, I, h, w) for convolutions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """One tensor's way into a file and out of it. Both functions work on meta tensors, and so on shapes alone."""

    read: Callable[[Tensor], Tensor]
    """From the file's layout to ours."""
    write: Callable[[Tensor, int], Tensor]
    """From ours to the file's; the number says how many heads the tensor has, where the layout wants to know."""


SAME = Layout(lambda x: x, lambda x, _: x)
INPUTS_FIRST = Layout(lambda x_IO: x_IO.mT, lambda x_OI, _: x_OI.mT)
FILTERS_LAST = Layout(lambda x_hwIO: x_hwIO.permute(3, 2, 0, 1), lambda x_OIhw, _: x_OIhw.permute(2, 3, 1, 0))
BATCHED = Layout(lambda x: x[0], lambda x, _: x[None])
"""An axis of length 1 before the others, as flax and timm keep class token and position embedding."""
TO_HEADS = Layout(lambda x_INd: x_INd.flatten(1).mT, lambda x_DI, heads: x_DI.mT.view(x_DI.shape[1], heads, -1))
HEADS = Layout(lambda x_Nd: x_Nd.flatten(), lambda x_D, heads: x_D.view(heads, -1))
FROM_HEADS = Layout(lambda x_NdO: x_NdO.flatten(0, 1).mT, lambda x_OD, heads: x_OD.mT.view(heads, -1, len(x_OD)))
FILTER_1X1 = Layout(lambda x_OIhw: x_OIhw[:, :, 0, 0], lambda x_OI, _: x_OI[:, :, None, None])
FILTER_1X1_LAST = Layout(lambda x_hwIO: x_hwIO[0, 0].mT, lambda x_OI, _: x_OI.mT[None, None])

Leaves = Mapping[str, tuple[str, Layout]]
"""The tensors of a layer: our name, the end of theirs, the layout. `""` where the name is the tensor's own."""

AS_TORCH: Leaves = {"weight": (".weight", SAME), "bias": (".bias", SAME)}
AS_TORCH_1X1: Leaves = {"weight": (".weight", FILTER_1X1), "bias": (".bias", SAME)}
FLAX_DENSE: Leaves = {"weight": ("/kernel", INPUTS_FIRST), "bias": ("/bias", SAME)}
FLAX_CONV: Leaves = {"weight": ("/kernel", FILTERS_LAST), "bias": ("/bias", SAME)}
FLAX_NORM: Leaves = {"weight": ("/scale", SAME), "bias": ("/bias", SAME)}
FLAX_TO_HEADS: Leaves = {"weight": ("/kernel", TO_HEADS), "bias": ("/bias", HEADS)}
FLAX_FROM_HEADS: Leaves = {"weight": ("/kernel", FROM_HEADS), "bias": ("/bias", SAME)}
BIT_CONV: Leaves = {"weight": ("/standardized_conv2d/kernel", FILTERS_LAST)}
BIT_NORM: Leaves = {"weight": ("/group_norm/gamma", SAME), "bias": ("/group_norm/beta", SAME)}
BIT_HEAD: Leaves = {"weight": ("/conv2d/kernel", FILTER_1X1_LAST), "bias": ("/conv2d/bias", SAME)}
WITH_BATCH: Leaves = {"": ("", BATCHED)}
