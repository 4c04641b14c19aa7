"""Who computes a network.

All compute in float32, on so many threads, with what does not change between calls put aside before: weights in the
kernels' form, memory, the input. Each gets its images in the layout that it works in: channels last for the engine and
OpenVINO, NCHW where a library knows no other. ncnn has no batch in its graphs, and is called once an image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..contenders import CHANNELS_LAST, OURS, PLAIN
from .contender import Array, Contender, Given, Ready, Results


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
    images = channels_last(given.images).transpose(0, 3, 1, 2)
    held: list[tuple[Any, ...]] = []

    def run() -> None:
        held[:] = [network(images)]

    return Ready(run, lambda: list(held[0]), network, captured)


def _torch(layout: str, folded: bool) -> Callable[[Given], Ready]:
    def load(given: Given) -> Ready:
        import torch
        from torch.fx.experimental.optimization import fuse

        module, images = given.module, torch.from_numpy(given.images)
        if folded:
            module = fuse(module)
        if layout == CHANNELS_LAST:
            module, images = module.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
        held: list[Any] = []

        def run() -> None:
            with torch.inference_mode():
                held[:] = [module(images)]

        return Ready(run, lambda: _as_arrays(held[0]))

    return load


def _inductor(given: Given) -> Ready:
    """Frozen: weights are constants to it, which it may bring into forms of its own."""
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = True
    module = given.module.to(memory_format=torch.channels_last)
    images = torch.from_numpy(given.images).to(memory_format=torch.channels_last)
    fast: Any = torch.compile(module)
    held: list[Any] = []

    def run() -> None:
        with torch.inference_mode():
            held[:] = [fast(images)]

    return Ready(run, lambda: _as_arrays(held[0]))


def _as_arrays(outputs: Any) -> Results:
    from torch.utils._pytree import tree_leaves

    return [y.contiguous().numpy() for y in tree_leaves(outputs)]


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
        held = openvino.Tensor(channels_last(given.images))
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
    network.set_tensor(network.get_input_details()[0]["index"], channels_last(given.images))
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


def channels_last(images: Array) -> Array:
    """NCHW as NHWC."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


INFERENCE: dict[str, Contender] = {
    OURS: Contender(OURS, (), "ours", _ours),
    "torch": Contender(PLAIN, ("torch",), "", _torch(PLAIN, folded=False)),
    "torch-last": Contender(CHANNELS_LAST, ("torch",), "", _torch(CHANNELS_LAST, folded=False)),
    "torch-folded": Contender("torch folded", ("torch",), "", _torch(CHANNELS_LAST, folded=True)),
    "inductor": Contender("torch Inductor", ("torch",), "", _inductor, compiler=True),
    "onnxruntime": Contender("ONNX Runtime", ("onnx", "onnxruntime"), "onnx", _onnxruntime),
    "openvino": Contender("OpenVINO", ("onnx", "openvino"), "onnx", _openvino("f32")),
    "openvino-default": Contender("OpenVINO, default", ("onnx", "openvino"), "onnx", _openvino("")),
    "litert": Contender("LiteRT", ("litert_torch", "ai_edge_litert"), "tflite", _litert),
    "ncnn": Contender("ncnn", ("pnnx", "ncnn"), "ncnn", _ncnn),
    "mnn": Contender("MNN", ("onnx", "MNN"), "mnn", _mnn),
}
"""By the names that `--peers` takes."""
