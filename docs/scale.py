"""What sharing a run among processes costs: measured here, and by the model of docs/scale.md for other places.

    torchrun --nproc-per-node 2 docs/scale.py measure    a step with and without sending gradients, and sending alone
    python docs/scale.py model                           ResNet-50 on 2 to 256 machines
    python docs/scale.py resnet50                        what the model takes for its computing
    python docs/scale.py photographs FOLDER              images and a network for the next two
    torchrun … docs/scale.py predict FOLDER              answers a second, of one process or several
    python docs/scale.py onnxruntime FOLDER              the same network in ONNX Runtime, with the same reader

Figures are medians, or of one pass over 3,200 images, on a machine with nothing else to do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from time import perf_counter

RESNET50 = 25_557_032 * 4
"""Bytes of its gradients."""
IMAGES_A_SECOND = 9.4
"""Of ResNet-50 at 224×224, forward and backward, on a machine of two cores; one of n cores is taken for n / 2 times as
fast. Measured by `python docs/scale.py resnet50`."""


def sending(bytes: float, machines: int, bandwidth: float, latency: float) -> float:
    """Seconds of an all-reduce in a ring: everybody sends and receives 2·(n − 1)/n of the bytes, in 2·(n − 1) rounds
    (Patarasuk & Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009).

    >>> round(sending(1e9, 4, bandwidth=1.25e9, latency=0), 2)
    1.2
    """
    return 2 * (machines - 1) / machines * bytes / bandwidth + 2 * (machines - 1) * latency


def step(computing: float, sent: float, hidden: float) -> float:
    """Seconds of a step, of which the part `hidden` computes while gradients are sent.

    Nothing is hidden where the cores that compute send, too, as on one machine; at most the backward pass is, which is
    two thirds, where a network card sends by itself.

    >>> round(step(0.3, 0.1, hidden=0), 3), step(0.3, 0.1, hidden=2 / 3), round(step(0.3, 0.4, hidden=2 / 3), 3)
    (0.4, 0.3, 0.5)
    """
    return (1 - hidden) * computing + max(hidden * computing, sent)


def model() -> None:
    """The tables of docs/scale.md."""
    machines = (2, 4, 8, 16, 32, 64, 128, 256)
    for cores, batch in ((32, 32), (32, 128)):
        computing = batch / (IMAGES_A_SECOND * cores / 2)
        print(f"\n{cores} cores and {batch} images a machine, {computing * 1e3:,.0f} ms of computing a step\n")
        print("| | " + " | ".join(map(str, machines)) + " |\n|---" * 1 + "|---" * len(machines) + "|")
        for gigabits in (10, 100):
            cells = []
            for count in machines:
                sent = sending(RESNET50, count, gigabits * 1e9 / 8 * 0.9, 25e-6)
                least, most = (computing / step(computing, sent, hidden) for hidden in (0, 2 / 3))
                cells.append(f"{least * 100:.0f}–{most * 100:.0f} %")
            print(f"| {gigabits} Gbit/s | " + " | ".join(cells) + " |")


def timed(do: Callable[[], object], times: int) -> float:
    do()
    do()
    taken = []
    for _ in range(times):
        begin = perf_counter()
        do()
        taken.append(perf_counter() - begin)
    return median(taken)


def measure() -> None:
    import torch
    import torch.distributed as dist
    from torch.nn import functional

    from convforge.models import families
    from convforge.train.ranks import joined

    with joined() as ranks:
        torch.set_num_threads(ranks.threads(None) or 2)
        for widths, side, batch in (([32, 64, 128, 256], 64, 64), ([64, 128, 256, 512], 32, 16)):
            torch.manual_seed(0)
            net = families.build("resnet", classes=10, input_shape=(3, side, side), widths=widths)
            net = net.to(memory_format=torch.channels_last)
            sent = sum(parameter.numel() * 4 for parameter in net.parameters())
            mine = len(ranks.places(batch))
            images = torch.rand(mine, 3, side, side).contiguous(memory_format=torch.channels_last)
            labels = torch.randint(10, (mine,))
            learner = ranks.learner(net)

            def once(shared: bool, learner=learner, images=images, labels=labels) -> None:  # type: ignore[no-untyped-def]
                silent = learner.no_sync() if ranks.count > 1 and not shared else nullcontext()
                with silent:
                    functional.cross_entropy(learner(images), labels).backward()

            flat = torch.rand(sent // 4)
            alone = timed(lambda once=once: once(False), 9)  # type: ignore[misc]
            whole = timed(lambda once=once: once(True), 9)  # type: ignore[misc]
            bare = timed(lambda flat=flat: dist.all_reduce(flat), 9) if ranks.count > 1 else 0.0  # type: ignore[misc]
            alone, whole, bare = (each / ranks.count for each in ranks.sums(alone, whole, bare))
            if ranks.first:
                print(
                    f"{ranks.count} ranks of {torch.get_num_threads()} threads, {batch} images {side}×{side} a step, "
                    f"{sent / 1e6:.1f} MB: computing {alone * 1e3:.0f} ms, sending alone {bare * 1e3:.0f} ms, "
                    f"a step {whole * 1e3:.0f} ms ({batch / whole:,.0f} images/s); the model says "
                    f"{step(alone, bare, hidden=0) * 1e3:.0f} ms"
                )


def resnet50() -> None:
    import torch

    from convforge import optimize
    from convforge.bench.networks import published

    net = published.PUBLISHED["resnet50"]().to(memory_format=torch.channels_last)
    optimize(net)
    images = torch.rand(8, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    seconds = timed(lambda: net(images).sum().backward(), 5)
    print(f"{8 / seconds:.1f} images/s with {torch.get_num_threads()} threads")


_IMAGES, _SIDE = 3200, 128


def photographs(folder: Path) -> None:
    import numpy as np
    import torch
    from PIL import Image

    from convforge.images import photographs as carried
    from convforge.models import checkpoint
    from convforge.models.export import export

    draw = np.random.default_rng(0)
    whole = [np.asarray(Image.open(file).convert("RGB")) for file in carried.photographs()]
    for number in range(_IMAGES):
        picture = whole[number % len(whole)]
        top, left = (int(draw.integers(0, size - 250)) for size in picture.shape[:2])
        place = folder / "photos" / ("a", "b")[number % 2] / f"{number:04}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[top : top + 250, left : left + 250]).save(place, quality=90)
    shape = (3, _SIDE, _SIDE)
    described = checkpoint.Architecture("resnet", {}, ("a", "b"), shape, (0.5,) * 3, (0.25,) * 3)
    torch.manual_seed(0)
    checkpoint.save(folder / "net", described.build().eval(), described)
    for form in ("bundle", "onnx"):
        export(folder / "net", form, folder / f"net.{form}", force=True)


def predict(folder: Path) -> None:
    import tempfile

    from convforge.many import results, sources
    from convforge.models.load import load
    from convforge.train.ranks import joined

    with joined() as ranks, tempfile.TemporaryDirectory() as out:
        threads = ranks.threads(None) or 2
        network, work = load(folder / "net.bundle", threads=threads), sources.pieces([str(folder / "photos")])
        some = [next(work[0].pictures())] * 33
        list(network.predict_stream(iter(some)))
        ranks.sums(0)
        begin = perf_counter()
        results.write(network, work, Path(out), 1, results.Share(ranks.rank, ranks.count))
        ranks.sums(0)
        if ranks.first:
            speed = _IMAGES / (perf_counter() - begin)
            print(f"{ranks.count} processes of {threads} threads: {speed:,.0f} images/s")


def onnxruntime(folder: Path) -> None:
    from itertools import islice

    import numpy as np
    import onnxruntime as ort

    from convforge.inference.pictures import read_ahead
    from convforge.many import sources

    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(folder / "net.onnx", options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    pieces = sources.pieces([str(folder / "photos")])
    reading = read_ahead((p for piece in pieces for p in piece.pictures()), 3, (_SIDE, _SIDE), 32)
    zeros = np.zeros((16, 3, _SIDE, _SIDE), np.float32)
    session.run(None, {name: zeros})
    begin = perf_counter()
    while batch := list(islice(reading, 16)):
        pixels = np.stack([np.asarray(pixels) for _, pixels in batch]).astype(np.float32)
        session.run(None, {name: (pixels / 255 - 0.5) / np.float32(0.25)})
    print(f"ONNX Runtime, 2 threads: {_IMAGES / (perf_counter() - begin):,.0f} images/s")


if __name__ == "__main__":
    verbs: dict[str, Callable[..., None]] = {
        each.__name__: each for each in (model, measure, resnet50, photographs, predict, onnxruntime)
    }
    verbs[sys.argv[1]](*map(Path, sys.argv[2:]))
