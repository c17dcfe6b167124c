"""
Pretrained initializations, by name: what ``leap_rl.zoo`` gives, under a shorter name.

    import zoo

    zoo.load("atari-a2c-leap").apply_to(model)

The initializations, and the recipes they were made by, lie beside this file. Where a folder of your own is called zoo,
``leap_rl.zoo`` is the same.
"""

from typing import TYPE_CHECKING

from leap_rl.zoo import __all__ as __all__
from leap_rl.zoo import __dir__ as __dir__
from leap_rl.zoo import __getattr__ as __getattr__

if TYPE_CHECKING:
    from leap_rl.zoo import ZooError as ZooError
    from leap_rl.zoo import check as check
    from leap_rl.zoo import encoder_of as encoder_of
    from leap_rl.zoo import folder_of as folder_of
    from leap_rl.zoo import import_agent as import_agent
    from leap_rl.zoo import import_folder as import_folder
    from leap_rl.zoo import list as list
    from leap_rl.zoo import load as load
    from leap_rl.zoo import policy_kwargs as policy_kwargs
