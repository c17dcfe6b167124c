"""What the documentation shows, works."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
NEW_ENVS = {"meta-train", "train", "compare", "evaluate"}


def commands(document: Path) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ leap-rl")]


def shrunk(command: str) -> list[str]:
    """
    The same command at 512 steps, in which an agent of any preset learns and an episode ends; one that resumes goes on
    a little.
    """
    resumes = "--resume" in command
    words = shlex.split(command)[1:]
    small = {"--timesteps": "1024" if resumes else "512", "--meta-steps": "2" if resumes else "1", "--episodes": "1"}
    for option, value in small.items():
        if option in words:
            words[words.index(option) + 1] = value
        elif "--preset" in words and (option == "--timesteps" or (option, words[0]) == ("--meta-steps", "meta-train")):
            words += [option, value]
    if words[0] in NEW_ENVS and not resumes and "paper" not in words:
        if words[1].startswith("flavours-"):
            pass  # learned together: an environment each
        elif "--agent.n-envs" in words:
            words[words.index("--agent.n-envs") + 1] = "2"
        elif not (words[0] == "evaluate" and "initialization" not in command):
            words += ["--agent.n-envs", "2"]
    return words


def python_of(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", [d for d in (ROOT / "README.md", *DOCS) if python_of(d)], ids=lambda d: d.name)
def test_what_the_python_of_a_page_imports_is_there_and_takes_what_it_is_given(document: Path) -> None:
    """Of snippets that are too long, or too short, to be run."""
    imported: dict[str, Any] = {}
    for tree in map(ast.parse, python_of(document)):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                imported |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            called = imported.get(call.func.id) if isinstance(call.func, ast.Name) else None
            if callable(called) and called.__module__.startswith(("leap_rl", "supervised", "stable_baselines3")):
                given = [None for argument in call.args if not isinstance(argument, ast.Starred)]
                inspect.signature(called).bind_partial(*given, **{k.arg: None for k in call.keywords if k.arg})


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCS if commands(d)], ids=lambda d: d.name)
def test_every_command_of_the_documentation_runs(document: Path, tmp_path: Path) -> None:
    for command in commands(document):
        done = subprocess.run(
            [sys.executable, "-m", "leap_rl.cli", *shrunk(command)],
            cwd=tmp_path,
            env={**os.environ, "LEAP_RL_ZOO": str(tmp_path / "zoo")},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{shlex.join(shrunk(command))}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("document", "budgets", "left"),
    [
        ("own-environments", (("20_000", "256"), ("meta_steps=20", "meta_steps=1")), "pendulums/model.safetensors"),
        (
            "families",
            (("10_000", "512"), ("meta_steps=25", "meta_steps=5"), ("size=6", "size=1")),
            "carts/model.safetensors",
        ),
        ("algorithms", (("2_000", "128"), ("meta_steps=2", "meta_steps=1")), ""),
    ],
)
def test_the_complete_example_of_a_page_runs(document: str, budgets: Any, left: str, tmp_path: Path) -> None:
    (source,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / f"docs/{document}.md").read_text(), re.DOTALL | re.MULTILINE
    )
    for budget, tiny in budgets:
        assert budget in source
        source = source.replace(budget, tiny)
    (tmp_path / "script.py").write_text(source)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / left).exists()


@pytest.mark.parametrize("document", DOCS, ids=lambda d: d.name)
def test_links_of_the_documentation_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target
