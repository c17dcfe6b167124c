"""What turns learning processes into the next θ⁰."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from leap_rl.core.lookahead import LookAhead
from leap_rl.core.path import GradientPath, Gradients, LossDelta, Metric, check_path_settings
from leap_rl.running.as_json import as_json
from leap_rl.running.record import shown, typed


class MetaLearner(ABC):
    """
    A meta-learner. Learning processes run as the task defines them; the meta-learner says how one is observed.

    ``inner`` is how a process runs: ``"observed"`` (any optimizer, any agent) or ``"differentiable"`` (the task
    must expose its loss as a function of the parameters). ``order`` is how the processes of a meta batch follow
    each other: ``"independent"``, all from θ⁰, or a ``"chain"``, one after the other. ``looks_ahead``: a process makes
    one rollout (or minibatch) more than its budget, and takes it back.
    """

    inner: ClassVar[Literal["observed", "differentiable"]] = "observed"
    order: ClassVar[Literal["independent", "chain"]] = "independent"
    looks_ahead: ClassVar[bool] = False

    @property
    def meta_optimizer(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        """The meta optimizer to use where none is given: its class and settings."""
        return torch.optim.Adam, {"lr": 1e-3}

    @abstractmethod
    def observe(self, parameters: Mapping[str, Tensor]) -> GradientPath | LookAhead | None:
        """
        Begin to follow one learning process.

        :param parameters: the parameters in scope, by name, at θ⁰
        :return: what sums the process's meta gradient, or ``None`` if nothing is learned from it
        """

    def settings(self) -> dict[str, Any]:
        """Name and settings, JSON, for the config of what it learns."""
        return {"name": type(self).__name__, **as_json(asdict(self))}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Leap(MetaLearner):
    """
    Leap (Flennerhag et al., ICLR 2019): shorten the gradient paths of the tasks, on average over the tasks.

    :param metric: what is made short: the ``"length"`` of a path, Σ‖γ^{i+1} - γ^i‖, or its ``"energy"``, the sum of the
        squares, which leans towards the long segments and costs less memory
    :param loss_delta: which Δf enters: ``"consecutive"``, from each minibatch to the next, as in the authors' code;
        ``"within_rollout"``, none from one rollout to the next; ``"same_batch"``, f^{i+1} on minibatch i, one more
        forward pass, which supervised tasks offer; ``"none"``, the loss is no part of the path
    :param loss_scale: λ, the unit of the loss in a path. The paper has 1. ``"auto"`` is 1, but bounds what the loss
        adds to the energy's meta gradient by what the steps add
    :param stabilizer: count a rise of the loss as a fall: -abs(Δf) in place of Δf
    :param gradients: g as the update rule ``"clipped"`` it, or ``"raw"``, as ``backward`` left it
    :param skip_updates: leave out the first n updates of a process; ``None``: as many as the optimizer needs to get
        warm (12 for SB3's RMSprop, 0 for Adam and SGD)
    :param scale_to_displacement: make the meta gradient as long as the way that the process went, ‖θ^K - θ^0‖, so that
        a meta rate of 1 goes as far. For the length, which says where to go, but not how far
    :raises ValueError: for a setting that there is not
    """

    metric: Metric = "energy"
    loss_delta: LossDelta = "consecutive"
    loss_scale: float | Literal["auto"] = "auto"
    stabilizer: bool = True
    gradients: Gradients = "clipped"
    skip_updates: int | None = None
    scale_to_displacement: bool = False

    def __post_init__(self) -> None:
        check_path_settings(self.metric, self.loss_delta, self.loss_scale, self.gradients, self.skip_updates)
        for name in ("stabilizer", "scale_to_displacement"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False")

    @property
    def meta_optimizer(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        # The energy's gradient holds θ⁰ - θ^K, so a rate below 1 stays between them. The length's is a sum of unit
        # vectors, which says where to go, but not how far.
        if self.metric == "energy" or self.scale_to_displacement:
            return torch.optim.SGD, {"lr": 0.5}
        return torch.optim.Adam, {"lr": 1e-3}

    def observe(self, parameters: Mapping[str, Tensor]) -> GradientPath:
        return GradientPath(
            parameters,
            metric=self.metric,
            loss_delta=self.loss_delta,
            loss_scale=self.loss_scale,
            stabilizer=self.stabilizer,
            gradients=self.gradients,
            skip_updates=self.skip_updates,
            scale_to_displacement=self.scale_to_displacement,
        )

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        if not self.scale_to_displacement:  # it is younger than runs that are gone on with
            del settings["scale_to_displacement"]
        return settings


@dataclass(frozen=True)
class Reptile(MetaLearner):
    """
    Reptile (Nichol et al., 2018): θ⁰ moves towards θ^K. The energy of the path without the loss, exactly.
    """

    @property
    def meta_optimizer(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        return torch.optim.SGD, {"lr": 0.5}

    def observe(self, parameters: Mapping[str, Tensor]) -> GradientPath:
        return GradientPath(parameters, metric="energy", loss_delta="none", skip_updates=0)


@dataclass(frozen=True)
class SequentialFinetuning(Reptile):
    """
    One task after the other in one network: θ⁰ becomes θ^K. Reptile with one task at a time and a rate of 1.
    """

    order = "chain"

    @property
    def meta_optimizer(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        return torch.optim.SGD, {"lr": 1.0}


@dataclass(frozen=True)
class FOMAML(MetaLearner):
    """
    First-order MAML (Finn et al., 2017): the gradient at θ^K, on data that the process has not learned from.
    """

    looks_ahead = True

    @property
    def meta_optimizer(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        return torch.optim.SGD, {"lr": 0.5}

    def observe(self, parameters: Mapping[str, Tensor]) -> LookAhead:
        return LookAhead(parameters)


@dataclass(frozen=True)
class MAML(MetaLearner):
    """
    MAML (Finn et al., 2017): the gradient of the loss after a few steps of SGD with respect to θ⁰, through those steps.

    :param inner_steps: how many steps; memory and time grow with them, so that tasks run fewer than otherwise
    """

    inner = "differentiable"
    inner_steps: int = 5

    def __post_init__(self) -> None:
        if self.inner_steps < 1:
            raise ValueError(f"inner_steps={self.inner_steps} must be at least 1")

    @property
    def meta_optimizer(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        return torch.optim.SGD, {"lr": 0.5}

    def observe(self, parameters: Mapping[str, Tensor]) -> None:
        raise TypeError("MAML differentiates through a learning process instead of observing it: use differentiate")

    def differentiate(
        self,
        loss: Callable[[Mapping[str, Tensor], Any], Tensor],
        parameters: Mapping[str, Tensor],
        batches: Sequence[Any],
        learning_rate: float,
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """
        ∇ f_K(θ^K) with respect to θ⁰, where θ^{i+1} = θ^i - α ∇f_i(θ^i).

        :param loss: scalar, of parameters by name and a batch; a pure function
        :param parameters: θ⁰ by name
        :param batches: ``inner_steps`` to learn from, and one more for the meta gradient
        :param learning_rate: α, of the inner SGD
        :return: that gradient; and θ⁰ to θ^K, of which nothing can be differentiated any more
        :raises ValueError: for another number of batches
        """
        if len(batches) != self.inner_steps + 1:
            raise ValueError(f"MAML needs {self.inner_steps} batches to learn from and one more, not {len(batches)}")
        step = torch.func.grad(loss)

        def loss_after_learning(theta: dict[str, Tensor]) -> tuple[Tensor, list[dict[str, Tensor]]]:
            path = [theta]
            for batch in batches[:-1]:
                gradients = step(path[-1], batch)
                path.append({name: t - learning_rate * gradients[name] for name, t in path[-1].items()})
            return loss(path[-1], batches[-1]), path

        start = {name: p.detach() for name, p in parameters.items()}
        gradient: dict[str, Tensor]
        path: list[dict[str, Tensor]]
        gradient, path = torch.func.grad(loss_after_learning, has_aux=True)(start)
        return gradient, [{name: t.detach() for name, t in theta.items()} for theta in path]


@dataclass(frozen=True)
class NoPretraining(MetaLearner):
    """Nothing is learned from the tasks: what a comparison starts from, and how an initialization is evaluated."""

    def observe(self, parameters: Mapping[str, Tensor]) -> None:
        return None


def learner_from_settings(settings: Mapping[str, Any]) -> MetaLearner:
    """
    The inverse of ``MetaLearner.settings``.

    :raises ValueError: for a class that is not of this module, or settings that it does not take
    """
    kinds = {kind.__name__: kind for kind in (Leap, Reptile, FOMAML, MAML, SequentialFinetuning, NoPretraining)}
    name = settings.get("name")
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(f"{shown(name)} is no meta-learner of leap_rl: give yours as learner=...")
    learner: MetaLearner = typed(kinds[name], {k: v for k, v in settings.items() if k != "name"}, name)
    return learner
