"""
Starting gently from an initialization: its encoder is kept from what a random head would do to it first.

A head that knows nothing sends gradients that mean nothing through the encoder, and may distort what was learned before
the head fits (Kumar et al., ICLR 2022, for supervised fine-tuning). Both are names for a ``FineTune``.
"""

from __future__ import annotations

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from leap_rl.core import LPFT, Slow, named_tensors
from leap_rl.transfer.finetune import FineTune


class FreezeEncoder(FineTune):
    """
    Train the head alone first, then everything: ``FineTune(LPFT())``, its probe counted in steps.

    :param steps: for so many steps of the environments the encoder stays as it is; at least a rollout
    """

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        self.steps = steps
        self.probe = LPFT()
        super().__init__(self.probe)

    def check(self, model: BaseAlgorithm, timesteps: int | None = None, n_envs: int | None = None) -> None:
        """
        :raises ValueError: also if the encoder of this model would be frozen for less than a rollout
        """
        if timesteps is not None:
            self.probe.probe = self.steps / timesteps
        if not any(name.startswith("encoder.") for name in named_tensors(model).parameters):
            raise ValueError(
                f"FreezeEncoder needs an encoder, and {type(model.policy).__name__} has none: FineTune('lp-ft') "
                "freezes hidden layers"
            )
        super().check(model)
        if timesteps is not None and model.num_timesteps >= self.steps and self.begins(model):
            raise ValueError(
                f"freezing the encoder for {self.steps:,} steps would freeze nothing: this training goes on, and has "
                f"made {model.num_timesteps:,}"
            )
        if isinstance(model, OnPolicyAlgorithm) and self.steps < (rollout := model.n_steps * model.n_envs):
            raise ValueError(
                f"freezing the encoder for {self.steps:,} steps would not last until the first update: "
                f"a rollout has {rollout:,} steps, so freeze it for at least as many"
            )
        if isinstance(model, OffPolicyAlgorithm) and self.steps <= model.learning_starts:
            raise ValueError(
                f"freezing the encoder for {self.steps:,} steps would not last until the first update: "
                f"learning starts after {model.learning_starts:,} steps, so freeze it for more"
            )
        super().check(model, timesteps, n_envs)


class SlowEncoder(FineTune):
    """
    A smaller learning rate for the encoder than for the rest: ``FineTune(Slow(factor))``.

    :param factor: of the learning rate, from 0 to 1
    """

    def __init__(self, factor: float) -> None:
        super().__init__(Slow(factor, ("encoder",)))
        self.factor = factor
