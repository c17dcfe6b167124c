"""
Starting gently from an initialization: its encoder is kept from what a random head would do to it first.

A head that knows nothing sends gradients that mean nothing through the encoder, and may distort what was learned before
the head fits (Kumar et al., ICLR 2022, for supervised fine-tuning).
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor, nn
from torch.optim import Optimizer

from leap_rl.core import named_tensors

# What an interrupted training left as it was: SB3 ends no callback then, and the next training must undo it first.
_frozen: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()
_slowed: WeakKeyDictionary[Optimizer, list[Any]] = WeakKeyDictionary()


def _encoder(model: BaseAlgorithm) -> list[Tensor]:
    """
    :raises ValueError: if there is none, or it is not the policy's optimizer that moves it
    """
    kind = type(model).__name__
    if not isinstance(getattr(model.policy, "optimizer", None), Optimizer):
        raise ValueError(f"{kind} has several optimizers: its encoder can't be started gently")
    if any(parent.__name__ == "TRPO" for parent in type(model).__mro__):
        raise ValueError(f"{kind} moves its policy by line search, not by an optimizer: it can't be started gently")
    return [t for copies in named_tensors(model).in_scope("encoder").parameters.values() for t in copies]


class FreezeEncoder(BaseCallback):
    """
    Train the head alone first, then everything: a linear probe, then full fine-tuning.

    :param steps: for so many steps of the environments the encoder stays as it is; at least a rollout
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        self.steps = steps

    def _init_callback(self) -> None:
        self._thaw()  # before a gradient path begins, which follows what is trained

    def _on_training_start(self) -> None:
        self.check(self.model)
        encoder = _encoder(self.model)
        if self.num_timesteps < self.steps:
            # What needs no gradient already, such as a target network, is none of ours.
            frozen = [t for t in encoder if t.requires_grad]
            for tensor in frozen:
                tensor.requires_grad_(False)
                tensor.grad = None
            _frozen[self.model.policy] = frozen

    def check(self, model: BaseAlgorithm) -> None:
        """
        :raises ValueError: if the encoder of this model would be frozen for less than a rollout
        """
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

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        # Between collecting and training: no update is half frozen.
        if self.num_timesteps > self.steps:
            self._thaw()

    def _on_training_end(self) -> None:
        self._thaw()  # a model that is used on learns whole

    def _thaw(self) -> None:
        for tensor in _frozen.pop(self.model.policy, []):
            tensor.requires_grad_(True)


class SlowEncoder(BaseCallback):
    """
    A smaller learning rate for the encoder than for the rest. The optimizer steps as always, and the encoder is put
    back to where a part of its way leads: the same for every optimizer whose steps are in proportion to its rate. The
    optimizer's parameter groups and state, which are saved with an agent, stay as they are.

    :param factor: of the learning rate, from 0 to 1
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        if not 0 <= factor <= 1:
            raise ValueError(f"factor={factor} must be from 0 to 1")
        self.factor = factor

    def _on_training_start(self) -> None:
        encoder = _encoder(self.model)
        optimizer: Optimizer = self.model.policy.optimizer
        self._remove(optimizer)
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        moved = [t for t in encoder if id(t) in owned]
        before = [t.detach().clone() for t in moved]

        @torch.no_grad()
        def keep(*_: Any) -> None:
            torch._foreach_copy_(before, moved)

        @torch.no_grad()
        def go_back(*_: Any) -> None:
            for start, end in zip(before, moved, strict=True):
                end.copy_(start.lerp_(end, self.factor))  # exact at 0 and at 1

        _slowed[optimizer] = [optimizer.register_step_pre_hook(keep), optimizer.register_step_post_hook(go_back)]

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._remove(self.model.policy.optimizer)

    @staticmethod
    def _remove(optimizer: Any) -> None:
        for handle in _slowed.pop(optimizer, []):
            handle.remove()
