"""ONNX Runtime and OpenVINO, each in a process of its own: their threads wait for work by spinning, as torch's do, and
in one process they would take the cores from each other.

Both read the layer as an ONNX model of one node, with the weights as constants, so they bring these into their own form
before anything is timed. OpenVINO gets its data in channels_last; ONNX Runtime knows only NCHW, and reorders it. They
only know the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .process import Answer, Child, PeerError
from .timing import burst, in_turn

__all__ = ["Peer", "PeerError", "available", "onnx_model"]

Array = NDArray[np.float32]
Run = Callable[[], object]

NAMES = ("onnxruntime", "openvino")
_TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def available() -> list[str]:
    """The peers that are installed, if there is `onnx` to write models for them."""
    return [name for name in NAMES if find_spec(name)] if find_spec("onnx") else []


class Peer(Child):
    """One peer's process. Use it as a context manager."""

    def __init__(self, name: str, threads: int) -> None:
        super().__init__(_TITLES[name], _layers, name, threads)

    def load(self, model: bytes, x: Array, copies: int = 1) -> Array:
        """Make this the layer that bursts run, in so many copies that take turns, and compute it once. Raises
        `PeerError`."""
        result: Array = self.ask((model, x, copies))
        return result

    def burst(self) -> list[float]:
        """Seconds of each of some runs of the layer, measured where they ran."""
        times: list[float] = self.ask(None)
        return times


def onnx_model(
    w: Array, x_shape: Sequence[int], y_shape: Sequence[int], stride: Sequence[int], pads: Sequence[int],
    dilation: Sequence[int], groups: int,
) -> bytes:  # fmt: skip
    """A convolution as an ONNX model with `x`, `y` and constant weights; `pads` are (top, left)."""
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], strides=list(stride), pads=[*pads, *pads], dilations=list(dilation), group=groups
    )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x_shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(y_shape))],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


# ---------------------------------------------------------------------------------------------------------------------
# In the peer's process
# ---------------------------------------------------------------------------------------------------------------------


def _layers(name: str, threads: int) -> Answer:
    """Questions are a layer (its model, the input, in how many copies), answered by the result, and None: a burst."""
    load = _onnxruntime if name == "onnxruntime" else _openvino
    held: list[Run] = []

    def answer(question: tuple[bytes, Array, int] | None) -> Any:
        if question is None:
            return burst(held[0])
        held.clear()  # frees the layer before
        model, x, copies = question
        loaded = [load(model, x.copy(), threads) for _ in range(copies)]
        run = in_turn([one for one, _ in loaded])
        run()
        held.append(run)
        return loaded[0][1]()

    return answer


def _onnxruntime(model: bytes, x: Array, threads: int) -> tuple[Run, Callable[[], Array]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    # Its threads spin during a run, but not on into the other contenders' turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()  # no copies of what goes in and comes out
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding), lambda: np.array(binding.copy_outputs_to_cpu()[0])


def _openvino(model: bytes, x: Array, threads: int) -> tuple[Run, Callable[[], Array]]:
    import openvino
    from openvino.preprocess import PrePostProcessor

    core = openvino.Core()
    # Channels last on both sides, as ours and torch's: else it reorders a large output for longer than it computes.
    around = PrePostProcessor(core.read_model(model))
    for side in (around.input(), around.output()):
        side.model().set_layout(openvino.Layout("NCHW"))
        side.tensor().set_layout(openvino.Layout("NHWC"))
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # else it takes bfloat16 where the CPU has it
    }
    request = core.compile_model(around.build(), "CPU", settings).create_infer_request()
    image = openvino.Tensor(np.ascontiguousarray(x.transpose(0, 2, 3, 1)))  # a copy, which the tensor owns
    request.set_input_tensor(image)

    def result() -> Array:
        return np.ascontiguousarray(request.get_output_tensor().data.transpose(0, 3, 1, 2))

    return lambda: request.infer(share_outputs=True), result
