"""Fine-tuning an SB3 model by a strategy."""

from __future__ import annotations

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch.optim import Optimizer

from leap_rl.core import FineTuning, Strategy, blocks_of
from leap_rl.core.finetuning import check


def optimizer_of(model: BaseAlgorithm) -> Optimizer:
    """
    :raises ValueError: if it is not one optimizer that moves the whole network
    """
    kind = type(model).__name__
    optimizer = getattr(model.policy, "optimizer", None)
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"{kind} has several optimizers: a strategy holds one")
    if any(parent.__name__ == "TRPO" for parent in type(model).__mro__):
        raise ValueError(f"{kind} moves its policy by line search, not by an optimizer, which a strategy holds")
    return optimizer


class FineTune(BaseCallback):
    """
    Hold a training to a strategy, or to several whose rates are multiplied::

        model.learn(200_000, callback=FineTune(GradualUnfreezing()))

    Progress is the share of the steps that are spent, as SB3 counts them for its schedules: with
    ``learn(reset_num_timesteps=False)`` those of the earlier training are among them. Rates change between rollouts, so
    that no update is half of one kind. A saved agent is a plain one, and what was frozen learns again once training is
    over, also one that was interrupted.

    :param strategies: to follow
    :raises ValueError: where training begins, for a network without an encoder, a block that is not there, rates with
        which nothing would be learned, and algorithms with several optimizers, or that are moved by line search
    """

    def __init__(self, *strategies: Strategy) -> None:
        super().__init__()
        self.strategies = strategies

    def check(self, model: BaseAlgorithm) -> None:
        """
        Whether the model can be trained so, before any time is spent; nothing of it is changed.

        :raises ValueError: as where training begins
        """
        blocks = blocks_of(model)
        optimizer_of(model)
        check(self.strategies, blocks)
        for strategy in self.strategies:
            if strategy.needs_validation:
                raise ValueError(
                    f"{type(strategy).__name__} waits for validation errors, which SB3 has not: leave patience out"
                )

    def _init_callback(self) -> None:
        # Before a gradient path begins, which follows what is trained.
        if isinstance(optimizer := getattr(self.model.policy, "optimizer", None), Optimizer):
            FineTuning.end_on(optimizer)

    def _on_training_start(self) -> None:
        self.check(self.model)
        optimizer, is_fresh = optimizer_of(self.model), self.num_timesteps == 0
        running = FineTuning.of(optimizer)
        if running is None:
            FineTuning(self.strategies, blocks_of(self.model), optimizer, is_fresh)
        else:  # of another callback: the optimizer has one, so that rates are multiplied
            running.add(self.strategies, is_fresh)
        self._at(self.num_timesteps)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._at(self.num_timesteps)  # between collecting and training

    def _at(self, steps: int) -> None:
        running = FineTuning.of(self.model.policy.optimizer)
        if running is not None:
            running.at(min(1.0, steps / self.model._total_timesteps))

    def _on_training_end(self) -> None:
        FineTuning.end_on(self.model.policy.optimizer)
