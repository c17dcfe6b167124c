"""The networks that initializations of images are for: SB3's own, and that of the paper's Atari experiments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import nn

from leap_rl.core import Initialization, InitializationError


class Mnih2013CNN(BaseFeaturesExtractor):
    """
    The network of Mnih et al., *Playing Atari with Deep Reinforcement Learning* (2013), without its output layer:
    16 filters 8x8 with stride 4, 32 filters 4x4 with stride 2, and 256 fully connected units, each followed by a ReLU.

    The sub-modules are named as those of SB3's ``NatureCNN``, so that both are found under the same names. SB3 adds two
    hidden layers between any extractor but its own and the heads; with ``net_arch=[]`` beside it in the
    ``policy_kwargs`` the heads are linear, as the paper's.

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


class NatureLNCNN(NatureCNN):
    """
    SB3's ``NatureCNN`` with a layer normalization before each ReLU (Ba et al., 2016): units can't all be pushed below
    zero together, nor does a layer's output grow with its weights. Those of convolutions normalize over channels and
    places, with a gain and a bias for each channel, so that the size of the image decides no shape.

    With ``net_arch=[]`` beside it in the ``policy_kwargs`` the heads are linear, as SB3 has them for ``NatureCNN``.

    :param observation_space: as of ``NatureCNN``
    :param features_dim: as of ``NatureCNN``
    :param normalized_image: as of ``NatureCNN``
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 512, normalized_image: bool = False) -> None:
        super().__init__(observation_space, features_dim, normalized_image)
        layers: list[nn.Module] = []
        for layer in self.cnn:
            layers.append(layer)
            if isinstance(layer, nn.Conv2d):
                layers.append(nn.GroupNorm(1, layer.out_channels))
        self.cnn = nn.Sequential(*layers)
        self.linear = nn.Sequential(self.linear[0], nn.LayerNorm(features_dim), nn.ReLU())


NETWORKS: dict[str, type[BaseFeaturesExtractor]] = {
    "NatureCNN": NatureCNN,
    "Mnih2013CNN": Mnih2013CNN,
    "NatureLNCNN": NatureLNCNN,
}

# Their convolutions, filters and kernel, and whether a normalization follows each layer.
_LAYERS = {
    "NatureCNN": ([(32, 8), (64, 4), (64, 3)], False),
    "Mnih2013CNN": ([(16, 8), (32, 4)], False),
    "NatureLNCNN": ([(32, 8), (64, 4), (64, 3)], True),
}


def policy_kwargs(initialization: Initialization) -> dict[str, Any]:
    """
    What an SB3 model must be given so that it has the network of an initialization.

    Behind SB3's ``NatureCNN`` each algorithm has its own heads. Behind other networks they are linear, as those of A2C,
    PPO and DQN are there: SAC, TD3 and their kin, whose critics take actions, need a ``net_arch`` beside it.

    :param initialization: whose config names its network
    :return: for ``A2C("CnnPolicy", env, policy_kwargs=...)``
    :raises InitializationError: for a network that is not of SB3 or leap_rl
    """
    network = initialization.config.get("network")
    if network not in NETWORKS:
        raise InitializationError(f"the initialization is for the network {network}, known are {', '.join(NETWORKS)}")
    shapes = {name: tuple(t.shape) for name, t in initialization.parameters.items() if name.startswith("encoder.")}
    if network_of(shapes) != network:
        raise InitializationError(
            f"the initialization says that it is for {network}, but its tensors are not: damaged or foreign"
        )
    features = initialization.parameters["encoder.linear.0.bias"]
    extractor = NETWORKS[network]
    return {
        "features_extractor_class": extractor,
        "features_extractor_kwargs": {"features_dim": features.shape[0]},
        **({} if extractor is NatureCNN else {"net_arch": []}),
    }


def network_of(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """
    :param shapes: of an encoder's tensors, by the names of initializations
    :return: the name of its network, or ``None``
    """
    first, last = shapes.get("encoder.cnn.0.weight", ()), shapes.get("encoder.linear.0.weight", ())
    if len(first) != 4 or len(last) != 2:
        return None
    for network, (convolutions, is_normalized) in _LAYERS.items():
        channels, expected = first[1], {"encoder.linear.0.weight": last, "encoder.linear.0.bias": last[:1]}
        norms = {"encoder.linear.1": last[:1]} if is_normalized else {}
        for i, (filters, kernel) in enumerate(convolutions):
            position = (2 + is_normalized) * i
            expected[f"encoder.cnn.{position}.weight"] = (filters, channels, kernel, kernel)
            expected[f"encoder.cnn.{position}.bias"] = (filters,)
            if is_normalized:
                norms[f"encoder.cnn.{position + 1}"] = (filters,)
            channels = filters
        expected |= {f"{layer}.{kind}": shape for layer, shape in norms.items() for kind in ("weight", "bias")}
        if expected == shapes and last[1] % channels == 0:
            return network
    return None
