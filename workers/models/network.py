"""What every network here is: features of an image, and one linear layer on them.

B = images, C = color channels, H, W = pixels, F = features, K = classes.
"""

from torch import Tensor, nn

from workers.models.draws import Draws


class Network(nn.Module):
    """An image classifier. Its constructor may run on the meta device: values come from `initialize` alone."""

    def features(self, image_BCHW: Tensor) -> Tensor:
        """The input of the last linear layer, (B, F), for images with values in [-1, 1]."""
        raise NotImplementedError

    def classify(self, feature_BF: Tensor) -> Tensor:
        """The last linear layer: class logits, (B, K), of features."""
        raise NotImplementedError

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Class logits, (B, K), for images with values in [-1, 1]."""
        return self.classify(self.features(image_BCHW))

    def initialize(self, draws: Draws) -> None:
        """Give every parameter its first value."""
        raise NotImplementedError


def start_head(head: nn.Linear) -> None:
    """Zero a classifier, so that a training starts from equal odds for all classes."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
