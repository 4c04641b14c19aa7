"""A network in the forms that other runtimes read, written once for all of them, in a process of its own: exporters
leave memory and threads behind."""

from __future__ import annotations

import logging
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..process import Answer
from .named import Case


def writer() -> Answer:
    """Answers (case, format) when the file is there."""
    return lambda question: str(_written(*question))


def path_of(case: Case, form: str) -> Path:
    """Where it is, or is to be written."""
    return Path(case.name) if form == "onnx" and case.is_file else case.folder / _NAMES[form]


def _written(case: Case, form: str) -> Path:
    path = path_of(case, form)
    if not path.exists():
        _WRITERS[form](case, path)
        if not path.exists():
            raise RuntimeError(f"the network could not be converted to {path.suffix}")
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters log and warn of on their way: what matters comes as an exception."""
    log = logging.getLogger("torch")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _onnx(case: Case, path: Path) -> None:
    example = torch.from_numpy(case.images())
    with _quiet():
        torch.onnx.export(
            case.module(), (example,), path, input_names=["images"], dynamo=True, external_data=False, verbose=False
        )


def _ncnn(case: Case, path: Path) -> None:
    from pnnx import EXEC_PATH

    example = torch.from_numpy(case.images()[:1])  # its graphs have no batch
    traced = path.with_name("traced.pt")
    with _quiet():
        torch.jit.save(torch.jit.trace(case.module(), example), traced)  # type: ignore[no-untyped-call]
    names = {"ncnnparam": path, "ncnnbin": path.with_suffix(".bin"), "ncnnpy": path.with_name("unused.py")}
    shape = ",".join(map(str, example.shape))
    words = [f"inputshape=[{shape}]", "fp16=0", "device=cpu", *(f"{key}={name}" for key, name in names.items())]
    subprocess.run([EXEC_PATH, traced, *words], check=True, cwd=path.parent)


def _mnn(case: Case, path: Path) -> None:
    # The command `mnnconvert` would install a logger from the net before it converts; this is the converter alone.
    import _tools

    source = path_of(case, "onnx")
    names = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(path), "--bizCode", "bench"]
    _tools.mnnconvert(["mnnconvert", *names, "--keepInputFormat", "1"])


def _tflite(case: Case, path: Path) -> None:
    import litert_torch

    example = torch.from_numpy(case.images()).permute(0, 2, 3, 1).contiguous()
    wrapped = litert_torch.to_channel_last_io(case.module(), args=[0])
    litert_torch.convert(wrapped.eval(), (example,)).export(os.fspath(path))


_WRITERS: dict[str, Callable[[Case, Path], None]] = {"onnx": _onnx, "ncnn": _ncnn, "mnn": _mnn, "tflite": _tflite}
_NAMES = {"onnx": "network.onnx", "ncnn": "network.ncnn.param", "mnn": "network.mnn", "tflite": "network.tflite"}
