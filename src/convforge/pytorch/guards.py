"""Whether tensors are again what they were when something was decided about them.

A guard is asked on every call, so it has to be one call of machine code. PyTorch has such a thing for its compiler:
`TensorGuards` compares, of each tensor, the type, the dispatch keys together with those that the thread includes and
excludes (modes, transforms, tracing, autocast, inference mode), dtype, device, `requires_grad`, sizes and strides. It
is no public interface; so what it can tell apart is tried out when this module is loaded, and where it cannot, there
are no guards and every call is looked at in Python.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def _by_torch(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    sizes: Any = [list(t.shape) for t in tensors]
    strides: Any = [list(t.stride()) for t in tensors]
    guards = torch._C._dynamo.guards.TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    check: Callable[..., bool] = guards.check
    return check


def _tells_apart() -> bool:
    def view(offset: int = 0) -> Tensor:
        return torch.empty(64)[offset : offset + 12].view(1, 3, 2, 2)

    class Subclass(Tensor):
        pass

    try:
        with torch.inference_mode(False):
            check = _by_torch((view(), view()))
            same = check(view(), view()) and check(view(5), view(7))
            others = (
                view().requires_grad_(),
                view().double(),
                view().int(),
                view().mT,
                view()[:, :2],
                view()[0],
                view().as_subclass(Subclass),
                torch.nn.Parameter(view(), requires_grad=False),
                torch._neg_view(view()),
                view().to("meta"),
                None,
            )
            missed = any(check(other, view()) or check(view(), other) for other in others)
            with torch.inference_mode():
                missed |= check(view(), view())
            with torch.autocast("cpu", dtype=torch.bfloat16):
                missed |= check(view(), view())
            return bool(same and not missed)
    except Exception:  # whatever became of it
        return False


def guard_of(*tensors: Tensor) -> Callable[..., bool] | None:
    """What tells whether as many tensors agree with these, in this state of the thread; None where there is no such
    thing. It keeps none of them alive. The same tensor given twice does not agree."""
    return _by_torch(tensors) if _TRIED else None


def _on_a_thread_of_its_own() -> bool:
    """`_tells_apart`, apart from what is set where the import happens to be."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(_tells_apart()))
    thread.start()
    thread.join()
    return answers == [True]


_TRIED = _on_a_thread_of_its_own()
