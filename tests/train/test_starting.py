"""Starting from what is known: another run's weights, or those that timm and torchvision would fetch."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from convforge.errors import UserError
from convforge.models import checkpoint
from convforge.train import Options, freezing, train
from convforge.train.starting import start_of


@pytest.fixture
def options(photos: Path, tmp_path: Path) -> Options:
    return Options(str(photos), epochs=1, batch=8, out=str(tmp_path / "runs"), name="tiny", threads=1, flips=True)


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """Four classes of colour images of another size."""
    draw = np.random.default_rng(1)
    for name in ("north", "east", "south", "west"):
        (tmp_path / "others" / name).mkdir(parents=True)
        for number in range(6):
            pixels = draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "others" / name / f"{number}.png")
    return tmp_path / "others"


def starting_weights(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """What each network was given before it learned."""
    given: list[dict[str, torch.Tensor]] = []
    from convforge.train import run as run_module

    fit = run_module.fit

    def looking(model: nn.Module, *arguments: Any) -> Any:
        given.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return fit(model, *arguments)

    monkeypatch.setattr(run_module, "fit", looking)
    return given


def test_another_runs_weights_begin_with_other_classes_size_and_colours(
    options: Options, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(options).folder
    known, of = load_file(first / "model.safetensors"), checkpoint.read_architecture(first / "architecture.json")
    given, printed = starting_weights(monkeypatch), io.StringIO()
    second = train(
        replace(options, data=str(others), start=str(first), name="second"), Console(file=printed, width=200)
    )
    architecture = checkpoint.read_architecture(second.folder / "architecture.json")
    assert architecture.classes == ("east", "north", "south", "west")
    assert architecture.input_shape == (1, 20, 20)  # as grey as what the network knows
    assert (architecture.arguments, architecture.mean, architecture.std) == (of.arguments, of.mean, of.std)
    last = max(name for name in known if name.endswith(".weight"))
    for name, tensor in given[0].items():
        if not name.startswith(last.partition(".")[0]):
            assert torch.equal(tensor, known[name]), name
    assert given[0][last].shape[0] == 4
    assert f"tensors are those of {first}" in printed.getvalue()
    assert json.loads((second.folder / "config.json").read_text())["options"]["lr"] == 0.001


def test_the_same_classes_keep_the_last_layer_too(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(options).folder
    given = starting_weights(monkeypatch)
    train(replace(options, start=str(first), name="second"))
    known = load_file(first / "model.safetensors")
    assert all(torch.equal(given[0][name], known[name]) for name in known)


def test_a_run_that_started_from_another_is_resumed_without_it(
    options: Options, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(options).folder
    options = replace(options, data=str(others), start=str(first), epochs=2)
    whole = train(replace(options, name="whole"))
    from convforge.train.display import Display
    from convforge.train.stop import Stop

    stop = Stop()
    with monkeypatch.context() as patched:
        patched.setattr(Display, "step", lambda *_: stop.ask())
        stopped = train(replace(options, name="stopped"), stop=stop)
    first.rename(first.with_name("elsewhere"))
    assert train(Options(resume=str(stopped.folder))).finished
    for name in ("model.safetensors", "architecture.json"):
        assert (stopped.folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": "nowhere"}, "nowhere"),
        ({"start": "nowhere", "model": "vgg"}, "leave out --model"),
        ({"start": "nowhere", "pretrained": True}, "leave out --from or --pretrained"),
        ({"pretrained": True}, "no pretrained weights for vgg"),
        ({"pretrained": True, "model": "timm:no such"}, "not the name of a timm model"),
        ({"model": "timm:resnet18"}, "needs the package timm"),
        ({"model": "torchvision:resnet18"}, "needs the package torchvision"),
        ({"model": "conv 8 3x3, rellu"}, "did you mean 'relu'"),
        ({"model": "no_such_module:net"}, "cannot be imported"),
        ({"precision": "bf16"}, "does not multiply in bfloat16"),
        ({"tensorboard": True}, "needs the package tensorboard"),
        ({"out": "/proc/none/runs"}, "cannot make the folder /proc/none/runs: .*; choose another with --out"),
        ({"out": __file__}, "cannot make the folder .*: Not a directory; choose another with --out"),
    ],
)
def test_what_can_be_known_beforehand_is_said_before_an_image_is_read(
    options: Options, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr("convforge.train.run._load", lambda *_: pytest.fail("the images were read"))
    monkeypatch.setattr("convforge.train.precision.has_bf16", lambda: False)
    for package in ("timm", "torchvision", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=said):
        train(replace(options, **change))


class Pretrained(nn.Sequential):
    """A model as timm's are: with a configuration beside it."""

    pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}  # noqa: RUF012 (as timm has it)

    def __init__(self, classes: int = 1000) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.append(nn.Linear(4, classes))


def known_weights(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters(), 1):
            parameter.fill_(number / 10)
    return model


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package of that name with one model; its trained weights are 0.1, 0.2 …"""

    def create_model(name: str, pretrained: bool = False, num_classes: int = 1000, **sizes: Any) -> nn.Module:
        if "img_size" in sizes:
            raise TypeError("unexpected keyword argument 'img_size'")
        return known_weights(Pretrained()) if pretrained else Pretrained(num_classes)

    made = ModuleType("timm")
    made.create_model = create_model  # type: ignore[attr-defined]
    made.is_model = lambda name: name == "tiny"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", made)
    return made


@pytest.mark.usefixtures("timm")
def test_timms_weights_begin_and_bring_their_normalisation(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    given = starting_weights(monkeypatch)
    folder = train(replace(options, model="timm:tiny", pretrained=True)).folder
    assert (given[0]["0.weight"] == 0.1).all()
    assert (given[0]["1.bias"] == 0.4).all()
    assert given[0]["4.weight"].shape == (3, 4)
    with pytest.raises(UserError, match="timm has no model 'tinny'"):
        train(replace(options, model="timm:tinny", name="x"))
    architecture = checkpoint.read_architecture(folder / "architecture.json")
    assert architecture.input_shape == (3, 8, 8)
    assert (architecture.mean, architecture.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_torchvisions_weights_begin_and_bring_their_normalisation(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = SimpleNamespace(mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    models = ModuleType("torchvision.models")
    models.list_models = lambda module: ["tiny"]  # type: ignore[attr-defined]
    models.get_model = lambda name, weights, num_classes=1000: (  # type: ignore[attr-defined]
        known_weights(Pretrained()) if weights else Pretrained(num_classes)
    )
    models.get_model_weights = lambda name: SimpleNamespace(  # type: ignore[attr-defined]
        DEFAULT=SimpleNamespace(transforms=lambda: preset)
    )
    package = ModuleType("torchvision")
    package.models = models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    given = starting_weights(monkeypatch)
    folder = train(replace(options, model="torchvision:tiny", pretrained=True, freeze=True)).folder
    assert (given[0]["0.weight"] == 0.1).all()
    architecture = checkpoint.read_architecture(folder / "architecture.json")
    assert (architecture.family, architecture.mean) == ("torchvision:tiny", (0.1, 0.2, 0.3))
    # Its only epoch was one in which the last layer learned alone.
    learned = load_file(folder / "last" / "model.safetensors")
    assert all(torch.equal(learned[name], given[0][name]) for name in learned if not name.startswith("4."))
    assert not torch.equal(learned["4.weight"], given[0]["4.weight"])
    with pytest.raises(UserError, match=r"has no model 'tinny'.*did you mean tiny"):
        train(replace(options, model="torchvision:tinny", name="x"))


def test_no_network_is_one_sentence(timm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("[Errno 101] Network is unreachable\nand more")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError) as caught:
        start_of(Options(model="timm:tiny", pretrained=True))
    assert "Network is unreachable" in str(caught.value)
    assert "leave out --pretrained" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_frozen_stage_ends_and_then_all_learn(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    learning: list[int] = []
    train_mode = freezing.train

    def looking(model: nn.Module, frozen: bool) -> None:
        train_mode(model, frozen)
        learning.append(sum(parameter.requires_grad for parameter in model.parameters()))
        norms = [layer.training for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert all(norms) is not frozen

    monkeypatch.setattr(freezing, "train", looking)
    train(replace(options, epochs=10, freeze=True))
    assert learning[:8] == [2] * 8  # two epochs of four steps: weights and biases of the last layer
    assert set(learning[8:]) == {8}
