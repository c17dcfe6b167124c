"""From an initialization to an SB3 model: importing this teaches ``Initialization.apply_to`` SB3's names."""

from leap_rl.core import Initialization
from leap_rl.transfer.names import observed_parameters

__all__ = ["Initialization", "observed_parameters"]
