"""
Fine-tuning: how each named block of a network learns, from where an initialization has put it.

A ``Strategy`` gives each block a rate factor as a function of progress, and ``FineTuning`` holds a network to it:
around every step of the optimizer each block is put back to its part of the way. A block of factor 0 has no gradient
either, since SB3 clips the norm of all gradients before it steps. The strategies of the literature are in
``leap_rl.core.strategies``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

from leap_rl.core.blocks import HEAD, block_of_layers, layer_of
from leap_rl.core.initialization import named_tensors
from leap_rl.running.as_json import as_json

Blocks = Mapping[str, Sequence[Tensor]]
"""Tensors by block, from input to output, the head last."""


def blocks_of(model: Any) -> dict[str, list[Tensor]]:
    """
    :param model: a torch module whose encoder is called ``encoder``, or that is one stack of layers; or an SB3 model
    :return: its parameters by block, every copy that it keeps
    :raises ValueError: if nothing is told apart from its outputs
    """
    tensors = named_tensors(model)
    block_of = block_of_layers({name: copies[0] for name, copies in tensors.parameters.items()})
    blocks: dict[str, list[Tensor]] = {block: [] for block in block_of.values()}
    for name, copies in tensors.parameters.items():
        blocks[block_of[layer_of(name)]] += copies
    if list(blocks) == [HEAD]:
        raise ValueError(
            f"{type(model).__name__} has no blocks: neither a part called encoder nor known hidden layers "
            f"({', '.join(tensors.parameters)})"
        )
    return blocks


def tensors_of(blocks: Blocks) -> list[Tensor]:
    return [tensor for of_block in blocks.values() for tensor in of_block]


class Strategy:
    """
    How the blocks of a network learn. This one lets all of them learn at the full rate.

    A subclass is a dataclass whose fields are its settings. What it finds out in a training is no field, so that it can
    be used again.
    """

    blocks_here: Blocks
    """Of the network that is trained."""
    _begun_with: Sequence[Tensor] = ()

    def bind(self, blocks: Blocks) -> None:
        """
        Learn of a network, and change nothing of it.

        :raises ValueError: for a block that is named and is not there
        """
        self.blocks_here = blocks

    def begins(self, blocks: Blocks, fresh: bool) -> bool:
        """
        Whether it begins on a network.

        :param blocks: of the network
        :param fresh: whether its training begins; in one that goes on a strategy begins that was not at work on this
            network before, or on another since
        """
        tensors, known = tensors_of(blocks), self._begun_with
        return fresh or len(known) != len(tensors) or any(a is not b for a, b in zip(known, tensors, strict=True))

    def begun(self, blocks: Blocks) -> None:
        """It is at work on this network, or was in another process."""
        self._begun_with = tensors_of(blocks)

    def begin(self, fresh: bool = True, seed: int = 0) -> None:
        """
        Before the first update.

        :param fresh: whether the training begins here, or goes on
        :param seed: of what is drawn
        """

    def rates(self, progress: float) -> Mapping[str, float]:
        """
        :param progress: share of the budget that is spent once the update at hand has been made, from 0 to 1
        :return: rate factor by block, at least 0; a block that is not in it has 1
        """
        return {}

    def before_step(self, stepping: Blocks) -> None:
        """
        Between gradients and the step of an optimizer.

        :param stepping: what this optimizer moves: all of the network, unless it has several
        """

    def after_step(self, stepping: Blocks) -> None:
        """
        When an optimizer has stepped, and each block is at its part of the way.

        :param stepping: as of ``before_step``, without frozen blocks
        """

    def validated(self, error: float) -> None:
        """:param error: on validation data, for strategies that decide by it"""

    @property
    def awaits_validation(self) -> bool:
        """Whether it waits for ``validated``, to let blocks learn that are frozen."""
        return False

    @property
    def follows_gradients(self) -> bool:
        """Whether its rates are those of the gradients that ``before_step`` finds; none of them is then 0."""
        return False

    @property
    def changes_start(self) -> bool:
        """Whether ``begin`` may change weights."""
        return False

    def settings(self) -> dict[str, Any]:
        """Name and settings, JSON."""
        own: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)} if is_dataclass(self) else {}
        return {"name": type(self).__name__, **as_json(own)}


def rates_at(strategies: Sequence[Strategy], blocks: Blocks, progress: float) -> dict[str, float]:
    """
    :param strategies: that know the blocks
    :return: rate factor of each block
    :raises ValueError: if one is no number, or all are 0
    """
    rates = dict.fromkeys(blocks, 1.0)
    for strategy in strategies:
        for name, rate in strategy.rates(progress).items():
            if not 0 <= rate < math.inf:
                raise ValueError(f"{type(strategy).__name__} gives {name} the rate factor {rate}")
            rates[name] *= rate
    if not any(rates.values()):
        raise ValueError(
            f"all blocks are frozen at {progress:.0%} of the training ({', '.join(rates)}): nothing would be learned"
        )
    return rates


def moved_by(optimizer: Optimizer, blocks: Blocks) -> dict[str, list[Tensor]]:
    """What of each block an optimizer moves, each tensor once."""
    left = {id(p) for group in optimizer.param_groups for p in group["params"]}
    moved: dict[str, list[Tensor]] = {}
    for name, tensors in blocks.items():
        for tensor in tensors:
            if id(tensor) in left:  # once, where it is in several
                left.remove(id(tensor))
                moved.setdefault(name, []).append(tensor)
    return moved


def joined(parts: Sequence[Blocks], blocks: Blocks) -> dict[str, list[Tensor]]:
    """
    :param parts: what each optimizer moves
    :param blocks: whose order is kept
    """
    together = {name: [tensor for part in parts for tensor in part.get(name, [])] for name in blocks}
    return {name: tensors for name, tensors in together.items() if tensors}


def check(strategies: Sequence[Strategy], blocks: Blocks, parts: Sequence[Blocks] = ()) -> None:
    """
    Whether strategies can train a network, of which nothing is changed.

    :param parts: what each optimizer moves, where there are several: a loss that moves nothing has no gradient
    :raises ValueError: for a block that is not there, and rates with which nothing would be learned
    """
    for strategy in strategies:
        strategy.bind(blocks)
    for percent in range(101):
        rates = rates_at(strategies, blocks, percent / 100)
        for part in parts:
            if part and not any(rates[name] for name in part):
                raise ValueError(
                    f"all blocks of one optimizer are frozen at {percent} % of the training ({', '.join(part)}): it "
                    "would learn nothing"
                )


_at_work: WeakKeyDictionary[Optimizer, FineTuning] = WeakKeyDictionary()


class FineTuning:
    """
    Holds one network to one strategy or several, whose factors are multiplied, until ``end``.

    The optimizer steps as always, and a block of factor f is put back to where f of its way leads: the same as f times
    the learning rate for every optimizer whose steps are in proportion to its rate. The optimizer's parameter groups
    and state, which are saved with an agent, stay as they are. ::

        with FineTuning([LPFT()], blocks_of(network), optimizer) as finetuning:
            for i in range(updates):
                finetuning.at((i + 1) / updates)  # before the forward pass
                ...

    :param strategies: to follow
    :param blocks: of the network, see ``blocks_of``; what the optimizer does not move is left out
    :param optimizer: that moves it, or several, such as one for the actor and one for the critic
    :param fresh: whether the training begins here, or goes on, see ``Strategy.begins``
    :param seed: of what strategies draw
    :raises ValueError: for blocks that are not there, and for rates with which nothing would be learned
    """

    def __init__(
        self,
        strategies: Sequence[Strategy],
        blocks: Blocks,
        optimizer: Optimizer | Sequence[Optimizer],
        fresh: bool = True,
        seed: int = 0,
    ) -> None:
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        for each in optimizers:
            self.end_on(each)
        self._parts = [moved_by(each, blocks) for each in optimizers]
        self.blocks = joined(self._parts, blocks)
        self.strategies: list[Strategy] = []
        self.rates: dict[str, float] = {}
        self._frozen: dict[str, list[Tensor]] = {}
        self._slowed: list[dict[str, list[Tensor]]] = [{} for _ in self._parts]
        """Of each optimizer: where each block that is slowed was before the step."""
        self._learning: list[Blocks] = []
        """Of each optimizer: the blocks that are not frozen."""
        self._progress = 0.0
        self._handles = []
        for part, each in enumerate(optimizers):
            self._handles += [
                each.register_step_pre_hook(partial(self._before_step, part)),
                each.register_step_post_hook(partial(self._after_step, part)),
            ]
            _at_work[each] = self
        try:
            self.add(strategies, fresh, seed)
        except BaseException:
            self.end()
            raise

    @staticmethod
    def of(optimizer: Optimizer) -> FineTuning | None:
        """What is at work on an optimizer."""
        return _at_work.get(optimizer)

    @staticmethod
    def end_on(optimizer: Optimizer) -> None:
        """End what is at work on an optimizer: an interrupted training may have left it."""
        if (finetuning := _at_work.get(optimizer)) is not None:
            finetuning.end()

    def add(self, strategies: Sequence[Strategy], fresh: bool = True, seed: int = 0) -> None:
        """As the constructor."""
        check([*self.strategies, *strategies], self.blocks, self._parts)
        # What holds on to the start holds on to it as it was given.
        for strategy in sorted(strategies, key=lambda strategy: strategy.changes_start):
            strategy.begin(strategy.begins(self.blocks, fresh), seed)
            strategy.begun(self.blocks)
        self.strategies += strategies
        self.at(self._progress)

    def at(self, progress: float) -> None:
        """
        Before the forward pass of an update, or of several that have the same rates.

        :param progress: share of the budget that is spent once it has been made, from 0 to 1
        """
        self._progress = progress
        self.rates = rates_at(self.strategies, self.blocks, progress)
        for name, tensors in self.blocks.items():
            rate = self.rates[name]
            if rate == 0:
                # What needs no gradient already, somebody else has frozen.
                now = [tensor for tensor in tensors if tensor.requires_grad]
                for tensor in now:
                    tensor.requires_grad_(False)
                    tensor.grad = None
                self._frozen[name] = [*self._frozen.get(name, []), *now]
            else:
                self._thaw(name)
            for part, slowed in zip(self._parts, self._slowed, strict=True):
                if rate in (0, 1):
                    slowed.pop(name, None)
                elif name not in slowed and name in part:
                    slowed[name] = [tensor.detach().clone() for tensor in part[name]]

        self._learning = [{name: part[name] for name in part if self.rates[name] != 0} for part in self._parts]

    @property
    def more_will_learn(self) -> bool:
        """Whether a block is frozen that is not at the end of training, or until validation says so."""
        waits = any(strategy.awaits_validation for strategy in self.strategies)
        last = rates_at(self.strategies, self.blocks, 1.0)
        return any(rate == 0 and (waits or last[name] > 0) for name, rate in self.rates.items())

    def validated(self, error: float) -> None:
        """:param error: on validation data, as soon as it is known"""
        for strategy in self.strategies:
            strategy.validated(error)

    def end(self) -> None:
        """Take the hooks away, and let everything learn."""
        for handle in self._handles:
            handle.remove()
        for name in list(self._frozen):
            self._thaw(name)
        for slowed in self._slowed:
            slowed.clear()
        for optimizer in [o for o, finetuning in _at_work.items() if finetuning is self]:
            del _at_work[optimizer]

    def __enter__(self) -> FineTuning:
        return self

    def __exit__(self, *raised: object) -> None:
        self.end()

    def _thaw(self, name: str) -> None:
        for tensor in self._frozen.pop(name, []):
            tensor.requires_grad_(True)

    @torch.no_grad()
    def _before_step(self, part: int, *_: Any) -> None:
        for strategy in self.strategies:
            strategy.before_step(self._parts[part])
        if any(strategy.follows_gradients for strategy in self.strategies):
            self.at(self._progress)
        for name, before in self._slowed[part].items():
            torch._foreach_copy_(before, self._parts[part][name])

    @torch.no_grad()
    def _after_step(self, part: int, *_: Any) -> None:
        blocks = self._parts[part]
        for name, before in self._slowed[part].items():
            torch._foreach_lerp_(before, blocks[name], self.rates[name])
            torch._foreach_copy_(blocks[name], before)
        for strategy in self.strategies:
            strategy.after_step(self._learning[part])
