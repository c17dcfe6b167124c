"""The network of the paper's supervised experiments."""

from __future__ import annotations

from torch import Tensor, nn


class ConvNet(nn.Module):
    """
    Blocks of convolution 3×3 with 64 filters, batch norm, ReLU and 2×2 max pooling, then a linear head (appendix D of
    the paper: four blocks for 28×28 images).

    :param n_classes: of the head
    :param channels: of the images
    :param image_size: height and width of the images
    :param n_blocks: each halves the image
    :param n_filters: of each convolution
    """

    def __init__(
        self, n_classes: int, channels: int = 1, image_size: int = 28, n_blocks: int = 4, n_filters: int = 64
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size = image_size
        for i in range(n_blocks):
            layers += [
                nn.Conv2d(channels if i == 0 else n_filters, n_filters, kernel_size=3, padding=1),
                nn.BatchNorm2d(n_filters),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            size //= 2
        if size < 1:
            raise ValueError(f"images of {image_size}×{image_size} are too small for {n_blocks} blocks that halve them")
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(n_filters * size * size, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """
        :param images: shape (batch, channels, height, width)
        :return: logits, shape (batch, classes)
        """
        logits: Tensor = self.head(self.encoder(images))
        return logits
