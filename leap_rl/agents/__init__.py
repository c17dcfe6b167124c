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

_WHERE = {
    "ActorMimic": "leap_rl.agents.mimic",
    "EnvTask": "leap_rl.agents.tasks",
    "EnvTasks": "leap_rl.agents.tasks",
    "LeapA2C": "leap_rl.agents.algorithms",
    "LeapCrossQ": "leap_rl.agents.contrib",
    "LeapDDPG": "leap_rl.agents.algorithms",
    "LeapDQN": "leap_rl.agents.algorithms",
    "LeapMaskablePPO": "leap_rl.agents.contrib",
    "LeapPPO": "leap_rl.agents.algorithms",
    "LeapQRDQN": "leap_rl.agents.contrib",
    "LeapRecurrentPPO": "leap_rl.agents.contrib",
    "LeapSAC": "leap_rl.agents.algorithms",
    "LeapTD3": "leap_rl.agents.algorithms",
    "LeapTQC": "leap_rl.agents.contrib",
    "ObservedTraining": "leap_rl.agents.observed",
    "RandomPolicies": "leap_rl.agents.tasks",
    "RecycleDormant": "leap_rl.agents.dormant",
    "observed_algorithm": "leap_rl.agents.tasks",
    "speed_up": "leap_rl.agents.arithmetic",
}

__getattr__, __dir__ = lazily(__name__, _WHERE)

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
