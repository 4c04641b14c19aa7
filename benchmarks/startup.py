"""How long a process takes to be ready: imports, then ResNet-50's kernels from an empty and from a full cache.

    python benchmarks/startup.py
    python benchmarks/startup.py --list tests/shapes/mobilenet.txt

Each row is a process of its own. `import` is what the package adds to `import torch`; `forward` loads LLVM, runs one
small convolution and makes the kernels of every layer ready; `gradients` those of the two other passes, after it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measured_here(path: Path) -> dict[str, float]:
    """In a fresh process: the import, one small convolution, and the kernels of all layers."""
    import torch

    def load() -> None:
        import convforge

        assert convforge.conv2d

    found = {"import": seconds(load)}
    from convforge.bench.layers import read_list
    from convforge.engine.geometry import Problem
    from convforge.engine.passes import prepare
    from convforge.engine.plan import Pass

    threads = torch.get_num_threads()
    problems = [Problem.of(layer.spec, 1, layer.size) for layer in read_list(path, 1)]

    def forward() -> None:
        torch.ops.convforge.conv2d(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), None, [1, 1], [0] * 4, [1, 1], 1)
        for problem in problems:
            prepare(problem, Pass.FORWARD, threads)

    def gradients() -> None:
        for problem in problems:
            prepare(problem, Pass.INPUT_GRADIENT, threads)
            prepare(problem, Pass.WEIGHT_GRADIENT, threads)

    return found | {"forward": seconds(forward), "gradients": seconds(gradients)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", type=Path, default=HERE.parent / "tests/shapes/resnet_50_v1_5.txt")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measured_here(options.list)))
        return
    print("seconds       import   forward   gradients")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("empty cache", "full cache", "full cache"):
            done = subprocess.run(
                [sys.executable, __file__, "--here", "--list", str(options.list)],
                env=os.environ | {"CONVFORGE_CACHE": folder},
                stdout=subprocess.PIPE,
                check=True,
            )
            found = json.loads(done.stdout)
            print(f"{name:12} {found['import']:7.3f} {found['forward']:9.3f} {found['gradients']:11.3f}", flush=True)


if __name__ == "__main__":
    main()
