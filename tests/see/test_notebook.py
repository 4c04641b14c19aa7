"""`convforge.see` in a notebook: a cell's result is the page in a frame, which works there as it does elsewhere."""

from __future__ import annotations

import os
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import convforge
from convforge.errors import UserError

from .conftest import Watched, number

CELL = """
import numpy as np, torch
from torch import nn
import convforge

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
convforge.see(model, image, input_shape=(3, 12, 10), classes=("cat", "dog"))
"""


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


@pytest.fixture(autouse=True)
def nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVFORGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What an executed notebook has below its cell."""
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient, nbformat and ipykernel, of the extra dev")
    client = pytest.importorskip("nbclient", reason="needs nbclient, nbformat and ipykernel, of the extra dev")
    pytest.importorskip("ipykernel", reason="needs nbclient, nbformat and ipykernel, of the extra dev")
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    runner = client.NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    package = str(Path(convforge.__file__).parents[1])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "CONVFORGE_CACHE": str(folder / "cache"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    executed = runner.execute(env=environment)
    (output,) = [one for one in executed.cells[0].outputs if one.output_type == "execute_result"]
    html: str = output["data"]["text/html"]
    return html


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook's own packages
def test_a_cell_shows_the_page_in_a_frame_that_works(shown: str, watched: Watched, tmp_path: Path) -> None:
    assert shown.startswith('<iframe title="Sequential and 1 of 1 images" srcdoc="')
    outside = tmp_path / "outside.html"
    outside.write_text(f"<!doctype html><title>A notebook</title><base href='{tmp_path.as_uri()}/'>{shown}")
    watched.allowed = outside.as_uri()
    page = watched.open(outside.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator(".view.slide .channel").first.wait_for()
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)).permute(2, 0, 1) / 255
    with torch.no_grad():
        logits = small()(image[None])[0]
    best = ("cat", "dog")[int(logits.argmax())]
    assert frame.locator("#asked .share .class").first.inner_text() == best
    frame.locator("nav a", has_text="Why").click()
    frame.locator(".adds-up .total dd").wait_for()
    total = number(frame.locator(".adds-up .total dd").get_attribute("title") or "")
    assert total == pytest.approx(float(logits.max()), abs=1e-5)
    frame.locator(".carried a", has_text="its products").first.click()
    frame.locator(".view.slide .arithmetic h2").wait_for()
    assert page.url == outside.as_uri()


def test_the_page_can_be_saved_and_the_callers_model_stays_as_it_is(tmp_path: Path) -> None:
    model = small().train()
    picture = Image.fromarray(np.full((12, 10, 3), 90, np.uint8))
    picture.save(tmp_path / "grey.png")
    page = convforge.see(model, [picture, tmp_path / "grey.png"], input_shape=(3, 12, 10), count=1)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    page.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page.html
    found = re.search(r'srcdoc="(.*?)" sandbox="allow-scripts"', page._repr_html_(), re.DOTALL)
    assert found is not None
    assert unescape(found[1]) == page.html
    assert repr(page).startswith("<convforge page: Sequential and 1 of 2 images, ")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "the size of the model's images is not known"),
        ({"input_shape": (3, 12, 10), "count": 0}, "count must be 1 or more, not 0"),
        ({"input_shape": (3, 12, 10), "std": (1, 0, 1)}, "--std must be greater than zero"),
    ],
)
def test_mistakes_are_sentences(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        convforge.see(small(), np.zeros((9, 9, 3), np.uint8), **settings)
    with pytest.raises(UserError, match="must be a path, a Pillow image or an array of pixels, not int"):
        convforge.see(small(), [3], input_shape=(3, 12, 10))  # type: ignore[list-item]


def test_the_package_is_still_the_room_of_its_files() -> None:
    from convforge.see.network import Network

    assert Network.__module__ == "convforge.see.network"
    assert callable(convforge.see)
