"""A ResNet's last feature map as the image of a vision transformer (arXiv:2010.11929v2, section 3.1).

B = images, C = color channels, H, W = pixels, F = width of the transformer,
K = classes.
"""

from torch import Tensor

from studies.models import Hybrid
from workers.models.draws import Draws
from workers.models.network import Network
from workers.models.resnet import Body
from workers.models.vit import VisionTransformer


class HybridNetwork(Network):
    """The transformer reads what the body sees; the head is the transformer's."""

    def __init__(
        self,
        model: Hybrid,
        *,
        size: tuple[int, int],
        channels: int,
        classes: int,
        dropout: float,
        stochastic_depth: float,
    ) -> None:
        super().__init__()
        stride = model.body.stride
        self.body = Body(model.body, channels, size)
        self.vit = VisionTransformer(
            model.vit,
            size=(size[0] // stride, size[1] // stride),
            channels=model.body.channels,
            classes=classes,
            dropout=dropout,
            stochastic_depth=stochastic_depth,
        )

    def features(self, image_BCHW: Tensor) -> Tensor:
        """The transformer's pooled token, (B, F)."""
        return self.vit.features(self.body(image_BCHW))

    def classify(self, feature_BF: Tensor) -> Tensor:
        """The transformer's last layer: class logits, (B, K)."""
        return self.vit.classify(feature_BF)

    def initialize(self, draws: Draws) -> None:
        """First values as those of its two parts."""
        self.body.initialize(draws.within("body"))
        self.vit.initialize(draws.within("vit"))
