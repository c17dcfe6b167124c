"""An initialization θ⁰: tensors by name, the scope they belong to, on disk and in a model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from leap_rl.core.files import replacing_folder

FORMAT = "leap-rl initialization"
FORMAT_VERSION = 1


class InitializationError(ValueError):
    """An initialization that cannot be read, or does not fit; says what and what to do."""


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
        tensor is filled.

        :param model: a torch module or an SB3 model
        :param head: for a head of other actions than the model's: ``"map"`` takes its rows by the meaning of each
            action, ``"redraw"`` leaves the model's own
        :raises InitializationError: if the model's tensors differ in name or shape; nothing is changed then
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
        :raises InitializationError: naming every tensor that is missing or of another shape
        """
        differences = []
        for mine, theirs in ((self.parameters, tensors.parameters), (self.buffers, tensors.buffers)):
            for name, tensor in mine.items():
                for target in theirs.get(name, [None]):
                    if target is None:
                        differences.append(f"{name} {tuple(tensor.shape)}: the model has none")
                    elif target.shape != tensor.shape:
                        differences.append(f"{name} {tuple(tensor.shape)}: the model has {tuple(target.shape)}")
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
                "head='redraw' are; nothing was changed:\n  " + "\n  ".join(differences)
            )

    def _tensors(self) -> dict[str, Tensor]:
        """As they lie on disk."""
        tensors = {n: t.contiguous() for n, t in self.parameters.items()}
        return tensors | {f"buffer:{n}": t.contiguous() for n, t in self.buffers.items()}

    @property
    def sha256(self) -> str:
        """Of ``model.safetensors``, as ``save`` writes it: what tells one initialization from another."""
        return hashlib.sha256(safetensors.torch.save(self._tensors())).hexdigest()

    # -- on disk -----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write the folder ``path`` with ``model.safetensors`` and ``config.json``. It appears whole or not at all;
        an initialization that was there is replaced.

        :raises InitializationError: if something else is there, or a tensor is not finite
        """
        path = Path(path)
        if path.exists() and not (path / "config.json").is_file() and (not path.is_dir() or any(path.iterdir())):
            raise InitializationError(f"{path} exists and is no initialization: choose another place")
        broken = [n for n, t in {**self.parameters, **self.buffers}.items() if not t.isfinite().all()]
        if broken:
            raise InitializationError(f"not finite, so not saved: {', '.join(broken)}")
        tensors = self._tensors()
        config = {
            **self.config,
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "scope": self.scope,
            "sha256": self.sha256,
            "shapes": {n: list(t.shape) for n, t in tensors.items()},
        }
        data, text = safetensors.torch.save(tensors), (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
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
            config = json.loads((path / "config.json").read_text())
            data = (path / "model.safetensors").read_bytes()
        except FileNotFoundError as error:
            raise InitializationError(f"{path} is no initialization: {Path(error.filename).name} is missing") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise InitializationError(f"{path} can't be read: {error}") from None
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise InitializationError(f"{path}/config.json was not written by leap_rl: no initialization")
        version = config.get("format_version")
        if version != FORMAT_VERSION:
            raise InitializationError(
                f"{path} has format version {version}, this leap_rl reads {FORMAT_VERSION}: install a newer leap_rl"
            )
        if config.get("sha256") != hashlib.sha256(data).hexdigest():
            raise InitializationError(
                f"{path}/model.safetensors is damaged: its sha256 is not the one in config.json; fetch it again"
            )
        try:
            tensors = safetensors.torch.load(data)
        except (SafetensorError, ValueError) as error:
            raise InitializationError(f"{path}/model.safetensors is damaged: {error}") from None
        scope, shapes = config.get("scope"), config.get("shapes")
        if not isinstance(scope, str) or shapes != {n: list(t.shape) for n, t in tensors.items()}:
            raise InitializationError(f"{path}/config.json does not describe its tensors: damaged; fetch it again")
        broken = [n for n, t in tensors.items() if not t.isfinite().all()]
        if broken:
            raise InitializationError(f"{path} holds values that are not finite: {', '.join(broken)}")
        for key in ("format", "format_version", "scope", "sha256", "shapes"):
            del config[key]
        parameters = {n: t for n, t in tensors.items() if not n.startswith("buffer:")}
        if not parameters:
            raise InitializationError(f"{path} holds no parameter: nothing was learned; fetch it again")
        buffers = {n.removeprefix("buffer:"): t for n, t in tensors.items() if n.startswith("buffer:")}
        return cls(parameters, scope, buffers, config)


def relative_change(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, float]:
    """‖new - old‖ / ‖old‖ of each layer (the tensors that share all but the last part of their name)."""
    change: dict[str, list[float]] = {}
    for name, tensor in old.items():
        layer = name.rpartition(".")[0] or name
        sums = change.setdefault(layer, [0.0, 0.0])
        sums[0] += (new[name] - tensor).double().square().sum().item()
        sums[1] += tensor.double().square().sum().item()
    return {layer: (moved / max(size, 1e-300)) ** 0.5 for layer, (moved, size) in change.items()}
