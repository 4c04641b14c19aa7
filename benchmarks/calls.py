"""What one call costs besides the convolution: a layer so small that nothing else is left, beside torch's own.

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
    x, w, b = torch.randn(1, 8, 4, 4), torch.randn(8, 8, 1, 1), torch.randn(8)
    g = torch.randn(1, 8, 4, 4)
    learned = [t.clone().requires_grad_() for t in (x, w, b)]

    def backward(function: Callable[..., torch.Tensor]) -> object:
        return torch.autograd.grad(function(*learned), learned, g)

    cases: dict[str, Callable[[Callable[..., torch.Tensor]], object]] = {
        "without gradients": lambda function: function(x, w, b),
        "with gradients, forward": lambda function: function(*learned),
        "with gradients, forward and backward": backward,
    }
    print("1×8×4×4 → 8, 1×1, µs a call                 ours   torch   difference")
    for name, case in cases.items():
        ours, theirs = microseconds(
            [lambda case=case: case(convforge.conv2d), lambda case=case: case(F.conv2d)], 300, rounds
        )
        print(f"{name:40} {ours:7.1f} {theirs:7.1f} {ours - theirs:8.1f}")


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
