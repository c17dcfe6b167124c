"""
Does an initialization that was meta-learned on a family of CartPoles shorten learning on unseen ones?

    python benchmarks/cartpole_family.py                       # hours on 2 cores, resumable
    python benchmarks/cartpole_family.py --validate --recipes length-0.005-adam-0.05 reptile --seeds 1    # choosing

Every variant has its own pole length, pole mass, force and gravity, and half of them have their actions swapped. PPO
learns from random weights, or from an initialization that each recipe meta-learned on the same training variants for
the same total steps. The measure is the mean return over training (the area under the learning curve). Recipes are
chosen on validation variants; the test variants are looked at once.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import at_least_one

from leap_rl import Initialization, Leap, MetaTrainer, NoPretraining, Reptile, SequentialFinetuning
from leap_rl.agents.cartpole import Variants
from leap_rl.commands.tasks import make_tasks
from leap_rl.core import Engine, InProcess, Job, JobsProgress, MetaLearner, TaskFamily, Workers
from leap_rl.evaluation.statistics import estimate
from leap_rl.running.checkpoint import Checkpoints
from leap_rl.running.files import write_text
from leap_rl.settings import AgentSettings, AtariSettings, read_preset

PRESET = read_preset("cartpole", {"meta-train", "compare"})
META_STEPS, META_BATCH = PRESET["meta-train"]["meta-steps"], PRESET["meta-train"]["meta-batch-size"]
EVALUATION_SEEDS = len(PRESET["compare"]["seeds"])


def variants(kind: Variants) -> TaskFamily:
    """With the budget and the agent of the preset: of the training variants in a visit, of the others in all."""
    settings = PRESET["meta-train" if kind == "training" else "compare"]
    agent = AgentSettings(**{name.replace("-", "_"): value for name, value in settings["agent"].items()})
    return make_tasks((), (f"cartpole-{kind}",), settings["timesteps"], agent, AtariSettings())


@dataclass(frozen=True)
class Recipe:
    """A meta-learner and its meta optimizer; ``None`` is the meta-learner's own."""

    learner: MetaLearner
    optimizer: type[torch.optim.Optimizer] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)


SGD, Adam = torch.optim.SGD, torch.optim.Adam


def leap(metric: str, scale: float, optimizer: type[torch.optim.Optimizer], lr: float, **settings: Any) -> Recipe:
    return Recipe(Leap(metric=metric, loss_scale=scale, **settings), optimizer, {"lr": lr})  # type: ignore[arg-type]


def linear(lr: float) -> dict[str, Any]:
    """A meta rate that falls to zero with the last meta step."""
    return {"lr": lambda remaining: lr * remaining}


RECIPES = {
    "finetune": Recipe(SequentialFinetuning()),
    "reptile": Recipe(Reptile(), SGD, {"lr": 0.5}),
    "reptile-sgd-1": Recipe(Reptile(), SGD, {"lr": 1.0}),
    "reptile-adam-0.05": Recipe(Reptile(), Adam, {"lr": 0.05}),
    "length-0.005-adam-0.05": leap("length", 0.005, Adam, 0.05),
    "length-0.005-adam-0.1": leap("length", 0.005, Adam, 0.1),
    "length-0.02-adam-0.05": leap("length", 0.02, Adam, 0.05),
    "length-0.005-rollout-adam-0.05": leap("length", 0.005, Adam, 0.05, loss_delta="within_rollout"),
    "length-0.02-rollout-adam-0.05": leap("length", 0.02, Adam, 0.05, loss_delta="within_rollout"),
    "energy-0.001-sgd-0.5": leap("energy", 0.001, SGD, 0.5),
    "energy-0.001-sgd-1": leap("energy", 0.001, SGD, 1.0),
    "energy-0.01-rollout-sgd-0.5": leap("energy", 0.01, SGD, 0.5, loss_delta="within_rollout"),
    "energy-0.01-rollout-sgd-1": leap("energy", 0.01, SGD, 1.0, loss_delta="within_rollout"),
    "length-none-adam-0.05": leap("length", 1.0, Adam, 0.05, loss_delta="none"),
    "length-0.005-displacement-sgd-0.5": leap("length", 0.005, SGD, 0.5, scale_to_displacement=True),
    "length-0.005-displacement-sgd-1": leap("length", 0.005, SGD, 1.0, scale_to_displacement=True),
    "length-1-displacement-sgd-0.5": leap("length", 1.0, SGD, 0.5, scale_to_displacement=True),
    "reptile-linear-0.5": Recipe(Reptile(), SGD, linear(0.5)),
    "reptile-linear-1": Recipe(Reptile(), SGD, linear(1.0)),
    "length-0.005-adam-linear-0.05": Recipe(Leap(metric="length", loss_scale=0.005), Adam, linear(0.05)),
    "length-0.005-adam-linear-0.1": Recipe(Leap(metric="length", loss_scale=0.005), Adam, linear(0.1)),
}


def meta_train(name: str, seed: int, folder: Path, engine: Engine) -> Initialization:
    """Meta-train, going on from where an interrupted run stood."""
    finished = folder / "initialization"
    if finished.exists():
        return Initialization.load(finished)
    recipe, tasks = RECIPES[name], variants("training")
    chain = recipe.learner.order == "chain"
    meta_steps = META_STEPS * (META_BATCH if chain else 1)
    if Checkpoints(folder).steps():
        trainer = MetaTrainer.load(folder, tasks, meta_optimizer_kwargs=recipe.kwargs, engine=engine)
    else:
        trainer = MetaTrainer(
            tasks,
            recipe.learner,
            meta_batch_size=1 if chain else META_BATCH,
            meta_optimizer_class=recipe.optimizer,
            meta_optimizer_kwargs=recipe.kwargs,
            sampling="reshuffle",
            engine=engine,
            run_dir=folder,
            tensorboard_log=folder / "tensorboard",
            seed=seed,
        )
    if trainer.meta_step < meta_steps:
        trainer.learn(meta_steps - trainer.meta_step, progress_bar=True)
    write_text(folder / "history.json", json.dumps(trainer.history))
    trainer.initialization.save(finished)
    return trainer.initialization


def areas(tasks: TaskFamily, initialization: Initialization | None, seeds: int, engine: Engine) -> np.ndarray:
    """Mean return over training, shape ``(seeds, variants)``; ``None`` is a random initialization per seed."""
    jobs = []
    for seed in range(seeds):
        start = initialization or tasks.draw_initialization("all", seed)
        jobs += [Job(task, start, NoPretraining(), 1000 * seed + i) for i, task in enumerate(tasks)]
    result = np.empty(len(jobs))
    with JobsProgress() as progress:
        progress.outer(f"{len(jobs)} evaluation runs", sum(job.task.steps for job in jobs))
        names = [job.task.name for job in jobs]
        progress.jobs(names, [job.task.steps for job in jobs])
        for i, r in engine.run(jobs, progress.job_at):
            r.raise_for_status(names[i])
            result[i] = r.curve.area() if r.status == "ok" else 0.0  # what diverges earns nothing
    return result.reshape(seeds, len(tasks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipes", nargs="+", choices=RECIPES, default=["finetune", "reptile", "length-0.005-adam-0.05"]
    )
    parser.add_argument("--seeds", type=at_least_one, default=3, help="meta-training seeds")
    parser.add_argument("--validate", action="store_true", help="score on the validation variants, one seed each")
    parser.add_argument("--folder", type=Path, default=Path("runs/cartpole_family"))
    parser.add_argument("--workers", type=at_least_one, default=None, help="processes; 1 runs in this one")
    args = parser.parse_args()
    engine: Engine = InProcess() if args.workers == 1 else Workers(args.workers)
    kind: Variants = "validation" if args.validate else "test"
    seeds = 1 if args.validate else EVALUATION_SEEDS
    tasks = variants(kind)
    torch.set_num_threads(1)

    def scored(name: str, seed: int) -> np.ndarray:
        folder = args.folder / name / str(seed)
        file = folder / f"{kind}.json"
        if not file.exists():
            started = time.perf_counter()
            start = None if name == "random" else meta_train(name, seed, folder, engine)
            scores = areas(tasks, start, seeds, engine)
            write_text(file, json.dumps(scores.tolist()))
            print(f"{name}, seed {seed}: {scores.mean():.1f} ({time.perf_counter() - started:.0f} s)", flush=True)
        return np.asarray(json.loads(file.read_text()))

    # Shape (runs, variants) each: a run is one meta-training seed and one seed of learning the variants.
    scores = {"random": scored("random", 0)}
    for name in args.recipes:
        scores[name] = np.concatenate([scored(name, seed) for seed in range(args.seeds)])
    ratios = {name: values / scores["random"].mean(axis=0) for name, values in scores.items()}

    print(
        f"\nmean return over {tasks[0].steps:,} steps of {len(tasks)} {kind} variants, "
        "95 % stratified bootstrap intervals"
    )
    print(f"{'':34}{'return':>8}{'interval':>18}{'x random':>10}{'interval':>14}")
    for name in scores:
        returns, relative = (estimate(lambda runs: float(runs.mean()), of[name]) for of in (scores, ratios))
        print(
            f"{name:34}{returns.value:8.1f}{f'{returns.low:.1f} to {returns.high:.1f}':>18}"
            f"{relative.value:10.2f}{f'{relative.low:.2f} to {relative.high:.2f}':>14}"
        )


if __name__ == "__main__":
    main()
