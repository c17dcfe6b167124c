"""
The settings of the commands, typed: what a preset, a run folder and the command line are read into.

Nothing here imports torch, so that the command line answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from cyclopts import Group, Parameter, Token
from cyclopts.help import ColumnSpec, DefaultFormatter, DescriptionRenderer, NameRenderer
from cyclopts.validators import Number

from leap_rl.families import FamilyName


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """``100000``, ``100_000`` and ``1e5``, but not 1.5."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f'unable to convert "{text}" into int') from None
    if not number.is_integer():
        raise ValueError(f"{text} is no whole number")
    return int(number)


Positive = Annotated[int, Parameter(validator=Number(gte=1), converter=_whole)]
NotNegative = Annotated[int, Parameter(validator=Number(gte=0), converter=_whole)]
Rate = Annotated[float, Parameter(validator=Number(gt=0))]
Seconds = Annotated[float, Parameter(validator=Number(gt=0))]
Fraction = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]
Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=(), show_default=False)]
Seeds = Annotated[tuple[NotNegative, ...], Parameter(consume_multiple=True, negative=())]

OPTION_WIDTH = 36
"""Of --help: no option is broken in a terminal of 80 columns."""


def option_group(title: str, order: int) -> Group:
    """
    Options that --help shows together.

    :param title: above them
    :param order: of the groups
    """
    names = ColumnSpec(renderer=NameRenderer(max_width=OPTION_WIDTH), style="cyclopts.name", max_width=OPTION_WIDTH)
    says = ColumnSpec(renderer=DescriptionRenderer(newline_metadata=False), overflow="fold")
    return Group(title, sort_key=order, help_formatter=DefaultFormatter(column_specs=(names, says)))


_WHAT = Parameter(group=option_group("What to learn", 1))
_START = Parameter(group=option_group("What to start from", 2))
_META = Parameter(group=option_group("Meta-learner", 3))
_JUDGED = Parameter(group=option_group("Evaluation", 4))
_AGENT = Parameter(group=option_group("Agent", 5))
_ATARI = Parameter(group=option_group("How a game looks", 6))
_WHERE = Parameter(group=option_group("Where it runs", 7))

PRESETS = Path(__file__).with_name("presets")


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """The agent that learns. What is not given is Stable-Baselines3's default."""

    algorithm: Literal["A2C", "PPO", "DQN", "SAC", "TD3", "DDPG", "RecurrentPPO", "QRDQN", "TQC", "CrossQ"] = "A2C"
    """the last four need sb3-contrib; SAC, TD3, DDPG, TQC, CrossQ: continuous actions; DQN, QRDQN: discrete ones"""
    network: Literal["nature", "nature-ln", "mnih2013", "mlp"] | None = None
    """nature: SB3's for images, the default there; nature-ln: with layer norm; mnih2013: the paper's; mlp: all else"""
    n_envs: Positive = 16
    """environments in parallel"""
    n_steps: Positive | None = None
    """steps in each environment between two updates; with a replay buffer that is train-freq"""
    learning_rate: Rate | None = None
    """of the agent's own optimizer"""
    gamma: Fraction | None = None
    """discount factor"""
    gae_lambda: Fraction | None = None
    """of generalized advantage estimation"""
    ent_coef: Annotated[float, Parameter(validator=Number(gte=0))] | None = None
    """weight of the entropy bonus"""
    vf_coef: Annotated[float, Parameter(validator=Number(gte=0))] | None = None
    """weight of the value loss"""
    max_grad_norm: Rate | None = None
    """gradients are clipped to this norm"""
    use_rms_prop: bool | None = None
    """A2C only: RMSprop; if not, Adam"""
    rms_prop_eps: Rate | None = None
    """A2C only: RMSprop's ε"""
    batch_size: Annotated[int, Parameter(validator=Number(gte=2), converter=_whole)] | None = None
    """all but A2C: minibatch size"""
    n_epochs: Positive | None = None
    """PPO and RecurrentPPO: passes over a rollout"""
    clip_range: Rate | None = None
    """PPO and RecurrentPPO: of the probability ratio"""
    buffer_size: Positive | None = None
    """with a replay buffer: steps that it holds"""
    learning_starts: NotNegative | None = None
    """with a replay buffer: steps of random actions before the first update"""
    train_freq: Positive | None = None
    """with a replay buffer: steps in each environment between updates"""
    gradient_steps: Positive | None = None
    """with a replay buffer: updates at a time"""
    tau: Annotated[float, Parameter(validator=Number(gt=0, lte=1))] | None = None
    """with a target network: how far it follows at a time"""
    target_update_interval: Positive | None = None
    """DQN and QRDQN: steps between two updates of the target network; SAC and TQC: updates"""
    exploration_fraction: Fraction | None = None
    """DQN and QRDQN: part of a visit in which random actions become rare"""
    exploration_final_eps: Fraction | None = None
    """DQN and QRDQN: probability of a random action after it"""
    arithmetic: Literal["exact", "fast"] = "exact"
    """exact: the bits of Stable-Baselines3; fast: other bits, by what this hardware has (bfloat16 for one)"""


@dataclass(frozen=True, kw_only=True)
class AtariSettings:
    """How a game looks to the agent."""

    grayscale: bool = True
    """grey or RGB"""
    frame_stack: Positive = 4
    """frames in one observation"""
    clip_reward: Annotated[float, Parameter(validator=Number(gt=0))] = 1.0
    """rewards are clipped to ± this for learning"""
    sticky_actions: Fraction = 0.0
    """probability that an action is repeated"""


@dataclass(frozen=True, kw_only=True)
class LeapSettings:
    """How Leap sums a gradient path."""

    metric: Literal["length", "energy"] = "energy"
    """which of the path is made short"""
    loss_delta: Literal["consecutive", "within_rollout", "none"] = "consecutive"
    """which difference of losses enters"""
    loss_scale: float | Literal["auto"] = "auto"
    """λ, the unit of the loss; auto bounds the loss's part of an energy by the steps' part"""
    stabilizer: bool = True
    """replace Δf by -|Δf|"""
    gradients: Literal["clipped", "raw"] = "clipped"
    """as the agent clips them, or as they come"""
    skip_updates: NotNegative | None = None
    """leave out the first updates; without it those of a cold RMSprop"""
    scale_to_displacement: bool = False
    """make the meta gradient as long as the way that the visit went, whatever the metric"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MetaTrainSettings:
    """Meta-train an initialization."""

    games: Annotated[Names, _WHAT] = ()
    """Atari games, or pools of them (`leap-rl games` lists both)"""
    envs: Annotated[Names, _WHAT] = ()
    """Gymnasium ids instead, or variants of families, such as cartpole/training-3"""
    family: Annotated[FamilyName | None, _WHAT] = None
    """a family instead, whose training variants are learned from"""
    timesteps: Annotated[Positive, _WHAT] = 100_000
    """of one visit to a game, summed over its environments"""
    meta_steps: Annotated[Positive, _WHAT] = 50
    """updates of the initialization"""
    meta_batch_size: Annotated[Positive | None, _WHAT] = None
    """games per meta step; without it all"""
    learner: Annotated[Literal["leap", "reptile", "fomaml", "finetuning"], _META] = "leap"
    """the meta-learner; finetuning trains one game after the other (no MAML: it differentiates through learning)"""
    leap: Annotated[LeapSettings, _META] = field(default_factory=LeapSettings)
    """how Leap sums a gradient path"""
    meta_optimizer: Annotated[Literal["adam", "sgd"] | None, _META] = None
    """without it the meta-learner's own"""
    meta_learning_rate: Annotated[Rate | None, _META] = None
    """β; without it the meta-learner's own"""
    meta_schedule: Annotated[Literal["constant", "linear"], _META] = "constant"
    """linear: β falls to zero with the last meta step"""
    average_from: Annotated[Positive | None, _META] = None
    """meta step from which on all initializations are averaged (Polyak averaging); without it the last is left"""
    recycle_dormant: Annotated[bool, _META] = False
    """draw the encoder's units anew, before each meta step, that are positive on none of the games"""
    scope: Annotated[str | None, _META] = None
    """encoder, all, mlp_extractor of vectors, actor or critic where these have an optimizer each. Without it
    encoder for images, else all"""
    sampling: Annotated[Literal["without_replacement", "reshuffle", "with_replacement"], _WHAT] = "reshuffle"
    """how a meta batch is drawn"""
    agent: Annotated[AgentSettings, _AGENT] = field(default_factory=AgentSettings)
    """the agent that learns"""
    atari: Annotated[AtariSettings, _ATARI] = field(default_factory=AtariSettings)
    """how a game looks"""
    init: Annotated[Path | None, _START] = None
    """initialization to start from: a folder, a name of the zoo, or an agent's zip, whose encoder is taken"""
    eval_games: Annotated[Names, _JUDGED] = ()
    """that decide which initialization was best; never learned from"""
    eval_envs: Annotated[Names, _JUDGED] = ()
    """Gymnasium ids for the same"""
    eval_family: Annotated[bool, _JUDGED] = False
    """the validation variants of the family for the same"""
    eval_freq: Annotated[Positive, _JUDGED] = 5
    """meta steps between two evaluations"""
    eval_timesteps: Annotated[Positive | None, _JUDGED] = None
    """of an evaluation of a game; without it as in a visit"""
    seed: Annotated[NotNegative, _WHAT] = 0
    """of everything"""
    engine: Annotated[Literal["local", "ray"], _WHERE] = "local"
    """where it runs: on this machine, or on a Ray cluster (extra ray; docs/scaling.md)"""
    address: Annotated[str | None, _WHERE] = None
    """of the Ray cluster, host:port, or auto for the one of this machine; without it this machine alone"""
    gpus_per_task: Annotated[Annotated[float, Parameter(validator=Number(gte=0))], _WHERE] = 0.0
    """GPUs, or a part of one, that each task takes of the Ray cluster, besides one core"""
    n_workers: Annotated[Positive | None, _WHERE] = None
    """processes; without it one per core"""
    task_timeout: Annotated[Seconds | None, _WHERE] = None
    """seconds that a visit may take before it is ended as failed; --dry-run suggests a number"""
    device: Annotated[str, _WHERE] = "auto"
    """where the models live"""
    keep_checkpoints: Annotated[Positive, _WHERE] = 3
    """the last ones stay"""
    keep_every: Annotated[NotNegative, _WHERE] = 0
    """those of every n-th meta step stay, too"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Train an agent on one game."""

    game: Annotated[str, _WHAT] = field(default="", kw_only=False)
    """an Atari game"""
    env: Annotated[str, _WHAT] = ""
    """a Gymnasium id instead, or a variant of a family, such as cartpole/test-3"""
    timesteps: Annotated[Positive, _WHAT] = 200_000
    """summed over the environments"""
    init: Annotated[Path | None, _START] = None
    """to start from: a folder, a name of the zoo, or an agent's zip, whose encoder is taken; without it random"""
    head: Annotated[Literal["map", "redraw"] | None, _START] = None
    """of an initialization of scope all: take its rows by the meaning of each action, or draw a new one"""
    teachers: Annotated[Names, _START] = ()
    """run folders of leap-rl train: learn to act as they do, on their games, instead of from rewards (Actor-Mimic)"""
    transfer_layers: Annotated[Names, _START] = ()
    """of the initialization: these blocks alone, such as encoder.cnn; the others are drawn anew"""
    finetune: Annotated[str, _START] = ""
    """strategy, such as lp-ft, gradual or slow:factor=0.1 (docs/finetuning.md); with + between several"""
    freeze_encoder_steps: Annotated[NotNegative, _START] = 0
    """train the head alone for so many steps first"""
    encoder_lr_factor: Annotated[Fraction, _START] = 1.0
    """learning rate of the encoder, by that of the rest"""
    watch: Annotated[Path | None, _START] = None
    """run folder of a comparison with random starts on this game: warn when this run falls behind them"""
    agent: Annotated[AgentSettings, _AGENT] = field(default_factory=AgentSettings)
    """the agent that learns"""
    atari: Annotated[AtariSettings, _ATARI] = field(default_factory=AtariSettings)
    """how the game looks"""
    seed: Annotated[NotNegative, _WHAT] = 0
    """of everything"""
    save_freq: Annotated[Positive, _WHERE] = 50_000
    """steps between two saved agents"""
    device: Annotated[str, _WHERE] = "auto"
    """where the model lives"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """Search how to fine-tune an initialization on one game."""

    game: Annotated[str, _WHAT] = field(default="", kw_only=False)
    """an Atari game"""
    env: Annotated[str, _WHAT] = ""
    """a Gymnasium id instead"""
    init: Annotated[Path | None, _START] = None
    """initialization to fine-tune: a folder, a name of the zoo, or an agent's zip, whose encoder is taken"""
    trials: Annotated[Positive, _WHAT] = 20
    """settings to try, those that are ended early among them"""
    timesteps: Annotated[Positive, _WHAT] = 100_000
    """of each run, summed over the environments"""
    seeds: Annotated[Seeds, _WHAT] = (0, 1, 2)
    """of the runs of each trial, which are its folds"""
    report_seeds: Annotated[Seeds, _WHAT] = (100, 101, 102)
    """of the runs by which the best settings are reported"""
    head: Annotated[Literal["map", "redraw"] | None, _START] = None
    """of an initialization of scope all: take its rows by the meaning of each action, or draw a new one"""
    agent: Annotated[AgentSettings, _AGENT] = field(default_factory=AgentSettings)
    """the agent that learns"""
    atari: Annotated[AtariSettings, _ATARI] = field(default_factory=AtariSettings)
    """how the game looks"""
    seed: Annotated[NotNegative, _WHAT] = 0
    """of the search"""
    device: Annotated[str, _WHERE] = "auto"
    """where the models live"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Learn games from different initializations, with equal budgets and seeds."""

    games: Annotated[Names, _WHAT] = ()
    """Atari games, or pools of them"""
    envs: Annotated[Names, _WHAT] = ()
    """Gymnasium ids instead, or variants of families, such as cartpole/test-3"""
    family: Annotated[FamilyName | None, _WHAT] = None
    """a family instead, whose test variants are learned"""
    starts: Annotated[Names, _START] = ("random",)
    """folders of initializations, names of the zoo or zips of agents, or name=one of them; random is a random one"""
    finetune: Annotated[Names, _START] = ()
    """strategies, such as lp-ft or slow:factor=0.1 (docs/finetuning.md); each start but random learns by each"""
    timesteps: Annotated[Positive, _WHAT] = 200_000
    """of each run, summed over its environments"""
    seeds: Annotated[Seeds, _WHAT] = (0, 1, 2, 3, 4)
    """of the runs, the same for every start"""
    agent: Annotated[AgentSettings, _AGENT] = field(default_factory=AgentSettings)
    """the agent that learns"""
    atari: Annotated[AtariSettings, _ATARI] = field(default_factory=AtariSettings)
    """how a game looks"""
    scope: Annotated[str | None, _META] = None
    """of a random start; without it that of the other starts"""
    note: Annotated[str, _JUDGED] = ""
    """below the table and above the figure"""
    engine: Annotated[Literal["local", "ray"], _WHERE] = "local"
    """where it runs: on this machine, or on a Ray cluster (extra ray; docs/scaling.md)"""
    address: Annotated[str | None, _WHERE] = None
    """of the Ray cluster, host:port, or auto for the one of this machine; without it this machine alone"""
    gpus_per_task: Annotated[Annotated[float, Parameter(validator=Number(gte=0))], _WHERE] = 0.0
    """GPUs, or a part of one, that each task takes of the Ray cluster, besides one core"""
    n_workers: Annotated[Positive | None, _WHERE] = None
    """processes; without it one per core"""
    task_timeout: Annotated[Seconds | None, _WHERE] = None
    """seconds that a run may take before it is ended as failed"""
    device: Annotated[str, _WHERE] = "auto"
    """where the models live"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Let a saved agent play, or an initialization learn and then play."""

    game: Annotated[str, _WHAT] = ""
    """an Atari game; without it that of the run that saved the agent"""
    env: Annotated[str, _WHAT] = ""
    """a Gymnasium id instead, or a variant of a family, such as cartpole/test-3"""
    episodes: Annotated[Positive, _JUDGED] = 10
    """to play"""
    deterministic: Annotated[bool, _JUDGED] = False
    """take the most probable action instead of drawing one"""
    timesteps: Annotated[Positive, _WHAT] = 100_000
    """an initialization learns for so long first"""
    head: Annotated[Literal["map", "redraw"] | None, _START] = None
    """of an initialization of scope all: take its rows by the meaning of each action, or draw a new one"""
    agent: Annotated[AgentSettings, _AGENT] = field(default_factory=AgentSettings)
    """the agent; its algorithm must be that of a saved one"""
    atari: Annotated[AtariSettings, _ATARI] = field(default_factory=AtariSettings)
    """how the game looks"""
    seed: Annotated[NotNegative, _WHAT] = 0
    """of everything"""
    device: Annotated[str, _WHERE] = "auto"
    """where the model lives"""


Settings = MetaTrainSettings | TrainSettings | TuneSettings | CompareSettings | EvaluateSettings


def as_dict(settings: Any) -> dict[str, Any]:
    """Settings as YAML and JSON hold them."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k.replace("_", "-"): plain(v) for k, v in value.items() if v is not None}
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(settings))


def as_options(*sections: AgentSettings | AtariSettings) -> list[str]:
    """What a command must be given to have these settings: those that are not built in."""
    options = []
    for section in sections:
        prefix = type(section).__name__.removesuffix("Settings").lower()
        for name, value in vars(section).items():
            if value != getattr(type(section), name):
                option = name.replace("_", "-")
                if isinstance(value, bool):
                    options.append(f"--{prefix}.{option}" if value else f"--{prefix}.no-{option}")
                else:
                    options += [f"--{prefix}.{option}", str(value)]
    return options


def write_settings(folder: Path, command: str, settings: Settings) -> None:
    """Into ``folder/settings.yaml``, which ``--preset`` reads again."""
    from leap_rl.running.files import write_text  # what writes has loaded torch already

    text = yaml.safe_dump({command: as_dict(settings)}, sort_keys=False, allow_unicode=True)
    write_text(folder / "settings.yaml", text)


def settings_file(folder: Path) -> Path:
    """:raises ValueError: if it is no run's folder"""
    file = folder / "settings.yaml"
    if not file.is_file():
        raise ValueError(f"{folder} is no run folder: there is no settings.yaml in it")
    return file


def read_preset(name: str, commands: set[str]) -> dict[str, Any]:
    """
    :param name: of a preset that comes with leap_rl, or a YAML file
    :param commands: that a preset may have settings for
    :return: settings by command
    :raises ValueError: if there is none, or it is no preset
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = sorted(p.stem for p in PRESETS.glob("*.yaml"))
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"no preset {name!r}: there are {', '.join(known)}, or give a .yaml file{hint}")
        path = PRESETS / f"{name}.yaml"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path} has {path.stat().st_size:,} bytes: no preset is so long")
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read: {error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    if not isinstance(data, dict) or not all(isinstance(section, dict) for section in data.values()):
        raise ValueError(f"{path} is no preset: it must hold settings by command, such as 'meta-train: {{seed: 0}}'")
    for section, settings in data.items():
        if section not in commands:
            near = difflib.get_close_matches(str(section), commands, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{path} has a section {section!r}, but no command has that name{hint}")
        for key in sorted(_ONLY_GIVEN & set(settings)):
            raise ValueError(f"{path}: {section} has {key}, which is given on the command line alone")
        for number, (key, value) in enumerate(_leaves(settings, section)):
            # By aliases, which may even hold themselves.
            if number == MOST_SETTINGS or key.count(".") > _Loader.DEEPEST:
                raise ValueError(f"{path} is nested too deeply, or says too much")
            if not isinstance(value, str | int | float | None):
                raise ValueError(f"{path}: {key} is {type(value).__name__}, which no setting is")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{path}: {key} is {value}, which no setting is")
    return data


MOST_BYTES, MOST_SETTINGS = 1_000_000, 10_000
"""Of a preset."""

_ONLY_GIVEN = {"preset", "resume", "run-dir", "run_dir", "dry-run", "dry_run", "video", "trust"}


def _leaves(settings: dict[str, Any], section: str) -> Iterator[tuple[str, Any]]:
    """What is no section and no list, by its keys; without recursion, which an alias may have no end of."""
    left: list[tuple[str, Any]] = [(section, settings)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{key}.{name}", part) for name, part in value.items()]
        elif isinstance(value, list):
            left += [(f"{key}.{n}", part) for n, part in enumerate(value)]
        if not isinstance(value, dict | list) or key.count(".") > _Loader.DEEPEST:
            yield key, value


class _Loader(yaml.SafeLoader):
    """Keys are text and come once, and nesting has an end: an alias may stand for what holds it."""

    DEEPEST = 20

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > self.DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "it is nested too deeply", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        found = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is no text", key_node.start_mark)
            if key in found:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is there twice", key_node.start_mark
                )
            found.add(key)
        return super().construct_mapping(node, deep)
