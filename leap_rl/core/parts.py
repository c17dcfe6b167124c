"""The gradient paths of a learning process whose parts have an optimizer each, such as actor and critic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from leap_rl.core.path import GradientPath
from leap_rl.core.path_statistics import PathStatistics


class GradientPaths(Mapping[str, GradientPath]):
    """
    A path for each part. Each has its own updates, and the loss that its own optimizer makes small: one path of both
    would take the difference of two losses that measure different things for a Δf. No parameter is in two parts, so the
    meta gradient is that of all of them together. ``loss_scale="auto"``, ``skip_updates`` and
    ``scale_to_displacement`` hold for each part.

    :param parts: by name
    """

    def __init__(self, parts: Mapping[str, GradientPath]) -> None:
        self._parts = dict(parts)

    def __getitem__(self, part: str) -> GradientPath:
        return self._parts[part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def n_updates(self) -> int:
        """Optimizer steps, of all parts."""
        return sum(path.n_updates for path in self.values())

    def meta_gradient(self) -> dict[str, Tensor]:
        """
        ∇F by name, without those parts that have not been updated yet.

        :raises RuntimeError: before the first update of any part
        """
        if not self.n_updates:
            raise RuntimeError("the paths have no update yet: nothing was observed")
        return {name: g for path in self.values() if path.n_updates for name, g in path.meta_gradient().items()}

    def statistics(self) -> PathStatistics:
        """
        Updates, segments, length and energy are sums over the parts, and the loss's share is that of this energy.
        ``top_share`` and ``loss_to_step`` are those of the part where they are largest.
        """
        parts = [path.statistics() for path in self.values()]
        energy = sum(part.energy for part in parts)
        loss_energy = sum(part.energy * part.loss_share for part in parts)
        return PathStatistics(
            updates=sum(part.updates for part in parts),
            segments=sum(part.segments for part in parts),
            length=sum(part.length for part in parts),
            energy=energy,
            loss_share=loss_energy / max(energy, 1e-300),
            top_share=max(part.top_share for part in parts),
            loss_to_step=max(part.loss_to_step for part in parts),
            meta_gradient_norm=sum(part.meta_gradient_norm**2 for part in parts) ** 0.5,
            non_finite_update=min(
                (part.non_finite_update for part in parts if part.non_finite_update is not None), default=None
            ),
        )
