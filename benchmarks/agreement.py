"""
How well meta gradients agree: of one task from visit to visit, and of several tasks.

    python benchmarks/agreement.py --json agreement.json    # Omniglot, ten minutes on one core
    python benchmarks/agreement.py --quick

A meta step goes where the meta gradients of its visits agree; the rest is noise. So: the mean cosine between the meta
gradients of one alphabet under several seeds (other minibatches, the same θ⁰, which is random), and between those of
several alphabets. Where the first is ρ, a mean over B visits points where one does that agrees by Bρ / (1 + (B - 1) ρ).
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from report import at_least_one, keep, parser

from leap_rl.core import FOMAML, MAML, Job, Leap, MetaLearner, Reptile
from supervised.omniglot.alphabets import Alphabets, split
from supervised.omniglot.data import default_data_dir

MAML_STEPS = 5
LEARNERS: dict[str, MetaLearner] = {
    "leap": Leap(metric="length"),
    "reptile": Reptile(),
    "fomaml": FOMAML(),
    "maml": MAML(inner_steps=MAML_STEPS),
}


def gradients(tasks: Alphabets, learner: MetaLearner, seeds: range) -> list[torch.Tensor]:
    """Of each task under each seed, all parameters in one."""
    start = tasks.draw_initialization("all", 0)
    found = []
    for task, seed in itertools.product(tasks, seeds):
        result = Job(task, start, learner, seed).run(lambda *_: None)
        assert result.meta_gradient is not None
        found.append(torch.cat([g.flatten() for g in result.meta_gradient.values()]).double())
    return found


def agreement(found: list[torch.Tensor]) -> float:
    """Mean cosine over the pairs."""
    units = [g / g.norm() for g in found]
    return float(np.mean([float(a @ b) for a, b in itertools.combinations(units, 2)]))


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--updates", type=at_least_one, default=100, help="of a visit")
    cli.add_argument("--tasks", type=at_least_one, default=8, help="alphabets, one visit each")
    cli.add_argument("--seeds", type=at_least_one, default=6, help="visits of each of the first three alphabets")
    args = cli.parse_args()
    if args.quick:
        args.updates, args.tasks, args.seeds = 6, 2, 2
    torch.set_num_threads(1)
    data = str(default_data_dir())
    names, _ = split(data, 20, 0)
    rows = {}
    print("| learner | agreement of one alphabet's visits | of several alphabets' | norm |\n|---|---|---|---|")
    for name, learner in LEARNERS.items():
        updates = MAML_STEPS if name == "maml" else args.updates
        each = [
            agreement(gradients(Alphabets(data, [alphabet], 0, updates, "fast"), learner, range(args.seeds)))
            for alphabet in names[: min(3, args.tasks)]
        ]
        # Other seeds for each: under one seed all see the same classes in the same order, and agree by that alone.
        several = [
            gradients(Alphabets(data, [alphabet], 0, updates, "fast"), learner, range(number, number + 1))[0]
            for number, alphabet in enumerate(names[: args.tasks])
        ]
        norm = float(np.mean([float(g.norm()) for g in several]))
        rows[name] = {"of one alphabet": each, "of several alphabets": agreement(several), "norm": norm}
        shown = f"{np.mean(each):.2f} ({min(each):.2f} to {max(each):.2f})"
        print(f"| {name} | {shown} | {rows[name]['of several alphabets']:.2f} | {norm:.1f} |", flush=True)
    keep(rows, args.json)


if __name__ == "__main__":
    main()
