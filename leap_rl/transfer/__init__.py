"""From an initialization to an SB3 model: importing this teaches ``Initialization.apply_to`` SB3's names."""

from leap_rl.core import Initialization
from leap_rl.transfer.finetune import FineTune
from leap_rl.transfer.gentle import FreezeEncoder, SlowEncoder
from leap_rl.transfer.heads import Head
from leap_rl.transfer.names import observed_parameters
from leap_rl.transfer.negative import WatchTransfer
from leap_rl.transfer.networks import Mnih2013CNN, NatureLNCNN, network_of, policy_kwargs

__all__ = [
    "FineTune",
    "FreezeEncoder",
    "Head",
    "Initialization",
    "Mnih2013CNN",
    "NatureLNCNN",
    "SlowEncoder",
    "WatchTransfer",
    "network_of",
    "observed_parameters",
    "policy_kwargs",
]
