"""A family of tasks: environments that share all but their physics, drawn from one distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from leap_rl.agents import EnvTasks

Split = Literal["training", "validation", "test"]


@dataclass(frozen=True)
class Family:
    """
    A distribution over environments. Each split has variants of its own, always the same ones.

    :param name: of the family
    :param make: makes an environment from the parameters, which it takes by name; a function at the top of a module
    :param parameters: by name, the lower and the upper end of the interval that each is drawn from, uniformly
    :param every_second: name of a parameter that is ``True`` in every second variant and ``False`` in the others, such
        as whether actions are swapped; ``None``: there is no such parameter
    :param sizes: number of variants by split
    :param policy: of SB3, which learns them
    :param module: that ``make`` needs besides Gymnasium; where it is missing the error names it
    :param documentation: a line: what varies
    :raises ValueError: for what is no distribution. What ``make`` rounds is for its author to keep apart: two splits
        would draw the same
    """

    name: str
    make: Callable[..., gym.Env[Any, Any]]
    parameters: Mapping[str, tuple[float, float]]
    every_second: str | None = None
    sizes: Mapping[Split, int] = field(default_factory=lambda: {"training": 60, "validation": 6, "test": 10})
    policy: str = "MlpPolicy"
    module: str | None = None
    documentation: str = ""

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ValueError(f"{self.name} has no parameters: variants that are all the same leak between the splits")
        if self.every_second in self.parameters:
            raise ValueError(f"{self.name}: {self.every_second} is drawn already, it can't be every_second too")
        for name, (low, high) in self.parameters.items():
            if not (np.isfinite([low, high]).all() and low < high):
                raise ValueError(
                    f"{self.name}: {name} is drawn from {low:g} to {high:g}, which is no interval; what never varies "
                    "belongs into make"
                )
        for split, size in self.sizes.items():
            if split not in get_args(Split) or size < 1:
                raise ValueError(
                    f"{self.name}: sizes has {split!r}: {size}, but needs at least 1 for each of "
                    f"{', '.join(get_args(Split))}"
                )

    def variants(self, split: Split) -> list[dict[str, float | bool]]:
        """
        The parameters of a split's variants, drawn from ``numpy.random.default_rng(0)`` for training, 1 for validation
        and 2 for test: one variant after the other, and of each one parameter after the other.

        :raises ValueError: for a split that there is not
        """
        if split not in self.sizes:
            raise ValueError(f"{self.name} has no split {split!r}: there are {', '.join(self.sizes)}")
        rng = np.random.default_rng(get_args(Split).index(split))
        variants: list[dict[str, float | bool]] = []
        for index in range(self.sizes[split]):
            drawn: dict[str, float | bool] = {name: rng.uniform(*ends) for name, ends in self.parameters.items()}
            if self.every_second is not None:
                drawn[self.every_second] = index % 2 == 1
            variants.append(drawn)
        return variants

    def variant(self, **parameters: float | bool) -> gym.Env[Any, Any]:
        """
        An environment of the family, such as ``PENDULUM.variant(**PENDULUM.variants("test")[3])``.

        :param parameters: all of them, by name
        :raises ValueError: for one that is missing, unknown, or out of its range
        """
        flags = () if self.every_second is None else (self.every_second,)
        known = [*self.parameters, *flags]
        if set(parameters) != set(known):
            raise ValueError(f"{self.name} takes {', '.join(known)}, not {', '.join(parameters) or 'nothing'}")
        for name, (low, high) in self.parameters.items():
            if not low <= parameters[name] <= high:
                raise ValueError(f"{self.name}: {name}={parameters[name]:g} is out of its range, {low:g} to {high:g}")
        for name in flags:
            if not isinstance(parameters[name], bool | np.bool_):
                raise ValueError(f"{self.name}: {name}={parameters[name]!r} must be True or False")
        self._check_module()
        return _made(self.make, **parameters)

    def envs(self, split: Split) -> dict[str, Callable[[], gym.Env[Any, Any]]]:
        """
        What makes the variants of a split, by the names of their tasks: ``"cartpole/test-0"``, ...

        :raises ValueError: for a split that there is not
        :raises ModuleNotFoundError: if what the family needs is not installed
        """
        self._check_module()
        variants = enumerate(self.variants(split))
        return {f"{self.name}/{split}-{i}": partial(_made, self.make, **drawn) for i, drawn in variants}

    def tasks(
        self,
        split: Split,
        algorithm: type[BaseAlgorithm],
        timesteps: int,
        n_envs: int = 8,
        algorithm_kwargs: Mapping[str, Any] | None = None,
    ) -> EnvTasks:
        """
        The variants of a split as tasks.

        :param split: ``"training"``, ``"validation"`` or ``"test"``
        :param algorithm: as ``EnvTasks`` takes it
        :param timesteps: budget of one visit, in steps summed over environments
        :param n_envs: environments in parallel
        :param algorithm_kwargs: of the algorithm's constructor
        :raises ValueError: for what can't be learned
        :raises ModuleNotFoundError: if what the family needs is not installed
        """
        tasks = EnvTasks(algorithm, self.policy, self.envs(split), timesteps, n_envs, algorithm_kwargs)
        tasks.share_scale = True
        return tasks

    def _check_module(self) -> None:
        # Before any environment is made: Gymnasium's own advice names an extra of Gymnasium, not of this package.
        if self.module is not None and find_spec(self.module) is None:
            raise ModuleNotFoundError(f"the family {self.name} needs {self.module}", name=self.module)


def _made(make: Callable[..., gym.Env[Any, Any]], **parameters: float | bool) -> gym.Env[Any, Any]:
    """Ready to be drawn for a video, as SB3 makes what it makes by a name."""
    env = make(**parameters)
    base = env.unwrapped
    if base.render_mode is None and "rgb_array" in base.metadata.get("render_modes", ()):
        base.render_mode = "rgb_array"
    return env
