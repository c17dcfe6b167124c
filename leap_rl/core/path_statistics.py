"""What a gradient path looked like, from sums that stay on its device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from leap_rl.core.sums import BLOCK

Metric = Literal["length", "energy"]


@dataclass(frozen=True)
class PathStatistics:
    """
    What a gradient path looked like. γ = (θ, λ·f); sums are over its segments.

    :param updates: optimizer steps seen, skipped ones included
    :param segments: segments that entered the meta gradient
    :param length: Σ‖Δγ‖; with the energy metric an estimate from a sample of the segments, exact up to 64
    :param energy: Σ‖Δγ‖²; estimated as ``length`` is
    :param loss_share: the loss's share of the energy, Σ(λΔf)² / Σ‖Δγ‖², in [0, 1]
    :param top_share: share of Σ w·λ²|Δf|·‖g‖ that the largest 1 % of the segments hold, in [0, 1]; from a
        histogram with 8 bins per octave
    :param loss_to_step: ‖Σ w·λ²Δf·g‖ / ‖Σ w·Δθ‖, the loss's part of the meta gradient against the steps' part, before
        ``loss_scale="auto"`` shortens it to 1
    :param meta_gradient_norm: norm of the meta gradient
    :param non_finite_update: the first update whose loss, gradient or step was not finite, or ``None``; length, energy
        and shares are then those of the path before it
    """

    updates: int
    segments: int
    length: float
    energy: float
    loss_share: float
    top_share: float
    loss_to_step: float
    meta_gradient_norm: float
    non_finite_update: int | None


class RunningStatistics:
    """Sums over the segments' scalars, which stay on their device until a block of them is full."""

    BINS_PER_OCTAVE = 8
    OCTAVES = 128  # 2^-64 ... 2^64

    def __init__(self, metric: Metric, loss_scale: float) -> None:
        self.metric = metric
        self.loss_scale = loss_scale
        self.length = 0.0
        self.step_energy = 0.0
        self.loss_energy = 0.0
        self.non_finite_update: int | None = None
        self.n_segments = 0
        self.counts = torch.zeros(self.BINS_PER_OCTAVE * self.OCTAVES, dtype=torch.float64)
        self.sums = torch.zeros_like(self.counts)
        self._rows: list[tuple[Tensor | None, Tensor | None, Tensor | None, int, int]] = []

    def copy(self) -> RunningStatistics:
        new = RunningStatistics(self.metric, self.loss_scale)
        new.__dict__.update(self.__dict__)
        new.counts, new.sums, new._rows = self.counts.clone(), self.sums.clone(), list(self._rows)
        return new

    def add(
        self,
        loss_delta: Tensor | None,
        gradient_norm: Tensor | None,
        step_squared: Tensor | None,
        measured: int,
        update: int,
    ) -> None:
        """:param measured: how many segments this one stands for where its step was measured"""
        self._rows.append((loss_delta, gradient_norm, step_squared, measured, update))
        if len(self._rows) == BLOCK:
            self.flush()

    def flush(self) -> None:
        if not self._rows:
            return

        def column(i: int) -> Tensor:
            known = [row[i] for row in self._rows if row[i] is not None]
            values = torch.zeros(len(self._rows), dtype=torch.float64)
            if known:
                mask = torch.tensor([row[i] is not None for row in self._rows])
                values[mask] = torch.stack(known).double().cpu()  # type: ignore[arg-type]
            return values

        loss_delta, gradient_norm, step_squared = (column(i) for i in range(3))
        represents = torch.tensor([0 if row[2] is None else row[3] for row in self._rows], dtype=torch.float64)
        finite = loss_delta.isfinite() & gradient_norm.isfinite() & step_squared.isfinite()
        if self.non_finite_update is not None or not finite.all():  # from there on nothing says how it came to that
            known = 0 if self.non_finite_update is not None else int((~finite).nonzero()[0])
            if self.non_finite_update is None:
                # Where gradient and step are finite, it is the next update's loss that Δf lacks.
                is_next = bool(gradient_norm[known].isfinite() and step_squared[known].isfinite())
                self.non_finite_update = self._rows[known][4] + is_next
            loss_delta, gradient_norm, step_squared = (x[:known] for x in (loss_delta, gradient_norm, step_squared))
            represents = represents[:known]

        loss_squared = (self.loss_scale * loss_delta).square()
        squared = step_squared + loss_squared
        self.length += (represents * squared.sqrt()).sum().item()
        self.step_energy += (represents * step_squared).sum().item()
        self.loss_energy += loss_squared.sum().item()

        magnitude = self.loss_scale**2 * loss_delta.abs() * gradient_norm
        if self.metric == "length":
            magnitude = torch.where(squared > 0, magnitude * squared.rsqrt(), 0.0)
        self.n_segments += len(magnitude)
        magnitude = magnitude[(magnitude > 0) & magnitude.isfinite()]
        bins = (magnitude.log2() + self.OCTAVES / 2) * self.BINS_PER_OCTAVE
        bins = bins.long().clamp_(0, len(self.counts) - 1)
        self.counts.index_add_(0, bins, torch.ones_like(magnitude))
        self.sums.index_add_(0, bins, magnitude)
        self._rows = []

    def top_share(self, top: float = 0.01) -> float:
        wanted, held = float(math.ceil(top * self.n_segments)), 0.0
        for count, total in zip(self.counts.flip(0).tolist(), self.sums.flip(0).tolist(), strict=True):
            if count and wanted > 0:
                held += total * min(1.0, wanted / count)
                wanted -= count
        return held / max(self.sums.sum().item(), 1e-300)
