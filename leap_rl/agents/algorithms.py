"""SB3's algorithms, observed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

from leap_rl.agents.observed import ObservedTraining, spelled_by

if TYPE_CHECKING:
    from leap_rl.core import MetaLearner
    from leap_rl.core.arithmetic import Arithmetic


class LeapA2C(ObservedTraining, A2C):
    """
    SB3's A2C, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``stable_baselines3.A2C`` takes; ``learner``, ``scope``, ``arithmetic`` are of ``ObservedTraining``.
    """

    if TYPE_CHECKING:

        @overload
        @spelled_by(A2C.__init__)
        def __init__(self) -> None: ...
        @overload
        def __init__(self, *args: Any, learner: MetaLearner | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, scope: str | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, arithmetic: Arithmetic, **more: Any) -> None: ...
        def __init__(self, *args: Any, **more: Any) -> None: ...


class LeapPPO(ObservedTraining, PPO):
    """
    SB3's PPO, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``stable_baselines3.PPO`` takes; ``learner``, ``scope``, ``arithmetic`` are of ``ObservedTraining``.
    """

    if TYPE_CHECKING:

        @overload
        @spelled_by(PPO.__init__)
        def __init__(self) -> None: ...
        @overload
        def __init__(self, *args: Any, learner: MetaLearner | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, scope: str | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, arithmetic: Arithmetic, **more: Any) -> None: ...
        def __init__(self, *args: Any, **more: Any) -> None: ...


class LeapDQN(ObservedTraining, DQN):
    """
    SB3's DQN, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``stable_baselines3.DQN`` takes; ``learner``, ``scope``, ``arithmetic`` are of ``ObservedTraining``.
    """

    actions = (spaces.Discrete,)

    if TYPE_CHECKING:

        @overload
        @spelled_by(DQN.__init__)
        def __init__(self) -> None: ...
        @overload
        def __init__(self, *args: Any, learner: MetaLearner | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, scope: str | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, arithmetic: Arithmetic, **more: Any) -> None: ...
        def __init__(self, *args: Any, **more: Any) -> None: ...


class LeapSAC(ObservedTraining, SAC):
    """
    SB3's SAC, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``stable_baselines3.SAC`` takes; ``learner``, ``scope``, ``arithmetic`` are of ``ObservedTraining``.

    Actor and critic have an optimizer each, and a path each: the scopes ``"actor"``, ``"critic"``, ``"all"``.
    """

    actions = (spaces.Box,)

    if TYPE_CHECKING:

        @overload
        @spelled_by(SAC.__init__)
        def __init__(self) -> None: ...
        @overload
        def __init__(self, *args: Any, learner: MetaLearner | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, scope: str | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, arithmetic: Arithmetic, **more: Any) -> None: ...
        def __init__(self, *args: Any, **more: Any) -> None: ...


class LeapTD3(ObservedTraining, TD3):
    """
    SB3's TD3, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``stable_baselines3.TD3`` takes; ``learner``, ``scope``, ``arithmetic`` are of ``ObservedTraining``.

    Actor and critic have an optimizer each, and a path each: the scopes ``"actor"``, ``"critic"``, ``"all"``.
    """

    actions = (spaces.Box,)

    if TYPE_CHECKING:

        @overload
        @spelled_by(TD3.__init__)
        def __init__(self) -> None: ...
        @overload
        def __init__(self, *args: Any, learner: MetaLearner | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, scope: str | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, arithmetic: Arithmetic, **more: Any) -> None: ...
        def __init__(self, *args: Any, **more: Any) -> None: ...


class LeapDDPG(ObservedTraining, DDPG):
    """
    SB3's DDPG, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``stable_baselines3.DDPG`` takes; ``learner``, ``scope``, ``arithmetic`` are of ``ObservedTraining``.

    Actor and critic have an optimizer each, and a path each: the scopes ``"actor"``, ``"critic"``, ``"all"``.
    """

    actions = (spaces.Box,)

    if TYPE_CHECKING:

        @overload
        @spelled_by(DDPG.__init__)
        def __init__(self) -> None: ...
        @overload
        def __init__(self, *args: Any, learner: MetaLearner | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, scope: str | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, arithmetic: Arithmetic, **more: Any) -> None: ...
        def __init__(self, *args: Any, **more: Any) -> None: ...
