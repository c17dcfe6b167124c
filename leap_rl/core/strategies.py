"""The fine-tuning strategies of the literature, each by the name that a command knows it by."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from leap_rl.core.blocks import HEAD, all_but_head, chosen
from leap_rl.core.finetuning import Blocks, Strategy

Schedule = Callable[[float], float]
"""Progress from 0 to 1, to a rate factor."""


def _between(name: str, value: Any, low: float, high: float) -> None:
    if not (isinstance(value, int | float) and low <= value <= high and math.isfinite(value)):
        limits = f"from {low:g} to {high:g}" if high < math.inf else f"at least {low:g}, and finite"
        raise ValueError(f"{name}={value} must be {limits}")


@dataclass
class Slow(Strategy):
    """
    A smaller rate for some blocks, or a schedule of it.

    :param factor: of their rate, or a function of progress that gives it
    :param blocks: names of blocks, or what these begin with; none: all but the head
    :param end: the factor at the end of training, to which it goes linearly; ``None``: it stays
    """

    factor: float | Schedule = 0.1
    blocks: tuple[str, ...] = ()
    end: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.factor):
            _between("factor", self.factor, 0, 1)
        elif self.end is not None:
            raise ValueError("factor is a function of progress: leave end out")
        if self.end is not None:
            _between("end", self.end, 0, 1)

    def bind(self, blocks: Blocks) -> None:
        super().bind(blocks)
        self._chosen = chosen(self.blocks, blocks) if self.blocks else all_but_head(blocks)

    def rates(self, progress: float) -> Mapping[str, float]:
        if callable(self.factor):
            factor = self.factor(progress)
        else:
            factor = self.factor if self.end is None else self.factor + progress * (self.end - self.factor)
        return dict.fromkeys(self._chosen, factor)


@dataclass
class Discriminative(Strategy):
    """
    Each block at the rate of the one beside it divided by a factor (Howard and Ruder, ACL 2018, who divide by 2.6).

    :param decay: what a rate is divided by from block to block, at least 1
    :param slower: which blocks are: the ``"earlier"`` ones, or the ``"later"``
    """

    decay: float = 2.6
    slower: str = "earlier"

    def __post_init__(self) -> None:
        _between("decay", self.decay, 1, math.inf)
        if self.slower not in ("earlier", "later"):
            raise ValueError(f"slower={self.slower!r} is unknown, choose earlier or later")

    def rates(self, progress: float) -> Mapping[str, float]:
        fastest_first = list(self.blocks_here)
        if self.slower == "earlier":
            fastest_first.reverse()
        return {block: self.decay**-distance for distance, block in enumerate(fastest_first)}


@dataclass
class Surgical(Strategy):
    """
    Some blocks learn, and no other (Lee et al., ICLR 2023).

    :param blocks: names of blocks, or what these begin with
    """

    blocks: tuple[str, ...] = (HEAD,)

    def bind(self, blocks: Blocks) -> None:
        super().bind(blocks)
        learning = chosen(self.blocks, blocks)
        self._fixed = [block for block in blocks if block not in learning]

    def rates(self, progress: float) -> Mapping[str, float]:
        return dict.fromkeys(self._fixed, 0.0)


@dataclass
class LinearProbe(Strategy):
    """The head learns, and no weight of the encoder. (Statistics of a batch norm in it are its own affair.)"""

    def rates(self, progress: float) -> Mapping[str, float]:
        return dict.fromkeys(all_but_head(self.blocks_here), 0.0)


@dataclass
class LPFT(Strategy):
    """
    A linear probe first, then everything (Kumar et al., ICLR 2022): a head that is drawn at random would distort what
    the encoder knows.

    :param probe: for this share of the budget the head learns alone; ``None``: a tenth, or half of it with ``patience``
    :param patience: end the probe earlier, after so many validations in which its error did not improve
    """

    probe: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.probe is not None:
            _between("probe", self.probe, 0, math.inf)
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience={self.patience} must be at least 1")

    _best, _since, _is_over = math.inf, 0, False

    @property
    def awaits_validation(self) -> bool:
        return self.patience is not None and not self._is_over

    def begin(self, fresh: bool = True, seed: int = 0) -> None:
        if fresh:
            self._best, self._since, self._is_over = math.inf, 0, False

    def rates(self, progress: float) -> Mapping[str, float]:
        probe = self.probe
        if probe is None:
            probe = 0.1 if self.patience is None else 0.5
        if self._is_over or probe == 0 or progress > probe:
            return {}
        return dict.fromkeys(all_but_head(self.blocks_here), 0.0)

    def validated(self, error: float) -> None:
        if error < self._best:
            self._best, self._since = error, 0
        else:
            self._since += 1
        self._is_over = self._is_over or (self.patience is not None and self._since >= self.patience)


@dataclass
class GradualUnfreezing(Strategy):
    """
    The head learns first, then the block before it as well, and so on (Howard and Ruder, ACL 2018).

    :param over: share of the budget after which all blocks learn; they are let go at equal distances
    """

    over: float = 0.5

    def __post_init__(self) -> None:
        _between("over", self.over, 0, 1)

    def rates(self, progress: float) -> Mapping[str, float]:
        from_the_head = list(self.blocks_here)[::-1]
        each = self.over / max(1, len(from_the_head) - 1)
        return {b: 0.0 for i, b in enumerate(from_the_head) if i > 0 and self.over > 0 and progress <= i * each}


@dataclass
class RelativeGradientNorm(Strategy):
    """
    Blocks learn as much as the data asks of them: each at a rate in proportion to the norm of its gradient relative to
    that of its weights, the largest at the full rate (Lee et al., ICLR 2023, their Auto-RGN). Norms are averaged
    exponentially over updates, that at hand included.

    :param power: of the ratio; 0 is plain training
    :param memory: share of an average that stays at an update
    """

    power: float = 1.0
    memory: float = 0.9

    def __post_init__(self) -> None:
        _between("power", self.power, 0, math.inf)
        _between("memory", self.memory, 0, 0.999999)
        self._norms: dict[str, Tensor] = {}

    @property
    def follows_gradients(self) -> bool:
        return self.power > 0

    def begin(self, fresh: bool = True, seed: int = 0) -> None:
        if fresh:
            self._norms = {}

    def before_step(self, stepping: Blocks) -> None:
        if self.power == 0:
            return
        for block, tensors in stepping.items():
            gradients = [t.grad for t in tensors if t.grad is not None]
            if not gradients:
                continue
            size = torch.stack([t.norm() for t in tensors]).norm()
            norm = torch.stack([g.norm() for g in gradients]).norm() / size.clamp_min(1e-12)
            known = self._norms.get(block)
            self._norms[block] = norm if known is None else known.lerp(norm, 1 - self.memory)

    def rates(self, progress: float) -> Mapping[str, float]:
        if not self._norms:
            return {}
        norms = dict(zip(self._norms, torch.stack(list(self._norms.values())).tolist(), strict=True))
        largest = max(norms.values())
        if not 0 < largest < math.inf:
            return {}
        # A rate of 0 would freeze a block for good: frozen, it has no gradient to measure.
        return {b: max(norm / largest, 1e-6) ** self.power for b, norm in norms.items() if b in self.blocks_here}


@dataclass
class TowardsStart(Strategy):
    """
    A penalty on the way from the start, strength · ‖θ − θ⁰‖² (Kumar et al., 2023, *regenerative regularization*). Its
    gradient is added behind whatever clips gradients. The start is what the network was when this strategy began.

    :param strength: of the penalty; 0 is plain training
    :param blocks: names of blocks, or what these begin with; none: all but the head
    """

    strength: float = 1e-3
    blocks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _between("strength", self.strength, 0, math.inf)

    def bind(self, blocks: Blocks) -> None:
        super().bind(blocks)
        self._held = chosen(self.blocks, blocks) if self.blocks else all_but_head(blocks)

    def begin(self, fresh: bool = True, seed: int = 0) -> None:
        if fresh or not hasattr(self, "_start"):
            self._start = {t: t.detach().clone() for block in self._held for t in self.blocks_here[block]}

    def before_step(self, stepping: Blocks) -> None:
        if self.strength == 0:
            return
        for tensor in (t for block in self._held for t in stepping.get(block, ())):
            if tensor.grad is not None:
                tensor.grad.add_(tensor.detach() - self._start[tensor], alpha=2 * self.strength)


@dataclass
class ShrinkPerturb(Strategy):
    """
    Weights are shrunk and noise is added to them: once, before the first update (Ash and Adams, NeurIPS 2020), or after
    each update (*soft* shrink and perturb: Juliani and Ash, NeurIPS 2024). The noise of a weight is normal with the
    variance that He et al. (ICCV 2015) draw it with, 2 / fan-in. Vectors stay as they are: biases, and the gains of
    normalizations, which a fresh network has at 1.

    :param shrink: what weights are multiplied by
    :param perturb: what the noise is multiplied by
    :param each_update: after each update instead of once
    :param blocks: names of blocks, or what these begin with; none: all but the head
    """

    shrink: float = 0.8
    perturb: float = 0.2
    each_update: bool = False
    blocks: tuple[str, ...] = ()

    @property
    def changes_start(self) -> bool:
        return not self.each_update

    def __post_init__(self) -> None:
        _between("shrink", self.shrink, 0, 1)
        _between("perturb", self.perturb, 0, math.inf)

    def bind(self, blocks: Blocks) -> None:
        super().bind(blocks)
        self._changed = chosen(self.blocks, blocks) if self.blocks else all_but_head(blocks)

    def begin(self, fresh: bool = True, seed: int = 0) -> None:
        if fresh or not hasattr(self, "_generators"):
            devices = {t.device for block in self._changed for t in self.blocks_here[block]}
            self._generators = {device: torch.Generator(device).manual_seed(seed) for device in devices}
        if fresh and not self.each_update:
            self._change(self.blocks_here)

    def after_step(self, stepping: Blocks) -> None:
        if self.each_update:
            self._change(stepping)

    @torch.no_grad()
    def _change(self, blocks: Blocks) -> None:
        for tensor in (t for block in self._changed for t in blocks.get(block, ()) if t.dim() > 1):
            if self.shrink != 1:
                tensor.mul_(self.shrink)
            if self.perturb != 0:
                noise = torch.empty_like(tensor).normal_(generator=self._generators[tensor.device])
                tensor.add_(noise, alpha=self.perturb * math.sqrt(2 / tensor[0].numel()))


@dataclass
class SoftShrinkPerturb(ShrinkPerturb):
    """
    ``ShrinkPerturb`` after each update. By default the noise holds a weight that learns nothing at the size of He et
    al.'s draw: perturb² = 1 − shrink².
    """

    shrink: float = 0.99999
    perturb: float = math.sqrt(1 - 0.99999**2)
    each_update: bool = True


STRATEGIES: dict[str, type[Strategy]] = {
    "full": Strategy,
    "slow": Slow,
    "discriminative": Discriminative,
    "linear-probe": LinearProbe,
    "lp-ft": LPFT,
    "gradual": GradualUnfreezing,
    "surgical": Surgical,
    "rgn": RelativeGradientNorm,
    "l2": TowardsStart,
    "shrink-perturb": ShrinkPerturb,
    "soft-shrink-perturb": SoftShrinkPerturb,
}
"""By the names that commands take."""


def read_strategies(text: str) -> list[Strategy]:
    """
    Strategies as a command is given them: names of ``STRATEGIES``, with ``+`` between several, each followed by its
    settings if it needs any, such as ``lp-ft:probe=0.2``, ``surgical:blocks=encoder.cnn.0,head`` or
    ``lp-ft+l2:strength=0.01``.

    :raises ValueError: for what is none
    """
    return [_strategy(part.strip()) for part in re.split(r"(?<!\de)\+", text)]  # 1e+3 is a number


def _strategy(text: str) -> Strategy:
    name, _, given = text.partition(":")
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"no strategy {name!r}: there are {', '.join(STRATEGIES)}{hint}")
    kind = STRATEGIES[name]
    settings: dict[str, Any] = {}
    key = ""
    known = {} if kind is Strategy else {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for part in filter(None, given.split(",")):
        if "=" not in part and key and isinstance(settings[key], list):  # one more of a list
            settings[key].append(part)
            continue
        key, is_given, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if not is_given or key not in known:
            has = f"has {', '.join(known)}" if known else "has no settings"
            raise ValueError(f"{text}: {part!r} is no setting: {name} {has}, each given as name=value")
        settings[key] = _value(text, key, value.strip(), str(known[key].type))
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})


def _value(text: str, key: str, value: str, kind: str) -> Any:
    """:param kind: how the field is annotated"""
    if kind.startswith("tuple"):
        return [value]
    if kind.startswith("bool"):
        if value not in ("true", "false"):
            raise ValueError(f"{text}: {key} is {value!r}, but must be true or false")
        return value == "true"
    if kind.startswith("str"):
        return value
    try:
        return int(value) if kind.startswith("int") else float(value)
    except ValueError:
        raise ValueError(f"{text}: {key} is {value!r}, but must be a number") from None
