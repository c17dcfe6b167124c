"""An initialization θ⁰: tensors by name, the scope they belong to, on disk and in a model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeGuard

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from leap_rl.core.files import replacing_folder
from leap_rl.core.outside import first_line, printable, read_file, read_object

FORMAT = "leap-rl initialization"
FORMAT_VERSION = 1

MOST_BYTES = {"config.json": 10_000_000, "model.safetensors": 2**32}
"""Of the files of an initialization, and of the header of its tensors."""

PARAMETERS = {"F32": torch.float32, "F64": torch.float64}
"""What a parameter may be, by the names of safetensors. Others are refused: θ⁰ is moved by small steps, which half
precision rounds away, and who converts it should know."""
BUFFERS = PARAMETERS | {
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What a buffer may be: batch norm counts in one."""

_BUFFER = "buffer:"
"""Before the names of buffers, on disk."""


class InitializationError(ValueError):
    """
    An initialization that cannot be read, or does not fit; says what and what to do.

    :param lines: of the message; what they quote may be a stranger's, so only what is printable is said
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*map(printable, lines))

    def __str__(self) -> str:
        return "\n  ".join(self.args)


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
    """

    parameters: dict[str, list[Tensor]]
    buffers: dict[str, list[Tensor]]

    def in_scope(self, scope: str) -> NamedTensors:
        """
        :param scope: ``"all"``, or the first part of the names, such as ``"encoder"``
        :raises ValueError: if no parameter is in that scope
        """
        if scope == "all":
            return self

        def keep(tensors: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
            return {name: copies for name, copies in tensors.items() if name.startswith(f"{scope}.")}

        selected = NamedTensors(keep(self.parameters), keep(self.buffers))
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
    def apply_to(self, model: Any, head: Literal["map", "redraw"] | None = None) -> None:
        """
        Copy θ⁰ into a model; what is not in scope stays the model's own. Every copy that the model keeps of a
        tensor is filled, on its device and converted to its dtype.

        :param model: a torch module or an SB3 model
        :param head: for a head of other actions than the model's: ``"map"`` takes its rows by the meaning of each
            action, ``"redraw"`` leaves the model's own
        :raises InitializationError: if the model's tensors differ in name or shape, or can't hold the values; nothing
            is changed then
        """
        if head is not None:
            fit_head(model, self, head).apply_to(model)
            return
        tensors = named_tensors(model)
        self.check_fits(tensors)
        for name, tensor in self.parameters.items():
            for target in tensors.parameters[name]:
                target.copy_(tensor)
        for name, tensor in self.buffers.items():
            for target in tensors.buffers[name]:
                target.copy_(tensor)

    def check_fits(self, tensors: NamedTensors) -> None:
        """
        :raises InitializationError: naming every tensor that is missing, of another shape, or can't hold the values
        """
        differences = []
        for mine, theirs in ((self.parameters, tensors.parameters), (self.buffers, tensors.buffers)):
            for name, tensor in mine.items():
                for target in theirs.get(name, [None]):
                    if misfit := _misfit(tensor, target):
                        differences.append(f"{name} {tuple(tensor.shape)}: {misfit}")
        try:
            unfilled = set(tensors.in_scope(self.scope).parameters) - set(self.parameters)
        except ValueError as error:
            differences.append(str(error))
        else:
            differences += [f"{name}: in the model only" for name in sorted(unfilled)]
        if differences:
            network = self.config.get("network")
            which = f", {network}, which leap_rl.transfer.policy_kwargs asks for" if network else ""
            raise InitializationError(
                f"the initialization is for another network{which}, or other actions, for which head='map' and "
                "head='redraw' are; nothing was changed:",
                *differences,
            )

    def _tensors(self) -> dict[str, Tensor]:
        """
        As they lie on disk.

        :raises ValueError: for one that can't lie there
        """
        tensors = self.parameters | {f"{_BUFFER}{n}": t for n, t in self.buffers.items()}
        for name, tensor in tensors.items():
            check_tensor(name, tensor)
        return {n: t.contiguous() for n, t in tensors.items()}

    @property
    def sha256(self) -> str:
        """Of ``model.safetensors``, as ``save`` writes it: what tells one initialization from another."""
        return hashlib.sha256(safetensors.torch.save(self._tensors())).hexdigest()

    # -- on disk -----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write the folder ``path`` with ``model.safetensors`` and ``config.json``. It appears whole or not at all;
        an initialization that was there is replaced.

        :raises InitializationError: if something else is there, or it is none that ``load`` takes
        """
        path = Path(path)
        if path.exists() and not (path / "config.json").is_file() and (not path.is_dir() or any(path.iterdir())):
            raise InitializationError(f"{path} exists and is no initialization: choose another place")
        try:
            if not self.parameters:
                raise ValueError("it holds no parameter")
            if twice := [name for name in self.parameters if name.startswith(_BUFFER)]:
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
            _check_config(read_object(text))
        except (TypeError, ValueError, RecursionError) as error:
            raise InitializationError(f"{path} is not saved: {error}") from None
        with replacing_folder(path, [len(data), len(text)]) as folder:
            (folder / "model.safetensors").write_bytes(data)
            (folder / "config.json").write_bytes(text)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Initialization:
        """
        Read a folder that ``save`` wrote. Nothing of it is executed; all of it is checked.

        :raises InitializationError: if it is missing, foreign, damaged, or from a later version
        """
        path = Path(path)
        try:
            config = read_object(read_file(path / "config.json", MOST_BYTES["config.json"]))
            data = read_file(path / "model.safetensors", MOST_BYTES["model.safetensors"])
        except FileNotFoundError as error:
            raise InitializationError(f"{path} is no initialization: {Path(error.filename).name} is missing") from None
        except (OSError, ValueError) as error:
            raise InitializationError(f"{path} can't be read: {error}") from None
        if config.get("format") != FORMAT:
            raise InitializationError(f"{path}/config.json was not written by leap_rl: no initialization")
        version = config.get("format_version")
        if type(version) is not int or version != FORMAT_VERSION:
            raise InitializationError(
                f"{path} has format version {printable(version, 40)}, this leap_rl reads {FORMAT_VERSION}: "
                "install a newer leap_rl"
            )
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
        try:
            _check_config(config)
        except ValueError as error:
            raise InitializationError(f"{path}/config.json can't be used: {error}") from None
        scope = config["scope"]
        for key in ("format", "format_version", "scope", "sha256", "shapes"):
            del config[key]
        parameters = {n: t for n, t in tensors.items() if not n.startswith(_BUFFER)}
        if not parameters:
            raise InitializationError(f"{path} holds no parameter: nothing was learned; fetch it again")
        buffers = {n.removeprefix(_BUFFER): t for n, t in tensors.items() if n.startswith(_BUFFER)}
        return cls(parameters, scope, buffers, config)


# -- what an initialization may hold ---------------------------------------------------------------


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def is_count(value: Any) -> TypeGuard[int]:
    """Whether it is a number of steps, or of anything else that is counted."""
    return type(value) is int and 0 <= value < 10**15


_FIELDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("network", "preprocessing", "source"), _is_text),
    **dict.fromkeys(("tasks", "action_meanings"), _are_texts),
    **dict.fromkeys(("timesteps", "meta_steps", "meta_batch_size", "steps_per_visit"), is_count),
    **dict.fromkeys(("averaged_from", "recycled_units"), is_count),
    "learner": lambda value: value is None or (isinstance(value, dict) and _is_text(value.get("name", ""))),
    "started_from": lambda value: isinstance(value, dict),
}
"""What of a config others read, and what they may count on, where it is there. The rest is kept as it is."""


def _check_config(config: Mapping[str, Any]) -> None:
    """:raises ValueError: naming what is not as leap_rl writes it"""
    if not _is_text(config.get("scope")):
        raise ValueError(f"scope is {printable(config.get('scope'), 80)!r}, not as leap_rl writes it")
    learned: Any = config
    while learned is not None:  # and what that started from
        for key, is_good in _FIELDS.items():
            if key in learned and not is_good(learned[key]):
                raise ValueError(f"{key} is {printable(learned[key], 80)!r}, not as leap_rl writes it")
        learned = learned.get("started_from")


def _check_kind(name: str, dtype: Any, shape: Any) -> None:
    """
    :param dtype: by the name of safetensors
    :raises ValueError: for a tensor that is none of an initialization
    """
    if not name.isprintable():
        raise ValueError(f"{name!r} is no name of a tensor")
    known = BUFFERS if name.startswith(_BUFFER) else PARAMETERS
    if not isinstance(dtype, str) or dtype not in known:
        raise ValueError(f"{name} is {printable(dtype, 40)}, but may be {', '.join(known)}: convert it before, to F32")
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"{name} has shape {printable(shape, 80)}: up to 8 dimensions, none of them empty")


def check_tensor(name: str, tensor: Tensor) -> None:
    """:raises ValueError: for a tensor that is none of an initialization, whatever its values"""
    if tensor.is_meta or tensor.layout is not torch.strided:
        raise ValueError(f"{name} is {tensor.layout} on {tensor.device}, not an array of values")
    dtype = next((known for known, dtype in BUFFERS.items() if dtype is tensor.dtype), tensor.dtype)
    _check_kind(name, str(dtype), list(tensor.shape))


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    """:raises ValueError: naming those that hold NaN or infinity"""
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"not finite: {', '.join(broken)}")


def _read_tensors(data: bytes) -> dict[str, Tensor]:
    """
    :param data: that safetensors wrote
    :raises ValueError: for what is none, and for tensors that are none of an initialization
    """
    # safetensors itself takes the last of two tensors of one name, and has types that torch has not.
    length = int.from_bytes(data[:8], "little")
    if length > MOST_BYTES["config.json"]:
        raise ValueError("it is damaged: its header has no end")
    try:
        header = read_object(data[8 : 8 + length])
    except ValueError as error:
        raise ValueError(f"it is damaged: {error}") from None
    for name, described in header.items():
        if name != "__metadata__":
            known = described if isinstance(described, dict) else {}
            _check_kind(name, known.get("dtype"), known.get("shape"))
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(f"it is damaged: {first_line(error)}") from None
    _check_finite(tensors)
    return tensors


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
        layer = name.rpartition(".")[0] or name
        sums = change.setdefault(layer, [0.0, 0.0])
        sums[0] += (new[name] - tensor).double().square().sum().item()
        sums[1] += tensor.double().square().sum().item()
    return {layer: (moved / max(size, 1e-300)) ** 0.5 for layer, (moved, size) in change.items()}
