"""Settings: what is written is read again, and what is not known is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclopts.exceptions import CycloptsError
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from leap_rl import Initialization, cli
from leap_rl.atari import POOLS
from leap_rl.commands.meta_train import meta_learner
from leap_rl.settings import (
    PRESETS,
    AgentSettings,
    AtariSettings,
    CompareSettings,
    EvaluateSettings,
    LeapSettings,
    MetaTrainSettings,
    TrainSettings,
    TuneSettings,
    as_dict,
    read_preset,
    write_settings,
)
from leap_rl.zoo.artifacts import PUBLISHED

COMMANDS = {
    "meta-train": MetaTrainSettings,
    "train": TrainSettings,
    "tune": TuneSettings,
    "compare": CompareSettings,
    "evaluate": EvaluateSettings,
}
numbers = st.integers(1, 10**9)
rates = st.floats(1e-12, 1e6)
fractions = st.floats(0, 1)
names = st.lists(st.sampled_from(["Pong", "Breakout", "validation", "seen"]), max_size=4).map(tuple)
paths = st.sampled_from([None, Path("a/b"), Path("/x y/z")])


def optional(strategy: Any) -> Any:
    return st.none() | strategy


agents = st.builds(
    AgentSettings,
    algorithm=st.sampled_from(["A2C", "PPO", "DQN", "CrossQ"]),
    network=st.sampled_from([None, "nature", "mnih2013", "mlp"]),
    n_envs=numbers,
    n_steps=optional(numbers),
    learning_rate=optional(rates),
    gamma=optional(fractions),
    ent_coef=optional(st.floats(0, 10)),
    batch_size=optional(st.integers(2, 10**9)),
    buffer_size=optional(numbers),
    exploration_fraction=optional(fractions),
)
ataris = st.builds(AtariSettings, grayscale=st.booleans(), frame_stack=numbers, sticky_actions=fractions)
leaps = st.builds(
    LeapSettings,
    metric=st.sampled_from(["length", "energy"]),
    loss_scale=st.just("auto") | st.floats(0, 10),
    stabilizer=st.booleans(),
    skip_updates=optional(st.integers(0, 100)),
    scale_to_displacement=st.booleans(),
)
settings_of_all_commands = st.one_of(
    st.builds(
        MetaTrainSettings,
        games=names,
        timesteps=numbers,
        meta_batch_size=optional(numbers),
        learner=st.sampled_from(["leap", "reptile", "fomaml", "finetuning"]),
        leap=leaps,
        meta_learning_rate=optional(rates),
        agent=agents,
        atari=ataris,
        init=paths,
        seed=st.integers(0, 2**40),
    ),
    st.builds(TrainSettings, game=st.sampled_from(["", "Pong"]), timesteps=numbers, init=paths, agent=agents),
    st.builds(CompareSettings, games=names, seeds=st.lists(st.integers(0, 99), min_size=1).map(tuple), atari=ataris),
    st.builds(EvaluateSettings, episodes=numbers, deterministic=st.booleans(), agent=agents),
)


def parse(arguments: list[str], preset: str) -> Any:
    """What the command line makes of a preset and arguments."""
    cli.app.config = [cli.Dict(data=read_preset(preset, cli.COMMANDS), source=preset)]
    command, bound, _ = cli.app.parse_args(arguments, exit_on_error=False, print_error=False)
    name = command.__name__.replace("_", "-")
    return bound.arguments.get("settings", COMMANDS[name]())


@hypothesis_settings(deadline=None, max_examples=50)
@given(settings=settings_of_all_commands)
def test_what_is_written_is_read_again(settings: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("run")
    command = next(name for name, kind in COMMANDS.items() if isinstance(settings, kind))
    write_settings(folder, command, settings)
    arguments = [command, "agent.zip"] if command == "evaluate" else [command]
    assert parse(arguments, str(folder / "settings.yaml")) == settings


@hypothesis_settings(deadline=None, max_examples=50)
@given(command=st.sampled_from(sorted(COMMANDS)), key=st.text("abcdefghij-", min_size=4, max_size=12))
def test_unknown_keys_are_refused(command: str, key: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    assume(key.replace("-", "_") not in {field.name for field in dataclasses.fields(COMMANDS[command])})
    file = tmp_path_factory.mktemp("preset") / "mine.yaml"
    file.write_text(yaml.safe_dump({command: {key: 1}}))
    arguments = [command, "agent.zip"] if command == "evaluate" else [command]
    with pytest.raises(CycloptsError, match=r"[Uu]nknown"):
        parse(arguments, str(file))


@pytest.mark.parametrize("preset", sorted(p.stem for p in PRESETS.glob("*.yaml")))
def test_presets_are_what_the_commands_take(preset: str) -> None:
    for command in read_preset(preset, set(COMMANDS)):
        assert parse([command], preset) != COMMANDS[command]()


RECIPES = PUBLISHED.with_name("recipes")


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda r: r.stem)
def test_recipes_are_what_the_command_takes(recipe: Path) -> None:
    settings = parse(["meta-train"], str(recipe))
    (pool,) = settings.games
    assert POOLS[pool] and settings.timesteps * settings.meta_steps > 10**5


NOT_IN_THE_ZOO = Path(__file__).parents[1] / "docs" / "evidence" / "initializations"


@pytest.mark.parametrize("folder", sorted([*PUBLISHED.iterdir(), *NOT_IN_THE_ZOO.iterdir()]), ids=lambda f: f.name)
def test_what_is_published_was_made_by_its_recipe(folder: Path) -> None:
    settings = parse(["meta-train"], str(RECIPES / f"{folder.name}.yaml"))
    theta = Initialization.load(folder)
    config, agent = theta.config, settings.agent
    assert set(config["tasks"]) <= set(POOLS[settings.games[0]])
    learner = meta_learner(settings)
    assert config["learner"] == learner.settings() and config["seed"] == settings.seed and theta.scope == settings.scope
    assert config["meta_steps"] == settings.meta_steps and config["steps_per_visit"] == settings.timesteps
    assert config["meta_batch_size"] == (settings.meta_batch_size or 1)
    visits = settings.meta_steps * (settings.meta_batch_size or 1)
    assert config["timesteps"] == visits * settings.timesteps
    assert config["n_envs"] == agent.n_envs and config["algorithm"] == f"Leap{agent.algorithm}"
    given = config["algorithm_kwargs"]
    assert given == {name: getattr(agent, name) for name in given} and {"ent_coef", "arithmetic"} <= given.keys()
    if settings.learner != "finetuning":
        assert config["meta_optimizer"]["lr"] == settings.meta_learning_rate
        assert config["meta_optimizer"]["name"].lower() == settings.meta_optimizer
    before = config.get("started_from", {}).get("sha256")
    assert before == (Initialization.load(PUBLISHED / settings.init).sha256 if settings.init else None)
    assert ("recycled_units" in config) == settings.recycle_dormant


def test_the_papers_preset_is_the_papers_protocol() -> None:
    """Appendix F."""
    settings = parse(["meta-train"], "paper")
    assert settings.timesteps == 5_000_000 and settings.meta_steps == 100 and settings.meta_batch_size == 16
    assert settings.leap.metric == "energy" and settings.scope == "encoder"
    agent = settings.agent
    assert (agent.network, agent.n_envs, agent.n_steps, agent.learning_rate) == ("mnih2013", 32, 5, 1e-4)
    assert (agent.rms_prop_eps, agent.gamma, agent.ent_coef) == (1e-4, 0.99, 0.01)
    assert (settings.atari.grayscale, settings.atari.frame_stack, settings.atari.clip_reward) == (False, 1, 5.0)


def test_every_setting_of_a_preset_can_be_overridden() -> None:
    before = as_dict(parse(["meta-train"], "paper"))
    given = ["--games", "Pong", "--leap.metric", "length", "--agent.n-envs", "2", "--atari.grayscale", "--seed", "7"]
    after = as_dict(parse(["meta-train", *given], "paper"))
    assert (after["games"], after["seed"]) == (["Pong"], 7)
    assert (after["leap"]["metric"], after["agent"]["n-envs"], after["atari"]["grayscale"]) == ("length", 2, True)
    for section, key in (("leap", "metric"), ("agent", "n-envs"), ("atari", "grayscale")):
        del before[section][key], after[section][key]
    del before["games"], before["seed"], after["games"], after["seed"]
    assert before == after


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meta-trian: {seed: 1}", r"did you mean meta-train\?"),
        ("meta-train: 3", "is no preset"),
        ("- 1", "is no preset"),
        ("a: [", "is no YAML"),
        ("a: !!python/object/apply:os.system ['true']", "is no YAML"),
    ],
)
def test_what_is_no_preset(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_preset(str(tmp_path / "mine.yaml"), set(COMMANDS))


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean cartpole\?"):
        read_preset("cartpol", set(COMMANDS))
    with pytest.raises(ValueError, match="can't be read"):
        read_preset("nowhere.yaml", set(COMMANDS))
