"""
A first meta-training: CartPoles that differ in pole, push, gravity and the meaning of their actions.

Some ten minutes on two cores. Then one that was not learned from, from the initialization and from random weights.
"""

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from leap_rl import Leap, LeapPPO, MetaTrainer
from leap_rl.families import CARTPOLE

VISIT, META_STEPS = 6_144, 25

ppo = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8, "learning_rate": 1e-3}
trainer = MetaTrainer(
    CARTPOLE.tasks("training", LeapPPO, timesteps=VISIT, algorithm_kwargs=ppo),
    Leap(metric="length", loss_scale=0.005),
    meta_batch_size=6,
    meta_optimizer_kwargs={"lr": 0.05},
    # The initialization from which variants that are never learned from are learned best.
    eval_tasks=CARTPOLE.tasks("validation", LeapPPO, timesteps=VISIT, algorithm_kwargs=ppo),
    eval_freq=5,
    tensorboard_log="runs",
    seed=0,
)
trainer.learn(META_STEPS, progress_bar=True)
trainer.best_initialization.save("cartpoles")

unseen = make_vec_env(CARTPOLE.envs("test")["cartpole/test-0"], n_envs=8)
for start in ("random weights", "the initialization"):
    model = PPO("MlpPolicy", unseen, seed=0, **ppo)
    if start == "the initialization":
        trainer.best_initialization.apply_to(model)
    model.learn(VISIT)
    mean, _ = evaluate_policy(model, unseen, n_eval_episodes=20)
    print(f"{VISIT:,} steps from {start}: a mean return of {mean:.0f}")
