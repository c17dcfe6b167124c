"""
PPO in one file, in the manner of CleanRL: no library between the loop, the network and EnvPool.

As such scripts do, it takes EnvPool's steps as they come: the step after the end of an episode only begins the next
one, whatever the action, and is learned from like any other. Settings are those of SB3's PPO, so that scores at equal
steps compare what was written, not what was set.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from answering import answer
from envpool_games import make_pool
from torch import Tensor, nn


def initialized(layer: Any, gain: float) -> Any:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Network(nn.Module):
    """The convolutions of Mnih et al. (2015), with a policy and a value on their features."""

    def __init__(self, n_actions: int) -> None:
        super().__init__()
        gain = 2**0.5
        self.features = nn.Sequential(
            initialized(nn.Conv2d(4, 32, 8, stride=4), gain),
            nn.ReLU(),
            initialized(nn.Conv2d(32, 64, 4, stride=2), gain),
            nn.ReLU(),
            initialized(nn.Conv2d(64, 64, 3), gain),
            nn.ReLU(),
            nn.Flatten(),
            initialized(nn.Linear(64 * 7 * 7, 512), gain),
            nn.ReLU(),
        )
        self.policy = initialized(nn.Linear(512, n_actions), 0.01)
        self.value = initialized(nn.Linear(512, 1), 1.0)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """:return: logarithms of the actions' probabilities, and values"""
        features = self.features(observations.float() / 255)
        return self.policy(features).log_softmax(dim=1), self.value(features).squeeze(1)


class PPO:
    def __init__(
        self,
        game: str,
        n_envs: int,
        seed: int,
        threads: int,
        n_steps: int,
        batch_size: int,
        n_epochs: int,
        learning_rate: float = 3e-4,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float = 0.2,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
    ) -> None:
        torch.manual_seed(seed)
        self.envs = make_pool(game, n_envs, seed, threads)
        self.network = Network(int(self.envs.action_space.n))
        self.optimizer = torch.optim.Adam(self.network.parameters(), learning_rate, eps=1e-5)
        self.n_envs, self.n_steps, self.batch_size, self.n_epochs = n_envs, n_steps, batch_size, n_epochs
        self.gamma, self.gae_lambda, self.clip_range = gamma, gae_lambda, clip_range
        self.ent_coef, self.vf_coef, self.max_grad_norm = ent_coef, vf_coef, max_grad_norm

        shape = n_steps, n_envs
        self.observations = torch.zeros((*shape, 4, 84, 84), dtype=torch.uint8)
        self.actions = torch.zeros(shape, dtype=torch.int64)
        self.log_probs, self.rewards, self.values, self.ended = (torch.zeros(shape) for _ in range(4))
        self.observation = torch.from_numpy(self.envs.reset()[0])
        self.steps = 0
        self.running = np.zeros(n_envs)  # returns of the games that go on
        self.returns: deque[float] = deque(maxlen=100)

    def learn(self, steps: int) -> None:
        until = self.steps + steps
        while self.steps < until:
            self.play()
            self.update(self.advantages())

    @torch.no_grad()
    def play(self) -> None:
        for step in range(self.n_steps):
            log_probs, values = self.network(self.observation)
            actions = torch.multinomial(log_probs.exp(), 1)
            self.observations[step] = self.observation
            self.actions[step] = actions.squeeze(1)
            self.log_probs[step] = log_probs.gather(1, actions).squeeze(1)
            self.values[step] = values
            answers = self.envs.step(self.actions[step].numpy().astype(np.int32))
            observation, rewards, terminated, truncated, info = answers
            self.observation = torch.from_numpy(observation)
            self.rewards[step] = torch.from_numpy(rewards)
            self.ended[step] = torch.from_numpy(terminated | truncated).float()
            self.running += info["reward"]
            over = (info["terminated"] != 0) | truncated  # the game, not a life
            self.returns.extend(self.running[over].tolist())
            self.running[over] = 0
            self.steps += self.n_envs

    @torch.no_grad()
    def advantages(self) -> Tensor:
        """Generalized advantage estimates."""
        _, after = self.network(self.observation)
        advantages, summed = torch.zeros_like(self.rewards), torch.zeros(self.n_envs)
        for step in reversed(range(self.n_steps)):
            goes_on = 1 - self.ended[step]
            error = self.rewards[step] + self.gamma * goes_on * after - self.values[step]
            summed = error + self.gamma * self.gae_lambda * goes_on * summed
            advantages[step], after = summed, self.values[step]
        return advantages

    def update(self, advantages: Tensor) -> None:
        returns = (advantages + self.values).flatten()
        observations, actions = self.observations.flatten(0, 1), self.actions.flatten()
        old_log_probs, advantages = self.log_probs.flatten(), advantages.flatten()
        for _ in range(self.n_epochs):
            for batch in torch.randperm(len(returns)).split(self.batch_size):
                log_probs, values = self.network(observations[batch])
                ratio = (log_probs.gather(1, actions[batch, None]).squeeze(1) - old_log_probs[batch]).exp()
                gain = advantages[batch]
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
                policy_loss = -torch.minimum(gain * ratio, gain * clipped).mean()
                value_loss = (values - returns[batch]).square().mean()
                entropy = -(log_probs.exp() * log_probs).sum(dim=1).mean()
                loss = policy_loss + self.vf_coef * value_loss - self.ent_coef * entropy
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
                self.optimizer.step()


def make(settings: dict[str, Any]) -> PPO:
    names = "game", "n_envs", "seed", "threads"
    return PPO(**{name: settings[name] for name in names}, **settings["kwargs"])


if __name__ == "__main__":
    answer(make, ["torch", "envpool", "numpy"])
