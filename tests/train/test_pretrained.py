"""`--pretrained` with the packages themselves: weights that lie in their caches, as after a download, and none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from convforge.errors import UserError
from convforge.models import checkpoint
from convforge.models.resolve import resolve
from convforge.train import Options, train
from convforge.train.starting import start_of


@pytest.fixture(autouse=True)
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of their own, and nothing is asked of the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request._opener", None)  # which an earlier test's request has made without them
    try:
        from huggingface_hub import constants
    except ImportError:
        return
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def options(photos: Path, tmp_path: Path) -> Options:
    return Options(str(photos), epochs=1, batch=8, out=str(tmp_path / "runs"), name="tiny", threads=1, size=32)


def drawn(model: nn.Module) -> dict[str, Tensor]:
    """Weights that no other seed would give."""
    draw = torch.Generator().manual_seed(7)
    return {
        name: torch.rand(tensor.shape, generator=draw) / 8 if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }


def check_begun_with(weights: dict[str, Tensor], options: Options, last: str) -> None:
    """A run begins with the weights, but for those of its last layer, and with their normalisation."""
    start = start_of(options)
    assert start is not None
    assert start.tensors.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in start.tensors.items())
    # With a rate as small as this, one epoch leaves the weights where they were.
    result = train(replace(options, lr=1e-12, weight_decay=0.0))
    model, architecture = checkpoint.load(result.folder)
    assert (architecture.mean, architecture.std) == (start.mean, start.std)
    learned = {name: tensor for name, tensor in model.named_parameters() if not name.startswith(last)}
    assert len(learned) > 20
    for name, tensor in learned.items():
        torch.testing.assert_close(tensor.detach().contiguous(), weights[name], rtol=0, atol=1e-8)


def test_torchvisions_weights_are_taken_from_its_cache(options: Options, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
    weights = drawn(models.mobilenet_v3_small())
    name = Path(models.MobileNet_V3_Small_Weights.DEFAULT.url).name
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(weights, tmp_path / "torch" / "hub" / "checkpoints" / name)
    begun = replace(options, model="torchvision:mobilenet_v3_small", pretrained=True)
    check_begun_with(weights, begun, "classifier.3")
    shown = resolve("torchvision:mobilenet_v3_small", ready=True)
    assert shown.notes == ()
    assert shown.classes is not None
    assert (len(shown.classes), shown.classes[0]) == (1000, "tench")


def test_timms_weights_are_taken_from_the_hubs_cache(options: Options, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("mobilenetv3_small_050")
    weights = drawn(model)
    place = tmp_path / "hub" / f"models--{model.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(weights, place / "snapshots" / ("0" * 40) / "model.safetensors")
    begun = replace(options, model="timm:mobilenetv3_small_050", pretrained=True)
    check_begun_with(weights, begun, "classifier")
    assert resolve("timm:mobilenetv3_small_050", ready=True).notes == ()


@pytest.mark.parametrize(
    ("package", "model", "why", "kept"),
    [
        ("torchvision", "torchvision:mobilenet_v3_small", "Connection refused", "torch/hub"),
        (
            "timm",
            "timm:mobilenetv3_small_050",
            "they are not in its cache, and the Hugging Face hub does not answer",
            "hub",
        ),
    ],
)
def test_weights_that_are_not_to_be_had_are_one_plain_sentence(
    package: str, model: str, why: str, kept: str, options: Options, tmp_path: Path
) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    with pytest.raises(UserError) as caught:
        train(replace(options, model=model, pretrained=True))
    assert str(caught.value) == (
        f"the weights of {model} could not be loaded ({why}); they are fetched once and then kept in "
        f"{tmp_path / kept}, so try again with a connection, or leave out --pretrained."
    )
    assert resolve(model, ready=True).notes == (
        f"its weights are random, for nothing has trained it: {package} has no trained ones to give ({why}).",
    )
