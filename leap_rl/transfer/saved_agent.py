"""An agent's zip, as Stable-Baselines3 writes it: written whole, and read without running anything of it."""

from __future__ import annotations

import io
import json
import math
import pickletools
import re
import zipfile
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.optim import Optimizer

from leap_rl.running.files import replacing_file
from leap_rl.running.outside import first_line, printable
from leap_rl.transfer.names import parameters_of
from leap_rl.transfer.networks import NETWORKS

MOST_BYTES = 100_000_000
"""Of a file in an agent's zip: NatureCNN's tensors are 7 million, and its optimizer's state twice that."""
MOST_UNITS = 16_384
"""Of a layer: a stranger's few bytes must not describe a network that fills the memory."""

EPISODES = "episodes.json"
"""The last episodes, of which SB3 logs the mean return; SB3 pickles them, and does not look at this file."""

_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num")
_POLICIES = {
    "ActorCriticPolicy": "MlpPolicy",
    "ActorCriticCnnPolicy": "CnnPolicy",
    "MultiInputActorCriticPolicy": "MultiInputPolicy",
}
_EXTRACTORS = (*NETWORKS.values(), FlattenExtractor, CombinedExtractor)
_ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU)
_CLASSES: dict[str, type] = {str(kind): kind for kind in (*_EXTRACTORS, *_ACTIVATIONS)}
# How a policy is drawn and learns, and what is seen in its tensors.
_NOT_NEEDED = {"optimizer_class", "optimizer_kwargs", "ortho_init", "log_std_init"}
_NOT_NEEDED |= {"net_arch", "features_extractor_kwargs"}
_NEEDS_PICKLE = (
    "needs its pickle to play, since {}: --trust reads it, and runs whatever its author put there. The folder of a run "
    "of leap-rl train plays without"
)
# All that torch makes a state of. Other names that it allows could fill the memory, such as a bytearray of any size.
_OF_TENSORS = re.compile(r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage")


class AgentError(ValueError):
    """
    A saved agent that is damaged, foreign, or can't be read without running what it holds.

    :param file: of the agent
    :param what: is the matter with it; it may quote the file, so only what is printable is said
    """

    def __init__(self, file: Path, what: str) -> None:
        self.file = file
        super().__init__(f"{file} {printable(what, 400)}")


def save_agent(model: BaseAlgorithm, file: Path) -> None:
    """
    As ``model.save``, but the file appears whole or not at all.

    :param model: to save
    :param file: zip to write, or to replace; its folder is made
    :raises OSError: where there is no room for it; what was there stays
    """
    content = io.BytesIO()
    model.save(content)
    episodes = [{key: float(episode[key]) for key in ("r", "l")} for episode in model.ep_info_buffer or ()]
    successes = [float(success) for success in model.ep_success_buffer or ()]
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(EPISODES, json.dumps({"episodes": episodes, "successes": successes}))
    with replacing_file(file, content.tell()) as unfinished:
        unfinished.write_bytes(content.getbuffer())


class SavedAgent:
    """
    The zip that ``model.save`` wrote. SB3 pickles a part of it, and whoever unpickles runs what its author wrote. Here
    tensors are read as tensors, JSON as JSON, and the rest is left alone.

    :param file: the zip
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def policy(self) -> dict[str, Tensor]:
        """
        The policy's tensors, by SB3's names.

        :raises AgentError: if there are none
        """
        tensors = self._tensors("policy.pth")
        if not isinstance(tensors, dict) or not all(
            type(name) is str and isinstance(tensor, Tensor) for name, tensor in tensors.items()
        ):
            raise AgentError(self.file, "has a policy.pth that is no state of a policy")
        if sum(t.numel() * t.element_size() for t in tensors.values()) > MOST_BYTES:
            raise AgentError(self.file, f"has a policy.pth with tensors of more than {MOST_BYTES:,} bytes")
        return tensors

    def player(self, kind: type[BaseAlgorithm], env: VecEnv, what: str, **kwargs: Any) -> BaseAlgorithm:
        """
        As SB3 loads it, for playing, but nothing that it holds is run.

        :param kind: A2C, or PPO
        :param env: to play in
        :param what: to call that
        :param kwargs: of the algorithm's constructor
        :raises ValueError: if it needs to be run, is damaged, or does not fit the environment
        """
        name, policy_kwargs = self.how_made()
        made: Any = kind
        try:
            model: BaseAlgorithm = made(name, env, policy_kwargs=policy_kwargs, **kwargs)
        except (ValueError, TypeError, AssertionError, KeyError) as error:
            raise ValueError(
                f"{self.file} does not fit {what} and {kind.__name__} ({first_line(error)}): --agent.algorithm names "
                "what saved it"
            ) from None
        self.fill(model)
        return model

    def fill(self, model: BaseAlgorithm) -> None:
        """
        Give a model the weights.

        :param model: of the same network
        :raises AgentError: if it is of another, or the weights are damaged
        """
        tensors, own = self.policy(), model.policy.state_dict()
        for name in dict.fromkeys([*own, *tensors]):
            theirs, ours = _kind(tensors.get(name)), _kind(own.get(name))
            if theirs != ours:
                raise AgentError(self.file, f"is of another network: {name} is {theirs} there, and {ours} here")
            if not tensors[name].isfinite().all():
                raise AgentError(self.file, f"has values in {name} that are not finite")
        model.policy.load_state_dict(tensors)
        if not all(torch.equal(t.cpu(), tensors[name]) for name, t in own.items()):  # one tensor under two names
            raise AgentError(self.file, "has two encoders, of its actor and its critic, where this network has one")

    def resume(self, model: BaseAlgorithm, steps: int) -> None:
        """
        Give a new model all that its further training depends on, but for the state of the environments.

        :param model: made with the settings that the agent was trained with
        :param steps: that it was trained for
        :raises AgentError: if these were others, or the file is damaged
        """
        counters = self._counters()
        if counters["num_timesteps"] != steps:
            raise AgentError(self.file, f"was trained for {counters['num_timesteps']:,} steps, not {steps:,}")
        optimizer: Any = model.policy.optimizer
        state = self._optimizer_state(optimizer)
        episodes, successes = self._episodes()
        self.fill(model)
        # Its rate, and whatever else is set, are the model's.
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        vars(model).update(counters)
        window = model._stats_window_size
        model.ep_info_buffer, model.ep_success_buffer = deque(episodes, window), deque(successes, window)

    def steps(self) -> int:
        """
        That it was trained for.

        :raises AgentError: if it does not say
        """
        return self._counters()["num_timesteps"]

    def _counters(self) -> dict[str, int]:
        fields = self._json("data")
        counters: dict[str, int] = {}
        for name in _COUNTERS:
            value = fields.get(name)
            if type(value) is not int or not 0 <= value < 10**15:
                raise AgentError(self.file, f"says that {name} is {str(value)[:80]}, which counts nothing")
            counters[name] = value
        return counters

    def how_made(self) -> tuple[str, dict[str, Any]]:
        """
        How a policy with actor and critic was made, as far as it matters when it plays.

        :return: SB3's name of it, and its ``policy_kwargs``
        :raises AgentError: if only its pickle says so, as of a network of its author's
        """
        fields = self._json("data")
        made, given = fields.get("policy_class"), fields.get("policy_kwargs")
        if not isinstance(made, dict) or not isinstance(given, dict):
            raise AgentError(self.file, "does not say what its policy is")
        written = re.match(r"<function (\w+)\.__init__ ", str(made.get("__init__")))
        policy = _POLICIES.get(written[1]) if written else None
        if policy is None or made.get("__module__") != "stable_baselines3.common.policies":
            raise AgentError(self.file, _NEEDS_PICKLE.format("its policy is none of SB3's for A2C and PPO"))
        if fields.get("use_sde") is not False:
            raise AgentError(self.file, _NEEDS_PICKLE.format("it explores by gSDE"))
        kwargs: dict[str, Any] = {}
        for key, value in given.items():
            if key in _NOT_NEEDED or key.startswith(":"):
                continue
            if type(value) is not bool and not (type(value) is str and value in _CLASSES):
                raise AgentError(self.file, _NEEDS_PICKLE.format(f"its {key} is {str(value)[:80]}"))
            kwargs[key] = value if type(value) is bool else _CLASSES[value]
        tensors = self.policy()
        kwargs["net_arch"] = {"pi": self._units("policy_net", tensors), "vf": self._units("value_net", tensors)}
        features = tensors.get("features_extractor.linear.0.bias")
        if features is not None:
            kwargs["features_extractor_kwargs"] = {"features_dim": self._size("encoder", features)}
        return policy, kwargs

    # -- what the zip holds ------------------------------------------------------------------------

    def _read(self, name: str, missing: bytes | None = None) -> bytes:
        """:param missing: stands for a file that is not there, if it may be"""
        if not self.file.is_file():
            raise AgentError(self.file, "is no file" if self.file.exists() else "does not exist")
        try:
            with zipfile.ZipFile(self.file) as archive:
                if missing is not None and name not in archive.namelist():
                    return missing
                info = archive.getinfo(name)
                # As SB3 and torch write them: compressed, a small file could fill the memory.
                as_written = info.compress_type == zipfile.ZIP_STORED and info.file_size <= MOST_BYTES
                content = archive.read(info) if as_written else b""
        except Exception as error:  # zipfile raises many kinds
            raise AgentError(self.file, f"is no agent that SB3 saved, or is damaged: {first_line(error)}") from None
        if not as_written:
            raise AgentError(self.file, f"has a {name} that is compressed, or larger than {MOST_BYTES:,} bytes")
        return content

    def _json(self, name: str, missing: bytes | None = None) -> dict[str, Any]:
        data = self._read(name, missing)
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise AgentError(self.file, f"has a {name} that is no JSON: {first_line(error)}") from None
        if not isinstance(content, dict):
            raise AgentError(self.file, f"has a {name} that holds no object")
        return content

    def _tensors(self, name: str) -> Any:
        """What torch saved, if it is of tensors, containers and numbers alone."""
        data = self._read(name)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                records = archive.infolist()
                pickles = [archive.read(r) for r in records if r.filename.endswith("data.pkl") and not r.compress_type]
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ValueError("it is compressed inside, which torch does not do")
            for opcode, argument, _ in (opcode for pickle in pickles for opcode in pickletools.genops(pickle)):
                if opcode.name == "GLOBAL" and not _OF_TENSORS.fullmatch(str(argument)):
                    raise ValueError(f"it names {argument}")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # zipfile, pickletools and torch raise many kinds
            what = (
                f"has a {name} that holds more than tensors, or is damaged; nothing of it was run: {first_line(error)}"
            )
            raise AgentError(self.file, what) from None

    def _optimizer_state(self, optimizer: Optimizer) -> dict[int, dict[str, Tensor]]:
        saved = self._tensors("policy.optimizer.pth")
        state = saved.get("state") if isinstance(saved, dict) else None
        parameters = parameters_of(optimizer)
        kept = _kept(optimizer)
        foreign = f"has a policy.optimizer.pth that is no state of {type(optimizer).__name__} for this network"
        if not isinstance(state, dict):
            raise AgentError(self.file, foreign)
        for index, values in state.items():
            if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(values, dict):
                raise AgentError(self.file, foreign)
            if values.keys() != kept.keys():
                raise AgentError(self.file, f"{foreign}: it keeps {', '.join(kept)}")
            for key, value in values.items():
                shape = parameters[index].shape if kept[key].dim() else kept[key].shape
                if not isinstance(value, Tensor) or value.dtype != kept[key].dtype or value.shape != shape:
                    raise AgentError(self.file, f"{foreign}: {key} of tensor {index}")
                # Means of squares, and the number of steps, are not negative.
                if not value.isfinite().all() or (key != "exp_avg" and (value < 0).any()):
                    raise AgentError(self.file, f"{foreign}: no training leaves such values in {key}")
        return state

    def _episodes(self) -> tuple[list[dict[str, float]], list[float]]:
        """The last episodes, and which succeeded; none of an agent that was saved without them."""
        content = self._json(EPISODES, missing=b'{"episodes": [], "successes": []}')
        episodes, successes = content.get("episodes"), content.get("successes")
        if not (
            isinstance(episodes, list)
            and all(isinstance(e, dict) and e.keys() == {"r", "l"} and _are_numbers(e.values()) for e in episodes)
            and isinstance(successes, list)
            and _are_numbers(successes)
        ):
            raise AgentError(self.file, f"has a {EPISODES} that holds no episodes")
        return episodes, successes

    def _units(self, net: str, tensors: dict[str, Tensor]) -> list[int]:
        """Of each hidden layer, which must be the next one's input: a network is about to be built of them."""
        layers = [t for name, t in tensors.items() if re.fullmatch(rf"mlp_extractor\.{net}\.\d+\.weight", name)]
        units = [self._size(net, layer) for layer in layers]
        if [tuple(layer.shape) for layer in layers[1:]] != [(out, into) for into, out in pairwise(units)]:
            raise AgentError(self.file, f"has a {net} whose layers do not follow one another")
        return units

    def _size(self, what: str, tensor: Tensor) -> int:
        if not tensor.dim() or not 1 <= tensor.shape[0] <= MOST_UNITS:
            raise AgentError(self.file, f"has a layer of {what} without units, or with more than {MOST_UNITS:,}")
        return tensor.shape[0]


def _kept(optimizer: Optimizer) -> dict[str, Tensor]:
    """What such an optimizer keeps of a parameter, here of one with two values."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    alike = type(optimizer)([parameter], **optimizer.defaults)
    alike.step()
    return dict(alike.state[parameter])


def _are_numbers(values: Any) -> bool:
    return all(type(value) is float and math.isfinite(value) for value in values)


def _kind(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
