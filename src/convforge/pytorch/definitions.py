"""The operators' names and arguments: `torch.ops.convforge`.

`padding` is [top, bottom, left, right]; `channels_last` says which memory format the result has. `conv_transpose2d` is
the input gradient of a convolution of this geometry, for an input of this height and width, plus a bias. What they do
is put to them in `operators`, which others import them from.
"""

from __future__ import annotations

from typing import Any

import torch

library: Any = torch.library.Library("convforge", "DEF")  # type: ignore[no-untyped-call]
_GEOMETRY = "SymInt[2] stride, SymInt[4] padding, SymInt[2] dilation, SymInt groups"
library.define(f"conv2d(Tensor input, Tensor weight, Tensor? bias, {_GEOMETRY}) -> Tensor")
library.define(
    f"conv2d_input_gradient(Tensor gradient, Tensor weight, SymInt[2] size, {_GEOMETRY}, bool channels_last) -> Tensor"
)
library.define(
    f"conv2d_weight_gradient(Tensor input, Tensor gradient, SymInt[2] size, {_GEOMETRY}, bool channels_last) -> Tensor"
)
library.define(f"conv_transpose2d(Tensor input, Tensor weight, Tensor? bias, SymInt[2] size, {_GEOMETRY}) -> Tensor")
forward_op = torch.ops.convforge.conv2d.default
input_gradient_op = torch.ops.convforge.conv2d_input_gradient.default
weight_gradient_op = torch.ops.convforge.conv2d_weight_gradient.default
transposed_op = torch.ops.convforge.conv_transpose2d.default
