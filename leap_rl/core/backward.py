"""See every ``Tensor.backward`` of the current thread, at no cost per operation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch


class BackwardObserver(Protocol):
    """What is told about a backward pass."""

    def before_backward(self) -> None: ...

    def after_backward(self, loss: torch.Tensor) -> None: ...


_lock = threading.Lock()
_observers: dict[int, list[BackwardObserver]] = {}
_original = torch.Tensor.backward


def _observed_backward(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
    observers = _observers.get(threading.get_ident(), ())
    for observer in observers:
        observer.before_backward()
    _original(loss, *args, **kwargs)
    for observer in observers:
        observer.after_backward(loss)


@contextmanager
def observe_backward(observer: BackwardObserver) -> Iterator[None]:
    """
    Tell ``observer`` of every backward pass that this thread starts within the block.

    ``torch.Tensor.backward`` is exchanged while any such block is open, in any thread, and put back when the
    last one closes, however it closes. (``TorchFunctionMode`` would do the same without the exchange, but it
    dispatches every single operation: 2 ms for one A2C update.)

    :param observer: called before and after each backward pass
    """
    global _original
    thread = threading.get_ident()
    with _lock:
        if not _observers:
            _original = torch.Tensor.backward
            torch.Tensor.backward = _observed_backward  # type: ignore[method-assign, assignment]
        _observers.setdefault(thread, []).append(observer)
    try:
        yield
    finally:
        with _lock:
            _observers[thread].remove(observer)
            if not _observers[thread]:
                del _observers[thread]
            if not _observers:
                torch.Tensor.backward = _original  # type: ignore[method-assign]
