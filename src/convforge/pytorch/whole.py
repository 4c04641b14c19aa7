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

    def __init__(self) -> None:
        self.networks = Networks(without=self)
        self._model: weakref.ref[torch.nn.Module] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        known = self._model() if self._model is not None else None
        if torch.compiler.is_compiling():
            return self._layers(known, args, kwargs)
        # The method of torch's that looked this up in the model is running for it: shallow copies (`copy.copy`, the
        # replicas of DataParallel) share their attributes with the model that they are of.
        caller = sys._getframe(1).f_locals.get("self")
        if caller is not known and isinstance(caller, torch.nn.Module) and whole_of(caller) is self:
            if known is not None:
                vars(caller)[_ATTRIBUTE] = own = Whole()
                return own._answer(own._of(caller), args, kwargs)
            known = self._of(caller)
        if known is None:
            raise RuntimeError("the model whose calls these were is gone.")
        return self._answer(known, args, kwargs)

    def _of(self, model: torch.nn.Module) -> torch.nn.Module:
        self._model = weakref.ref(model)  # a cycle would keep the weights until they are collected
        return model

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
        return Whole()

    def __reduce__(self) -> tuple[Any, ...]:
        return Whole, ()


def give(model: torch.nn.Module) -> None:
    """The model one, unless it has one already."""
    if whole_of(model) is None:
        vars(model)[_ATTRIBUTE] = Whole()


def take(model: torch.nn.Module) -> None:
    """It away."""
    if whole_of(model) is not None:
        del vars(model)[_ATTRIBUTE]


def whole_of(model: torch.nn.Module) -> Whole | None:
    """The model's, if it has one."""
    found = vars(model).get(_ATTRIBUTE)
    return found if isinstance(found, Whole) else None
