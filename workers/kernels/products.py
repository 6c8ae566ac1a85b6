"""A linear layer in float32 by oneDNN, forward and backward, for CPUs on which torch's own products are slow.

R = rows, I, O = inputs and outputs of the layer, C, K = columns of the result, and what a product sums over.
"""

import torch
from torch import Tensor


def linear(in_I: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """in W^T + b, (..., O), of an input (..., I); all in float32, on the CPU."""
    out_O: Tensor = _Linear.apply(in_I, weight_OI, bias_O)  # type: ignore[no-untyped-call]
    return out_O


class _Linear(torch.autograd.Function):
    """A linear layer whose three products are oneDNN's."""

    @staticmethod
    def forward(ctx, in_I, weight_OI, bias_O):  # type: ignore[no-untyped-def]
        """The layer's output, for an input of any number of axes."""
        ctx.save_for_backward(in_I, weight_OI)
        out_RO = _product(in_I.reshape(-1, in_I.shape[-1]), weight_OI, bias_O)
        return out_RO.view(*in_I.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_O):  # type: ignore[no-untyped-def]
        """Gradients of the input, the weight and the bias: those that are asked for."""
        in_I, weight_OI = ctx.saved_tensors
        in_RI = in_I.reshape(-1, in_I.shape[-1])
        grad_RO = grad_O.reshape(len(in_RI), -1).contiguous()  # of a sum, it is one number seen many times
        of_input, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(grad_RO, weight_OI.mT).view(in_I.shape) if of_input else None,
            _product(grad_RO.mT, in_RI.mT) if of_weight else None,
            grad_RO.sum(dim=0) if of_bias else None,
        )


def _product(a_RK: Tensor, b_CK: Tensor, bias_C: Tensor | None = None) -> Tensor:
    """a b^T + bias, (R, C), by oneDNN."""
    out_RC: Tensor = torch.ops.mkldnn._linear_pointwise(a_RK, b_CK, bias_C, "none", [], "")
    return out_RC
