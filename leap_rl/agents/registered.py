"""What is registered with Gymnasium in this process, for others: a worker starts with Gymnasium's own ids alone."""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator


def registered() -> list[bytes]:
    """
    All that Gymnasium does not register itself, each pickled: ids of a script, and of the packages that it imported. An
    id alone would say nothing in a worker, nor would a function that makes an environment by its id.
    """
    found = []
    for spec in gym.registry.values():
        entry = spec.entry_point
        module = entry if isinstance(entry, str) else str(getattr(entry, "__module__", ""))
        if module.startswith("gymnasium."):
            continue
        try:
            if isinstance(entry, str) and module.startswith("__main__:"):  # which is another module in a worker
                made_by: Any = load_env_creator(entry)
                spec = dataclasses.replace(spec, entry_point=made_by)
            found.append(cloudpickle.dumps(spec))
        except Exception:  # what can't travel is missed only where it is used
            continue
    return found


def register(specs: list[bytes]) -> None:
    """:param specs: of another process; they replace what is registered here by their ids: a script may have changed"""
    for pickled in specs:
        try:
            spec: EnvSpec = pickle.loads(pickled)
        except Exception:  # of a module that is not found here: missed only where it is used, as above
            continue
        if gym.registry.get(spec.id) != spec:
            gym.registry[spec.id] = spec
            # A package registers its ids once more when it is imported to make one.
            warnings.filterwarnings("ignore", ".*Overriding environment .* already in registry")
