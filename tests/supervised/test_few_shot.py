"""Few-shot episodes: drawn, learned, compared, and from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from leap_rl.core import FOMAML, MAML, Initialization, InProcess, Job, Leap, MetaTrainer, NoPretraining, Reptile
from supervised.few_shot.classes import TEST_ALPHABETS, _in_test, load_classes
from supervised.few_shot.comparing import Attention, Comparing, Prototypes, QueryLoss, Relation
from supervised.few_shot.episodes import Episodes, TestEpisodes, with_statistics
from supervised.few_shot.experiment import LEARNERS, FewShotRun, _sha256
from supervised.omniglot.__main__ import main

SMALL: dict[str, Any] = {"n_filters": 4}


def episodes(drawn: Path, comparison: str | None = "protonet", **settings: Any) -> Episodes:
    given = {"ways": 3, "shots": 2, "queries": 4, "updates": 0 if comparison else 2} | SMALL | settings
    return Episodes(str(drawn), "train", comparison=comparison, **given)


def start(tasks: Episodes, seed: int = 0) -> Initialization:
    return tasks.draw_initialization(None, seed)


# -- what an episode is ----------------------------------------------------------------------------


def test_an_episode_is_a_function_of_its_seed_and_support_and_queries_share_no_drawing(drawn: Path) -> None:
    task = episodes(drawn).task
    one, again, other = (replace(task, episode=seed).images() for seed in (5, 5, 6))
    assert torch.equal(one.train, again.train) and torch.equal(one.test, again.test)
    assert not torch.equal(one.train, other.train)
    assert one.train_labels.tolist() == [0, 0, 1, 1, 2, 2] and one.test_labels.bincount().tolist() == [4, 4, 4]
    classes = [{image.numpy().tobytes() for image in of_class} for of_class in load_classes(str(drawn), "train")]
    for label in range(3):
        support = {image.numpy().tobytes() for image in one.train[one.train_labels == label]}
        queries = {image.numpy().tobytes() for image in one.test[one.test_labels == label]}
        assert not support & queries and any(support | queries <= of_class for of_class in classes)


def test_no_class_is_in_both_parts_and_rotations_are_classes(drawn: Path) -> None:
    train, test = (load_classes(str(drawn), part) for part in ("train", "test"))
    n = 13 * 20 + 6 + 5
    assert len(train) + len(test) == 4 * n and len(train) == 4 * (n * 1200 // 1623)
    assert torch.equal(train[1][3, 0], train[0][3, 0].rot90())
    seen = {of_class[0].numpy().tobytes() for of_class in train}
    assert not any(of_class[0].numpy().tobytes() in seen for of_class in test)


def test_vinyals_split_of_the_whole() -> None:
    """423 characters: twelve alphabets and the last four of Gurmukhi. Their sizes are those of the real data set."""
    sizes = [41, 26, 47, 40, 30, 45, 46, 28, 23, 25, 42, 26]
    counts = {"Gurmukhi": 45, **dict(zip(TEST_ALPHABETS, sizes, strict=True))}
    counts["Other"] = 1623 - sum(counts.values())
    rows, first = {}, 0
    for name, n in sorted(counts.items()):
        rows[name] = range(first, first + n)
        first += n
    chosen = _in_test(rows)
    assert sum(chosen) == 423
    gurmukhi = rows["Gurmukhi"]
    assert [i - gurmukhi.start for i in gurmukhi if chosen[i]] == [41, 42, 43, 44]


# -- comparing networks ----------------------------------------------------------------------------


def random_features(ways: int = 3, shots: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    support, queries = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (ways * shots, 5))
    return support, torch.arange(ways).repeat(shots), queries


def test_prototypes_and_attention_are_the_papers() -> None:
    support, labels, queries = random_features()
    prototypes = np.stack([support.numpy()[labels.numpy() == k].mean(axis=0) for k in range(3)])
    distances = ((queries.numpy()[:, None] - prototypes) ** 2).sum(axis=2)
    np.testing.assert_allclose(Prototypes()(support, labels, queries, 3).numpy(), -distances, rtol=1e-12)
    unit = [x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (queries, support)]
    exponentials = np.exp(7 * unit[0] @ unit[1].T)
    attention = exponentials / exponentials.sum(axis=1, keepdims=True)
    of_class = np.stack([attention[:, labels.numpy() == k].sum(axis=1) for k in range(3)], axis=1)
    np.testing.assert_allclose(Attention(7)(support, labels, queries, 3).exp().numpy(), of_class, rtol=1e-9)


def test_easyfsl_agrees_where_it_should() -> None:
    """Its prototypes have distances where the paper has squares; its matching leaves the length of queries."""
    from easyfsl import methods  # type: ignore[import-untyped]

    support, labels, queries = random_features()
    theirs = methods.PrototypicalNetworks(torch.nn.Identity())
    theirs.process_support_set(support, labels)
    torch.testing.assert_close(Prototypes()(support, labels, queries, 3), -theirs(queries).square())
    matching = methods.MatchingNetworks(torch.nn.Identity(), feature_dimension=6)
    matching.encode_support_features = matching.encode_query_features = lambda features: features.float()  # no LSTM
    matching.process_support_set(support, labels)
    unit = torch.nn.functional.normalize(queries, dim=1)
    ours = Attention(1)(support, labels, unit, 3).float()
    torch.testing.assert_close(ours, matching(unit), atol=1e-4, rtol=1e-4)


def test_a_relation_is_of_a_query_and_the_sum_of_a_support() -> None:
    torch.manual_seed(0)
    relation = Relation(n_filters=2, size=4).double().eval()
    support, queries = torch.randn(4, 32).double(), torch.randn(3, 32).double()
    computed = relation(support, torch.tensor([0, 1, 1, 0]), queries, 2)
    pair = torch.cat([(support[1] + support[2]).view(2, 4, 4), queries[2].view(2, 4, 4)])[None]
    assert computed[2, 1].item() == pytest.approx(relation.score(relation.blocks(pair).flatten(1)).sigmoid().item())
    loss = relation.loss(torch.tensor([[0.9, 0.2]]), torch.tensor([0]))
    assert loss.item() == pytest.approx((0.1**2 + 0.2**2) / 2)


@pytest.mark.parametrize("comparison", ["protonet", "matching", "relation"])
def test_the_meta_gradient_is_that_of_the_query_loss(drawn: Path, comparison: str) -> None:
    """Against that of the loss written out, query by query and class by class."""
    tasks = episodes(drawn, comparison)
    theta = start(tasks)
    job = Job(tasks[0], theta, QueryLoss(), 3, "cpu")
    result = tasks[0].run(job, lambda *_: None)
    assert result.status == "ok" and result.steps == 3 * (2 + 4)
    process = tasks[0].start(job)
    model, minibatches = process.model, process.minibatches
    assert isinstance(model, Comparing)
    (support, labels), (queries, of_queries) = minibatches.next(), minibatches.unseen()
    features = model.train().encoder(torch.cat([support, queries]))
    of_class = [features[: len(support)][labels == k] for k in range(3)]
    rows = []
    for q in features[len(support) :]:
        if comparison == "protonet":
            rows.append(torch.stack([-((q - f.mean(dim=0)) ** 2).sum() for f in of_class]))
        elif comparison == "matching":
            cosine = torch.nn.functional.cosine_similarity
            rows.append(torch.stack([(10 * cosine(q[None], f)).exp().sum() for f in of_class]))
    if comparison == "relation":
        maps = [(f.sum(dim=0).view(4, 7, 7), q.view(4, 7, 7)) for q in features[len(support) :] for f in of_class]
        blocks = model.head.blocks(torch.stack([torch.cat(pair) for pair in maps])).flatten(1)
        scores = model.head.score(blocks).sigmoid().view(-1, 3)
        loss = sum((scores[i, k] - float(k == y)) ** 2 for i, y in enumerate(of_queries.tolist()) for k in range(3)) / (
            scores.numel()
        )
    else:
        logits = torch.stack(rows)
        p = logits.softmax(dim=1) if comparison == "protonet" else logits / logits.sum(dim=1, keepdim=True)
        loss = -torch.stack([p[i, y].log() for i, y in enumerate(of_queries.tolist())]).mean()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    assert result.scores["test_loss"] == pytest.approx(loss.item(), rel=1e-4)
    for (name, _), gradient in zip(model.named_parameters(), expected, strict=True):
        torch.testing.assert_close((result.meta_gradient or {})[name], gradient, atol=1e-4, rtol=1e-3)


def test_statistics_of_classes_to_learn_from_are_what_a_test_normalizes_by(drawn: Path) -> None:
    tasks = episodes(drawn)
    theta = start(tasks)
    counted = with_statistics(theta, tasks.task, 0, n=4)
    assert all(torch.equal(t, theta.parameters[n]) for n, t in counted.parameters.items())
    means = {n: b for n, b in counted.buffers.items() if n.endswith("running_mean")}
    assert len(means) == 4 and all(mean.abs().max() > 1e-3 for mean in means.values())
    first = [replace(tasks.task, episode=int(e)) for e in np.random.SeedSequence([0, 1]).generate_state(4)]
    images = torch.stack([torch.cat([e.images().train, e.images().test]) for e in first]).float() / 255
    model = tasks.task.network()
    theta.apply_to(model)
    with torch.no_grad():
        expected = torch.stack([model.encoder[0](x).mean(dim=(0, 2, 3)) for x in images]).mean(dim=0)
    torch.testing.assert_close(counted.buffers["encoder.1.running_mean"], expected, atol=1e-5, rtol=1e-4)


def test_without_statistics_a_comparing_network_is_not_tested(drawn: Path) -> None:
    tasks = episodes(drawn)
    with pytest.raises(ValueError, match="statistics of a fresh network: with_statistics computes"):
        tasks.task.run(Job(tasks.task, start(tasks), NoPretraining(), 0, "cpu"), lambda *_: None)
    # What learns takes those of its episode.
    assert tasks.task.run(Job(tasks.task, start(tasks), QueryLoss(), 0, "cpu"), lambda *_: None).status == "ok"


# -- learners that make updates ----------------------------------------------------------------------


def test_maml_with_one_step_is_differentiated_through_the_support_to_the_queries(drawn: Path) -> None:
    tasks = episodes(drawn, None, updates=1)
    theta = start(tasks)
    job = Job(tasks[0], theta, MAML(inner_steps=1), 4, "cpu", return_final=True)
    result = tasks[0].run(job, lambda *_: None)
    assert result.steps == 3 * 2 + 3 * 4
    process = tasks[0].start(job)
    model, minibatches = process.model, process.minibatches
    (x, y), (queries, of_queries) = minibatches.next(), minibatches.unseen()
    p = dict(model.named_parameters())
    loss = torch.nn.functional.cross_entropy(torch.func.functional_call(model, p, (x,)), y)
    gradients = torch.autograd.grad(loss, list(p.values()), create_graph=True)
    learned = {name: t - 0.1 * g for (name, t), g in zip(p.items(), gradients, strict=True)}
    loss = torch.nn.functional.cross_entropy(torch.func.functional_call(model, learned, (queries,)), of_queries)
    logits = torch.func.functional_call(model, learned, (queries,))
    for name, g in zip(p, torch.autograd.grad(loss, list(p.values())), strict=True):
        torch.testing.assert_close((result.meta_gradient or {})[name], g, atol=1e-5, rtol=1e-3)
    assert result.final is not None
    for name, t in learned.items():
        torch.testing.assert_close(result.final.parameters[name], t.detach())
    # What it tells of is the network that has learned, at its queries.
    wrong = (logits.argmax(dim=1) != of_queries).float().mean().item()
    assert result.scores["test_error"] == pytest.approx(wrong) == result.curve.values[-1]
    assert result.curve.steps.tolist() == [6, 18]


def test_maml_tells_what_it_has_learned_and_not_where_it_began(drawn: Path) -> None:
    tasks = episodes(drawn, None, updates=5, learning_rate=0.3, n_filters=8)
    theta = start(tasks)
    errors = [
        tasks[0].run(Job(tasks[0], theta, MAML(inner_steps=5), seed, "cpu"), lambda *_: None).curve.values
        for seed in range(5)
    ]
    assert np.mean([e[4] for e in errors]) < np.mean([e[0] for e in errors])  # of the support, before and after


def test_queries_are_normalized_by_all_of_them_however_many(drawn: Path) -> None:
    task = episodes(drawn, None, ways=20, shots=1, queries=15).task
    job = Job(task, start(episodes(drawn, None, ways=20, shots=1, queries=15)), NoPretraining(), 3, "cpu")
    result = task.run(replace(job, return_final=True), lambda *_: None)
    process = task.start(job)
    model, minibatches = process.model, process.minibatches
    assert result.final is not None
    result.final.apply_to(model)
    queries, of_queries = minibatches.unseen()
    assert len(queries) == 300
    expected = (model(queries).argmax(dim=1) != of_queries).float().mean().item()
    assert result.scores["test_error"] == pytest.approx(expected, abs=1e-6)


def test_episodes_of_which_one_diverges_are_no_result(drawn: Path) -> None:
    tasks = episodes(drawn, None, learning_rate=1e30)
    test = TestEpisodes(tasks.task, 2)
    assert test.run(Job(test, start(tasks), NoPretraining(), 0, "cpu"), lambda *_: None).status == "non_finite"


def test_fomaml_looks_ahead_at_the_queries_and_reptile_never_sees_them(drawn: Path) -> None:
    tasks = episodes(drawn, None)
    theta = start(tasks)
    results = {}
    for learner in (FOMAML(), Reptile()):
        job = Job(tasks[0], theta, learner, 4, "cpu")
        results[type(learner)] = tasks[0].run(job, lambda *_: None)
    assert results[FOMAML].steps == 2 * 6 + 12 and results[Reptile].steps == 2 * 6
    process = tasks[0].start(Job(tasks[0], theta, Reptile(), 4, "cpu"))
    model, minibatches = process.model, process.minibatches
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        x, y = minibatches.next()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    queries, of_queries = minibatches.unseen()
    torch.nn.functional.cross_entropy(model(queries), of_queries).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close((results[FOMAML].meta_gradient or {})[name], p.grad, atol=1e-6, rtol=1e-4)
        moved = theta.parameters[name] - p.detach()
        torch.testing.assert_close((results[Reptile].meta_gradient or {})[name], moved, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("learner", [MAML(inner_steps=2), FOMAML(), Reptile(), Leap(), QueryLoss()], ids=repr)
def test_meta_training_goes_on_to_the_same_bits(drawn: Path, tmp_path: Path, learner: Any) -> None:
    tasks = episodes(drawn, "protonet" if isinstance(learner, QueryLoss) else None)
    settings: dict[str, Any] = {"meta_batch_size": 2, "sampling": "with_replacement", "seed": 0, "engine": InProcess()}
    whole = MetaTrainer(tasks, learner, **settings).learn(3)
    MetaTrainer(tasks, learner, **settings, run_dir=tmp_path).learn(1)
    resumed = MetaTrainer.load(tmp_path, tasks, learner, engine=InProcess()).learn(2)
    for name, tensor in whole.initialization.parameters.items():
        assert torch.equal(tensor, resumed.initialization.parameters[name]), name


def test_meta_learning_helps_on_classes_that_were_never_seen(drawn: Path) -> None:
    tasks = episodes(drawn, ways=10, shots=1, n_filters=16)
    test = TestEpisodes(Episodes(str(drawn), "test", 5, 1, 10, "protonet", n_filters=16).task, 20)

    def error(theta: Initialization) -> float:
        theta = with_statistics(theta, tasks.task, 0, n=10)
        return test.run(Job(test, theta, NoPretraining(), 0, "cpu"), lambda *_: None).scores["test_error"]

    trainer = MetaTrainer(tasks, QueryLoss(), 1, sampling="with_replacement", seed=0, engine=InProcess())
    before = error(trainer.initialization)
    assert error(trainer.learn(60).initialization) < before - 0.05


# -- the command -------------------------------------------------------------------------------------

TINY = ["--images", "300", "--test-episodes", "3", "--n-filters", "4"]


def test_all_learners_run_are_in_the_table_and_are_not_run_again(drawn: Path, tmp_path: Path, capsys: Any) -> None:
    given = ["few-shot", "--data-dir", str(drawn), "--root", str(tmp_path / "runs"), *TINY, "--learner", *LEARNERS]
    assert main([*given, "--dry-run"]) == 0
    assert not (tmp_path / "runs").exists() and f"{len(LEARNERS)} runs, 2,100 images" in capsys.readouterr().out
    assert main(given) == 0
    assert "no Vinyals' split" in capsys.readouterr().out
    folder = tmp_path / "runs" / "protonet-5-way-1-shot-seed0"
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("*") if file.is_file()}
    assert list(folder.glob("tensorboard/**/events*")) and list(folder.glob("0002/initialization/config.json"))
    assert main(given) == 0
    changed = {f for f in (tmp_path / "runs").rglob("*") if f.is_file() and kept.get(f) != f.stat().st_mtime_ns}
    assert not {f for f in changed if "lock" not in f.name}
    # One that was ended before its test, and one whose meta-training was not over.
    found = json.loads((folder / "found.json").read_text())
    (folder / "found.json").unlink()
    assert main(given) == 0 and json.loads((folder / "found.json").read_text()) == found
    capsys.readouterr()
    saved, figure = tmp_path / "saved.json", tmp_path / "figure.png"
    assert main(["few-shot", "table", str(tmp_path / "runs"), "--less", "none", "--save", str(saved), "--figure",
                 str(figure)]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert f"| protonet | 5-way 1-shot | 300 | 1 | {found['scores']['error']:.1f} |" in shown
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert main(["few-shot", "table", str(saved), "--less", "none"]) == 0 and capsys.readouterr().out == shown


def test_folders_of_images(tmp_path: Path, capsys: Any) -> None:
    rng = np.random.default_rng(0)
    for part, names in (("train", "abcd"), ("test", "xyz")):
        for name in names:
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(17 if name != "d" else 20):
                pixels = rng.integers(0, 255, (90, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{i:02}.png")
    assert [c.shape for c in load_classes(str(tmp_path / "data"), "train")] == [(17, 3, 84, 84)] * 3 + [(20, 3, 84, 84)]
    given = ["few-shot", "--data-dir", str(tmp_path / "data"), "--root", str(tmp_path / "runs")]
    small = ["--images", "120", "--test-episodes", "1", "--n-filters", "2", "--learner", "fomaml"]
    assert main([*given, *small, "--ways", "3"]) == 0
    assert "4 / 3 classes to learn from / to test with" in capsys.readouterr().out
    # Of the few classes there are as many ways as can be, in place of 20.
    comparing = ["--learner", "protonet", "--images", "200"]
    assert main([*given, *small[2:-2], *comparing, "--ways", "3"]) == 0
    assert FewShotRun(str(tmp_path / "data"), 0, "protonet", 3, 1, 300, 1).to_learn().task.ways == 4
    # Another folder of the same name, with as many images, is other data.
    first = FewShotRun(str(tmp_path / "data"), 0, "fomaml", 3, 1, 120, 1, 2).settings()
    (tmp_path / "data" / "test" / "x" / "00.png").rename(tmp_path / "other.png")
    Image.fromarray(255 - pixels).save(tmp_path / "data" / "test" / "x" / "00.png")
    load_classes.cache_clear(), _sha256.cache_clear()
    assert FewShotRun(str(tmp_path / "data"), 0, "fomaml", 3, 1, 120, 1, 2).settings() != first
    # And so are the same images in other classes.
    classes = iter([[torch.zeros(1, 2), torch.zeros(3, 2)], [torch.zeros(3, 2), torch.zeros(1, 2)]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supervised.few_shot.experiment.load_classes", lambda *_: next(classes))
        assert _sha256("one", "test") != _sha256("two", "test")
    assert main([*given, *small, "--ways", "3"]) == 2 and "is of another run: its data is" in capsys.readouterr().err
    assert main([*given, *small, "--ways", "4"]) == 2
    assert "has 3 classes to test with, fewer than 4 ways" in capsys.readouterr().err
    (tmp_path / "data" / "test" / "a").mkdir()
    load_classes.cache_clear()
    assert main([*given, *small, "--ways", "3"]) == 2
    assert "a is in train and in test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learner", "protonet", "--ways", "400"], "classes to test with, fewer than 400 ways"),
        (["--learner", "none", "--shots", "6"], "6 shots and 15 queries are 21 images of a class, but one of"),
        (["--learner", "protonets"], "no learner 'protonets': there are none, protonet, matching"),
        (["--ways", "1"], "ways=1 must be at least 2"),
        (["--shots", "0"], "Must be >= 1"),
        (["--engine", "in-process", "--n-workers", "2"], "--n-workers is of --engine workers"),
        (["--data-dir", "/nowhere"], "A folder of images of your own has train/CLASS and test/CLASS in it"),
        (["--seeds"], "nothing to run"),
        (["--learner", "maml", "--images", "10"], "--images 10 is less than one meta step of maml, 200 images"),
    ],
)
def test_bad_input_is_one_line(drawn: Path, tmp_path: Path, arguments: list[str], message: str, capsys: Any) -> None:
    root = tmp_path / "runs"
    given = [] if "--data-dir" in arguments else ["--data-dir", str(drawn)]
    assert main(["few-shot", *given, "--root", str(root), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1 and not root.exists()


def test_learners_go_with_the_networks_that_they_can_learn(drawn: Path) -> None:
    with pytest.raises(ValueError, match="Reptile learns from updates, and protonet makes none: take QueryLoss"):
        MetaTrainer(episodes(drawn), Reptile(), 1)
    with pytest.raises(ValueError, match="QueryLoss is for networks that compare: give Episodes a comparison"):
        MetaTrainer(episodes(drawn, None), QueryLoss(), 1)
    with pytest.raises(ValueError, match="updates=3 with comparison='protonet'"):
        episodes(drawn, updates=3)
    with pytest.raises(ValueError, match="'proto' is unknown, choose one of protonet, matching, relation"):
        episodes(drawn, "proto")
    with pytest.raises(ValueError, match="batch_size=7 must be 1 to 6"):
        episodes(drawn, None, batch_size=7)
    with pytest.raises(ValueError, match="batch_size=5, but protonet sees the whole support at once"):
        episodes(drawn, batch_size=5)


def test_budgets_are_in_images(drawn: Path) -> None:
    visits = {"maml": 4 * (25 + 25), "fomaml": 4 * (25 + 25), "protonet": 20 * 6, "relation": 5 * 16, "reptile": 5 * 25}
    for learner, images in visits.items():
        assert FewShotRun(str(drawn), 0, learner, 5, 1, 300_000, 600).meta_steps() == 300_000 // images, learner
