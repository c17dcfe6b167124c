"""
The command line: what ``leap-rl`` understands.

The commands import what they need when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, Parameter
from cyclopts.config import Dict
from cyclopts.exceptions import CoercionError, UnknownOptionError

from leap_rl.ending import exit_code, run_program
from leap_rl.settings import (
    CompareSettings,
    EvaluateSettings,
    MetaTrainSettings,
    Settings,
    TrainSettings,
    TuneSettings,
    option_group,
    read_preset,
    settings_file,
)
from leap_rl.threads import sleep_when_idle

app = App(
    "leap-rl",
    help="Meta-learn initializations on Atari games and start new games from them.",
    help_epilogue="""A gain that one can see, within minutes:
  leap-rl meta-train --preset flavours --run-dir runs/berzerk
An Atari game from a pretrained encoder:
  leap-rl train Breakout --init atari-a2c-reptile""",
    version=lambda: version("leap-rl"),
    help_format="plaintext",
    group_parameters=option_group("This run", 0),
    suppress_keyboard_interrupt=False,  # a command that was interrupted says how to go on, and exit_code its code
)

app.register_install_completion_command(
    add_to_startup=False, help="Have the shell complete commands and options: writes its file of completions."
)

RunDir = Annotated[Path | None, Parameter(help="folder of a new run; without it the next number under runs")]
Resume = Annotated[Path | None, Parameter(help="folder of a run to go on with; nothing else is needed")]
Preset = Annotated[str | None, Parameter(help="flavours, atari-100k, paper, a family such as cartpole, or a YAML file")]
Folders = Annotated[tuple[Path, ...], Parameter(consume_multiple=True, negative=())]
_DEFAULT: Any = None
Checked = TypeVar("Checked", bound=Settings)


def _checked(settings: Checked) -> Checked:
    """Before a command imports torch, which is said where a person waits for it."""
    from leap_rl.commands.checks import check

    check(settings)
    if sys.stderr.isatty():
        print("Loading PyTorch, which takes some seconds ...", file=sys.stderr, flush=True)
    return settings


@app.command(
    help_epilogue="""Examples:
  leap-rl meta-train --preset cartpole --run-dir runs/cartpole
  leap-rl meta-train --games AirRaid Carnival DemonAttack --meta-steps 50"""
)
def meta_train(
    settings: MetaTrainSettings = _DEFAULT,
    *,
    preset: Preset = None,
    run_dir: RunDir = None,
    resume: Resume = None,
    dry_run: bool = False,
) -> None:
    """
    Meta-train an initialization on games.

    :param dry_run: print what would be run and what it costs
    """
    settings = _checked(settings or MetaTrainSettings())
    if dry_run:
        from leap_rl.commands.dry_run import dry_run as print_costs

        print_costs(settings)
        return
    from leap_rl.commands.meta_train import meta_train as run
    from leap_rl.commands.run_folder import run_folder

    with run_folder(resume or run_dir, resume is not None, "meta-train") as folder:
        run(settings, folder, resume is not None)


@app.command(
    help_epilogue="""Examples:
  leap-rl train Breakout --init atari-a2c-reptile
  leap-rl train --env CartPole-v1 --agent.algorithm PPO --timesteps 20000"""
)
def train(
    settings: TrainSettings = _DEFAULT, *, preset: Preset = None, run_dir: RunDir = None, resume: Resume = None
) -> None:
    """Train an agent on one game, from an initialization or from scratch."""
    settings = _checked(settings or TrainSettings())
    from leap_rl.commands.run_folder import run_folder
    from leap_rl.commands.train import train as run

    with run_folder(resume or run_dir, resume is not None, "train") as folder:
        run(settings, folder, resume is not None)


@app.command(
    help_epilogue="""Examples:
  leap-rl tune Assault --init atari-a2c-reptile --trials 20
  leap-rl train --preset runs/tune_1/best.yaml"""
)
def tune(
    settings: TuneSettings = _DEFAULT, *, preset: Preset = None, run_dir: RunDir = None, resume: Resume = None
) -> None:
    """Search how to fine-tune an initialization on one game; the best settings become a preset of train."""
    settings = _checked(settings or TuneSettings())
    from leap_rl.commands.run_folder import run_folder
    from leap_rl.commands.tune import tune as run

    with run_folder(resume or run_dir, resume is not None, "tune") as folder:
        run(settings, folder, resume is not None)


@app.command(
    help_epilogue="""Examples:
  leap-rl compare --games Breakout --starts atari-a2c-reptile random
  leap-rl compare --preset cartpole --starts runs/cartpole/initialization random"""
)
def compare(
    settings: CompareSettings = _DEFAULT, *, preset: Preset = None, run_dir: RunDir = None, resume: Resume = None
) -> None:
    """Learn games from different initializations, with equal budgets and seeds: table, figure, JSON."""
    settings = _checked(settings or CompareSettings())
    from leap_rl.commands.compare import compare as run
    from leap_rl.commands.run_folder import run_folder

    with run_folder(resume or run_dir, resume is not None, "compare") as folder:
        run(settings, folder, resume is not None)


@app.command(
    help_epilogue="""Examples:
  leap-rl evaluate runs/breakout --episodes 5 --video breakout.mp4
  leap-rl evaluate agent.zip --game Breakout"""
)
def evaluate(
    what: Path,
    settings: EvaluateSettings = _DEFAULT,
    *,
    preset: Preset = None,
    video: Path | None = None,
    trust: bool = False,
) -> None:
    """
    Let a saved agent play, or an initialization learn and then play.

    :param what: run folder of leap-rl train, agent.zip, or an initialization: a folder, or a name of the zoo
    :param video: MP4 file to write, of one more episode
    :param trust: load agent.zip as Stable-Baselines3 does, which runs whatever its author put there
    """
    settings = _checked(settings or EvaluateSettings())
    from leap_rl.commands.evaluate import evaluate as run

    run(settings, what, video, trust)


@app.command(
    help_epilogue="""Example:
  leap-rl games --flavours"""
)
def games(*, flavours: bool = False) -> None:
    """
    List the games, and the pools of games.

    :param flavours: the pools of flavours (modes and difficulties of one game) instead
    """
    from leap_rl.commands.games import games as run

    run(flavours)


@app.command(
    help_epilogue="""Example:
  leap-rl show runs/berzerk --all"""
)
def show(folder: Path | None = None, *, all_: Annotated[bool, Parameter(name="--all", negative=())] = False) -> None:
    """
    Show where a run stands: curves as text, time left.

    :param folder: of the run
    :param all_: every task and table, not only what fits into a terminal of 80 columns and 24 lines
    """
    if folder is None:
        there = sorted(Path("runs").glob("*/settings.yaml"), key=lambda file: file.stat().st_mtime)
        raise ValueError(
            "which run? Name its folder" + "".join(f"; the newest is {file.parent}" for file in there[-1:])
        )
    from leap_rl.commands.show import show as run

    run(folder, all_)


zoo = App(
    "zoo",
    help="Pretrained initializations: list, show, verify, import, pull, push.",
    help_epilogue="""Examples:
  leap-rl zoo show atari-a2c-reptile
  leap-rl zoo import agent.zip --name mine
  leap-rl train Breakout --init mine""",
    version_flags=(),
)
app.command(zoo)


@zoo.command(name="list")
def zoo_list() -> None:
    """List the initializations that can be given as --init."""
    from leap_rl.commands.initializations import list_zoo as run

    run()


@zoo.command(name="show")
def zoo_show(name: str, *, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """
    Show what an initialization is for, where it comes from, and its model card.

    :param name: of the initialization, or its folder
    :param json: its whole config instead, for programs
    """
    from leap_rl.commands.initializations import show_initialization as run

    run(name, json)


@zoo.command(name="verify")
def zoo_verify(*names: str) -> None:
    """
    Check initializations: files, hash, names, shapes, values.

    :param names: of the zoo, or folders; without it all of the zoo
    """
    from leap_rl.commands.initializations import verify as run

    run(list(names))


@zoo.command(name="import")
def zoo_import(what: Path, *, name: str, evidence: Folders = ()) -> None:
    """
    Give a name to an initialization, or make one of the encoder of an agent that Stable-Baselines3 saved.

    :param what: folder of the initialization, or the agent's zip, of which nothing pickled is read
    :param name: of the initialization
    :param evidence: run folders of leap-rl compare with it, for its model card
    """
    from leap_rl.commands.initializations import import_initialization as run

    run(what, name, evidence)


@zoo.command(name="pull")
def zoo_pull(repository: str, *, name: str | None = None, revision: str = "main") -> None:
    """
    Fetch an initialization from the Hugging Face Hub, and check it.

    :param repository: owner/repository
    :param name: to give it here; without it that of the repository
    :param revision: branch, tag or commit
    """
    from leap_rl.commands.initializations import pull as run

    run(repository, name, revision)


@zoo.command(name="push")
def zoo_push(name: str, repository: str, *, private: bool = False) -> None:
    """
    Publish an initialization on the Hugging Face Hub, with its model card; the token is that of `hf auth login`.

    :param name: of the zoo, or a folder
    :param repository: owner/repository; made if it is not there
    :param private: only for those who may see it
    """
    from leap_rl.commands.initializations import push as run

    run(name, repository, private)


COMMANDS = {"meta-train", "train", "tune", "compare", "evaluate", "games", "show"}


def _option(arguments: list[str], name: str) -> str | None:
    """The value of an option that decides which settings the others override."""
    for position, argument in enumerate(arguments):
        if argument == name and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


def main(arguments: list[str] | None = None) -> int:
    """
    :param arguments: without the program's name; ``None``: those of this process
    :return: exit code
    """
    return exit_code("leap-rl", lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> None:
    """:raises ValueError: for what the run folder or the preset does not allow"""
    preset, resume = _option(arguments, "--preset"), _option(arguments, "--resume")
    if preset and resume:
        raise ValueError("--resume takes its settings from the run folder: leave --preset out")
    if resume and _option(arguments, "--run-dir"):
        raise ValueError("--resume goes on in the run's own folder: leave --run-dir out")
    source = str(settings_file(Path(resume))) if resume else preset
    data = read_preset(source, COMMANDS) if source else {}
    if preset and arguments and arguments[0] in COMMANDS and arguments[0] not in data:
        raise ValueError(f"{preset} has settings for {', '.join(data)}, not for {arguments[0]}")
    if resume and arguments[0] in COMMANDS and arguments[0] not in data:
        if not data:
            raise ValueError(f"{source} is of no command: it is no run's any more")
        command = next(iter(data))
        raise ValueError(
            f"{resume} is a run of {command}: {shlex.join(['leap-rl', command, '--resume', resume])} goes on"
        )
    if engine := _option(arguments, "--engine"):  # what was said of another engine does not hold for this one
        for section in (section for section in data.values() if section.get("engine", "local") != engine):
            for option in ("address", "gpus-per-task", "n-workers"):
                section.pop(option, None)
    app.config = [Dict(data=data, source=source)] if source else []
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except UnknownOptionError as error:
        raise ValueError(unknown_option(error, arguments)) from None
    except CoercionError as error:
        raise ValueError(not_a_value(error, data, source)) from None


# What people know it by.
_ALSO = {
    "lr": "learning-rate",
    "steps": "timesteps",
    "total-timesteps": "timesteps",
    "env-id": "env",
    "algo": "algorithm",
}
_SETTINGS: dict[str, type] = {
    "meta-train": MetaTrainSettings,
    "train": TrainSettings,
    "tune": TuneSettings,
    "compare": CompareSettings,
    "evaluate": EvaluateSettings,
}


def unknown_option(error: UnknownOptionError, arguments: list[str]) -> str:
    """What to say of an option that there is not: the one that is so called elsewhere, before one that looks alike."""
    # Where a positional could be, the token is taken for its value.
    given = (error.token.keyword or error.token.value) if error.token is not None else ""
    wanted = given.lstrip("-").partition("=")[0].replace("_", "-")
    wanted = _ALSO.get(wanted, wanted)
    known = option_names(_SETTINGS[arguments[0]]) if arguments and arguments[0] in _SETTINGS else []
    same = [name for name in known if name.rpartition(".")[2] == wanted or name.endswith(f"-{wanted}")]
    if not same:
        return str(error)
    return f"Unknown option: {given}. It is {' or '.join(f'--{name}' for name in same)}."


def option_names(settings: type, prefix: str = "") -> list[str]:
    """Of a dataclass of settings, and of those in it."""
    names = []
    for field in dataclasses.fields(settings):
        name = prefix + field.name.replace("_", "-")
        inner = field.default_factory
        names += option_names(inner, f"{name}.") if isinstance(inner, type) else [name]
    return names


def not_a_value(error: CoercionError, data: dict[str, Any], source: str | None) -> str:
    """Of a value that a setting can't have, which file says it, if one does, and that lists have no commas."""
    if error.token is not None and "," in error.token.value:
        return f"{error} Give them with spaces between them: {error.token.value.replace(',', ' ')}"
    if source is not None and error.token is not None and error.token.source == source:
        return f"{source}: {error}"
    return str(error)


def _script() -> None:
    sys.path.append("")  # a module of the working directory may register environments, as under python -m
    sleep_when_idle()
    run_program(main, "leap-rl: %(levelname)s: %(message)s")


if __name__ == "__main__":
    _script()
