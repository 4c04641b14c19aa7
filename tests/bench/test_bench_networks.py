"""Whole networks: what is in the rows, and that the results are right. Times are never asserted."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from convforge import UserError
from convforge.bench import machine
from convforge.bench.machine import Machine
from convforge.bench.networks import contenders, run, training
from convforge.bench.networks.busy import busy
from convforge.bench.networks.contender import Given, Memory, Settings
from convforge.bench.networks.contenders import chosen
from convforge.bench.networks.files import writer
from convforge.bench.networks.inference import INFERENCE
from convforge.bench.networks.named import Case, image_of
from convforge.bench.networks.published import PUBLISHED
from convforge.bench.networks.run import First, Measured, Report, Row, Wanted, measure, relative_error
from convforge.bench.networks.table import as_table
from convforge.bench.networks.training import TRAINING
from convforge.bench.process import Child, PeerError
from convforge.graph.profile import StepTime
from convforge.planning import plan

LIMITS = Machine("avx512", 2, 450e9, 45e9, 290e9)
IN_TORCH = ("convforge", "torch", "torch-last", "torch-folded", "inductor")
INSTALLED = [key for key, contender in INFERENCE.items() if not contender.missing]


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "measure", lambda threads: replace(LIMITS, threads=threads))


def tiny(folder: Path, batch: int = 2) -> Case:
    return Case("tiny", (3, 33, 40), batch, folder)


def given(case: Case) -> Given:
    return Given(case, Settings(threads=2), case.images(), None if case.is_file else case.module())


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network `tiny`, for two images."""
    pytest.importorskip("onnxscript")
    case = tiny(tmp_path_factory.mktemp("onnx"))
    return Path(writer()((case, "onnx")))


# --- one command, all of it -------------------------------------------------------------------------------------------


def test_contenders_are_measured_in_processes_of_their_own() -> None:
    peers = tuple(key for key in ("onnxruntime",) if key in INSTALLED) or ("torch-folded",)
    report = measure(Wanted(("tiny",), peers, 1, (2,), size=(32, 40), seconds=0.0, busy=True, steps=True))
    (network,) = report.networks
    assert (network.title, network.image, network.batch, report.notes) == ("tiny", (3, 32, 40), 2, ())
    assert list(network.rows) == ["convforge", *(INFERENCE[key].title for key in peers)]
    for row in network.rows.values():
        assert 0 < row.error < 1e-5
        assert 0 < row.shortest <= row.seconds
        assert row.busy is not None
        assert row.first > 0
        assert not sys.platform.startswith("linux") or 0 < row.memory.held <= row.memory.peak
    assert network.ours is not None
    assert network.fastest is not None
    assert network.ratio == network.rows[network.fastest].seconds / network.ours.seconds
    assert network.first is not None
    assert 0 < network.first.cold_capture < network.first.cold
    assert any("3×3" in step.what for step in network.steps)
    assert sum(step.share for step in network.steps) == pytest.approx(1)
    assert all(step.of_peak > 0 and step.predicted > 0 for step in network.steps if "3×3" in step.what)
    assert json.loads(json.dumps(report.to_dict()))["networks"][0]["ratio"] == network.ratio


def test_training_steps_are_measured_in_processes_of_their_own() -> None:
    report = measure(Wanted(("tiny",), ("optimize",), 1, (2,), size=(20, 24), seconds=0.0, training=True))
    (network,) = report.networks
    assert (network.batch, network.training, report.notes) == (2, True, ())
    assert list(network.rows) == ["convforge", "convforge, layer by layer"]
    assert network.fastest is None, "the other row of ours is not one of the others"
    for row in network.rows.values():
        assert 0 < row.error < 2e-2  # a number beside the kink of a ReLU is 6e-3 of a layer's
        assert row.seconds > 0
    assert (network.first, network.steps) == (None, ())


def test_every_network_is_measured_with_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(case: Case, *_: object) -> Measured:
        return Measured(case.title, case.image, case.batch, {})

    monkeypatch.setattr(run, "_network", one)
    networks = measure(Wanted(("tiny", "conv 4 3x3"), (), 1, (1, 8), size=(20, 24))).networks
    assert [(each.title, each.batch) for each in networks] == [
        ("tiny", 1), ("tiny", 8), ("conv 4 3x3", 1), ("conv 4 3x3", 8),
    ]  # fmt: skip


@pytest.mark.parametrize("key", [key for key in TRAINING if key != "inductor"])
def test_gradients_are_those_of_float64_and_steps_learn(key: str, tmp_path: Path) -> None:
    case = tiny(tmp_path, batch=3)
    with torch.enable_grad():
        ready = TRAINING[key].load(Given(case, Settings(2, training=True), case.images(), None))
        ready.run()
        first = [np.array(gradient) for gradient in ready.results()]
        assert 0 < relative_error(first, training.truth(case)) < 2e-2
        ready.run()
    assert not np.array_equal(first[0], ready.results()[0]), "weights have not changed"


# --- contenders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", IN_TORCH)
def test_all_that_take_the_module_agree_with_float64(key: str, tmp_path: Path) -> None:
    case = tiny(tmp_path)
    with torch.no_grad():
        ready = INFERENCE[key].load(given(case))
        ready.run()
    assert 0 < relative_error(ready.results(), run._truth(case)) < 1e-5


@pytest.mark.parametrize("key", [key for key in INSTALLED if INFERENCE[key].form in ("onnx", "ours")])
def test_all_that_read_onnx_files_agree_with_float64(key: str, onnx_file: Path) -> None:
    case = replace(tiny(onnx_file.parent), name=str(onnx_file))
    ready = INFERENCE[key].load(given(case))
    ready.run()
    truth = run._truth(case)
    assert 0 < relative_error(ready.results(), truth) < (1e-2 if key.endswith("default") else 1e-5)
    of_the_module = run._truth(tiny(onnx_file.parent))
    assert np.allclose(truth[0], of_the_module[0], rtol=1e-5)


def test_a_wrong_result_is_seen(tmp_path: Path) -> None:
    truth = run._truth(tiny(tmp_path))
    wrong = truth[0].astype(np.float32)
    wrong[0, 0] += 1
    assert relative_error([wrong], truth) > 1e-3
    assert relative_error([wrong[:1]], truth) == float("inf")


def test_the_others_are_chosen_by_name() -> None:
    assert chosen(None) == [key for key in contenders.USUAL if key in INSTALLED]
    assert chosen(["torch-last", "torch"]) == ["torch", "torch-last"]
    assert chosen(None, training=True) == ["torch", "torch-last", "optimize"]
    with pytest.raises(UserError, match=r"--peers is a list of torch, .*mnn, not 'caffe'"):
        chosen(["caffe"])
    if missing := [key for key in INFERENCE if key not in INSTALLED]:
        with pytest.raises(UserError, match="not installed"):
            chosen(missing[:1])


# --- one that fails, one that is slow ---------------------------------------------------------------------------------


class Fake:
    """Answers with these times, and fails where there are none left."""

    def __init__(self, *bursts: list[float]) -> None:
        self.bursts = iter(bursts)

    def ask(self, _: object) -> list[float]:
        try:
            return next(self.bursts)
        except StopIteration:
            raise PeerError("it has ended") from None


def test_one_that_fails_is_left_out_and_said(tmp_path: Path) -> None:
    running: dict[str, Any] = {"torch": Fake([1.0] * 2), "convforge": Fake(*[[2.0, 3.0]] * 9)}
    notes: dict[str, None] = {}
    assert run._rounds(tiny(tmp_path), running, 0.0, notes) == {"convforge": [2.0, 3.0] * 3}
    assert list(running) == ["convforge"]
    assert list(notes) == ["tiny: it has ended."]


def slow(seconds: float) -> Callable[[Any], Any]:
    def answer(question: Any) -> Any:
        print("a library speaks")
        time.sleep(seconds)
        if question == "nonsense":
            raise ValueError("it is nonsense\nand more")
        if question == "die":
            os._exit(1)
        return os.environ["CONVFORGE_OF_THE_CHILD"], question

    return answer


def test_a_process_answers_fails_and_ends(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    with Child("slow", slow, 0.01, environment={"CONVFORGE_OF_THE_CHILD": "set"}, log=log) as child:
        assert child.ask("burst") == ("set", "burst")
        with pytest.raises(PeerError, match=r"^slow: it is nonsense$"):
            child.ask("nonsense")
        with pytest.raises(PeerError, match="slow's process has ended"):
            child.ask("die")
    assert "CONVFORGE_OF_THE_CHILD" not in os.environ
    assert "library" not in "".join(capfd.readouterr())


def test_the_busy_process_ends_with_the_measurement() -> None:
    before = children()
    with busy():
        (new,) = children() - before
    assert new not in children()


def children() -> set[int]:
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("the system does not list children")
    return {int(one) for one in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weights", "macs"),
    # As in torchvision's documentation, weights of batch norms without their statistics.
    [("resnet18", 11_689_512, 1.81), ("resnet50", 25_557_032, 4.09), ("mobilenetv2", 3_504_872, 0.30),
     ("vgg16", 138_357_544, 15.47)],
)  # fmt: skip
def test_published_networks_have_their_published_sizes(name: str, weights: int, macs: float) -> None:
    with torch.device("meta"):
        module = PUBLISHED[name]()
    assert sum(p.numel() for p in module.parameters()) == weights
    assert plan(module, (3, 224, 224)).totals.macs / 1e9 == pytest.approx(macs, abs=0.02)


def test_a_network_is_the_same_in_every_process_and_its_norms_are_not_the_identity(tmp_path: Path) -> None:
    once, again = (tiny(tmp_path).module() for _ in range(2))
    for (name, ours), theirs in zip(once.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    norm = next(layer for layer in once.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    assert norm.running_mean is not None
    assert norm.running_mean.std() > 0.05
    assert not any(p.requires_grad for p in once.parameters())


def test_lines_become_layers_of_torchs_own(tmp_path: Path) -> None:
    module = Case("conv 8 3x3, relu, gap, linear 2", (3, 9, 9), 1, tmp_path).module()
    assert {type(layer).__module__.partition(".")[0] for layer in module.modules()} == {"torch"}


def test_names_and_files_that_do_not_exist_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no network 'resnet19': built in are resnet18, .*ONNX file"):
        Case("resnet19", (3, 32, 32), 1, tmp_path).module()
    with pytest.raises(UserError, match=r"there is no file 'none\.onnx'"):
        image_of("none.onnx", None, None)
    with pytest.raises(UserError, match="say it with --input or --size"):
        image_of("package.module:callable", None, None)
    assert image_of("tiny", None, (32, 40)) == (3, 32, 40)
    with pytest.raises(UserError, match=r"tiny cannot be computed for images of 4×9×9"):
        measure(Wanted(("tiny",), (), 1, image=(4, 9, 9)))


# --- the table --------------------------------------------------------------------------------------------------------


def example() -> Report:
    memory = Memory(peak=120_000_000, held=100_000_000)
    rows = {
        "convforge": Row(0.005, 0.0049, 4e-7, 1.2, memory, busy=0.01),
        "torch": Row(0.029, 0.028, 2e-7, 0.1, memory, busy=0.2),
        "OpenVINO": Row(0.0074, 0.0073, 3e-7, 0.3, memory, busy=0.063),
        "OpenVINO, default": Row(0.004, 0.0039, 3e-3, 0.3, Memory(0, 0)),
    }
    product = StepTime("relu", "3×3, 3→8, bias, relu", "direct", 2e-3, 0.4, 216_000_000, 13_000_000, 1.9e-3, 0.48)
    steps = (product, StepTime("sum", "add", "elementwise", 3e-3, 0.6, bytes=45_000_000))
    one = Measured("resnet18", (3, 224, 224), 1, rows, First(2.5, 1.0, 1.3, 0.9), steps)
    two = Measured("model.onnx", (3, 192, 320), 8, {"OpenVINO": rows["OpenVINO"]})
    three = Measured("mobilenetv2", (3, 224, 224), 8, {name: rows[name] for name in ("convforge", "OpenVINO")})
    return Report(LIMITS, {"python": "3.11.7", "torch": "2.13.0"}, (one, two, three), ("It rained.",))


def test_the_table_is_as_it_was_judged_good(golden: Callable[[str, str], None]) -> None:
    for name, width in (("bench_networks.txt", 120), ("bench_networks_narrow.txt", 80)):
        console = Console(file=StringIO(), width=width, color_system=None, legacy_windows=False, force_jupyter=False)
        with console.capture() as capture:
            console.print(as_table(example()))
        golden(name, "\n".join(line.rstrip() for line in capture.get().splitlines()))


def test_ratios_are_to_the_fastest_that_computes_in_float32() -> None:
    one, two, three = example().networks
    assert (one.fastest, one.ratio) == ("OpenVINO", pytest.approx(1.48))
    assert (two.ours, two.ratio) == (None, None)
    assert example().geometric_mean == pytest.approx(1.48)
    assert one.rows["torch"].slowdown == pytest.approx(0.2 / 0.029)
    assert "busy_seconds" not in one.to_dict()["contenders"]["OpenVINO, default"]
    assert "steps" not in three.to_dict()


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--network"], "--network needs the name of a network"),
        (["--network", "tiny", "--cold"], "--cold is for layers"),
        (["64,56,64,3", "--busy"], "--busy needs --network"),
        (["--network", "tiny", "--size", "0"], "--size is one number"),
        (["--network", "tiny", "--size", "32", "--input", "3x32x32"], "give one of them"),
        (["--network", "tiny", "--peers", "caffe"], "--peers is a list of torch"),
        (["--network", "tiny", "--training", "--peers", "openvino"], "torch, torch-last, inductor, not 'openvino'"),
        (["--network", "tiny", "--training", "--steps"], "--steps is for inference"),
        (["--network", "model.onnx", "--training"], "model.onnx is a file for inference"),
        (["--network", "tiny", "--batch", "1,0"], "several such as 1,8, not '1,0'"),
        (["64,56,64,3", "--batch", "1,8"], "--batch is one number for layers"),
        (["resnet18"], "resnet18 is a whole network: add --network"),
        (["--network", "nix"], "there is no network 'nix'"),
    ],
)
def test_options_that_cannot_be_are_refused(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from convforge.bench import memory
    from convforge.cli import app

    monkeypatch.setattr(memory, "restart_keeping", lambda: None)
    result = CliRunner().invoke(app, ["bench", *words])
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)
