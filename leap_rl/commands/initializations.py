"""Initializations as a command is given them, and ``leap-rl zoo``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from leap_rl import zoo
from leap_rl.atari.games import POOLS, game_name, unseen_games
from leap_rl.commands.run_folder import print_commands, stored_settings
from leap_rl.running.outside import printable
from leap_rl.settings import AgentSettings, AtariSettings, as_options
from leap_rl.zoo import artifacts
from leap_rl.zoo.worth import worths

if TYPE_CHECKING:  # what there is, is listed without torch
    from leap_rl.core import Initialization


def load_initialization(what: str | Path) -> Initialization:
    """
    :param what: a folder, a name of the zoo, or an agent's zip, whose encoder is taken
    :raises ValueError: if it is none of them, or can't be trusted
    """
    from leap_rl.zoo.door import Initialization

    path = Path(what)
    if (path / "settings.yaml").is_file():  # a run is what it made
        made = [path / "initialization", path / "agent.zip"]
        path = next((what for what in made if what.exists()), path)
        if path not in made:
            raise ValueError(f"{path} is a run that has made no initialization yet: --resume finishes it")
    if path.suffix == ".zip" and not path.is_dir():
        return zoo.encoder_of(path, _learned_by(path))
    return Initialization.load(path if path.exists() else str(what))


def check_is_for_vectors(what: object, env: str, initialization: Initialization) -> None:
    """
    :param what: it is called
    :param env: whose observations are no images
    :raises ValueError: for one of images
    """
    if "encoder.cnn.0.weight" in initialization.parameters:
        raise ValueError(f"{what} is an initialization for images, and what {env} shows is none")


def _learned_by(agent: Path) -> list[str]:
    """What an agent, its teachers and its start learned; nothing if it is of no run that is known."""
    from leap_rl.commands.saved_runs import settings_of

    run = next((folder for folder in list(agent.absolute().parents)[:2] if (folder / "settings.yaml").is_file()), None)
    if run is None:
        return []
    found: set[str] = set()
    with suppress(ValueError, OSError):  # what can't be read is not known
        stored = stored_settings(run, "train")
        for folder in (run, *map(Path, stored.get("teachers", ()))):
            game, env, *_ = settings_of(folder)
            found |= {game_name(name) for name in POOLS.get(game, (game,))} if game else {env}
        if stored.get("init"):
            found |= load_initialization(stored["init"]).learned_from
    return sorted(found - {""})


def list_zoo() -> None:
    """Print what there is, what it is for, and what it was found to be worth."""
    names = zoo.list()
    if not names:
        print("No initialization is published yet. leap-rl zoo import AGENT.ZIP makes one of an agent.")
        return
    known = worths()
    table = Table("name", "for", "gain (95 %)", "", box=None, header_style="")
    for name in sorted(names, key=lambda name: (name not in known, known[name].order if name in known else name)):
        try:
            config = artifacts.summary(name)
        except ValueError:
            table.add_row(printable(name, 96), "can't be trusted: leap-rl zoo verify says why")
            continue
        worth = known.get(name)
        what_for = worth.what_for if worth else f"{config['network']}, scope {config['scope']}"
        gain, verdict = (worth.said, worth.verdict) if worth else ("not measured", "")
        # What reads like markup is a stranger's text, not a colour.
        table.add_row(*map(escape, (name, what_for, gain, verdict)))
    console = Console()
    console.print(table)
    where: dict[str, list[str]] = {}
    for name in known.keys() & set(names):
        where.setdefault(known[name].measured, []).append(name)
    if where:
        said = "\nGain over random weights while learning what none of them saw; 1 is none."
        if any(worth.lead for worth in known.values()):
            said += " SD: lead over random weights, in standard deviations of their seeds."
        console.print(said, highlight=False)
        for measured, of in sorted(where.items()):
            console.print(f"- {measured} ({', '.join(sorted(of))})", highlight=False)


CARD_SAYS = ("network", "scope", "learner", "source", "preprocessing", "sha256")
"""Of a config, above the card; its sizes and shapes are in ``config.json``."""


def show_initialization(name: str, as_json: bool) -> None:
    """
    Print what an initialization is, and its card up to the tables of its evidence.

    :param name: of the zoo, or a folder
    :param as_json: print the whole of its config instead
    """
    summary = artifacts.summary(name)
    card = summary.pop("card")
    if as_json:
        print(printable(json.dumps(summary, indent=2), artifacts.MOST_SHOWN, keep="\n"))
        return
    worth = worths().get(name)
    table = Table.grid(Column(), Column(overflow="fold"), padding=(0, 2))  # a folder's name is read whole
    if worth:
        table.add_row("for", worth.what_for)
        table.add_row("gain", f"{worth.said}, {worth.verdict}: {worth.measured}")
    for key in CARD_SAYS:
        if key in summary:
            value = summary[key]["name"] if isinstance(summary[key], dict) else summary[key]
            table.add_row(key, Text(printable(str(value), 200)))
    table.add_row("steps", f"{steps:,}" if (steps := artifacts.total_steps(summary)) else "not recorded")
    here = (Path(name) / "config.json").is_file()
    table.add_row("files", Text(name if here else str(zoo.folder_of(name))))
    console = Console()
    console.print(table)
    text, _, evidence = without_metadata(card).partition("\n## Evidence\n")
    if text.strip():
        console.print()
        console.print(
            Markdown(text, hyperlinks=False) if console.is_terminal else Text(text), soft_wrap=not console.is_terminal
        )
    titles = [line.removeprefix("### ") for line in evidence.splitlines() if line.startswith("### ")]
    if titles:
        console.print("Evidence, in README.md of its folder:", highlight=False)
        console.print(*(Text(f"  {title}") for title in titles), sep="\n")


def without_metadata(card: str) -> str:
    """A card without the YAML that the Hub reads."""
    if card.startswith("---\n"):
        _, _, rest = card[4:].partition("\n---\n")
        return rest.lstrip("\n") or card
    return card


def verify(names: list[str]) -> None:
    """
    :param names: of the zoo, or folders; none: all of the zoo
    :raises ValueError: for those that can't be trusted
    """
    failed = []
    for name in names or zoo.list():
        try:
            # Without names a folder that lies here by chance is not meant.
            found = zoo.check(Path(name)) if names and Path(name).is_dir() else zoo.load(name)
        except ValueError as error:
            failed.append(name)
            print(f"{printable(name)}: {error}")
        else:
            n = sum(t.numel() for t in found.parameters.values())
            print(f"{printable(name)}: good; {found.config['network']}, scope {found.scope}, {n:,} parameters")
    if failed:
        raise zoo.ZooError(f"{len(failed)} of {len(names or zoo.list())} can't be trusted: {', '.join(failed)}")


def import_initialization(what: Path, name: str, evidence: Sequence[Path]) -> None:
    """
    :param what: zip that SB3 saved, or folder of an initialization
    :param name: to give it
    :param evidence: run folders of comparisons with it
    :raises ValueError: for evidence of an agent
    """
    if what.is_dir():
        folder = zoo.import_folder(what, name, evidence)
        print(f"{printable(what)} is the initialization {name}, in {folder}. Next:")
    elif evidence and what.exists():
        raise ValueError(
            "--evidence is for folders of initializations: import the agent first, compare it, then import its folder"
        )
    else:
        folder = zoo.import_agent(what, name, _learned_by(what))
        print(f"The encoder of {printable(what)} is the initialization {name}, in {folder}. Next:")
    print_commands(*next_commands(name))


def next_commands(name: str) -> list[list[str]]:
    """
    How to see what an initialization is, and to start a game from it if it is one of images.

    :param name: of the zoo
    """
    from leap_rl.transfer import network_of

    initialization = zoo.load(name)
    commands = [["leap-rl", "zoo", "show", name]]
    shapes = {n: tuple(t.shape) for n, t in initialization.parameters.items() if n.startswith("encoder.")}
    network = network_of(shapes)
    if network is not None:
        from leap_rl.commands.tasks import EXTRACTORS

        named = next((n for n, kind in EXTRACTORS.items() if kind.__name__ == network), None)
        agent = replace(_agent_of(initialization.config), network=named)
        channels = initialization.parameters["encoder.cnn.0.weight"].shape[1]
        grayscale = (initialization.config.get("env_kwargs") or {}).get("grayscale") is not False
        atari = AtariSettings(grayscale=grayscale, frame_stack=channels if grayscale else channels // 3)
        head = ["--head", "map"] if "action_meanings" in initialization.config else []
        options = [*head, *as_options(agent, atari)]
        game = unseen_games(initialization.learned_from)[0]
        commands.append(["leap-rl", "train", game, "--init", name, *options])
    return commands


def _agent_of(config: Mapping[str, Any]) -> AgentSettings:
    """That it was learned with, as far as its config says so; what is for no option of an agent is left out."""
    options = AgentSettings.__dataclass_fields__
    kwargs = config.get("algorithm_kwargs") or {}
    given: dict[str, Any] = {
        name: value for name, value in kwargs.items() if name in options and type(value) in (bool, int, float)
    }
    if kwargs.get("arithmetic") == "fast":
        given["arithmetic"] = "fast"
    if type(config.get("n_envs")) is int:
        given["n_envs"] = config["n_envs"]
    algorithm = str(config.get("algorithm", "")).removeprefix("Leap")
    if algorithm in get_args(get_type_hints(AgentSettings)["algorithm"]):
        given["algorithm"] = algorithm
    return AgentSettings(**given)


def pull(repository: str, name: str | None, revision: str) -> None:
    """As ``leap_rl.zoo.hub.pull``."""
    from leap_rl.zoo.hub import pull as fetch

    folder = fetch(repository, name, revision)
    print(f"{repository} is the initialization {folder.name}, in {folder}. Next:")
    print_commands(*next_commands(folder.name))


def push(name: str, repository: str, private: bool) -> None:
    """As ``leap_rl.zoo.hub.push``."""
    from leap_rl.zoo.hub import push as publish

    print(f"Published: {publish(name, repository, private)}")
