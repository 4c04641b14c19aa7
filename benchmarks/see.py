"""How long a click takes on the page of `convforge see`, and how much memory its server needs.

    python benchmarks/see.py                 # ResNet-50, 2,000 photographs; about two minutes
    python benchmarks/see.py --images 200 --clicks 10

A server of its own process is asked as the page asks, over loopback, at random: the first look at an image (decoding
and a forward pass), then what is behind further clicks on it. Every kind of request is also timed while a job indexes
all images. Memory is the peak of the server's process above that of a process that only runs the model.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
_CONVFORGE = "from convforge.cli import main; main()"


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.skip = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.body(x) + self.skip(x))


def resnet50() -> nn.Module:
    """ResNet-50 (He et al., 2015; stride in the 3×3), 25.6 million parameters, drawn at random."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def draw_photographs(folder: Path, count: int) -> None:
    """JPEGs of 640×480, every fortieth of 12 megapixels."""
    generator = np.random.default_rng(0)
    coarse = [Image.fromarray(generator.integers(0, 256, (48, 64, 3), np.uint8)) for _ in range(8)]
    large = [image.resize((4000, 3000), Image.Resampling.BICUBIC) for image in coarse[:2]]
    for number in range(count):
        if number % 40 == 20:
            image = large[number // 40 % 2]
        else:
            image = coarse[number % 8].resize((640, 480), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:05}.jpg", quality=85)


class Server:
    """`convforge see` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        words = ["see", "benchmarks.see:resnet50", str(folder), "--input", "3x224x224", "--port", "0", "--no-browser"]
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CONVFORGE, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", line)
            if found:
                self.port, token = int(found[1]), found[2]
                break
        else:
            raise SystemExit("the server did not start")
        self.seconds = time.perf_counter() - begin
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def ask(self, path: str, method: str = "GET", body: Any = None) -> tuple[bytes, float]:
        """The answer, and how many milliseconds it took."""
        begin = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, self.headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {content.decode()}")
        return content, (time.perf_counter() - begin) * 1000

    @property
    def peak(self) -> int:
        """Bytes of memory at most so far."""
        return _status(self.process.pid)["VmHWM"]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def _status(pid: int | str) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}


def memory_of_the_model() -> int:
    """Peak memory of a process that opens the model and runs it once."""
    code = (
        "import torch, convforge.cli; from convforge.models.resolve import resolve\n"
        "from benchmarks.see import resnet50, _status\n"
        "with torch.no_grad(): resnet50().eval()(torch.zeros(1, 3, 224, 224))\n"
        "print(_status('self')['VmHWM'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


def clicks(layers: list[dict[str, Any]], images: int) -> Iterator[tuple[str, str]]:
    """What is asked for, kind and address, as the views of the page ask: another image, then further clicks on it."""
    image = random.randrange(images)
    convolutions = [layer for layer in layers if layer["slides"]]
    layer = random.choice(convolutions)
    i = layer["index"]
    k, y, x = (random.randrange(n) for n in layer["map_shape"])
    yield "thumbnail", f"/api/images/{random.randrange(images)}?view=thumb"
    yield "image, original", f"/api/images/{image}?view=original"
    yield "another image: maps", f"/api/layers/{i}/maps?image={image}"
    yield "image, as seen", f"/api/images/{image}?view=input"
    yield "image, numbers", f"/api/images/{image}/values"
    yield "maps", f"/api/layers/{i}/maps?image={image}"
    yield "maps, 16", f"/api/layers/{i}/maps/values?image={image}&first={k}&count=16"
    yield "input", f"/api/layers/{i}/input?image={image}"
    yield "unit", f"/api/layers/{i}/unit?image={image}&channel={k}&row={y}&column={x}"
    yield "slide", f"/api/layers/{i}/slide/values?image={image}&channel={k}"
    yield "slide, changed", f"/api/layers/{i}/slide/values?image={image}&channel={k}&stride=1&padding=2&dilation=2"
    yield "field", f"/api/layers/{i}/field?row={y}&column={x}"
    yield "kernels", f"/api/layers/{i}/kernels"
    yield "kernels, numbers", f"/api/layers/{i}/kernels/values?count=64"
    yield "network", "/api/network"


def measured(server: Server, layers: list[dict[str, Any]], images: int, turns: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(turns):
        for kind, path in clicks(layers, images):
            found[kind].append(server.ask(path)[1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--clicks", type=int, default=40, help="of each kind")
    arguments = parser.parse_args()
    random.seed(0)
    own = memory_of_the_model()
    with tempfile.TemporaryDirectory() as folder:
        draw_photographs(Path(folder), arguments.images)
        server = Server(Path(folder))
        try:
            report(server, arguments.images, arguments.clicks, own)
        finally:
            server.stop()


def report(server: Server, images: int, turns: int, own: int) -> None:
    layers = json.loads(server.ask("/api/network")[0])["layers"]
    print(f"{len(layers)} layers, {images:,} images; ready after {server.seconds:.1f} s")
    alone = measured(server, layers, images, turns)
    job = json.loads(server.ask("/api/jobs", "POST", {"kind": "patches", "layer": 0, "channel": 0})[0])["id"]
    stopped = threading.Event()
    beside: dict[str, list[float]] = defaultdict(list)
    while not stopped.is_set() and len(next(iter(beside.values()), [])) < turns:
        for kind, times in measured(server, layers, images, 1).items():
            beside[kind] += times
        if json.loads(server.ask(f"/api/jobs/{job}")[0])["state"] != "running":
            stopped.set()
    server.ask(f"/api/jobs/{job}", "DELETE")
    print(f"\n{'milliseconds':<22}{'median':>8}{'95 %':>8}{'longest':>9}   {'beside a job':>14}{'longest':>9}")
    for kind, times in alone.items():
        low, high = np.percentile(times, (50, 95))
        low_job, longest_job = np.median(beside[kind]), max(beside[kind])
        print(f"{kind:<22}{low:>8.1f}{high:>8.1f}{max(times):>9.1f}   {low_job:>14.1f}{longest_job:>9.1f}")
    above = (server.peak - own) / 2**20
    print(f"\nmemory: {above:,.0f} MiB at most above the {own / 2**20:,.0f} MiB of a process that runs the model")


if __name__ == "__main__":
    main()
