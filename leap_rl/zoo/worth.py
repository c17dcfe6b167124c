"""What the initializations that come with this package are for, and what they were found to be worth."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from leap_rl.zoo.artifacts import PUBLISHED


@dataclass(frozen=True)
class Worth:
    """
    :param what_for: agent, tasks and observations that it was learned for
    :param gain: area under the learning curve above a random policy's, by that of random weights, on games that it
        never saw: the estimate and its 95 % interval
    :param measured: on which games, after how many steps, and of how many meta-trainings
    :param recommended: whether it passed the test that was planned for it
    """

    what_for: str
    gain: tuple[float, float, float]
    measured: str
    recommended: bool = False

    @property
    def said(self) -> str:
        estimate, low, high = self.gain
        return f"{estimate:.2f} ({low:.2f} to {high:.2f})"

    @property
    def verdict(self) -> str:
        """Whether the interval says that it helps."""
        _, low, high = self.gain
        if self.recommended:
            return "recommended"
        return "helps" if low > 1 else "harms" if high < 1 else "not shown"


def worths() -> dict[str, Worth]:
    """By name. An initialization that was pulled or imported is not among them: its card says what its author found."""
    entries = yaml.safe_load((PUBLISHED.parent / "worth.yaml").read_text(encoding="utf-8"))
    return {
        name: Worth(entry["for"], tuple(entry["gain"]), entry["measured"], entry.get("recommended", False))
        for name, entry in entries.items()
    }
