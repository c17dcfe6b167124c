"""
Pretrained initializations: listed, loaded in one line, checked.

    import zoo

    zoo.load("atari-a2c-leap").apply_to(model)

An initialization is a folder of tensors and JSON. Nothing of it is executed, wherever it comes from.
"""

from typing import TYPE_CHECKING

from leap_rl.lazy import lazily

if TYPE_CHECKING:
    from zoo.artifacts import ZooError, check, folder_of, load, policy_kwargs
    from zoo.artifacts import names as list
    from zoo.importing import encoder_of, import_agent, import_folder

_WHERE = {
    "ZooError": "zoo.artifacts",
    "check": "zoo.artifacts",
    "encoder_of": "zoo.importing",
    "folder_of": "zoo.artifacts",
    "import_agent": "zoo.importing",
    "import_folder": "zoo.importing",
    "list": "zoo.artifacts:names",
    "load": "zoo.artifacts",
    "policy_kwargs": "zoo.artifacts",
}

__getattr__, __dir__ = lazily(__name__, _WHERE)

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
