"""Shared by all tests: printed output is compared with files under `golden/`, which `--update-golden` rewrites.

Hypothesis draws the same examples every time, so that a change is blamed only for what it broke;
`pytest --hypothesis-profile=explore` draws others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: how long an example takes says more about what else the machine does than about the code.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("ci")

# Read when torch's OpenMP is loaded, which no test module has done yet: threads that wait must not keep the cores from
# the other processes of `pytest -n 2`; spinning, they make small layers a hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The same for numpy, which multiplies the reference's matrices on threads of OpenBLAS; those always spin. The matrices
# are small, and beside another process that computes, one thread takes a fifth of the time of two.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Read when Hugging Face's packages are imported, which no test module has done yet: no test may need the network.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files under tests/golden/")
    parser.addoption("--soak", action="store_true", help="run the tests under tests/soak/ at their full length")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` asserts that `text` is what the file `golden/name` holds."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        text = text.rstrip("\n") + "\n"
        if request.config.getoption("--update-golden"):
            GOLDEN.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path.name} is missing: run pytest with --update-golden and read what it writes"
        assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; if rightly so: --update-golden"

    return compare
