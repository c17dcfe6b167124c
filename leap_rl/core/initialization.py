"""An initialization θ⁰: tensors by name, the scope they belong to, on disk and in a model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from leap_rl.core.blocks import block_of_layers, chosen, layer_of
from leap_rl.core.initialization_config import (
    BUFFER,
    FORMAT,
    FORMAT_VERSION,
    MOST_BYTES,
    InitializationError,
    check_config,
    check_header,
    check_kind,
    lineage,
    read_config,
)
from leap_rl.running.files import replacing_folder
from leap_rl.running.outside import first_line, read_file, read_object

DTYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Those that an initialization may hold, by the names of safetensors."""


def versions(*libraries: str) -> dict[str, str]:
    """Of this one, torch and numpy, and of others that decide what is learned, as they are installed."""
    return {library: version(library) for library in ("leap-rl", "torch", "numpy", *libraries)}


def what_learns(config: Mapping[str, Any]) -> dict[str, Any]:
    """
    What tells the tasks of one initialization from those of another: the agent, its settings, what it sees.

    :param config: of an initialization
    :return: as JSON has it, all but what it started from and the versions of libraries: newer ones are no other task
    """
    known: dict[str, Any] = json.loads(json.dumps(config))
    return {key: value for key, value in known.items() if key not in ("started_from", "versions")}


@dataclass
class NamedTensors:
    """
    What a model holds under the names that initializations use.

    :param parameters: name to the tensors that carry it: more than one where a model keeps copies
    :param buffers: the same for buffers (batch norm)
    :param activation: between its layers, as a config names it, where that is known
    """

    parameters: dict[str, list[Tensor]]
    buffers: dict[str, list[Tensor]]
    activation: str | None = None

    def in_scope(self, scope: str) -> NamedTensors:
        """
        :param scope: ``"all"``, or the first part of the names, such as ``"encoder"``
        :raises ValueError: if no parameter is in that scope
        """
        if scope == "all":
            return self

        def keep(tensors: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
            return {name: copies for name, copies in tensors.items() if name.startswith(f"{scope}.")}

        selected = NamedTensors(keep(self.parameters), keep(self.buffers), self.activation)
        if not selected.parameters:
            roots = sorted({name.split(".")[0] for name in self.parameters})
            raise ValueError(f"scope={scope!r} matches no parameter; there are 'all', {', '.join(map(repr, roots))}")
        return selected


@singledispatch
def named_tensors(model: Any) -> NamedTensors:
    """
    Parameters and buffers of a model by the names of initializations. ``leap_rl.transfer`` registers SB3's models.

    :raises TypeError: for what is neither a module nor registered
    """
    raise TypeError(
        f"an initialization can't be applied to {type(model).__name__}: "
        "it takes a torch module, or an SB3 model once leap_rl.transfer is imported"
    )


@named_tensors.register
def _(model: nn.Module) -> NamedTensors:
    return NamedTensors(
        {name: [p] for name, p in model.named_parameters()}, {name: [b] for name, b in model.named_buffers()}
    )


@singledispatch
def fit_head(model: Any, initialization: Initialization, head: str) -> Initialization:
    """
    An initialization whose output layer is that of a model. ``leap_rl.transfer`` registers SB3's models.

    :raises TypeError: for a model of which nothing is known but its names
    """
    raise TypeError(f"head={head!r} is for SB3 models, once leap_rl.transfer is imported, not {type(model).__name__}")


@dataclass
class Initialization:
    """
    A starting point for learning processes.

    :param parameters: tensors by name, meta-learned
    :param scope: which parameters of a model these are: ``"encoder"`` or ``"all"``
    :param buffers: tensors by name that go with them and are not meta-learned (batch norm)
    :param config: where it comes from (algorithm, network, observations, games, learner, steps, seeds, ...), JSON
    """

    parameters: dict[str, Tensor]
    scope: str
    buffers: dict[str, Tensor] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any, scope: str = "all", config: dict[str, Any] | None = None) -> Initialization:
        """
        Copy what a model holds now.

        :param model: a torch module or an SB3 model
        :param scope: what of it
        :param config: where it comes from
        :raises ValueError: if no parameter is in that scope
        """
        tensors = named_tensors(model).in_scope(scope)

        def copies(named: dict[str, list[Tensor]]) -> dict[str, Tensor]:
            return {name: t[0].detach().cpu().clone() for name, t in named.items()}

        return cls(copies(tensors.parameters), scope, copies(tensors.buffers), dict(config or {}))

    def __repr__(self) -> str:
        known = [str(self.config[key]) for key in ("network", "algorithm") if key in self.config]
        values = sum(t.numel() for t in self.parameters.values())
        what = ", ".join([f"{len(self.parameters)} tensors of {values:,} values", *known])
        return f"Initialization(scope={self.scope!r}, {what})"

    def named_tensors(self) -> NamedTensors:
        """As ``check_fits`` takes those of a model."""
        return NamedTensors({n: [t] for n, t in self.parameters.items()}, {n: [t] for n, t in self.buffers.items()})

    def clone(self) -> Initialization:
        return Initialization(
            {n: t.clone() for n, t in self.parameters.items()},
            self.scope,
            {n: t.clone() for n, t in self.buffers.items()},
            dict(self.config),
        )

    @torch.no_grad()
    def apply_to(
        self, model: Any, head: Literal["map", "redraw"] | None = None, layers: Sequence[str] | None = None
    ) -> None:
        """
        Copy θ⁰ into a model; what is not in scope stays the model's own. Every copy that the model keeps of a
        tensor is filled, on its device and converted to its dtype.

        :param model: a torch module or an SB3 model
        :param head: for a head of other actions than the model's: ``"map"`` takes its rows by the meaning of each
            action, ``"redraw"`` leaves the model's own
        :param layers: these blocks alone are copied, and the model keeps its own of the others: names of blocks (a
            layer of the encoder, or ``"head"``; for vectors ``"hidden.0"`` and so on), or what these begin with, as
            ``"encoder.cnn"``; ``None``: all
        :raises InitializationError: if the model's tensors differ in name or shape, or can't hold the values; nothing
            is changed then
        :raises ValueError: for a block that the initialization has not
        """
        if head is not None:
            fit_head(model, self, head).apply_to(model, layers=layers)
            return
        tensors = named_tensors(model)
        part, filled = (self, None) if layers is None else self._of_blocks(layers, tensors)
        part.check_fits(tensors, filled)
        for name, tensor in part.parameters.items():
            for target in tensors.parameters[name]:
                target.copy_(tensor)
        for name, tensor in part.buffers.items():
            for target in tensors.buffers[name]:
                target.copy_(tensor)

    def _of_blocks(self, names: Sequence[str], model: NamedTensors) -> tuple[Initialization, list[str]]:
        """
        :return: some blocks alone, and the model's parameters in them
        """
        # The model's order of layers: on disk they lie by their names. Layers that it has not come in the order of
        # their numbers, so that what the initialization has more in a block is found not to fit.
        block_of = block_of_layers({name: copies[0] for name, copies in model.parameters.items()})
        own = block_of_layers({name: self.parameters[name] for name in sorted(self.parameters, key=_in_order)})
        of_layer = own | block_of
        held = dict.fromkeys(block_of[layer_of(n)] for n in model.parameters if n in self.parameters)
        kept = chosen(names, held)
        also = {block for block in own.values() for name in names if block == name or block.startswith(f"{name}.")}

        def of_blocks(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor for name, tensor in tensors.items() if of_layer.get(layer_of(name)) in {*kept, *also}}

        filled = [name for name in model.parameters if block_of[layer_of(name)] in kept]
        return Initialization(of_blocks(self.parameters), self.scope, of_blocks(self.buffers), self.config), filled

    def check_fits(self, tensors: NamedTensors, filled: Collection[str] | None = None) -> None:
        """
        :param tensors: of a model
        :param filled: parameters of the model that it should fill; ``None``: all that are in its scope
        :raises InitializationError: naming every tensor that is missing, of another shape, or can't hold the values
        """
        differences = []
        for mine, theirs in ((self.parameters, tensors.parameters), (self.buffers, tensors.buffers)):
            for name, tensor in mine.items():
                for target in theirs.get(name, [None]):
                    if misfit := _misfit(tensor, target):
                        differences.append(f"{name} {tuple(tensor.shape)}: {misfit}")
        try:
            unfilled = set(tensors.in_scope(self.scope).parameters if filled is None else filled) - set(self.parameters)
        except ValueError as error:
            differences.append(str(error))
        else:
            differences += [f"{name}: in the model only" for name in sorted(unfilled)]
        learned, here = self._activation(), tensors.activation
        if self.scope != "encoder" and learned and here and learned.rpartition(".")[2] != here.rpartition(".")[2]:
            differences.append(f"activation_fn {learned}: {here} in the model, which policy_kwargs of SB3 changes")
        if differences:
            network, shape = self.config.get("network"), self.config.get("observation_shape")
            which = f" ({network}{f', observations of {shape}' if shape else ''})" if network else ""
            raise InitializationError(
                f"the initialization is for another network{which}, or other actions, for which head='map' and "
                "head='redraw' are (--head); of images, leap_rl.transfer.policy_kwargs asks for the network. Nothing "
                "was changed:",
                *differences,
            )

    def _activation(self) -> str | None:
        """That its agent's settings named, if a class, whoever wrote them."""
        found: Any = self.config
        for key in ("algorithm_kwargs", "policy_kwargs", "activation_fn"):
            found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, str) and ":" not in found and "partial" not in found else None

    def _tensors(self) -> dict[str, Tensor]:
        """
        As they lie on disk.

        :raises ValueError: for one that can't lie there
        """
        tensors = self.parameters | {f"{BUFFER}{n}": t for n, t in self.buffers.items()}
        for name, tensor in tensors.items():
            check_tensor(name, tensor)
        return {n: t.contiguous() for n, t in tensors.items()}

    @property
    def learned_from(self) -> set[str]:
        """Names of the tasks that it was learned from, those of what it started from included, as far as recorded."""
        return {str(task) for learned in lineage(self.config) for task in learned.get("tasks") or ()}

    @property
    def sha256(self) -> str:
        """Of ``model.safetensors``, as ``save`` writes it: what tells one initialization from another."""
        return hashlib.sha256(safetensors.torch.save(self._tensors())).hexdigest()

    # -- on disk -----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write the folder ``path`` with ``model.safetensors`` and ``config.json``. It appears whole or not at all; an
        initialization that was there is replaced, and what else is there stays, a card included, which is then of the
        older one.

        :raises InitializationError: if something else is there, or it is none that ``load`` takes
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())) and not _is_ours(path):
            raise InitializationError(f"{path} is no initialization, and not replaced: choose another place")
        try:
            if not self.parameters:
                raise ValueError("it holds no parameter")
            if twice := [name for name in self.parameters if name.startswith(BUFFER)]:
                raise ValueError(f"{twice[0]} is called as if it were a buffer")
            tensors = self._tensors()
            _check_finite(tensors)
            data = safetensors.torch.save(tensors)
            config = {
                **self.config,
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "scope": self.scope,
                "sha256": hashlib.sha256(data).hexdigest(),
                "shapes": {n: list(t.shape) for n, t in tensors.items()},
            }
            text = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
            check_config(read_object(text))
        except (TypeError, ValueError, RecursionError) as error:
            raise InitializationError(f"{path} is not saved: {error}") from None
        with replacing_folder(path, [len(data), len(text)]) as folder:
            (folder / "model.safetensors").write_bytes(data)
            (folder / "config.json").write_bytes(text)
            for other in path.iterdir() if path.is_dir() else ():  # a card, or what its owner keeps there
                if (folder / other.name).exists():
                    continue
                if other.is_dir() and not other.is_symlink():
                    shutil.copytree(other, folder / other.name, symlinks=True)
                else:
                    shutil.copy2(other, folder / other.name, follow_symlinks=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Initialization:
        """
        Read a folder that ``save`` wrote. Nothing of it is executed; all of it is checked.

        :param path: the folder; or, with ``leap_rl.Initialization``, where there is no such folder, a name of the zoo
            or ``hf://OWNER/NAME`` on the Hugging Face Hub
        :raises InitializationError: if it is missing, foreign, damaged, or from a later version
        """
        if isinstance(path, str) and _door is not None and not os.path.lexists(path):
            return _door(path)
        path = Path(path)
        config = read_config(path)
        try:
            data = read_file(path / "model.safetensors", MOST_BYTES["model.safetensors"])
        except FileNotFoundError as error:
            raise InitializationError(f"{path} is no initialization: {Path(error.filename).name} is missing") from None
        except (OSError, ValueError) as error:
            raise InitializationError(f"{path} can't be read: {error}") from None
        if config.get("sha256") != hashlib.sha256(data).hexdigest():
            raise InitializationError(
                f"{path}/model.safetensors is damaged: its sha256 is not the one in config.json; fetch it again"
            )
        try:
            tensors = _read_tensors(data)
        except ValueError as error:
            raise InitializationError(f"{path}/model.safetensors can't be used: {error}") from None
        if config.get("shapes") != {n: list(t.shape) for n, t in tensors.items()}:
            raise InitializationError(f"{path}/config.json does not describe its tensors: damaged; fetch it again")
        scope = config["scope"]
        for key in ("format", "format_version", "scope", "sha256", "shapes"):
            del config[key]
        parameters = {n: t for n, t in tensors.items() if not n.startswith(BUFFER)}
        if not parameters:
            raise InitializationError(f"{path} holds no parameter: nothing was learned; fetch it again")
        buffers = {n.removeprefix(BUFFER): t for n, t in tensors.items() if n.startswith(BUFFER)}
        return cls(parameters, scope, buffers, config)


_door: Callable[[str], Initialization] | None = None


def open_door(by_name: Callable[[str], Initialization]) -> None:
    """
    Let ``Initialization.load`` take names, too.

    :param by_name: gives the initialization of a name, or raises an ``InitializationError``
    """
    global _door
    _door = by_name


# -- what an initialization may hold ---------------------------------------------------------------


def check_tensor(name: str, tensor: Tensor) -> None:
    """:raises ValueError: for a tensor that is none of an initialization, whatever its values"""
    if tensor.is_meta or tensor.layout is not torch.strided:
        raise ValueError(f"{name} is {tensor.layout} on {tensor.device}, not an array of values")
    dtype = next((known for known, dtype in DTYPES.items() if dtype is tensor.dtype), tensor.dtype)
    check_kind(name, str(dtype), list(tensor.shape))


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    """:raises ValueError: naming those that hold NaN or infinity"""
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"not finite: {', '.join(broken)}")


def _read_tensors(data: bytes) -> dict[str, Tensor]:
    """
    :param data: that safetensors wrote
    :raises ValueError: for what is none, and for tensors that are none of an initialization
    """
    check_header(data)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(f"it is damaged: {first_line(error)}") from None
    _check_finite(tensors)
    return tensors


def _in_order(name: str) -> list[tuple[bool, int, str]]:
    """Sorts names by the numbers in them."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")]


def _misfit(tensor: Tensor, target: Tensor | None) -> str | None:
    """Why a tensor can't be copied into one of a model, if it can't."""
    if target is None:
        return "the model has none"
    if target.shape != tensor.shape:
        return f"the model has {tuple(target.shape)}"
    if target.is_meta:
        return "the model has a place on device meta alone"
    if target.is_floating_point() != tensor.is_floating_point():
        return f"{tensor.dtype}, the model has {target.dtype}"
    if target.dtype is not tensor.dtype:
        converted = tensor.to(target.dtype).to(tensor.dtype)
        if not (converted.isfinite().all() if tensor.is_floating_point() else torch.equal(converted, tensor)):
            return f"its values are too large for the model's {target.dtype}"
    return None


def relative_change(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, float]:
    """‖new - old‖ / ‖old‖ of each layer (the tensors that share all but the last part of their name)."""
    change: dict[str, list[float]] = {}
    for name, tensor in old.items():
        sums = change.setdefault(layer_of(name), [0.0, 0.0])
        sums[0] += (new[name] - tensor).double().square().sum().item()
        sums[1] += tensor.double().square().sum().item()
    return {layer: (moved / max(size, 1e-300)) ** 0.5 for layer, (moved, size) in change.items()}


def _is_ours(path: Path) -> bool:
    """Whether a folder is an initialization, be it a damaged one: a config.json of others says what it is of."""
    try:
        return read_object(read_file(path / "config.json", MOST_BYTES["config.json"])).get("format") == FORMAT
    except ValueError:
        return (path / "model.safetensors").is_file()  # what can't be read is nobody's any more
    except OSError:
        return False
