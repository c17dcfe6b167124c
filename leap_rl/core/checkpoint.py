"""The state of a meta-training on disk: tensors as safetensors, the rest as JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer

from leap_rl.core.initialization import replacing_folder

FORMAT = "leap-rl checkpoint"
FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; says what and what to do."""


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write ``folder``, whole or not at all; the last one stays until then."""
    data = safetensors.torch.save({name: t.detach().contiguous() for name, t in tensors.items()})
    state = {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": hashlib.sha256(data).hexdigest(), **state}
    with replacing_folder(folder) as temporary:
        (temporary / "state.safetensors").write_bytes(data)
        (temporary / "state.json").write_text(json.dumps(state, indent=1) + "\n")


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """
    :raises CheckpointError: if it is missing, foreign, damaged, or from another version
    """
    try:
        state = json.loads((folder / "state.json").read_text())
        data = (folder / "state.safetensors").read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint in {folder.parent}: {Path(error.filename).name} is missing") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder} can't be read: {error}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is no checkpoint of leap_rl")
    if state.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format version {state.get('format_version')}, this leap_rl reads {FORMAT_VERSION}"
        )
    if state.get("sha256") != hashlib.sha256(data).hexdigest():
        raise CheckpointError(f"{folder}/state.safetensors is damaged: its sha256 is not the one in state.json")
    try:
        return safetensors.torch.load(data), state
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{folder}/state.safetensors is damaged: {error}") from None


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A torch optimizer's state, its tensors apart from what JSON holds."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                numbers[f"{index}.{key}"] = value
    return tensors, {"numbers": numbers, "param_groups": state["param_groups"]}


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **rest["numbers"]}.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})
