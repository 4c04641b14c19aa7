"""Epilogues: what a network does next to the numbers that a convolution has just summed, before they are stored.

    y = activation(convolution + bias + residual)

A pass over memory of its own costs more than the activation: 64 channels at 56×56 are 0.8 MB to read and to write. In
registers a ReLU is one instruction a vector, and the longest activation here some forty, beside the 9·64 multiply-adds
of a 3×3 kernel on 64 channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from .functions import check


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What is done to the sums of a forward pass: y = activation(sums + bias + residual).

    The activation is one of `functions.FUNCTIONS`, by its name, and with its parameters where it has any:
    "leaky_relu(0.1)".
    """

    bias: bool = False
    activation: str = ""
    residual: bool = False

    def __post_init__(self) -> None:
        if self.activation:
            check(self.activation)


NOTHING = Epilogue()
