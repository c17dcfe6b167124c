"""What goes into a config, as JSON can hold it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ADDRESS = re.compile(r"\b0x[0-9a-f]+")
"""In what an object says of itself: another one in each process."""


def as_json(value: Any) -> Any:
    """
    What JSON can hold as it is, numbers and arrays of NumPy and torch included; of all else what it is called, and what
    it says of itself.
    """
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return as_json(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)  # JSON has no infinity
    if isinstance(value, int | str | bool | None):
        return value
    if isinstance(value, Mapping):
        return {str(key): as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    if isinstance(value, torch.dtype | torch.device | os.PathLike):
        return str(value)
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    kind = type(value)
    # What it was made with, where that is said: SB3's schedules and noise do.
    said = "" if kind.__repr__ is object.__repr__ else " ".join(repr(value).split())[:500]
    return f"{kind.__module__}.{kind.__qualname__}" + (f": {said}" if said and not _ADDRESS.search(said) else "")
