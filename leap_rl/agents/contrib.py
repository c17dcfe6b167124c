"""The algorithms of sb3-contrib, observed; they need the extra ``contrib``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.utils import is_masking_supported
from stable_baselines3.common.vec_env import VecEnv

from leap_rl.agents.observed import ObservedTraining, spelled_by

if TYPE_CHECKING:
    from leap_rl.core import MetaLearner
    from leap_rl.core.arithmetic import Arithmetic


class LeapRecurrentPPO(ObservedTraining, RecurrentPPO):
    """
    sb3-contrib's RecurrentPPO, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``sb3_contrib.RecurrentPPO`` takes; ``learner``, ``scope``, ``arithmetic`` are of ``ObservedTraining``.
    """

    if TYPE_CHECKING:

        @overload
        @spelled_by(RecurrentPPO.__init__)
        def __init__(self) -> None: ...
        @overload
        def __init__(self, *args: Any, learner: MetaLearner | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, scope: str | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, arithmetic: Arithmetic, **more: Any) -> None: ...
        def __init__(self, *args: Any, **more: Any) -> None: ...


class LeapMaskablePPO(ObservedTraining, MaskablePPO):
    """
    sb3-contrib's MaskablePPO, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``sb3_contrib.MaskablePPO`` takes; ``learner``, ``scope``, ``arithmetic`` are of ``ObservedTraining``.

    Its environments have ``action_masks``, as sb3-contrib asks for.
    """

    actions = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

    @classmethod
    def check_env(cls, name: str, env: VecEnv) -> None:
        super().check_env(name, env)
        if not is_masking_supported(env):
            raise ValueError(f"{name} can't be learned: MaskablePPO needs a method action_masks, or ActionMasker")

    if TYPE_CHECKING:

        @overload
        @spelled_by(MaskablePPO.__init__)
        def __init__(self) -> None: ...
        @overload
        def __init__(self, *args: Any, learner: MetaLearner | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, scope: str | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, arithmetic: Arithmetic, **more: Any) -> None: ...
        def __init__(self, *args: Any, **more: Any) -> None: ...


class LeapQRDQN(ObservedTraining, QRDQN):
    """
    sb3-contrib's QRDQN, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``sb3_contrib.QRDQN`` takes; ``learner``, ``scope``, ``arithmetic`` are of ``ObservedTraining``.
    """

    actions = (spaces.Discrete,)

    if TYPE_CHECKING:

        @overload
        @spelled_by(QRDQN.__init__)
        def __init__(self) -> None: ...
        @overload
        def __init__(self, *args: Any, learner: MetaLearner | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, scope: str | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, arithmetic: Arithmetic, **more: Any) -> None: ...
        def __init__(self, *args: Any, **more: Any) -> None: ...


class LeapTQC(ObservedTraining, TQC):
    """
    sb3-contrib's TQC, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``sb3_contrib.TQC`` takes; ``learner``, ``scope``, ``arithmetic`` are of ``ObservedTraining``.

    Actor and critic have an optimizer each, and a path each: the scopes ``"actor"``, ``"critic"``, ``"all"``.
    """

    actions = (spaces.Box,)

    if TYPE_CHECKING:

        @overload
        @spelled_by(TQC.__init__)
        def __init__(self) -> None: ...
        @overload
        def __init__(self, *args: Any, learner: MetaLearner | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, scope: str | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, arithmetic: Arithmetic, **more: Any) -> None: ...
        def __init__(self, *args: Any, **more: Any) -> None: ...


class LeapCrossQ(ObservedTraining, CrossQ):
    """
    sb3-contrib's CrossQ, bit for bit, with the gradient path of its learning process in ``gradient_path``.

    Takes what ``sb3_contrib.CrossQ`` takes; ``learner``, ``scope``, ``arithmetic`` are of ``ObservedTraining``.

    Actor and critic have an optimizer each, and a path each: the scopes ``"actor"``, ``"critic"``, ``"all"``.
    """

    actions = (spaces.Box,)

    if TYPE_CHECKING:

        @overload
        @spelled_by(CrossQ.__init__)
        def __init__(self) -> None: ...
        @overload
        def __init__(self, *args: Any, learner: MetaLearner | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, scope: str | None, **more: Any) -> None: ...
        @overload
        def __init__(self, *args: Any, arithmetic: Arithmetic, **more: Any) -> None: ...
        def __init__(self, *args: Any, **more: Any) -> None: ...
