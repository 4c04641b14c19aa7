"""Bundles: what is written is read again, and whatever else a file may hold is refused in a sentence."""

from __future__ import annotations

import json
import math
import os
import re
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import convforge
from convforge import Conv2dSpec
from convforge.errors import UserError
from convforge.graph import nodes as n
from convforge.graph.coding import _object, decoded, encoded
from convforge.graph.nodes import Graph, GraphError, Node
from convforge.inference import answers, bundle
from convforge.inference.about import About

ROOT = Path(__file__).parents[1]
KEY = bundle.KEY


def network() -> Graph:
    """A convolution, a branch, a linear layer."""
    random = np.random.default_rng(0)
    spec = Conv2dSpec(3, 4, 3, padding=1)
    return Graph(
        inputs={"x": (1, 3, 6, 5)},
        outputs=("logits", "maps"),
        nodes=(
            Node(n.Convolution(spec, bias=True, activation=n.Unary("clip", (0, math.inf))), ("x", "w", "b"), "maps"),
            Node(n.Reduce("mean", (2, 3), keep=False), ("maps",), "means"),
            Node(n.Linear(), ("means", "v"), "logits"),
        ),
        constants={
            "w": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
            "b": random.standard_normal(4).astype(np.float32),
            "v": random.standard_normal((2, 4)).astype(np.float32),
        },
        fixed={"x": (1, 2, 3)},
    )


CONTENTS = bundle.Contents(
    network(), "float32", {"logits": 0, "maps": (1, None)}, About(("cat", "dog"), (0.5,) * 3, (1,) * 3)
)


W = CONTENTS.graph.constants


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "net.bundle"
    path.write_bytes(bundle.to_bytes(CONTENTS))
    return path


# ---------------------------------------------------------------------------------------------------------------------
# What is written is read
# ---------------------------------------------------------------------------------------------------------------------


def test_everything_comes_back(written: Path) -> None:
    found = bundle.read(written)
    assert found.graph.nodes == CONTENTS.graph.nodes
    assert found.graph.inputs == CONTENTS.graph.inputs
    assert found.graph.outputs == CONTENTS.graph.outputs
    assert found.graph.fixed == CONTENTS.graph.fixed
    assert found.graph.constants.keys() == CONTENTS.graph.constants.keys()
    for name, array in found.graph.constants.items():
        assert np.array_equal(array, CONTENTS.graph.constants[name])
    assert (found.dtype, found.answer, found.about) == ("float32", CONTENTS.answer, CONTENTS.about)


def test_the_same_network_is_the_same_bytes(written: Path) -> None:
    assert bundle.to_bytes(bundle.read(written)) == written.read_bytes()


def test_other_tools_open_it_as_safetensors(written: Path) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(written)
    assert tensors.keys() == CONTENTS.graph.constants.keys()
    assert np.array_equal(tensors["w"], CONTENTS.graph.constants["w"])


def test_the_file_is_as_docs_bundle_md_says(written: Path) -> None:
    """Read by hand, with nothing but what that page says."""
    content = written.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    described = json.loads(header.pop("__metadata__")["convforge.bundle"])
    begin, end = header["w"]["data_offsets"]
    w = np.frombuffer(content[8 + length :][begin:end], "<f4").reshape(header["w"]["shape"])
    assert np.array_equal(w, CONTENTS.graph.constants["w"])
    page = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
    for member in described:
        assert f"| `{member}` |" in page
    for operation in _OPERATIONS:
        assert f"`{type(operation).__name__}`" in page
        for field in fields(operation):
            assert field.name in page


def test_a_loaded_bundle_computes_the_same(written: Path) -> None:
    model = convforge.load(written)
    x = np.random.default_rng(1).standard_normal((1, 3, 6, 5)).astype(np.float32)
    expected = CONTENTS.graph.compute(x=x)
    found = model(x)
    assert np.allclose(found["logits"], expected[0], atol=1e-5)
    assert np.allclose(found["maps"][0], expected[1], atol=1e-5)
    model.save(written)
    assert np.array_equal(convforge.load(written)(x)["logits"], found["logits"])


def test_a_path_that_is_no_utf_8(written: Path) -> None:
    odd = written.parent / os.fsdecode(b"caf\xe9.bundle")
    odd.write_bytes(written.read_bytes())
    assert convforge.load(odd).input_shape == (3, 6, 5)


_SPEC = Conv2dSpec(6, 4, (3, 2), (2, 1), ((1, 1), (2, 2)), (1, 2), 2, padding_mode="reflect")
_OPERATIONS: list[n.Operation] = [
    n.AdaptivePooling("max", (3, 2)),
    n.BatchNorm(1e-3),
    n.Binary("pow"),
    n.Compare("less"),
    n.Concat(1),
    n.Convolution(_SPEC, True, True, n.Unary("leaky_relu", (0.2,))),
    n.Convolution(Conv2dSpec(6, 4, 3, 2, "same_ceil")),
    n.Expand((2, 1, 3)),
    n.GridSample("bicubic", "reflection", True),
    n.GroupNorm(3),
    n.LayerNorm(2, 1e-6),
    n.Linear(True, n.Unary("relu")),
    n.LocalResponseNorm(5, before=1),
    n.MatMul(),
    n.PRelu(),
    n.Pad(((0, 0), (1, 2)), "constant", -math.inf),
    n.Pooling("average", (3, 2), (2, 1), ((1, 0), (0, 1)), (1, 2), False, True),
    n.PoolingPlaces(n.Pooling("max", (3, 2), (2, 1)), whole=True, columns_first=True),
    n.Reduce("mean", (2, 3), False),
    n.Reshape((0, n.Axes(1, 3, 2), 2, -1)),
    n.Resize(scales=(2.0, 1.5), mode="bilinear", coordinates="half_pixel"),
    n.Resize(size=(4, 5)),
    n.Resize(size=(4, 5), mode="bicubic", cubic=-0.5),
    n.Resize(size=(4, 5), mode="bilinear", antialias=True, inside=True),
    n.Resize(like=True),
    n.Slice(1, -3),
    n.Softmax(1, True),
    n.Take(1),
    n.Transpose((0, 2, 1)),
    n.TransposedConvolution(Conv2dSpec(4, 6, 3, 2, 1), (1, 0), True),
    n.Unary("elu"),
    n.Unpooling((4, 5)),
    n.Unpooling(like=True),
    n.Where(),
]


def test_every_operation_goes_through() -> None:
    assert {type(one).__name__ for one in _OPERATIONS} == {
        name
        for name in n.__all__
        if isinstance(kind := getattr(n, name), type) and issubclass(kind, n.Operation) and kind is not n.Operation
    }
    for operation in _OPERATIONS:
        graph = Graph({"x": (1, 3)}, ("x",), (Node(operation, ("x",), "y"),), {})
        described = json.loads(json.dumps(encoded(graph), allow_nan=False))
        (fresh,) = described["nodes"]
        assert fresh["operation"] == type(operation).__name__
        assert _object(fresh["fields"], type(operation), "it") == operation


# ---------------------------------------------------------------------------------------------------------------------
# What else a file may hold
# ---------------------------------------------------------------------------------------------------------------------


def described() -> dict[str, Any]:
    content = bundle.to_bytes(CONTENTS)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"][KEY])
    return found


def file_of(
    description: Any, tensors: dict[str, np.ndarray] | None = None, header: dict[str, Any] | None = None
) -> bytes:
    """A safetensors file with any description, tensors and header."""
    tensors = dict(CONTENTS.graph.constants) if tensors is None else tensors
    text = description if isinstance(description, str) else json.dumps(description)
    entries: dict[str, Any] = {"__metadata__": {KEY: text}}
    data = b""
    for name, array in tensors.items():
        code = {"float32": "F32", "float64": "F64", "int64": "I64", "float16": "F16"}[array.dtype.name]
        raw = array.tobytes()
        entries[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    entries |= header or {}
    text = json.dumps(entries)
    raw = text.encode()
    return len(raw).to_bytes(8, "little") + raw + data


def refused(tmp_path: Path, content: bytes) -> str:
    """The sentence, without much memory having been taken."""
    path = tmp_path / "attack.bundle"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as raised:
            convforge.load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert len(sentence) < 700
    assert sentence.startswith(str(path))
    assert peak < 50e6 + 30 * len(content)
    return sentence


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets what stands at a path such as "graph.nodes.0.output"."""

    def changed(description: dict[str, Any]) -> None:
        *way, last = path.split(".")
        place: Any = description
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        if value is _GONE:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value

    return changed


_GONE = object()
_CONV = "graph.nodes.0.fields"
_NODE = {"operation": "Unary", "fields": {"kind": "relu"}, "inputs": ["x"], "output": "y"}


def one(operation: str, fields: dict[str, Any], inputs: list[str]) -> dict[str, Any]:
    return {"operation": operation, "fields": fields, "inputs": inputs, "output": "first"}


def before(node: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Puts a node in front of all others."""
    return lambda description: description["graph"]["nodes"].insert(0, node)


def chain(description: dict[str, Any]) -> None:
    """Doubled a hundred times along an axis."""
    last = "x"
    for number in range(100):
        node = {"operation": "Concat", "fields": {"axis": 0}, "inputs": [last, last], "output": f"c{number}"}
        description["graph"]["nodes"].append(node)
        last = f"c{number}"
    description["graph"]["outputs"][1] = last


def repeats(description: dict[str, Any]) -> None:
    """Constants that are repeated as often as a value may be large."""
    for number in range(9):
        node = {"operation": "Expand", "fields": {"sizes": [2**26, 4]}, "inputs": ["b"], "output": f"e{number}"}
        description["graph"]["nodes"].append(node)


def long(description: dict[str, Any]) -> None:
    description["graph"]["nodes"] += [{**_NODE, "output": f"n{i}", "inputs": ["x"]} for i in range(20_001)]


ATTACKS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a newer version": (change("version", 2), "version 2, and this convforge reads 1: update"),
    "a version that is true": (change("version", True), "version cannot be"),
    "a version in words": (change("version", "1"), "version cannot be"),
    "no version": (change("version", _GONE), "lacks 'version'"),
    "something more": (change("code", "import os"), "has 'code', which this version"),
    "no graph": (change("graph", _GONE), "lacks 'graph'"),
    "a graph that is a list": (change("graph", []), "the graph must be an object"),
    "integers": (change("dtype", "int8"), "may be float32 or float64"),
    "a dtype that is a list": (change("dtype", []), "may be float32 or float64"),
    "another dtype than the tensors'": (change("dtype", "float64"), "is F32, and the network computes in float64"),
    "an unknown operation": (change("graph.nodes.0.operation", "Eval"), "'Eval', which this version"),
    "an operation that is the base": (change("graph.nodes.0.operation", "Operation"), "which this version"),
    "an operation that is another thing": (change("graph.nodes.0.operation", "GraphError"), "which this version"),
    "an operation that is no word": (change("graph.nodes.0.operation", 7), "the operation of node 0 cannot be 7"),
    "a field too many": (change(f"{_CONV}.run", 1), "has 'run', which this version"),
    "a field too few": (change(f"{_CONV}.spec", _GONE), "lacks 'spec'"),
    "a field inside of another type": (change(f"{_CONV}.spec.stride", [1, "1"]), "item 1 of stride .* cannot be '1'"),
    "a number that is true": (change(f"{_CONV}.spec.in_channels", True), "in_channels .* cannot be True"),
    "a number with a fraction": (change(f"{_CONV}.spec.in_channels", 3.0), "in_channels .* cannot be 3.0"),
    "a number of any length": (change(f"{_CONV}.spec.in_channels", 10**400), "in_channels .* cannot be 1000"),
    "a flag that is a number": (change(f"{_CONV}.bias", 1), "bias .* cannot be 1"),
    "a stride of 0": (change(f"{_CONV}.spec.stride", [0, 1]), "stride"),
    "a dilation below 0": (change(f"{_CONV}.spec.dilation", [-1, 1]), "dilation"),
    "a padding rule that there is not": (change(f"{_CONV}.spec.padding", "much"), "padding"),
    "padding without end": (change(f"{_CONV}.spec.padding", [[2**62, 0], [0, 0]]), "which no network's has"),
    "groups that do not divide": (change(f"{_CONV}.spec.groups", 2), "groups"),
    "other channels than the weights": (change(f"{_CONV}.spec.out_channels", 8), "needs w of shape"),
    "an activation that there is not": (change(f"{_CONV}.activation.kind", "exec"), "there is no function 'exec'"),
    "parameters that are no numbers": (change(f"{_CONV}.activation.parameters", [0, "much"]), "cannot be 'much'"),
    "too few parameters": (change(f"{_CONV}.activation.parameters", []), "clip takes 2 parameters"),
    "an input that nothing makes": (change("graph.nodes.0.inputs.0", "y"), "reads 'y', which nothing before it makes"),
    "a cycle": (change("graph.nodes.0.inputs.0", "maps"), "reads 'maps', which nothing before it makes"),
    "a cycle of two": (change("graph.nodes.0.inputs.0", "means"), "which nothing before it makes"),
    "an operand too many": (change("graph.nodes.0.inputs", ["x", "w", "b", "b"]), "takes x, w, bias, not 4 inputs"),
    "a name twice": (change("graph.nodes.1.output", "maps"), "the name 'maps' is given to 2 values"),
    "a constant's name again": (change("graph.nodes.1.output", "w"), "the name 'w' is given to 2 values"),
    "an output that nothing makes": (change("graph.outputs.0", "y"), "output 'y' is made by no node"),
    "no outputs": (change("graph.outputs", []), "at least one input and one output"),
    "no inputs": (change("graph.inputs", []), "at least one input and one output"),
    "two inputs of a name": (lambda d: d["graph"]["inputs"].append(d["graph"]["inputs"][0]), "two inputs"),
    "an input of no size": (change("graph.inputs.0.shape", [1, 3, 0, 5]), "which no network's has"),
    "an input of less than none": (change("graph.inputs.0.shape", [1, -3, 6, 5]), "which no network's has"),
    "an input of absurd size": (change("graph.inputs.0.shape", [1, 3, 2**40, 2**40]), "which no network's has"),
    "an input of a hundred axes": (change("graph.inputs.0.shape", [1] * 100), "which no network's has"),
    "a fixed axis that there is not": (change("graph.inputs.0.fixed", [4]), "cannot have the fixed axes"),
    "an answer from elsewhere": (change("answer", 2), "a network with 2 outputs cannot return 2"),
    "an answer of less than none": (change("answer", -1), "cannot return -1"),
    "an answer that is true": (change("answer", True), "cannot return True"),
    "an answer of a class": (change("answer", {"object": [0]}), "cannot return"),
    "classes that are a word": (change("classes", "cd"), "classes must be a list or null"),
    "classes that are numbers": (change("classes", [1, 2]), "classes must be a list of names"),
    "too many classes": (change("classes", ["a", "b", "c"]), "3 names of classes"),
    "a std of 0": (change("std", [1, 1, 0]), "std must be above 0"),
    "a mean for other channels": (lambda d: d.update(mean=[0.5], std=[0.5]), "1 numbers, but images 3 channels"),
    "a mean that is no number": (change("mean", [[], 1, 1]), "mean must be one number a channel"),
    "a mean without std": (change("std", None), "mean and std go together"),
    "pooling that stands still": (
        before(one("Pooling", {"kind": "max", "kernel": [1, 1], "stride": [0, 0]}, ["x"])), "of at least 1, not 0",
    ),
    "pooling from the inside out": (
        before(one("Pooling", {"kind": "max", "kernel": [1, 1], "stride": [1, 1], "pads": [[-1, 0], [0, 0]]}, ["x"])),
        "of at least 0, not -1",
    ),
    "pooling to nothing": (before(one("AdaptivePooling", {"kind": "max", "size": [0, 1]}, ["x"])), "of at least 1"),
    "pooling to very much": (
        before(one("AdaptivePooling", {"kind": "max", "size": [2**31, 2**31]}, ["x"])), "which no network's has",
    ),
    "an image without end": (before(one("Resize", {"scales": [1e300, 1.0]}, ["x"])), "which no network's has"),
    "an image of infinite size": (before(one("Resize", {"scales": ["inf", 1.0]}, ["x"])), "scales above 0"),
    "an image of no number": (before(one("Resize", {"scales": ["nan", 1.0]}, ["x"])), "scales above 0"),
    "a size by nothing": (
        before(one("Reshape", {"sizes": [0, {"first": 1, "stop": 4, "over": 0}]}, ["x"])), "cannot be that along",
    ),
    "a size backwards": (
        before(one("Reshape", {"sizes": [0, {"first": -3, "stop": 4}]}, ["x"])), "cannot be that along",
    ),
    "squares of very many channels": (before(one("LocalResponseNorm", {"size": 2**40}, ["x"])), "1 to 1024 channels"),
    "a border of very much": (
        before(one("Pad", {"pads": [[0, 0], [0, 0], [2**62, 0], [0, 0]]}, ["x"])), "which no network's has",
    ),
    "broadcasting of very much": (
        before(one("Expand", {"sizes": [2**62, 1, 1, 1]}, ["x"])), "cannot broadcast|which no network's has",
    ),
    "an axis that there is not": (before(one("Softmax", {"axis": 9}, ["x"])), "has axis 9"),
    "an axis twice": (before(one("Reduce", {"kind": "mean", "axes": [1, -3]}, ["x"])), "has an axis twice"),
    "a step of 0": (before(one("Slice", {"axis": 1, "step": 0}, ["x"])), "step 0"),
    "powers of two": (chain, "which no network's has"),
    "constants many times over": (repeats, "far more numbers of its constants"),
    "very many nodes": (long, "more than the 20,000"),
    "nodes that are an object": (change("graph.nodes", {"0": _NODE}), "the graph's nodes must be a list"),
    "a node that is a word": (change("graph.nodes.0", "relu"), "node 0 must be an object"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_descriptions_that_mean_harm(attack: str, tmp_path: Path) -> None:
    changed, words = ATTACKS[attack]
    description = deepcopy(described())
    changed(description)
    sentence = refused(tmp_path, file_of(description))
    assert re.search(words, sentence), sentence


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.zeros(5000), "takes 5,000 rows, more than the 4,096"),
        (np.array([0.0, 3.0]), "takes rows of 3 that there are not"),
        (np.array([-4.0]), "takes rows of 3 that there are not"),
        (np.array([0.5]), "takes rows of 3 that there are not"),
        (np.array([np.nan]), "takes rows of 3 that there are not"),
        (np.array([-np.inf]), "takes rows of 3 that there are not"),
    ],
)
def test_rows_that_there_are_not(rows: NDArray[Any], words: str, tmp_path: Path) -> None:
    description = described()
    description["graph"]["nodes"].append(one("Take", {"axis": 1}, ["x", "rows"]))
    sentence = refused(tmp_path, file_of(description, {**W, "rows": rows.astype(np.float32)}))
    assert words in sentence


def test_nothing_is_refused_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "fine.bundle").write_bytes(file_of(described()))
    assert convforge.load(tmp_path / "fine.bundle").classes == ("cat", "dog")


_AT = {"dtype": "F32", "shape": [4, 3, 3, 3]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: b"", "does not begin as one"),
        (lambda: b"\x05\0\0\0\0\0\0", "does not begin as one"),
        (lambda: (2**63).to_bytes(8, "little") + b"{}", "does not begin as one"),
        (lambda: (17 * 2**20).to_bytes(8, "little") + b"{" * 100, "does not begin as one"),
        (lambda: (100).to_bytes(8, "little") + b"{}", "damaged or was cut short"),
        (lambda: (2).to_bytes(8, "little") + b"{}", "not a bundle: it has no 'convforge.bundle'"),
        (lambda: (4).to_bytes(8, "little") + b"\xff\xfe\xff\xfe", "damaged or was cut short"),
        (lambda: bundle.to_bytes(CONTENTS)[:-1], "damaged or was cut short"),
        (lambda: bundle.to_bytes(CONTENTS)[:200], "damaged or was cut short"),
        (lambda: bundle.to_bytes(CONTENTS) + b"\0", "damaged or was cut short"),
        (lambda: file_of("[" * 100_000), "cannot be read as JSON"),
        (lambda: file_of('{"answer":' * 50_000), "cannot be read as JSON"),
        (lambda: file_of("{"), "cannot be read as JSON"),
        (lambda: file_of("[]"), "its description must be an object"),
        (lambda: file_of('{"version": 1, "version": 1}'), "an entry is there twice"),
        (lambda: file_of('{"version": NaN}'), "NaN is no number"),
        (lambda: file_of('{"version": 1e999}'), "lacks|version cannot be"),
        (lambda: file_of(f'{{"version": {"1" * 5000}}}'), "cannot be read as JSON|version"),
        (lambda: file_of({**described(), "answer": nested(100)}), "cannot return"),
        (lambda: file_of(described(), {**W, "more": np.ones(3, np.float32)}), "nothing reads the tensor 'more'"),
        (lambda: file_of(described(), {"w": W["w"], "b": W["b"]}), "reads 'v', which nothing before it makes"),
        (lambda: file_of(described(), {**W, "b": np.ones(4, np.float64)}), "'b' is F64"),
        (lambda: file_of(described(), {**W, "b": np.ones(4, np.int64)}), "'b' is I64"),
        (lambda: file_of(described(), {**W, "b": np.ones(4, np.float16)}), "'b' is F16"),
        (lambda: file_of(described(), {**W, "b": np.ones(5, np.float32)}), "needs bias of shape"),
        (lambda: file_of(described(), {**W, "b": np.ones((0,), np.float32)}), "needs bias of shape"),
        (lambda: file_of(described(), header={"w": {**_AT, "data_offsets": [0, 8]}}), "damaged"),
        (lambda: file_of(described(), header={"w": {**_AT, "data_offsets": [16, 448]}}), "damaged"),
        (lambda: file_of(described(), header={"w": {**_AT, "data_offsets": [0, 2**60]}}), "damaged"),
        (lambda: file_of(described(), header={"w": {**_AT, "shape": [2**40, 9], "data_offsets": [0, 432]}}), "damaged"),
        (lambda: file_of(described(), header={"w": {**_AT, "shape": [-4, 3], "data_offsets": [0, 432]}}), "damaged"),
        (lambda: file_of(described(), header={"w": {"dtype": "P64", "shape": [1], "data_offsets": [0, 8]}}), "damaged"),
        (lambda: file_of(described(), header={"__metadata__": {KEY: 7}}), "damaged"),
        (lambda: file_of(described(), header={"__metadata__": {"format": "pt"}}), "not a bundle"),
    ],
)  # fmt: skip
def test_files_that_mean_harm(content: Callable[[], bytes], words: str, tmp_path: Path) -> None:
    sentence = refused(tmp_path, content())
    assert re.search(words, sentence), sentence


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = {"list": [value]}
    return value


def test_a_long_chain_of_nodes_ends_in_a_sentence_or_an_answer(tmp_path: Path) -> None:
    """Passes take some graphs apart by recursion."""
    description = described()
    last = "logits"
    for number in range(5000):
        node = {"operation": "Unary", "fields": {"kind": "identity"}, "inputs": [last], "output": f"n{number}"}
        description["graph"]["nodes"].append(node)
        last = f"n{number}"
    description["graph"]["outputs"][0] = last
    (tmp_path / "long.bundle").write_bytes(file_of(description))
    with suppress(UserError):
        convforge.load(tmp_path / "long.bundle")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_byte_changes_more_than_the_answer(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any byte of the header may be another: the file is refused in a sentence, or is another sound network."""
    content = bytearray(bundle.to_bytes(CONTENTS))
    last = 7 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, last))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("changed") / "x.bundle"
    path.write_bytes(content)
    with suppress(UserError):
        assert isinstance(bundle.read(path).graph, Graph)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(json_values, st.data())
def test_any_value_in_any_place_is_refused_or_sound(value: Any, data: st.DataObject) -> None:
    description = described()["graph"]
    places: list[tuple[Any, Any]] = []

    def walk(thing: Any) -> None:
        for key in thing if isinstance(thing, dict) else range(len(thing)) if isinstance(thing, list) else ():
            places.append((thing, key))
            walk(thing[key])

    walk(description)
    thing, key = data.draw(st.sampled_from(places))
    thing[key] = value
    with suppress(GraphError):
        assert isinstance(decoded(description, W), Graph)


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


def test_a_name_that_the_format_has_for_itself() -> None:
    graph = Graph(
        {"x": (1, 3)}, ("y",), (Node(n.Binary("add"), ("x", "__metadata__"), "y"),), {"__metadata__": np.ones(3)}
    )
    with pytest.raises(UserError, match="cannot hold weights of the name '__metadata__'"):
        bundle.to_bytes(bundle.Contents(graph, "float32", 0, About()))


def test_a_folder_that_cannot_be_written(written: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write"):
        convforge.load(written).save(tmp_path / "file" / "net.bundle")


@given(
    st.recursive(
        st.none() | st.integers(0, 2),
        lambda inside: (
            st.lists(inside, max_size=3)
            | st.lists(inside, max_size=3).map(tuple)
            | st.dictionaries(st.text(max_size=3), inside, max_size=3)
        ),
        max_leaves=5,
    )
)
def test_answers_go_through(template: Any) -> None:
    assert answers.from_json(json.loads(json.dumps(answers.to_json(template))), 3) == template
