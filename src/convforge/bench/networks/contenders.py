"""The contenders of a measurement, each in a process of its own; and what is asked of such a process."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from ..contenders import OURS
from ..limits import fma_peak
from ..process import Answer
from ..timing import burst
from .contender import Contender, Given, Loaded, Memory, Ready, Settings
from .inference import INFERENCE, channels_last
from .named import Case
from .training import TRAINING

_BURST_SECONDS = 0.04
_PEAKS = 5
"""Measurements of the peak: where two virtual cores share a real one for a while, it is half as high."""

USUAL = ("torch", "torch-last", "torch-folded", "optimize", "onnxruntime", "openvino")
"""Without `--peers`, as far as there are such and they are installed."""


def contenders(training: bool) -> dict[str, Contender]:
    """Those of a training step, or of inference, by the names that `--peers` takes, and ours."""
    return TRAINING if training else INFERENCE


def chosen(peers: Sequence[str] | None, training: bool = False) -> list[str]:
    """The others that are to be measured. Raises `UserError` for names that are not known or not installed."""
    from ...errors import UserError

    known = contenders(training)
    if peers is None:
        return [key for key in USUAL if key in known and not known[key].missing]
    names = [key for key in known if key != OURS]
    for key in peers:
        if key not in names:
            raise UserError(f"--peers is a list of {', '.join(names)}, not {key!r}.")
        if missing := known[key].missing:
            are = "are" if len(missing) > 1 else "is"
            raise UserError(
                f"{known[key].title} needs {' and '.join(missing)}, which {are} not installed"
                + (f": pip install {' '.join(map(_distribution, missing))}." if not known[key].compiler else ".")
            )
    return [key for key in names if key in peers]


def _distribution(package: str) -> str:
    """What pip calls an imported package."""
    return package.replace("_", "-")


def serve(key: str, case: Case, settings: Settings, imported: bool = True) -> Answer:
    """Answers 'load', 'burst', 'memory' and 'steps'. Where torch's means of capturing are to be `imported` before, they
    are neither part of the first result nor of the memory."""
    contender = contenders(settings.training)[key]
    if contender.form in ("", "ours"):
        import torch

        torch.set_num_threads(settings.threads)
        torch.set_grad_enabled(settings.training)
    if key == OURS and imported and not settings.training:
        _import_capture()
    if contender.packages:
        import_module(contender.packages[-1])
    gc.collect()
    start = _memory(peak=False)
    _forget_peak()
    held: list[Ready] = []

    def answer(question: str) -> Any:
        if question == "load":
            makes_its_own = settings.training or case.is_file or contender.form not in ("", "ours")
            module = None if makes_its_own else case.module()
            given = Given(case, settings, case.images(), module)
            begin = time.perf_counter()
            ready = contender.load(given)
            ready.run()
            first = time.perf_counter() - begin
            held.append(ready)
            return Loaded(first, ready.captured_after, ready.results())
        (ready,) = held
        if question == "burst":
            return burst(ready.run, _BURST_SECONDS)
        if question == "memory":
            now = _memory(peak=False)
            peak = max(now, _memory(peak=True))  # the kernel notes peaks a few pages late
            return Memory(max(0, peak - start), max(0, now - start))
        images = channels_last(case.images()).transpose(0, 3, 1, 2)
        fastest = max(fma_peak(settings.threads) for _ in range(_PEAKS))
        return ready.network.profile(images, peak=fastest).steps

    return answer


def _import_capture() -> None:
    import torch

    from ...graph.capture import capture

    capture(torch.nn.Linear(1, 1).eval(), torch.zeros(1, 1))


def _memory(peak: bool) -> int:
    """Bytes of this process in memory, or the most there have been; 0 where the system does not say."""
    with suppress(OSError):
        found = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) << 10
    return 0


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
