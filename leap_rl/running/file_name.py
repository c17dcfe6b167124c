"""The name of anything as that of a file or folder."""

from __future__ import annotations

import hashlib
import re

LONGEST = 100
"""Bytes: two of them, and some words, are a file name, which may have 255."""

# What no system takes as it is: Windows keeps these for devices, with any ending, and drops dots and spaces at the end.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d) *(\.|$)", re.IGNORECASE)
_PLAIN = frozenset(" ()[]{},;=+-_.@!#$&'~^")


def file_name(name: str) -> str:
    """
    A part of a path that stays in its folder. What is ordinary is as it was; the rest is encoded as in URLs, and cut if
    it is long. No two names have the same.

    :param name: any text, the empty one included
    """
    encoded = "".join(c if c.isalnum() or c in _PLAIN else _encoded(c) for c in name)
    if _RESERVED.match(encoded) or encoded[:1] in (".", " "):
        encoded = _encoded(name[0]) + encoded[1:]
    if encoded[-1:] in (".", " "):
        encoded = encoded[:-1] + _encoded(name[-1])
    in_bytes = encoded.encode()
    if len(in_bytes) > LONGEST or not name:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        kept = in_bytes[: LONGEST - len(digest) - 2].decode(errors="ignore")
        return f"{kept}%-{digest}"  # no encoding has that sign before a dash
    return encoded


def _encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
