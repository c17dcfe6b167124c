"""``leap-rl games``"""

from __future__ import annotations

from leap_rl.atari import POOLS, all_games


def games() -> None:
    """Print the pools, and all games."""
    print("Pools, which --games takes like a game:")
    for name, pool in POOLS.items():
        print(f"  {name} ({len(pool)}): {' '.join(pool)}")
    print(f"\nAll games ({len(all_games())}):\n  {' '.join(all_games())}")
