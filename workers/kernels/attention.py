"""Attention in bf16 by batched products, for CPUs on which torch's fused kernel is slow at a few hundred tokens.

B = images, N = heads, T = tokens that ask, S = tokens that answer, d = width of a head, X = images x heads.
"""

import torch
from torch import Tensor


def attend(q_BNTd: Tensor, k_BNSd: Tensor, v_BNSd: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, in the shape of q."""
    mixed_BNTd: Tensor = _Attention.apply(q_BNTd, k_BNSd, v_BNSd)  # type: ignore[no-untyped-call]
    return mixed_BNTd


class _Attention(torch.autograd.Function):
    """What autograd would do with the same operations, but that every tensor is copied and kept once at most.

    Only products and softmax's exponentials, which are rounded to bf16, are kept: softmax is in float32 inside.
    """

    @staticmethod
    def forward(ctx, q_BNTd, k_BNSd, v_BNSd):  # type: ignore[no-untyped-def]
        """What each token gathers."""
        # Into memory head by head, as the products read it: scaling the queries on the way costs nothing.
        q_BNTd = torch.mul(q_BNTd, q_BNTd.shape[-1] ** -0.5, out=q_BNTd.new_empty(q_BNTd.shape))
        q_XTd, k_XSd, v_XSd = (tensor.reshape(-1, *tensor.shape[2:]) for tensor in (q_BNTd, k_BNSd, v_BNSd))
        weight_XTS = torch._softmax(q_XTd @ k_XSd.mT, -1, False)
        ctx.save_for_backward(q_XTd, k_XSd, v_XSd, weight_XTS)
        return (weight_XTS @ v_XSd).view(q_BNTd.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_BNTd):  # type: ignore[no-untyped-def]
        """Gradients of queries, keys and values."""
        q_XTd, k_XSd, v_XSd, weight_XTS = ctx.saved_tensors
        heads = grad_BNTd.shape[:2]
        grad_XTd = grad_BNTd.reshape(q_XTd.shape)
        grad_XTS = torch._softmax_backward_data(grad_XTd @ v_XSd.mT, weight_XTS, -1, weight_XTS.dtype)
        of_q_XTd = (grad_XTS @ k_XSd).mul_(q_XTd.shape[-1] ** -0.5)
        return (
            of_q_XTd.unflatten(0, heads),
            (grad_XTS.mT @ q_XTd).unflatten(0, heads),
            (weight_XTS.mT @ grad_XTd).unflatten(0, heads),
        )
