"""Adaptation without target labels: penalties against the papers' formulas, runs, and what is refused."""

from __future__ import annotations

import bz2
import json
import math
import re
import shlex
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from leap_rl.core import Initialization, InProcess, Job, NoPretraining
from supervised.adaptation.__main__ import METHODS as COMPARED
from supervised.adaptation.__main__ import main
from supervised.adaptation.domains import DIGITS, DOMAINS, Domain, check_pair, load_domain, load_pair
from supervised.adaptation.experiment import KNOWN, AdaptationRun, ReverseValidation
from supervised.adaptation.generalization import Aligning, GeneralizationRun, load_others
from supervised.adaptation.methods import CONFIDENT, DANN, METHODS, MMD, Adapting, Computed, Coral, SelfTraining
from supervised.adaptation.tasks import PairedMinibatches
from supervised.tasks import ClassificationTasks


def computed(n: int = 6, m: int = 6, progress: float = 0.5) -> Computed:
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randn(k, 3, generator=generator, dtype=torch.float64) for k in (n, m))
    logits = 3 * torch.randn(m, 4, generator=generator, dtype=torch.float64)
    return Computed(source, 2 * target + 1, torch.arange(n) % 4, logits, progress)


# -- penalties -----------------------------------------------------------------------------------------


def test_coral_is_the_distance_of_covariances() -> None:
    of = computed()
    difference = np.cov(of.source.numpy().T) - np.cov(of.target.numpy().T)
    assert Coral()(of).item() == pytest.approx((difference**2).sum() / (4 * 9))
    assert Coral()(of._replace(target=of.source + 5)).item() == pytest.approx(0, abs=1e-12)  # it does not see means


def test_mmd_is_a_sum_over_pairs() -> None:
    of = computed()
    x = torch.cat([of.source, of.target]).numpy()
    pairs = [(i, j) for i in range(12) for j in range(12)]
    squared = {(i, j): ((x[i] - x[j]) ** 2).sum() for i, j in pairs}
    mean = sum(d for (i, j), d in squared.items() if i != j) / (12 * 11)
    kernel = {p: np.mean([np.exp(-d / (b * mean)) for b in (0.25, 0.5, 1, 2, 4)]) for p, d in squared.items()}
    signs = {(i, j): 1 if (i < 6) == (j < 6) else -1 for i, j in pairs}
    assert MMD()(of).item() == pytest.approx(sum(signs[p] * kernel[p] for p in pairs) / 36)
    assert MMD()(of._replace(target=of.source)).item() == pytest.approx(0, abs=1e-12)
    assert MMD()(of._replace(target=of.source + 1)).item() > 1e-3  # it sees means


def test_usps_is_read_by_torchvision_and_brought_to_the_size_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "usps").mkdir()
    pixels = np.linspace(-1, 1, 256).round(4)
    row = " ".join(f"{i + 1}:{value}" for i, value in enumerate(pixels))
    for name, labels in (("usps.bz2", (1, 10, 4)), ("usps.t.bz2", (2,))):  # 1 to 10 for the digits 0 to 9
        (tmp_path / "usps" / name).write_bytes(bz2.compress("".join(f"{k} {row}\n" for k in labels).encode()))
    usps = load_domain(str(tmp_path), "usps")
    assert usps.train.shape == (3, 3, 28, 28) and usps.train.dtype == torch.uint8
    assert usps.train_labels.tolist() == [0, 9, 3] and usps.test_labels.tolist() == [1]
    assert usps.train[0, 0, 0, 0] < 5 and usps.train[0, 2, -1, -1] > 250
    check_pair(usps, Domain("digits", DIGITS, *[usps.train, usps.train_labels] * 2))
    (tmp_path / "usps" / "usps.bz2").write_bytes(b"not bz2")
    load_domain.cache_clear()
    with pytest.raises(ValueError, match=r"usps is damaged: .*the option --download fetches USPS"):
        load_domain(str(tmp_path), "usps")


def test_corrupted_digits_are_those_of_mnist_under_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = torch.full((200, 3, 28, 28), 128, dtype=torch.uint8)
    plain = Domain("mnist", DIGITS, grey, torch.arange(200) % 10, grey, torch.arange(200) % 10)
    monkeypatch.setattr("supervised.adaptation.domains.load", lambda *_: plain)
    monkeypatch.setattr("supervised.adaptation.domains._small", lambda images: images)
    noisy = load_domain.__wrapped__("somewhere", "corrupted")
    noise = noisy.train[:, 0].float() - 128
    assert noise.std().item() == pytest.approx(72.3, abs=0.7)  # cut off at 0 and 255
    assert torch.equal(noisy.train[:, 0], noisy.train[:, 1]) and torch.equal(noisy.train_labels, plain.train_labels)
    assert not torch.equal(noisy.train, noisy.test)
    assert torch.equal(noisy.train, load_domain.__wrapped__("somewhere", "corrupted").train)


def test_transport_is_the_cheapest_of_all_assignments() -> None:
    pytest.importorskip("ot")
    of = computed(n=5, m=5)
    log_p = of.target_logits.log_softmax(dim=1).numpy()
    cost = [
        [((s - t) ** 2).mean() - log_p[j, label] for j, t in enumerate(of.target.numpy())]
        for s, label in zip(of.source.numpy(), of.labels.tolist(), strict=True)
    ]
    cheapest = min(sum(cost[i][j] for i, j in enumerate(p)) for p in permutations(range(5))) / 5
    assert METHODS["transport"](3)(of).item() == pytest.approx(cheapest)


def test_dann_reverses_what_the_features_get_and_not_what_tells_domains_apart() -> None:
    torch.manual_seed(0)
    of = computed()
    method = DANN(3).double()
    source = of.source.clone().requires_grad_()
    method(of._replace(source=source)).backward()
    plain = of.source.clone().requires_grad_()
    logits = method.domain(torch.cat([plain, of.target])).squeeze(1)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, (torch.arange(12) >= 6).double())
    for p, gradient in zip(method.parameters(), torch.autograd.grad(loss, [*method.parameters()], retain_graph=True),
                           strict=True):  # fmt: skip
        torch.testing.assert_close(p.grad, gradient)
    (gradient,) = torch.autograd.grad(loss, plain)
    factor = 2 / (1 + math.exp(-10 * 0.5)) - 1
    torch.testing.assert_close(source.grad, -factor * gradient)
    source.grad = None
    method(of._replace(source=source, progress=0.0)).backward()
    assert source.grad is not None and not source.grad.any()


def test_self_training_learns_from_what_is_confident() -> None:
    of = computed()
    p = of.target_logits.softmax(dim=1).max(dim=1).values
    sure = p >= CONFIDENT
    assert 0 < sure.sum() < len(p)
    assert SelfTraining()(of).item() == pytest.approx(0.5 * -(p[sure].log().sum() / len(p)).item())


# -- data ------------------------------------------------------------------------------------------------


def domain(name: str, grey: float, n: int = 300) -> Domain:
    """Ten classes, each noise around an image of its own; in one domain faded to grey."""
    rng = np.random.default_rng(len(name))
    centers = np.random.default_rng(0).integers(0, 255, (10, 3, 4, 4)).repeat(7, axis=2).repeat(7, axis=3)

    def half(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = rng.permutation(np.arange(n) % 10)
        x = centers[labels] * (1 - grey) + 160 * grey + rng.normal(0, 30, (n, 3, 28, 28))
        return torch.from_numpy(x.clip(0, 255).astype(np.uint8)), torch.from_numpy(labels)

    return Domain(name, DIGITS, *half(n), *half(60))


@pytest.fixture
def domains(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, grey in (("light", 0.0), ("dark", 0.5), ("darker", 0.6), ("darkest", 0.7)):
        monkeypatch.setitem(DOMAINS, name, lambda data_dir, rng, name=name, grey=grey: domain(name, grey))
    load_domain.cache_clear()
    load_pair.cache_clear()
    load_others.cache_clear()


TINY = ["--source", "light", "--updates", "4", "--limit", "130", "--n-filters", "4"]


@pytest.mark.usefixtures("domains")
def test_all_methods_run_are_in_the_table_and_are_not_run_again(tmp_path: Path, capsys: Any) -> None:
    root = tmp_path / "runs"
    given = ["train", *TINY, "--targets", "dark", "darker", "--methods", *KNOWN, "--root", str(root)]
    assert main([*given, "--dry-run"]) == 0
    images = 2 * 4 * 64 * (len(METHODS) * 2 + 2)  # two targets; the methods see two domains
    assert f"{2 * len(KNOWN)} runs, {images:,} images" in capsys.readouterr().out and not root.exists()
    assert main(given) == 0
    kept = {file: file.stat().st_mtime_ns for file in root.glob("*/found.json")}
    assert len(kept) == 2 * len(KNOWN) and main(given) == 0
    assert {file: file.stat().st_mtime_ns for file in root.glob("*/found.json")} == kept
    found = {name: json.loads((root / f"{name}-light-to-dark-seed0/found.json").read_text()) for name in KNOWN}
    assert list((root / "mmd-light-to-dark-seed0").glob("tensorboard/**/events*"))
    capsys.readouterr()
    assert main(["table", str(root), "--figure", str(tmp_path / "f.png"), "--save", str(tmp_path / "s.json")]) == 0
    shown = capsys.readouterr().out
    error, less = (found[name]["scores"]["error"] for name in ("mmd", "source-only"))
    assert f"| mmd | light to dark | 512 | 1 | {error:.1f} | {error - less:+.1f} |" in shown
    assert main(["table", str(tmp_path / "s.json")]) == 0 and capsys.readouterr().out == shown
    assert main(["table", str(root), "--less", "none"]) == 2
    assert "'none' is not one of those compared" in capsys.readouterr().err
    # Elsewhere, with another seed, it is no second seed of the same.
    other = ["train", *TINY, "--targets", "dark", "--methods", "mmd", "--weight", "3", "--seeds", "1"]
    assert main([*other, "--root", str(tmp_path / "other")]) == 0
    capsys.readouterr()
    assert main(["table", str(root), str(tmp_path / "other")]) == 0
    shown = capsys.readouterr().out
    assert "| method | pair | weight | images |" in shown
    assert (
        f"| mmd | light to dark | 1.0 | 512 | 1 | {error:.1f} |" in shown
        and "| mmd | light to dark | 3.0 | 512 | 1 |" in shown
    )
    assert set(COMPARED) == set(KNOWN) - {"target-labels"}
    # Another weight is another run, of those that have one.
    both = ["train", *TINY, "--targets", "dark", "--methods", "source-only", "mmd", "--weight", "3"]
    assert main([*both, "--root", str(root)]) == 0
    new = {file.parent.name for file in root.glob("*/found.json")} - {file.parent.name for file in kept}
    assert new == {"mmd-light-to-dark-weight-3.0-seed0"}


@pytest.mark.usefixtures("domains")
def test_a_weight_is_chosen_and_no_label_of_the_target_plays_a_part(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["choose", *TINY, "--targets", "dark", "--methods", "mmd", "--weights", "0.5", "2"]
    assert main([*given, "--root", str(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert "| mmd | light to dark | 2 | 1,024 | 1 |" in shown
    errors = {float(w): float(e) for w, e in re.findall(r"\| mmd \| light to dark \| (\S+) \|.*\| (\S+) \|", shown)}
    assert len(errors) == 2
    command = shlex.split(shown.splitlines()[-1])
    assert command[:4] == ["python", "-m", "supervised.adaptation", "train"] and "mmd" in command
    assert errors[float(command[-1])] == min(errors.values())
    # Other labels of the target, the same reverse errors.
    real = DOMAINS["dark"]

    def mislabelled(data_dir: str, rng: Any) -> Domain:
        made = real(data_dir, rng)
        return Domain("dark", DIGITS, made.train, made.train_labels.flip(0), made.test, made.test_labels.flip(0))

    monkeypatch.setitem(DOMAINS, "dark", mislabelled)
    load_domain.cache_clear()
    load_pair.cache_clear()
    assert main([*given, "--root", str(tmp_path / "b")]) == 0
    a, b = ([json.loads(f.read_text()) for f in sorted((tmp_path / x).glob("*/found.json"))] for x in "ab")
    assert a == b and len(a) == 2


@pytest.mark.usefixtures("domains")
def test_the_way_back_tells_domains_apart_anew(tmp_path: Path) -> None:
    """They have changed places: what told them apart would begin inverted."""
    starts: list[Initialization] = []

    class Sees(InProcess):
        def run(self, jobs: Any, on_progress: Any) -> Any:
            starts.append(jobs[0].initialization)
            return super().run(jobs, on_progress)

    run = ReverseValidation("", 0, "dann", "light", "dark", 4, 130, 1.0, n_filters=4)
    run.learn(tmp_path, Sees(), False)
    there, back = starts
    task = run.task()
    torch.manual_seed(0)
    fresh = Initialization.of(task.network(), "all").parameters
    of_method = [name for name in back.parameters if name.startswith("method.")]
    assert of_method and all(torch.equal(back.parameters[name], fresh[name]) for name in of_method)
    assert not torch.equal(back.parameters["head.weight"], there.parameters["head.weight"])


@pytest.mark.usefixtures("domains")
def test_adaptation_helps_where_it_can() -> None:
    errors = {
        method: _error(AdaptationRun("", 0, method, "light", "dark", 40, 200, n_filters=8))
        for method in ("source-only", "batch-norm", "mmd")
    }
    # More than the statistics of minibatches of both domains do, which every method has.
    assert errors["mmd"] < errors["batch-norm"] - 10 < errors["source-only"] - 30


def _error(run: AdaptationRun) -> float:
    job = run.job()
    return 100 * job.run(lambda *_: None).scores["test_error"]


@pytest.mark.usefixtures("domains")
def test_a_minibatch_has_both_domains_and_the_network_splits_them() -> None:
    task = AdaptationRun("", 0, "mmd", "light", "dark", 4, 130, n_filters=4).task()
    minibatches = task.minibatches(0, False, torch.device("cpu"))
    assert isinstance(minibatches, PairedMinibatches)
    x, y = minibatches.next()
    assert len(x) == 128 and len(y) == 64
    pair = load_pair("", "light", "dark", 130, 0)
    rows = [{image.numpy().tobytes() for image in images.float() / 255} for images in (pair.source, pair.target)]
    assert {i.numpy().tobytes() for i in x[:64]} <= rows[0] and {i.numpy().tobytes() for i in x[64:]} <= rows[1]
    model = task.network()
    assert isinstance(model, Adapting)
    model.train()
    model.before_update(0.1, 0.25)
    assert model(x).shape == (64, 10)
    assert model.penalty(y).item() == pytest.approx(
        MMD()(Computed(*model.train().encoder(x).split(64), y, torch.zeros(0), 0.25)).item(), rel=1e-4
    )
    assert model.eval()(x).shape == (128, 10)


@pytest.mark.usefixtures("domains")
def test_a_run_is_a_function_of_its_seed() -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        job = AdaptationRun("", seed, "dann", "light", "dark", 6, 130, n_filters=4).job()
        final = replace(job, return_final=True).run(lambda *_: None).final
        assert final is not None
        return final.parameters

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert ReverseValidation("", 0, "dann", "light", "dark", 6, 130).images() == 2 * 6 * 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "mdd"], "no method 'mdd': there are source-only, target-labels, batch-norm, coral"),
        (["--targets", "light"], "source and target are both light"),
        (["--targets", "letters"], "light and letters have different classes (0, 1, 2, 3, 4 …)"),
        (["--targets", "small"], "light has images of shape (3, 28, 28), small of (3, 16, 16)"),
        (["--targets", "uspss"], "no domain 'uspss': there are mnist, digits"),
        (["--targets", "usps"], "usps is missing; the option --download fetches USPS by torchvision"),
        (["--targets", "uspss", "--download"], "no domain 'uspss': there are mnist"),
        (["--weight", "0"], "Must be > 0"),
        (["--weight", "inf"], "weight=inf of a penalty must be above 0, and finite"),
        (["--limit", "20"], "20 images of one are too few for minibatches of 64"),
        (["--seeds"], "nothing to run"),
    ],
)
@pytest.mark.usefixtures("domains")
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = domain("light", 0.0)
    letters = Domain("letters", tuple("ABCDEFGHIJ"), light.train, light.train_labels, light.test, light.test_labels)
    small = Domain("small", DIGITS, light.train[:, :, :16, :16], light.train_labels, light.test, light.test_labels)
    monkeypatch.setitem(DOMAINS, "letters", lambda data_dir, rng: letters)
    monkeypatch.setitem(DOMAINS, "small", lambda data_dir, rng: small)
    tiny = [word for word in TINY if arguments[0] != "--limit" or word not in ("--limit", "130")]
    given = ["train", *tiny, "--targets", "dark", "--methods", "mmd", "--root", str(tmp_path / "runs"), *arguments]
    assert main(given) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1 and not (tmp_path / "runs").exists()


# -- domain generalization --------------------------------------------------------------------------------


EACH = ["generalize", "--domains", "light", "dark", "darker", "--updates", "4", "--limit", "130", "--n-filters", "4"]


@pytest.mark.usefixtures("domains")
def test_each_domain_is_held_out_in_turn(tmp_path: Path, capsys: Any) -> None:
    root = tmp_path / "runs"
    assert main([*EACH, "--root", str(root), "--dry-run"]) == 0
    assert f"9 runs, {9 * 4 * 2 * 32:,} images" in capsys.readouterr().out and not root.exists()
    assert main([*EACH, "--root", str(root)]) == 0
    assert len(list(root.glob("*/found.json"))) == 9
    capsys.readouterr()
    assert main(["generalize", "table", str(root), "--figure", str(tmp_path / "f.png")]) == 0
    found = {
        name: json.loads((root / f"{name}-dark-light-dark-darker-seed0/found.json").read_text())["scores"]["error"]
        for name in ("pooled", "coral")
    }
    less = found["coral"] - found["pooled"]
    row = f"| coral | dark | light dark darker | 256 | 1 | {found['coral']:.1f} | {less:+.1f} |"
    assert row in capsys.readouterr().out and (tmp_path / "f.png").is_file()


@pytest.mark.usefixtures("domains")
def test_nothing_of_the_domain_that_is_held_out_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its training images may be anything, and so may its labels while it learns."""
    run = GeneralizationRun("", 0, "mmd", ("light", "dark", "darker"), "dark", 4, 130, n_filters=4)
    before = run.task().run(_job(run), lambda *_: None).curve.values
    monkeypatch.setitem(DOMAINS, "dark", lambda data_dir, rng: domain("dark", 1.0))
    load_domain.cache_clear()
    load_others.cache_clear()
    after = run.task().run(_job(run), lambda *_: None).curve.values
    assert (before == after).all()


def _job(run: GeneralizationRun) -> Job:
    task = run.task()
    start = ClassificationTasks([task], "all", {"data": "digits"}).draw_initialization(None, 0)
    return Job(task, start, NoPretraining(), 0)


@pytest.mark.usefixtures("domains")
def test_a_minibatch_has_as_many_images_of_each_domain_and_a_penalty_is_the_mean_over_pairs() -> None:
    run = GeneralizationRun("", 0, "coral", ("light", "dark", "darker", "darkest"), "darkest", 4, 130, 2.0, 4)
    task = run.task()
    images = task.images()
    x, y = task.minibatches(0, False, torch.device("cpu")).next()
    domains = [{i.numpy().tobytes() for i in part.float() / 255} for part in images.train.chunk(3)]
    assert len(x) == len(y) == 96
    for part, there in zip(x.chunk(3), domains, strict=True):
        assert {i.numpy().tobytes() for i in part} <= there
    model = task.network()
    assert isinstance(model, Aligning) and model.train()(x).shape == (96, 10)
    a, b, c = model.train().encoder(x).chunk(3)
    pairs = [Coral()(Computed(s, t, y, y, 0.0)) for s, t in ((a, b), (a, c), (b, c))]
    torch.testing.assert_close(model.penalty(y), 2 * sum(pairs) / 3, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--domains", "light", "dark"], "1 domains are learned: what holds in several takes two at least"),
        (["--domains", "light", "dark", "dark"], "name each domain once"),
        (["--domains", "light", "dark", "uspss"], "no domain 'uspss': there are mnist, digits"),
        (["--methods", "dann"], "no method 'dann': there are pooled, coral, mmd"),
        (["--weight", "inf"], "weight=inf of a penalty must be above 0, and finite"),
        (["--limit", "20"], "20 images of a domain are too few for minibatches of 32 of each"),
    ],
)
@pytest.mark.usefixtures("domains")
def test_bad_input_to_generalization_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: Any
) -> None:
    kept = [EACH[0], *EACH[5:]] if arguments[0] == "--domains" else EACH
    kept = [word for word in kept if arguments[0] != "--limit" or word not in ("--limit", "130")]
    assert main([*kept, "--root", str(tmp_path / "runs"), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1 and not (tmp_path / "runs").exists()


def test_uci_digits_are_a_pair_of_images_in_colour() -> None:
    pytest.importorskip("sklearn")
    digits = load_domain("", "digits")
    assert digits.train.shape == (1297, 3, 28, 28) and len(digits.test) == 500
    assert digits.train.max() == 255 and digits.train_labels.unique().tolist() == list(range(10))
    check_pair(digits, digits)
