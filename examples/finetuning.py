"""
Fine-tune an initialization by a strategy: the head alone for a tenth of the steps, then all of it, near the start.

`docs/finetuning.md` has the other strategies. Always compare with the plainest: no callback at all.
"""

from stable_baselines3 import A2C

import zoo
from leap_rl import make_atari_env
from leap_rl.core import LPFT, TowardsStart
from leap_rl.transfer import FineTune

TIMESTEPS = 100_000

env = make_atari_env("Assault", n_envs=8, seed=0)
for name, strategies in {"plain": (), "lp-ft": (LPFT(probe=0.1), TowardsStart(1e-4))}.items():
    model = A2C("CnnPolicy", env, ent_coef=0.01, vf_coef=0.25, tensorboard_log="runs", seed=0)
    zoo.load("atari-a2c-reptile").apply_to(model)
    model.learn(TIMESTEPS, callback=FineTune(*strategies), tb_log_name=name, progress_bar=True)
    model.save(name)
