"""
Callbacks of meta-training, with the method names of SB3's ``BaseCallback``. SB3's own work here as well where they only
read ``model``, ``logger``, ``n_calls`` and ``locals``; the trainer saves itself and draws its own progress bar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from leap_rl.core.trainer import MetaTrainer


class CallbackLike(Protocol):
    """What the trainer calls; every SB3 callback has it. ``model`` is the trainer."""

    def init_callback(self, model: Any) -> None: ...
    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None: ...
    def on_rollout_start(self) -> None: ...
    def on_step(self) -> bool | None: ...
    def on_rollout_end(self) -> None: ...
    def on_training_end(self) -> None: ...
    def update_locals(self, locals_: dict[str, Any]) -> None: ...


class MetaCallback:
    """
    Base class of callbacks for those who do without SB3. Override the methods that begin with an underscore.
    A "rollout" is the meta batch, a "step" the meta step; ``locals`` holds ``results`` and ``meta_gradient``.
    """

    trainer: MetaTrainer

    def __init__(self) -> None:
        self.locals: dict[str, Any] = {}

    def init_callback(self, model: MetaTrainer) -> None:
        self.trainer = model

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        self.locals = locals_
        self._on_training_start()

    def on_rollout_start(self) -> None:
        self._on_rollout_start()

    def on_step(self) -> bool | None:
        return self._on_step()

    def on_rollout_end(self) -> None:
        self._on_rollout_end()

    def on_training_end(self) -> None:
        self._on_training_end()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        self.locals.update(locals_)

    def _on_training_start(self) -> None:
        """Before the first meta step."""

    def _on_rollout_start(self) -> None:
        """Before the tasks of a meta batch run."""

    def _on_rollout_end(self) -> None:
        """When they have run, before θ⁰ moves."""

    def _on_step(self) -> bool | None:
        """After a meta step. Training ends when it returns False; nothing returned is True."""
        return True

    def _on_training_end(self) -> None:
        """After the last meta step."""


class FunctionCallback(MetaCallback):
    """A function of (locals, globals) that returns False to end training, as SB3 takes them."""

    def __init__(self, function: Callable[[dict[str, Any], dict[str, Any]], bool | None]) -> None:
        super().__init__()
        self.function = function

    def _on_step(self) -> bool | None:
        return self.function(self.locals, {})


def says_stop(returned: object) -> bool:
    """What ends training: False, also NumPy's, but not None, which is returned by whoever returns nothing."""
    return returned is not None and not returned


OF_AGENTS = {
    "CheckpointCallback": "run_dir and keep_every keep checkpoints",
    "EvalCallback": "eval_tasks and eval_freq evaluate",
    "ProgressBarCallback": "learn(progress_bar=True) draws one",
    "StopTrainingOnMaxEpisodes": "learn takes the number of meta steps",
}
"""Callbacks of SB3 that are none of meta-training, and what is in their place."""

Callback = CallbackLike | Callable[[dict[str, Any], dict[str, Any]], bool | None]


def callback_list(callback: Callback | Sequence[Callback] | None) -> list[CallbackLike]:
    """
    Whatever SB3 accepts as ``callback``, as a list.

    :raises ValueError: for what is none, and for callbacks of SB3 that need an agent
    """
    if callback is None:
        return []
    if isinstance(callback, str):
        raise ValueError(f"callback={callback!r} must be a callback, a function, or a list of them")
    if isinstance(callback, Sequence):
        return [c for item in callback for c in callback_list(item)]
    held: Any = callback
    # core knows no SB3, but its classes by their names.
    of_sb3 = [k.__name__ for k in type(callback).__mro__ if k.__module__ == "stable_baselines3.common.callbacks"]
    for name in of_sb3:
        if name in OF_AGENTS:
            raise ValueError(f"{name} is for an agent that learns, not for meta-training: {OF_AGENTS[name]}")
    if "EventCallback" in of_sb3:
        callback_list(held.callback)  # says whether it needs an agent
    if "CallbackList" in of_sb3:
        return callback_list(held.callbacks)
    if hasattr(callback, "on_step"):
        return [callback]  # type: ignore[list-item]
    return [FunctionCallback(callback)]  # type: ignore[arg-type]
