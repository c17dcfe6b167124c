"""A2C, observed."""

from stable_baselines3 import A2C

from leap_rl.agents.observed import ObservedTraining


class LeapA2C(ObservedTraining, A2C):
    """
    SB3's A2C, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``stable_baselines3.A2C`` takes, and ``learner`` and ``scope`` (see ``ObservedTraining``).
    """
