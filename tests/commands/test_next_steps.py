"""What a command prints as a next step runs as it stands."""

from __future__ import annotations

import _thread
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from leap_rl.cli import main
from leap_rl.commands.train import SaveAgent
from leap_rl.core import MetaTrainer
from leap_rl.ending import how_to_install

TINY = ["--timesteps", "64", "--agent.n-envs", "2"]
# Beside what is printed: the budgets of these are for machines that have hours.
SMALLER = {
    "train": {"--timesteps": "64", "--agent.n-envs": "2"},
    "compare": {"--seeds": "0", "--n-workers": "1", "--timesteps": "64"},
    "evaluate": {"--episodes": "1"},
}


def next_steps(capsys: Any) -> list[list[str]]:
    """The commands that were printed, as a shell reads them."""
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    return [shlex.split(line) for line in lines if line.startswith(("leap-rl ", "tensorboard "))]


def paste(words: list[str]) -> None:
    if words[0] == "tensorboard":
        assert words[1] == "--logdir" and len(words) == 3
        assert list(Path(words[2]).rglob("events.out.tfevents.*")), words
        return
    smaller = {} if "--resume" in words else SMALLER.get(words[1], {})
    more = [word for option, value in smaller.items() if option not in words for word in (option, value)]
    assert main([*words[1:], *more]) == 0, words


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder as people call them."""
    (tmp_path / "my $HOME; it's").mkdir()
    monkeypatch.chdir(tmp_path / "my $HOME; it's")
    monkeypatch.setenv("LEAP_RL_ZOO", str(tmp_path / "zoo"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--envs", "CartPole-v1"],
        pytest.param(
            [
                "--family",
                "cartpole",
                "--agent.algorithm",
                "PPO",
                "--agent.n-steps",
                "32",
                "--meta-batch-size",
                "1",
            ],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--games", "Pong", "--agent.network", "mnih2013", "--atari.frame-stack", "2", "--atari.no-grayscale"],
            marks=pytest.mark.slow,
        ),
        pytest.param(["--games", "Assault", "--agent.network", "mnih2013", "--scope", "all"], marks=pytest.mark.slow),
    ],
)
def test_of_a_meta_training(arguments: list[str], capsys: Any) -> None:
    run = ["--meta-steps", "1", "--n-workers", "1", "--run-dir", "a run=1"]
    assert main(["meta-train", *arguments, *TINY, *run]) == 0
    commands = next_steps(capsys)
    assert [words[:2] for words in commands[1:]] == [["leap-rl", "train"], ["leap-rl", "compare"]]
    # As long as its visits were, if episodes ended in them.
    assert all(words[words.index("--timesteps") + 1] == "64" for words in commands[1:] if "--timesteps" in words)
    assert all(("--timesteps" in words) == (arguments == ["--envs", "CartPole-v1"]) for words in commands[1:])
    for words in commands:
        paste(words)
    # Theirs lead on.
    trained = next_steps(capsys)
    assert [words[:2] for words in trained if words[0] == "leap-rl"] == [["leap-rl", "evaluate"]]
    for words in trained:
        paste(words)


@pytest.mark.slow
def test_of_an_import(capsys: Any) -> None:
    images = ["--agent.network", "mnih2013", "--atari.frame-stack", "2", "--atari.no-grayscale"]
    assert main(["meta-train", "--games", "Pong", *images, *TINY, "--meta-steps", "1", "--run-dir", "m"]) == 0
    assert main(["train", "Pong", *images, *TINY, "--run-dir", "t"]) == 0
    assert main(["meta-train", "--envs", "CartPole-v1", *TINY, "--meta-steps", "1", "--run-dir", "poles"]) == 0
    capsys.readouterr()
    for what, name, commands in (
        ("m/initialization", "mine", 2),
        ("t/agent.zip", "other", 2),
        ("poles/initialization", "poles", 1),
    ):
        assert main(["zoo", "import", what, "--name", name]) == 0
        printed = next_steps(capsys)
        assert len(printed) == commands
        for words in printed:
            paste(words)
        capsys.readouterr()


def test_of_what_was_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: Any, request: pytest.FixtureRequest) -> None:
    def ctrl_c(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with monkeypatch.context() as interrupted:
        interrupted.setattr(
            SaveAgent, "_on_step", lambda callback: callback.num_timesteps < 20 or _thread.interrupt_main()
        )
        assert main(["train", "--env", "CartPole-v1", *TINY, "--run-dir", "an agent"]) == 130
        interrupted.setattr(MetaTrainer, "learn", ctrl_c)
        assert main(["meta-train", "--envs", "CartPole-v1", *TINY, "--meta-steps", "1", "--run-dir", "a run"]) == 130
        interrupted.setattr("leap_rl.commands.compare.compare_starts", ctrl_c)
        compare = ["compare", "--envs", "CartPole-v1", *TINY, "--seeds", "0", "--n-workers", "1"]
        assert main([*compare, "--run-dir", "a comparison"]) == 130
    commands = next_steps(capsys)
    assert [words[1] for words in commands] == ["train", "meta-train", "compare"]
    for words in commands:
        paste(words)


def test_the_remedy_for_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Path(__file__).resolve().parents[2]
    assert f"{checkout}[video]" in shlex.split(how_to_install("video"))
    monkeypatch.chdir(checkout)
    assert ".[video]" in shlex.split(how_to_install("video"))
    # Elsewhere no index has this package, but each has what the extra asks for.
    monkeypatch.setattr("leap_rl.ending.__file__", str(checkout / "site-packages" / "leap_rl" / "ending.py"))
    assert shlex.split(how_to_install("video")) == ["pip", "install", "moviepy>=2.1"]
    assert [what[:7] for what in shlex.split(how_to_install("evaluation"))[2:]] == ["matplot", "pandas<", "rliable"]
