"""The open segment of a path: f^i, g^i and Δθ^i, until f^{i+1} is known."""

from __future__ import annotations

import torch
from torch import Tensor

from leap_rl.core.sums import BlockedSum, Flat


class Segment:
    """
    A segment from θ^i to θ^{i+1}. There is one for each path; the next segment takes over its buffers.

    :param like: an empty flat tensor, of the size, dtype and device of all parameters
    :param parameters: in scope
    :param keeps_step: whether Δθ^i itself is needed, as for the length, and not its norm alone
    """

    def __init__(self, like: Tensor, parameters: list[Tensor], keeps_step: bool) -> None:
        self.is_open = False
        """Whether it ended with Δf still unknown."""
        self.loss: Tensor | None = None
        """f^i"""
        self.step: Tensor | None = torch.empty_like(like) if keeps_step else None
        """Δθ^i, flat"""
        self.step_squared: Tensor | None = None
        """‖Δθ^i‖², where it was measured"""
        self.gradients_are_fresh = False
        self._like = like
        self._parameters = parameters
        self._keeps_step = keeps_step
        self._position: Flat | None = None  # θ^i, where the step is measured
        self._measures = False
        self._gradient: Flat | None = None  # g^i
        self._fresh: list[Tensor] = []  # g^i, where it is kept by reference
        self._fresh_versions: list[int] = []
        self._raw: Flat | None = None  # g^{i+1} before clipping, while g^i still waits for f^{i+1}
        self._has_raw = False

    # -- g^i ---------------------------------------------------------------------------------------

    def keep_raw_gradient(self) -> None:
        """As ``backward`` left it, before it is clipped: it is the next segment's."""
        if self._raw is None:
            self._raw = Flat(self._like, self._parameters)
        self._raw.copy_from([p.grad for p in self._parameters])
        self._has_raw = True

    def take_gradient(self) -> None:
        """g^i as it stands, or as it was kept raw."""
        self._fresh = []
        if self._has_raw:
            self._gradient, self._raw, self._has_raw = self._raw, self._gradient, False
            return
        gradients = [p.grad for p in self._parameters]
        if self.gradients_are_fresh and all(g is not None and g.dtype == self._like.dtype for g in gradients):
            self._fresh = [g for g in gradients if g is not None]
            self._fresh_versions = [g._version for g in self._fresh]
        else:
            if self._gradient is None:
                self._gradient = Flat(self._like, self._parameters)
            self._gradient.copy_from(gradients)

    def add_gradient(self, total: BlockedSum, coefficient: Tensor, scale: float) -> Tensor:
        """
        Add scale·coefficient·g^i.

        :param total: to add to
        :return: ‖g^i‖
        :raises RuntimeError: if a gradient that is kept by reference was written over
        """
        if not self._fresh:
            assert self._gradient is not None
            total.add(self._gradient.flat, coefficient, scale)
            return torch.linalg.vector_norm(self._gradient.flat)
        if [g._version for g in self._fresh] != self._fresh_versions:
            raise RuntimeError(
                "gradients were written over between two updates, though gradients_are_fresh: zero them by "
                "optimizer.zero_grad(set_to_none=True), or leave gradients_are_fresh False"
            )
        total.add_each(self._fresh, coefficient, scale)
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._fresh)))

    # -- Δθ^i --------------------------------------------------------------------------------------

    def begin_step(self, measures: bool) -> None:
        """
        At θ^i.

        :param measures: whether ‖Δθ^i‖ is asked for; where Δθ^i is kept it always is
        """
        self._measures = measures or self._keeps_step
        if not self._measures:
            return
        if self._position is None:
            self._position = Flat(self._like, self._parameters).copy_from(self._parameters)
        elif not self._keeps_step:  # else it is where the last step ended
            self._position.copy_from(self._parameters)

    def end_step(self) -> None:
        """At θ^{i+1}."""
        self.step_squared = None
        if not self._measures:
            return
        assert self._position is not None
        if self.step is not None:
            # position <- θ^{i+1}, step <- θ^{i+1} - θ^i, in the two buffers there are
            torch.neg(self._position.flat, out=self.step)
            self._position.copy_from(self._parameters)
            self.step.add_(self._position.flat)
            self.step_squared = torch.linalg.vector_norm(self.step).square()
        else:
            self._position.subtract(self._parameters)
            self.step_squared = torch.linalg.vector_norm(self._position.flat).square()

    def forget(self) -> None:
        """How far the step went is not known."""
        self.is_open = False
        self._position = None
