"""Fine-tuning strategies, on networks of a few weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leap_rl.core import (
    LPFT,
    Discriminative,
    FineTuning,
    GradualUnfreezing,
    Initialization,
    LinearProbe,
    RelativeGradientNorm,
    ShrinkPerturb,
    Slow,
    SoftShrinkPerturb,
    Strategy,
    Surgical,
    TowardsStart,
    blocks_of,
    read_strategies,
)
from leap_rl.core.initialization import InitializationError
from leap_rl.core.strategies import STRATEGIES

UPDATES = 10
NEUTRAL: list[Strategy] = [
    Strategy(),
    Slow(1.0),
    Slow(lambda progress: 1.0),
    Slow(1.0, end=1.0),
    Discriminative(1.0),
    Discriminative(1.0, slower="later"),
    Surgical(("encoder", "head")),
    LPFT(0.0),
    GradualUnfreezing(0.0),
    RelativeGradientNorm(0.0),
    TowardsStart(0.0),
    ShrinkPerturb(1.0, 0.0),
    SoftShrinkPerturb(1.0, 0.0),
]


class Net(nn.Module):
    """Two blocks, a normalization after the first, and a head of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU())
        self.policy, self.value = nn.Linear(6, 3), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        out: Tensor = torch.cat([self.policy(features), self.value(features)], dim=1)
        return out


def net(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net()


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(before: dict[str, Tensor], after: dict[str, Tensor], prefix: str = "") -> bool:
    return all(torch.equal(t, after[name]) for name, t in before.items() if name.startswith(prefix))


Make = Callable[[nn.Module], torch.optim.Optimizer]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def adam_in_groups(model: Any) -> torch.optim.Optimizer:
    """Two groups, of which each holds a part of the encoder and of the rest."""
    p = list(model.parameters())
    return torch.optim.Adam([{"params": p[::2], "lr": 1e-2}, {"params": p[1::2], "lr": 1e-3}], weight_decay=0.01)


def train(
    model: nn.Module,
    strategies: list[Strategy] | None,
    make: Make = sgd,
    each: Callable[[int], None] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    updates: range = range(UPDATES),
    total: int = UPDATES,
    fresh: bool = True,
) -> torch.optim.Optimizer:
    """SB3's order: gradients, clipping, a step."""
    optimizer = optimizer or make(model)
    generator = torch.Generator().manual_seed(1)
    finetuning = None if strategies is None else FineTuning(strategies, blocks_of(model), optimizer, fresh)
    for i in updates:
        if finetuning is not None:
            finetuning.at((i + 1) / total)
        x = torch.randn(16, 5, generator=generator)
        optimizer.zero_grad()
        model(x).square().sum(dim=1).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        if each is not None:
            each(i)
    if finetuning is not None:
        finetuning.end()
    return optimizer


def test_blocks_are_layers_with_their_normalization_and_a_head() -> None:
    blocks = blocks_of(net())
    assert {name: len(of) for name, of in blocks.items()} == {"encoder.0": 4, "encoder.3": 2, "head": 4}
    assert list(blocks) == ["encoder.0", "encoder.3", "head"]
    with pytest.raises(ValueError, match=r"Linear has no blocks: .* \(weight, bias\)"):
        blocks_of(nn.Linear(2, 2))
    # Without an encoder, layers with numbers are told apart, and the last is the head.
    stack = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    assert {name: len(of) for name, of in blocks_of(stack).items()} == {"hidden.0": 4, "hidden.1": 2, "head": 2}
    # Of others nobody knows which layer is an output: not the last of a stack that another layer reads.
    with pytest.raises(ValueError, match="ModuleDict has no blocks"):
        blocks_of(nn.ModuleDict({"net": stack, "out": nn.Linear(1, 1)}))
    # What lies on the encoder itself is no part of the head.
    plain = nn.ModuleDict({"encoder": nn.Linear(3, 4), "head": nn.Linear(4, 2)})
    assert {name: len(of) for name, of in blocks_of(plain).items()} == {"encoder": 2, "head": 2}
    token = net()
    token.encoder.register_parameter("token", nn.Parameter(torch.zeros(1, 5)))
    assert set(blocks_of(token)) == {"encoder", "encoder.0", "encoder.3", "head"}
    before = tensors(token)
    train(token, [LinearProbe()])
    assert same(before, tensors(token), "encoder") and not same(before, tensors(token), "policy")
    with FineTuning([LinearProbe()], blocks_of(token), sgd(token)):
        assert not any(p.requires_grad for p in token.encoder.parameters())


@pytest.mark.parametrize("make", [sgd, adam_in_groups])
@pytest.mark.parametrize("strategy", NEUTRAL, ids=lambda s: type(s).__name__)
def test_a_neutral_strategy_is_plain_training_to_the_bit(strategy: Strategy, make: Make) -> None:
    plain, tuned = net(), net()
    train(plain, None, make)
    train(tuned, [copy.deepcopy(strategy)], make)
    assert not same(tensors(net()), tensors(plain))
    assert same(tensors(plain), tensors(tuned))


@pytest.mark.parametrize("make", [sgd, adam_in_groups])
def test_a_frozen_block_does_not_move_and_learns_afterwards(make: Make) -> None:
    model = net()
    before = tensors(model)
    optimizer = train(model, [Surgical(("encoder.3",))], make)
    assert same(before, tensors(model), "encoder.0") and same(before, tensors(model), "policy")
    assert not same(before, tensors(model), "encoder.3")
    assert all(p.requires_grad for p in model.parameters())
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert FineTuning.of(optimizer) is None
    middle = tensors(model)
    train(model, None, optimizer=optimizer)
    now = tensors(model)
    assert not any(torch.equal(middle[name], now[name]) for name in middle)


@pytest.mark.parametrize("frozen", [LinearProbe(), Slow(0.0), LPFT(1.0)], ids=repr)
def test_a_frozen_block_is_not_shrunk_or_perturbed_either(frozen: Strategy) -> None:
    model = net()
    before = tensors(model)
    train(model, [frozen, SoftShrinkPerturb(0.9, 0.1)])
    assert same(before, tensors(model), "encoder") and not same(before, tensors(model), "policy")


def test_frozen_gradients_are_not_clipped_by() -> None:
    """The head alone, with the encoder's gradients away: as if the encoder were a fixed function."""
    probed, alone = net(), net()
    train(probed, [LinearProbe()])
    for p in alone.encoder.parameters():
        p.requires_grad_(False)
    train(alone, None)
    assert same(tensors(alone), tensors(probed))


def test_what_somebody_else_froze_stays_frozen() -> None:
    model = net()
    model.encoder[0].weight.requires_grad_(False)
    before = tensors(model)
    train(model, [LPFT(0.5)])
    assert not model.encoder[0].weight.requires_grad and model.encoder[0].bias.requires_grad
    assert torch.equal(before["encoder.0.weight"], model.encoder[0].weight)


def test_a_step_of_sgd_is_in_proportion_to_its_blocks_rate() -> None:
    """One step recomputed in float64, with momentum and decay left out."""
    model = net()
    before = tensors(model)
    train(model, [Discriminative(2.0), Slow(0.5, ("head",))], each=None, updates=range(1))
    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    exact = net().double()
    exact(x.double()).square().sum(dim=1).mean().backward()
    norm = torch.stack([p.grad.norm() for p in exact.parameters() if p.grad is not None]).norm()
    rates = {"encoder.0": 0.25, "encoder.1": 0.25, "encoder.3": 0.5, "policy": 0.5, "value": 0.5}
    for name, p in exact.named_parameters():
        assert p.grad is not None
        step = -0.1 * rates[name.rpartition(".")[0]] * min(1.0, 0.5 / float(norm)) * p.grad
        torch.testing.assert_close((tensors(model)[name] - before[name]).double(), step, rtol=1e-3, atol=1e-7)


def learning(strategy: Strategy, of: str) -> list[bool]:
    """At which updates a part of the network moves."""
    model, moves = net(), []
    last = tensors(model)

    def look(i: int) -> None:
        nonlocal last
        now = tensors(model)
        moves.append(not same(last, now, of))
        last = now

    train(model, [strategy], each=look)
    return moves


def test_when_blocks_begin_to_learn() -> None:
    assert learning(LPFT(0.3), "encoder") == 3 * [False] + 7 * [True]
    assert learning(LinearProbe(), "encoder") == 10 * [False]
    assert learning(LinearProbe(), "policy") == 10 * [True]
    assert learning(GradualUnfreezing(0.8), "policy") == 10 * [True]
    assert learning(GradualUnfreezing(0.8), "encoder.3") == 4 * [False] + 6 * [True]
    assert learning(GradualUnfreezing(0.8), "encoder.0") == 8 * [False] + 2 * [True]
    assert learning(Slow(0.0, end=1.0), "encoder") == 10 * [True]
    assert learning(Slow(lambda progress: float(progress > 0.5)), "encoder") == 5 * [False] + 5 * [True]


def test_a_probe_ends_when_validation_stops_improving() -> None:
    strategy, model = LPFT(1.0, patience=2), net()
    assert strategy.awaits_validation and not LPFT().awaits_validation
    assert LPFT(patience=2).probe is None and learning(LPFT(patience=2), "encoder") == 5 * [False] + 5 * [True]
    for _ in range(2):  # used again, it begins anew
        with FineTuning([strategy], blocks_of(model), sgd(model)) as finetuning:
            rates = []
            for i, error in enumerate([0.5, 0.4, 0.45, 0.39, 0.39, 0.6, 0.1]):
                finetuning.at((i + 1) / 7)
                rates.append(finetuning.rates["encoder.0"])
                finetuning.validated(error)
                assert finetuning.more_will_learn == (i < 6)
            assert rates == [0, 0, 0, 0, 0, 0, 1]
    # Where the probe's share is over, it waits for nothing any more.
    with FineTuning([LPFT(0.5, patience=100)], blocks_of(model), sgd(model)) as finetuning:
        for progress, waits in ((0.4, True), (0.6, False)):
            finetuning.at(progress)
            finetuning.validated(0.5)
            assert finetuning.more_will_learn is waits


def test_relative_gradient_norms_are_those_of_the_gradients() -> None:
    model = net()
    strategy = RelativeGradientNorm(memory=0.0)
    optimizer = sgd(model)
    with FineTuning([strategy], blocks_of(model), optimizer) as finetuning:
        finetuning.at(0.5)
        assert set(finetuning.rates.values()) == {1.0}
        model(torch.ones(4, 5)).square().sum().backward()
        ratios = {}
        for name, block in blocks_of(model).items():
            gradient = torch.cat([p.grad.flatten().double() for p in block if p.grad is not None])
            ratios[name] = gradient.norm() / torch.cat([p.detach().flatten().double() for p in block]).norm()
        before = tensors(model)
        optimizer.step()
        largest = max(ratios.values())
        for name, ratio in ratios.items():
            assert finetuning.rates[name] == pytest.approx(float(ratio / largest), rel=1e-5)
        assert max(finetuning.rates.values()) == 1.0
        gradient = model.encoder[0].weight.grad  # the first step is at these rates already
        assert gradient is not None
        step = -0.1 * finetuning.rates["encoder.0"] * gradient
        torch.testing.assert_close(model.encoder[0].weight - before["encoder.0.weight"], step, rtol=1e-3, atol=1e-6)
    optimizer.zero_grad()
    FineTuning([strategy], blocks_of(model), optimizer, fresh=False).end()  # goes on
    assert len(strategy._norms) == 3
    other = net()
    FineTuning([strategy], blocks_of(other), sgd(other), fresh=False).end()
    assert not strategy._norms


def test_the_penalty_pulls_towards_where_the_training_began() -> None:
    """A loss of zero: what is left is the penalty, whose step of SGD is known."""
    model = net()
    start = tensors(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FineTuning([TowardsStart(0.5)], blocks_of(model), optimizer):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
        (0 * model(torch.ones(1, 5))).sum().backward()
        optimizer.step()
    for name, p in model.named_parameters():
        away = 0.9 if name.startswith("encoder") else 1.0  # 1 - lr · 2 · strength
        torch.testing.assert_close(p.detach() - start[name], torch.full_like(p, away))


def test_the_start_is_what_was_given_whatever_else_changes_it_first() -> None:
    ends = []
    for order in (1, -1):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with FineTuning([TowardsStart(0.5), ShrinkPerturb()][::order], blocks_of(model), optimizer):
            (0 * model(torch.ones(1, 5))).sum().backward()
            optimizer.step()
        ends.append(tensors(model))
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name])


def test_a_training_that_goes_on_keeps_its_start() -> None:
    model, strategy = net(), TowardsStart(0.1)
    whole = net()
    train(whole, [TowardsStart(0.1)], updates=range(4))
    optimizer = train(model, [strategy], updates=range(4))
    assert same(tensors(whole), tensors(model))
    start = [t.clone() for t in strategy._start.values()]
    train(model, [strategy], optimizer=optimizer, fresh=False)
    assert all(torch.equal(a, b) for a, b in zip(start, strategy._start.values(), strict=True))
    shrunk = ShrinkPerturb(0.5, 0.0)
    before = tensors(model)
    shrunk.begun(blocks_of(model))  # by another process
    FineTuning([shrunk], blocks_of(model), optimizer, fresh=False).end()
    assert same(before, tensors(model))
    FineTuning([shrunk, strategy], blocks_of(model), optimizer, fresh=False).end()
    assert same(before, tensors(model)) and all(map(torch.equal, start, strategy._start.values()))
    other = net(1)
    FineTuning([shrunk, strategy], blocks_of(other), sgd(other), fresh=False).end()
    assert torch.equal(other.encoder[0].weight, 0.5 * net(1).encoder[0].weight)
    assert torch.equal(next(iter(strategy._start.values())), net(1).encoder[0].weight)


def test_shrink_and_perturb() -> None:
    model = net()
    before = tensors(model)
    with FineTuning([ShrinkPerturb(0.5, 0.0)], blocks_of(model), sgd(model)):
        pass
    for name, p in model.named_parameters():
        shrinks = name.startswith("encoder") and p.dim() > 1  # not biases, nor the gain of the normalization
        assert torch.equal(p, before[name] * (0.5 if shrinks else 1.0))
    big = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(400, 300))})
    drawn = []
    for seed in (3, 3, 4):
        with FineTuning([ShrinkPerturb(0.0, 1.0)], blocks_of(big), sgd(big), seed=seed):
            pass
        drawn.append(big["encoder"][0].weight.detach().clone())
    assert drawn[0].std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_soft_shrink_and_perturb_holds_a_weight_that_learns_nothing_at_the_size_of_a_draw() -> None:
    model = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(100, 50))})
    optimizer = sgd(model)
    shrink = 0.9
    with FineTuning([SoftShrinkPerturb(shrink, (1 - shrink**2) ** 0.5)], blocks_of(model), optimizer):
        for _ in range(60):
            optimizer.step()
    assert model["encoder"][0].weight.std().item() == pytest.approx((2 / 100) ** 0.5, rel=0.05)


def test_several_strategies_multiply_and_an_interrupted_one_is_undone() -> None:
    model = net()
    optimizer = sgd(model)
    first = FineTuning([Slow(0.5)], blocks_of(model), optimizer)
    first.add([Slow(0.5, ("encoder.0",)), Surgical(("encoder",))])
    assert first.rates == {"encoder.0": 0.25, "encoder.3": 0.5, "head": 0.0}
    assert not model.policy.weight.requires_grad
    FineTuning([Strategy()], blocks_of(model), optimizer).end()  # nobody ended the first
    assert model.policy.weight.requires_grad and not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize(
    ("strategies", "message"),
    [
        ([Surgical(("encoder.1",))], r"no block 'encoder.1': there are encoder.0, encoder.3, head; did you mean"),
        ([Slow(0.5, ("haed",))], "did you mean head"),
        ([Surgical(())], "no block is named"),
        ([Surgical(("head",)), Slow(0.0, ("head",))], "all blocks are frozen at 0%"),
        ([LinearProbe(), Slow(lambda p: 1 - p, ("head",))], "all blocks are frozen at 100%"),
        ([Slow(lambda p: float("nan"))], "rate factor nan"),
        ([Slow(lambda p: -1.0)], "rate factor -1.0"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_changed(strategies: list[Strategy], message: str) -> None:
    model = net()
    optimizer, before = sgd(model), tensors(model)
    with pytest.raises(ValueError, match=message):
        FineTuning([ShrinkPerturb(), *strategies], blocks_of(model), optimizer)
    assert same(before, tensors(model)) and all(p.requires_grad for p in model.parameters())
    assert not optimizer._optimizer_step_pre_hooks and FineTuning.of(optimizer) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Slow(2.0), "factor=2.0 must be from 0 to 1"),
        (lambda: Slow(lambda p: p, end=0.5), "leave end out"),
        (lambda: Discriminative(0.5), "decay=0.5 must be at least 1"),
        (lambda: Discriminative(slower="left"), "choose earlier or later"),
        (lambda: LPFT(-0.1), "probe=-0.1"),
        (lambda: LPFT(patience=0), "patience=0 must be at least 1"),
        (lambda: GradualUnfreezing(1.5), "over=1.5"),
        (lambda: TowardsStart(float("nan")), "strength=nan"),
        (lambda: TowardsStart(float("inf")), "strength=inf must be at least 0, and finite"),
        (lambda: Discriminative(float("inf")), "decay=inf"),
        (lambda: ShrinkPerturb(1.5), "shrink=1.5"),
    ],
)
def test_settings_that_cannot_be(make: Callable[[], Strategy], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_strategies_are_read_as_they_are_written() -> None:
    text = "lp-ft:probe=0.2,patience=3+surgical:blocks=encoder.0,head+l2:strength=1e-05+soft-shrink-perturb"
    several = read_strategies(text)
    assert several == [
        LPFT(0.2, 3),
        Surgical(("encoder.0", "head")),
        TowardsStart(1e-5),
        SoftShrinkPerturb(),
    ]
    assert read_strategies("shrink-perturb:each-update=true,perturb=1e+2")[0].settings() == {
        "name": "ShrinkPerturb",
        "shrink": 0.8,
        "perturb": 100.0,
        "each_update": True,
        "blocks": [],
    }
    for name, kind in STRATEGIES.items():
        (strategy,) = read_strategies(name)
        assert type(strategy) is kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gradul", "no strategy 'gradul': there are full, .*did you mean gradual"),
        ("lp-ft:prob=1", "'prob=1' is no setting: lp-ft has probe, patience"),
        ("lp-ft:0.2", "each given as name=value"),
        ("lp-ft:probe=much", "probe is 'much', but must be a number"),
        ("lp-ft:patience=1.5", "patience is '1.5', but must be a number"),
        ("full:factor=1", "full has no settings"),
        ("shrink-perturb:each_update=1", "must be true or false"),
        ("", "no strategy ''"),
    ],
)
def test_what_is_no_strategy(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_strategies(text)


def test_some_blocks_alone_are_transferred() -> None:
    trained, model = Initialization.of(net(1), "encoder"), net(2)
    own, theirs = tensors(model), tensors(net(1))
    trained.apply_to(model, layers=["encoder.0"])
    now = tensors(model)
    assert same(theirs, now, "encoder.0") and same(theirs, now, "encoder.1")
    assert same(own, now, "encoder.3") and same(own, now, "policy")
    trained.apply_to(model, layers=["encoder"])
    assert same(theirs, tensors(model), "encoder")
    with pytest.raises(ValueError, match=r"no block 'head': there are encoder.0, encoder.3"):
        trained.apply_to(model, layers=["head"])
    # What is not transferred may have another shape.
    other = net(3)
    other.encoder[3] = nn.Linear(8, 9)
    with pytest.raises(InitializationError):
        trained.apply_to(other)
    trained.apply_to(other, layers=["encoder.0"])
    assert same(theirs, tensors(other), "encoder.0")
    # Blocks drawn anew: those of a fresh network of the same kind.
    Initialization.of(net(4)).apply_to(model, layers=["encoder.3", "head"])
    assert same(tensors(net(4)), tensors(model), "value") and same(theirs, tensors(model), "encoder.0")
    # A block is transferred whole or not at all, onto one that has nothing more.
    deep, bare = net(5), net(6)
    deep.encoder.append(nn.Linear(6, 6))
    bare.encoder[1] = nn.Identity()
    for start, onto, layers, message in (
        (Initialization.of(net(1), "encoder"), deep, ["encoder.0", "encoder.5"], "no block 'encoder.5'"),
        (Initialization.of(deep, "encoder"), net(1), ["encoder"], r"encoder.5.weight \(6, 6\): the model has none"),
        (Initialization.of(bare, "encoder"), net(1), ["encoder.0"], "encoder.1.weight: in the model only"),
        (Initialization.of(net(1), "encoder"), bare, ["encoder.0"], r"encoder.1.weight \(8,\): the model has none"),
    ):
        before = tensors(onto)
        with pytest.raises(ValueError, match=message):
            start.apply_to(onto, layers=layers)
        assert same(before, tensors(onto))
