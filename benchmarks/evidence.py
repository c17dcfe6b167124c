"""
The runs of the plans in docs/evidence that are newest, in a fixed order, at the lowest priority. (Older ones, such as
held-out.md, omniglot.md and multi-cv.md, name their commands themselves.)

    make evidence                        # days; the same command goes on where it was ended
    python benchmarks/evidence.py --list
    python benchmarks/evidence.py --only families few-shot

Each command goes on where it was ended, and ends at once where it is done. What fails, since it needs data that is not
here or some run of it diverges, is said at the end, and keeps no other from running.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FEW_SHOT = "-m supervised.omniglot few-shot --preset cpu"
OMNIGLOT = "-m supervised.omniglot train --arithmetic fast"
CHOSEN = "-m supervised.adaptation train --preset cpu --seeds 0 1 2 3 4 --root runs/adaptation-chosen"
FINETUNING = "docs/evidence/finetuning"
# By their folders in docs/evidence, whose plan.md says what they are for. The short ones first.
COMMANDS: dict[str, tuple[str, ...]] = {
    "finetuning": (
        f"benchmarks/surgical.py --json {FINETUNING}/surgical.json",
        f"-m leap_rl compare --preset {FINETUNING}/strategies.yaml --run-dir {FINETUNING}/strategies",
        *(f"benchmarks/plasticity.py --seed {seed} --json {FINETUNING}/plasticity-{seed}.json" for seed in range(3)),
    ),
    "zero-shot": (
        "-m supervised.multi_cv zero-shot --preset cpu --seeds 0 1 2 3 4",
        "-m supervised.multi_cv zero-shot table --save docs/evidence/zero-shot/runs.json",
    ),
    "adaptation": (
        "-m supervised.adaptation train --preset cpu --seeds 0 1 2 3 4 "
        "--methods source-only batch-norm coral mmd transport dann self-training target-labels",
        "-m supervised.adaptation table --save docs/evidence/adaptation/runs.json",
        "-m supervised.adaptation choose --preset cpu --targets rotated --seeds 0 1 2",
        "-m supervised.adaptation choose table --save docs/evidence/adaptation/weights.json",
        f"{CHOSEN} --methods coral mmd transport dann --weight 0.1",
        f"{CHOSEN} --methods self-training --weight 10",
        "-m supervised.adaptation table runs/adaptation-chosen --less '' --save docs/evidence/adaptation/chosen.json",
    ),
    "generalization": (
        "-m supervised.adaptation generalize --preset cpu --seeds 0 1 2 3 4",
        "-m supervised.adaptation generalize table --save docs/evidence/generalization/runs.json",
    ),
    "multi-task": (
        "-m supervised.multi_cv multi-task --preset cpu --seeds 0 1 2",
        "-m supervised.multi_cv multi-task --preset cpu --seeds 0 1 2 --sharing hard --large mnist "
        "--balancing equal scale uncertainty imtl-l dynamic pcgrad mgda",
        "-m supervised.multi_cv multi-task table --save docs/evidence/multi-task/runs.json",
    ),
    "distillation": (
        "-m supervised.multi_cv distill --preset cpu --data-sets fashion-mnist --seeds 0 1 2 3 4",
        "-m supervised.multi_cv distill table --save docs/evidence/distillation/runs.json",
    ),
    "families": ("benchmarks/families.py",),
    "few-shot": (
        f"{FEW_SHOT} --learner protonet --seeds 0",
        f"{FEW_SHOT} --learner maml fomaml --seeds 0",
        f"{FEW_SHOT} --learner matching relation --seeds 0",
        f"{FEW_SHOT} --learner protonet --shots 5 --seeds 0",
        f"{FEW_SHOT} --learner protonet maml fomaml matching relation reptile leap none --seeds 0 1 2",
        f"{FEW_SHOT} --learner protonet maml --shots 5 --seeds 0 1 2",
        "-m supervised.omniglot few-shot table --save docs/evidence/few-shot/runs.json",
    ),
    "flavours": (
        "benchmarks/flavours.py --starts leap",
        "benchmarks/flavours.py --games Berzerk Breakout",
        "benchmarks/flavours.py --games Berzerk Breakout --scope all",
    ),
    "omniglot-trend": (
        f"{OMNIGLOT} --preset cpu --learners none leap reptile --seeds 0 1 2 --root runs/omniglot-fast",
        f"{OMNIGLOT} --preset paper --meta-steps 200 --learners leap reptile multihead --root runs/omniglot-trend",
        f"{OMNIGLOT} --preset paper --meta-steps 200 --learners leap reptile multihead --seeds 1 2 "
        "--root runs/omniglot-trend",
    ),
    "soak": ("benchmarks/soak.py --hours 6",),
}


def going_on(words: list[str]) -> list[str]:
    """A command of leap-rl, which goes on by ``--resume`` where its folder is there."""
    if "--run-dir" not in words:
        return words
    folder = words[words.index("--run-dir") + 1]
    return [*words[:3], "--resume", folder] if (ROOT / folder / "settings.yaml").is_file() else words


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--only", nargs="+", choices=COMMANDS, default=[*COMMANDS])
    cli.add_argument("--list", action="store_true", help="print the commands, and run none")
    args = cli.parse_args()
    failed = []
    for name in args.only:
        for command in COMMANDS[name]:
            print(f"{name}: python {command}", flush=True)
            if args.list:
                continue
            done = subprocess.run(
                [sys.executable, *going_on(shlex.split(command))],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                preexec_fn=lambda: os.nice(19),
            )
            if done.returncode:
                failed.append(f"{name}: python {command} ended with {done.returncode}")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
