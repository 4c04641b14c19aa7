"""What one call costs besides the convolution: layers so small that little else is left, beside torch's own.

    python benchmarks/calls.py                     # microseconds a call, ours and torch's, interleaved in rounds

The last rows measure what keeping packed weights brings (`convforge/pytorch/kept.py`): one image, with weights that
were given to `freeze`, with others, which are compared with what was packed, and with weights that count as trained and
are packed at every call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

import convforge

SMALL = (
    ("1 → 1, 1×1, at 1×1", 1, 1, 1, 1, 1),
    ("8 → 8, 1×1, at 4×4", 8, 8, 1, 4, 1),
    ("8 → 8, 3×3, at 8×8", 8, 8, 3, 8, 1),
    ("16 depthwise, 3×3, at 8×8", 16, 16, 3, 8, 16),
    ("16 → 16, 3×3, at 16×16", 16, 16, 3, 16, 1),
    ("16 → 16, 3×3, at 32×32 (ResNet-20)", 16, 16, 3, 32, 1),
    ("32 → 32, 3×3, at 16×16 (ResNet-20)", 32, 32, 3, 16, 1),
    ("64 → 64, 3×3, at 8×8 (ResNet-20)", 64, 64, 3, 8, 1),
)
"""Name, input and output channels, kernel, height and width, groups."""

LAYERS = ((64, 56, 64), (128, 28, 128), (256, 14, 256), (512, 14, 512), (512, 7, 512))


def microseconds(contenders: Sequence[Callable[[], object]], calls: int, rounds: int) -> list[float]:
    """Median over the rounds of the mean over so many calls, of each contender."""
    for run in contenders:
        for _ in range(10):
            run()
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for run, taken in zip(contenders, times, strict=True):
            begin = time.perf_counter()
            for _ in range(calls):
                run()
            taken.append((time.perf_counter() - begin) / calls * 1e6)
    return [statistics.median(taken) for taken in times]


def small_calls(rounds: int) -> None:
    """Ours and torch's, of the function, of the module, of the function recorded for gradients, and with its backward
    pass."""
    print("one image, channels_last, µs a call        function        layer           recorded        and backward")
    print(f"{'':39} {'  ours   torch ' * 4}")
    for name, inputs, outputs, kernel, size, groups in SMALL:
        how = (1, kernel // 2, 1, groups)
        last = torch.channels_last
        x = torch.randn(1, inputs, size, size).contiguous(memory_format=last)
        layers = [make(inputs, outputs, kernel, 1, kernel // 2, groups=groups).to(memory_format=last)
                  for make in (convforge.nn.Conv2d, torch.nn.Conv2d)]  # fmt: skip
        functions = (convforge.conv2d, F.conv2d)
        w, b = layers[0].weight.detach(), layers[0].bias.detach()
        learned = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, w, b)]
        g = torch.randn_like(functions[1](x, w, b, *how))

        def forward(function: Callable[..., torch.Tensor], tensors=(x, w, b), how=how) -> Callable[[], object]:
            return lambda: function(*tensors, *how)

        def backward(function: Callable[..., torch.Tensor], tensors=learned, how=how, g=g) -> Callable[[], object]:
            return lambda: torch.autograd.grad(function(*tensors, *how), tensors, g)

        with torch.no_grad():
            times = microseconds([forward(f) for f in functions], 100, rounds)
            times += microseconds([lambda layer=layer, x=x: layer(x) for layer in layers], 100, rounds)
        times += microseconds([forward(f, learned) for f in functions], 100, rounds)
        times += microseconds([backward(f) for f in functions], 50, rounds)
        print(f"{name:39} " + " ".join(f"{times[n]:6.1f} {times[n + 1]:7.1f}" for n in range(0, 8, 2)))


def kept_weights(rounds: int) -> None:
    print("\none image, 3×3, channels_last, µs a call   frozen   compared   packed each time   torch")
    for channels, size, outputs in LAYERS:
        last = torch.channels_last
        x = torch.randn(1, channels, size, size).contiguous(memory_format=last)
        w = (torch.randn(outputs, channels, 3, 3) * (channels * 9) ** -0.5).contiguous(memory_format=last)
        trained = w.clone().requires_grad_()
        frozen = convforge.freeze(w.clone(memory_format=last))
        contenders = [
            lambda x=x, w=frozen: convforge.conv2d(x, w, padding=1),
            lambda x=x, w=w: convforge.conv2d(x, w, padding=1),
            lambda x=x, w=trained: convforge.conv2d(x, w, padding=1),
            lambda x=x, w=w: F.conv2d(x, w, padding=1),
        ]
        kept, compared, packed, theirs = microseconds(contenders, 5, rounds)
        layer = f"{channels:4} → {outputs:4} at {size}×{size}"
        print(f"{layer:39} {kept:9.0f} {compared:10.0f} {packed:16.0f} {theirs:10.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    small_calls(options.rounds)
    kept_weights(options.rounds)


if __name__ == "__main__":
    main()
