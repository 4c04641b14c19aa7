"""ONNX's own tests of its operators, and files that PyTorch wrote long ago: both come with the package."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from convforge.graph.nodes import Graph, GraphError
from convforge.graph.onnx import read
from convforge.graph.onnx.folding import FOLDED
from convforge.graph.onnx.operators import OPERATORS

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
LIGHT = sorted(file.stem.removeprefix("light_") for file in (DATA / "light").glob("*.onnx"))
WRITTEN_BY_PYTORCH = ("pytorch-converted", "pytorch-operator")

DIFFERENT = {
    # PyTorch and ONNX Runtime have the last pixel on the last pixel here, too, ONNX's own reference a fraction beyond.
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}


@dataclass(frozen=True)
class Trial:
    """A graph, what goes into it, and what must come out, as exactly as is said."""

    name: str
    graph: Graph
    inputs: tuple[Any, ...]
    wanted: tuple[Any, ...]
    rtol: float
    atol: float

    def check(self, results: Sequence[Any]) -> None:
        """Raises `AssertionError` where the results are others."""
        for result, expected in zip(results, self.wanted, strict=True):
            expected = np.asarray(expected)
            half = expected.dtype == np.float16
            assert result.shape == expected.shape, self.name
            np.testing.assert_allclose(
                result,
                expected.astype(np.float64),
                rtol=max(self.rtol, 5e-3) if half else self.rtol,
                atol=max(self.atol, 3e-3) if half else self.atol,
                err_msg=self.name,
            )


@cache
def node_tests() -> dict[str, Any]:
    """Those of operators that are known, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, about how they are made
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    known = OPERATORS.keys() | FOLDED.keys() | {"If"}
    return {
        case.name: case
        for case in cases
        if {node.op_type for node in case.model.graph.node} <= known
        and case.name not in DIFFERENT
        # Some have numbers of types that NumPy does not, four bits wide for instance.
        and all(isinstance(array, np.ndarray) for data in case.data_sets for part in data for array in part)
    }


def trials_of(case: Any) -> Iterator[Trial]:
    """Those of one of `node_tests`.

    Raises `GraphError` where the graph is refused.
    """
    types = {value.name: value.type.tensor_type.elem_type for value in case.model.graph.input}
    file = case.model.SerializeToString()
    for given, wanted in case.data_sets:
        arrays = dict(zip(types, given, strict=True))
        try:
            graph = read(file, known={n: a for n, a in arrays.items() if types[n] not in FLOATS})
        except GraphError as error:
            if "must be known" not in str(error):
                raise
            # Scales, limits and the like.
            graph = read(file, known={n: a for n, a in arrays.items() if n != next(iter(types))})
        inputs = tuple(arrays[name] for name in graph.inputs)
        yield Trial(case.name, graph, inputs, tuple(wanted), max(case.rtol, 1e-3), 1e-6)


def folders() -> list[Path]:
    """With a file each that PyTorch wrote, and its answers."""
    return [folder for kind in WRITTEN_BY_PYTORCH for folder in sorted((DATA / kind).iterdir())]


def trials_in(folder: Path) -> Iterator[Trial]:
    """Those of one of `folders`.

    Raises `GraphError` where the graph is refused.
    """
    file = onnx.load(folder / "model.onnx").graph
    weights = {tensor.name for tensor in file.initializer}
    inputs = [value for value in file.input if value.name not in weights]
    for data in sorted(folder.glob("test_data_set_*")):
        given, wanted = (
            [
                numpy_helper.to_array(onnx.load_tensor(data / f"{what}_{i}.pb"))
                for i in range(len(list(data.glob(f"{what}_*.pb"))))
            ]
            for what in ("input", "output")
        )
        arrays = {value.name: array for value, array in zip(inputs, given, strict=False)}
        known = {v.name: arrays[v.name] for v in inputs if v.type.tensor_type.elem_type not in FLOATS}
        graph = read(folder / "model.onnx", known=known)
        yield Trial(folder.name, graph, tuple(arrays[n] for n in graph.inputs), tuple(wanted), 1e-3, 1e-5)


def light_with_drawn_weights(name: str) -> bytes:
    """One of the light models, with numbers in the place of the one number that fills each of its weights."""
    file, draw = onnx.load(DATA / "light" / f"light_{name}.onnx"), np.random.default_rng(0)
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    filled = [node for node in file.graph.node if node.op_type == "ConstantOfShape"]
    variances = {node.input[4] for node in file.graph.node if node.op_type == "BatchNormalization"}
    for node in filled:
        shape = sizes[node.input[0]]
        numbers = draw.standard_normal(shape) * np.sqrt(2 / max(1, np.prod(shape[1:])))
        if node.output[0] in variances:
            numbers = draw.uniform(0.5, 1.5, shape)
        file.graph.initializer.append(numpy_helper.from_array(numbers.astype(np.float32), node.output[0]))
        file.graph.node.remove(node)
    content: bytes = file.SerializeToString()
    return content
