"""A torch module that cannot be compiled as a whole, run layer by layer: its convolutions on the engine, the rest in
PyTorch."""

from __future__ import annotations

import torch
from torch import nn

from ..inference.model import Array
from ..inference.report import NetworkReport, StepReport
from ..pytorch.optimize import optimize, report


class LayerByLayer:
    """What `convforge.Model` runs in the place of a compiled graph.

    Args:
        module: in eval mode, in float32; a copy of it is kept.
        input_shape: `(C, H, W)`.
        why: the sentence that says why it was not compiled.
    """

    dtype = "float32"
    graph = None
    probabilities = False

    def __init__(self, module: nn.Module, input_shape: tuple[int, int, int], why: str) -> None:
        self._module, self._why = optimize(module), why
        self.inputs: dict[str, tuple[int, ...]] = {"images": (1, *input_shape)}
        (made,) = self(torch.zeros(1, *input_shape).numpy())
        self.outputs: tuple[tuple[int, ...], ...] = (made.shape,)

    def batch(self) -> int | None:
        """Any number of images."""
        return None

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """The output, from the module itself."""
        with torch.inference_mode():
            made = self._module(*map(torch.from_numpy, arrays))
        return (made.numpy(),)

    def report(self) -> NetworkReport:
        """Its convolutions, and why they are not one program."""
        layers = report(self._module)
        steps = tuple(
            StepReport(f"{layer.name} ({layer.kind})", layer.reason, (), layer.name, layer.on_engine)
            for layer in layers
        )
        engine = sum(layer.on_engine for layer in layers)
        return NetworkReport(
            steps,
            (
                f"layer by layer: {self._why}",
                f"{engine} of {len(layers)} convolutions on convforge's engine; all else in PyTorch",
            ),
        )
