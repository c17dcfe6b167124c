"""The project as a whole: what imports what, the README's examples, the wheel."""

import ast
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from leap_rl.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("leap_rl", "supervised", "zoo")
PUBLIC = {
    "AtariTasks",
    "AtariVecEnv",
    "EnvTasks",
    "FOMAML",
    "GradientPath",
    "Initialization",
    "Leap",
    "LeapA2C",
    "LeapDDPG",
    "LeapDQN",
    "LeapPPO",
    "LeapSAC",
    "LeapTD3",
    "MetaTrainer",
    "Mnih2013CNN",
    "NoPretraining",
    "Reptile",
    "SequentialFinetuning",
    "make_atari_env",
}


def run(python: str | Path, script: Path, *, cwd: Path, tree: bool, timeout: float) -> str:
    """
    Run a script in a fresh interpreter, and return what it printed.

    :param tree: whether the interpreter sees the packages of this tree
    """
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    if tree:
        env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [str(python), str(script)],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{script.name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def run_in_tree(source: str, tmp_path: Path, timeout: float = 120) -> str:
    (tmp_path / "script.py").write_text(source)
    return run(sys.executable, tmp_path / "script.py", cwd=tmp_path, tree=True, timeout=timeout)


# --- what importing loads ---


def test_core_loads_no_environment_and_no_sb3(tmp_path: Path) -> None:
    loaded = json.loads(
        run_in_tree(
            """
import importlib, json, pkgutil, sys
import leap_rl.core, leap_rl.running
for package in leap_rl.core, leap_rl.running:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(json.dumps(sorted(sys.modules)))
""",
            tmp_path,
        )
    )
    in_tree = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("core", "running")
        for file in (ROOT / "leap_rl" / package).rglob("*.py")
    }
    assert {name for name in loaded if name.startswith("leap_rl.")} == in_tree | {"leap_rl.lazy"}
    foreign = {"stable_baselines3", "sb3_contrib", "gymnasium", "ale_py", "supervised", "zoo"}
    assert not foreign & {name.partition(".")[0] for name in loaded}


@pytest.mark.parametrize(
    "module",
    [
        "leap_rl",
        "leap_rl.cli",
        "supervised.adaptation.__main__",
        "supervised.multi_cv.__main__",
        "supervised.omniglot.__main__",
    ],
)
def test_the_package_and_its_command_lines_start_without_torch(tmp_path: Path, module: str) -> None:
    loaded = json.loads(run_in_tree(f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))", tmp_path))
    assert module in loaded
    assert not {"torch", "stable_baselines3", "gymnasium", "leap_rl.core"} & set(loaded)


def test_every_public_name_resolves() -> None:
    import leap_rl

    assert len(leap_rl.__all__) == len(set(leap_rl.__all__))
    assert set(leap_rl.__all__) >= PUBLIC
    assert set(dir(leap_rl)) >= PUBLIC
    for name in leap_rl.__all__:
        assert getattr(leap_rl, name).__name__ == name
    with pytest.raises(AttributeError, match="LeapDQNN"):
        _ = leap_rl.LeapDQNN


# --- arrows of imports ---

ARROWS: dict[str, set[str]] = {
    "lazy": set(),
    "running": set(),
    "core": {"lazy", "running"},
    "transfer": {"core", "running"},
    "evaluation": {"core", "running"},
    "agents": {"core", "running", "transfer", "lazy"},
    "families": {"core", "running", "agents", "lazy"},
    "atari": {"core", "running", "agents", "lazy"},
    "ending": set(),
    "commands": {"core", "running", "transfer", "evaluation", "agents", "families", "atari", "zoo", "top"},
    "presets": set(),
    "zoo": {"core", "running", "transfer", "lazy"},
    "supervised": {"core", "running", "evaluation", "ending"},
}
NOT_IN_CORE = {"stable_baselines3", "sb3_contrib", "gymnasium", "ale_py"}


def layer(name: str) -> str | None:
    """
    The layer a module (or a name in one) belongs to: ``"top"`` for ``leap_rl`` itself and its modules that have no
    arrows of their own, ``None`` for what is not ours.
    """
    first, _, rest = name.partition(".")
    if first != "leap_rl":
        return first if first in PACKAGES else None
    part = rest.partition(".")[0]
    return part if part in ARROWS or (part and (ROOT / "leap_rl" / part).is_dir()) else "top"


def imported(source: str, package: str) -> Iterator[str]:
    """
    The full names that a module imports: anywhere in it, in functions and for type checkers too.

    :param source: of the module
    :param package: it lies in, against which relative imports are resolved
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def wrong_arrows(source: str, package: str, module: str = "") -> list[str]:
    """What a module of that package imports and should not; its name says its layer, where it has one of its own."""
    own = layer(module or package)
    if own == "top":
        return []
    assert own in ARROWS, f"{package} is a new package: say in ARROWS, and in CONTRIBUTING.md, what it may import"
    wrong = [name for name in imported(source, package) if layer(name) not in {None, own, *ARROWS[own]}]
    if own in ("core", "running"):
        wrong += [name for name in imported(source, package) if name.partition(".")[0] in NOT_IN_CORE]
    return wrong


def sources() -> list[Path]:
    return sorted(file.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("file", sources(), ids=str)
def test_arrows_point_down(file: Path) -> None:
    package, module = ".".join(file.parent.parts), ".".join(file.with_suffix("").parts)
    assert not wrong_arrows((ROOT / file).read_text(), package, module)


@pytest.mark.parametrize(
    ("package", "source", "wrong"),
    [
        ("leap_rl.core", "import torch\nfrom leap_rl.core import path\nfrom . import task\nfrom .path import x", []),
        ("leap_rl.core", "import stable_baselines3.common", ["stable_baselines3.common"]),
        ("leap_rl.core", "def f():\n    from leap_rl.agents import LeapA2C", ["leap_rl.agents.LeapA2C"]),
        ("leap_rl.core", "from ..agents import LeapA2C", ["leap_rl.agents.LeapA2C"]),
        ("leap_rl.core", "from .. import transfer", ["leap_rl.transfer"]),
        ("leap_rl.core", "from leap_rl import Leap", ["leap_rl.Leap"]),
        ("leap_rl.core", "import importlib\nimportlib.import_module('zoo.load')", ["zoo.load"]),
        ("leap_rl.transfer", "from leap_rl.core import Initialization\nimport stable_baselines3", []),
        ("leap_rl.agents", "from leap_rl.atari import AtariTasks", ["leap_rl.atari.AtariTasks"]),
        ("leap_rl.atari", "from leap_rl.agents import A\nfrom leap_rl.transfer import x", ["leap_rl.transfer.x"]),
        ("zoo", "from leap_rl.transfer import Initialization\nimport leap_rl.evaluation", ["leap_rl.evaluation"]),
        ("supervised", "from leap_rl.evaluation import area\nimport leap_rl.agents", ["leap_rl.agents"]),
        ("leap_rl", "import leap_rl.atari, zoo, supervised", []),
    ],
)  # fmt: skip
def test_wrong_arrows_are_seen(package: str, source: str, wrong: list[str]) -> None:
    for name in ("atari", "agents", "transfer", "evaluation"):
        if not (ROOT / "leap_rl" / name).is_dir():
            pytest.skip(f"no leap_rl.{name} here")
    assert wrong_arrows(source, package) == wrong


# --- README and the files beside it ---


def test_readme_example(tmp_path: Path) -> None:
    # One script of all the blocks, without a main guard: as its readers would write it.
    script = "\n".join(
        re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    )
    for budget, tiny in [
        ("timesteps=2_048", "timesteps=512"),
        ("meta_steps=3", "meta_steps=1"),
        ("model.learn(2_048", "model.learn(64"),
        ('"Breakout", n_envs=8', '"Breakout", n_envs=2'),
        ("model.learn(200_000", "model.learn(256"),
    ]:
        assert script.count(budget) == 1, f"README.md should have {budget!r} once"
        script = script.replace(budget, tiny)
    run_in_tree(script, tmp_path, timeout=280)
    config = json.loads((tmp_path / "my-init/config.json").read_text())
    assert config
    assert (tmp_path / "my-init/model.safetensors").stat().st_size > 30_000
    folders = {file.parent.name.partition("_")[0] for file in (tmp_path / "runs").rglob("events.out.tfevents.*")}
    assert folders >= {"Leap", "PPO", "A2C"}, f"TensorBoard events of the three, but there are only {folders}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), f"{name} links to {target}"


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest is not None and newest[1] == version
    assert re.findall(r"^### (\w+)$", changelog, re.MULTILINE)[:4] == ["Breaking", "New", "Fixed", "Others"]


# --- the wheel ---


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--quiet", "--wheel-dir", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.mark.slow
def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    ours = {name for name in names if ".dist-info/" not in name}
    in_tree = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and not any(part.startswith(".") for part in file.parts)
    }
    assert ours == in_tree
    assert ours >= {"leap_rl/py.typed", "supervised/py.typed", "zoo/py.typed", "leap_rl/core/path.py"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def closure(requirements: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """What pip would install for these requirements, as far as this environment's versions go."""
    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[str] = set()
    left = [Requirement(text) for text in requirements]
    while left:
        requirement = left.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        dist = importlib.metadata.distribution(requirement.name)
        assert requirement.specifier.contains(dist.version, prereleases=True), (
            f"{requirement}, but here is {dist.version}"
        )
        found[canonicalize_name(requirement.name)] = dist
        for text in dist.requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                left.append(needed)
    return found


EVERY_COMMAND = """
import contextlib, io, os, re
from pathlib import Path

from leap_rl.cli import main
from supervised.multi_cv.__main__ import main as multi_cv
from supervised.omniglot.__main__ import main as omniglot

os.environ["LEAP_RL_ZOO"] = str(Path("own-zoo").resolve())
tiny = "--timesteps 64 --agent.n-envs 2"
for command in (
    f"meta-train --envs CartPole-v1 {tiny} --meta-steps 1 --n-workers 1 --run-dir m",
    f"train --env CartPole-v1 {tiny} --init m/initialization --run-dir t",
    "train --resume t --timesteps 100",
    "show m",
    "show t",
    "evaluate t --episodes 1",
    "evaluate t/agent.zip --env CartPole-v1 --episodes 1",
    "evaluate t/agent.zip --env CartPole-v1 --episodes 1 --trust",
    f"evaluate m/initialization --env CartPole-v1 {tiny} --episodes 1",
    f"train Pong {tiny} --agent.network mnih2013 --run-dir p",
    "zoo import p/agent.zip --name mine",
    "zoo import m/initialization --name poles",
    "zoo list",
    "zoo show mine",
    "zoo verify mine poles",
    "games",
):
    print(f"$ {command}", flush=True)
    assert main(command.split()) == 0
# The rest says at once what it lacks, and leaves nothing.
for command, module in (
    ("evaluate t --video x.mp4", "moviepy"),
    ("zoo pull someone/something", "huggingface_hub"),
    ("zoo push mine someone/something", "huggingface_hub"),
    (f"compare --envs CartPole-v1 {tiny} --run-dir c", "matplotlib|rliable"),
    (f"tune Pong {tiny} --init mine --run-dir c", "optuna"),
    (f"meta-train --envs CartPole-v1 {tiny} --engine ray --run-dir c", "ray"),
):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(command.split()) == 2
    print(f"$ {command}", said.getvalue(), sep="\\n")
    assert re.match(f"leap-rl: (?:{module}) is not installed: pip install ", said.getvalue()), said.getvalue()
assert not Path("c").exists() and not Path("x.mp4").exists()
for program in (omniglot, multi_cv):
    for command in ("--help", "train --help", "table --help"):
        assert program(command.split()) == 0
"""


def test_every_command_runs_with_base_dependencies_alone(tmp_path: Path) -> None:
    """Here what else is installed is hidden; in the slow test below it is not installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {*closure(project["dependencies"]), "leap-rl"}
    hidden = {
        module
        for module, dists in importlib.metadata.packages_distributions().items()
        if not base & {canonicalize_name(dist) for dist in dists}
    }
    assert hidden >= {
        "moviepy",
        "rliable",
        "optuna",
        "huggingface_hub",
        "sb3_contrib",
        "torchvision",
        "scipy",
        "pytest",
    }
    printed = run_in_tree(
        f"""
import sys
from importlib.machinery import PathFinder

class Base(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Base
{EVERY_COMMAND}""",
        tmp_path,
    )
    run_here = {line.split()[1] for line in printed.splitlines() if line.startswith("$ ")}
    assert run_here == {*COMMANDS, "zoo"}
    # In a checkout the remedy is one of its extras.
    remedies = re.findall(rf"is not installed: pip install (?:-e )?'?{ROOT}\[(.*)\]'?$", printed, re.MULTILINE)
    assert remedies == ["video", "hub", "hub", "evaluation", "tune", "ray"]
    assert set(remedies) <= project["optional-dependencies"].keys()


@pytest.mark.slow
def test_wheel_works_outside_the_tree(wheel: Path, tmp_path: Path) -> None:
    """
    In an environment that holds the wheel and what its base dependencies ask for, nothing else: those are linked from
    the environment of the tests, since PyTorch alone takes gigabytes and minutes.
    """
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet", str(wheel)]
    done = subprocess.run(pip, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (site,) = home.glob("lib/python*/site-packages")
    (own,) = site.glob("leap_rl-*.dist-info")

    base = [text for text in importlib.metadata.Distribution.at(own).requires or [] if "extra ==" not in text]
    dists = closure(base)
    assert "torch" in dists and "pytest" not in dists and "rliable" not in dists
    for dist in dists.values():
        for file in dist.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(dist.locate_file(top))).resolve())

    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "use.py").write_text(
        """
import importlib.util, pathlib
import leap_rl, supervised, zoo

for module in (leap_rl, supervised, zoo):
    folder = pathlib.Path(module.__file__).parent
    assert "site-packages" in folder.parts, folder
    assert (folder / "py.typed").is_file()
assert importlib.util.find_spec("tests") is None and importlib.util.find_spec("benchmarks") is None
assert importlib.util.find_spec("pytest") is None
for name in leap_rl.__all__:
    getattr(leap_rl, name)

tasks = leap_rl.EnvTasks(
    leap_rl.LeapPPO,
    "MlpPolicy",
    envs={"one": "CartPole-v1", "two": "CartPole-v1"},
    timesteps=128,
    n_envs=2,
    algorithm_kwargs={"n_steps": 32, "batch_size": 32},
)
trainer = leap_rl.MetaTrainer(
    tasks, learner=leap_rl.Leap(metric="energy"), meta_batch_size=2, n_workers=2, tensorboard_log="runs", seed=0
)
trainer.learn(meta_steps=2, progress_bar=True)
trainer.initialization.save("init")

from stable_baselines3 import PPO

model = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32)
leap_rl.Initialization.load("init").apply_to(model)
model.learn(64)
atari = PPO("CnnPolicy", leap_rl.make_atari_env("SpaceInvaders", n_envs=2), n_steps=32, batch_size=32)
zoo.load("atari-a2c-leap").apply_to(atari)
atari.learn(64)
env = leap_rl.make_atari_env("Pong", n_envs=2)
print("observations", env.reset().shape)
env.close()

from leap_rl.cli import main

small = ["--timesteps", "128", "--agent.n-envs", "2"]
assert main(["meta-train", "--preset", "flavours", "--games", "Pong", "--meta-steps", "1", *small]) == 0
assert main(["train", "--env", "CartPole-v1", *small]) == 0
assert main(["compare", "--games", "Pong", *small]) == 2  # needs the extra "evaluation", and says so
"""
    )
    printed = run(python, outside / "use.py", cwd=outside, tree=False, timeout=300)
    (outside / "commands.py").write_text(EVERY_COMMAND)
    said = run(python, outside / "commands.py", cwd=outside, tree=False, timeout=300)
    for remedy in re.findall(r"is not installed: pip install (.*)$", said, re.MULTILINE):
        assert {Requirement(text).name for text in shlex.split(remedy)} <= {
            "moviepy",
            "optuna",
            "huggingface-hub",
            "matplotlib",
            "pandas",
            "rliable",
        }
    assert "observations (2, " in printed
    assert (outside / "init/model.safetensors").is_file() and list((outside / "runs").rglob("events.out.tfevents.*"))
