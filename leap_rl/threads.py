"""Threads that wait for work, and the cores that they wait on."""

import os


def sleep_when_idle() -> None:
    """
    Have the threads of GNU's OpenMP, which torch computes with, sleep soon after they ran out of work.

    By default they spin for milliseconds first, on the cores that a game's own threads then need: of two cores that
    takes a tenth of a training step's time. What is between two operations of a network, they still spin through.
    It is read when torch is imported, so call it before; a choice of the user's is kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
