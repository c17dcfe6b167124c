"""The pull-forward gradient against an independent re-computation, and what a path must survive."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from leap_rl.core import GradientPath
from leap_rl.core.path import MEASURED_EVERY, MEASURED_FIRST
from leap_rl.core.sums import BLOCK

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02),
}
CLIP = 0.3


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def batches(n: int, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(6, 3, generator=generator), torch.randn(6, 1, generator=generator)) for _ in range(n)]


def flat(tensors: list[Tensor]) -> np.ndarray:
    return torch.cat([t.detach().flatten() for t in tensors]).double().numpy()


class Recorder:
    """Stores θ, f and g of every update of a process, for the oracle."""

    def __init__(self) -> None:
        self.theta: list[np.ndarray] = []
        self.f: list[float] = []
        self.f_after: list[float] = []
        self.raw: list[np.ndarray] = []
        self.clipped: list[np.ndarray] = []


def train(
    path: GradientPath | None, model: nn.Module, optimizer: torch.optim.Optimizer, n: int, rollout: int = 5
) -> Recorder:
    """n clipped updates, a new rollout every ``rollout`` of them."""
    parameters = list(model.parameters())
    record = Recorder()
    for i, (x, y) in enumerate(batches(n)):
        if path is not None and i % rollout == 0:
            path.new_rollout()

        def loss_of(x: Tensor = x, y: Tensor = y) -> Tensor:
            return nn.functional.mse_loss(model(x), y)

        record.theta.append(flat(parameters))
        optimizer.zero_grad()
        loss = loss_of()
        if path is None:
            loss.backward()
        else:
            path.backward(loss, loss_of if path.loss_delta == "same_batch" else None)
        record.f.append(float(loss.detach().double()))
        record.raw.append(flat([p.grad for p in parameters]))
        nn.utils.clip_grad_norm_(parameters, CLIP)
        record.clipped.append(flat([p.grad for p in parameters]))
        optimizer.step()
        with torch.no_grad():
            record.f_after.append(float(loss_of().double()))
    record.theta.append(flat(parameters))
    return record


def oracle(
    record: Recorder,
    metric: str,
    loss_delta: str,
    scale: float,
    stabilizer: bool,
    gradients: str,
    skip: int = 0,
    rollout: int = 5,
    final_loss: float | None = None,
) -> np.ndarray:
    """Equation (8), written from the formula in float64."""
    n = len(record.f)
    f = [*record.f, final_loss]
    total = np.zeros_like(record.theta[0])
    for i in range(skip, n):
        step = record.theta[i + 1] - record.theta[i]
        following = f[i + 1]
        if loss_delta == "none":
            change = 0.0
        elif loss_delta == "same_batch":
            change = record.f_after[i] - record.f[i]
        elif following is None or (loss_delta == "within_rollout" and (i + 1) % rollout == 0 and i + 1 < n):
            change = 0.0
        else:
            change = following - record.f[i]
        if stabilizer:
            change = -abs(change)
        g = record.raw[i] if gradients == "raw" else record.clipped[i]
        length = math.sqrt(float(step @ step) + (scale * change) ** 2)
        weight = 1.0 if metric == "energy" else (1 / length if length > 0 else 0.0)
        total -= (scale**2 * change * g + step) * weight
    return total


def error(path: GradientPath, reference: np.ndarray) -> float:
    got = flat(list(path.meta_gradient().values()))
    return float(np.linalg.norm(got - reference) / np.linalg.norm(reference))


VARIANTS = [
    variant
    for variant in itertools.product(
        ["length", "energy"],
        ["consecutive", "within_rollout", "same_batch", "none"],
        [True, False],
        ["clipped", "raw"],
        [1.0, 0.1],
    )
    if not (variant[1] == "none" and (variant[2] or variant[3] == "raw" or variant[4] != 1.0))
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("metric", "loss_delta", "stabilizer", "gradients", "scale"), VARIANTS)
def test_meta_gradient_is_equation_8(
    optimizer: str, metric: str, loss_delta: str, stabilizer: bool, gradients: str, scale: float
) -> None:
    model = network()
    inner = OPTIMIZERS[optimizer](model.parameters())
    path = GradientPath(
        dict(model.named_parameters()),
        metric,
        loss_delta,
        scale,
        stabilizer,
        gradients,
        skip_updates=0,  # type: ignore[arg-type]
    )
    path.attach(inner)
    record = train(path, model, inner, 23)
    assert error(path, oracle(record, metric, loss_delta, scale, stabilizer, gradients)) < 2e-6


@pytest.mark.parametrize("metric", ["length", "energy"])
@pytest.mark.parametrize("skip", [1, 4])
def test_skipped_updates_are_not_part_of_the_path(metric: str, skip: int) -> None:
    model = network()
    inner = OPTIMIZERS["rmsprop"](model.parameters())
    path = GradientPath(dict(model.named_parameters()), metric, loss_scale=1.0, skip_updates=skip)  # type: ignore[arg-type]
    path.attach(inner)
    record = train(path, model, inner, 12)
    assert error(path, oracle(record, metric, "consecutive", 1.0, True, "clipped", skip)) < 2e-6
    assert path.statistics().segments == 12 - skip


@pytest.mark.parametrize("jump", [0.0, 1e6])
def test_one_jump_of_the_loss_does_not_drown_the_energy(jump: float) -> None:
    """loss_scale="auto" is λ = 1 until the loss's part would be longer than the steps' part."""
    paths = {}
    for scale in ("auto", 1.0):
        generator = torch.Generator().manual_seed(0)
        p = nn.Parameter(torch.zeros(5))
        path = paths[scale] = GradientPath({"p": p}, "energy", loss_scale=scale)  # type: ignore[arg-type]
        for i in range(20):
            p.grad = 0.1 * torch.randn(5, generator=generator)
            path.before_update(jump if i == 10 else 0.01 * i)
            with torch.no_grad():
                p.add_(1.0)
            path.after_update()
    auto, one = (paths[scale].meta_gradient()["p"] for scale in ("auto", 1.0))
    if jump:
        assert one.norm() > 1e4
        assert auto.norm() <= 2 * 20 * 5**0.5 * (1 + 1e-6)
        assert paths["auto"].statistics().loss_to_step == pytest.approx(paths[1.0].statistics().loss_to_step)
    else:
        assert torch.equal(auto, one)
    assert paths["auto"].statistics().meta_gradient_norm == pytest.approx(auto.norm().item(), rel=1e-5)


@pytest.mark.parametrize("metric", ["length", "energy"])
@pytest.mark.parametrize("skip", [0, 4])
@pytest.mark.parametrize("updates", [1, 3, 12])  # while all are skipped, and after
def test_scaled_to_the_displacement_it_points_where_it_did(metric: str, skip: int, updates: int) -> None:
    model = network()
    inner = OPTIMIZERS["adam"](model.parameters())
    path = GradientPath(
        dict(model.named_parameters()),
        metric,  # type: ignore[arg-type]
        loss_scale=1.0,
        skip_updates=skip,
        scale_to_displacement=True,
    )
    path.attach(inner)
    record = train(path, model, inner, updates)
    if updates <= skip:
        assert not flat(list(path.meta_gradient().values())).any()
        return
    expected = oracle(record, metric, "consecutive", 1.0, True, "clipped", skip)
    displacement = float(np.linalg.norm(record.theta[-1] - record.theta[skip]))
    assert error(path, expected * displacement / np.linalg.norm(expected)) < 2e-6
    assert path.statistics().meta_gradient_norm == pytest.approx(displacement, rel=1e-6)


def test_scaled_to_a_displacement_of_nothing_it_is_nothing() -> None:
    """A process that ends where it began, and one that does not move: no direction, no NaN."""
    for steps in ([1.0, -1.0], [0.0, 0.0]):
        p = nn.Parameter(torch.zeros(3))
        path = GradientPath({"p": p}, "length", loss_scale=1.0, scale_to_displacement=True)
        for i, step in enumerate(steps):
            p.grad = torch.ones(3)
            path.before_update(float(i))
            with torch.no_grad():
                p.add_(step)
            path.after_update()
        assert torch.equal(path.meta_gradient()["p"], torch.zeros(3))


@pytest.mark.parametrize(("name", "cold"), [("sgd", 0), ("adam", 0), ("rmsprop", 12)])
def test_by_default_the_updates_of_a_cold_rmsprop_are_skipped(name: str, cold: int) -> None:
    model = network()
    inner = OPTIMIZERS[name](model.parameters())
    path = GradientPath(dict(model.named_parameters()), "length")
    for _ in range(2):  # SB3's train() attaches again for each rollout: the optimizer is cold but once
        detach = path.attach(inner)
        train(path, model, inner, 10)
        detach()
    assert path.statistics().segments == 20 - cold


def test_an_optimizer_that_is_warm_by_now_is_followed_from_the_first_update() -> None:
    model = network()
    inner = OPTIMIZERS["rmsprop"](model.parameters())
    for made, segments in ((5, 10 - 7), (30, 10)):
        while max((int(s["step"]) for s in inner.state.values()), default=0) < made:
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            inner.step()
        path = GradientPath(dict(model.named_parameters()), "length")
        detach = path.attach(inner)
        train(path, model, inner, 10)
        detach()
        assert path.statistics().segments == segments


@pytest.mark.parametrize("metric", ["length", "energy"])
def test_an_update_that_is_interrupted_is_left_out(metric: str) -> None:
    model = network()
    inner = OPTIMIZERS["sgd"](model.parameters())
    path = GradientPath(dict(model.named_parameters()), metric)  # type: ignore[arg-type]
    (x, y), *_ = batches(1)

    def update() -> None:
        inner.zero_grad()
        (model(x) - y).square().mean().backward()
        inner.step()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    for interrupted in (False, True, False):
        handle = inner.register_step_pre_hook(interrupt) if interrupted else None
        with contextlib.suppress(KeyboardInterrupt), path.observe(inner):
            if handle is not None:  # after the path's own hook: between its two halves
                handle.remove()
                handle = inner.register_step_pre_hook(interrupt)
            update()
            update()
        if handle is not None:
            handle.remove()
    assert path.n_updates == 4 and path.statistics().segments == 4
    assert all(g.isfinite().all() for g in path.meta_gradient().values())


@pytest.mark.parametrize("metric", ["length", "energy"])
def test_the_final_loss_closes_the_last_segment(metric: str) -> None:
    model = network()
    inner = OPTIMIZERS["sgd"](model.parameters())
    path = GradientPath(dict(model.named_parameters()), metric, loss_scale=1.0)  # type: ignore[arg-type]
    path.attach(inner)
    record = train(path, model, inner, 7)
    path.close(final_loss=0.25)
    assert error(path, oracle(record, metric, "consecutive", 1.0, True, "clipped", final_loss=0.25)) < 2e-6
    with pytest.raises(RuntimeError, match="closed"):
        train(path, model, inner, 1)


def test_energy_without_the_loss_is_reptile_exactly() -> None:
    model = network()
    inner = OPTIMIZERS["adam"](model.parameters())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    path = GradientPath(dict(model.named_parameters()), "energy", loss_delta="none")
    path.attach(inner)
    train(path, model, inner, 300)
    for name, p in model.named_parameters():
        assert torch.equal(path.meta_gradient()[name], before[name] - p.detach())


@pytest.mark.parametrize("metric", ["length", "energy"])
def test_by_hand_by_optimizer_and_by_observation_agree(metric: str) -> None:
    def attached() -> dict[str, torch.Tensor]:
        model = network()
        inner = OPTIMIZERS["sgd"](model.parameters())
        path = GradientPath(dict(model.named_parameters()), metric)  # type: ignore[arg-type]
        detach = path.attach(inner)
        train(path, model, inner, 9)
        detach()
        found = path.meta_gradient()  # the energy's last Δθ is where the parameters are now
        train(None, model, inner, 1)  # no longer seen
        assert path.n_updates == 9
        return found

    def observed() -> dict[str, torch.Tensor]:
        model = network()
        inner = OPTIMIZERS["sgd"](model.parameters())
        path = GradientPath(dict(model.named_parameters()), metric)  # type: ignore[arg-type]
        with path.observe(inner):
            train(None, model, inner, 9)
        found = path.meta_gradient()
        train(None, model, inner, 1)
        assert path.n_updates == 9
        return found

    def by_hand() -> dict[str, torch.Tensor]:
        model = network()
        inner = OPTIMIZERS["sgd"](model.parameters())
        path = GradientPath(dict(model.named_parameters()), metric)  # type: ignore[arg-type]
        for x, y in batches(9):
            inner.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            path.before_update(loss)
            inner.step()
            path.after_update()
        return path.meta_gradient()

    first = flat(list(by_hand().values()))
    for other in (attached(), observed()):
        np.testing.assert_array_equal(first, flat(list(other.values())))


@pytest.mark.parametrize("metric", ["length", "energy"])
def test_gradients_that_are_fresh_are_kept_and_not_copied(metric: str) -> None:
    found = []
    for fresh in (False, True):
        model = network()
        inner = OPTIMIZERS["adam"](model.parameters())
        path = GradientPath(dict(model.named_parameters()), metric)  # type: ignore[arg-type]
        path.gradients_are_fresh = fresh
        detach = path.attach(inner)
        train(path, model, inner, 40)
        detach()
        found.append((path.meta_gradient(), path.statistics().energy))
    assert all(torch.equal(found[0][0][name], g) for name, g in found[1][0].items())
    assert found[0][1] == pytest.approx(found[1][1])
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="written over between two updates"), path.observe(inner):
        for _ in range(2):
            inner.zero_grad(set_to_none=False)
            model(torch.ones(1, 3)).sum().backward()
            inner.step()


def test_observing_changes_no_bit_of_the_training() -> None:
    plain, watched = network(), network()
    train(None, plain, OPTIMIZERS["adam"](plain.parameters()), 40)
    inner = OPTIMIZERS["adam"](watched.parameters())
    path = GradientPath(dict(watched.named_parameters()), "length", gradients="raw")
    path.attach(inner)
    train(path, watched, inner, 40)
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gradients_that_accumulate_have_the_loss_that_adds_up() -> None:
    model, twin = network(), network()
    inner, twin_inner = OPTIMIZERS["sgd"](model.parameters()), OPTIMIZERS["sgd"](twin.parameters())
    path = GradientPath(dict(model.named_parameters()), "length")
    twin_path = GradientPath(dict(twin.named_parameters()), "length")
    path.attach(inner), twin_path.attach(twin_inner)
    for x, y in batches(6):
        inner.zero_grad()
        for half in (slice(0, 3), slice(3, 6)):
            path.backward(nn.functional.mse_loss(model(x[half]), y[half]) / 2)
        inner.step()
        twin_inner.zero_grad()
        twin_path.backward(nn.functional.mse_loss(twin(x), y))
        twin_inner.step()
    np.testing.assert_allclose(
        flat(list(path.meta_gradient().values())), flat(list(twin_path.meta_gradient().values())), rtol=1e-4, atol=1e-6
    )


def test_a_loss_that_was_zeroed_without_a_step_is_forgotten() -> None:
    model = network()
    inner = OPTIMIZERS["sgd"](model.parameters())
    path = GradientPath(dict(model.named_parameters()), "length")
    path.attach(inner)
    (x, y), (x2, y2) = batches(2)
    path.backward(100 * nn.functional.mse_loss(model(x), y))
    inner.zero_grad()
    path.backward(nn.functional.mse_loss(model(x2), y2))
    inner.step()
    path.close(final_loss=0.0)
    assert path.statistics().length < 5


_PARAMETERS = ("first", "second", "third")
_zeroing = st.sampled_from(["kept", "set to none", "zeroed in place"])
_pass = st.tuples(_zeroing, st.sets(st.sampled_from(_PARAMETERS), min_size=1).map(sorted))


@settings(max_examples=150, deadline=None)
@given(
    order=st.permutations(_PARAMETERS),
    frozen=st.sets(st.sampled_from(_PARAMETERS), max_size=2),
    updates=st.lists(st.lists(_pass, min_size=1, max_size=3), min_size=2, max_size=4),
    metric=st.sampled_from(["length", "energy"]),
    gradients=st.sampled_from(["raw", "clipped"]),
)
def test_the_loss_is_the_sum_since_gradients_were_zeroed_whichever_parameters_it_reaches(
    order: list[str], frozen: set[str], updates: list[list[tuple[str, list[str]]]], metric: str, gradients: str
) -> None:
    parameters = {name: nn.Parameter(torch.full((2,), 1.0 + i, dtype=torch.float64)) for i, name in enumerate(order)}
    for name in frozen:
        parameters[name].requires_grad_(False)
    inner = torch.optim.SGD(parameters.values(), lr=0.05, momentum=0.5)
    path = GradientPath(parameters, metric, loss_scale=1.0, stabilizer=False, gradients=gradients)  # type: ignore[arg-type]
    path.attach(inner)
    head = nn.Parameter(torch.ones(1, dtype=torch.float64))  # is none of the optimizer's
    record = Recorder()
    for update in updates:
        inner.zero_grad()
        f, standing = 0.0, set[str]()
        for weight, (zeroing, reached) in enumerate(update, start=1):
            if zeroing != "kept":
                inner.zero_grad(set_to_none=zeroing == "set to none")
                assume(standing or not f)  # nobody can see that nothing was zeroed
                f, standing = 0.0, set()
            loss = weight * (torch.stack([parameters[name] for name in reached]).square().sum() + head).squeeze()
            path.backward(loss)
            f += loss.item()
            standing |= set(reached) - frozen
        record.theta.append(flat(list(parameters.values())))
        record.f.append(f)
        grads = flat([torch.zeros(2) if p.grad is None else p.grad for p in parameters.values()])
        record.raw.append(grads), record.clipped.append(grads)
        inner.step()
    record.theta.append(flat(list(parameters.values())))
    reference = oracle(record, metric, "consecutive", 1.0, False, gradients)
    found = flat([path.meta_gradient()[name] for name in order])
    np.testing.assert_allclose(found, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("metric", ["length", "energy"])
def test_a_parameter_without_a_gradient_contributes_its_step_alone(metric: str) -> None:
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    path = GradientPath({"used": used, "unused": unused}, metric)  # type: ignore[arg-type]
    inner = torch.optim.SGD([used], lr=0.1)
    points, losses = [], []
    for _ in range(3):
        points.append(torch.cat([used, unused]).detach().double())
        loss = used.square().sum()
        losses.append(loss.item())
        inner.zero_grad()
        loss.backward()
        path.before_update(loss)
        inner.step()
        with torch.no_grad():
            unused.add_(0.25)  # as an optimizer of its own would
        path.after_update()
    points.append(torch.cat([used, unused]).detach().double())
    changes = [*np.diff(losses), 0.0]  # the last segment has no Δf
    lengths = [
        math.sqrt((b - a).square().sum().item() + df**2) if metric == "length" else 1.0
        for a, b, df in zip(points[:-1], points[1:], changes, strict=True)
    ]
    gradient = path.meta_gradient()
    expected = torch.full((2,), -sum(0.25 / length for length in lengths))
    torch.testing.assert_close(gradient["unused"], expected, rtol=1e-5, atol=0)
    assert gradient["used"].isfinite().all() and gradient["used"].norm() > 0


@pytest.mark.parametrize("loss_delta", ["consecutive", "none"])
def test_a_segment_without_length_contributes_zero_not_nan(loss_delta: str) -> None:
    p = nn.Parameter(torch.ones(3))
    path = GradientPath({"p": p}, "length", loss_delta=loss_delta)  # type: ignore[arg-type]
    inner = torch.optim.SGD([p], lr=0.0)
    path.attach(inner)
    for _ in range(4):
        inner.zero_grad()
        path.backward((p * 0).sum())
        inner.step()
    assert torch.equal(path.meta_gradient()["p"], torch.zeros(3))
    assert path.statistics().length == 0 and path.statistics().non_finite_update is None


def test_memory_does_not_grow_with_the_number_of_updates() -> None:
    import tracemalloc

    p = nn.Parameter(torch.ones(10))
    path = GradientPath({"p": p}, "length")

    def run(n: int) -> None:
        for i in range(n):
            p.grad = torch.full_like(p, 0.1)
            path.before_update(float(i % 7))
            with torch.no_grad():
                p.add_(0.001)
            path.after_update()

    run(3 * BLOCK)
    tracemalloc.start()
    run(BLOCK)
    first = tracemalloc.get_traced_memory()[0]
    run(24 * BLOCK)
    grown = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    # What lives from before tracing is counted once it is replaced: some 40 kB, however long the run. A number
    # kept of each update would be at least 24 bytes an update.
    assert grown < 16 * 24 * BLOCK


@pytest.mark.parametrize("metric", ["length", "energy"])
def test_statistics_against_the_stored_path(metric: str) -> None:
    model = network()
    inner = OPTIMIZERS["rmsprop"](model.parameters())
    path = GradientPath(dict(model.named_parameters()), metric, loss_scale=0.5, skip_updates=0)  # type: ignore[arg-type]
    path.attach(inner)
    n = MEASURED_FIRST
    record = train(path, model, inner, n)
    steps = np.diff(np.array(record.theta), axis=0)
    squared = (steps**2).sum(axis=1)
    change = 0.5 * np.append(np.diff(record.f), 0.0)
    got = path.statistics()
    assert (got.updates, got.segments) == (n, n)
    assert got.length == pytest.approx(np.sqrt(squared + change**2).sum(), rel=1e-5)
    assert got.energy == pytest.approx((squared + change**2).sum(), rel=1e-5)
    assert got.loss_share == pytest.approx((change**2).sum() / (squared + change**2).sum(), rel=1e-5)
    weight = 1 / np.sqrt(squared + change**2) if metric == "length" else np.ones(n)
    norms = np.linalg.norm(record.clipped, axis=1)
    held = weight * 0.5 * np.abs(change) * norms
    assert got.top_share == pytest.approx(held.max() / held.sum(), rel=0.1)  # 1 % of 64 is one; bins are 9 % wide
    loss_part = np.linalg.norm((-(weight * 0.5 * np.abs(change))[:, None] * record.clipped).sum(axis=0))
    step_part = np.linalg.norm((weight[:, None] * steps).sum(axis=0))
    assert got.loss_to_step == pytest.approx(loss_part / step_part, rel=1e-4)
    assert got.meta_gradient_norm == pytest.approx(np.linalg.norm(flat(list(path.meta_gradient().values()))), rel=1e-5)


def test_the_energy_metric_estimates_its_path_length_from_a_sample() -> None:
    model = network()
    inner = OPTIMIZERS["sgd"](model.parameters())
    path = GradientPath(dict(model.named_parameters()), "energy")
    path.attach(inner)
    n = MEASURED_FIRST + 40 * MEASURED_EVERY
    record = train(path, model, inner, n)
    squared = (np.diff(np.array(record.theta), axis=0) ** 2).sum(axis=1)
    true = np.sqrt(squared + np.append(np.diff(record.f), 0.0) ** 2).sum()
    assert path.statistics().length == pytest.approx(true, rel=0.15)


@pytest.mark.parametrize("loss_delta", ["consecutive", "none"])
@pytest.mark.parametrize("what", ["loss", "gradient", "step"])
def test_the_first_update_that_is_not_finite_is_named(what: str, loss_delta: str) -> None:
    """The segment before it may be the first to lack its Δf."""
    p = nn.Parameter(torch.ones(3))
    path = GradientPath({"p": p}, "length", loss_delta=loss_delta)  # type: ignore[arg-type]
    inner = torch.optim.SGD([p], lr=0.01)
    path.attach(inner)
    for i in range(20):
        inner.zero_grad()
        loss = p.square().sum()
        path.backward(loss / 0 if i == 11 and what == "loss" else loss)
        if i == 11 and what == "gradient":
            p.grad = p.grad * math.inf  # type: ignore[operator]
        inner.param_groups[0]["lr"] = math.inf if i == 11 and what == "step" else 0.01
        inner.step()
    statistics = path.statistics()
    assert statistics.non_finite_update == 11
    assert 0 < statistics.length < math.inf


# -- out of turn, and bad settings -----------------------------------------------------------------


def test_a_step_without_a_loss_is_an_error_not_a_wrong_path() -> None:
    model = network()
    inner = OPTIMIZERS["sgd"](model.parameters())
    path = GradientPath(dict(model.named_parameters()))
    path.attach(inner)
    (x, y), *_ = batches(1)
    nn.functional.mse_loss(model(x), y).backward()
    with pytest.raises(RuntimeError, match="no loss was seen"):
        inner.step()


def test_calls_out_of_turn() -> None:
    p = nn.Parameter(torch.ones(2))
    path = GradientPath({"p": p})
    with pytest.raises(RuntimeError, match="without before_update"):
        path.after_update()
    path.before_update(1.0)
    with pytest.raises(RuntimeError, match="called twice"):
        path.before_update(1.0)
    with pytest.raises(RuntimeError, match="no update"):
        GradientPath({"p": p}).meta_gradient()


def test_an_optimizer_of_other_parameters_is_refused() -> None:
    model, other = network(), network()
    with pytest.raises(ValueError, match=r"does not own 0\.weight"):
        GradientPath(dict(model.named_parameters())).attach(torch.optim.SGD(other.parameters(), lr=0.1))


def test_an_optimizer_with_a_closure_is_refused() -> None:
    model = network()
    inner = torch.optim.LBFGS(model.parameters())
    GradientPath(dict(model.named_parameters())).attach(inner)
    with pytest.raises(RuntimeError, match="closure"):
        inner.step(lambda: nn.functional.mse_loss(model(torch.ones(1, 3)), torch.ones(1, 1)))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"metric": "lenght"}, "'length', 'energy'"),
        ({"loss_delta": "both"}, "within_rollout"),
        ({"gradients": "cliped"}, "'clipped', 'raw'"),
        ({"loss_scale": -1.0}, "loss_scale"),
        ({"loss_scale": math.nan}, "loss_scale"),
        ({"loss_scale": "big"}, "'auto'"),
        ({"skip_updates": -1}, "skip_updates"),
    ],
)
def test_unknown_settings(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientPath({"p": nn.Parameter(torch.ones(1))}, **settings_)  # type: ignore[arg-type]


def test_backward_is_put_back_after_an_exception_and_in_any_order() -> None:
    original = torch.autograd.backward
    model = network()
    inner = OPTIMIZERS["sgd"](model.parameters())
    paths = [GradientPath(dict(model.named_parameters())) for _ in range(2)]
    outer, nested = paths[0].observe(inner), paths[1].observe(inner)
    outer.__enter__(), nested.__enter__()
    outer.__exit__(None, None, None)
    (x, y), *_ = batches(1)
    nn.functional.mse_loss(model(x), y).backward()
    inner.step()
    assert (paths[0].n_updates, paths[1].n_updates) == (0, 1)
    nested.__exit__(None, None, None)
    assert torch.autograd.backward is original
    with pytest.raises(ZeroDivisionError), paths[0].observe(inner):
        raise ZeroDivisionError
    assert torch.autograd.backward is original


# -- properties ------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    metric=st.sampled_from(["length", "energy"]),
    stabilizer=st.booleans(),
    scale=st.floats(1e-3, 1e3),
    n=st.integers(1, 12),
    unit=st.floats(1e-2, 1e2),
    seed=st.integers(0, 2**16),
)
def test_only_the_product_of_scale_and_unit_matters(
    metric: str, stabilizer: bool, scale: float, n: int, unit: float, seed: int
) -> None:
    """γ = (θ, λf): a loss in another unit with the inverse λ is the same manifold."""

    def gradient(factor: float) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        p = nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))
        path = GradientPath({"p": p}, metric, loss_scale=scale / factor, stabilizer=stabilizer)  # type: ignore[arg-type]
        for _ in range(n):
            p.grad = factor * torch.randn(4, generator=generator, dtype=torch.float64)
            path.before_update(factor * torch.randn((), generator=generator, dtype=torch.float64))
            with torch.no_grad():
                p.add_(0.1 * torch.randn(4, generator=generator, dtype=torch.float64))
            path.after_update()
        return path.meta_gradient()["p"]

    torch.testing.assert_close(gradient(unit), gradient(1.0), rtol=1e-6, atol=1e-9)


def long_path_error(n: int) -> dict[str, float]:
    """‖x - reference‖ / ‖reference‖ after n increments, of ours and of a plain float32 sum."""
    generator = torch.Generator().manual_seed(0)
    size = 50
    p = nn.Parameter(torch.zeros(size))
    path = GradientPath({"p": p}, "length", stabilizer=True)
    reference, plain = torch.zeros(size, dtype=torch.float64), torch.zeros(size)
    losses = torch.rand(n + 1, generator=generator)
    previous: tuple[Tensor, Tensor] | None = None
    drift = torch.randn(size, generator=generator)
    for i in range(n):
        g = torch.randn(size, generator=generator) + drift
        p.grad = g
        if previous is not None:
            step, old_g = previous
            df = -(losses[i] - losses[i - 1]).abs().double()
            w = 1 / torch.sqrt(step.double() @ step.double() + df**2)
            increment = (df * old_g.double() + step.double()) * w
            reference -= increment
            plain -= increment.float()
        before = p.detach().clone()
        path.before_update(losses[i])
        with torch.no_grad():
            p.sub_(0.01 * g)
        path.after_update()
        previous = (p.detach() - before, g)
    assert previous is not None
    path.close(losses[n])
    step, old_g = previous
    df = -(losses[n] - losses[n - 1]).abs().double()
    w = 1 / torch.sqrt(step.double() @ step.double() + df**2)
    reference -= (df * old_g.double() + step.double()) * w
    got = path.meta_gradient()["p"].double()
    return {
        "ours": ((got - reference).norm() / reference.norm()).item(),
        "plain": ((plain.double() - reference).norm() / reference.norm()).item(),
    }


def test_precision_over_many_increments() -> None:
    assert long_path_error(5_000)["ours"] < 1e-5


@pytest.mark.slow
def test_precision_over_a_million_increments() -> None:
    assert long_path_error(1_000_000)["ours"] < 1e-5


class _Operations(TorchDispatchMode):
    """What torch is asked to do: names, and the tensors of parameter size that are newly allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.allocated: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.names.append(str(func))
        given = [*args, *kwargs.values()]
        flat = [t for value in given for t in (value if isinstance(value, list | tuple) else [value])]
        storages = {t.untyped_storage().data_ptr() for t in flat if isinstance(t, torch.Tensor)}
        for t in out if isinstance(out, list | tuple) else [out]:
            if isinstance(t, torch.Tensor) and t.numel() >= 100 and t.untyped_storage().data_ptr() not in storages:
                self.allocated.append(str(func))
        return out


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(("metric", "most"), [("energy", 14), ("length", 26)])
def test_an_update_copies_nothing_and_waits_for_no_device(metric: str, most: int, fresh: bool) -> None:
    """
    Counted, not timed: nothing of parameter size is allocated, no number leaves its device, and there are no more
    operations for more tensors.
    """
    counts = []
    for n_tensors in (2, 20):
        parameters = {f"p{i}": nn.Parameter(torch.randn(50, 50)) for i in range(n_tensors)}
        path = GradientPath(parameters, metric, skip_updates=0)  # type: ignore[arg-type]
        path.gradients_are_fresh = fresh
        for i in range(BLOCK - 8):  # between two flushes
            for p in parameters.values():
                p.grad = torch.randn_like(p)
            loss = torch.tensor(float(i % 3))  # no operation of the path
            with _Operations() as before:
                path.before_update(loss)
            with torch.no_grad():
                for p in parameters.values():
                    p.add_(0.01)
            with _Operations() as after:
                path.after_update()
            if i > MEASURED_FIRST:
                assert not before.allocated + after.allocated
                assert "aten._local_scalar_dense.default" not in before.names + after.names
                counts.append(len(before.names) + len(after.names))
    assert max(counts) <= most
