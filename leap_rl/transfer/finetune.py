"""Fine-tuning an SB3 model by a strategy."""

from __future__ import annotations

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch.optim import Optimizer

from leap_rl.core import FineTuning, Strategy, blocks_of
from leap_rl.core.finetuning import check, joined, moved_by
from leap_rl.transfer.names import optimizers


def optimizers_of(model: BaseAlgorithm) -> list[Optimizer]:
    """
    One, or those of actor and critic.

    :raises ValueError: if it is not they who move the whole network
    """
    if any(parent.__name__ == "TRPO" for parent in type(model).__mro__):
        kind = type(model).__name__
        raise ValueError(f"{kind} moves its policy by line search, not by an optimizer, which a strategy holds")
    return list(optimizers(model.policy).values())


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
        which nothing would be learned (by one of the optimizers, where actor and critic have one each), and algorithms
        that are moved by line search
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
        parts = [moved_by(optimizer, blocks) for optimizer in optimizers_of(model)]
        check(self.strategies, joined(parts, blocks), parts)
        for strategy in self.strategies:
            if strategy.needs_validation:
                raise ValueError(
                    f"{type(strategy).__name__} waits for validation errors, which SB3 has not: leave patience out"
                )

    def _init_callback(self) -> None:
        # Before a gradient path begins, which follows what is trained.
        self._end()

    def _on_training_start(self) -> None:
        self.check(self.model)
        is_fresh = self.num_timesteps == 0
        running = self._running
        if running is None:
            FineTuning(self.strategies, blocks_of(self.model), optimizers_of(self.model), is_fresh)
        else:  # of another callback: the optimizers have one, so that rates are multiplied
            running.add(self.strategies, is_fresh)
        self._at(self.num_timesteps)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._at(self.num_timesteps)  # between collecting and training

    def _at(self, steps: int) -> None:
        running = self._running
        if running is not None:
            running.at(min(1.0, steps / self.model._total_timesteps))

    def _on_training_end(self) -> None:
        self._end()

    @property
    def _running(self) -> FineTuning | None:
        """What is at work on the model, by this callback or another."""
        return next((f for o in optimizers(self.model.policy).values() if (f := FineTuning.of(o)) is not None), None)

    def _end(self) -> None:
        for optimizer in optimizers(self.model.policy).values():
            FineTuning.end_on(optimizer)
