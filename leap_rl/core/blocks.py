"""The named blocks of a network: what a strategy slows or freezes, and what is transferred alone."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

HEAD = "head"
"""The block of all that is not the encoder; of a network without one, of its outputs."""

READ_ON = ("mlp_extractor.", "actor.latent_pi")
"""Stacks of SB3's policies whose last layer is no output, since others read it."""
MEMORY = ("lstm_actor", "lstm_critic", "critic")
"""Layers of a recurrent policy, which its stacks read."""
POLICIES = ("mlp_extractor.", "q_net.", "quantile_net.", "actor.", "critic.")
"""What names of SB3's policies for vectors begin with."""


def layer_of(name: str) -> str:
    """:param name: of a parameter or a buffer"""
    return name.rpartition(".")[0] or name


def block_of_layers(parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """
    A layer of the encoder is a block, and one that holds vectors alone (a normalization) belongs to that before it.
    What lies on the encoder itself is one, too, of its name. All that is not the encoder is one block, the head.

    SB3's policies for vectors have no encoder. Their hidden layers of the same depth are a block, in actor and critic
    alike: ``"hidden.0"``, ``"hidden.1"`` and so on. What computes outputs is the head. So it is of one stack of layers,
    an ``nn.Sequential``. Of another network without an encoder all is head.

    :param parameters: by the names of initializations, from input to output
    :return: block by layer, the head's last
    """
    layers: dict[str, list[Tensor]] = {}
    for name, tensor in parameters.items():
        layers.setdefault(layer_of(name), []).append(tensor)
    inner = _encoder(layers) or _hidden(layers)
    return inner | {layer: HEAD for layer in layers if layer not in inner}


def _encoder(layers: Mapping[str, list[Tensor]]) -> dict[str, str]:
    encoder: dict[str, str] = {}
    last = None
    for layer, tensors in layers.items():
        if layer == "encoder" or layer.startswith("encoder."):
            if last is None or any(t.dim() > 1 for t in tensors):
                last = layer
            encoder[layer] = last
    return encoder


def _hidden(layers: Mapping[str, list[Tensor]]) -> dict[str, str]:
    depths = {layer: 0 for layer in layers if layer in MEMORY}
    behind_memory = bool(depths)
    stacks: dict[str, list[tuple[int, str]]] = {}
    for layer in layers:
        stack, _, number = layer.rpartition(".")
        if number.isdecimal():
            stacks.setdefault(stack, []).append((int(number), layer))
    one_stack = len(stacks) == 1 and len(layers) == sum(map(len, stacks.values()))
    if not (one_stack or any(layer.startswith(POLICIES) for layer in layers)):
        return {}  # of other networks nobody knows which layers are outputs
    for stack, of_stack in stacks.items():
        depth, own = int(behind_memory) - 1, {}
        for _, layer in sorted(of_stack):
            depth += any(t.dim() > 1 for t in layers[layer])
            own[layer] = max(depth, 0)
        is_output = None if f"{stack}.".startswith(READ_ON) else depth
        depths |= {layer: depth for layer, depth in own.items() if depth != is_output}
    return {layer: f"hidden.{depth}" for layer, depth in sorted(depths.items(), key=lambda of: of[1])}


def all_but_head(blocks: Iterable[str]) -> list[str]:
    """Of the encoder, or hidden."""
    return [block for block in blocks if block != HEAD]


def chosen(names: Iterable[str], blocks: Collection[str]) -> list[str]:
    """
    :param names: of blocks, or what their names begin with, such as ``"encoder"`` or ``"encoder.cnn"``
    :param blocks: that there are
    :return: the blocks that are meant, in their own order
    :raises ValueError: for a name that is of none, with the nearest, and for no name
    """
    if isinstance(names, str):
        names = [names]
    meant: set[str] = set()
    for name in names:
        found = [block for block in blocks if block == name or block.startswith(f"{name}.")]
        if not found:
            near = difflib.get_close_matches(name, blocks, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"the network has no block {name!r}: there are {', '.join(blocks)}{hint}")
        meant.update(found)
    if not meant:
        raise ValueError(f"no block is named: there are {', '.join(blocks)}")
    return [block for block in blocks if block in meant]
