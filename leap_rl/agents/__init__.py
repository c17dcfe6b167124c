"""SB3 algorithms whose training is observed, and the tasks that they learn."""

from typing import TYPE_CHECKING

from leap_rl.lazy import lazily

if TYPE_CHECKING:
    from leap_rl.agents.algorithms import LeapA2C, LeapDDPG, LeapDQN, LeapPPO, LeapSAC, LeapTD3
    from leap_rl.agents.arithmetic import speed_up
    from leap_rl.agents.contrib import LeapCrossQ as LeapCrossQ
    from leap_rl.agents.contrib import LeapMaskablePPO as LeapMaskablePPO
    from leap_rl.agents.contrib import LeapQRDQN as LeapQRDQN
    from leap_rl.agents.contrib import LeapRecurrentPPO as LeapRecurrentPPO
    from leap_rl.agents.contrib import LeapTQC as LeapTQC
    from leap_rl.agents.dormant import RecycleDormant
    from leap_rl.agents.mimic import ActorMimic
    from leap_rl.agents.observed import ObservedTraining
    from leap_rl.agents.tasks import EnvTask, EnvTasks, RandomPolicies, observed_algorithm

__getattr__, __dir__ = lazily(__name__, __file__)

# What is of sb3-contrib, which need not be installed, is there by its name, and no part of ``import *``.
__all__ = [
    "ActorMimic",
    "EnvTask",
    "EnvTasks",
    "LeapA2C",
    "LeapDDPG",
    "LeapDQN",
    "LeapPPO",
    "LeapSAC",
    "LeapTD3",
    "ObservedTraining",
    "RandomPolicies",
    "RecycleDormant",
    "observed_algorithm",
    "speed_up",
]
