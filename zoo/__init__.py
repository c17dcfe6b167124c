"""
Pretrained initializations: listed, loaded in one line, checked.

    import zoo

    zoo.load("atari-a2c-leap").apply_to(model)

An initialization is a folder of tensors and JSON. Nothing of it is executed, wherever it comes from.
"""

from zoo.artifacts import ZooError, check, folder_of, load, policy_kwargs
from zoo.artifacts import names as list
from zoo.importing import encoder_of, import_agent, import_folder

__all__ = [
    "ZooError",
    "check",
    "encoder_of",
    "folder_of",
    "import_agent",
    "import_folder",
    "list",
    "load",
    "policy_kwargs",
]
