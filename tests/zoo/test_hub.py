"""Pushing and pulling, against a server that speaks the Hub's endpoints."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

from leap_rl import Initialization, zoo
from leap_rl.cli import main
from leap_rl.zoo import ZooError, artifacts, cards
from leap_rl.zoo import hub as on_hub
from tests.zoo import hub as servers
from tests.zoo.hub import TOKEN, FakeHub, Misbehaving, serving


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
def endpoint(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("LEAP_RL_ZOO", str(tmp_path / "zoo"))
    with serving(hub) as address:
        yield address


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    config = {"network": "Small", "learner": {"name": "Leap"}, "tasks": ["Pong", "Qbert"], "timesteps": 1_000_000}
    Initialization({"encoder.w": torch.arange(6.0)}, "encoder", {}, config).save(tmp_path / "mine")
    return tmp_path / "mine"


def test_what_is_pushed_is_what_is_pulled(hub: FakeHub, endpoint: str, mine: Path) -> None:
    assert on_hub.push(str(mine), "me/atari-mine", endpoint=endpoint, token=TOKEN) == f"{endpoint}/me/atari-mine"
    assert set(hub.repositories["me/atari-mine"]) == {"config.json", "model.safetensors", "README.md"}
    folder = on_hub.pull("me/atari-mine", endpoint=endpoint)
    assert folder == artifacts.pulled() / "atari-mine" and zoo.list()[-1] == "atari-mine"
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert torch.equal(zoo.load("atari-mine").parameters["encoder.w"], torch.arange(6.0))
    with pytest.raises(ZooError, match="there is an initialization 'atari-mine' already"):
        on_hub.pull("me/atari-mine", endpoint=endpoint)
    assert on_hub.pull("me/atari-mine", "another", endpoint=endpoint).name == "another"


def test_one_door_fetches_what_is_not_here_yet(
    hub: FakeHub, endpoint: str, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        template.replace(huggingface_hub.constants.ENDPOINT, endpoint),
    )
    on_hub.push(str(mine), "me/atari-mine", endpoint=endpoint, token=TOKEN)
    for what in ("hf://me/atari-mine", str(Path("hf://me/atari-mine")), "hf://me/atari-mine@main"):
        assert torch.equal(Initialization.load(what).parameters["encoder.w"], torch.arange(6.0))
    assert zoo.list()[-2:] == ["me--atari-mine", "me--atari-mine--main"]
    hub.repositories.clear()  # what was fetched is here
    assert torch.equal(zoo.load("hf://me/atari-mine").parameters["encoder.w"], torch.arange(6.0))
    with pytest.raises(ZooError, match="there is no repository 'me/another'"):
        Initialization.load("hf://me/another")
    assert "me--another" not in zoo.list()


def test_the_card_says_what_it_is_and_the_hub_understands_it(hub: FakeHub, endpoint: str, mine: Path) -> None:
    on_hub.push(str(mine), "me/mine", endpoint=endpoint, token=TOKEN)
    card = ModelCard(hub.repositories["me/mine"]["README.md"].decode())
    assert card.data.library_name == "stable-baselines3" and "leap" in card.data.tags
    assert "Pong, Qbert" in card.text and "1,000,000" in card.text and "nothing says that it helps" in card.text


def test_evidence_becomes_a_card_with_results(
    endpoint: str, mine: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, curve = tmp_path / "compared", {"steps": [0, 100], "values": [1.0, 2.0]}

    def write(sha256: str) -> None:
        runs = {"mine": [300.0, 100.0], "random": [150.0, 50.0]}
        behind = {"mine": [40.0, 60.0], "random": [150.0, 160.0, 170.0]}
        results = {
            "settings": {
                "games": ["SpaceInvaders"],
                "starts": ["mine=/home/me/x", "random"],
                "timesteps": 1_000,
                "seeds": [0, 1],
                "note": "recipes are chosen on it",
            },
            "sha256": {"mine": sha256, "random": None},
            "config": {"preprocessing": "ale-vector-2"},
            "versions": {"leap-rl": "0.1.0", "torch": "2.9.1"},
            "statistics": {"mine": {"learned": ["SpaceInvaders"], "gain": {"value": 2.0, "low": 1.5, "high": 2.25}}},
            "results": {
                "SpaceInvaders": {
                    start: [{"seed": i, "area": a, "final_score": a, "curve": curve} for i, a in enumerate(areas)]
                    for start, areas in runs.items()
                },
                "Pong": {
                    start: [{"seed": i, "area": a} for i, a in enumerate(areas)] for start, areas in behind.items()
                },
                "Freeway": {"mine": [{"seed": 0, "area": None, "final_score": None, "curve": curve}]},
            },
        }
        compared.mkdir(exist_ok=True)
        (compared / "results.json").write_text(json.dumps(results))
        (compared / "figure.png").write_bytes(b"\x89PNG drawn")

    arguments = ["zoo", "import", str(mine), "--name", "mine", "--evidence", str(compared)]
    assert main(arguments) == 2 and "is no finished comparison: results.json is missing" in capsys.readouterr().err
    write("0" * 64)
    assert main(arguments) == 2 and "compared other initializations (mine, random)" in capsys.readouterr().err
    (compared / "results.json").write_text('{"settings": {}, "results": {}}')
    assert main(arguments) == 2 and "does not say which initializations it compared" in capsys.readouterr().err
    write(Initialization.load(mine).sha256)
    with monkeypatch.context() as smaller:
        smaller.setitem(artifacts.LARGEST, "curves.json", 100)
        assert main(arguments) == 2 and "are refused" in capsys.readouterr().err
    assert main([*arguments, str(compared)]) == 2
    assert "are of the same games, steps and seeds: give one" in capsys.readouterr().err
    assert main([*arguments, *[str(compared)] * 5]) == 2
    assert "6 comparisons are more than the 5 that a card takes" in capsys.readouterr().err
    assert "mine" not in zoo.list() and "other" not in zoo.list()
    assert main(arguments) == 0
    assert torch.equal(zoo.load("mine").parameters["encoder.w"], torch.arange(6.0))
    card = ModelCard((zoo.folder_of("mine") / "README.md").read_text())
    (index,) = card.data.to_dict()["model-index"]
    result, lost = index["results"]
    assert result["task"]["name"] == "learning a game that it was not learned from"
    assert lost["task"]["name"] == "learning a game that it was learned from"  # Pong, as the config says
    (metric,) = result["metrics"]
    assert index["name"] == "mine" and metric["value"] == 200.0
    assert metric["name"] == "mean return while learning, 1,000 steps, 2 seeds"
    assert metric["type"] != "mean_reward", "which is a finished agent's"
    assert "| SpaceInvaders | 200.00 | 100.00 |" in card.text and "/home/me" not in card.text
    assert "| **gain over random weights** | 2.00 (1.50 to 2.25, 1 of 3 games) |  |" in card.text
    assert "### SpaceInvaders, Pong, Freeway: 1,000 steps, 3 seeds\n" in card.text
    assert "\nRecipes are chosen on it.\n\nThe intervals are too narrow, of so few seeds" in card.text
    assert "\nNegative transfer: on Pong 11.0 standard deviations behind random weights.\n" in card.text
    assert "on SpaceInvaders" not in card.text
    assert "![Learning curves](figure-1.png)" in card.text
    on_hub.push("mine", "me/shown", endpoint=endpoint, token=TOKEN)
    for folder in (zoo.folder_of("mine"), on_hub.pull("me/shown", endpoint=endpoint)):
        assert (folder / "figure-1.png").read_bytes() == b"\x89PNG drawn"
    curves = (zoo.folder_of("mine") / "curves.json").read_text()
    assert json.loads(curves)[0]["results"]["SpaceInvaders"]["mine"][0]["curve"] == curve and "/home/me" not in curves


def test_a_card_shows_what_a_stranger_wrote_as_text_alone() -> None:
    bad = "![x](http://y/z.png) <script>\n# Title | `code`\x1b[2J"
    config = {"network": bad, "tasks": [bad], "preprocessing": bad, "algorithm": bad, "seed": [bad], "timesteps": 7}
    config |= {"learner": {"name": bad, bad: bad}, "algorithm_kwargs": {}, "versions": {bad: bad}}
    config["started_from"] = {"timesteps": 5, "started_from": {"timesteps": 10, "started_from": bad}}
    card = cards.model_card("mine", Initialization({"w": torch.zeros(1)}, "encoder", {}, config))
    rows = [line for line in card.partition("|---|---|")[2].partition("## Evidence")[0].splitlines() if line]
    assert all(row.startswith("| ") and row.endswith(" |") and row.count("|") == 3 for row in rows)
    assert all(row.count("`") in (0, 2) for row in rows) and "\x1b" not in card.partition("# mine")[2]
    shown = [row.split(" | ")[1] for row in rows if "http" in row]
    assert len(shown) == 7 and all(cell.startswith("`") and cell.rstrip(" |").endswith("`") for cell in shown)
    assert "| steps | 7, after 15 of what it started from: 22 in all |" in card and "its settings" not in card


def test_a_card_made_before_says_where_it_went(hub: FakeHub, endpoint: str, mine: Path) -> None:
    (mine / "README.md").write_text(cards.model_card("mine", zoo.check(mine)))
    on_hub.push(str(mine), "me/theirs", endpoint=endpoint, token=TOKEN)
    card = hub.repositories["me/theirs"]["README.md"].decode()
    assert "leap-rl zoo pull me/theirs" in card and "OWNER" not in card


def test_a_card_of_ones_own_is_kept(hub: FakeHub, endpoint: str, mine: Path) -> None:
    (mine / "README.md").write_text("---\ntags: [x]\n---\n\n# Mine\n")
    on_hub.push(str(mine), "me/mine", endpoint=endpoint, token=TOKEN)
    assert hub.repositories["me/mine"]["README.md"].decode().endswith("# Mine\n")


def test_a_private_one_asks_for_the_token(hub: FakeHub, endpoint: str, mine: Path) -> None:
    on_hub.push(str(mine), "me/mine", private=True, endpoint=endpoint, token=TOKEN)
    with pytest.raises(ZooError, match="no repository 'me/mine', or it is private"):
        on_hub.pull("me/mine", endpoint=endpoint, token=False)  # type: ignore[arg-type]
    assert on_hub.pull("me/mine", endpoint=endpoint, token=TOKEN).is_dir()
    hub.repositories["me/public"] = {}
    with pytest.raises(ZooError, match="me/public is there already, for all to see"):
        on_hub.push(str(mine), "me/public", private=True, endpoint=endpoint, token=TOKEN)
    assert not hub.repositories["me/public"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("tampered", "me/bad can't be trusted: bad/model.safetensors is damaged"),
        ("no tensors", "holds no initialization: model.safetensors is missing"),
        ("no config", "holds no initialization: config.json is missing"),
        ("oversized", "more than 1,000,000 are refused"),
        ("too new", "install a newer leap_rl"),
    ],
)
def test_a_stranger_is_checked_like_any_other(
    hub: FakeHub, endpoint: str, mine: Path, damage: str, message: str
) -> None:
    files = {p.name: p.read_bytes() for p in mine.iterdir()}
    if damage == "tampered":
        files["model.safetensors"] = files["model.safetensors"][:-1] + b"\x01"
    elif damage == "oversized":
        files["config.json"] += b" " * 1_000_001
    elif damage == "too new":
        files["config.json"] = json.dumps({**json.loads(files["config.json"]), "format_version": 99}).encode()
    else:
        del files["model.safetensors" if damage == "no tensors" else "config.json"]
    hub.repositories["me/bad"] = files
    with pytest.raises(ValueError, match=message):
        on_hub.pull("me/bad", endpoint=endpoint)
    root = artifacts.pulled()
    assert not root.exists() or not list(root.iterdir())  # nothing is left of it


LIMITED = [
    (servers.endless, ValueError, "model.safetensors has .* bytes or more: more than 1,000,000 are refused"),
    (servers.announces_much, ValueError, "model.safetensors has 300,000,000 bytes or more"),
    (servers.sends_more_than_announced, ValueError, "model.safetensors is damaged"),
    (servers.closes_early, OSError, "me/bad can't be fetched: "),
    (servers.closes_at_once, OSError, "me/bad can't be fetched: "),
    (servers.stalls, OSError, "me/bad can't be fetched: "),
    (servers.says_nothing, OSError, "me/bad can't be fetched: "),
    (servers.trickles_headers, OSError, "me/bad can't be fetched: it takes more than 1 seconds"),
    (servers.trickles, OSError, "me/bad can't be fetched: it takes more than 1 seconds"),
    (servers.redirects_for_ever, OSError, "it is redirected more than 5 times"),
    (servers.redirects_at_length, ValueError, "model.safetensors is missing"),
    (servers.redirects_to_a_file, OSError, "me/bad can't be fetched: "),
    (servers.sends_html, ValueError, "model.safetensors is damaged"),
    (servers.fails_at_length, OSError, "the answer for model.safetensors is 500 Oops"),
    (servers.fails_with_a_bomb, OSError, "the answer for model.safetensors is 403 No"),
    (servers.sends_a_bomb, ValueError, "model.safetensors comes compressed"),
    (servers.writes_to_the_terminal, OSError, "the answer for model.safetensors is 403 "),
    (servers.is_no_http, OSError, "me/bad can't be fetched: "),
]


@pytest.mark.parametrize(("misbehaviour", "kind", "message"), LIMITED, ids=lambda x: getattr(x, "__name__", ""))
def test_a_server_that_means_no_good(
    hub: FakeHub,
    endpoint: str,
    mine: Path,
    misbehaviour: Any,
    kind: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.repositories["me/bad"] = {p.name: p.read_bytes() for p in mine.iterdir()}
    hub.misbehaviour["model.safetensors"] = misbehaviour
    monkeypatch.setitem(artifacts.LARGEST, "model.safetensors", 1_000_000)
    monkeypatch.setattr(on_hub, "LONGEST", 1.0)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    began = time.monotonic()
    with pytest.raises(kind, match=message) as error:
        on_hub.pull("me/bad", endpoint=endpoint)
    assert time.monotonic() - began < 3
    assert str(error.value).isprintable() and len(str(error.value)) < 700 and "unpacked" not in str(error.value)
    assert not list(artifacts.pulled().iterdir()), "nothing is left of it"
    assert hub.sent < 20_000_000, "but for what lay in buffers"


def test_a_stranger_among_the_files_that_need_not_be_there(hub: FakeHub, endpoint: str, mine: Path) -> None:
    hub.repositories["me/plain"] = {p.name: p.read_bytes() for p in mine.iterdir()}
    for file in set(artifacts.LARGEST) - set(artifacts.REQUIRED):  # as a server says that knows no Hub
        hub.misbehaviour[file] = lambda server: server.begin("404 Not Found", Content_Length=0)
    assert {p.name for p in on_hub.pull("me/plain", endpoint=endpoint).iterdir()} == set(artifacts.REQUIRED)
    hub.misbehaviour["README.md"] = servers.closes_early
    with pytest.raises(OSError, match="can't be fetched"):
        on_hub.pull("me/plain", "half", endpoint=endpoint)
    assert "half" not in zoo.list()


def test_a_token_stays_with_the_hub_that_it_is_for(hub: FakeHub, endpoint: str, mine: Path) -> None:
    elsewhere = FakeHub()
    files = {p.name: p.read_bytes() for p in mine.iterdir()}
    elsewhere.repositories["me/mine"] = hub.repositories["me/mine"] = files
    with serving(elsewhere) as other:

        def redirect(server: Misbehaving) -> None:
            server.begin("302 Found", Location=other + server.handler.path, Content_Length=0)

        hub.misbehaviour["model.safetensors"] = redirect
        folder = on_hub.pull("me/mine", endpoint=endpoint, token=TOKEN)
    assert torch.equal(zoo.load(folder.name).parameters["encoder.w"], torch.arange(6.0))
    assert set(hub.tokens) == {f"Bearer {TOKEN}"} and elsewhere.tokens == [None]


def test_a_notebook_can_pull(hub: FakeHub, endpoint: str, mine: Path) -> None:
    hub.repositories["me/mine"] = {p.name: p.read_bytes() for p in mine.iterdir()}

    async def cell() -> Path:
        return on_hub.pull("me/mine", endpoint=endpoint)

    assert asyncio.run(cell()).name in zoo.list()


def test_what_else_a_repository_holds_is_not_fetched(hub: FakeHub, endpoint: str, mine: Path) -> None:
    hub.repositories["me/mixed"] = {p.name: p.read_bytes() for p in mine.iterdir()}
    hub.repositories["me/mixed"]["agent.pkl"] = pickle.dumps(1)
    on_hub.pull("me/mixed", endpoint=endpoint)
    assert not any("agent.pkl" in request for request in hub.requests)


def test_what_cannot_be_pulled_or_pushed(hub: FakeHub, endpoint: str, mine: Path) -> None:
    hub.repositories["me/there"] = {p.name: p.read_bytes() for p in mine.iterdir()}
    with pytest.raises(ZooError, match="no repository 'me/nowhere'"):
        on_hub.pull("me/nowhere", endpoint=endpoint)
    with pytest.raises(ZooError, match="has no revision 'v9'"):
        on_hub.pull("me/there", revision="v9", endpoint=endpoint)
    with pytest.raises(ZooError, match="is no repository"):
        on_hub.pull("me/a/b/there", endpoint=endpoint)
    with pytest.raises(ZooError, match="is no name"):
        on_hub.pull("me/there", "../there", endpoint=endpoint)
    with pytest.raises(ZooError, match="me/mine refuses it"):
        on_hub.push(str(mine), "me/mine", endpoint=endpoint, token="hf_wrong")
    with pytest.raises(ZooError, match="no initialization 'unknown' in the zoo"):
        on_hub.push("unknown", "me/mine", endpoint=endpoint, token=TOKEN)
    (mine / "agent.pkl").write_bytes(pickle.dumps(1))
    with pytest.raises(ZooError, match=r"agent.pkl, which belongs to no initialization"):
        on_hub.push(str(mine), "me/mine", endpoint=endpoint, token=TOKEN)
    assert "me/mine" not in hub.repositories


def test_a_hub_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAP_RL_ZOO", str(tmp_path / "zoo"))
    with pytest.raises(OSError, match="me/there can't be fetched"):
        on_hub.pull("me/there", endpoint="http://127.0.0.1:9")
    Initialization({"encoder.w": torch.zeros(1)}, "encoder", {}, {"network": "Small"}).save(tmp_path / "mine")
    with pytest.raises(OSError, match="me/mine can't be reached"):
        on_hub.push(str(tmp_path / "mine"), "me/mine", endpoint="http://127.0.0.1:9", token=TOKEN)
