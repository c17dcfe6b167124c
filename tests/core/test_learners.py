"""FOMAML and MAML against finite differences and recomputations that share no code with them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from leap_rl.core import FOMAML, MAML, Leap, LookAhead, MetaLearner
from leap_rl.core.learners import learner_from_settings

RATE = 0.3


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def batches(n: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [(draw(7, 3), draw(7, 2)) for _ in range(n)]


def loss(parameters: Mapping[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    hidden = torch.tanh(x @ parameters["0.weight"].T + parameters["0.bias"])
    return (hidden @ parameters["2.weight"].T + parameters["2.bias"] - y).square().mean()


def loss_after_sgd(theta: dict[str, Tensor], data: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The last batch's loss where SGD on the others leads, by autograd alone."""
    for batch in data[:-1]:
        gradients = torch.autograd.grad(loss(theta, batch), list(theta.values()), create_graph=True)
        theta = {name: t - RATE * g for (name, t), g in zip(theta.items(), gradients, strict=True)}
    return loss(theta, data[-1])


def test_maml_is_the_gradient_through_the_learning_process() -> None:
    theta = {name: p.detach().requires_grad_(True) for name, p in network(0).named_parameters()}
    data = batches(4)
    ours, _ = MAML(inner_steps=3).differentiate(loss, theta, data, RATE)
    recomputed = torch.autograd.grad(loss_after_sgd(theta, data), list(theta.values()))
    for (name, _), expected in zip(theta.items(), recomputed, strict=True):
        torch.testing.assert_close(ours[name], expected, rtol=1e-10, atol=1e-12)


def test_maml_against_finite_differences() -> None:
    theta = {name: p.detach() for name, p in network(0).named_parameters()}
    data = batches(4)
    ours, _ = MAML(inner_steps=3).differentiate(loss, theta, data, RATE)
    for name, tensor in theta.items():
        for index in range(tensor.numel()):
            values = []
            for change in (1e-6, -1e-6):
                moved = {n: t.clone().requires_grad_(True) for n, t in theta.items()}
                with torch.no_grad():
                    moved[name].view(-1)[index] += change
                values.append(loss_after_sgd(moved, data).item())
            assert ours[name].view(-1)[index].item() == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-7)


def test_fomaml_is_maml_with_its_inner_steps_detached() -> None:
    data = batches(4)
    model = network(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    ahead = FOMAML().observe(dict(model.named_parameters()))
    ahead.attach(optimizer)
    for i, (x, y) in enumerate(data):
        if i == len(data) - 1:
            end = [p.detach().clone() for p in model.parameters()]
        ahead.new_rollout()
        optimizer.zero_grad()
        ahead.backward((model(x) - y).square().mean())
        optimizer.step()

    theta = {name: p.detach() for name, p in network(0).named_parameters()}
    for batch in data[:-1]:
        attached = {name: t.clone().requires_grad_(True) for name, t in theta.items()}
        gradients = torch.autograd.grad(loss(attached, batch), list(attached.values()))
        theta = {name: t - RATE * g for (name, t), g in zip(theta.items(), gradients, strict=True)}
    attached = {name: t.clone().requires_grad_(True) for name, t in theta.items()}
    expected = torch.autograd.grad(loss(attached, data[-1]), list(attached.values()))
    for name, gradient in zip(theta, expected, strict=True):
        torch.testing.assert_close(ahead.meta_gradient()[name], gradient, rtol=1e-10, atol=1e-12)

    ahead.rewind()  # the look ahead is taken back
    for parameter, before in zip(model.parameters(), end, strict=True):
        assert torch.equal(parameter, before)
    assert ahead.statistics().updates == 3


def test_only_the_first_update_of_a_rollout_is_looked_at() -> None:
    """PPO makes many updates on one rollout; the later ones have learned from it."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    ahead = LookAhead({"x": parameter})
    with ahead.observe(optimizer):
        for rollout in ([1.0, 2.0], [5.0, 7.0]):
            ahead.new_rollout()
            for slope in rollout:
                optimizer.zero_grad()
                (slope * parameter).sum().backward()
                optimizer.step()
    assert ahead.meta_gradient()["x"].item() == 5.0
    ahead.rewind()
    assert parameter.item() == -3.0


def test_fomaml_needs_a_rollout_to_learn_from() -> None:
    with pytest.raises(RuntimeError, match="one rollout more"):
        FOMAML().observe({"x": nn.Parameter(torch.zeros(1))}).meta_gradient()


def test_maml_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="inner_steps=0"):
        MAML(inner_steps=0)
    with pytest.raises(ValueError, match="3 batches to learn from and one more, not 3"):
        MAML(inner_steps=3).differentiate(loss, dict(network(0).named_parameters()), batches(3), RATE)
    with pytest.raises(TypeError, match="instead of observing"):
        MAML().observe({})


@pytest.mark.parametrize(
    "learner",
    [FOMAML(), MAML(inner_steps=3), Leap("length", loss_scale=1.0), Leap("length", scale_to_displacement=True)],
)
def test_settings_round_trip(learner: MetaLearner) -> None:
    assert learner_from_settings(learner.settings()) == learner


def test_settings_of_a_run_that_is_older_than_one_of_them() -> None:
    before = {
        "name": "Leap",
        "metric": "energy",
        "loss_delta": "consecutive",
        "loss_scale": 0.01,
        "stabilizer": True,
        "gradients": "clipped",
        "skip_updates": None,
    }
    assert learner_from_settings(before).settings() == before
