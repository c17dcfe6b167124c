"""
What observing a learning process costs.

    python benchmarks/observation.py            # some minutes
    python benchmarks/observation.py --quick

LeapA2C on Breakout, the Nature network, 16 environments, 5 steps. The cost is the CPU time inside the observer's hooks,
as a share of the CPU time of the whole training: a difference of two rates is all noise on a machine that is shared.
The rates are shown beside it. The rival is equation (8) of the paper written down as it stands: every update clones
parameters and gradients and keeps the losses as numbers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from report import Row, at_least_one, parser, publish
from torch import Tensor

from leap_rl import GradientPath, Leap, LeapA2C, NoPretraining, make_atari_env

HOOKS = ("before_backward", "after_backward", "before_update", "after_update", "new_rollout")


class StraightforwardPath(GradientPath):
    """The same sum, tensor by tensor, with a copy of everything at every update."""

    def __init__(self, parameters: Mapping[str, Tensor], metric: str) -> None:
        super().__init__(parameters, metric)  # type: ignore[arg-type]
        self.named = dict(parameters)
        self.sum = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.last: tuple[float, dict[str, Tensor], dict[str, Tensor]] | None = None

    def before_update(self, loss: Any = None) -> None:
        f = float(loss)
        theta = {name: p.detach().clone() for name, p in self.named.items()}
        gradient = {name: p.grad.clone() for name, p in self.named.items() if p.grad is not None}
        if self.last is not None:
            f_before, theta_before, gradient_before = self.last
            loss_delta = -abs(f - f_before)
            step = {name: theta[name] - theta_before[name] for name in theta}
            length = (sum(d.square().sum() for d in step.values()) + loss_delta**2).sqrt()  # type: ignore[union-attr]
            weight = 1 / length if self.metric == "length" else 1.0
            for name in self.sum:
                self.sum[name] = self.sum[name] - weight * (loss_delta * gradient_before[name] + step[name])
        self.last = f, theta, gradient

    def after_update(self, loss: Any = None) -> None:
        pass


@dataclass(frozen=True)
class Straightforward(Leap):
    def observe(self, parameters: Mapping[str, Tensor]) -> GradientPath:
        return StraightforwardPath(parameters, self.metric)


@contextmanager
def hooks_timed(path: GradientPath) -> Iterator[list[float]]:
    """CPU seconds of this process inside the path's hooks, in the one entry of the list."""
    spent = [0.0]

    def timed(hook: Callable[..., None]) -> Callable[..., None]:
        def run(*args: object) -> None:
            started = time.process_time()
            hook(*args)
            spent[0] += time.process_time() - started

        return run

    for name in HOOKS:
        setattr(path, name, timed(getattr(path, name)))
    yield spent
    for name in HOOKS:
        delattr(path, name)


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--steps", type=at_least_one, default=4_000, help="per measurement")
    cli.add_argument("--repeats", type=at_least_one, default=7)
    args = cli.parse_args()
    if args.quick:
        args.steps, args.repeats = 800, 2
    learners: dict[str, Leap | NoPretraining] = {
        "not observed": NoPretraining(),
        "energy": Leap(metric="energy"),
        "length": Leap(metric="length"),
        "straightforward energy": Straightforward(metric="energy"),
        "straightforward length": Straightforward(metric="length"),
    }
    models = {
        name: LeapA2C("CnnPolicy", make_atari_env("Breakout", 16, seed=0), learner=learner, seed=0, device="cpu")
        for name, learner in learners.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in models}
    shares: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model.learn(1_200)  # past the updates that are skipped
    for turn in range(args.repeats):
        for name, model in list(models.items())[:: -1 if turn % 2 else 1]:
            started, cpu = time.perf_counter(), time.process_time()
            if isinstance(model.gradient_path, GradientPath):
                with hooks_timed(model.gradient_path) as spent:
                    model.learn(args.steps, reset_num_timesteps=False)
                shares[name].append(spent[0] / (time.process_time() - cpu))
            else:
                model.learn(args.steps, reset_num_timesteps=False)
            rates[name].append(args.steps / (time.perf_counter() - started))
    for model in models.values():
        model.env.close()  # type: ignore[union-attr]
    share = {name: 100 * statistics.median(values) for name, values in shares.items() if values}
    threads = f"{torch.get_num_threads()} threads; hooks, of the training's CPU time"
    rows = [
        Row(f"observe-{metric}", share[metric], 100.0, "% CPU time", target, threads, less=True)
        for metric, target in (("energy", 0.02), ("length", 0.04))
    ]
    notes = {f"{name}, hooks": f"{value:.2f} % of the CPU time" for name, value in share.items()}
    notes |= {name: f"{statistics.median(values):,.0f} steps/s" for name, values in rates.items()}
    publish(rows, args.json, notes)


if __name__ == "__main__":
    main()
