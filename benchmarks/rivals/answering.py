"""
What every process of benchmarks/peers.py does: it makes an agent, learns a little, and then learns as often as it is
asked. An order is a line on standard input, its answer a line on standard output, both JSON. It ends with its input.

Nothing but the standard library, since each rival runs this in an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol


class Agent(Protocol):
    def learn(self, steps: int) -> None:
        """Go on learning, for at least so many steps, summed over environments."""

    @property
    def steps(self) -> int:
        """Learned in all."""

    @property
    def returns(self) -> Iterable[float]:
        """Of the last 100 whole games, without clipping."""


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def answer(make: Callable[[dict[str, Any]], Agent], packages: Iterable[str]) -> None:
    """
    :param make: an agent, by the settings that stand as JSON in the first argument of the command
    :param packages: whose versions are told
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that what anything else prints is no answer
    settings = json.loads(sys.argv[1])
    agent = make(settings)
    if settings["warm_up"]:
        agent.learn(settings["warm_up"])
    print(json.dumps({"versions": versions(packages)}), file=answers, flush=True)
    for line in sys.stdin:
        before, started = agent.steps, time.perf_counter()
        agent.learn(json.loads(line))
        seconds = time.perf_counter() - started
        learned = {"steps": agent.steps - before, "seconds": seconds, "returns": [float(r) for r in agent.returns]}
        print(json.dumps(learned), file=answers, flush=True)
