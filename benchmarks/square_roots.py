"""
A step of torch's optimizers with and without roots of zeros, on the parameters of a Nature network.

    python benchmarks/square_roots.py

One thread. A share of the gradients is always zero, as of units that are never positive, which the others lie among.
Both ways alternate, on equal values, and medians are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from report import alternate, at_least_one, machine, parser, seconds
from torch import Tensor
from torch.optim import Adam, Optimizer, RMSprop

from leap_rl.agents.square_roots import spare_slow_roots

SHAPES = ((32, 4, 8, 8), (32,), (64, 32, 4, 4), (64,), (64, 64, 3, 3), (64,), (512, 3136), (512,))
SHARES = (0.0, 0.03, 0.5, 0.85)


def made(make: Callable[[list[Tensor]], Optimizer], zeros: float, spared: bool) -> Optimizer:
    """
    :param zeros: share of the gradients
    """
    torch.manual_seed(0)
    weights = [torch.randn(shape, requires_grad=True) for shape in SHAPES]
    for w in weights:
        w.grad = torch.randn_like(w).masked_fill(torch.rand_like(w) < zeros, 0.0)
    optimizer = make(weights)
    if spared:
        spare_slow_roots(optimizer)
    return optimizer


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--repeats", type=at_least_one, default=50)
    repeats = cli.parse_args().repeats
    torch.set_num_threads(1)
    about = machine()
    print(f"{about['date']}, {about['cpu']}, 1 thread; ms per step, medians of {repeats}\n")
    print("| optimizer | zeros | torch's roots | without those of zeros | ratio |\n|---|---|---|---|---|")
    for name, make in (("RMSprop", lambda w: RMSprop(w, eps=1e-5)), ("Adam", lambda w: Adam(w, eps=1e-5))):
        for zeros in SHARES:
            ways = {way: partial(seconds, made(make, zeros, way == "spared").step) for way in ("plain", "spared")}
            plain, spared = (1e3 * taken for taken in alternate(ways, repeats).values())
            print(f"| {name} | {zeros:.0%} | {plain:.2f} | {spared:.2f} | {plain / spared:.2f} |", flush=True)


if __name__ == "__main__":
    main()
