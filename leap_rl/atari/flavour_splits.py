"""
The flavours of games, split once and for all: what is meta-trained on, what recipes are chosen on, and what is judged.

The default flavour is for training, since that is what people train. Of the others, in the order of ALE's modes and
difficulties, ``numpy.random.default_rng(0).permutation`` puts the first quarter (two at least) into the test, the
next 15 % (two at least) into the validation and the rest into the training split; of a game with eight flavours one
is for validation.
"""

from typing import Literal

Split = Literal["train", "validation", "test"]

SPLITS: dict[str, dict[Split, tuple[str, ...]]] = {
    "SpaceInvaders": {
        "train": (
            "SpaceInvaders",
            "SpaceInvaders-d1",
            "SpaceInvaders-m1",
            "SpaceInvaders-m3",
            "SpaceInvaders-m4",
            "SpaceInvaders-m4-d1",
            "SpaceInvaders-m5",
            "SpaceInvaders-m6-d1",
            "SpaceInvaders-m7",
            "SpaceInvaders-m7-d1",
            "SpaceInvaders-m8",
            "SpaceInvaders-m9",
            "SpaceInvaders-m10",
            "SpaceInvaders-m10-d1",
            "SpaceInvaders-m11-d1",
            "SpaceInvaders-m12-d1",
            "SpaceInvaders-m14",
            "SpaceInvaders-m14-d1",
            "SpaceInvaders-m15-d1",
        ),
        "validation": (
            "SpaceInvaders-m2",
            "SpaceInvaders-m3-d1",
            "SpaceInvaders-m9-d1",
            "SpaceInvaders-m12",
            "SpaceInvaders-m13-d1",
        ),
        "test": (
            "SpaceInvaders-m1-d1",
            "SpaceInvaders-m2-d1",
            "SpaceInvaders-m5-d1",
            "SpaceInvaders-m6",
            "SpaceInvaders-m8-d1",
            "SpaceInvaders-m11",
            "SpaceInvaders-m13",
            "SpaceInvaders-m15",
        ),
    },
    "Breakout": {
        "train": (
            "Breakout",
            "Breakout-d1",
            "Breakout-m4",
            "Breakout-m12",
            "Breakout-m16",
            "Breakout-m16-d1",
            "Breakout-m20",
            "Breakout-m24-d1",
            "Breakout-m28",
            "Breakout-m28-d1",
            "Breakout-m32",
            "Breakout-m32-d1",
            "Breakout-m36",
            "Breakout-m44-d1",
        ),
        "validation": (
            "Breakout-m8",
            "Breakout-m12-d1",
            "Breakout-m40",
            "Breakout-m44",
        ),
        "test": (
            "Breakout-m4-d1",
            "Breakout-m8-d1",
            "Breakout-m20-d1",
            "Breakout-m24",
            "Breakout-m36-d1",
            "Breakout-m40-d1",
        ),
    },
    "Freeway": {
        "train": (
            "Freeway",
            "Freeway-m1",
            "Freeway-m3",
            "Freeway-m3-d1",
            "Freeway-m4",
            "Freeway-m4-d1",
            "Freeway-m5",
            "Freeway-m6-d1",
            "Freeway-m7",
            "Freeway-m7-d1",
        ),
        "validation": (
            "Freeway-d1",
            "Freeway-m2-d1",
        ),
        "test": (
            "Freeway-m1-d1",
            "Freeway-m2",
            "Freeway-m5-d1",
            "Freeway-m6",
        ),
    },
    "AirRaid": {
        "train": (
            "AirRaid",
            "AirRaid-m2",
            "AirRaid-m3",
            "AirRaid-m7",
            "AirRaid-m8",
        ),
        "validation": ("AirRaid-m5",),
        "test": (
            "AirRaid-m4",
            "AirRaid-m6",
        ),
    },
    "CrazyClimber": {
        "train": (
            "CrazyClimber",
            "CrazyClimber-d1",
            "CrazyClimber-m1",
            "CrazyClimber-m3",
            "CrazyClimber-m3-d1",
        ),
        "validation": ("CrazyClimber-m2",),
        "test": (
            "CrazyClimber-m1-d1",
            "CrazyClimber-m2-d1",
        ),
    },
    "Galaxian": {
        "train": (
            "Galaxian",
            "Galaxian-m2",
            "Galaxian-m4",
            "Galaxian-m4-d1",
            "Galaxian-m5-d1",
            "Galaxian-m6",
            "Galaxian-m7-d1",
            "Galaxian-m8",
            "Galaxian-m8-d1",
            "Galaxian-m9",
            "Galaxian-m9-d1",
        ),
        "validation": (
            "Galaxian-d1",
            "Galaxian-m3-d1",
            "Galaxian-m5",
        ),
        "test": (
            "Galaxian-m2-d1",
            "Galaxian-m3",
            "Galaxian-m6-d1",
            "Galaxian-m7",
        ),
    },
    "BankHeist": {
        "train": (
            "BankHeist",
            "BankHeist-d1",
            "BankHeist-d2",
            "BankHeist-m4-d2",
            "BankHeist-m8",
            "BankHeist-m8-d1",
            "BankHeist-m8-d2",
            "BankHeist-m12-d1",
            "BankHeist-m12-d2",
            "BankHeist-m12-d3",
            "BankHeist-m16",
            "BankHeist-m16-d2",
            "BankHeist-m20",
            "BankHeist-m20-d1",
            "BankHeist-m20-d3",
            "BankHeist-m24-d1",
            "BankHeist-m28",
            "BankHeist-m28-d1",
            "BankHeist-m28-d3",
        ),
        "validation": (
            "BankHeist-m4",
            "BankHeist-m4-d3",
            "BankHeist-m16-d3",
            "BankHeist-m24",
            "BankHeist-m24-d3",
        ),
        "test": (
            "BankHeist-d3",
            "BankHeist-m4-d1",
            "BankHeist-m8-d3",
            "BankHeist-m12",
            "BankHeist-m16-d1",
            "BankHeist-m20-d2",
            "BankHeist-m24-d2",
            "BankHeist-m28-d2",
        ),
    },
    "Berzerk": {
        "train": (
            "Berzerk",
            "Berzerk-m3",
            "Berzerk-m5",
            "Berzerk-m7",
            "Berzerk-m16",
            "Berzerk-m17",
            "Berzerk-m18",
        ),
        "validation": (
            "Berzerk-m2",
            "Berzerk-m4",
        ),
        "test": (
            "Berzerk-m6",
            "Berzerk-m8",
            "Berzerk-m9",
        ),
    },
    "Turmoil": {
        "train": (
            "Turmoil",
            "Turmoil-m1",
            "Turmoil-m2",
            "Turmoil-m6",
            "Turmoil-m8",
        ),
        "validation": (
            "Turmoil-m4",
            "Turmoil-m7",
        ),
        "test": (
            "Turmoil-m3",
            "Turmoil-m5",
        ),
    },
    "YarsRevenge": {
        "train": (
            "YarsRevenge",
            "YarsRevenge-d1",
            "YarsRevenge-m32",
            "YarsRevenge-m96",
            "YarsRevenge-m96-d1",
        ),
        "validation": ("YarsRevenge-m64",),
        "test": (
            "YarsRevenge-m32-d1",
            "YarsRevenge-m64-d1",
        ),
    },
}
