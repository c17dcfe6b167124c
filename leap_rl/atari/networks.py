"""The network of the paper's Atari experiments, as an SB3 features extractor."""

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class Mnih2013CNN(BaseFeaturesExtractor):
    """
    The network of Mnih et al., *Playing Atari with Deep Reinforcement Learning* (2013), without its output layer:
    16 filters 8x8 with stride 4, 32 filters 4x4 with stride 2, and 256 fully connected units, each followed by a ReLU.

    The sub-modules are named as those of SB3's ``NatureCNN``, so that both are found under the same names.

    :param observation_space: uint8 images, channels first: (channels, height, width)
    :param features_dim: Number of units of the fully connected layer
    :param normalized_image: Whether the images come as floats in a range of their own (SB3's
        ``normalize_images=False``); then neither their type nor their bounds are checked
    :raises ValueError: If the observations are not such images, or are smaller than the filters
    """

    def __init__(
        self, observation_space: spaces.Space, features_dim: int = 256, normalized_image: bool = False
    ) -> None:
        super().__init__(observation_space, features_dim)
        if not isinstance(observation_space, spaces.Box) or not is_image_space(
            observation_space, check_channels=False, normalized_image=normalized_image
        ):
            raise ValueError(
                "Mnih2013CNN needs images: a Box of type uint8 and shape (channels, height, width) with values from 0 "
                f"to 255, not {observation_space}."
            )
        channels, height, width = observation_space.shape
        if min(height, width) < 20:
            raise ValueError(f"Mnih2013CNN needs images of at least 20x20 pixels, not {height}x{width}.")
        self.cnn = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=8, stride=4),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=4, stride=2),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            n_flatten = self.cnn(torch.zeros(1, channels, height, width)).shape[1]
        self.linear = nn.Sequential(nn.Linear(n_flatten, features_dim), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """
        :param observations: Shape (batch, channels, height, width), float, usually in [0, 1]
        :return: Shape (batch, features_dim)
        """
        features: torch.Tensor = self.linear(self.cnn(observations))
        return features
