"""
Pretrained initializations: listed, loaded in one line, checked.

    from leap_rl import zoo

    zoo.load("atari-a2c-leap").apply_to(model)

An initialization is a folder of tensors and JSON. Nothing of it is executed, wherever it comes from.
"""

from typing import TYPE_CHECKING

from leap_rl.lazy import lazily

if TYPE_CHECKING:
    from leap_rl.zoo.artifacts import ZooError, check, folder_of, load, policy_kwargs
    from leap_rl.zoo.artifacts import names as list  # noqa: F401  not in __all__
    from leap_rl.zoo.importing import encoder_of, import_agent, import_folder

__getattr__, __dir__ = lazily(__name__, __file__)

# Without ``list``: a star import replaces no builtin.
__all__ = [
    "ZooError",
    "check",
    "encoder_of",
    "folder_of",
    "import_agent",
    "import_folder",
    "load",
    "policy_kwargs",
]
