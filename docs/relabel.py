"""Takes the screenshot of `convforge relabel` that stands in this folder: python docs/relabel.py

It cuts six of the installed photographs into patches, a class each, puts some into wrong folders, and learns from them.
Needs what the tests need.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

import convforge
from convforge.images.photographs import photographs

HERE = Path(__file__).resolve().parent
CHROMIUM = os.environ.get("CONVFORGE_CHROMIUM") or shutil.which("chromium")
SUBJECTS = ("astronaut", "chelsea", "coffee", "rocket", "china", "flower")
PATCHES, SIDE = 50, 48
WRONG = 12


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        cut(Path("photos"))
        convforge.train("photos", epochs=20, batch=32, name="photos")
        command = [sys.executable, "-m", "convforge", "relabel", "runs/photos", "--port", "0", "--no-browser"]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "src")}
        with subprocess.Popen(
            [*command, "--images", "24"], stdout=subprocess.PIPE, text=True, env=environment
        ) as server:
            assert server.stdout is not None
            address = re.search(r"http\S+", server.stdout.readline())
            assert address is not None
            shoot(address[0])
            server.send_signal(signal.SIGINT)


def cut(folder: Path) -> None:
    """Patches of the photographs, a folder each, some of them in another's folder."""
    draw = np.random.default_rng(0)
    subjects = {path.stem: path for path in photographs() if path.stem in SUBJECTS}
    for subject, path in subjects.items():
        with Image.open(path) as photograph:
            colours = photograph.convert("RGB")
        for number in range(PATCHES):
            left, top = (int(draw.integers(side - SIDE)) for side in colours.size)
            others = [name for name in subjects if name != subject]
            wrong = number < WRONG / len(subjects)
            place = folder / (others[int(draw.integers(len(others)))] if wrong else subject)
            place.mkdir(parents=True, exist_ok=True)
            colours.crop((left, top, left + SIDE, top + SIDE)).save(place / f"{draw.integers(9999):04}.png")


def shoot(address: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        page.goto(address)
        page.wait_for_selector("main[data-ready]")
        for key in "6x":
            before = page.locator("#progress").inner_text()
            page.keyboard.press(key)
            page.wait_for_function("b => document.getElementById('progress').textContent !== b", arg=before)
        page.wait_for_load_state("networkidle")
        page.screenshot(path=HERE / "relabel.png")
        browser.close()


if __name__ == "__main__":
    main()
