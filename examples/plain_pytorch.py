"""Leap in plain PyTorch, without SB3: sinusoids that differ in amplitude and phase, 10 updates each. A minute."""

import math

import torch
from torch import nn

from leap_rl.core import GradientPath, Initialization

META_STEPS = 300

torch.manual_seed(0)
start = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
network = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
meta_optimizer = torch.optim.Adam(start.parameters(), lr=0.01)


def learn_sinusoid() -> tuple[GradientPath, float]:
    """Ten updates on a new one from the initialization: the path that they took, and the error that is left."""
    network.load_state_dict(start.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02)
    path = GradientPath(dict(network.named_parameters()), metric="length")
    path.attach(optimizer)
    amplitude, phase = 0.1 + 4.9 * torch.rand(1), math.pi * torch.rand(1)
    for _ in range(10):
        x = 10 * torch.rand(10, 1) - 5
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(x), amplitude * torch.sin(x + phase))
        path.backward(loss)
        optimizer.step()
    x = torch.linspace(-5, 5, 101)[:, None]
    return path, nn.functional.mse_loss(network(x), amplitude * torch.sin(x + phase)).item()


for step in range(META_STEPS):
    visits = [learn_sinusoid() for _ in range(4)]
    for name, parameter in start.named_parameters():
        parameter.grad = torch.stack([path.meta_gradient()[name] for path, _ in visits]).mean(0).to(parameter.dtype)
    meta_optimizer.step()
    if step % 50 == 0 or step == META_STEPS - 1:
        errors = [learn_sinusoid()[1] for _ in range(50)]
        print(f"{step + 1} meta steps: mean squared error {sum(errors) / 50:.2f} after 10 updates")
Initialization.of(start, "all").save("sinusoids")
