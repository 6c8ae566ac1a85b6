"""The moving average of a training's weights (Polyak and Juditsky, 1992), which is what the training leaves behind."""

import torch
from torch import Tensor, nn


class Average:
    """After each update, decay * average + (1 - decay) * weights, in float32.

    It begins with the first weights, which keep a share of decay ** steps to the end: neither a warm-up of the decay
    nor a bias correction. The released code of both papers has no averaging to go by, and the first only the decay,
    0.9999 (arXiv:2010.11929v2, table 2).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Of what the network trains: a frozen parameter is its own average."""
        self.decay = decay
        self.parameters = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        self.weights: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        torch._foreach_lerp_(list(self.weights.values()), list(self.parameters.values()), 1 - self.decay)
