"""What MODEL may be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convforge.errors import UserError
from convforge.models.checkpoint import Architecture, save
from convforge.models.resolve import IMAGENET, parse_shape, resolve
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


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_optional_packages_are_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match=f"needs {package}, which is not installed: pip install {package}"):
        resolve(f"{package}:resnet50")


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
