"""`plan`: a table of any model, counted without running it.

Shapes, parameters, multiply-accumulates, memory, receptive fields across skips, and what each convolution would take
as a fully connected layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import UserError
from .rows import DenseEquivalent, Plan, Row, Totals
from .trace import Recorder, trace

__all__ = ["DenseEquivalent", "Plan", "Row", "Totals", "plan"]


def plan(model: Callable[..., Any], input_size: Sequence[int], batch: int = 1) -> Plan:
    """Count a model: sizes, parameters, MACs, memory and receptive fields, layer by layer.

    Nothing is computed and nothing allocated: the model runs on tensors that have shapes only, in evaluation mode, and
    is afterwards as it was. Skips, functional calls and in-place operations are followed.

    Args:
        model: any `torch.nn.Module`, or a function of one tensor.
        input_size: one image, `(C, H, W)`; a shape of four numbers has the batch in front.
        batch: images at once, where `input_size` does not say.

    Returns:
        A `Plan`: prints as a table; `rows` and `totals` are data; `to_dict()` and `to_json()` are exact.

    Raises:
        SpecError, UserError: if a layer does not fit, with its name and the formula filled in.

    >>> from torch import nn
    >>> chain = nn.Sequential(*(nn.Conv2d(1, 1, 3) for _ in range(3)))
    >>> [row.output_shape for row in plan(chain, (1, 7, 7)).rows]
    [(1, 1, 5, 5), (1, 1, 3, 3), (1, 1, 1, 1)]
    """
    shape = _input_shape(input_size, batch)
    name = type(model).__name__
    if isinstance(model, nn.Module):
        for key, parameter in [*model.named_parameters(), *model.named_buffers()]:
            if is_lazy(parameter):
                raise UserError(f"{key!r} has no size yet: run the model once on an image, or give its in_channels.")
    elif callable(model):
        name = getattr(model, "__name__", name)
    else:
        raise UserError(f"the model must be a torch.nn.Module or a function of one tensor, not {model!r}.")
    return summary(trace(model, shape), model, name, shape)


def summary(recorder: Recorder, model: Callable[..., Any], name: str, shape: tuple[int, ...]) -> Plan:
    """The plan of what a recorder saw of `model`."""
    rows = tuple(recorder.rows)
    itemsizes = (
        {id(p): p.numel() * p.element_size() for p in model.parameters()} if isinstance(model, nn.Module) else {}
    )
    return Plan(name, shape, rows, _totals(rows, sum(itemsizes.values())), tuple(recorder.notes))


def _input_shape(input_size: Sequence[int], batch: int) -> tuple[int, ...]:
    numbers: tuple[Any, ...] = tuple(input_size) if isinstance(input_size, Sequence) else ()
    if not numbers or any(isinstance(n, bool) or not hasattr(n, "__index__") or n < 1 for n in numbers):
        raise UserError(f"the input size must be positive integers such as (3, 224, 224), not {input_size!r}.")
    if isinstance(batch, bool) or not hasattr(batch, "__index__") or batch < 1:
        raise UserError(f"the batch must be a positive integer, not {batch!r}.")
    return tuple(int(n) for n in numbers) if len(numbers) > 3 else (int(batch), *(int(n) for n in numbers))


def _totals(rows: tuple[Row, ...], parameter_bytes: int) -> Totals:
    return Totals(
        parameters=sum(row.parameters for row in rows),
        parameter_bytes=parameter_bytes,
        macs=sum(row.macs for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        dense=DenseEquivalent.together([row.dense for row in rows if row.dense]),
    )
