"""`python sweep.py COUNT SEED [THREADS]` checks so many random convolutions in a process of its own, without torch.

Prints, as JSON: how many were right, the target that ran, and which of the modules asked about were loaded.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path


class Blocked:
    """Makes `import torch` fail, as on a machine without it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'")


def main(count: int, seed: int, threads: int | None = None) -> None:
    sys.meta_path.insert(0, Blocked())  # type: ignore[arg-type]
    sys.path.insert(0, str(Path(__file__).parent))
    from oracle import check, some_case

    from convforge.native import target

    choose = random.Random(seed)
    unclear = []
    for _ in range(count):
        case = some_case(lambda options: choose.choice(list(options)))
        case = case if threads is None else replace(case, threads=threads)
        try:
            check(case)
        except ModuleNotFoundError:  # above the bound: how far torch itself is off decides, once all others are done
            unclear.append(case)
    result = {"right": count, "target": target.current().name, "torch": "torch" in sys.modules}
    sys.meta_path.pop(0)
    for case in unclear:
        check(case)
    print(json.dumps(result))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
