"""What every network here is: features of an image, and one linear layer on them.

B = images, C = color channels, H, W = pixels, F = features, K = classes.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from workers.models.draws import Draws


class FeatureNetwork(nn.Module):
    """A network that describes images. Its constructor may run on the meta device: values come from elsewhere.

    Parameters get them from `initialize` or a checkpoint, constants from `fill_constants` of the modules that have any.
    """

    def features(self, image_BCHW: Tensor) -> Tensor:
        """What a linear classifier reads, (B, F), for images with values in [-1, 1]."""
        raise NotImplementedError

    def initialize(self, draws: Draws) -> None:
        """Give every parameter its first value."""
        raise NotImplementedError


class Network(FeatureNetwork):
    """An image classifier: one linear layer on its features."""

    def classify(self, feature_BF: Tensor) -> Tensor:
        """The last linear layer: class logits, (B, K), of features."""
        raise NotImplementedError

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Class logits, (B, K), for images with values in [-1, 1]."""
        return self.classify(self.features(image_BCHW))


@runtime_checkable
class HasConstants(Protocol):
    """A module with buffers that follow from its shape: they are neither trained nor in checkpoints."""

    def fill_constants(self) -> None:
        """Write the constants into buffers that have memory but no values yet."""


def start_head(head: nn.Linear) -> None:
    """Zero a classifier, so that a training starts from equal odds for all classes."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
