"""Initializations by name: found, checked, applied."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from stable_baselines3 import A2C, DQN, PPO

from leap_rl import Initialization, Mnih2013CNN, make_atari_env, zoo
from leap_rl.cli import main
from leap_rl.core import InitializationError
from leap_rl.zoo import artifacts

MNIH = {"policy_kwargs": {"features_extractor_class": Mnih2013CNN}}


def agent(kind: Any = A2C, seed: int = 0, **kwargs: Any) -> Any:
    if kind is DQN:
        kwargs |= {"buffer_size": 50}
    return kind("CnnPolicy", make_atari_env("Breakout", 1, seed=0), seed=seed, device="cpu", **kwargs)


@pytest.fixture(scope="module")
def nature() -> Initialization:
    return Initialization.of(agent(), "encoder", {"network": "NatureCNN", "observation_shape": [4, 84, 84]})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of its own, with one entry of each network."""
    monkeypatch.setenv("LEAP_RL_ZOO", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


@pytest.fixture
def entry(root: Path, nature: Initialization) -> Path:
    nature.save(root / "some-nature")
    return root / "some-nature"


def test_what_is_there_is_listed_loaded_and_applied_in_one_line(entry: Path, nature: Initialization) -> None:
    assert "some-nature" in zoo.list()
    model = agent(PPO, seed=1, n_steps=16, batch_size=16, **{"policy_kwargs": zoo.policy_kwargs("some-nature")})
    zoo.load("some-nature").apply_to(model)
    for name, tensor in Initialization.of(model, "encoder").parameters.items():
        assert torch.equal(tensor, nature.parameters[name])
    assert (entry / "model.safetensors").stat().st_size < 7_000_000


def test_the_small_network(root: Path) -> None:
    source = agent(**MNIH)
    Initialization.of(source, "encoder", {"network": "Mnih2013CNN"}).save(root / "some-mnih2013")
    assert (root / "some-mnih2013" / "model.safetensors").stat().st_size < 3_000_000
    with pytest.raises(InitializationError, match=r"another network \(Mnih2013CNN\)"):
        zoo.load("some-mnih2013").apply_to(agent())
    paper = agent(policy_kwargs=zoo.policy_kwargs("some-mnih2013"))
    assert not list(paper.policy.mlp_extractor.parameters()) and paper.policy.action_net.in_features == 256
    model = agent(DQN, policy_kwargs=zoo.policy_kwargs("some-mnih2013"))
    zoo.load("some-mnih2013").apply_to(model)
    weight = source.policy.features_extractor.cnn[0].weight
    assert torch.equal(model.q_net.features_extractor.cnn[0].weight, weight)
    assert torch.equal(model.q_net_target.features_extractor.cnn[0].weight, weight)


def test_every_published_initialization_is_good_and_learns(root: Path) -> None:
    assert "atari-a2c-leap" in zoo.list()
    for name in zoo.list():
        folder = zoo.folder_of(name)
        figures = re.findall(r"!\[[^]]*\]\((.*?)\)", (folder / "README.md").read_text())
        assert figures and {file.name for file in folder.iterdir()} == {
            *artifacts.REQUIRED,
            "README.md",
            "curves.json",
            *figures,
        }
        assert (folder / "model.safetensors").stat().st_size < (3_000_000 if "mnih2013" in name else 7_000_000)
        model = agent(n_steps=16, policy_kwargs=zoo.policy_kwargs(name))
        initialization = zoo.load(name)
        initialization.apply_to(model)
        for tensor, t in Initialization.of(model, "encoder").parameters.items():
            assert torch.equal(t, initialization.parameters[tensor])
        model.learn(32)
        assert "## Evidence" in (folder / "README.md").read_text()
        assert artifacts.summary(name)["timesteps"] > 0


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../some-nature", "/etc", "a/b", "a\\b", "", ".", "..", "a..b", "~", "some nature", "-x", "x" * 97, "a\n"]
)
def test_what_is_no_name(entry: Path, name: str) -> None:
    with pytest.raises(zoo.ZooError, match="is no name of an initialization"):
        zoo.load(name)


def test_an_unknown_name_is_told_the_nearest(entry: Path) -> None:
    with pytest.raises(zoo.ZooError, match="no initialization 'some-natur' in the zoo: did you mean some-nature"):
        zoo.load("some-natur")
    with pytest.raises(zoo.ZooError, match=r"there are .*some-nature"):
        zoo.load("quite-different")


def _config(entry: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((entry / "config.json").read_text())
    change(config)
    (entry / "config.json").write_text(json.dumps(config))


def _tamper(entry: Path) -> None:
    data = bytearray((entry / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (entry / "model.safetensors").write_bytes(bytes(data))


def _link_file(entry: Path) -> None:
    target = entry.parent / "elsewhere.safetensors"
    os.replace(entry / "model.safetensors", target)
    (entry / "model.safetensors").symlink_to(target)


def _link_folder(entry: Path) -> None:
    os.replace(entry, entry.parent.parent / "elsewhere")
    entry.symlink_to(entry.parent.parent / "elsewhere")


def _empty(entry: Path) -> None:
    data = safetensors.torch.save({})
    (entry / "model.safetensors").write_bytes(data)
    _config(entry, lambda c: c.update(sha256=hashlib.sha256(data).hexdigest(), shapes={}))


def _oversize(entry: Path) -> None:
    with open(entry / "model.safetensors", "ab") as file:
        file.truncate(artifacts.LARGEST["model.safetensors"] + 1)


class Bomb:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "damaged": (lambda e: (e / "model.safetensors").write_bytes(b"no"), "is damaged"),
    "tampered": (_tamper, "is damaged: its sha256"),
    "empty": (lambda e: (e / "model.safetensors").write_bytes(b""), "is damaged"),
    "no tensors": (lambda e: (e / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no config": (lambda e: (e / "config.json").unlink(), "config.json is missing"),
    "config is no JSON": (lambda e: (e / "config.json").write_text("{"), "can't be read"),
    "config is a list": (lambda e: (e / "config.json").write_text("[]"), "holds no object"),
    "config is deep": (lambda e: (e / "config.json").write_text("[" * 100_000), "can't be read"),
    "config is no text": (lambda e: (e / "config.json").write_bytes(b"\xff\xfe"), "can't be read"),
    "too new": (lambda e: _config(e, lambda c: c.update(format_version=99)), "install a newer leap_rl"),
    "other shapes": (lambda e: _config(e, lambda c: c.update(shapes={})), "does not describe its tensors"),
    "no scope": (lambda e: _config(e, lambda c: c.update(scope=1)), "scope is '1', not as leap_rl"),
    "no network": (lambda e: _config(e, lambda c: c.pop("network")), "does not say for which network"),
    "terminal codes": (
        lambda e: _config(e, lambda c: c.update(network="\x1b]0;x\x07")),
        "has network .* not as leap_rl",
    ),
    "a learner of lists": (lambda e: _config(e, lambda c: c.update(learner={"name": [1]})), "learner is .* not as"),
    "tasks of numbers": (lambda e: _config(e, lambda c: c.update(tasks=[1, 2])), "tasks is .* not as leap_rl"),
    "steps without end": (lambda e: _config(e, lambda c: c.update(timesteps=10**20)), "timesteps is .* not as"),
    "an integer without end": (lambda e: _config(e, lambda c: c.update(seed=10**999)), "an integer of 1000 digits"),
    "nothing learned": (_empty, "holds no parameter"),
    "a pickle": (lambda e: (e / "agent.pkl").write_bytes(pickle.dumps(1)), "agent.pkl, which belongs to no"),
    "a hidden file": (lambda e: (e / ".x").write_text(""), "holds .x, which belongs to no"),
    "a folder": (lambda e: (e / "inner").mkdir(), "inner, which is no plain file"),
    "a linked file": (_link_file, "model.safetensors, which is no plain file"),
    "a linked folder": (_link_folder, "is no folder of an initialization"),
    "oversized": (_oversize, "more than 100,000,000 are refused"),
}


@pytest.mark.parametrize("bad", BAD)
def test_an_initialization_that_cannot_be_trusted(entry: Path, bad: str, capsys: Any) -> None:
    damage, message = BAD[bad]
    damage(entry)
    with pytest.raises(ValueError, match=message):
        zoo.load("some-nature")
    assert main(["zoo", "verify", "some-nature"]) == 2
    assert "1 of 1 can't be trusted: some-nature" in capsys.readouterr().err


# -- agents that people have -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [A2C, PPO, DQN])
def test_the_encoder_of_an_agent_is_imported(root: Path, tmp_path: Path, kind: Any, capsys: Any) -> None:
    model = agent(kind)
    model.save(tmp_path / "agent.zip")
    assert main(["zoo", "import", str(tmp_path / "agent.zip"), "--name", "mine"]) == 0
    assert main(["zoo", "list"]) == 0 and main(["zoo", "show", "mine"]) == 0 and main(["zoo", "verify"]) == 0
    assert "mine" in capsys.readouterr().out
    loaded = zoo.load("mine")
    for name, tensor in Initialization.of(model, "encoder").parameters.items():
        assert torch.equal(loaded.parameters[name], tensor)
    with pytest.raises(zoo.ZooError, match="there is an initialization 'mine' already"):
        zoo.import_agent(tmp_path / "agent.zip", "mine")


def test_an_imported_one_starts_a_training(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent().save(tmp_path / "agent.zip")
    zoo.import_agent(tmp_path / "agent.zip", "mine")
    monkeypatch.chdir(tmp_path)
    arguments = "train Pong --init mine --timesteps 64 --agent.n-envs 2 --agent.arithmetic fast --run-dir run"
    arguments += " --freeze-encoder-steps 20 --encoder-lr-factor 0.5"
    assert main(arguments.split()) == 0
    assert (tmp_path / "run" / "agent.zip").is_file()


def test_nothing_pickled_in_an_agent_is_run(root: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for name, content in (("policy.pth", {"x": Bomb(trace)}), ("policy.pth", Bomb(trace))):
        with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
            torch.save(content, tmp_path / "evil.pth")
            archive.write(tmp_path / "evil.pth", name)
            archive.writestr("data", pickle.dumps(Bomb(trace)))
        with pytest.raises(zoo.ZooError, match="holds more than tensors, or is damaged; nothing of it was run"):
            zoo.import_agent(tmp_path / "evil.zip", "evil")
    assert not trace.exists() and not root.exists()


def test_what_is_no_agent(root: Path, tmp_path: Path) -> None:
    def zipped(name: str, **files: Any) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file, content in files.items():
                torch.save(content, tmp_path / "content.pth")
                archive.write(tmp_path / "content.pth", f"{file}.pth")
        return tmp_path / name

    (tmp_path / "text.zip").write_text("text")
    A2C("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "mlp.zip")
    agent(PPO, policy_kwargs={"share_features_extractor": False}).save(tmp_path / "two.zip")
    other = {"features_extractor.cnn.0.weight": torch.zeros(8, 4, 3, 3)}
    for file, message in (
        (tmp_path / "nowhere.zip", "does not exist"),
        (tmp_path / "text.zip", "is no agent that SB3 saved"),
        (zipped("empty.zip"), "is no agent that SB3 saved"),
        (zipped("list.zip", policy=[1]), "is no state of a policy"),
        (tmp_path / "mlp.zip", "has no encoder of images"),
        (tmp_path / "two.zip", "an encoder for its actor and another for its critic"),
        (zipped("other.zip", policy=other), "an encoder of an unknown network"),
    ):
        with pytest.raises(zoo.ZooError, match=message):
            zoo.import_agent(file, "x")
    with pytest.raises(zoo.ZooError, match="is no name"):
        zoo.import_agent(tmp_path / "two.zip", "../x")
    assert not root.exists()


def zipped_policy(file: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """As SB3 lays it out."""
    torch.save(tensors, file.parent / "policy.pth")
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(file.parent / "policy.pth", "policy.pth")
    return file


def of_sb3(initialization: Initialization) -> dict[str, torch.Tensor]:
    names = ((name.removeprefix("encoder."), t) for name, t in initialization.parameters.items())
    return {f"features_extractor.{name}": t for name, t in names}


def test_what_is_imported_is_loaded_whatever_its_file_is_called(root: Path, tmp_path: Path, nature: Any) -> None:
    for i, name in enumerate(("x" * 240 + ".zip", "a\nb\x1b[2J\u202e.zip")):
        zoo.import_agent(zipped_policy(tmp_path / name, of_sb3(nature)), f"mine{i}")
        loaded = zoo.load(f"mine{i}")
        assert all(torch.equal(t, loaded.parameters[n]) for n, t in nature.parameters.items())
        assert loaded.config["source"].isprintable()
    with pytest.raises(zoo.ZooError, match="is no name of an initialization"):
        zoo.import_agent(tmp_path / name, "x" * 244)


BIAS = "features_extractor.cnn.2.bias"
WEIGHT = "features_extractor.cnn.2.weight"
LAST = "features_extractor.linear.0.weight"
UNUSABLE: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "a bias of another length": ({BIAS: torch.zeros(63)}, "unknown network"),
    "a bias for each place": ({BIAS: torch.zeros(64, 1)}, "unknown network"),
    "a number for a bias": ({BIAS: torch.tensor(1.0)}, "unknown network"),
    "other channels": ({WEIGHT: torch.zeros(64, 31, 4, 4)}, "unknown network"),
    "an oblong kernel": ({WEIGHT: torch.zeros(64, 32, 4, 5)}, "unknown network"),
    "a layer of other inputs": ({LAST: torch.zeros(512, 3137)}, "unknown network"),
    "one layer more": ({"features_extractor.cnn.6.weight": torch.zeros(1)}, "unknown network"),
    "a name that is no text": ({"features_extractor.a\x1b\n": torch.zeros(1)}, "is no name of a tensor"),
    "no values": ({BIAS: torch.zeros(64, device="meta")}, "holds more than tensors"),
    "sparse": (
        {BIAS: torch.zeros(64).to_sparse()},
        "is refused: encoder.cnn.2.bias is torch.sparse_coo|holds more than",
    ),
    "nothing": ({BIAS: torch.zeros(0)}, r"has shape \[0\]"),
    "not finite": ({BIAS: torch.full((64,), torch.nan)}, "has values in encoder.cnn.2.bias that are not finite"),
    **{
        str(dtype): ({BIAS: torch.zeros(64, dtype=dtype)}, f"encoder.cnn.2.bias is {dtype}, but may be F32, F64")
        for dtype in (torch.float16, torch.bfloat16, torch.complex64)
    },
    "float8": ({BIAS: torch.zeros(64, dtype=torch.float8_e4m3fn)}, "holds more than tensors"),
    "integers": ({BIAS: torch.zeros(64, dtype=torch.int64)}, "encoder.cnn.2.bias is I64, but may be F32, F64"),
}


@pytest.mark.parametrize("unusable", UNUSABLE)
def test_what_could_not_be_loaded_is_not_imported(root: Path, tmp_path: Path, nature: Any, unusable: str) -> None:
    change, message = UNUSABLE[unusable]
    file = zipped_policy(tmp_path / "agent.zip", {**of_sb3(nature), **change})
    with pytest.raises(InitializationError, match=message) as error:
        zoo.import_agent(file, "mine")
    assert str(error.value).isprintable() and str(error.value).startswith(str(file))
    assert not root.exists() or not list(root.iterdir())


def test_a_network_that_its_tensors_are_not(entry: Path) -> None:
    _config(entry, lambda c: c.update(network="Mnih2013CNN"))
    with pytest.raises(zoo.ZooError, match="says that it is for Mnih2013CNN, but its tensors are not"):
        zoo.load("some-nature")


def test_a_folder_that_lies_there_by_chance_is_not_verified(
    entry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some-nature").mkdir()
    assert main(["zoo", "verify"]) == 0 and "some-nature: good" in capsys.readouterr().out
    assert main(["zoo", "verify", "some-nature"]) == 2  # named, it is meant


def test_a_file_that_safetensors_made_of_something_else(entry: Path) -> None:
    safetensors.torch.save_file({"x": torch.zeros(1)}, entry / "model.safetensors")
    with pytest.raises(InitializationError, match="sha256"):
        zoo.load("some-nature")


def test_a_small_file_that_would_fill_the_memory(root: Path, tmp_path: Path) -> None:
    repeated = torch.zeros(1).expand(40_000_000)  # 160 MB of one number
    torch.save({"features_extractor.cnn.0.weight": repeated}, tmp_path / "policy.pth")
    with zipfile.ZipFile(tmp_path / "repeated.zip", "w") as archive:
        archive.write(tmp_path / "policy.pth", "policy.pth")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.write(tmp_path / "policy.pth", "policy.pth")
    with (
        zipfile.ZipFile(tmp_path / "policy.pth") as stored,
        zipfile.ZipFile(tmp_path / "inner.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in stored.namelist():
            packed.writestr(record, stored.read(record))
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        archive.write(tmp_path / "inner.pth", "policy.pth")
    for name, message in (("repeated", "tensors of more than"), ("outer", "is compressed, or"), ("inner", "inside")):
        with pytest.raises(zoo.ZooError, match=message):
            zoo.import_agent(tmp_path / f"{name}.zip", "x")


def test_a_scope_that_the_model_has_not_changes_nothing(nature: Initialization) -> None:
    model = agent(seed=1)
    before = Initialization.of(model, "all")
    one = next(iter(nature.parameters))
    with pytest.raises(InitializationError, match="scope='bogus' matches no parameter"):
        Initialization({one: nature.parameters[one]}, "bogus").apply_to(model)
    for name, tensor in Initialization.of(model, "all").parameters.items():
        assert torch.equal(tensor, before.parameters[name])


def test_one_bad_entry_does_not_hide_the_others(entry: Path, nature: Initialization, capsys: Any) -> None:
    nature.save(entry.parent / "bad")
    _config(entry.parent / "bad", lambda c: c.update(learner="Leap", timesteps="1M"))
    nature.save(entry.parent / "like-markup")
    _config(entry.parent / "like-markup", lambda c: c.update(network="[/foo]"))
    nature.save(entry.parent / "longer")
    _config(entry.parent / "longer", lambda c: c.update(timesteps=8_000, started_from={"timesteps": 4_000}))
    (entry / "README.md").write_text("# Card\n\x1b[2J\n")
    assert main(["zoo", "list"]) == 0
    shown = capsys.readouterr().out
    assert "some-nature" in shown and "can't be trusted" in shown and "[/foo]" in shown
    assert main(["zoo", "show", "longer"]) == 0
    assert "12,000" in capsys.readouterr().out  # all that it cost
    assert main(["zoo", "show", "bad"]) == 2
    assert "timesteps is '1M', not as leap_rl writes it" in capsys.readouterr().err
    assert main(["zoo", "show", "some-nature"]) == 0
    shown = capsys.readouterr().out
    assert "# Card" in shown and "\x1b" not in shown
