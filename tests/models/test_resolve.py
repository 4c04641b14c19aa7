"""What MODEL may be."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from convforge.errors import UserError
from convforge.models.checkpoint import Architecture, save
from convforge.models.resolve import IMAGENET_MEAN, IMAGENET_STD, resolve
from convforge.models.sizes import IMAGENET, parse_shape
from convforge.spec import SpecError

CODE = """
from torch import nn

ready = nn.Conv2d(3, 4, 3)
number = 5

class Net(nn.Sequential):
    def __init__(self, width=4):
        super().__init__(nn.Conv2d(3, width, 3))

    @staticmethod
    def wide():
        return Net(8)

def needs(width):
    return Net(width)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with someone's code in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "their_code.py").write_text(CODE)
    return tmp_path


def test_a_line_takes_no_memory() -> None:
    found = resolve("flatten, linear 1000")
    assert (found.input_shape, found.assumed) == (IMAGENET, True)
    assert {p.device.type for p in found.module.parameters()} == {"meta"}
    assert resolve("conv 4 3", (1, 9, 9)).assumed is False


@pytest.mark.parametrize(("name", "channels"), [("ready", 4), ("Net", 4), ("Net.wide", 8)])
def test_code_from_the_current_directory(here: Path, name: str, channels: int) -> None:
    found = resolve(f"their_code:{name}", (3, 8, 8))
    assert found.module(torch.zeros(1, 3, 8, 8)).shape[1] == channels


def test_a_checkpoint_brings_its_size(tmp_path: Path) -> None:
    digits = Architecture("vgg", {}, tuple("0123456789"), (1, 28, 28), mean=(0.1,), std=(0.3,))
    save(tmp_path / "run", digits.build(), digits)
    found = resolve(str(tmp_path / "run"))
    assert (found.input_shape, found.assumed) == ((1, 28, 28), False)
    assert resolve(str(tmp_path / "run"), (1, 32, 32)).input_shape == (1, 32, 32)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("", "MODEL is empty"),
        ("resnet50", "'resnet50' is not a model: it can be a folder"),
        ("runs/nothing", "there is no folder 'runs/nothing'"),
        ("their_code:number", "is int: name a model"),
        ("their_code:needs", r"could not be called without arguments \(TypeError"),
        ("their_code:nothing", "has no 'nothing'"),
        ("no_such_module:Net", "cannot be imported: ModuleNotFoundError"),
        ("os:getcwd", "made str, not a torch.nn.Module"),
        ("weights.pt", "is a pickle, which can run any code"),
        ("their_code.py", "is a file; a checkpoint is a folder"),
        ("conv 999999999 99999999 same", "more weights than"),
    ],
)
def test_mistakes_say_what_there_is(here: Path, model: str, words: str) -> None:
    (here / "weights.pt").write_bytes(b"anything")
    with pytest.raises((UserError, SpecError), match=words) as caught:
        resolve(model, (1, 2**29, 2**29))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("no_such_module:Net", "cannot be imported"),
        ("their_code:nothing", "has no 'nothing'"),
        ("their_code:number", "is int: name a model"),
        ("their_code:Net", "the size of the images for 'their_code:Net' is not known: say it"),
    ],
)
def test_the_size_is_asked_for_when_all_else_is_right(model: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve(model)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_optional_packages_are_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match=f"needs {package}, which is not installed: pip install {package}"):
        resolve(f"{package}:resnet50")


def test_a_line_that_is_ready_has_weights_the_same_every_time_and_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = (resolve("conv 4 3x3, gap, linear 2", (3, 8, 8), ready=True) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    for one, other in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.device.type == "cpu"
    assert first.notes == ("its weights are random, for nothing has trained it.",)
    with pytest.raises(UserError, match=r"would take 56\.1 GiB: use fewer or smaller layers"):
        resolve("linear 100000", ready=True)


class Zoo:
    """As much of timm and torchvision as is asked for; has trained weights unless there is no `network`."""

    def __init__(self, network: bool) -> None:
        self.models, self.network = self, network

    def create_model(self, name: str, pretrained: bool) -> torch.nn.Module:
        return self._make(name, pretrained)

    def get_model(self, name: str, weights: str | None) -> torch.nn.Module:
        return self._make(name, weights is not None)

    def get_model_weights(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(DEFAULT=SimpleNamespace(meta={"categories": ["cat", "dog"]}))

    def _make(self, name: str, trained: bool) -> torch.nn.Module:
        if name != "small":
            raise RuntimeError(f"Unknown model ({name})")
        if trained and not self.network:
            raise OSError("no route to host")
        model = torch.nn.Conv2d(3, 2, 3)
        torch.nn.init.constant_(model.weight, float(trained))
        model.default_cfg = {"input_size": (3, 64, 64), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}  # type: ignore[assignment]
        return model


class TimmData:
    """As much of `timm.data` as names classes."""

    def infer_imagenet_subset(self, model: torch.nn.Module) -> str:
        return "of two"

    def ImageNetInfo(self, subset: str) -> SimpleNamespace:
        assert subset == "of two"
        return SimpleNamespace(num_classes=lambda: 2, index_to_description=("a tench", "a goldfish").__getitem__)


def test_pretrained_models_come_with_their_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, package, Zoo(network=True))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "timm.data", TimmData())  # type: ignore[arg-type]
    found = resolve("timm:small", ready=True)
    assert found.classes == ("a tench", "a goldfish")
    assert (found.input_shape, found.mean, found.std) == ((3, 64, 64), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (float(found.module.weight.detach().max()), found.notes) == (1.0, ())
    assert float(resolve("timm:small").module.weight.detach().max()) == 0.0  # to count, nothing is fetched
    assert resolve("timm:small", (1, 64, 64), ready=True).mean is None
    found = resolve("torchvision:small", ready=True)
    assert (found.mean, found.std, found.classes) == (IMAGENET_MEAN, IMAGENET_STD, ("cat", "dog"))


def test_without_trained_weights_a_note_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, package, Zoo(network=False))  # type: ignore[arg-type]
        found = resolve(f"{package}:small", ready=True)
        (note,) = found.notes
        assert note.startswith(f"its weights are random, for nothing has trained it: {package} has no trained ones")
        assert "no route to host" in note
        assert found.classes is None
        with pytest.raises(UserError, match=f"{package} cannot make 'large': RuntimeError: Unknown model"):
            resolve(f"{package}:large", ready=True)


def test_a_checkpoint_brings_normalisation_and_classes(tmp_path: Path) -> None:
    digits = Architecture("vgg", {}, tuple("0123456789"), (1, 28, 28), mean=(0.1,), std=(0.3,))
    save(tmp_path / "run", digits.build(), digits)
    found = resolve(str(tmp_path / "run"), ready=True)
    assert (found.mean, found.std, found.classes, found.notes) == ((0.1,), (0.3,), digits.classes, ())


def test_the_notation_of_explain_and_bench_is_told_how_to_be_a_line() -> None:
    with pytest.raises(UserError) as mistake:
        resolve("64,56,128,3x3,stride=2,padding=1,batch=4")
    said = str(mistake.value)
    assert said.endswith("here write 'conv 128 3x3 stride=2 padding=1' --input 64x56x56.")
    assert resolve("conv 128 3x3 stride=2 padding=1", (64, 56, 56)).input_shape == (64, 56, 56)


def test_code_needs_a_size() -> None:
    with pytest.raises(UserError, match="--input 3x224x224"):
        resolve("their_code:Net")


@pytest.mark.parametrize("text", ["3x224x224", "3×224×224", "3,224,224", " 3 x 224 x 224 "])
def test_sizes(text: str) -> None:
    assert parse_shape(text) == (3, 224, 224)


@pytest.mark.parametrize("text", ["", "224", "3x224", "3x0x5", "3x-1x5", "axbxc", "1x3x4x5"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(UserError, match="channels x height x width"):
        parse_shape(text)
