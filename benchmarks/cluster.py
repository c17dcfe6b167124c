"""
A meta batch on a Ray cluster of two nodes with one core each, by the same on two local workers: steps/s, and the bits.

    python benchmarks/cluster.py --repeats 3
"""

from __future__ import annotations

import time
from functools import partial

import ray
from ray.cluster_utils import Cluster
from report import Row, alternate, at_least_one, parser, publish
from stable_baselines3 import A2C

from leap_rl.agents import EnvTasks
from leap_rl.core import Engine, Leap, MetaTrainer, Workers
from leap_rl.running.engines.ray import RayEngine


def meta_step(engine: Engine, visits: int, steps: int) -> tuple[float, str]:
    """:return: of a meta step, and the hash of the θ⁰ that it makes"""
    envs = {f"cartpole-{i}": "CartPole-v1" for i in range(visits)}
    tasks = EnvTasks(A2C, "MlpPolicy", envs, steps, n_envs=4)
    trainer = MetaTrainer(tasks, Leap(), visits, engine=engine, seed=0)
    started = time.perf_counter()
    trainer.learn(1)
    return time.perf_counter() - started, trainer.initialization.sha256


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--repeats", type=at_least_one, default=3, help="of each, in turn")
    cli.add_argument("--visits", type=at_least_one, default=4, help="of a meta batch")
    cli.add_argument("--steps", type=at_least_one, default=30_000, help="of a visit")
    args = cli.parse_args()
    repeats, steps = (1, 2_000) if args.quick else (args.repeats, args.steps)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    engines = {"local": Workers(2), "ray": RayEngine(cluster.address)}
    hashes = set()

    def rate(engine: Engine, steps: int = steps) -> float:
        taken, sha256 = meta_step(engine, args.visits, steps)
        hashes.add((steps, sha256))
        return args.visits * steps / taken

    for engine in engines.values():
        rate(engine, 2_000)  # its processes start
    rates = alternate({name: partial(rate, engine) for name, engine in engines.items()}, repeats)
    what = f"meta batch of {args.visits} visits of {steps:,} steps, two Ray nodes of one core by two local workers"
    notes = {"θ⁰ in other bits": str(len(hashes) - len({steps for steps, _ in hashes}))}
    publish([Row("Ray", rates["ray"], rates["local"], "steps/s", 0.9, what)], args.json, notes)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
