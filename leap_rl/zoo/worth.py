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
    :param lead: where random weights are not clearly above a random policy, in place of the gain: area less theirs, in
        standard deviations of their seeds, with the interval of that difference
    :param measured: on which games, after how many steps, and of how many meta-trainings
    :param recommended: whether it is ahead of random weights by what was planned; by an interval, where the plan has no
        threshold for a lead
    """

    what_for: str
    measured: str
    gain: tuple[float, float, float] | None = None
    lead: tuple[float, float, float] | None = None
    recommended: bool = False

    @property
    def said(self) -> str:
        if self.gain is None:
            assert self.lead is not None
            return "{:+.2g} SD ({:.2g} to {:.2g})".format(*self.lead)
        return "{:.2f} ({:.2f} to {:.2f})".format(*self.gain)

    @property
    def order(self) -> tuple[bool, str, float]:
        """What is recommended comes first, then what it is for, then what gains most."""
        return not self.recommended, self.what_for, -(self.gain or self.lead or (0.0,))[0]

    @property
    def verdict(self) -> str:
        """Whether the interval says that it helps."""
        if self.recommended:
            return "recommended"
        _, low, high = self.gain or self.lead or (0.0, 0.0, 0.0)
        none = 0 if self.gain is None else 1
        return "helps" if low > none else "harms" if high < none else "not shown"


def worths() -> dict[str, Worth]:
    """By name. An initialization that was pulled or imported is not among them: its card says what its author found."""
    entries = yaml.safe_load((PUBLISHED.parent / "worth.yaml").read_text(encoding="utf-8"))
    return {
        name: Worth(
            entry["for"],
            entry["measured"],
            gain=tuple(entry["gain"]) if "gain" in entry else None,
            lead=tuple(entry["lead"]) if "lead" in entry else None,
            recommended=entry.get("recommended", False),
        )
        for name, entry in entries.items()
    }
