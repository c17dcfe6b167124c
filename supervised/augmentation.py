"""Random affine maps of whole batches of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomAffine:
    """
    Every image its own scale, rotation and shift, uniformly drawn.

    :param scale: lowest and highest
    :param degrees: of rotation, lowest and highest
    :param shift: as a share of the image's size, up to so much in each direction
    """

    scale: tuple[float, float] = (0.8, 1.2)
    degrees: tuple[float, float] = (0.0, 360.0)
    shift: float = 0.2

    def maps(self, n: int, generator: torch.Generator) -> Tensor:
        """
        :return: from output to input coordinates in [-1, 1], as ``affine_grid`` takes them, shape (n, 2, 3)
        """
        drawn = torch.rand(4, n, generator=generator)
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * drawn[0]
        angle = torch.deg2rad(self.degrees[0] + (self.degrees[1] - self.degrees[0]) * drawn[1])
        shift = (2 * drawn[2:] - 1) * 2 * self.shift  # the image is 2 wide in these coordinates
        # What moves an image by A and t is looked up at A⁻¹(x - t).
        cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
        inverse = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
        return torch.cat([inverse, -inverse @ shift.T[:, :, None]], dim=-1)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """
        :param images: shape (batch, channels, height, width); what comes from outside is 0
        :param generator: on the CPU
        """
        grid = torch.nn.functional.affine_grid(
            self.maps(len(images), generator).to(images), list(images.shape), align_corners=False
        )
        return torch.nn.functional.grid_sample(images, grid, align_corners=False)
