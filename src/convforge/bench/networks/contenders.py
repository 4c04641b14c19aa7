"""Who computes a network, each in a process of its own; and what is asked of such a process.

All compute in float32, on so many threads, with what does not change between calls put aside before: weights in the
kernels' form, memory, the input. Each gets its images in the layout that it works in: channels last for the engine and
OpenVINO, NCHW where a library knows no other. ncnn has no batch in its graphs, and is called once an image.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..contenders import CHANNELS_LAST, OURS, PLAIN
from ..limits import fma_peak
from ..process import Answer
from ..timing import burst
from .files import path_of
from .named import Case

Array: TypeAlias = NDArray[np.float32]
Results: TypeAlias = list[Array]

_BURST_SECONDS = 0.04
_PEAKS = 5
"""Measurements of the peak: where two virtual cores share a real one for a while, it is half as high."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What all contenders have in common."""

    threads: int
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """What a contender begins with; the module is None where it reads a file."""

    case: Case
    settings: Settings
    images: Array
    module: Any

    def path(self, form: str) -> Path:
        """The network's file."""
        return path_of(self.case, form)


@dataclass(frozen=True, slots=True)
class Ready:
    """A network that was loaded: a call of it, and the last call's outputs in NCHW. `network` is ours."""

    run: Callable[[], object]
    results: Callable[[], Results]
    network: Any = None
    captured_after: float = 0.0
    """Seconds until there was a graph, of those until it was ready."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a process says once it has computed the network for the first time."""

    first: float
    """Seconds from the module or file to the first result."""
    capture: float
    """Of these, seconds until there was a graph; 0 where that is no step of its own."""
    results: Results


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes beyond what the process had with its libraries loaded: at most, and now."""

    peak: int
    held: int


@dataclass(frozen=True, slots=True)
class Contender:
    """A library as it is used here: its name in tables, the packages it needs (what computes comes last), the file it
    reads ('' for the torch module), and how it is loaded."""

    title: str
    packages: tuple[str, ...]
    form: str
    load: Callable[[Given], Ready]

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.packages if find_spec(name) is None]


# ---------------------------------------------------------------------------------------------------------------------
# In the contender's process
# ---------------------------------------------------------------------------------------------------------------------


def serve(key: str, case: Case, settings: Settings, imported: bool = True) -> Answer:
    """Answers 'load', 'burst', 'memory' and 'steps'. Where torch's means of capturing are to be `imported` before, they
    are neither part of the first result nor of the memory."""
    contender = CONTENDERS[key]
    if contender.form in ("", "ours"):
        import torch

        torch.set_num_threads(settings.threads)
        torch.set_grad_enabled(False)
    if key == OURS and imported:
        _import_capture()
    if contender.packages:
        import_module(contender.packages[-1])
    gc.collect()
    start = _memory(peak=False)
    _forget_peak()
    held: list[Ready] = []

    def answer(question: str) -> Any:
        if question == "load":
            module = case.module() if contender.form in ("", "ours") and not case.is_file else None
            given = Given(case, settings, case.images(), module)
            begin = time.perf_counter()
            ready = contender.load(given)
            ready.run()
            first = time.perf_counter() - begin
            held.append(ready)
            return Loaded(first, ready.captured_after, ready.results())
        (ready,) = held
        if question == "burst":
            return burst(ready.run, _BURST_SECONDS)
        if question == "memory":
            now = _memory(peak=False)
            peak = max(now, _memory(peak=True))  # the kernel notes peaks a few pages late
            return Memory(max(0, peak - start), max(0, now - start))
        images = _last(case.images()).transpose(0, 3, 1, 2)
        fastest = max(fma_peak(settings.threads) for _ in range(_PEAKS))
        return ready.network.profile(images, peak=fastest).steps

    return answer


def _import_capture() -> None:
    import torch

    from ...graph.capture import capture

    capture(torch.nn.Linear(1, 1).eval(), torch.zeros(1, 1))


def _memory(peak: bool) -> int:
    """Bytes of this process in memory, or the most there have been; 0 where the system does not say."""
    with suppress(OSError):
        found = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) << 10
    return 0


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


# ---------------------------------------------------------------------------------------------------------------------
# Each of them
# ---------------------------------------------------------------------------------------------------------------------


def _ours(given: Given) -> Ready:
    import torch

    from ...graph.capture import capture
    from ...graph.network import Network
    from ...graph.onnx import read

    begin = time.perf_counter()
    if given.module is None:
        graph = read(given.case.name).with_input(given.case.shape)
    else:
        graph = capture(given.module, torch.from_numpy(given.images))
    captured = time.perf_counter() - begin
    network = Network(graph, given.settings.threads, given.settings.exact)
    images = _last(given.images).transpose(0, 3, 1, 2)
    held: list[tuple[Any, ...]] = []

    def run() -> None:
        held[:] = [network(images)]

    return Ready(run, lambda: list(held[0]), network, captured)


def _torch(layout: str, folded: bool) -> Callable[[Given], Ready]:
    def load(given: Given) -> Ready:
        import torch
        from torch.fx.experimental.optimization import fuse
        from torch.utils._pytree import tree_leaves

        module, images = given.module, torch.from_numpy(given.images)
        if folded:
            module = fuse(module)
        if layout == CHANNELS_LAST:
            module, images = module.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
        held: list[Any] = []

        def run() -> None:
            with torch.inference_mode():
                held[:] = [module(images)]

        return Ready(run, lambda: [y.contiguous().numpy() for y in tree_leaves(held[0])])

    return load


def _onnxruntime(given: Given) -> Ready:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = given.settings.threads, 1
    options.log_severity_level = 4
    # Its threads spin during a run, but not on into the other contenders' turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(given.path("onnx"), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, onnxruntime.OrtValue.ortvalue_from_numpy(given.images))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return Ready(
        lambda: session.run_with_iobinding(binding), lambda: [np.array(y) for y in binding.copy_outputs_to_cpu()]
    )


def _openvino(precision: str) -> Callable[[Given], Ready]:
    def load(given: Given) -> Ready:
        import openvino
        from openvino.preprocess import PrePostProcessor

        core = openvino.Core()
        model = core.read_model(given.path("onnx"))
        model.reshape(list(given.case.shape))
        # Channels last outside, or it reorders large results for longer than it computes.
        around = PrePostProcessor(model)
        images = [n for n, output in enumerate(model.outputs) if len(output.partial_shape) == 4]
        for side in [around.input(), *(around.output(n) for n in images)]:
            side.model().set_layout(openvino.Layout("NCHW"))
            side.tensor().set_layout(openvino.Layout("NHWC"))
        how = {"INFERENCE_NUM_THREADS": given.settings.threads, "PERFORMANCE_HINT": "LATENCY"}
        if precision:
            how["INFERENCE_PRECISION_HINT"] = precision
        request = core.compile_model(around.build(), "CPU", how).create_infer_request()
        held = openvino.Tensor(_last(given.images))
        request.set_input_tensor(held)

        def results() -> Results:
            outputs = [np.array(request.get_output_tensor(n).data) for n in range(len(model.outputs))]
            return [y.transpose(0, 3, 1, 2) if n in images else y for n, y in enumerate(outputs)]

        return Ready(lambda: request.infer(share_outputs=True), results)

    return load


def _litert(given: Given) -> Ready:
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(model_path=str(given.path("tflite")), num_threads=given.settings.threads)
    network.allocate_tensors()
    network.set_tensor(network.get_input_details()[0]["index"], _last(given.images))
    outputs = [output["index"] for output in network.get_output_details()]
    return Ready(network.invoke, lambda: [network.get_tensor(index) for index in outputs])


def _ncnn(given: Given) -> Ready:
    import ncnn

    path = given.path("ncnn")
    network = ncnn.Net()
    how = network.opt
    how.num_threads = given.settings.threads
    for option in dir(how):
        if option.startswith(("use_fp16", "use_bf16")) or option == "use_vulkan_compute":
            setattr(how, option, False)
    # As in ncnn's own benchmark: what is freed is kept.
    pools = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()
    how.blob_allocator, how.workspace_allocator = pools
    if network.load_param(str(path)) or network.load_model(str(path.with_suffix(".bin"))):
        raise RuntimeError("the network cannot be read")
    first, last = network.input_names()[0], network.output_names()
    images = [ncnn.Mat(image).clone() for image in given.images]
    held: list[list[Any]] = []

    def run(_alive: object = pools) -> None:
        held.clear()
        for image in images:
            extractor = network.create_extractor()
            extractor.input(first, image)
            answers = [extractor.extract(name) for name in last]
            if any(code for code, _ in answers):
                raise RuntimeError("the network cannot be computed")
            held.append([mat for _, mat in answers])

    return Ready(run, lambda: [np.stack([np.array(mat) for mat in mats]) for mats in zip(*held, strict=True)])


def _mnn(given: Given) -> Ready:
    import MNN

    images = given.images
    network = MNN.Interpreter(str(given.path("mnn")))
    session = network.createSession({"backend": "CPU", "numThread": given.settings.threads, "precision": "high"})
    entry = network.getSessionInput(session)
    network.resizeTensor(entry, given.case.shape)
    network.resizeSession(session)
    host = MNN.Tensor(given.case.shape, MNN.Halide_Type_Float, images, MNN.Tensor_DimensionType_Caffe)

    def run() -> None:
        entry.copyFrom(host)  # at every call: what comes later in the network is written over it
        network.runSession(session)

    def results() -> Results:
        output = network.getSessionOutput(session)
        shape = output.getShape()
        copy = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), MNN.Tensor_DimensionType_Caffe)
        output.copyToHostTensor(copy)
        return [np.array(copy.getNumpyData()).reshape(shape)]

    return Ready(run, results)


def _last(images: Array) -> Array:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


CONTENDERS: dict[str, Contender] = {
    OURS: Contender(OURS, (), "ours", _ours),
    "torch": Contender(PLAIN, ("torch",), "", _torch(PLAIN, folded=False)),
    "torch-last": Contender(CHANNELS_LAST, ("torch",), "", _torch(CHANNELS_LAST, folded=False)),
    "torch-folded": Contender("torch folded", ("torch",), "", _torch(CHANNELS_LAST, folded=True)),
    "onnxruntime": Contender("ONNX Runtime", ("onnx", "onnxruntime"), "onnx", _onnxruntime),
    "openvino": Contender("OpenVINO", ("onnx", "openvino"), "onnx", _openvino("f32")),
    "openvino-default": Contender("OpenVINO, default", ("onnx", "openvino"), "onnx", _openvino("")),
    "litert": Contender("LiteRT", ("litert_torch", "ai_edge_litert"), "tflite", _litert),
    "ncnn": Contender("ncnn", ("pnnx", "ncnn"), "ncnn", _ncnn),
    "mnn": Contender("MNN", ("onnx", "MNN"), "mnn", _mnn),
}
"""By the names that `--peers` takes."""

USUAL = ("torch", "torch-last", "torch-folded", "onnxruntime", "openvino")
"""Without `--peers`, as far as they are installed."""


def chosen(peers: Sequence[str] | None) -> list[str]:
    """The others that are to be measured. Raises `UserError` for names that are not known or not installed."""
    from ...errors import UserError

    if peers is None:
        return [key for key in USUAL if not CONTENDERS[key].missing]
    names = [key for key in CONTENDERS if key != OURS]
    for key in peers:
        if key not in names:
            raise UserError(f"--peers is a list of {', '.join(names)}, not {key!r}.")
        if missing := CONTENDERS[key].missing:
            raise UserError(f"{CONTENDERS[key].title} needs {', '.join(missing)}, which is not installed.")
    return [key for key in names if key in peers]
