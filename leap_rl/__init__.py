"""
leap_rl: meta-learned initializations for Stable-Baselines3, with Leap.

Names are imported when they are first used, so that the command line need not wait for torch.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from leap_rl.lazy import lazily

if TYPE_CHECKING:
    from leap_rl.agents import EnvTasks, LeapA2C, LeapDDPG, LeapDQN, LeapPPO, LeapSAC, LeapTD3
    from leap_rl.agents import LeapCrossQ as LeapCrossQ
    from leap_rl.agents import LeapMaskablePPO as LeapMaskablePPO
    from leap_rl.agents import LeapQRDQN as LeapQRDQN
    from leap_rl.agents import LeapRecurrentPPO as LeapRecurrentPPO
    from leap_rl.agents import LeapTQC as LeapTQC
    from leap_rl.atari import AtariTasks, AtariVecEnv, make_atari_env
    from leap_rl.core import FOMAML, GradientPath, Leap, MetaTrainer, NoPretraining, Reptile, SequentialFinetuning
    from leap_rl.transfer import Mnih2013CNN

    # By way of transfer, which teaches core's Initialization the names of SB3's models, and the zoo, which teaches it
    # those of its own.
    from leap_rl.zoo.door import Initialization

__version__ = version("leap-rl")

# What is of sb3-contrib, which need not be installed, is there by its name, and no part of ``import *``.
__all__ = [
    "FOMAML",
    "AtariTasks",
    "AtariVecEnv",
    "EnvTasks",
    "GradientPath",
    "Initialization",
    "Leap",
    "LeapA2C",
    "LeapDDPG",
    "LeapDQN",
    "LeapPPO",
    "LeapSAC",
    "LeapTD3",
    "MetaTrainer",
    "Mnih2013CNN",
    "NoPretraining",
    "Reptile",
    "SequentialFinetuning",
    "make_atari_env",
]


__getattr__, __dir__ = lazily(__name__, __file__)
