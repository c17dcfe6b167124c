"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """
    With two threads torch splits sums in another way, and an A2C run ends in other bits than with one. Tasks always
    run with one thread, in worker processes and in this one, so what a test computes here to compare with them must
    have one too.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real image data that ``LEAP_RL_DATA`` names. CONTRIBUTING.md has its layout."""
    name = os.environ.get("LEAP_RL_DATA")
    if not name:
        pytest.skip("needs real image data: set LEAP_RL_DATA to its folder")
    folder = Path(name).resolve()
    if not folder.is_dir():
        # A wrong name must not look like no name.
        pytest.fail(f"LEAP_RL_DATA is {name!r}, which is no folder")
    return folder
