"""``python -m leap_rl`` is ``leap-rl``."""

from leap_rl.cli import _script

if __name__ == "__main__":
    _script()
