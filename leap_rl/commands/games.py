"""``leap-rl games``"""

from __future__ import annotations

from leap_rl.atari import FLAVOUR_POOLS, POOLS, all_games


def games(flavours: bool) -> None:
    """
    Print the pools, and all games.

    :param flavours: print the pools of flavours instead
    """
    print("Pools, which --games takes like a game:")
    for name, pool in POOLS.items():
        if (name in FLAVOUR_POOLS) is flavours:
            print(f"  {name} ({len(pool)}): {' '.join(pool)}")
    if not flavours:
        print(f"\nAll games ({len(all_games())}):\n  {' '.join(all_games())}")
        print("\nA game in another mode, at another difficulty: SpaceInvaders-m3-d1. --flavours has pools of them.")
