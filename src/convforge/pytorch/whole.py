"""What `optimize` gives a model, so that a call of it may be answered by a whole network.

torch calls a model's `_call_impl`, which sees to hooks and calls `forward`. A model that has an attribute of that name
has that called instead; its class stays what it was. torch.compile, torch.export and torch.fx read the class and do not
see it.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any

import torch

from .networks import NOTHING, Networks

_ATTRIBUTE = "_call_impl"


class Whole:
    """Takes a model's calls: a network answers, or the layers do. Copies and files of the model have one of their own,
    which knows nothing yet."""

    __module__ = "convforge.nn"  # the name that models which were saved whole look for, wherever this file lies

    def __init__(self, model: torch.nn.Module) -> None:
        self.networks = Networks(without=self)
        self._model = weakref.ref(model)  # a cycle would keep the weights until it is collected

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model: Any = self._model()
        if torch.compiler.is_compiling():
            return self._layers(model, args, kwargs)
        # The method of torch's that looked this up in a model is running for that: shallow copies (`copy.copy`, the
        # replicas of DataParallel) share their attributes with the model that they are of.
        caller = sys._getframe(1).f_locals.get("self")
        if caller is not model and isinstance(caller, torch.nn.Module) and whole_of(caller) is self:
            vars(caller)[_ATTRIBUTE] = own = Whole(caller)
            return own._answer(caller, args, kwargs)
        return self._answer(model, args, kwargs)

    def _answer(self, model: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        if not kwargs:
            answer = self.networks.answer(model, args, lambda: self._layers(model, args, kwargs))
            if answer is not NOTHING:
                return answer
        else:
            self.networks.said = "it was called with keyword arguments"
        return self._layers(model, args, kwargs)

    @staticmethod
    def _layers(model: Any, args: Any, kwargs: Any) -> Any:
        return type(model)._call_impl(model, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Whole:
        model: Any = self._model()
        return Whole(memo.get(id(model), model))

    def __reduce__(self) -> tuple[Any, ...]:
        return Whole, (self._model(),)


def give(model: torch.nn.Module) -> None:
    """The model one, unless it has one already."""
    if whole_of(model) is None:
        vars(model)[_ATTRIBUTE] = Whole(model)


def take(model: torch.nn.Module) -> None:
    """It away."""
    if whole_of(model) is not None:
        del vars(model)[_ATTRIBUTE]


def whole_of(model: torch.nn.Module) -> Whole | None:
    """The model's, if it has one."""
    found = vars(model).get(_ATTRIBUTE)
    return found if isinstance(found, Whole) else None
