"""The meta optimizer: one of torch's, which steps θ⁰ along the meta gradient; and its state on disk."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leap_rl.core.initialization import Initialization, relative_change
from leap_rl.core.learners import MetaLearner
from leap_rl.core.meta_state import OptimizerState
from leap_rl.running.as_json import as_json
from leap_rl.running.checkpoint import check_tensors
from leap_rl.running.record import shown

Schedule = Callable[[float], float]


class MetaOptimizer:
    """
    :param theta: θ⁰, which it moves
    :param learner: the meta-learner, which has a default
    :param optimizer_class: any torch optimizer; ``None``: the meta-learner's own
    :param kwargs: of its constructor; ``lr`` may be a schedule, a function of the progress remaining, from 1 to 0
    """

    def __init__(
        self,
        theta: Initialization,
        learner: MetaLearner,
        optimizer_class: type[Optimizer] | None,
        kwargs: Mapping[str, Any] | None,
    ) -> None:
        default_class, default_kwargs = learner.meta_optimizer
        given = {**(default_kwargs if optimizer_class is None else {}), **(kwargs or {})}
        given = {key: value if callable(value) else as_json(value) for key, value in given.items()}
        self.schedule: Schedule | None = given.get("lr") if callable(given.get("lr")) else None
        if self.schedule is not None:
            given["lr"] = self.schedule(1.0)
        self.theta = theta
        self.optimizer = (optimizer_class or default_class)(list(theta.parameters.values()), **given)

    def step(self, meta_gradient: Mapping[str, Tensor], progress_remaining: float) -> dict[str, float]:
        """
        θ⁰ ← θ⁰ - β ∇F, in the optimizer's way.

        :return: ‖Δθ⁰‖ / ‖θ⁰‖ by layer
        """
        parameters = self.theta.parameters
        before = {name: t.detach().clone() for name, t in parameters.items()}
        if self.schedule is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(progress_remaining)
        for name, tensor in parameters.items():
            tensor.grad = meta_gradient[name].to(tensor.dtype)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return relative_change(before, {name: t.detach() for name, t in parameters.items()})

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def settings(self) -> dict[str, Any]:
        """Its name and numbers."""
        settings = {
            key: value
            for key, value in self.optimizer.param_groups[0].items()
            if key != "params" and isinstance(value, int | float | str | bool)
        }
        return {"name": type(self.optimizer).__name__, **settings}


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], OptimizerState]:
    """A torch optimizer's state, its tensors apart from what JSON holds."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                numbers[f"{index}.{key}"] = value
    return tensors, OptimizerState(numbers, state["param_groups"])


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], rest: OptimizerState, began: bool) -> None:
    """
    The inverse of ``optimizer_state``.

    :param optimizer: of the same class, for the same parameters, which has made no step
    :param began: whether the one that was saved had made one
    :raises ValueError: if it is not the state of such an optimizer
    """
    probe = _stepped(optimizer, rest, began)
    expected_tensors, expected = optimizer_state(probe)
    check_tensors(tensors, expected_tensors, "optimizer.")
    if rest.numbers.keys() != expected.numbers.keys():
        raise ValueError(f"the meta optimizer has {shown(sorted(rest.numbers))}, not {shown(sorted(expected.numbers))}")
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **rest.numbers}.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest.param_groups})


def _stepped(optimizer: Optimizer, rest: OptimizerState, began: bool) -> Optimizer:
    """One of the same class and settings, a step along no gradient later: torch itself says what its state is."""

    (group,) = optimizer.param_groups
    ours = optimizer.state_dict()["param_groups"]
    if [g.keys() for g in rest.param_groups] != [g.keys() for g in ours]:
        raise ValueError("the meta optimizer has other settings than it had")
    for key, value in rest.param_groups[0].items():
        if value != ours[0][key] if key == "params" else _kind(value) != _kind(group[key]):
            raise ValueError(f"{key} of the meta optimizer is {shown(value)}")
    known = inspect.signature(type(optimizer)).parameters
    settings = {key: value for key, value in rest.param_groups[0].items() if key in known and key != "params"}
    parameters = [torch.zeros_like(p, requires_grad=True) for p in group["params"]]
    try:
        probe = type(optimizer)(parameters, **settings)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        if began:
            probe.step()
    except Exception as error:  # whatever a class says of settings that it does not take
        raise ValueError(f"the meta optimizer does not take its settings ({error})") from None
    return probe


def _kind(value: Any) -> Any:
    """Of a setting: what it may be instead, so that none of another type slips through."""
    if value is None or isinstance(value, bool):
        return bool
    if isinstance(value, int | float):
        return float if math.isfinite(value) else None
    return [_kind(part) for part in value] if isinstance(value, list | tuple) else type(value)
