"""PPO, observed."""

from stable_baselines3 import PPO

from leap_rl.agents.observed import ObservedTraining


class LeapPPO(ObservedTraining, PPO):
    """
    SB3's PPO, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``stable_baselines3.PPO`` takes, and ``learner`` and ``scope`` (see ``ObservedTraining``).
    """
