"""Agents that were saved: read without their pickle, to the bits that Stable-Baselines3 reads."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from leap_rl import LeapA2C, LeapPPO, Mnih2013CNN, NoPretraining, make_atari_env
from leap_rl.transfer.saved_agent import AgentError, SavedAgent, save_agent

FEW = {"features_dim": 9}
SMALL_PPO = {"n_steps": 16, "batch_size": 16, "n_epochs": 2}


class Bomb:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def torch_file(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def changed(file: Path, **members: bytes | Callable[[bytes], bytes] | None) -> Path:
    """A copy of a zip with other members; ``None`` leaves one out. Dots of their names are written ``__``."""
    new = {name.replace("__", "."): content for name, content in members.items()}
    copy = file.with_name(f"{file.stem}-changed.zip")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(copy, "w") as archive:
        for name in old.namelist():
            content = new.get(name, old.read(name))
            if content is not None:
                archive.writestr(name, content(old.read(name)) if callable(content) else content)
    return copy


def data(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda old: json.dumps({**json.loads(old), **fields}).encode()


def cartpole(kind: Any = A2C, **kwargs: Any) -> Any:
    return kind("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=3), seed=3, device="cpu", **kwargs)


def pong(kind: Any = A2C, **kwargs: Any) -> Any:
    return kind("CnnPolicy", make_atari_env("Pong", 2, seed=3), seed=3, device="cpu", **kwargs)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An A2C on CartPole after 400 steps."""
    file = tmp_path_factory.mktemp("agents") / "000000000400.zip"
    save_agent(cartpole(LeapA2C, learner=NoPretraining()).learn(400), file)
    return file


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kind", "kwargs"),
    [
        (cartpole, LeapA2C, {}),
        (cartpole, LeapA2C, {"use_rms_prop": False}),
        (cartpole, LeapPPO, SMALL_PPO),
        (pong, LeapA2C, {"policy_kwargs": {"features_extractor_kwargs": FEW}}),
        (pong, LeapPPO, {**SMALL_PPO, "arithmetic": "fast", "policy_kwargs": {"features_extractor_kwargs": FEW}}),
    ],
)
def test_a_resumed_agent_learns_on_as_one_that_sb3_loads(make: Any, kind: Any, kwargs: Any, tmp_path: Path) -> None:
    file = tmp_path / "agent.zip"
    steps = 400 if make is cartpole else 20
    model = make(kind, learner=NoPretraining(), **kwargs).learn(steps)
    save_agent(model, file)
    arithmetic = kwargs.get("arithmetic", "exact")
    sb3 = kind.load(file, make().get_env(), device="cpu", learner=NoPretraining(), arithmetic=arithmetic)
    sb3.learn(steps, reset_num_timesteps=False)
    ours = make(kind, learner=NoPretraining(), **kwargs)
    SavedAgent(file).resume(ours, model.num_timesteps)
    ours.learn(steps, reset_num_timesteps=False)
    trained, before = ours.policy.state_dict(), model.policy.state_dict()
    for name, tensor in sb3.policy.state_dict().items():
        assert torch.equal(tensor, trained[name]), name
    assert not torch.equal(trained["value_net.bias"], before["value_net.bias"])
    assert (ours.num_timesteps, ours._n_updates) == (sb3.num_timesteps, sb3._n_updates)
    # And logs on: the mean is over the same episodes.
    window = [(e["r"], e["l"]) for e in ours.ep_info_buffer]
    assert window == [(e["r"], e["l"]) for e in sb3.ep_info_buffer]
    assert ours.ep_info_buffer.maxlen == sb3.ep_info_buffer.maxlen and (window or make is pong)


def test_sb3_opens_what_is_saved(saved: Path) -> None:
    weights = SavedAgent(saved).policy()
    for name, tensor in A2C.load(saved, device="cpu").policy.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_an_agent_that_was_saved_by_sb3_alone_is_resumed_without_its_last_episodes(saved: Path) -> None:
    model = cartpole(LeapA2C)
    SavedAgent(changed(saved, episodes__json=None)).resume(model, 400)
    assert model.num_timesteps == 400 and not model.ep_info_buffer
    model.learn(100, reset_num_timesteps=False)


@pytest.mark.parametrize(
    ("make", "kind", "kwargs"),
    [
        (cartpole, A2C, {"policy_kwargs": {"activation_fn": nn.ReLU, "net_arch": [7, 5]}}),
        (cartpole, PPO, {**SMALL_PPO, "policy_kwargs": {"net_arch": {"pi": [3], "vf": []}, "ortho_init": False}}),
        (pong, A2C, {"policy_kwargs": {"features_extractor_class": Mnih2013CNN, "net_arch": []}}),
        (pong, A2C, {"policy_kwargs": {"share_features_extractor": False, "features_extractor_kwargs": FEW}}),
    ],
)
def test_an_agent_plays_as_it_was_made(make: Any, kind: Any, kwargs: Any, tmp_path: Path) -> None:
    model = make(kind, **kwargs)
    for parameter in model.policy.parameters():  # or fresh heads would all say nearly the same
        nn.init.normal_(parameter, std=0.3)
    model.save(tmp_path / "agent.zip")
    name, policy_kwargs = SavedAgent(tmp_path / "agent.zip").how_made()
    other = A2C(name, model.get_env(), policy_kwargs=policy_kwargs, seed=1, device="cpu")
    SavedAgent(tmp_path / "agent.zip").fill(other)
    observations = model.get_env().reset()
    for _ in range(10):
        actions = model.predict(observations, deterministic=True)[0]
        assert np.array_equal(actions, other.predict(observations, deterministic=True)[0])
        observations = model.get_env().step(actions)[0]
    tensors = torch.as_tensor(observations)
    assert torch.equal(model.policy.predict_values(tensors), other.policy.predict_values(tensors))


# -- what is refused -------------------------------------------------------------------------------


class OwnPolicy(ActorCriticPolicy):
    """An author's."""


class OwnActivation(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin()


@pytest.mark.parametrize(
    ("policy", "env", "kwargs", "reason"),
    [
        (OwnPolicy, "CartPole-v1", {}, "its policy is none of SB3's"),
        (
            "MlpPolicy",
            "CartPole-v1",
            {"policy_kwargs": {"activation_fn": OwnActivation}},
            "its activation_fn is <class",
        ),
        ("MlpPolicy", "Pendulum-v1", {"use_sde": True}, "it explores by gSDE"),
    ],
)
def test_what_only_its_pickle_says_needs_trust(policy: Any, env: str, kwargs: Any, reason: str, tmp_path: Path) -> None:
    A2C(policy, env, device="cpu", **kwargs).save(tmp_path / "agent.zip")
    with pytest.raises(AgentError, match=f"needs its pickle to play, since {reason}.*: --trust reads it, and runs"):
        SavedAgent(tmp_path / "agent.zip").how_made()


def test_another_algorithm_has_another_policy(tmp_path: Path) -> None:
    DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu").save(tmp_path / "agent.zip")
    with pytest.raises(AgentError, match="none of SB3's for A2C and PPO"):
        SavedAgent(tmp_path / "agent.zip").how_made()


def _state(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def of(old: bytes) -> bytes:
        state = torch.load(io.BytesIO(old), weights_only=True)
        change(state)
        return torch_file(state)

    return of


def _pickled(old: bytes, content: Any) -> bytes:
    """A file of torch with another pickle in it."""
    new = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(old)) as archive, zipfile.ZipFile(new, "w") as written:
        for name in archive.namelist():
            written.writestr(name, pickle.dumps(content, 2) if name.endswith("data.pkl") else archive.read(name))
    return new.getvalue()


class Memory:
    """What torch allows, and what takes 100 GB."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (10**11,)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no policy": ({"policy__pth": None}, "is no agent that SB3 saved, or is damaged"),
    "no optimizer": ({"policy__optimizer__pth": None}, "is no agent that SB3 saved, or is damaged"),
    "no data": ({"data": None}, "is no agent that SB3 saved, or is damaged"),
    "no JSON": ({"data": b"{"}, "has a data that is no JSON"),
    "no object": ({"data": b"[]"}, "has a data that holds no object"),
    "deep JSON": ({"data": b"[" * 100_000}, "has a data that is no JSON"),
    "a number without end": ({"data": b"1" * 5_000}, "has a data that is no JSON"),
    "steps of text": ({"data": data(num_timesteps="400")}, "num_timesteps is 400, which counts nothing"),
    "no steps": ({"data": data(num_timesteps=None)}, "num_timesteps is None, which counts nothing"),
    "true steps": ({"data": data(num_timesteps=True)}, "num_timesteps is True, which counts nothing"),
    "negative updates": ({"data": data(_n_updates=-1)}, "_n_updates is -1, which counts nothing"),
    "endless episodes": ({"data": data(_episode_num=10**99)}, "_episode_num is 1000.*, which counts nothing"),
    "other steps": ({"data": data(num_timesteps=4)}, "was trained for 4 steps, not 400"),
    "a pickled counter": ({"data": data(_n_updates={":serialized:": "gAR9lC4="})}, "which counts nothing"),
    "weights missing": ({"policy__pth": _state(lambda s: s.popitem())}, "another network: value_net.bias is missing"),
    "weights too many": ({"policy__pth": _state(lambda s: s.update(x=torch.zeros(1)))}, "another network: x is torch"),
    "terminal codes": ({"policy__pth": _state(lambda s: s.update({"\x1b[2J": torch.zeros(1)}))}, r"network: \?\[2J"),
    "a long name": (
        {"policy__pth": _state(lambda s: s.update({"x" * 9999: torch.zeros(1)}))},
        r"network: x{100,} ... x+ is",
    ),
    "other shape": (
        {"policy__pth": _state(lambda s: s.update({"value_net.bias": torch.zeros(2)}))},
        r"value_net.bias is torch.float32 \(2,\) there, and torch.float32 \(1,\) here",
    ),
    "other dtype": ({"policy__pth": _state(lambda s: s.update({"value_net.bias": torch.zeros(1).half()}))}, "float16"),
    "not finite": (
        {"policy__pth": _state(lambda s: s["value_net.bias"].fill_(float("nan")))},
        "has values in value_net.bias that are not finite",
    ),
    "weights of a list": ({"policy__pth": torch_file([1])}, "is no state of a policy"),
    "weights by number": ({"policy__pth": torch_file({1: torch.zeros(1)})}, "is no state of a policy"),
    "memory": (
        {"policy__pth": lambda old: _pickled(old, {"x": Memory()})},
        r"more than tensors.*: it names \w+ bytearray",
    ),
    "no state": ({"policy__optimizer__pth": torch_file({})}, "is no state of RMSprop for this network"),
    "a tensor that is none": (
        {"policy__optimizer__pth": _state(lambda s: s["state"].update({99: s["state"][0]}))},
        "is no state of RMSprop for this network",
    ),
    "of another optimizer": (
        {"policy__optimizer__pth": _state(lambda s: s["state"][0].pop("square_avg"))},
        "RMSprop for this network: it keeps step, square_avg",
    ),
    "of another shape": (
        {"policy__optimizer__pth": _state(lambda s: s["state"][0].update(square_avg=torch.zeros(1)))},
        "RMSprop for this network: square_avg of tensor 0",
    ),
    "negative squares": (
        {"policy__optimizer__pth": _state(lambda s: s["state"][0]["square_avg"].neg_())},
        "no training leaves such values in square_avg",
    ),
    "episodes of text": ({"episodes__json": b'{"episodes": ["x"], "successes": []}'}, "holds no episodes"),
    "endless returns": (
        {"episodes__json": b'{"episodes": [{"r": NaN, "l": 1.0}], "successes": []}'},
        "holds no episodes",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_damaged_agent_is_one_line(saved: Path, bad: str) -> None:
    members, message = BAD[bad]
    file = changed(saved, **members)
    with pytest.raises(AgentError, match=message) as error:
        SavedAgent(file).resume(cartpole(LeapA2C), 400)
    assert str(error.value).startswith(str(file)) and len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 500 + len(str(file))


def test_a_folder_a_pipe_and_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")  # whoever opened it would wait for ever
    for file, message in (
        (tmp_path, "is no file"),
        (tmp_path / "pipe.zip", "is no file"),
        (tmp_path / "x", "not exist"),
    ):
        with pytest.raises(AgentError, match=message):
            SavedAgent(file).policy()


def test_layers_that_would_fill_the_memory_are_not_built(saved: Path) -> None:
    wide = {f"mlp_extractor.{net}.0.weight": torch.zeros(20_000, 1) for net in ("policy_net", "value_net")}
    with pytest.raises(AgentError, match="with more than 16,384"):
        SavedAgent(changed(saved, policy__pth=torch_file(wide))).how_made()
    apart = {f"mlp_extractor.policy_net.{i}.weight": torch.zeros(16_000, 1) for i in (0, 2, 4)}
    with pytest.raises(AgentError, match="do not follow one another"):
        SavedAgent(changed(saved, policy__pth=torch_file(apart))).how_made()


def test_two_encoders_are_not_loaded_into_one(tmp_path: Path) -> None:
    two = pong(policy_kwargs={"share_features_extractor": False, "features_extractor_kwargs": FEW})
    two.save(tmp_path / "agent.zip")
    with pytest.raises(AgentError, match="has two encoders"):
        SavedAgent(tmp_path / "agent.zip").fill(pong(policy_kwargs={"features_extractor_kwargs": FEW}))


def test_nothing_pickled_in_an_agent_is_run(saved: Path, tmp_path: Path) -> None:
    """A bomb in every place that SB3, or whoever trusts torch's default of old, would unpickle."""
    trace = tmp_path / "trace"
    bomb = Bomb(trace)
    serialized = {":type:": "<class 'x'>", ":serialized:": base64.b64encode(pickle.dumps(bomb)).decode()}
    fields = json.loads(zipfile.ZipFile(saved).read("data"))
    everywhere = {name: {**v, **serialized} for name, v in fields.items() if isinstance(v, dict)}
    with pytest.raises(FileExistsError):  # SB3 does run it
        trace.mkdir()
        A2C.load(changed(saved, data=data(**everywhere)))
    trace.rmdir()
    agent = SavedAgent(changed(saved, data=data(**everywhere), pytorch_variables__pth=torch_file(bomb)))
    agent.resume(cartpole(LeapA2C), 400)
    agent.fill(A2C(*agent.how_made()[:1], "CartPole-v1", policy_kwargs=agent.how_made()[1], device="cpu"))
    for content in (torch_file(bomb), torch_file({"x": bomb}), pickle.dumps(bomb)):
        for name in ("policy__pth", "policy__optimizer__pth", "data", "episodes__json"):
            with pytest.raises(AgentError):
                SavedAgent(changed(saved, **{name: content})).resume(cartpole(LeapA2C), 400)
    assert not trace.exists()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_no_bytes_of_a_stranger_do_more_than_be_refused(saved: Path, tmp_path: Path, draw: st.DataObject) -> None:
    """Bytes changed, cut or put in, anywhere: a line, or the very agent."""
    content = bytearray(saved.read_bytes())
    for _ in range(draw.draw(st.integers(1, 3))):
        # Its last kilobyte is the directory.
        at = draw.draw(st.one_of(st.integers(0, len(content) - 1), st.integers(len(content) - 1_000, len(content) - 1)))
        kind = draw.draw(st.sampled_from(["set", "cut", "insert"]))
        if kind == "set":
            content[at] = draw.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + draw.draw(st.integers(1, 40))]
        else:
            content[at:at] = draw.draw(st.binary(min_size=1, max_size=40))
    (tmp_path / "fuzzed.zip").write_bytes(bytes(content))
    model = _FUZZED
    try:
        SavedAgent(tmp_path / "fuzzed.zip").resume(model, 400)
    except AgentError as error:
        assert len(str(error).splitlines()) == 1
        return
    for name, tensor in SavedAgent(saved).policy().items():
        assert torch.equal(model.policy.state_dict()[name], tensor)
    assert all(p.isfinite().all() for p in model.policy.parameters())


_FUZZED = cartpole(LeapA2C)


# -- what is written -------------------------------------------------------------------------------


def test_no_room_for_an_agent_says_what_is_missing_and_leaves_the_old_one(saved: Path, tmp_path: Path) -> None:
    file = tmp_path / "agent.zip"
    file.write_bytes(saved.read_bytes())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match=r"no room for .*agent.zip.*: it needs 9\d,\d{3} bytes, .* are missing"):
            save_agent(cartpole(LeapA2C).learn(20), file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == saved.read_bytes() and os.listdir(tmp_path) == ["agent.zip"]
