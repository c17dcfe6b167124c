"""The networks that SB3 has not."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from leap_rl import Initialization, Mnih2013CNN, make_atari_env
from leap_rl.core import InitializationError, blocks_of
from leap_rl.transfer import NatureLNCNN, network_of, policy_kwargs


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


def test_a_normalization_before_each_relu_and_nothing_else_is_new() -> None:
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    torch.manual_seed(0)
    normalized = NatureLNCNN(space)
    torch.manual_seed(0)
    plain = NatureCNN(space)
    layers = [*normalized.cnn, *normalized.linear]
    assert [type(layer) for layer in layers if not isinstance(layer, nn.GroupNorm | nn.LayerNorm)] == [
        type(layer) for layer in (*plain.cnn, *plain.linear)
    ]
    for before, layer in pairwise(layers):
        assert isinstance(before, nn.GroupNorm | nn.LayerNorm) == isinstance(layer, nn.ReLU)
    # Oracle: each layer's output less its mean, by its standard deviation, over all but the batch.
    x = torch.rand(3, 4, 84, 84)
    ours = normalized(x)
    for layer in (*plain.cnn, *plain.linear):
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            flat = x.flatten(1)
            deviation = (flat.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            x = ((flat - flat.mean(1, keepdim=True)) / deviation).view(x.shape)
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-4)
    # What pushes all units below zero silences the plain network alone.
    with torch.no_grad():
        for network in (plain, normalized):
            network.cnn[0].bias.fill_(-1e3)
    images = torch.rand(8, 4, 84, 84)
    assert not plain.cnn[:2](images).any() and normalized.cnn[:3](images).any()


def test_it_is_known_by_its_shapes_and_starts_a_model() -> None:
    env = make_atari_env("Pong", 1, seed=0)
    asked: dict[str, Any] = {"features_extractor_class": NatureLNCNN, "net_arch": []}
    source = A2C("CnnPolicy", env, policy_kwargs=dict(asked), seed=1, device="cpu")
    start = Initialization.of(source, "encoder", {"network": "NatureLNCNN"})
    assert network_of({name: tuple(t.shape) for name, t in start.parameters.items()}) == "NatureLNCNN"
    assert policy_kwargs(start) == {**asked, "features_extractor_kwargs": {"features_dim": 512}}
    model = A2C("CnnPolicy", env, policy_kwargs=policy_kwargs(start), n_steps=5, seed=2, device="cpu")
    start.apply_to(model)
    for name, tensor in Initialization.of(model, "encoder").parameters.items():
        assert torch.equal(tensor, start.parameters[name])
    assert list(blocks_of(model)) == ["encoder.cnn.0", "encoder.cnn.3", "encoder.cnn.6", "encoder.linear.0", "head"]
    assert model.policy.action_net.in_features == 512
    model.learn(10)
    with pytest.raises(InitializationError, match=r"another network \(NatureLNCNN\)"):
        start.apply_to(A2C("CnnPolicy", env, device="cpu"))
    # SB3 knows what is right behind its own network, which is another thing for SAC.
    nature = Initialization.of(A2C("CnnPolicy", env, device="cpu"), "encoder", {"network": "NatureCNN"})
    assert "net_arch" not in policy_kwargs(nature)
    assert A2C("CnnPolicy", env, policy_kwargs=policy_kwargs(nature), device="cpu").policy.action_net.in_features == 512
    env.close()
