"""What the peers test about convolution, run against us: torch's samples and error inputs, and ONNX's node cases."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchs_lists import torchs_own

import convforge
from convforge import Conv2dSpec

even_kernel = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")


@even_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_torchs_samples(dtype: torch.dtype) -> None:
    """Values, gradients and memory formats of output and gradients."""
    expected = _in_float64 if dtype == torch.bfloat16 else F.conv2d
    count = 0
    for sample in torchs_own()[0].sample_inputs("cpu", dtype, requires_grad=True):
        arguments = (sample.input, *sample.args)
        ours, theirs = (f(*arguments, **sample.kwargs) for f in (convforge.conv2d, expected))
        torch.testing.assert_close(ours, theirs)
        assert ours.stride() == theirs.stride()
        leaves = [t for t in (*arguments, *sample.kwargs.values()) if isinstance(t, Tensor) and t.requires_grad]
        direction = torch.randn_like(theirs)
        for mine, its in zip(*(torch.autograd.grad(y, leaves, direction) for y in (ours, theirs)), strict=True):
            torch.testing.assert_close(mine, its)
            assert mine.stride() == its.stride()
        count += 1
    assert count >= 10


def _in_float64(*arguments: Any, **options: Any) -> Tensor:
    """What a 16-bit result is the rounding of: torch's own kernels add up in 16 bits at times, depending on the CPU."""
    wide = [a.double() if isinstance(a, Tensor) else a for a in arguments]
    wider = {name: a.double() if isinstance(a, Tensor) else a for name, a in options.items()}
    return F.conv2d(*wide, **wider).to(arguments[0].dtype)


def test_torchs_error_inputs() -> None:
    count = 0
    for case in torchs_own()[0].error_inputs("cpu"):
        sample = case.sample_input
        with pytest.raises(case.error_type, match=case.error_regex):
            convforge.conv2d(sample.input, *sample.args, **sample.kwargs)
        count += 1
    assert count >= 5


@even_kernel
@pytest.mark.parametrize("training", [True, False])
def test_torchs_module_inputs(training: bool) -> None:
    count = 0
    info = torchs_own()[1]
    inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=training)
    for case in inputs:
        arguments, options = case.constructor_input.args, case.constructor_input.kwargs
        theirs = torch.nn.Conv2d(*arguments, **options, dtype=torch.float64)
        ours = convforge.nn.Conv2d(*arguments, **options, dtype=torch.float64)
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(*case.forward_input.args), theirs(*case.forward_input.args))
        count += 1
    assert count >= 3


def onnx_cases() -> list[Any]:
    """ONNX's own cases for the operator Conv: (name, attributes, inputs, output)."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx.backend.test.case.node import conv

    found: list[Any] = []

    def note(node: Any, inputs: list[Any], outputs: list[Any], name: str, **_: Any) -> None:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        found.append((name, attributes, inputs, outputs[0]))

    before, conv.expect = conv.expect, note
    try:
        for export in (name for name in dir(conv.Conv) if name.startswith("export")):
            getattr(conv.Conv, export)()
    finally:
        conv.expect = before
    return found


def test_onnx_cases() -> None:
    cases = onnx_cases()
    for name, attributes, (x, w), expected in cases:
        top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
        if re.match(rb"SAME", attributes.get("auto_pad", b"")):
            # SAME_LOWER puts the odd one first; these sizes have none, so it is SAME_UPPER's rule
            padding: Any = "same_ceil"
        else:
            padding = ((top, bottom), (left, right))
        stride = attributes.get("strides", (1, 1))
        spec = Conv2dSpec(x.shape[1], w.shape[0], w.shape[2:], stride, padding)
        assert spec.output_size(x.shape[2:]) == expected.shape[2:], name
        ours = convforge.conv2d(torch.from_numpy(x), torch.from_numpy(w), None, stride, padding)
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(convforge.engine.conv2d(x, w, None, spec), expected, rtol=1e-6, err_msg=name)
    assert len(cases) >= 6
