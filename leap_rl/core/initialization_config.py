"""What an initialization says of itself on disk, read without torch: its config, and the header of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from leap_rl.running.outside import printable, read_file, read_object

FORMAT = "leap-rl initialization"
FORMAT_VERSION = 1

MOST_BYTES = {"config.json": 10_000_000, "model.safetensors": 2**32}
"""Of the files of an initialization, and of the header of its tensors."""


PARAMETERS = ("F32", "F64")
"""What a parameter may be, by the names of safetensors. Others are refused: θ⁰ is moved by small steps, which half
precision rounds away, and who converts it should know."""
BUFFERS = (*PARAMETERS, "I64", "I32", "I16", "I8", "U8", "BOOL")
"""What a buffer may be: batch norm counts in one."""

BUFFER = "buffer:"
"""Before the names of buffers, on disk."""


class InitializationError(ValueError):
    """
    An initialization that cannot be read, or does not fit; says what and what to do.

    :param lines: of the message; what they quote may be a stranger's, so only what is printable is said
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*map(printable, lines))

    def __str__(self) -> str:
        return "\n  ".join(self.args)


def read_config(path: Path) -> dict[str, Any]:
    """
    :param path: folder of an initialization
    :return: all of its ``config.json``
    :raises InitializationError: if it is missing, foreign, damaged, or from a later version
    """
    try:
        config = read_object(read_file(path / "config.json", MOST_BYTES["config.json"]))
    except FileNotFoundError:
        raise InitializationError(f"{path} is no initialization: config.json is missing") from None
    except NotADirectoryError:
        raise InitializationError(
            f"{path} is a file, not the folder of an initialization: leap-rl zoo import makes one of an agent's zip"
        ) from None
    except (OSError, ValueError) as error:
        raise InitializationError(f"{path} can't be read: {error}") from None
    if config.get("format") != FORMAT:
        raise InitializationError(f"{path}/config.json was not written by leap_rl: no initialization")
    version = config.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise InitializationError(
            f"{path} has format version {printable(version, 40)}, this leap_rl reads {FORMAT_VERSION}: "
            "install a newer leap_rl"
        )
    try:
        check_config(config)
    except ValueError as error:
        raise InitializationError(f"{path}/config.json can't be used: {error}") from None
    return config


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def is_count(value: Any) -> TypeGuard[int]:
    """Whether it is a number of steps, or of anything else that is counted."""
    return type(value) is int and 0 <= value < 10**15


_FIELDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("network", "preprocessing", "source"), _is_text),
    **dict.fromkeys(("tasks", "action_meanings"), _are_texts),
    **dict.fromkeys(("timesteps", "meta_steps", "meta_batch_size", "steps_per_visit"), is_count),
    **dict.fromkeys(("averaged_from", "recycled_units"), is_count),
    "learner": lambda value: value is None or (isinstance(value, dict) and _is_text(value.get("name", ""))),
    "started_from": lambda value: isinstance(value, dict),
}
"""What of a config others read, and what they may count on, where it is there. The rest is kept as it is."""


def lineage(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """An initialization's config, that of what it started from, and so on, as far as they are recorded."""
    learned: Any = config
    while isinstance(learned, Mapping):
        yield learned
        learned = learned.get("started_from")


def check_config(config: Mapping[str, Any]) -> None:
    """:raises ValueError: naming what is not as leap_rl writes it"""
    if not _is_text(config.get("scope")):
        raise ValueError(f"scope is {printable(config.get('scope'), 80)!r}, not as leap_rl writes it")
    for learned in lineage(config):
        for key, is_good in _FIELDS.items():
            if key in learned and not is_good(learned[key]):
                raise ValueError(f"{key} is {printable(learned[key], 80)!r}, not as leap_rl writes it")


def check_kind(name: str, dtype: Any, shape: Any) -> None:
    """
    :param dtype: by the name of safetensors
    :raises ValueError: for a tensor that is none of an initialization
    """
    if not name.isprintable():
        raise ValueError(f"{name!r} is no name of a tensor")
    known = BUFFERS if name.startswith(BUFFER) else PARAMETERS
    if not isinstance(dtype, str) or dtype not in known:
        raise ValueError(f"{name} is {printable(dtype, 40)}, but may be {', '.join(known)}: convert it before, to F32")
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"{name} has shape {printable(shape, 80)}: up to 8 dimensions, none of them empty")


def check_header(data: bytes) -> None:
    """
    :param data: that safetensors wrote
    :raises ValueError: for what is none, and for tensors that are none of an initialization
    """
    # safetensors itself takes the last of two tensors of one name, and has types that torch has not.
    length = int.from_bytes(data[:8], "little")
    if length > MOST_BYTES["config.json"]:
        raise ValueError("it is damaged: its header has no end")
    try:
        header = read_object(data[8 : 8 + length])
    except ValueError as error:
        raise ValueError(f"it is damaged: {error}") from None
    for name, described in header.items():
        if name != "__metadata__":
            known = described if isinstance(described, dict) else {}
            check_kind(name, known.get("dtype"), known.get("shape"))
