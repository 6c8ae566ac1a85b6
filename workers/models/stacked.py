"""Networks of one shape side by side in one: a batch goes through all of them at once. Nothing of how they are trained.

R = networks, B = images, X = an image for each network, network by network (R B), C = channels of a network, F = its
filters, H, W = pixels, k = side of a filter, M = rows of a product, D, I, O = widths of layers, K = classes.

In a transformer the networks follow one another as images do, and a layer multiplies a batch of matrices. In a body of
convolutions they lie side by side in the channels, as groups: torch convolves groups at once, and fast.
"""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from workers.kernels.rules import GroupNorm, Linear
from workers.models.convolutions import StandardizedConv2d
from workers.models.network import FeatureNetwork, Network

_LAYERS = (Linear, nn.LayerNorm, nn.Conv2d)
"""What may hold parameters in a transformer or a classifier."""
_BODY_LAYERS = (StandardizedConv2d, GroupNorm)
"""What may in a body of convolutions."""
_TABLES = ("cls_1D", "position_TD")
"""Parameters that are added to images or stand beside them."""


def unstackable(network: FeatureNetwork) -> str | None:
    """A part of the network that has no form here, by its class; None when there is none."""
    if not isinstance(network, Network):
        return type(network).__name__
    for path, module in network.named_modules():
        known = _BODY_LAYERS if path.startswith("body.") else _LAYERS
        own = [name for name, _ in module.named_parameters(recurse=False) if name not in _TABLES]
        if own and type(module) not in known:
            return f"{type(module).__name__}.{own[0]}"
    return None


class StackedNetwork(nn.Module):
    """Several networks of one shape, for which `unstackable` is None, on parameters of the caller."""

    def __init__(self, network: nn.Module, stacked: dict[str, nn.Parameter]) -> None:
        """network: one of them, which is copied. stacked: the parameters of all by its names, (R, ...)."""
        super().__init__()
        self.stacked = stacked
        self.size = len(next(iter(stacked.values())))
        self.network = copy.deepcopy(network)
        self.has_body = hasattr(network, "body")
        _replace_layers(self.network, stacked, self.size)
        if self.has_body:
            self.network.get_submodule("body").register_forward_hook(
                lambda _module, _inputs, map_BCHW: map_BCHW.unflatten(1, (self.size, -1)).transpose(0, 1).flatten(0, 1)
            )

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Class logits of all networks, (X, K), for images that all of them see."""
        placed = {}
        for name, parameter in self.stacked.items():
            if name.endswith(_TABLES):
                placed[name] = parameter.repeat_interleave(len(image_BCHW), dim=0)
            elif name.startswith("body."):
                placed[name] = parameter.flatten(0, 1)
        if not self.has_body:
            image_BCHW = image_BCHW.repeat(self.size, 1, 1, 1)
        logits_XK: Tensor = functional_call(self.network, placed, (image_BCHW,))
        return logits_XK


def _replace_layers(network: nn.Module, stacked: dict[str, nn.Parameter], size: int) -> None:
    """Put layers of all networks in the place of one's, under the same names."""
    for path, layer in list(network.named_modules()):
        weight, bias = stacked.get(f"{path}.weight"), stacked.get(f"{path}.bias")
        match layer:
            case GroupNorm():
                layer.num_groups *= size
            case StandardizedConv2d():
                network.set_submodule(path, _Convolutions(layer))
            case nn.LayerNorm() if weight is not None and bias is not None:
                network.set_submodule(path, _LayerNorms(weight, bias, layer.eps))
            case nn.Conv2d() if weight is not None and bias is not None:
                network.set_submodule(path, _Embeddings(weight, bias))
            case nn.Linear() if weight is not None and bias is not None:
                network.set_submodule(path, _Linears(weight, bias))


class _Linears(nn.Module):
    """A linear layer of each network."""

    def __init__(self, weight_ROI: nn.Parameter, bias_RO: nn.Parameter) -> None:
        super().__init__()
        self.weight, self.bias = weight_ROI, bias_RO

    def forward(self, x_XI: Tensor) -> Tensor:
        """Its outputs, (X, ..., O), of inputs (X, ..., I)."""
        in_RMI = x_XI.reshape(len(self.weight), -1, x_XI.shape[-1])
        out_RMO = torch.baddbmm(self.bias.unsqueeze(1), in_RMI, self.weight.mT)
        return out_RMO.view(*x_XI.shape[:-1], -1)


class _LayerNorms(nn.Module):
    """A layer normalization of each network."""

    def __init__(self, weight_RD: nn.Parameter, bias_RD: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = weight_RD, bias_RD, eps

    def forward(self, x_XD: Tensor) -> Tensor:
        """The normalized tokens, (X, ..., D)."""
        R, D = self.weight.shape
        normal_RMD = functional.layer_norm(x_XD, (D,), eps=self.eps).view(R, -1, D)
        return torch.addcmul(self.bias.unsqueeze(1), normal_RMD, self.weight.unsqueeze(1)).view(x_XD.shape)


class _Embeddings(nn.Module):
    """A convolution of patches, which do not overlap, of each network."""

    def __init__(self, weight_RDCkk: nn.Parameter, bias_RD: nn.Parameter) -> None:
        super().__init__()
        self.weight, self.bias = weight_RDCkk, bias_RD

    def forward(self, x_XCHW: Tensor) -> Tensor:
        """The patches' embeddings, (X, D, H / k, W / k), patch by patch in memory."""
        R, D, C, k, _ = self.weight.shape
        X, _, H, W = x_XCHW.shape
        patch_RMI = x_XCHW.reshape(X, C, H // k, k, W // k, k).permute(0, 2, 4, 1, 3, 5).reshape(R, -1, C * k * k)
        out_RMD = torch.baddbmm(self.bias.unsqueeze(1), patch_RMI, self.weight.flatten(2).mT)
        return out_RMD.view(X, H // k, W // k, D).permute(0, 3, 1, 2)


class _Convolutions(StandardizedConv2d):
    """A convolution of each network, on feature maps (B, R C, H, W), by weights (R F, C, k, k)."""

    def __init__(self, one: StandardizedConv2d) -> None:
        with torch.device("meta"):  # the weights come with each call
            super().__init__(one.in_channels, one.out_channels, one.kernel_size[0], stride=one.stride[0])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The convolved feature maps, (B, R F, ceil(H / stride), ceil(W / stride))."""
        # All networks see one image: its channels are one group, and what comes of it is R of them.
        groups = x_BCHW.shape[1] // self.weight.shape[1]
        return functional.conv2d(x_BCHW, self.filters(), None, self.stride, self.padding, groups=groups)
