"""Photographs inside packages: found without importing them, and never fetched."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest

from convforge.errors import UserError
from convforge.images import photographs as module
from convforge.images.photographs import photographs
from convforge.images.read import image_shape


def test_they_can_be_read() -> None:
    found = photographs()
    assert len(found) >= 10
    assert all(min(image_shape(file)[1:]) >= 256 for file in found)


def test_no_package_is_imported_that_could_fetch_something() -> None:
    check = (
        "import sys; from convforge.images.photographs import photographs; assert photographs(); "
        "print(sorted({'skimage', 'sklearn', 'pooch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_packages_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(module, "find_spec", nothing)
    with pytest.raises(UserError, match="pip install scikit-image"):
        photographs()
