"""Export: every file runs where convforge is not, answers the same, and is only there if it did."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from convforge.errors import UserError
from convforge.models import export as exporting
from convforge.models.checkpoint import Architecture, load, save
from convforge.models.export import export

ARCHITECTURE = Architecture(
    "resnet",
    {"widths": [4, 8], "blocks": 1},
    ("a", '<script>"é'),
    (3, 12, 10),
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.2),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = ARCHITECTURE.build()
    # Batch norm with a life behind it: statistics of 0 and 1 would hide a mistake in folding it into the kernels.
    model.train()
    model(torch.randn(16, 3, 12, 10) * 2 + 1)
    save(tmp_path / "pets", model, ARCHITECTURE)
    return tmp_path / "pets"


def network_and_input(run: Path, batch: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    model, _ = load(run)
    inputs = torch.randn(batch, 3, 12, 10, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return inputs, model(inputs)


def test_onnx(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    made = export(run, "onnx")
    assert made.path == run / "pets.onnx"
    assert made.size == made.path.stat().st_size
    assert made.difference <= 1e-5
    assert capfd.readouterr() == ("", "")

    proto = onnx.load(made.path)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert "Conv" in {node.op_type for node in proto.graph.node}
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(metadata["convforge"]) == json.loads(json.dumps(asdict(ARCHITECTURE)))

    inputs, expected = network_and_input(run)
    session = onnxruntime.InferenceSession(made.path)
    np.testing.assert_allclose(session.run(None, {"images": inputs.numpy()})[0], expected, atol=1e-5)


def test_torch_runs_without_convforge(run: Path, tmp_path: Path) -> None:
    made = export(run, "torch", output=tmp_path / "pets.pt2")
    inputs, expected = network_and_input(run)
    np.save(tmp_path / "inputs.npy", inputs.numpy())
    script = (
        "import sys; sys.modules['convforge'] = None\n"
        "import numpy, torch\n"
        "inputs = torch.from_numpy(numpy.load('inputs.npy'))\n"
        "extra = {'convforge.json': ''}\n"
        "outputs = torch.export.load('pets.pt2', extra_files=extra).module()(inputs)\n"
        "numpy.save('outputs.npy', outputs.detach().numpy()); print(extra['convforge.json'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), expected, atol=1e-5)
    assert json.loads(done.stdout)["classes"] == list(ARCHITECTURE.classes)
    assert made.difference <= 1e-5
    assert zipfile.is_zipfile(made.path)


def test_safetensors(run: Path) -> None:
    from safetensors.torch import load_file

    made = export(run, "safetensors")
    assert (
        made.difference < 1e-7
    )  # torch's convolutions beside ours; the numbers in the file are compared exactly below
    tensors = load_file(made.path)
    model, _ = load(run)
    assert tensors.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(tensors[name], value, rtol=0, atol=0)


def test_a_file_that_is_there_stays_there(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_text("precious")
    with pytest.raises(UserError, match=r"mine\.safetensors is already there: .* --force"):
        export(run, "safetensors", output=mine)
    assert mine.read_text() == "precious"
    export(run, "safetensors", output=mine, force=True)
    assert mine.read_bytes() != b"precious"
    assert not list(tmp_path.glob(".mine*"))


def test_an_export_that_answers_differently_is_not_left_behind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix, write, again = exporting._FORMATS["safetensors"]
    mine = tmp_path / "mine.safetensors"
    for spoil in (lambda outputs: outputs + 0.1, lambda outputs: outputs * torch.nan):
        spoiled = (suffix, write, lambda path, inputs, spoil=spoil: spoil(again(path, inputs)))
        monkeypatch.setitem(exporting._FORMATS, "safetensors", spoiled)
        with pytest.raises(UserError, match="answers differently from the network, by"):
            export(run, "safetensors", output=mine)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pets"]


def test_a_network_without_numbers(run: Path) -> None:
    model, _ = load(run)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    save(run, model, ARCHITECTURE)
    with pytest.raises(UserError, match="not numbers"):
        export(run, "safetensors")


def test_a_network_that_cannot_be_expressed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise NotImplementedError("no such operator\nmany more lines")

    monkeypatch.setitem(exporting._FORMATS, "torch", (".pt2", fail, exporting._run_torch))
    with pytest.raises(UserError, match=r"cannot be exported to torch \(no such operator\)"):
        export(run, "torch")
    assert logging.root.manager.disable == 0


def test_places_that_cannot_be_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        export(run, "safetensors", output=tmp_path / "absent" / "model.safetensors")
    with pytest.raises(UserError, match=r"is a folder: give --output the name of a file"):
        export(run, "safetensors", output=tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        export(run, "safetensors", output=tmp_path / "model.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["pets"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages(run: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package}: pip install 'convforge\[onnx\]'"):
        export(run, "onnx")


def test_unknown_format_and_missing_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="'tflite' is not a format to export to: choose one of bundle, onnx, torch, safetensors"
    ):
        export(run, "tflite")
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        export(tmp_path / "nowhere", "torch")


def test_convolutions_of_convforge_become_plain_ones() -> None:
    class Conv2d(torch.nn.Conv2d):
        pass

    Conv2d.__module__ = "convforge.nn"
    layer = Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), dilation=2, groups=2, bias=False, padding_mode="reflect")
    model = torch.nn.Sequential(layer, torch.nn.ReLU()).eval()
    plain = exporting.with_plain_convolutions(model)
    assert type(plain[0]) is torch.nn.Conv2d
    assert type(model[0]) is Conv2d
    assert not plain[0].training
    inputs = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(plain(inputs), model(inputs))
    alone = exporting.with_plain_convolutions(torch.nn.Sequential(torch.nn.Sequential(layer)))
    assert type(alone[0][0]) is torch.nn.Conv2d


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, names of files are not bytes")
def test_onnx_is_run_again_whatever_the_name_of_the_file(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("images", "logits")]
    graph = helper.make_graph([helper.make_node("Neg", ["images"], ["logits"])], "negation", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    path.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())
    assert exporting._run_onnx(path, torch.tensor([1.0, 2.0])).tolist() == [-1.0, -2.0]
