"""SB3 algorithms whose training is observed, and the tasks that they learn."""

from leap_rl.agents.a2c import LeapA2C
from leap_rl.agents.arithmetic import speed_up
from leap_rl.agents.dormant import RecycleDormant
from leap_rl.agents.observed import ObservedTraining
from leap_rl.agents.ppo import LeapPPO
from leap_rl.agents.tasks import EnvTask, EnvTasks, RandomPolicies, observed_algorithm

__all__ = [
    "EnvTask",
    "EnvTasks",
    "LeapA2C",
    "LeapPPO",
    "ObservedTraining",
    "RandomPolicies",
    "RecycleDormant",
    "observed_algorithm",
    "speed_up",
]
