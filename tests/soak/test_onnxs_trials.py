"""ONNX's own tests run by the engine, in both formats of numbers; tests/graph computes the same graphs by the meaning
of their nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from convforge.graph.network import Network
from convforge.graph.nodes import GraphError
from convforge.graph.onnx import read

from .conftest import Soak

onnx = pytest.importorskip("onnx")

from onnxs_own import LIGHT, Trial, folders, light_with_drawn_weights, node_tests, trials_in, trials_of  # noqa: E402

DTYPES = ("float32", "float64")


def run(trials: Iterator[Trial], soak: Soak, dtype: str) -> None:
    """Those whose graph is not refused; which ones may be is said in tests/graph/test_onnx.py."""
    try:
        every = list(trials)
    except GraphError:
        return
    for trial in every:
        if dtype == "float32" and any(x.dtype == np.float64 for x in trial.inputs):
            continue  # whose numbers float32 may not have
        with soak.case(f"{trial.name}, {dtype}"):
            given = [np.asarray(x).astype(dtype) for x in trial.inputs]
            trial.check(Network(trial.graph, dtype=dtype)(*given))


def one_of_each(cases: dict[str, Any]) -> dict[str, Any]:
    """The first test of each operator."""
    first: dict[str, str] = {}
    for name, case in cases.items():
        first.setdefault(case.model.graph.node[-1].op_type, name)
    return {name: cases[name] for name in first.values()}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, where infinities are divided by the passes
@pytest.mark.parametrize("dtype", DTYPES)
def test_onnx_node_tests_by_the_engine(soak: Soak, dtype: str) -> None:
    cases = soak.length(one_of_each(node_tests()), node_tests())
    for case in cases.values():
        run(trials_of(case), soak, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_files_that_pytorch_wrote_by_the_engine(soak: Soak, dtype: str) -> None:
    for folder in folders()[:: soak.length(8, 1)]:
        run(trials_in(folder), soak, dtype)


def test_light_models_with_drawn_weights(soak: Soak) -> None:
    """ONNX Runtime's answer, which depends on every weight then; before the softmax, where there is one."""
    runtime = pytest.importorskip("onnxruntime")
    for name in soak.length(["squeezenet"], LIGHT):
        with soak.case(name):
            model = onnx.load_model_from_string(light_with_drawn_weights(name))
            last = model.graph.node[-1]
            if last.op_type == "Softmax":
                model.graph.node.remove(last)
                model.graph.output[0].name = last.input[0]
            file = model.SerializeToString()
            graph = read(file)
            ((given, shape),) = graph.inputs.items()
            x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
            session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
            wanted = session.run(None, {given: x})[0]
            assert np.std(wanted) > 1e-3 * np.abs(wanted).max(), "an answer that depends on nothing"
            off = np.linalg.norm(Network(graph)(x)[0] - wanted) / np.linalg.norm(wanted)
            assert off < 1e-5, f"{off:.1e} from ONNX Runtime"
            soak.figure(name, f"{off:.0e}")
