"""Two versions of the engine in one process, in turns: what a change gained on a machine that is not quiet.

    git worktree add ../before HEAD~1
    python benchmarks/versions.py ../before . --list tests/shapes/resnet_50_v1_5.txt
    python benchmarks/versions.py ../before . 512,7x7,512,3x3,padding=1 --passes forward,weight

Each version's package is loaded under a name of its own. They take turns of 15 ms on the same tensors; the ratio (above
1: the second one is faster) is that of the shortest times and that of the medians. Weights are packed beforehand in the
forward pass. Versions from before `passes.prepare` cannot be loaded.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import torch

from convforge.bench import layers as notation
from convforge.cli.bench import parse_passes

TURN, TURNS = 0.015, 7


class Version:
    """The engine of a folder that holds the package, or a `src` that does."""

    def __init__(self, name: str, folder: Path) -> None:
        source = next(path for path in (folder / "convforge", folder / "src" / "convforge") if path.is_dir())
        package = ModuleType(name)
        package.__path__ = [str(source)]
        sys.modules[name] = package
        runtime = "native.runtime" if (source / "native").is_dir() else "engine.runtime"
        places = ("spec", "engine.geometry", "engine.passes", "engine.plan", runtime)
        self._modules = {place.rpartition(".")[2]: importlib.import_module(f"{name}.{place}") for place in places}

    def run(self, layer: Any, which: str, threads: int, tensors: dict[str, Any]) -> Callable[[], None]:
        """A call of the pass on these tensors, ready to be repeated."""
        part, s = self._modules, layer.spec
        spec = part["spec"].Conv2dSpec(
            s.in_channels, s.out_channels, s.kernel_size, stride=s.stride, padding=s.padding, dilation=s.dilation,
            groups=s.groups,
        )  # fmt: skip
        problem = part["geometry"].Problem.of(spec, layer.batch, layer.size)
        kept = which == "forward"
        prepared = part["passes"].prepare(problem, part["plan"].Pass(which), threads, kept=kept)
        address, memory = part["runtime"].memory(prepared.packed_bytes) if kept else (0, None)
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        if kept:
            prepared.pack(addresses["w"], address)

        def call(_: object = memory) -> None:  # the packed weights live as long as the call
            prepared.run(address, **addresses)

        return call


def turn(run: Callable[[], None]) -> list[float]:
    """The times of as many runs as fit into a turn, after one that is not timed."""
    run()
    times = list[float]()
    begin = time.perf_counter()
    end = begin + TURN
    while begin < end:
        run()
        now = time.perf_counter()
        times.append(now - begin)
        begin = now
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("layers", nargs="*")
    parser.add_argument("--list", type=Path, action="append", default=[])
    parser.add_argument("--passes", default="forward,input,weight")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    versions = [Version("convforge_before", wanted.before), Version("convforge_after", wanted.after)]
    found, _ = notation.gather(wanted.layers, wanted.list, None, wanted.batch)
    ratios: dict[str, list[tuple[float, float]]] = {}
    for layer in notation.merged(found):
        shapes = {"x": layer.x_shape, "w": layer.spec.weight_shape, "y": layer.y_shape}
        tensors = {
            name: torch.randn(shape).contiguous(memory_format=torch.channels_last) for name, shape in shapes.items()
        }
        for which in parse_passes(wanted.passes):
            runs = [version.run(layer, which.value, wanted.threads, tensors) for version in versions]
            times: list[list[float]] = [[], []]
            for _ in range(TURNS):
                for run, taken in zip(runs, times, strict=True):
                    taken += turn(run)
            shortest, middle = (of(times[0]) / of(times[1]) for of in (min, median))
            ratios.setdefault(which.value, []).append((shortest, middle))
            print(f"{which.value:16} {layer.text():44} {shortest:.2f} {middle:.2f}", flush=True)
    for name, pairs in ratios.items():
        means = [math.exp(sum(math.log(pair[n]) for pair in pairs) / len(pairs)) for n in (0, 1)]
        print(f"{name:16} {'geometric mean':44} {means[0]:.3f} {means[1]:.3f}")


if __name__ == "__main__":
    main()
