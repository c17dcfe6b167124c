"""The gradient path of one learning process, and the pull-forward gradient that Leap sums along it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from leap_rl.core.backward import observe_backward
from leap_rl.core.path_statistics import Metric, PathStatistics, RunningStatistics
from leap_rl.core.segment import Segment
from leap_rl.core.sums import BlockedSum, Flat
from leap_rl.running.integers import integer

LossDelta = Literal["consecutive", "within_rollout", "same_batch", "none"]
Gradients = Literal["clipped", "raw"]

# The energy metric needs no copy of the parameters per update. Its path length, which is only reported, is
# measured on the first segments, where an adaptive optimizer makes its largest steps, and on every n-th after.
MEASURED_FIRST = 64
MEASURED_EVERY = 16


class GradientPath:
    r"""
    Follows one learning process and sums its meta gradient, equation (8) of Leap:

    .. math::
        \nabla F = -\sum_i (\lambda^2 \Delta f^i g^i + \Delta\theta^i) \, w^i

    with w = 1 / ‖(Δθ, λΔf)‖ for the length and w = 1 for the energy of the path. Jacobians are taken as the
    identity. A segment without length contributes nothing, a parameter without a gradient its Δθ alone.

    Attached to an optimizer it cannot be called in the wrong order::

        path = GradientPath(dict(model.named_parameters()), metric="length")
        path.attach(optimizer)
        for x, y in batches:
            optimizer.zero_grad()
            path.backward(criterion(model(x), y))
            optimizer.step()
        gradient = path.meta_gradient()

    ``observe(optimizer)`` does the same to training code that cannot be changed; ``before_update`` and
    ``after_update`` are for loops without a torch optimizer. Memory does not grow with the number of updates,
    and no device is synchronized, but once in 256 updates.

    f^{i+1} is known at the next update's forward pass, so the last segment contributes its Δθ alone until
    ``close`` gives it the loss.

    :param parameters: the parameters in scope, by name
    :param metric: minimize the ``"length"`` (p = 1) or the ``"energy"`` (p = 2) of the path
    :param loss_delta: which Δf enters. ``"consecutive"``: f^{i+1} - f^i of consecutive minibatches, as the
        authors; ``"within_rollout"``: the same, but 0 across ``new_rollout()``; ``"same_batch"``: both losses
        on minibatch i, one more forward pass; ``"none"``: the loss is not part of the manifold
    :param loss_scale: λ, the unit of the loss axis. ``"auto"`` is the paper's 1, but with the energy at most what
        makes the loss's part of the meta gradient as long as the steps' part: the energy of a path is unbounded in
        its loss, and on Atari one segment was seen to outweigh a whole meta batch by a factor of 100
    :param stabilizer: replace Δf by -abs(Δf)
    :param gradients: g as the update rule ``"clipped"`` it, or ``"raw"`` as ``backward`` left it
    :param skip_updates: leave out the first n updates; ``None``: those in which the optimizer it is attached to is
        cold (see ``cold_updates``)
    :param scale_to_displacement: shorten or lengthen the meta gradient to ‖θ^K - θ^0‖ (θ^0 at the first segment), so
        that a meta rate of 1 goes as far as the process went. The length's is a sum of K vectors no longer than 1 and
        says where to go, but not how far; and where the loss does not move, w is largest: on Atari, a game without
        a reward had three times the meta gradient of one that was learned
    :raises ValueError: for an unknown setting, or without parameters
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        metric: Metric = "energy",
        loss_delta: LossDelta = "consecutive",
        loss_scale: float | Literal["auto"] = "auto",
        stabilizer: bool = True,
        gradients: Gradients = "clipped",
        skip_updates: int | None = None,
        scale_to_displacement: bool = False,
    ) -> None:
        check_path_settings(metric, loss_delta, loss_scale, gradients, skip_updates)
        if not parameters:
            raise ValueError("a gradient path needs at least one parameter, got none")
        self.metric: Metric = metric
        self.loss_delta: LossDelta = loss_delta
        self.loss_scale = 1.0 if loss_scale == "auto" else loss_scale
        self.stabilizer = stabilizer
        self.gradients: Gradients = gradients
        self.skip_updates = skip_updates or 0
        self.scale_to_displacement = scale_to_displacement
        self._balances = loss_scale == "auto" and metric == "energy"
        self._skips_cold_updates = skip_updates is None
        self.n_updates = 0
        self.seconds = 0.0
        """What the hooks of ``attach`` took."""

        self._names = list(parameters)
        self._parameters = list(parameters.values())
        dtype = torch.float64 if any(p.dtype == torch.float64 for p in self._parameters) else torch.float32
        self._like = torch.empty(
            sum(p.numel() for p in self._parameters), dtype=dtype, device=self._parameters[0].device
        )
        self._uses_loss = loss_delta != "none"
        self._loss_sum = BlockedSum(self._like, self._parameters) if self._uses_loss else None  # Σ w·λ²Δf·g
        # Σ w·Δθ; energy telescopes
        self._step_sum = BlockedSum(self._like, self._parameters) if metric == "length" else None
        self._segment = Segment(self._like, self._parameters, keeps_step=metric == "length")
        self._start: Flat | None = None  # θ at the first segment
        self._n_segments = 0
        self._pending_loss: Tensor | None = None  # of backward passes since the last update
        self._followed = self._parameters  # all that the optimizer owns, once there is one
        self._left: list[tuple[Tensor, Tensor, int]] = []  # those that the last pass left with a gradient, its version
        self._recompute: Callable[[], Tensor] | None = None
        self._crosses_rollouts = False
        self._in_update = False
        self._closed = False
        self._statistics = RunningStatistics(metric, self.loss_scale)

    @property
    def gradients_are_fresh(self) -> bool:
        """
        Whether every ``backward`` writes into new tensors, as after ``zero_grad()``, which sets gradients to ``None``.
        Then g^i is kept by reference and not copied while it waits for f^{i+1}.
        """
        return self._segment.gradients_are_fresh

    @gradients_are_fresh.setter
    def gradients_are_fresh(self, fresh: bool) -> None:
        self._segment.gradients_are_fresh = fresh

    # -- attached to an optimizer ------------------------------------------------------------------

    def attach(self, optimizer: Optimizer) -> Callable[[], None]:
        """
        Follow every ``optimizer.step()``; the loss comes by ``backward``.

        :param optimizer: owns every parameter in scope; must not need a closure
        :return: a function that detaches again
        :raises ValueError: if a parameter in scope is not one of the optimizer's
        """
        self._followed = [p for group in optimizer.param_groups for p in group["params"]]
        owned = {id(p) for p in self._followed}
        foreign = [name for name, p in zip(self._names, self._parameters, strict=True) if id(p) not in owned]
        if foreign:
            raise ValueError(
                f"the optimizer does not own {', '.join(foreign)}: observe only parameters that it updates"
            )
        if self._skips_cold_updates and self.n_updates == 0:
            self.skip_updates = cold_updates(optimizer)

        def before(_optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            started = time.perf_counter()
            if len(args) > 1 or kwargs.get("closure") is not None:  # args[0] is the optimizer
                raise RuntimeError("an optimizer that is given a closure moves between losses: it can't be observed")
            self.before_update(self._pending_loss)
            self._forget_pending_loss()
            self.seconds += time.perf_counter() - started

        def after(_optimizer: Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
            started = time.perf_counter()
            recompute, self._recompute = self._recompute, None
            if recompute is None:
                self.after_update()
            else:
                with torch.no_grad():
                    self.after_update(recompute())
            self.seconds += time.perf_counter() - started

        handles = (optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after))

        def detach() -> None:
            for handle in handles:
                handle.remove()

        return detach

    def backward(self, loss: Tensor, recompute: Callable[[], Tensor] | None = None) -> None:
        """
        ``loss.backward()``, and remember the loss as f. Several calls before one step add up, as gradients do.

        :param loss: scalar
        :param recompute: computes the loss of this minibatch again, for ``loss_delta="same_batch"``. A network
            whose forward pass has side effects (batch norm) must be guarded by the caller
        """
        self.before_backward()
        loss.backward()
        self.after_backward(loss)
        self._recompute = recompute

    def before_backward(self) -> None:
        if self._pending_loss is not None and self._gradients_were_zeroed():
            self._forget_pending_loss()  # it never moved the parameters

    def after_backward(self, loss: Tensor) -> None:
        loss = loss.detach()
        self._pending_loss = loss if self._pending_loss is None else self._pending_loss + loss
        self._left = [(p, p.grad, p.grad._version) for p in self._followed if p.grad is not None]
        if self.gradients == "raw" and self._uses_loss:
            self._segment.keep_raw_gradient()

    def _gradients_were_zeroed(self) -> bool:
        """
        Whether nothing stands any more of what the last backward pass left, though no step took it. Only gradients that
        were written to since, and are there still, are looked at, which waits for their device.
        """
        for p, gradient, version in self._left:
            if p.grad is not None and ((p.grad is gradient and gradient._version == version) or p.grad.any()):
                return False
        return bool(self._left)

    def _forget_pending_loss(self) -> None:
        self._pending_loss, self._left = None, []

    @contextmanager
    def observe(self, optimizer: Optimizer) -> Iterator[GradientPath]:
        """
        Follow training code that calls ``loss.backward()`` and ``optimizer.step()`` within the block.

        :param optimizer: as in ``attach``
        """
        detach = self.attach(optimizer)
        try:
            with observe_backward(self):
                yield self
        except BaseException:
            # Such as Ctrl-C between the two halves of an update: how far it went is not known, so it is left out.
            self._in_update = False
            self._segment.forget()
            self._forget_pending_loss()
            raise
        finally:
            detach()

    # -- by hand -----------------------------------------------------------------------------------

    @torch.no_grad()
    def before_update(self, loss: Tensor | float | None = None) -> None:
        """
        At θ^i: the gradients are those of ``loss``, the parameters have not moved yet. Without ``backward`` the
        gradients are taken as they stand, so whether they are clipped is the caller's choice.

        :param loss: f^i, scalar; not needed with ``loss_delta="none"``
        :raises RuntimeError: out of turn, or without a loss where one is needed
        """
        if self._closed:
            raise RuntimeError("this path is closed: start a new one for another learning process")
        if self._in_update:
            raise RuntimeError("before_update was called twice: after_update must follow the optimizer's step")
        if self._uses_loss and loss is None:
            raise RuntimeError(
                "the optimizer stepped, but no loss was seen since its last step: "
                "call path.backward(loss), or use path.observe(optimizer)"
            )
        self._in_update = True
        if self.n_updates < self.skip_updates:
            return
        segment = self._segment
        if self._uses_loss:
            loss = self._as_loss(loss)
            if segment.is_open:
                assert segment.loss is not None
                self._close_segment(None if self._crosses_rollouts else loss - segment.loss)
            segment.loss = loss
            self._crosses_rollouts = False
            segment.take_gradient()
        if self._start is None and (self.metric == "energy" or self.scale_to_displacement):
            self._start = Flat(self._like, self._parameters).copy_from(self._parameters)
        segment.begin_step(self._n_segments < MEASURED_FIRST or self._n_segments % MEASURED_EVERY == 0)

    @torch.no_grad()
    def after_update(self, loss: Tensor | float | None = None) -> None:
        """
        At θ^{i+1}: the parameters have moved.

        :param loss: the same minibatch's loss at θ^{i+1}, for ``loss_delta="same_batch"`` only
        :raises RuntimeError: out of turn, or without the loss that ``same_batch`` needs
        """
        if not self._in_update:
            raise RuntimeError("after_update was called without before_update: θ^i and g^i are unknown")
        if self.loss_delta == "same_batch" and loss is None:
            raise RuntimeError('loss_delta="same_batch" needs the loss of the same minibatch after the step')
        self._in_update = False
        self.n_updates += 1
        if self.n_updates <= self.skip_updates:
            return
        segment = self._segment
        segment.end_step()
        segment.is_open = True
        self._n_segments += 1
        if self.loss_delta == "same_batch":
            assert segment.loss is not None
            self._close_segment(self._as_loss(loss) - segment.loss)
        elif self.loss_delta == "none":
            self._close_segment(None)

    def _as_loss(self, loss: Tensor | float | None) -> Tensor:
        return torch.as_tensor(loss, dtype=self._like.dtype, device=self._like.device).detach()

    def new_rollout(self) -> None:
        """The next minibatch comes from new data: with ``within_rollout`` no Δf is taken across."""
        self._crosses_rollouts = self.loss_delta == "within_rollout"

    @torch.no_grad()
    def close(self, final_loss: Tensor | float | None = None) -> None:
        """
        End the path.

        :param final_loss: f^K, on one more minibatch, which gives the last segment its Δf
        """
        if final_loss is not None and self._segment.is_open:
            assert self._segment.loss is not None
            self._close_segment(self._as_loss(final_loss) - self._segment.loss)
        self._closed = True

    # -- the sum -----------------------------------------------------------------------------------

    def _close_segment(self, loss_delta: Tensor | None) -> None:
        """
        Add (λ²Δf·g + Δθ)·w of the open segment: the loss's part to one sum, the step's to another. With the energy w is
        1, and Σ Δθ is θ^K - θ^0.

        :param loss_delta: Δf; ``None`` is zero
        """
        segment = self._segment
        segment.is_open = False
        weight: Tensor | None = None  # w; None is 1
        if loss_delta is not None and self.stabilizer:
            loss_delta = -loss_delta.abs()
        if self.metric == "length":  # w = 1 / ‖(Δθ, λΔf)‖
            assert segment.step_squared is not None and segment.step is not None and self._step_sum is not None
            squared = segment.step_squared
            if loss_delta is not None:
                squared = squared + (self.loss_scale * loss_delta).square()
            weight = torch.where(squared > 0, squared.rsqrt(), torch.where(squared == 0, 0.0, torch.nan))
            self._step_sum.add(segment.step, weight)
        gradient_norm = None
        if loss_delta is not None:
            assert self._loss_sum is not None
            coefficient = loss_delta if weight is None else loss_delta * weight
            gradient_norm = segment.add_gradient(self._loss_sum, coefficient, self.loss_scale**2)
        self._add_statistics(self._statistics, loss_delta, gradient_norm)

    def _add_statistics(
        self, statistics: RunningStatistics, loss_delta: Tensor | None = None, gradient_norm: Tensor | None = None
    ) -> None:
        """The open segment's."""
        measured = 1 if self.metric == "length" or self._n_segments <= MEASURED_FIRST else MEASURED_EVERY
        statistics.add(loss_delta, gradient_norm, self._segment.step_squared, measured, self.n_updates - 1)

    def _parts(self) -> tuple[Tensor | None, Tensor]:
        """Σ w·λ²Δf·g and Σ w·Δθ in float64, the open segment's Δθ included."""
        loss_part = None if self._loss_sum is None else self._loss_sum.value()
        if self._step_sum is not None:
            step_part = self._step_sum.value()
            if self._segment.is_open:
                assert self._segment.step is not None
                step_part.add_(torch.nn.functional.normalize(self._segment.step.double(), dim=0, eps=1e-300))
        else:
            step_part = self._displacement()
        return loss_part, step_part

    def _displacement(self) -> Tensor:
        """θ^K - θ^0 in float64"""
        if self._start is None:
            return torch.zeros_like(self._like, dtype=torch.float64)
        now = Flat(self._like, self._parameters).copy_from(self._parameters).flat
        return now.double().sub_(self._start.flat)

    def _total(self, loss_part: Tensor | None, step_part: Tensor) -> Tensor:
        """-∇F"""
        total = step_part
        if loss_part is not None:
            if self._balances:
                # λ² scales the loss's part as a whole, so λ can still be chosen when the path is known.
                ratio = torch.linalg.vector_norm(step_part) / torch.linalg.vector_norm(loss_part)
                loss_part = loss_part * ratio.nan_to_num(1.0).clamp(max=1.0)
            total = step_part + loss_part
        if self.scale_to_displacement:
            total = torch.nn.functional.normalize(total, dim=0, eps=1e-300) * self._displacement().norm()
        return total

    @torch.no_grad()
    def meta_gradient(self) -> dict[str, Tensor]:
        """
        ∇F of the path so far, by name, in the shapes of the parameters; zero if all updates were skipped.

        :raises RuntimeError: before the first update
        """
        if not self.n_updates:
            raise RuntimeError("the path has no update yet: nothing was observed")
        flat = self._total(*self._parts()).neg().to(self._like.dtype)
        chunks = flat.split([p.numel() for p in self._parameters])
        return {n: c.view(p.shape) for n, c, p in zip(self._names, chunks, self._parameters, strict=True)}

    @torch.no_grad()
    def statistics(self) -> PathStatistics:
        """The statistics of the path so far; synchronizes the device."""
        loss_part, step_part = self._parts()
        running = self._statistics.copy()
        if self._segment.is_open:
            self._add_statistics(running)
        running.flush()
        step_norm = step_part.norm().item()
        loss_norm = 0.0 if loss_part is None else loss_part.norm().item()
        return PathStatistics(
            updates=self.n_updates,
            segments=self._n_segments,
            length=running.length,
            energy=running.step_energy + running.loss_energy,
            loss_share=running.loss_energy / max(running.step_energy + running.loss_energy, 1e-300),
            top_share=running.top_share(),
            loss_to_step=loss_norm / step_norm if step_norm > 0 else (math.inf if loss_norm > 0 else 0.0),
            meta_gradient_norm=self._total(loss_part, step_part).norm().item(),
            non_finite_update=running.non_finite_update,
        )


def check_path_settings(
    metric: str, loss_delta: str, loss_scale: float | str, gradients: str, skip_updates: int | None
) -> None:
    """
    :raises ValueError: for a setting that no gradient path takes
    """
    for name, value, choices in (
        ("metric", metric, get_args(Metric)),
        ("loss_delta", loss_delta, get_args(LossDelta)),
        ("gradients", gradients, get_args(Gradients)),
    ):
        if value not in choices:
            raise ValueError(f"{name}={value!r} is unknown, choose one of {', '.join(map(repr, choices))}")
    if loss_scale != "auto" and not (isinstance(loss_scale, Real) and 0 <= loss_scale < math.inf):
        raise ValueError(f"loss_scale={loss_scale!r} must be 'auto', or finite and not negative")
    if skip_updates is not None:
        integer("skip_updates", skip_updates, least=0)


def cold_updates(optimizer: Optimizer) -> int:
    """
    How many updates an optimizer is cold for. RMSprop's average of squared gradients starts at zero and, unlike
    Adam's, is not corrected for it, so that update n is 1/√(1 - αⁿ) too long: tenfold at first for α = 0.99. In A2C
    the value loss was then seen to jump by a factor of 10³ to 10⁵, and that one Δf to be the whole meta gradient.
    Cold is what is some three times too long or more (the last of them 2.97 times): 12 updates for α = 0.99, less those
    that it has made already.
    """
    if not isinstance(optimizer, torch.optim.RMSprop):
        return 0
    alpha = max(group["alpha"] for group in optimizer.param_groups)
    cold = math.ceil(math.log(1 - 1 / 9) / math.log(alpha)) if 0 < alpha < 1 else 0
    done = max((int(state.get("step", 0)) for state in optimizer.state.values()), default=0)
    return max(cold - done, 0)
