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
    :param recommended: whether it passed the test that was planned for it
    """

    what_for: str
    gain: tuple[float, float, float]
    recommended: bool = False

    @property
    def said(self) -> str:
        """The gain, and whether its interval says that it helps."""
        estimate, low, high = self.gain
        verdict = "helps" if low > 1 else "harms" if high < 1 else "not shown"
        return f"{estimate:.2f} ({low:.2f} to {high:.2f}), {verdict}"


def worths() -> dict[str, Worth]:
    """By name. An initialization that was pulled or imported is not among them: its card says what its author found."""
    entries = yaml.safe_load((PUBLISHED.parent / "worth.yaml").read_text(encoding="utf-8"))
    return {
        name: Worth(entry["for"], tuple(entry["gain"]), entry.get("recommended", False))
        for name, entry in entries.items()
    }
