"""The allocator keeps what an update frees."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from leap_rl import LeapA2C, LeapPPO
from leap_rl.agents import observed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is asked")

# Page faults per step while learning goes on: of SB3's A2C before LeapA2C is made, and of LeapA2C. Images as large as
# Atari's. glibc's threshold for blocks of their own is held where it begins: left alone it rises with what was freed
# before, on some machines so far that A2C has next to no faults either.
FAULTS = """
import ctypes, resource
from leap_rl.running.memory import M_MMAP_THRESHOLD
ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 131072)
import numpy as np
from gymnasium import Env, spaces
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from leap_rl import LeapA2C

class Noise(Env):
    observation_space, action_space = spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(4)
    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}
    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}

def faults(algorithm):
    model = algorithm("CnnPolicy", make_vec_env(Noise, 16), device="cpu")
    model.learn(160)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model.learn(240, reset_num_timesteps=False)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 240

print(faults(A2C), faults(LeapA2C))
"""

# Resident size, in MB: with blocks of 1 MB, after all but the last are freed, and after the learning process.
GAPS = """
import os
from pathlib import Path
import numpy as np
from leap_rl.running.engines import learning_process

def size():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

with learning_process():
    blocks = [np.ones(125_000) for _ in range(100)]
    full = size()
    del blocks[:-1]
    freed = size()
print(full, freed, size())
"""


def figures(script: str, **environment: str) -> list[float]:
    """What a script prints, in a process whose allocator nobody else has set."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    return [float(figure) for figure in done.stdout.split()]


def test_an_update_takes_the_memory_that_the_one_before_freed() -> None:
    a2c, leap_a2c = figures(FAULTS)
    assert leap_a2c < 0.1 * a2c


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_who_has_set_the_allocator_keeps_it(name: str) -> None:
    """131,072 is what glibc begins with."""
    a2c, leap_a2c = figures(FAULTS, **{name: "131072" if name[0] == "M" else "glibc.malloc.trim_threshold=131072"})
    assert leap_a2c > 0.5 * a2c > 10


def test_a_learning_process_gives_back_what_lies_below_a_lasting_thing() -> None:
    full, freed, given_back = figures(GAPS)
    assert freed > full - 5
    assert given_back < full - 90


@pytest.mark.parametrize(
    "model",
    [
        partial(LeapA2C, n_steps=2),
        partial(LeapPPO, n_steps=2, batch_size=2, n_epochs=3),
    ],
)
def test_training_gives_back_now_and_then(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    given_back: list[int] = []
    agent = model("MlpPolicy", "CartPole-v1", device="cpu")
    monkeypatch.setattr(observed, "give_back_freed_memory", lambda: given_back.append(agent.num_timesteps // 2))
    agent.learn(2 * 401)
    assert given_back == [1, 201, 401]  # rollouts, this one included
