"""
Starting gently from an initialization: its encoder is kept from what a random head would do to it first.

A head that knows nothing sends gradients that mean nothing through the encoder, and may distort what was learned before
the head fits (Kumar et al., ICLR 2022, for supervised fine-tuning).
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor
from torch.optim import Optimizer

from leap_rl.core import named_tensors


def _encoder(model: Any) -> list[Tensor]:
    """
    :raises ValueError: if there is none
    """
    return [t for copies in named_tensors(model).in_scope("encoder").parameters.values() for t in copies]


class FreezeEncoder(BaseCallback):
    """
    Train the head alone first, then everything: a linear probe, then full fine-tuning.

    :param steps: for so many steps of the environments the encoder stays as it is
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        self.steps = steps
        self._frozen: list[Tensor] = []

    def _on_training_start(self) -> None:
        if self.num_timesteps < self.steps:
            # What needs no gradient already, such as a target network, is none of ours.
            self._frozen = [t for t in _encoder(self.model) if t.requires_grad]
            for tensor in self._frozen:
                tensor.requires_grad_(False)
                tensor.grad = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        # Between collecting and training: no update is half frozen.
        if self.num_timesteps > self.steps:
            self._thaw()

    def _on_training_end(self) -> None:
        self._thaw()  # a model that is used on learns whole

    def _thaw(self) -> None:
        for tensor in self._frozen:
            tensor.requires_grad_(True)
        self._frozen = []


class SlowEncoder(BaseCallback):
    """
    A smaller learning rate for the encoder than for the rest.

    SB3 sets one rate for all parameter groups before every training, and saves the optimizer as it is; so the group is
    split for the duration of each step alone, and what is saved opens anywhere.

    :param factor: of the learning rate, from 0 to 1
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        if not 0 <= factor <= 1:
            raise ValueError(f"factor={factor} must be from 0 to 1")
        self.factor = factor
        self._handles: list[Any] = []

    def _on_training_start(self) -> None:
        encoder = {id(t) for t in _encoder(self.model)}
        optimizer: Optimizer = self.model.policy.optimizer
        whole: list[dict[str, Any]] = []

        def split(optimizer: Optimizer, *_: Any) -> None:
            whole[:] = optimizer.param_groups
            optimizer.param_groups = [
                {
                    **group,
                    "params": [p for p in group["params"] if (id(p) in encoder) is slow],
                    "lr": group["lr"] * rate,
                }
                for group in whole
                for slow, rate in ((True, self.factor), (False, 1.0))
            ]

        def join(optimizer: Optimizer, *_: Any) -> None:
            optimizer.param_groups = list(whole)

        self._handles = [optimizer.register_step_pre_hook(split), optimizer.register_step_post_hook(join)]

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
