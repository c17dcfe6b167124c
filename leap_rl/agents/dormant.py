"""Recycling dormant neurons, between tasks."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from leap_rl.agents.tasks import EnvTask, EnvTasks
from leap_rl.core import Initialization, MetaCallback, TaskFamily
from leap_rl.core.blocks import block_of_layers

FRAMES = 64
"""Of each task."""


class RecycleDormant(MetaCallback):
    """
    Before each meta step, draw anew the units of an encoder of images that are positive on no observation of any
    task. They compute nothing and, as a ReLU has no gradient there, learn nothing: the dormant neurons of Sokar et
    al. (*The Dormant Neuron Phenomenon in Deep Reinforcement Learning*, ICML 2023), with a threshold of 0.
    Observations are those of random actions, drawn once. The heads, which read the encoder, are drawn anew at every
    visit to a task, so they need no care.

    Of one θ⁰ always the same is made, so a run that is resumed has the same bits.
    """

    @staticmethod
    def check(tasks: TaskFamily, initialization: Initialization, average_from: int | None = None) -> None:
        """
        :param tasks: to learn from
        :param initialization: of them
        :param average_from: as ``MetaTrainer`` takes it
        :raises ValueError: for another scope than ``"encoder"``, another network than convolutions and one linear
            layer, named as those of SB3's ``NatureCNN``, and a θ⁰ that is averaged
        """
        scope = initialization.scope
        if not isinstance(tasks, EnvTasks) or scope != "encoder":
            raise ValueError(f"dormant units are recycled in the encoder of images, not in the scope {scope!r}")
        if not all(name.startswith(("encoder.cnn.", "encoder.linear.")) for name in initialization.parameters):
            network = initialization.config["network"]
            raise ValueError(f"dormant units of {network} can't be recycled: its layers are not cnn and linear")
        if any(layer != block for layer, block in block_of_layers(initialization.parameters).items()):
            network = initialization.config["network"]
            raise ValueError(f"dormant units of {network} can't be recycled: a normalization follows its layers")
        if average_from is not None:
            raise ValueError("dormant units can't be recycled in a θ⁰ that is averaged: leave one of the two out")

    def _on_training_start(self) -> None:
        trainer, tasks = self.trainer, self.trainer.tasks
        self.check(tasks, trainer.initialization, trainer.settings.average_from)
        assert isinstance(tasks, EnvTasks)
        trainer.config.setdefault("recycled_units", 0)
        first = tasks[0]
        env = first.make_vec_env("encoder", 1)
        kwargs = {name: value for name, value in first.algorithm_kwargs.items() if name != "arithmetic"}
        self.model = dataclasses.replace(first, algorithm_kwargs=kwargs).make_model(
            env, 1, "encoder", trainer.settings.seed
        )
        env.close()
        frames = np.concatenate([random_observations(task, FRAMES, trainer.settings.seed) for task in tasks])
        policy = self.model.policy
        observations = preprocess_obs(torch.as_tensor(frames), policy.observation_space, policy.normalize_images)
        assert isinstance(observations, Tensor)
        self.observations = observations

    def _on_rollout_start(self) -> None:
        trainer = self.trainer
        # The first there is: a target network, which has another, is filled with it.
        encoder = next(m for m in self.model.policy.modules() if isinstance(m, BaseFeaturesExtractor))
        trainer.tasks.draw_initialization("encoder", trainer.settings.seed + trainer.meta_step).apply_to(self.model)
        random = copy.deepcopy(encoder)
        current = trainer.initialization
        current.apply_to(self.model)
        recycled = recycle(encoder, random, self.observations)
        if recycled:
            trainer.initialization = Initialization.of(self.model, "encoder", current.config)
            trainer.config["recycled_units"] += recycled
        trainer.logger.record("meta/recycled_units", recycled)


def random_observations(task: EnvTask, n: int, seed: int) -> np.ndarray:
    """
    Observations of random actions, every fifth.

    :param task: whose environments
    :param n: how many
    :param seed: of actions and environments
    :return: as the network sees them, so images channels first; shape ``(n, *observation)``
    """
    env = BaseAlgorithm._wrap_env(task.make_vec_env("encoder", min(8, task.n_envs)))
    env.seed(seed)
    env.action_space.seed(seed)
    seen = [np.array(env.reset())]
    while len(seen) * env.num_envs < n:
        for _ in range(5):
            observations = env.step(np.array([env.action_space.sample() for _ in range(env.num_envs)]))[0]
        seen.append(np.array(observations))
    env.close()
    return np.concatenate(seen)[:n]


@torch.no_grad()
def recycle(encoder: nn.Module, random: nn.Module, observations: Tensor) -> int:
    """
    Give each unit that is positive nowhere the weights of a random one, in the size that gives it the activations that
    it would have in a random network. What reads it is set to zero, so that no other feature changes.

    :param encoder: with ``cnn`` and ``linear``, each layer followed by a ReLU
    :param random: another of its kind, as it was drawn
    :param observations: as the encoder takes them, shape ``(n, ...)``
    :return: how many units
    """
    layers, drawn = _layers(encoder), _layers(random)
    inputs, dead = _activity(encoder, observations)
    random_inputs, _ = _activity(random, observations)
    for index, (layer, fresh) in enumerate(zip(layers, drawn, strict=True)):
        scale = random_inputs[index] / inputs[index] if inputs[index] > 0 else 1.0
        layer.weight[dead[index]] = scale * fresh.weight[dead[index]]
        if layer.bias is not None and fresh.bias is not None:
            layer.bias[dead[index]] = fresh.bias[dead[index]]
        if index + 1 < len(layers):
            # A linear layer reads all places of a filter, filter by filter.
            reader = layers[index + 1].weight
            reader.view(len(reader), len(dead[index]), -1)[:, dead[index]] = 0
    return int(sum(d.sum() for d in dead))


def _layers(encoder: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [m for m in (*encoder.cnn, *encoder.linear) if isinstance(m, nn.Conv2d | nn.Linear)]  # type: ignore[misc]


def _activity(encoder: nn.Module, observations: Tensor) -> tuple[list[float], list[Tensor]]:
    """Of each layer the root mean square of its input, and which of its units are positive nowhere."""
    inputs: list[float] = []
    dead: list[Tensor] = []

    def observe(layer: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        inputs.append(float(given[0].square().mean().sqrt()))
        dead.append(output.transpose(0, 1).flatten(1).amax(dim=1) <= 0)

    handles = [layer.register_forward_hook(observe) for layer in _layers(encoder)]
    encoder(observations)
    for handle in handles:
        handle.remove()
    return inputs, dead
