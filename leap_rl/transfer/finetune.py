"""Fine-tuning an SB3 model by a strategy."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from torch.optim import Optimizer

from leap_rl.core import FineTuning, Strategy, blocks_of, read_strategies
from leap_rl.core.finetuning import Blocks, check, joined, moved_by, rates_at
from leap_rl.transfer.names import optimizers, targets


class FrozenTooBriefly(ValueError):
    """A block would be frozen, but not any more when the first update comes."""


def optimizers_of(model: BaseAlgorithm) -> list[Optimizer]:
    """
    One, or those of actor and critic.

    :raises ValueError: if it is not they who move the whole network
    """
    if any(parent.__name__ == "TRPO" for parent in type(model).__mro__):
        kind = type(model).__name__
        raise ValueError(f"{kind} moves its policy by line search, not by an optimizer, which a strategy holds")
    return list(optimizers(model.policy).values())


def _moved(model: BaseAlgorithm) -> tuple[Blocks, list[Blocks]]:
    """What of each block is trained; and the same of each optimizer."""
    blocks = blocks_of(model)
    parts: list[Blocks] = [moved_by(optimizer, blocks) for optimizer in optimizers_of(model)]
    return joined(parts, blocks), parts


def first_update(model: BaseAlgorithm, n_envs: int | None = None) -> int:
    """
    How many steps a model will have made when it is next updated, at least.

    :param n_envs: that it will have; ``None``: those of its own
    """
    n_envs, done = n_envs or model.n_envs, model.num_timesteps
    if isinstance(model, OffPolicyAlgorithm):
        every = model.train_freq
        rollout = 1  # of an episode nobody knows
        if isinstance(every, TrainFreq) and every.unit == TrainFrequencyUnit.STEP:
            rollout = every.frequency * n_envs
        return done + rollout * max(1, (model.learning_starts - done) // rollout + 1)
    return done + (model.n_steps * n_envs if isinstance(model, OnPolicyAlgorithm) else 1)


class FineTune(BaseCallback):
    """
    Hold a training to a strategy, or to several whose rates are multiplied::

        model.learn(200_000, callback=FineTune(GradualUnfreezing()))

    Progress is the share of the steps that are spent, as SB3 counts them for its schedules: with
    ``learn(reset_num_timesteps=False)`` those of the earlier training are among them. Rates change between rollouts, so
    that no update is half of one kind; those that follow gradients change at each update. A saved agent is a plain one,
    and what was frozen learns again once training is over. After an interruption a Leap agent does so in its next
    ``learn``; a plain SB3 model needs such a callback there, be it one without strategies.

    :param strategies: to follow, or their names, as ``read_strategies`` takes them. One that was at work on this model
        before goes on where ``learn`` does not reset the steps; others begin, unless ``resume`` says that another
        process began with them
    :raises ValueError: where training begins, for a network of outputs alone, a block that is not there or that would
        learn before the first update, rates with which nothing would be learned (by one of the optimizers, where actor
        and critic have one each), and algorithms that are moved by line search
    """

    def __init__(self, *strategies: Strategy | str) -> None:
        super().__init__()
        read = [read_strategies(s) if isinstance(s, str) else [s] for s in strategies]
        self.strategies: tuple[Strategy, ...] = tuple(strategy for several in read for strategy in several)

    def check(self, model: BaseAlgorithm, timesteps: int | None = None, n_envs: int | None = None) -> None:
        """
        Whether the model can be trained so, before any time is spent; nothing of it is changed.

        :param timesteps: at which training ends, if that is known
        :param n_envs: that it will have; ``None``: those of its own
        :raises FrozenTooBriefly: if a block would be frozen for less than the steps until the first update
        :raises ValueError: as where training begins
        """
        blocks, parts = _moved(model)
        check(self.strategies, blocks, parts)
        for strategy in self.strategies:
            if strategy.awaits_validation:
                raise ValueError(
                    f"{type(strategy).__name__} waits for validation errors, which SB3 has not: leave patience out"
                )
        if timesteps is not None and self.begins(model):
            self._check_first_update(blocks, model.num_timesteps, first_update(model, n_envs), timesteps)

    def begins(self, model: BaseAlgorithm) -> list[Strategy]:
        """Those strategies that were not at work in this training before."""
        blocks, _ = _moved(model)
        return [strategy for strategy in self.strategies if strategy.begins(blocks, model.num_timesteps == 0)]

    def resume(self, model: BaseAlgorithm) -> None:
        """:param model: that another process trained with these strategies, and that goes on here"""
        blocks, _ = _moved(model)
        for strategy in self.strategies:
            strategy.bind(blocks)
            strategy.begun(blocks)

    def _check_first_update(self, blocks: Blocks, done: int, first: int, timesteps: int) -> None:
        # As soon as it has begun: what grows from a rate of 0 is not frozen.
        now, then = (rates_at(self.strategies, blocks, min(1.0, steps / timesteps)) for steps in (done + 1e-3, first))
        if freed := [name for name, rate in now.items() if rate == 0 and then[name] > 0]:
            raise FrozenTooBriefly(
                f"{', '.join(freed)} would be frozen for less than the {first - done:,} steps until the first update: "
                "freeze for a larger share of the steps, or let updates come earlier (fewer n_steps or learning_starts)"
            )

    def _init_callback(self) -> None:
        # Before a gradient path begins, which follows what is trained.
        end_on(self.model)

    def _on_training_start(self) -> None:
        model, running = self.model, self._running
        self.check(model, model._total_timesteps)
        changes_start = any(strategy.changes_start for strategy in self.begins(model))
        fresh = self.num_timesteps == 0
        # Of the seed alone a training that goes on would draw the same again.
        seeds = None if model.seed is None else [model.seed, self.num_timesteps]
        seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
        if running is None:
            FineTuning(self.strategies, blocks_of(model), optimizers_of(model), fresh, seed)
        else:  # of another callback: the optimizers have one, so that rates are multiplied
            running.add(self.strategies, fresh, seed)
        if changes_start:
            with torch.no_grad():
                for target, followed in targets(model.policy):
                    target.copy_(followed)
        self._at(self.num_timesteps)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._at(self.num_timesteps)  # between collecting and training

    def _at(self, steps: int) -> None:
        running = self._running
        if running is not None:
            budget = self.model._total_timesteps - getattr(self.model, "look_ahead", 0)
            running.at(min(1.0, steps / budget))

    def _on_training_end(self) -> None:
        end_on(self.model)

    @property
    def _running(self) -> FineTuning | None:
        """What is at work on the model, by this callback or another."""
        return next((f for o in optimizers(self.model.policy).values() if (f := FineTuning.of(o)) is not None), None)


def end_on(model: BaseAlgorithm) -> None:
    """End what is at work on a model: an interrupted training may have left it."""
    for optimizer in optimizers(model.policy).values():
        FineTuning.end_on(optimizer)
