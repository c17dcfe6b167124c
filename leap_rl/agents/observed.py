"""Watching an SB3 algorithm train, without a change to how it trains."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, get_args

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback

from leap_rl.agents.arithmetic import Arithmetic, fuse, speed_up, weights_cast_once
from leap_rl.core import GradientPath, Leap, LookAhead, MetaLearner
from leap_rl.core.learners import learner_from_settings
from leap_rl.running.memory import give_back_freed_memory, keep_freed_memory
from leap_rl.transfer.names import default_scope, observed_parameters

ROLLOUTS_KEPT = 200
"""For so many rollouts the memory that updates free is kept; to give it back and take it again costs less than one."""


def check_learner(learner: MetaLearner) -> None:
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


class ObservedTraining(OnPolicyAlgorithm):
    """
    Mixin for SB3's on-policy algorithms: ``learn`` leaves the gradient path of that learning process in
    ``gradient_path``. ``train`` is SB3's own, watched while it runs, so training has the same bits as without, unless
    ``arithmetic`` is ``"fast"``.

    :param args: as the SB3 algorithm takes them
    :param learner: the meta-learner, which says how to observe; ``None`` is ``Leap()``
    :param scope: what to observe, ``"encoder"`` or ``"all"``; ``None``: the encoder for images, else all
    :param arithmetic: ``"exact"``: the bits of SB3; ``"fast"``: what ``speed_up`` finds on this hardware
    :param kwargs: as the SB3 algorithm takes them
    :raises ValueError: if nothing is in scope, or the meta-learner needs what SB3 does not expose
    """

    gradient_path: GradientPath | LookAhead | None
    sped_up: list[str]
    """What fast arithmetic found to be possible, in words."""

    def __init__(
        self,
        *args: Any,
        learner: MetaLearner | None = None,
        scope: str | None = None,
        arithmetic: Arithmetic = "exact",
        **kwargs: Any,
    ) -> None:
        self.learner: MetaLearner = learner or Leap()
        # What a saved zip holds of the learner: plain JSON, so that it opens where leap_rl is not installed.
        self.learner_settings = self.learner.settings()
        self.scope = scope
        if arithmetic not in get_args(Arithmetic):
            raise ValueError(f"arithmetic={arithmetic!r} is unknown, choose one of {', '.join(get_args(Arithmetic))}")
        self.arithmetic: Arithmetic = arithmetic
        self.gradient_path = None
        check_learner(self.learner)
        self._constructed_with = self.learner
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        keep_freed_memory()
        self._n_trained = 0
        super()._setup_model()
        if self.learner is not self._constructed_with:  # load() was given one
            check_learner(self.learner)
            self.learner_settings = self.learner.settings()
        elif self.learner_settings != self.learner.settings():  # load() found one in the zip
            self.learner = learner_from_settings(self.learner_settings)
        self.scope = self.scope or default_scope(self.policy)
        observed_parameters(self.policy, self.scope)
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
        started = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if reset_num_timesteps or self.gradient_path is None:
            assert self.scope is not None
            trained = observed_parameters(self.policy, self.scope)
            self.gradient_path = self.learner.observe(trained) if trained else None
            if isinstance(self.gradient_path, GradientPath):
                self.gradient_path.gradients_are_fresh = True  # SB3 zeroes them by zero_grad()
        return started

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        with weights_cast_once(self.device) if self.arithmetic == "fast" else nullcontext():
            return super().collect_rollouts(*args, **kwargs)

    def train(self) -> None:
        if self._n_trained % ROLLOUTS_KEPT == 0:
            give_back_freed_memory()
        self._n_trained += 1
        if self.gradient_path is None:
            super().train()
            return
        self.gradient_path.new_rollout()
        with self.gradient_path.observe(self.policy.optimizer):
            super().train()

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "gradient_path",
            "learner",
            "_constructed_with",
            "_n_trained",
            "sped_up",
        ]

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        super().set_parameters(*args, **kwargs)
        if self.arithmetic == "fast":  # the optimizer's state that was loaded says otherwise
            fuse(self.policy.optimizer)
