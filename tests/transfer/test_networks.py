"""The network of Mnih et al. 2013."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C
from torch import nn

from leap_rl import Mnih2013CNN, make_atari_env


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
def test_shape(channels: int) -> None:
    network = Mnih2013CNN(spaces.Box(0, 255, (channels, 84, 84), np.uint8))
    assert network(torch.rand(2, channels, 84, 84)).shape == (2, 256)
    filters = [
        (layer.out_channels, layer.kernel_size, layer.stride) for layer in network.cnn if hasattr(layer, "stride")
    ]
    assert filters == [(16, (8, 8), (4, 4)), (32, (4, 4), (2, 2))]
    assert isinstance(network.linear[0], nn.Linear) and network.linear[0].in_features == 32 * 9 * 9
    assert [name for name, _ in network.named_parameters()] == [
        f"{layer}.{kind}" for layer in ("cnn.0", "cnn.2", "linear.0") for kind in ("weight", "bias")
    ]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.Box(0, 255, (84,), np.uint8),
        spaces.Box(0, 1, (4, 84, 84), np.float32),
        spaces.Box(0, 255, (84, 84, 4), np.uint8),
        spaces.Box(0, 255, (4, 19, 84), np.uint8),
    ],
)
def test_anything_but_images_is_refused(space: spaces.Space) -> None:
    with pytest.raises(ValueError, match="Mnih2013CNN needs images"):
        Mnih2013CNN(space)


def test_floats_in_a_range_of_their_own() -> None:
    network = Mnih2013CNN(spaces.Box(0, 1, (4, 84, 84), np.float32), normalized_image=True)
    assert network(torch.rand(1, 4, 84, 84)).shape == (1, 256)


@pytest.mark.parametrize("grayscale", [True, False])
def test_a2c_trains_with_it(grayscale: bool) -> None:
    env = make_atari_env("Pong", 2, seed=0, grayscale=grayscale, frame_stack=4 if grayscale else 1)
    model = A2C("CnnPolicy", env, n_steps=5, policy_kwargs={"features_extractor_class": Mnih2013CNN}, seed=0)
    model.learn(20)
    assert isinstance(model.policy.features_extractor, Mnih2013CNN)
    env.close()
