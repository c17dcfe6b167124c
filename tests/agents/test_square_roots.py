"""Square roots of an optimizer that zeros do not make slow: the bits are torch's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from leap_rl import LeapA2C, LeapDQN, make_atari_env
from leap_rl.agents.square_roots import WORTH_IT, MeanSquare, spare_slow_roots

Made = Callable[[list[Tensor]], Optimizer]


@pytest.fixture
def roots(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of what was spared, in turn."""
    taken: list[torch.Size] = []
    root = MeanSquare.sqrt

    def counted(self: MeanSquare) -> Tensor:
        taken.append(self.shape)
        return root(self)

    monkeypatch.setattr(MeanSquare, "sqrt", counted)
    return taken


def after_steps(make: Made, spared: bool) -> list[Tensor]:
    """All that an optimizer moves and keeps, after steps with gradients of all sizes, half of them zeros."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in ((128, 200), (64, 64, 3, 3), (7,))]
    weights[1] = weights[1].to(memory_format=torch.channels_last)
    optimizer = make([w.requires_grad_() for w in weights])
    if spared:
        spare_slow_roots(optimizer)
    for step in range(12):
        for w in weights:
            size = 10.0 ** torch.randint(-25, 3, w.shape, generator=generator)
            never = torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) < 0.5
            w.grad = (torch.randn(w.shape, generator=generator) * size).masked_fill(never, 0.0)
        if step == 6:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.step()
    kept = [tensor for state in optimizer.state.values() for tensor in state.values()]
    assert {type(tensor) for tensor in kept} <= {Tensor}
    return [*weights, *kept]


@pytest.mark.parametrize(
    ("make", "is_spared"),
    [
        (lambda w: RMSprop(w, lr=7e-4, alpha=0.99, eps=1e-5), True),
        (lambda w: RMSprop(w, momentum=0.5, weight_decay=0.1), True),
        (lambda w: RMSprop(w, centered=True), False),
        (lambda w: Adam(w, eps=1e-5), True),
        (lambda w: Adam(w, amsgrad=True, maximize=True), True),
        (lambda w: AdamW(w), True),
        (lambda w: Adam(w, fused=True), False),
        (lambda w: Adam(w, foreach=True), False),
        (lambda w: Adam(w, eps=1e-10), False),  # is changed by the root of the least number
        (lambda w: Adam(w, betas=(0.9, 1 - 1e-9)), False),
        (lambda w: RMSprop(w, eps=1e-10), True),  # divides by nothing
        (lambda w: SGD(w, lr=0.1), False),
    ],
)
def test_a_step_has_torchs_bits(make: Made, is_spared: bool, roots: list[torch.Size]) -> None:
    ours, theirs = after_steps(make, spared=True), after_steps(make, spared=False)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert roots == ([(128, 200), (64, 64, 3, 3)] * 12 if is_spared else [])


@pytest.mark.parametrize(
    ("algorithm", "kwargs"),
    [(LeapA2C, {"n_steps": 2}), (LeapDQN, {"learning_starts": 2, "train_freq": 4, "buffer_size": 50, "batch_size": 2})],
)
def test_agents_on_images_are_spared(algorithm: Any, kwargs: dict[str, Any], roots: list[torch.Size]) -> None:
    model = algorithm("CnnPolicy", make_atari_env("Breakout", 1, seed=0), seed=0, device="cpu", **kwargs)
    model.learn(8)
    assert (512, 3136) in roots
    assert all(shape.numel() >= WORTH_IT for shape in roots)


def test_a_copy_of_an_optimizer_moves_its_own() -> None:
    weights = torch.ones(128, 200, requires_grad=True)
    optimizer = Adam([weights])
    spare_slow_roots(optimizer)
    weights.grad = torch.ones_like(weights)
    theirs = copy.deepcopy(optimizer)
    theirs.step()
    assert torch.equal(weights, torch.ones_like(weights))
    assert (theirs.param_groups[0]["params"][0] < 1).all()
