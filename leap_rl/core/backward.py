"""See every ``loss.backward()`` of the current thread, at no cost per operation."""

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
_original = torch.autograd.backward


def _observed_backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
    # Several tensors are no loss: such as those that a checkpointed layer passes back through, within a backward pass.
    observers = _observers.get(threading.get_ident(), ()) if isinstance(tensors, torch.Tensor) else ()
    for observer in observers:
        observer.before_backward()
    _original(tensors, *args, **kwargs)
    for observer in observers:
        observer.after_backward(tensors)


@contextmanager
def observe_backward(observer: BackwardObserver) -> Iterator[None]:
    """
    Tell ``observer`` of every backward pass that this thread starts within the block.

    ``torch.autograd.backward``, which ``Tensor.backward`` calls, is exchanged while any such block is open, in any
    thread, and put back when the last one closes, however it closes. (To exchange ``Tensor.backward`` itself would be
    dear: CPython then forgets what it knows of the class, and of its attributes everywhere. So would be
    ``TorchFunctionMode``, which dispatches every single operation: 2 ms for one A2C update.)

    :param observer: called before and after each backward pass
    """
    global _original
    thread = threading.get_ident()
    with _lock:
        if not _observers:
            _original = torch.autograd.backward
            torch.autograd.backward = _observed_backward
        _observers.setdefault(thread, []).append(observer)
    try:
        yield
    finally:
        with _lock:
            _observers[thread].remove(observer)
            if not _observers[thread]:
                del _observers[thread]
            if not _observers:
                torch.autograd.backward = _original
