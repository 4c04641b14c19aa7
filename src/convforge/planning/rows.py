"""What a plan consists of: rows, totals, and the comparison with fully connected layers. Data only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..spec import Pair, Sides


@dataclass(frozen=True, slots=True)
class DenseEquivalent:
    """What one convolution would take without parameter sharing, in two readings.

    Args:
        weights: numbers in the convolution's kernels.
        to_neurons: weights from the layer's input to 1000 neurons, C·H·W·1000: the lesson's reading.
        same_maps: weights of the layer that makes the same maps, every input number to every output number:
            (C·H·W)·(K·H_out·W_out): like for like.

    >>> first = DenseEquivalent(weights=1_728, to_neurons=150_528_000, same_maps=483_385_147_392)
    >>> f"{first.to_neurons_factor:,.0f}"
    '87,111'
    """

    weights: int
    to_neurons: int
    same_maps: int

    @staticmethod
    def together(parts: Sequence[DenseEquivalent]) -> DenseEquivalent | None:
        """The sums over several convolutions; None over none."""
        if not parts:
            return None
        return DenseEquivalent(
            weights=sum(part.weights for part in parts),
            to_neurons=sum(part.to_neurons for part in parts),
            same_maps=sum(part.same_maps for part in parts),
        )

    @property
    def to_neurons_factor(self) -> float:
        """How many times the convolution's weights the lesson's dense layer has."""
        return self.to_neurons / self.weights

    @property
    def same_maps_factor(self) -> float:
        """How many times the convolution's weights the like-for-like dense layer has."""
        return self.same_maps / self.weights

    def to_dict(self) -> dict[str, Any]:
        """The three counts and the two factors, by name."""
        factors = {"to_neurons_factor": self.to_neurons_factor, "same_maps_factor": self.same_maps_factor}
        return asdict(self) | factors


@dataclass(frozen=True, slots=True)
class Row:
    """One layer, or one operation that is in no layer.

    Args:
        name: where it stands in the model, as in `state_dict`; `layer1.add` is an addition in `layer1`'s own code.
        type: the module's class, or the operation.
        kernel, stride, dilation: (vertical, horizontal); None where there is no sliding window.
        padding: ((top, bottom), (left, right)), as it works out for this input; None likewise.
        padding_mode: what stands beyond the border.
        groups: of a convolution; 1 elsewhere.
        input_shape, output_shape: with the batch.
        receptive_field: (rows, columns) of the input that one output number depends on; "all" for the whole input;
            None where it cannot be said.
        parameters: numbers learned; 0 in later uses of a shared layer.
        shared: whether the parameters were counted in an earlier row.
        macs: multiply-accumulates, for the whole batch; the convention is that of `Conv2dSpec.macs`.
        activation_bytes: memory of the output, for the whole batch; 0 where it is the input's own memory.
        dense: the fully connected equivalent of a convolution, of one image.
    """

    name: str
    type: str
    kernel: Pair | None
    stride: Pair | None
    padding: Sides | None
    padding_mode: str
    dilation: Pair | None
    groups: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    receptive_field: Pair | Literal["all"] | None
    parameters: int
    shared: bool
    macs: int
    activation_bytes: int
    dense: DenseEquivalent | None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"dense": self.dense.to_dict() if self.dense else None}


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the rows. `dense` adds up the convolutions' comparisons; None in a model without convolutions."""

    parameters: int
    parameter_bytes: int
    macs: int
    activation_bytes: int
    dense: DenseEquivalent | None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"dense": self.dense.to_dict() if self.dense else None}


@dataclass(frozen=True, repr=False)
class Plan:
    """The plan of a model: prints as a table, and its rows are data.

    Args:
        model: the model's class.
        input_shape: with the batch.
        rows: one a layer, in the order in which they run.
        totals: their sums.
        notes: sentences that the reader of the numbers must know.

    >>> import torch
    >>> from convforge.planning import plan
    >>> counted = plan(torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), (3, 224, 224))
    >>> counted.totals.parameters, counted.totals.macs, counted.rows[0].receptive_field
    (1728, 86704128, (3, 3))
    """

    model: str
    input_shape: tuple[int, ...]
    rows: tuple[Row, ...]
    totals: Totals
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, exact, in lists and dictionaries."""
        return {
            "model": self.model,
            "input_shape": self.input_shape,
            "rows": [row.to_dict() for row in self.rows],
            "totals": self.totals.to_dict(),
            "notes": self.notes,
        }

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict()` as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def __rich__(self) -> Any:
        from .table import as_table

        return as_table(self)

    def __str__(self) -> str:
        from .table import as_text

        return as_text(self)

    __repr__ = __str__
