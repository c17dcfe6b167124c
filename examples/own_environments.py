"""
Meta-training on environments of your own: pendulums with other masses and lengths. Minutes on two cores.

What makes an environment may be a function of this very script: it reaches the worker processes.
"""

from functools import partial

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from leap_rl import EnvTasks, Leap, LeapPPO, MetaTrainer

VISIT, META_STEPS = 20_000, 20


def make_pendulum(mass: float, length: float) -> gym.Env:
    env = gym.make("Pendulum-v1")
    env.unwrapped.m, env.unwrapped.l = mass, length
    return env


ppo = {"n_steps": 256, "batch_size": 256, "gae_lambda": 0.95, "gamma": 0.9, "n_epochs": 10, "learning_rate": 1e-3}
pendulums = {f"{m} kg, {x} m": partial(make_pendulum, m, x) for m in (0.5, 1.0, 1.5) for x in (0.6, 1.0, 1.4)}
tasks = EnvTasks(LeapPPO, "MlpPolicy", pendulums, timesteps=VISIT, n_envs=4, algorithm_kwargs=ppo)
learner = Leap(metric="length", loss_scale=0.005)
trainer = MetaTrainer(tasks, learner, meta_batch_size=4, meta_optimizer_kwargs={"lr": 0.02}, run_dir="runs/pendulums")
trainer.learn(META_STEPS, progress_bar=True)
trainer.initialization.save("pendulums")

model = PPO("MlpPolicy", make_vec_env(partial(make_pendulum, 1.2, 0.8), n_envs=4), **ppo)
trainer.initialization.apply_to(model)
model.learn(VISIT, progress_bar=True)
model.save("unseen-pendulum")
