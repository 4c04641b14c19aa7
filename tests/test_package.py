"""What is built for others to install holds everything, and works where nothing else of this repository is."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "convforge"


def wanted() -> set[str]:
    """Every file of the package, relative to `src/`."""
    files = (p for p in SOURCE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(ROOT / "src").as_posix() for p in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from the sdist."""
    folder = tmp_path_factory.mktemp("built")
    build = [sys.executable, "-m", "hatchling", "build"]
    subprocess.run([*build, "-t", "sdist", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = (p for p in folder.iterdir() if p.is_dir())
    subprocess.run([*build, "-t", "wheel", "-d", str(folder)], cwd=unpacked, check=True, capture_output=True)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert names == wanted()


def test_the_sdist_holds_what_its_tests_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in wanted()} <= names
    assert {"README.md", "LICENSE", "SECURITY.md", "Makefile", "pyproject.toml", "tests/engine/oracle.py"} <= names


def test_the_wheel_works_by_itself(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import convforge, torch
        assert convforge.__file__.startswith(sys.argv[1]), convforge.__file__
        fast = convforge.optimize(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()))
        print(tuple(fast(torch.ones(1, 3, 9, 9)).shape))
        sys.argv[1:] = ["plan", "conv 8 3x3", "--input", "3x9x9"]
        from convforge.cli import main
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line[8:] for line in program.splitlines()), str(tmp_path / "site")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "(1, 8, 7, 7)" in done.stdout
    assert "224 parameters" in done.stdout
