"""Two optimizers of one learning process: a path each, and one meta gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from leap_rl.core import GradientPath, GradientPaths


def process(updates: dict[str, int], metric: str = "energy") -> tuple[GradientPaths, dict[str, nn.Linear]]:
    """Each part takes steps of its own on losses of its own size."""
    torch.manual_seed(0)
    parts = {"small": nn.Linear(3, 1), "large": nn.Linear(3, 2)}
    paths = {
        name: GradientPath({f"{name}.{n}": p for n, p in part.named_parameters()}, metric=metric)  # type: ignore[arg-type]
        for name, part in parts.items()
    }
    for name, part in parts.items():
        optimizer = torch.optim.SGD(part.parameters(), lr=0.1)
        paths[name].attach(optimizer)
        for _ in range(updates[name]):
            optimizer.zero_grad()
            paths[name].backward(part(torch.randn(8, 3)).square().mean() * (1 if name == "small" else 5))
            optimizer.step()
    return GradientPaths(paths), parts


@pytest.mark.parametrize("metric", ["energy", "length"])
def test_what_is_told_of_both_is_what_each_tells(metric: str) -> None:
    paths, parts = process({"small": 5, "large": 9}, metric)
    assert paths.n_updates == 14 and list(paths) == ["small", "large"]
    whole = paths.meta_gradient()
    assert whole.keys() == {f"{name}.{n}" for name, part in parts.items() for n, _ in part.named_parameters()}
    for path in paths.values():
        for name, gradient in path.meta_gradient().items():
            assert torch.equal(gradient, whole[name])
    small, large, both = paths["small"].statistics(), paths["large"].statistics(), paths.statistics()
    assert (both.updates, both.segments) == (14, 14)
    assert both.length == small.length + large.length and both.energy == small.energy + large.energy
    loss_energy = small.loss_share * small.energy + large.loss_share * large.energy
    assert both.loss_share == pytest.approx(loss_energy / both.energy)
    assert both.top_share == max(small.top_share, large.top_share)
    assert both.loss_to_step == max(small.loss_to_step, large.loss_to_step)
    assert both.meta_gradient_norm == pytest.approx(norm(whole), rel=1e-5) and both.non_finite_update is None


def norm(gradient: dict[str, Tensor]) -> float:
    return torch.cat([g.flatten() for g in gradient.values()]).norm().item()


def test_a_part_that_was_not_updated_is_left_out_and_none_is_an_error() -> None:
    paths, _ = process({"small": 0, "large": 2})
    assert {name.partition(".")[0] for name in paths.meta_gradient()} == {"large"}
    assert paths.statistics().updates == 2
    with pytest.raises(RuntimeError, match="the paths have no update yet"):
        process({"small": 0, "large": 0})[0].meta_gradient()


def test_the_first_update_that_is_not_finite_is_that_of_the_part_that_had_it() -> None:
    paths, parts = process({"small": 1, "large": 1})
    optimizer = torch.optim.SGD(parts["large"].parameters(), lr=0.1)
    paths["large"].attach(optimizer)
    paths["large"].backward(parts["large"](torch.full((1, 3), math.nan)).sum())
    optimizer.step()
    assert paths.statistics().non_finite_update == paths["large"].statistics().non_finite_update is not None
