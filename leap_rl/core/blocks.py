"""The named blocks of a network: what a strategy slows or freezes, and what is transferred alone."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

HEAD = "head"
"""The block of all that is not the encoder; of a network without one, of its outputs."""

READ_ON = ("mlp_extractor", "actor.latent_pi", "lstm_")
"""What names begin with, in SB3's policies, of layers whose last one is no output, since others read it."""


def layer_of(name: str) -> str:
    """:param name: of a parameter or a buffer"""
    return name.rpartition(".")[0] or name


def block_of_layers(parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """
    A layer of the encoder is a block, and one that holds vectors alone (a normalization) belongs to that before it.
    What lies on the encoder itself is one, too, of its name. All that is not the encoder is one block, the head.

    A network without an encoder, for vectors, is one of layers with numbers, such as those of actor and critic. The
    hidden ones of the same depth are a block: ``"hidden.0"``, ``"hidden.1"`` and so on. What computes outputs is the
    head.

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
    stacks: dict[str, list[tuple[int, str]]] = {}
    for layer in layers:
        stack, _, number = layer.rpartition(".")
        if number.isdecimal():
            stacks.setdefault(stack, []).append((int(number), layer))
        elif layer.startswith(READ_ON):
            stacks[layer] = [(0, layer)]
    depths: dict[str, int] = {}
    for stack, of_stack in stacks.items():
        depth, own = -1, {}
        for _, layer in sorted(of_stack):
            depth += any(t.dim() > 1 for t in layers[layer])
            own[layer] = max(depth, 0)
        is_output = -1 if stack.startswith(READ_ON) else depth
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
