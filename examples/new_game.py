"""Start an Atari game from an initialization of the zoo. A plain SB3 agent, which SB3 alone can load again."""

from stable_baselines3 import A2C

import zoo
from leap_rl import make_atari_env

TIMESTEPS = 200_000

env = make_atari_env("Breakout", n_envs=8, seed=0)
model = A2C("CnnPolicy", env, ent_coef=0.01, vf_coef=0.25, tensorboard_log="runs", seed=0)
zoo.load("atari-a2c-reptile").apply_to(model)  # the encoder; the head stays as it was drawn
model.learn(TIMESTEPS, tb_log_name="from-the-zoo", progress_bar=True)
model.save("breakout")
