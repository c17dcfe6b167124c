"""Watching an SB3 algorithm train, without a change to how it trains."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from typing import Any, ClassVar, Concatenate, ParamSpec, get_args

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv
from torch.optim import Optimizer

from leap_rl.agents.arithmetic import fuse, speed_up, unfuse, weights_cast_once
from leap_rl.agents.square_roots import spare_slow_roots
from leap_rl.agents.stages import Stages
from leap_rl.core import GradientPath, GradientPaths, Leap, LookAhead, MetaLearner, NoPretraining
from leap_rl.core.arithmetic import Arithmetic
from leap_rl.core.learners import learner_from_settings
from leap_rl.running.memory import give_back_freed_memory, keep_freed_memory
from leap_rl.transfer.finetune import end_on
from leap_rl.transfer.names import default_scope, observed_parameters, optimizers, parameters_of

ROLLOUTS_KEPT = 200
"""For so many rollouts the memory that updates free is kept; to give it back and take it again costs less than one."""


P = ParamSpec("P")


def spelled_by(
    init: Callable[Concatenate[Any, P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """For type checkers: a constructor that takes what another takes."""
    return lambda own: own


def default_arguments(algorithm: type[BaseAlgorithm]) -> dict[str, Any]:
    """Those of its constructor, and of the SB3 algorithm's where it is somebody's own."""
    plain = algorithm.plain() if issubclass(algorithm, ObservedTraining) else algorithm
    return {name: p.default for kind in (plain, algorithm) for name, p in inspect.signature(kind).parameters.items()}


class ObservedTraining(BaseAlgorithm):
    """
    Mixin for SB3's algorithms: ``learn`` leaves the gradient path of that learning process in ``gradient_path``.
    ``train`` is SB3's own, watched while it runs, so training has the same bits as without, unless ``arithmetic`` is
    ``"fast"``.

    Where actor and critic have an optimizer each, they have a path each: ``gradient_path`` is then a ``GradientPaths``,
    unless the scope holds one of them alone.

    :param args: as the SB3 algorithm takes them
    :param learner: the meta-learner, which says how to observe; ``None`` is ``Leap()``
    :param scope: what to observe, ``"encoder"`` or ``"all"``, or ``"actor"`` or ``"critic"`` where these have an
        optimizer each; ``None``: the encoder for images, else all
    :param arithmetic: ``"exact"``: the bits of SB3; ``"fast"``: what ``speed_up`` finds on this hardware
    :param kwargs: as the SB3 algorithm takes them
    :raises ValueError: if nothing is in scope, or the meta-learner needs what SB3 does not expose
    """

    actions: ClassVar[tuple[type[spaces.Space[Any]], ...]] = (
        spaces.Box,
        spaces.Discrete,
        spaces.MultiDiscrete,
        spaces.MultiBinary,
    )
    """The kinds of actions that the SB3 algorithm takes."""

    learner: MetaLearner
    learner_settings: dict[str, Any]
    """What a saved zip holds of the learner: plain JSON, so that it opens where leap_rl is not installed."""
    scope: str | None
    arithmetic: Arithmetic
    gradient_path: GradientPath | GradientPaths | LookAhead | None
    sped_up: list[str]
    """What fast arithmetic found to be possible, in words."""
    look_ahead = 0
    """Steps at the end of ``learn`` that are no part of the budget, as of FOMAML in a visit."""

    def __init__(
        self,
        *args: Any,
        learner: MetaLearner | None = None,
        scope: str | None = None,
        arithmetic: Arithmetic = "exact",
        **kwargs: Any,
    ) -> None:
        self.learner = learner or Leap()
        self.learner_settings = self.learner.settings()
        self.scope = scope
        if arithmetic not in get_args(Arithmetic):
            choices = ", ".join(get_args(Arithmetic))
            raise ValueError(f"arithmetic={arithmetic!r} is unknown, choose one of {choices}")
        self.arithmetic = arithmetic
        self.gradient_path = None
        self.check_learner(self.learner)
        self._constructed_with = self.learner
        super().__init__(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """``inspect.signature``, and what completes by it, shows what the SB3 algorithm takes, and what is ours."""
        super().__init_subclass__(**kwargs)
        own = next(kind for kind in cls.__mro__ if "__init__" in vars(kind))
        if own is not ObservedTraining:  # somebody's
            parameters = list(inspect.signature(own.__init__).parameters.values())[1:]  # type: ignore[misc]
            cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
            return
        ours = list(inspect.signature(ObservedTraining.__init__).parameters.values())[2:-1]
        plain = inspect.signature(cls.plain()).parameters
        theirs = [p for name, p in plain.items() if name not in {p.name for p in ours}]
        cls.__signature__ = inspect.Signature([*theirs, *ours])  # type: ignore[attr-defined]

    # -- what differs between algorithms -----------------------------------------------------------

    @classmethod
    def plain(cls) -> type[BaseAlgorithm]:
        """The SB3 algorithm: the class after the mixin."""
        return next(
            kind for kind in cls.__mro__ if issubclass(kind, BaseAlgorithm) and not issubclass(kind, ObservedTraining)
        )

    @classmethod
    def replays(cls) -> bool:
        """Whether it learns from a replay buffer; if not, from one rollout after the other."""
        return issubclass(cls, OffPolicyAlgorithm)

    @classmethod
    def check_learner(cls, learner: MetaLearner) -> None:
        """
        :raises ValueError: for a meta-learner that needs what SB3 does not expose
        """
        if learner.inner != "observed":
            raise ValueError(
                f"{type(learner).__name__} differentiates through the learning process, but SB3 exposes no "
                "loss as a function of the parameters: use Leap, Reptile, FOMAML or SequentialFinetuning"
            )
        if getattr(learner, "loss_delta", None) == "same_batch":
            raise ValueError(
                'loss_delta="same_batch" needs a minibatch\'s loss twice, but SB3 computes it inside train(): '
                'use "consecutive", "within_rollout" or "none"'
            )
        if learner.looks_ahead and cls.replays():
            raise ValueError(
                f"{type(learner).__name__} looks ahead to data that was not learned from, but {cls.__name__} draws "
                "its minibatches from all that it has seen: use Leap, Reptile or SequentialFinetuning"
            )

    @classmethod
    def check_env(cls, name: str, env: VecEnv) -> None:
        """
        :param name: of the task
        :param env: of it
        :raises ValueError: for an environment that the algorithm can't learn
        """
        if not isinstance(env.action_space, cls.actions):
            kinds = " or ".join(kind.__name__ for kind in cls.actions)
            space = " ".join(str(env.action_space).split())
            raise ValueError(f"{name} can't be learned: {cls.plain().__name__} takes actions of {kinds}, not {space}")

    @classmethod
    def arguments(cls, given: Mapping[str, Any], steps: int, n_envs: int) -> dict[str, Any]:
        """
        What its constructor is given for a learning process of so many steps: SB3's replay buffer has no more room than
        is filled, which changes no bit.

        :param given: arguments
        :param steps: summed over environments
        :param n_envs: environments in parallel
        :return: copies, so that nothing that a process changes, such as the state of its noise, reaches another
        """
        own = copy.deepcopy(dict(given))
        if cls.replays() and own.get("replay_buffer_class") is None:
            known = {**default_arguments(cls), **own}
            every = known.get("train_freq")
            frequency, unit = every if isinstance(every, tuple) else (every, "step")
            # The last steps are collected whole; an episode has no known end, nor is it known what else a class does.
            if unit == "step" and frequency is not None and "buffer_size" in known:
                own["buffer_size"] = min(known["buffer_size"], steps + (frequency + 2) * n_envs)
        return own

    @property
    def rollout_steps(self) -> int:
        """Steps that are collected at a time, summed over environments; of whole episodes, at least so many."""
        at_a_time = self.train_freq.frequency if self.replays() else self.n_steps  # type: ignore[attr-defined]
        return int(at_a_time * self.n_envs)

    # -- what is watched ---------------------------------------------------------------------------

    def _setup_model(self) -> None:
        keep_freed_memory()
        self._n_trained = 0
        self._stages = Stages()
        self._followed: list[tuple[GradientPath | LookAhead, Optimizer]] = []
        super()._setup_model()  # type: ignore[safe-super]
        if self.learner is not self._constructed_with:  # load() was given one
            self.check_learner(self.learner)
            self.learner_settings = self.learner.settings()
        elif self.learner_settings != self.learner.settings():  # load() found one in the zip
            self.learner = learner_from_settings(self.learner_settings)
        self.scope = self.scope or default_scope(self.policy)
        if not isinstance(self.learner, NoPretraining):
            observed_parameters(self.policy, self.scope)
        for optimizer in optimizers(self.policy).values():
            spare_slow_roots(optimizer)
        self.sped_up = speed_up(self) if self.arithmetic == "fast" else []
        if self.verbose >= 1:
            self.print_arithmetic()

    def print_arithmetic(self) -> None:
        """What fast arithmetic does on this hardware; of the exact one there is nothing to say."""
        if self.arithmetic == "fast":
            print(f"Fast arithmetic: {', '.join(self.sped_up) or 'nothing that this hardware has'}")

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """Every ``learn`` begins here: one that resets the timesteps starts a gradient path, others continue it."""
        end_on(self)
        started = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if reset_num_timesteps or self.gradient_path is None:
            self._begin_path()
            self._stages = Stages(self.num_timesteps)
        return started

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """Schedules end with the budget; what is looked ahead to is none of it."""
        if self.look_ahead:
            total_timesteps -= self.look_ahead
            num_timesteps = min(num_timesteps, total_timesteps)
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)

    def _begin_path(self) -> None:
        assert self.scope is not None
        self._followed, self.gradient_path = [], None
        if isinstance(self.learner, NoPretraining):
            return
        trained = observed_parameters(self.policy, self.scope)
        parts = optimizers(self.policy)
        paths: dict[str, GradientPath | LookAhead] = {}
        for part, optimizer in parts.items():
            owned = {id(p) for p in parameters_of(optimizer)}
            in_part = {name: p for name, p in trained.items() if id(p) in owned}
            path = self.learner.observe(in_part) if in_part else None
            if path is not None:
                paths[part] = path
            if isinstance(path, GradientPath) and len(parts) == 1:
                path.gradients_are_fresh = True  # SB3 zeroes them by zero_grad(), and no other loss adds to them
            if len(parts) > 1:
                # Each path sees the losses of all, and takes the sum of those since its gradients were last zeroed:
                # so they must be there before the first, too. SB3 zeroes them before any of its own.
                for p in parameters_of(optimizer):
                    p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        self._followed = [(path, parts[part]) for part, path in paths.items()]
        several = {part: path for part, path in paths.items() if isinstance(path, GradientPath)}
        self.gradient_path = GradientPaths(several) if len(several) > 1 else next(iter(paths.values()), None)

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> Any:
        fast = weights_cast_once(self.device) if self.arithmetic == "fast" else nullcontext()
        with fast, self._stages.collecting(env) as timed:
            return super().collect_rollouts(timed, *args, **kwargs)  # type: ignore[misc]

    def train(self, *args: Any, **kwargs: Any) -> None:
        if self._n_trained % ROLLOUTS_KEPT == 0:
            give_back_freed_memory()
        self._n_trained += 1
        paths = [path for path, _ in self._followed if isinstance(path, GradientPath)]
        started, observed = time.perf_counter(), sum(path.seconds for path in paths)
        with ExitStack() as watching:
            for path, optimizer in self._followed:
                path.new_rollout()
                watching.enter_context(path.observe(optimizer))
            super().train(*args, **kwargs)  # type: ignore[misc]
        stages, observing = self._stages, sum(path.seconds for path in paths) - observed
        stages.learn += time.perf_counter() - started - observing
        stages.observe += observing
        for name, microseconds in stages.per_step(self.num_timesteps).items():
            self.logger.record(name, microseconds, exclude="stdout")

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "gradient_path",
            "learner",
            "_constructed_with",
            "_followed",
            "_n_trained",
            "_stages",
            "sped_up",
        ]

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        super().set_parameters(*args, **kwargs)
        for optimizer in optimizers(self.policy).values():  # the state that was loaded may say otherwise
            if self.arithmetic == "fast":
                fuse(optimizer)
            else:
                unfuse(optimizer, optimizer.param_groups)

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """As SB3's, and of a fast agent, too, what plain SB3 goes on with."""
        found = super().get_parameters()
        if self.arithmetic == "fast":
            for part, optimizer in optimizers(self.policy).items():
                state = found.get(f"{part}.optimizer")
                if state is not None:  # an algorithm of one's own may not save it
                    unfuse(optimizer, state["param_groups"])
        return found
