"""`convforge.load` and `convforge.compile`: the network as it was, from files, folders and modules."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from see import mobilenet
from torch import Tensor, nn

import convforge
from convforge.errors import UserError
from convforge.graph.capture import CannotCapture
from convforge.graph.lowering import CannotLower
from convforge.images.photographs import photographs
from convforge.images.read import read_image
from convforge.models import export
from convforge.models.checkpoint import Architecture, save
from convforge.train.evaluation import normalise

CLASSES = tuple(f"class {letter}" for letter in "abcdefg")
ARCHITECTURE = Architecture("resnet", {}, CLASSES, (3, 48, 40), mean=(0.5, 0.45, 0.4), std=(0.25, 0.3, 0.2))
SOURCES = ("run", "run.bundle", "run.onnx")


@pytest.fixture(scope="module")
def module() -> nn.Module:
    """In eval mode, with statistics in its batch norms as training leaves them."""
    torch.manual_seed(0)
    model = ARCHITECTURE.build()
    with torch.no_grad():
        model(torch.randn(8, *ARCHITECTURE.input_shape))
    return model.eval()


@pytest.fixture(scope="module")
def folder(module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as a run, a bundle and an ONNX file."""
    folder = tmp_path_factory.mktemp("networks")
    save(folder / "run", module, ARCHITECTURE)
    for form in ("bundle", "onnx"):
        export.export(folder / "run", form, folder / f"run.{form}")
    return folder


@pytest.fixture(params=SOURCES)
def loaded(request: pytest.FixtureRequest, folder: Path) -> convforge.Model:
    return convforge.load(folder / request.param)


def distance(found: Any, expected: Tensor) -> float:
    """Relative, in the Euclidean norm."""
    wanted = expected.detach().double().numpy()
    return float(np.linalg.norm(np.asarray(found, np.float64) - wanted) / np.linalg.norm(wanted))


# ---------------------------------------------------------------------------------------------------------------------
# The same network
# ---------------------------------------------------------------------------------------------------------------------


def test_what_it_is(loaded: convforge.Model) -> None:
    assert loaded.input_shape == (3, 48, 40)
    assert loaded.classes == CLASSES
    assert loaded.mean == pytest.approx(ARCHITECTURE.mean)
    assert loaded.std == pytest.approx(ARCHITECTURE.std)
    assert loaded.classifies
    assert repr(loaded) == "<convforge.Model for 3×48×40, 7 classes>"


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_numbers_are_the_modules(
    loaded: convforge.Model, module: nn.Module, batch: int, layout: torch.memory_format
) -> None:
    x = torch.randn(batch, 3, 48, 40).to(memory_format=layout)
    expected = module(x)
    found = loaded(x)
    assert isinstance(found, Tensor)
    assert found.dtype == torch.float32
    assert distance(found, expected) < 1e-5
    array = loaded(x.numpy())
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, found.numpy())


def test_predict_is_what_training_would_have_seen(loaded: convforge.Model, module: nn.Module, tmp_path: Path) -> None:
    """Real photographs; grey ones, transparent ones, and more than are computed together."""
    images: list[str] = [str(path) for path in photographs()]
    Image.open(images[1]).convert("RGBA").rotate(30).save(tmp_path / "turned.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "turned.png").read_bytes()[:99])
    images += [str(tmp_path / "turned.png"), str(tmp_path / "torn.png"), str(tmp_path / "nothing.png"), images[0]]
    assert len(images) > 16
    for ours, image in zip(loaded.predict(images, top=3), images, strict=True):
        assert ours.image == image
        if Path(image).name in ("torn.png", "nothing.png"):
            with pytest.raises(UserError) as mistake:
                read_image(image, 3, (48, 40))
            assert (ours.error, ours.ranking) == (str(mistake.value), ())
            continue
        pixels = torch.from_numpy(read_image(image, 3, (48, 40)))
        shares, classes = module(normalise(pixels[None], ARCHITECTURE))[0].softmax(0).topk(3)
        assert ours.error is None
        assert [name for name, _ in ours.ranking] == [CLASSES[number] for number in classes]
        assert [p for _, p in ours.ranking] == pytest.approx(shares.tolist(), abs=1e-5)


def test_called_with_pictures_it_answers_with_their_logits(loaded: convforge.Model, module: nn.Module) -> None:
    paths = [str(path) for path in photographs()[:3]]
    pixels = torch.from_numpy(np.stack([read_image(path, 3, (48, 40)) for path in paths]))
    expected = module(normalise(pixels, ARCHITECTURE))
    assert distance(loaded(paths), expected) < 1e-5
    assert distance(loaded(Path(paths[0])), expected[:1]) < 1e-5
    with Image.open(paths[1]) as image:
        assert distance(loaded([paths[0], image]), expected[:2]) < 1e-5
    with pytest.raises(UserError, match=r"nothing\.png does not exist"):
        loaded("nothing.png")


def test_predict_takes_images_and_arrays_too(loaded: convforge.Model) -> None:
    path = photographs()[0]
    with Image.open(path) as image:
        image.load()
        pixels = np.asarray(image)
        grey = np.asarray(image.convert("L"))
        from_file, from_image, from_pixels = (
            loaded.predict(given)[0].ranking for given in (path, Image.fromarray(pixels), pixels)
        )
    assert from_file == from_image == from_pixels
    assert len(from_file) == 5
    both = loaded.predict([grey, grey[:, :, np.newaxis]], top=99)
    assert both[0].ranking == both[1].ranking
    assert sum(share for _, share in both[0].ranking) == pytest.approx(1)
    assert [answer.image for answer in both] == ["picture 1", "picture 2"]


def test_from_several_threads_at_once(loaded: convforge.Model, module: nn.Module) -> None:
    batches = [torch.randn(1 + n % 4, 3, 48, 40) for n in range(32)]
    with torch.inference_mode():
        expected = [module(x) for x in batches]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(loaded, batches))
    assert max(map(distance, found, expected)) < 1e-5


def test_the_report_names_each_step(loaded: convforge.Model) -> None:
    report = loaded.report()
    assert all(step.on_engine for step in report.steps)
    words = str(report).splitlines()
    assert words[0].split() == ["step", "by", "makes"]
    assert words[1].startswith("3×3, 3→16")
    assert words[1].endswith("1×16×48×40")
    assert "all on convforge's engine" in words[-2]
    assert report.to_json()["steps"][0]["makes"] == (1, 16, 48, 40)


def test_precision_is_that_of_the_call(loaded: convforge.Model) -> None:
    assert any("winograd" in step.by for step in loaded.report().steps)
    with convforge.set_precision("exact"):
        assert not any("winograd" in step.by for step in loaded.report().steps)
        x = np.ones((1, 3, 48, 40), np.float32)
        exact = loaded(x)
    assert np.allclose(exact, loaded(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["run/model.safetensors", "run/architecture.json"])
def test_a_file_of_a_run_is_its_run(folder: Path, name: str) -> None:
    assert convforge.load(folder / name).classes == CLASSES


def test_what_the_user_says_goes_first(folder: Path) -> None:
    names = [f"{n}" for n in range(7)]
    for source in SOURCES:
        model = convforge.load(folder / source, classes=names, mean=(0, 0, 0), std=(1, 1, 1), threads=1)
        assert model.classes == tuple(names)
        assert model.mean == (0, 0, 0)


@pytest.mark.parametrize(("source", "absent"), [("run.bundle", ["torch", "onnx"]), ("run.onnx", ["torch"])])
def test_files_run_without_torch(folder: Path, source: str, absent: list[str]) -> None:
    program = f"""
import sys
for name in {absent}: sys.modules[name] = None
import numpy as np, convforge
model = convforge.load({str(folder / source)!r})
(answer,) = model.predict({str(photographs()[0])!r})
print(model(np.ones((2, 3, 48, 40))).shape, len(answer.ranking), len(model.report().steps) > 5)
model.save({str(folder / "again.bundle")!r})
convforge.load({str(folder / "again.bundle")!r})
sys.argv = ["convforge", "run", {str(folder / source)!r}, {str(photographs()[0])!r}]
from convforge.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "(2, 7) 5 True"
    assert "class " in second


def test_mobilenet_v2_names_the_same_on_photographs(tmp_path: Path) -> None:
    """With the weights of ImageNet, at full size, from a bundle."""
    module = mobilenet.pretrained()
    images = [str(path) for path in photographs()]
    convforge.compile(module, torch.zeros(1, 3, 224, 224), mean=mobilenet.MEAN, std=mobilenet.STD).save(tmp_path / "x")
    network = convforge.load(tmp_path / "x")
    x = torch.from_numpy(np.stack([read_image(image, 3, (224, 224)) for image in images])).float() / 255
    x = (x - torch.tensor(mobilenet.MEAN).view(3, 1, 1)) / torch.tensor(mobilenet.STD).view(3, 1, 1)
    with torch.inference_mode():
        expected = module(x)
    assert distance(network(x), expected) < 1e-5
    assert [int(answer.ranking[0][0]) for answer in network.predict(images)] == expected.argmax(1).tolist()


# ---------------------------------------------------------------------------------------------------------------------
# compile
# ---------------------------------------------------------------------------------------------------------------------


class Heads(nn.Module):
    """Two scales, squeeze and excite, a transposed convolution; a dictionary comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Hardswish())
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid()
        )
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.boxes = nn.Conv2d(8 + 3, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        low = self.first(x)
        low = low * self.squeeze(low)
        high = torch.cat([self.up(low), x], 1)
        return {"boxes": self.boxes(high), "maps": [low, (high.amax((2, 3)), None)]}


def test_dictionaries_come_out_and_go_through_a_bundle(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module, x = Heads().eval(), torch.randn(2, 3, 24, 32)
    model = convforge.compile(module, x)
    model.save(tmp_path / "heads.bundle")
    expected = module(x)
    for each in (model, convforge.load(tmp_path / "heads.bundle")):
        for given in (x, x.numpy()):
            found = each(given)
            assert list(found) == ["boxes", "maps"]
            assert distance(found["boxes"], expected["boxes"]) < 1e-5
            assert isinstance(found["maps"], list)
            low, (most, nothing) = found["maps"]
            assert distance(low, expected["maps"][0]) < 1e-5
            assert distance(most, expected["maps"][1][0]) < 1e-5
            assert nothing is None
        assert not each.classifies
        with pytest.raises(UserError, match=r"the shape \(2, 4, 24, 32\) and names no classes"):
            each.predict(x.numpy())


def test_several_inputs() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.relu(x + 2 * y)

    x, y = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    model = convforge.compile(Sum().eval(), (x, y))
    assert torch.allclose(model(x, y), torch.relu(x + 2 * y))
    with pytest.raises(UserError, match=r"takes 2 inputs \(x, y\), not 1"):
        model(x)


def test_an_optimized_model_is_compiled_as_any_other(module: nn.Module) -> None:
    x = torch.randn(2, 3, 48, 40)
    assert distance(convforge.compile(convforge.optimize(module), x)(x), module(x)) < 1e-5


def test_double() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU()).double().eval()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    found = convforge.compile(module, x)(x)
    assert found.dtype == torch.float64
    assert distance(found, module(x)) < 1e-13


def test_it_has_the_weights_of_when_it_was_compiled() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    x = torch.randn(1, 3, 9, 9)
    model, expected = convforge.compile(module, x), module(x)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert distance(model(x), expected) < 1e-5
    assert distance(model(x.expand(4, -1, -1, -1)), expected.expand(4, -1, -1, -1)) < 1e-5


def test_other_numbers_are_converted_and_strange_ones_refused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    x = torch.randn(2, 3, 9, 9)
    model = convforge.compile(module, x)
    assert np.array_equal(model(x.numpy().astype(np.float64)), model(x.numpy()))
    assert model(x.bfloat16()).dtype == torch.float32
    assert np.array_equal(model(x.numpy()[:, ::-1]), model(x.numpy()[:, ::-1].copy()))
    leaf = x.clone().requires_grad_()
    with torch.no_grad():
        assert torch.equal(model(leaf), model(x))
    for given, words in (
        (leaf, "only infers, and 'input' asks for gradients"),
        (np.zeros((1, 3, 9, 9), np.uint8), "not uint8: predict takes pictures"),
        (np.zeros((0, 3, 9, 9), np.float32), "there is nothing in it"),
        (np.zeros((3, 9, 9), np.float32), "takes 4 axes"),
        (np.zeros((1, 4, 9, 9), np.float32), "cannot take 4"),
        (np.zeros((1, 3, 9, 12), np.float32), "cannot take 12"),
        ("cat.png", "nobody knows how this network's pictures are normalised"),
        ([1, 2], "floating-point numbers"),
    ):
        with pytest.raises(UserError, match=words):
            model(given)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("module", "example", "words"),
    [
        (nn.Conv2d(3, 8, 3), torch.ones(1, 3, 9, 9), r"in training mode.*model.eval\(\)"),
        (nn.Conv2d(3, 8, 3).eval().bfloat16(), torch.ones(1, 3, 9, 9), "bfloat16 and float32"),
        (nn.Conv2d(3, 8, 3).eval().half(), torch.ones(1, 3, 9, 9).half(), "are float16"),
        (nn.Conv2d(3, 8, 3, device="meta").eval(), torch.ones(1, 3, 9, 9), "is on cpu and meta"),
        (nn.Conv2d(3, 8, 3).eval(), [1.0], "example_input must be a tensor"),
        (Branch().eval(), torch.ones(1, 3, 9, 9), "Branch cannot be captured.*optimize"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), None, "training mode"),
        (torch.relu, torch.ones(1, 3, 9, 9), "takes a torch.nn.Module, not builtin"),
    ],
)  # fmt: skip
def test_what_compile_cannot_take_is_one_sentence(module: Any, example: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        convforge.compile(module, example)
    assert "\n" not in str(raised.value)


def test_what_depends_on_the_numbers_is_said_in_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    """torch would print its whole graph, and reasons as long as the network is deep."""

    class Found(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            counts = [torch.nonzero(x[:, :, i].flatten() > 0).numel() for i in range(20)]
            return x * 2 if sum(counts) > 4 else x

    with pytest.raises(CannotCapture, match=r"Found cannot be captured: torch\.export says") as raised:
        convforge.compile(Found().eval(), torch.ones(1, 3, 20, 4))
    assert len(str(raised.value)) < 400
    assert capfd.readouterr() == ("", "")


def test_what_has_no_kernel_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from convforge.graph.network import Network

    def refuse(self: Network, *_: object) -> None:
        raise CannotLower("there is no kernel for wobbling (node 'w').")

    monkeypatch.setattr(Network, "planned", refuse)
    with pytest.raises(CannotLower, match=r"Conv2d cannot be compiled: there is no kernel for wobbling.*optimize"):
        convforge.compile(nn.Conv2d(3, 8, 3).eval(), torch.ones(1, 3, 9, 9))


def test_threads() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    x = torch.randn(1, 3, 60, 60)
    expected = module(x)
    for threads in (1, 3, 100_000):
        assert distance(convforge.compile(module, x, threads=threads)(x), expected) < 1e-5
    for odd in (-1, 1.5, "2", True):
        with pytest.raises(UserError, match="threads must be a whole number"):
            convforge.compile(module, x, threads=odd)  # type: ignore[arg-type]


def test_classes_and_normalisation_must_fit() -> None:
    module, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval(), torch.ones(1, 3, 2, 2)
    for settings, words in (
        ({"classes": ["a", "b"]}, "2 names of classes, but the network's output"),
        ({"classes": "abcd"}, "classes must be a list of names"),
        ({"mean": (0.5,), "std": (0.5,)}, "1 numbers, but images 3 channels"),
        ({"mean": (0.5,) * 3}, "mean and std go together"),
        ({"mean": (0.5,) * 3, "std": (0.5, 0.5, 0)}, "std must be above 0"),
        ({"mean": ("a",), "std": (1,)}, "mean must be one number a channel"),
    ):
        with pytest.raises(UserError, match=words):
            convforge.compile(module, x, **settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nobody knows how this network's pictures are normalised"):
        convforge.compile(module, x).predict(np.zeros((5, 5, 3), np.uint8))
    unnamed = convforge.compile(module, x, mean=(0.5,) * 3, std=(0.5,) * 3)
    (answer,) = unnamed.predict(np.zeros((5, 5, 3), np.uint8), top=4)
    assert {name for name, _ in answer.ranking} == {"0", "1", "2", "3"}
    (answer,) = unnamed.predict(np.zeros((5, 5), np.float32))
    assert "arrays of pixels are uint8" in str(answer.error)
    measure = convforge.compile(nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).eval(), x)
    assert not measure.classifies  # one number is no class
    with pytest.raises(UserError, match="top must be at least 1"):
        unnamed.predict([], top=0)
    assert unnamed.predict([]) == []


# ---------------------------------------------------------------------------------------------------------------------
# Runs that cannot be compiled
# ---------------------------------------------------------------------------------------------------------------------


def test_a_run_that_cannot_be_captured_goes_layer_by_layer(
    folder: Path, module: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise CannotCapture("ResNet cannot be captured: aten.wobble has no node in our graphs.")

    monkeypatch.setattr("convforge.inference.compile.captured", refuse)
    model = convforge.load(folder / "run")
    x = torch.randn(3, 3, 48, 40)
    assert distance(model(x), module(x)) < 1e-5
    assert isinstance(model(x.numpy()), np.ndarray)
    assert [name for name, _ in model.predict(photographs()[0])[0].ranking]
    report = model.report()
    assert report.notes[0] == "layer by layer: ResNet cannot be captured: aten.wobble has no node in our graphs."
    assert "convolutions on convforge's engine; all else in PyTorch" in report.notes[1]
    with pytest.raises(UserError, match="runs layer by layer in PyTorch, and a bundle holds whole ones only"):
        model.save(tmp_path / "x.bundle")


# ---------------------------------------------------------------------------------------------------------------------
# ONNX files of others
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes an ONNX file of nodes."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper

    def write(nodes: list[Any], shape: list[Any], made: list[Any], weights: dict[str, Any], kind: int = 1) -> Path:
        graph = helper.make_graph(
            nodes, "net",
            [helper.make_tensor_value_info("x", kind, shape)], [helper.make_tensor_value_info("y", kind, made)],
            [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
        )  # fmt: skip
        path = tmp_path / "net.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
        return path

    return write


def test_a_softmax_at_the_end_is_not_done_twice(written: Any) -> None:
    import onnx

    weights = {"w": np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)}
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        onnx.helper.make_node("Softmax", ["logits"], ["y"], axis=1),
    ]
    path = written(nodes, ["batch", 3, 2, 2], ["batch", 5], weights)
    model = convforge.load(path, mean=(0, 0, 0), std=(1, 1, 1))
    picture = np.full((2, 2, 3), 255, np.uint8)
    logits = np.ones(12) @ weights["w"].astype(np.float64)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    (answer,) = model.predict(picture)
    assert [p for _, p in answer.ranking] == pytest.approx(sorted(expected, reverse=True), abs=1e-6)


def test_double_in_a_file_is_double_here(written: Any) -> None:
    import onnx

    weights = {"w": np.random.default_rng(0).standard_normal((4, 3, 3, 3))}
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])]
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    found = convforge.load(written(nodes, ["n", 3, 6, 6], ["n", 4, 4, 4], weights, kind=onnx.TensorProto.DOUBLE))(x)
    assert found.dtype == torch.float64
    assert distance(found, nn.functional.conv2d(x, torch.from_numpy(weights["w"]))) < 1e-13


def test_an_open_shape_is_asked_for(written: Any) -> None:
    import onnx

    nodes = [onnx.helper.make_node("GlobalAveragePool", ["x"], ["y"])]
    path = written(nodes, ["batch", 3, "height", "width"], ["batch", 3, 1, 1], {})
    with pytest.raises(UserError, match=r"leaves the shape of its images open.*--input 3x224x224"):
        convforge.load(path)
    model = convforge.load(path, (3, 8, 6), mean=(0, 0, 0), std=(1, 1, 1))
    assert model.input_shape == (3, 8, 6)
    assert model.classifies
    assert model(np.ones((2, 3, 10, 20), np.float32)).shape == (2, 3, 1, 1)
    with pytest.raises(UserError):
        convforge.load(path, (4, 8, 6))


def test_a_batch_that_cannot_change_is_filled_up(written: Any) -> None:
    import onnx

    nodes = [
        onnx.helper.make_node("ReduceMean", ["x"], ["means"], axes=[2, 3], keepdims=0),
        onnx.helper.make_node("Add", ["means", "offset"], ["y"]),
    ]
    offset = np.tile(np.arange(3, dtype=np.float32), (4, 1))
    path = written(nodes, [4, 3, 5, 5], [4, 3], {"offset": offset})
    model = convforge.load(path, mean=(0, 0, 0), std=(1, 1, 1))
    answers = model.predict([np.zeros((5, 5, 3), np.uint8)] * 5, top=1)
    assert [answer.ranking[0][0] for answer in answers] == ["2"] * 5
    assert len({answer.ranking for answer in answers}) == 1
    with pytest.raises(UserError, match="cannot take 5"):
        model(np.zeros((5, 3, 5, 5), np.float32))


def test_images_with_channels_last_are_fed_so(written: Any) -> None:
    import onnx

    nodes = [onnx.helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)]
    model = convforge.load(written(nodes, ["n", 6, 8, 3], ["n", 3], {}), mean=(0, 0, 0), std=(1, 1, 1))
    picture = np.zeros((6, 8, 3), np.uint8)
    picture[:, :, 1] = 255
    (answer,) = model.predict(picture, top=1)
    assert answer.ranking[0][0] == "1"


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be loaded
# ---------------------------------------------------------------------------------------------------------------------


def test_what_is_no_network_is_one_sentence(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02")
    (tmp_path / "letter.txt").write_text("Dear reader")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    from safetensors.numpy import save_file

    save_file({"w": np.ones(3, np.float32)}, tmp_path / "weights.safetensors")
    for name, words in (
        ("nothing.onnx", "there is no .*nothing.onnx: give the folder of a run, a bundle"),
        ("weights.pth", r"weights.pth is a pickle, which can run any code"),
        ("letter.txt", "cannot be read as an ONNX file"),
        ("empty.onnx", "empty.onnx"),
        ("empty", "architecture.json is not there"),
        ("weights.safetensors", "is a safetensors file, but not a bundle"),
    ):
        with pytest.raises(UserError, match=words) as raised:
            convforge.load(tmp_path / name)
        assert "\n" not in str(raised.value)
    for source in ("run", "run.bundle"):
        with pytest.raises(UserError, match="says itself what its images are"):
            convforge.load(folder / source, (3, 48, 40))
    with pytest.raises(UserError, match="2 names of classes"):
        convforge.load(folder / "run.onnx", classes=["a", "b"])
