"""Initializations that people have made: from their agents, or their own meta-training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from leap_rl.core.initialization import check_tensor
from leap_rl.running.outside import printable
from leap_rl.transfer import Initialization, network_of
from leap_rl.transfer.names import encoder_name
from leap_rl.transfer.saved_agent import AgentError, SavedAgent
from leap_rl.zoo.artifacts import MOST_EVIDENCE, ZooError, check, figure_name, filling, new_folder


def import_agent(agent: Path, name: str, tasks: Sequence[str] = ()) -> Path:
    """
    Give a name to the encoder of an agent that SB3 saved.

    :param agent: zip that ``model.save`` wrote
    :param name: of the initialization to make
    :param tasks: what the agent learned, if that is known
    :return: its folder
    :raises ZooError: as ``encoder_of``, or for what is no name
    """
    folder = new_folder(name)
    encoder = encoder_of(agent, tasks)
    with filling(folder, agent) as new:
        encoder.save(new)
    return folder


def encoder_of(agent: Path, tasks: Sequence[str] = ()) -> Initialization:
    """
    The encoder of an agent that SB3 saved. Of its zip only the tensors are read, as tensors: the rest of such a file is
    pickled, and whoever unpickles it runs what its author wrote.

    :param agent: zip that ``model.save`` wrote
    :param tasks: what the agent learned, if that is known
    :raises ZooError: if it is no agent of SB3, or has no encoder of a known network
    """
    try:
        tensors = SavedAgent(agent).policy()
    except AgentError as error:
        raise ZooError(str(error)) from None
    encoder = _encoder(tensors, agent)
    network = network_of({key: tuple(t.shape) for key, t in encoder.items()})
    if network is None:
        shapes = ", ".join(f"{key} {tuple(t.shape)}" for key, t in encoder.items())
        raise ZooError(f"{agent} has an encoder of an unknown network: {shapes}")
    config = {
        "network": network,
        "observation_shape": [encoder["encoder.cnn.0.weight"].shape[1], None, None],
        "source": f"imported from an agent, {printable(agent.name, 100)}",
        "learner": None,
        **({"tasks": list(tasks)} if tasks else {}),
    }
    return Initialization(encoder, "encoder", {}, config)


def import_folder(initialization: Path, name: str, comparisons: Sequence[Path] = ()) -> Path:
    """
    Give an initialization a name and, where there is evidence, a model card.

    :param initialization: folder that ``Initialization.save`` wrote
    :param name: to give it
    :param comparisons: run folders of ``leap-rl compare`` with it: the card's evidence
    :return: its folder
    :raises ZooError: if it can't be trusted, or a comparison is of another one
    """
    folder = new_folder(name)
    found = check(initialization)
    if len(comparisons) > MOST_EVIDENCE:
        raise ZooError(f"{len(comparisons)} comparisons are more than the {MOST_EVIDENCE} that a card takes")
    files: dict[str, bytes] = {}
    if comparisons:
        from leap_rl.zoo.cards import Evidence, model_card  # needs the extra `hub`

        evidence = [Evidence.of(comparison, found) for comparison in comparisons]
        if len({(e.title(), str(e.results["settings"].get("seeds"))) for e in evidence}) < len(evidence):
            raise ZooError(
                f"two of {', '.join(map(str, comparisons))} are of the same games, steps and seeds: give one"
            )
        curves = json.dumps([e.results for e in evidence]) + "\n"
        files = {"README.md": model_card(name, found, evidence).encode(), "curves.json": curves.encode()}
        files |= {figure_name(number): e.figure.read_bytes() for number, e in enumerate(evidence, 1)}
    with filling(folder, initialization) as new:
        found.save(new)
        for file, content in files.items():
            (new / file).write_bytes(content)
    return folder


def _encoder(tensors: dict[str, Tensor], agent: Path) -> dict[str, Tensor]:
    """By the names of initializations. Actor and critic that share nothing have two, a target network is another."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = encoder_name(str(key))
        if name is None or "_target." in str(key):
            continue
        try:
            check_tensor(name, tensor)
        except ValueError as error:
            raise ZooError(f"{agent} has an encoder that is refused: {error}") from None
        if not tensor.isfinite().all():
            raise ZooError(f"{agent} has values in {name} that are not finite")
        if name in found and not torch.equal(found[name], tensor):
            raise ZooError(f"{agent} has an encoder for its actor and another for its critic: which one is not clear")
        found[name] = tensor.clone()
    if not found:
        raise ZooError(
            f"{agent} has no encoder of images. What an agent for vectors has learned is taken in Python: "
            "Initialization.of(PPO.load(agent), 'mlp_extractor').save(folder)"
        )
    return found
