"""
How much of its features an encoder still has: what is never positive is dead, and learns nothing any more.

    python benchmarks/features.py atari-a2c-leap runs/meta-train_1/initialization --games Assault
    python benchmarks/features.py atari-a2c-leap --games pretraining --frames 64    # of each game; dead on all of them
    python benchmarks/features.py --quick

On frames of games under random play, for each initialization of the Nature network: the share of the filters of each
convolution, and of the features, that are never positive; the root mean square of the other features, and the features'
effective rank, exp of the entropy of their singular values as shares of their sum (Roy and Vetterli, 2007); the norm of
each layer's weights. Random weights come first.
"""

from __future__ import annotations

import torch
from report import at_least_one, keep, parser
from torch import Tensor, nn

from leap_rl import LeapA2C, make_atari_env
from leap_rl.agents.dormant import random_observations
from leap_rl.commands.initializations import load_initialization
from leap_rl.commands.tasks import make_tasks
from leap_rl.settings import AgentSettings, AtariSettings


@torch.no_grad()
def measure(encoder: nn.Module, images: Tensor) -> dict[str, list[float] | float]:
    """
    :param encoder: of the Nature network, or of nature-ln
    :param images: shape ``(n, 4, 84, 84)``, from 0 to 1
    """
    dead, norms, activations = [], [], images
    for layer in (*encoder.cnn, *encoder.linear):  # type: ignore[misc]
        activations = layer(activations)
        if isinstance(layer, nn.ReLU):
            largest = activations.amax(dim=[d for d in range(activations.ndim) if d != 1])
            dead.append(float((largest <= 0).float().mean()))
        elif getattr(layer, "weight", torch.empty(0)).ndim > 1:  # no normalization
            norms.append(float(layer.weight.norm()))
    shares = torch.linalg.svdvals(activations - activations.mean(dim=0))
    shares = shares / shares.sum()
    rank = float(torch.special.entr(shares).sum().exp())
    size = float(activations[:, activations.amax(dim=0) > 0].square().mean().sqrt())
    return {"dead": dead, "effective rank": rank, "size": size, "norms": norms}


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("initializations", nargs="*", help="names of the zoo, or folders")
    cli.add_argument("--games", nargs="+", default=["Assault"], help="and pools of them")
    cli.add_argument("--frames", type=at_least_one, default=256, help="of each game")
    args = cli.parse_args()
    if args.quick:
        args.frames = 32
    try:
        starts = {name: load_initialization(name) for name in args.initializations}
        tasks = make_tasks(args.games, (), 1, AgentSettings(), AtariSettings())
        frames = [torch.from_numpy(random_observations(task, args.frames, seed=0)) for task in tasks]
    except ValueError as error:
        cli.error(str(error))
    images = torch.cat(frames) / 255
    games = [task.name for task in tasks]
    model = LeapA2C("CnnPolicy", make_atari_env(games[0], 1), device="cpu")
    drawn = tasks.draw_initialization("encoder", 0)
    rows = {}
    head = "| | dead: convolutions 1, 2, 3, features | size of the others | effective rank | norms |"
    print(f"{', '.join(games)}\n\n{head}\n|---|---|---|---|---|")
    for name, start in {"random": drawn, **starts}.items():
        start.apply_to(model)
        row = rows[name] = measure(model.policy.features_extractor, images)
        dead, norms = (", ".join(f"{value:.{d}f}" for value in row[k]) for k, d in (("dead", 3), ("norms", 1)))  # type: ignore[union-attr]
        print(f"| {name} | {dead} | {row['size']:.2f} | {row['effective rank']:.1f} | {norms} |")
    keep({"games": games, "frames": args.frames, "starts": rows}, args.json)


if __name__ == "__main__":
    main()
