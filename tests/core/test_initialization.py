"""Initializations in modules and on disk."""

from __future__ import annotations

import json
import os
import pickle
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


def test_values_are_converted_to_what_the_model_has() -> None:
    source = network()
    for dtype in (torch.float64, torch.bfloat16):
        target = network().to(dtype)
        Initialization.of(source).apply_to(target)
        for name, tensor in source.state_dict().items():
            found = target.state_dict()[name]
            assert torch.equal(found, tensor.to(found.dtype)), name
            assert found.dtype == (dtype if tensor.is_floating_point() else torch.int64)


def test_values_that_the_model_cannot_hold_are_refused() -> None:
    large = Initialization({"weight": torch.full((1, 1), 1e5), "bias": torch.zeros(1)}, "all")
    whole = nn.Linear(1, 1)
    whole.weight = nn.Parameter(torch.zeros(1, 1, dtype=torch.int64), requires_grad=False)
    for target, message in (
        (nn.Linear(1, 1).half(), r"weight \(1, 1\): its values are too large for the model's torch.float16"),
        (nn.Linear(1, 1, device="meta"), "the model has a place on device meta alone"),
        (whole, "torch.float32, the model has torch.int64"),
    ):
        with pytest.raises(InitializationError, match=message):
            large.apply_to(target)
    counted, small = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    counted.num_batches_tracked += 300
    small.num_batches_tracked = torch.tensor(7, dtype=torch.int8)
    with pytest.raises(InitializationError, match="num_batches_tracked"):
        Initialization.of(counted).apply_to(small)
    assert small.num_batches_tracked == 7


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
    with pytest.raises(InitializationError, match="no initialization, and not replaced: choose another place"):
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


ODD = [
    torch.zeros(2, dtype=torch.float16),
    torch.zeros(2, dtype=torch.bfloat16),
    torch.zeros(2, dtype=torch.int64),
    torch.zeros(2, dtype=torch.bool),
    torch.zeros(2, dtype=torch.complex64),
    torch.zeros(2, dtype=torch.complex128),
    torch.zeros(2, dtype=torch.float8_e4m3fn),
    torch.zeros(0),
    torch.zeros([1] * 9),
    torch.zeros(2, device="meta"),
    torch.zeros(2).to_sparse(),
]


@pytest.mark.parametrize("tensor", ODD, ids=lambda t: f"{t.dtype}, {t.layout}, {t.device}, {t.dim()}")
def test_what_would_not_be_loaded_is_not_saved(tmp_path: Path, tensor: torch.Tensor) -> None:
    with pytest.raises(InitializationError, match=r"init is not saved: encoder\.odd (is|has)"):
        Initialization({"encoder.w": torch.zeros(1), "encoder.odd": tensor}, "encoder").save(tmp_path / "init")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "initialization",
    [
        Initialization({}, "all"),
        Initialization({"buffer:w": torch.zeros(1)}, "all"),
        Initialization({"w\n": torch.zeros(1)}, "all"),
        Initialization({"w": torch.zeros(1)}, 3),  # type: ignore[arg-type]
        *(
            Initialization({"w": torch.zeros(1)}, "all", config=config)
            for config in (
                {"x": float("nan")},
                {"x": {1}},
                {"x": 10**50},
                {"tasks": 3},
                {"timesteps": "1M"},
                {1: 2, "1": 3},
            )
        ),
    ],
    ids=repr,
)
def test_what_could_not_be_described_is_not_saved(tmp_path: Path, initialization: Initialization) -> None:
    with pytest.raises(InitializationError, match="init is not saved"):
        initialization.save(tmp_path / "init")
    assert not list(tmp_path.iterdir())


def test_double_precision_and_buffers_of_any_integers_come_back(tmp_path: Path) -> None:
    parameters = {"w": torch.tensor([0.1], dtype=torch.float64)}
    kinds = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.float32)
    buffers = {str(dtype): torch.tensor([1, 0], dtype=dtype) for dtype in kinds}
    Initialization(parameters, "all", buffers).save(tmp_path / "init")
    loaded = Initialization.load(tmp_path / "init")
    for mine, theirs in ((parameters, loaded.parameters), (buffers, loaded.buffers)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[n], theirs[n]) and mine[n].dtype == theirs[n].dtype for n in mine)


def test_an_error_shows_what_a_stranger_wrote_as_text_alone(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    rewrite(path, format_version="\x1b]0;x\x07\n" * 10_000)
    with pytest.raises(InitializationError) as error:
        Initialization.load(path)
    assert str(error.value).isprintable() and len(str(error.value)) < 700
    assert str(error.value).endswith("install a newer leap_rl")
    again = pickle.loads(pickle.dumps(InitializationError("two\n", "lines\x1b")))
    assert str(again) == "two?\n  lines?"


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


def test_what_its_owner_keeps_beside_it_stays(tmp_path: Path) -> None:
    Initialization({"w": torch.ones(2)}, "all", {}).save(tmp_path / "mine")
    (tmp_path / "mine" / "notes.md").write_text("years")
    (tmp_path / "mine" / "plots").mkdir()
    Initialization({"w": torch.zeros(2)}, "all", {}).save(tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.md").read_text() == "years" and (tmp_path / "mine" / "plots").is_dir()
    assert not Initialization.load(tmp_path / "mine").parameters["w"].any()


def test_a_model_of_others_is_not_replaced(tmp_path: Path) -> None:
    """Models of others have a config.json, too."""
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"architectures": ["BertModel"]}')
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(InitializationError, match="no initialization, and not replaced: choose another place"):
        Initialization({"w": torch.ones(2)}, "all", {}).save(tmp_path / "bert")
    assert (tmp_path / "bert" / "model.safetensors").read_bytes() == b"weights"


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
