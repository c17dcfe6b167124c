"""Initializations in modules and on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from leap_rl.core import Initialization, InitializationError


def network(width: int = 4) -> nn.Module:
    model = nn.Module()
    model.encoder = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
    model.head = nn.Linear(width, 3)
    return model


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


def test_the_scope_is_filled_and_the_rest_left_alone() -> None:
    source, target = network(), network()
    before = state(target)
    Initialization.of(source, "encoder").apply_to(target)
    for name, tensor in target.state_dict().items():
        expected = source.state_dict()[name] if name.startswith("encoder.") else before[name]
        assert torch.equal(tensor, expected), name


def test_buffers_are_copied_with_it() -> None:
    source, target = network(), network()
    source.encoder[1].running_mean += 3
    Initialization.of(source).apply_to(target)
    assert torch.equal(target.encoder[1].running_mean, source.encoder[1].running_mean)
    assert "encoder.1.num_batches_tracked" in Initialization.of(source).buffers


def test_it_is_a_copy() -> None:
    source = network()
    initialization = Initialization.of(source)
    with torch.no_grad():
        source.head.weight.zero_()
    assert initialization.parameters["head.weight"].abs().sum() > 0


def test_a_shared_tensor_is_stored_once(tmp_path: Path) -> None:
    model = network()
    model.again = model.head
    Initialization.of(model).save(tmp_path / "init")
    assert "again.weight" not in Initialization.load(tmp_path / "init").parameters


def test_another_network_is_refused_whole_and_every_tensor_named() -> None:
    target = network(5)
    before = state(target)
    with pytest.raises(InitializationError) as error:
        Initialization.of(network(4)).apply_to(target)
    for name in ("encoder.0.weight (4, 2): the model has (5, 2)", "encoder.1.running_mean", "head.weight"):
        assert name in str(error.value)
    assert "head.bias" not in str(error.value)  # the one tensor that fits
    assert all(torch.equal(before[n], t) for n, t in state(target).items())


def test_tensors_that_only_one_side_has_are_named() -> None:
    wider, plain = network(), network()
    wider.encoder.append(nn.Linear(4, 4))
    with pytest.raises(InitializationError, match=r"encoder\.2\.weight \(4, 4\): the model has none"):
        Initialization.of(wider, "encoder").apply_to(plain)
    with pytest.raises(InitializationError, match=r"encoder\.2\.weight: in the model only"):
        Initialization.of(plain, "encoder").apply_to(wider)
    with pytest.raises(InitializationError, match="the model has none"):
        Initialization.of(plain, "encoder").apply_to(nn.Linear(1, 1))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a torch module"):
        Initialization.of(network()).apply_to("model")


def test_a_scope_without_parameters_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'torso' matches no parameter; there are 'all', 'encoder', 'head'"):
        Initialization.of(network(), "torso")


# -- on disk ---------------------------------------------------------------------------------------


def saved(tmp_path: Path) -> tuple[Initialization, Path]:
    initialization = Initialization.of(network(), "encoder", {"games": ["Pong"], "timesteps": 10, "none": None})
    initialization.save(tmp_path / "a" / "init")
    return initialization, tmp_path / "a" / "init"


def test_round_trip(tmp_path: Path) -> None:
    initialization, path = saved(tmp_path)
    loaded = Initialization.load(path)
    assert (loaded.scope, loaded.config) == (initialization.scope, initialization.config)
    for mine, theirs in ((initialization.parameters, loaded.parameters), (initialization.buffers, loaded.buffers)):
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "model.safetensors"]
    assert [p.name for p in path.parent.iterdir()] == ["init"], "nothing temporary stays"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=4),
    config=st.dictionaries(
        st.text(max_size=5).filter(lambda k: k not in ("format", "format_version", "scope", "sha256", "shapes")),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=4,
        ),
        max_size=4,
    ),
)
def test_round_trip_of_any_tensors_and_config(tmp_path: Path, shapes: list[list[int]], config: dict[str, Any]) -> None:
    tensors = {f"layer.{i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    Initialization(tensors, "all", config=config).save(tmp_path / "any")
    loaded = Initialization.load(tmp_path / "any")
    assert loaded.config == config
    assert all(torch.equal(tensors[n], loaded.parameters[n]) for n in tensors)


def test_saving_again_replaces_it_and_nothing_else(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    other = Initialization.of(network())
    other.save(path)
    assert Initialization.load(path).scope == "all"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(InitializationError, match="no initialization: choose another place"):
        other.save(tmp_path / "mine")
    with pytest.raises(InitializationError, match="choose another place"):
        other.save(tmp_path / "mine" / "thesis.txt")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_a_crash_while_saving_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    initialization, path = saved(tmp_path)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Initialization.of(network()).save(path)
    assert Initialization.load(path).scope == initialization.scope


def test_what_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    initialization = Initialization.of(network())
    initialization.parameters["head.bias"][0] = torch.nan
    with pytest.raises(InitializationError, match=r"head\.bias"):
        initialization.save(tmp_path / "init")
    assert not (tmp_path / "init").exists()


def rewrite(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def damage_missing(path: Path) -> None:
    (path / "model.safetensors").unlink()


def damage_truncated(path: Path) -> None:
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])


def damage_flipped(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)


def rehash(path: Path, data: bytes, **changes: Any) -> None:
    import hashlib

    (path / "model.safetensors").write_bytes(data)
    rewrite(path, sha256=hashlib.sha256(data).hexdigest(), **changes)


def damage_nan(path: Path) -> None:
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    tensors["encoder.0.bias"][0] = torch.inf
    rehash(path, safetensors.torch.save(tensors))


def damage_not_safetensors(path: Path) -> None:
    rehash(path, b"PK\x03\x04 a pickle, say")


def damage_other_tensors(path: Path) -> None:
    rehash(path, safetensors.torch.save({"encoder.0.weight": torch.zeros(9)}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing, "model.safetensors is missing"),
        (damage_truncated, "sha256"),
        (damage_flipped, "sha256"),
        (damage_nan, r"not finite: encoder\.0\.bias"),
        (damage_not_safetensors, "damaged"),
        (damage_other_tensors, "does not describe its tensors"),
        (lambda p: (p / "config.json").unlink(), "config.json is missing"),
        (lambda p: (p / "config.json").write_text("{"), "can't be read"),
        (lambda p: (p / "config.json").write_bytes(b"\xff\xfe\x00"), "can't be read"),
        (lambda p: (p / "config.json").write_text("[]"), "holds no object"),
        (lambda p: rewrite(p, format="someone's"), "not written by leap_rl"),
        (lambda p: rewrite(p, format_version=2), "format version 2.*newer leap_rl"),
        (lambda p: rewrite(p, scope=3), "scope is '3', not as leap_rl writes it"),
    ],
)
def test_damaged_and_foreign_ones_are_refused(tmp_path: Path, damage: Any, message: str) -> None:
    _, path = saved(tmp_path)
    damage(path)
    with pytest.raises(InitializationError, match=message):
        Initialization.load(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InitializationError, match="nowhere is no initialization"):
        Initialization.load(tmp_path / "nowhere")
