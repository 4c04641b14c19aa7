"""What is promised to hold whatever else a program does: memory, code, forks, tracers and replaced functions."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convforge


def program(text: str, *arguments: str) -> str:
    """What a Python program prints; it must end well, and within a minute."""
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(text), *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------------------------------------------------------------
# Memory that is not there
# ---------------------------------------------------------------------------------------------------------------------


def freed(t: Tensor, left: int = 0) -> Tensor:
    t.untyped_storage().resize_(left)
    return t


@pytest.mark.parametrize("left", [0, 4, 8 * 4 * 9 * 4 - 4])
@pytest.mark.parametrize("grad", [False, True])
def test_weights_whose_memory_is_gone_are_refused(left: int, grad: bool) -> None:
    w = torch.randn(8, 4, 3, 3, requires_grad=grad)
    for _ in range(3):
        convforge.conv2d(torch.randn(1, 4, 5, 5), w)
    freed(w.detach(), left)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"needs 1,152 bytes of memory, and its storage has {left:,}:"):
            convforge.conv2d(torch.randn(1, 4, 5, 5), w)


def test_inputs_biases_and_gradients_whose_memory_is_gone_are_refused() -> None:
    x, w, b = torch.randn(2, 4, 5, 5), torch.randn(8, 4, 3, 3), torch.randn(8)
    g = torch.randn(2, 8, 3, 3)
    ops, geometry = torch.ops.convforge, ((1, 1), (0, 0, 0, 0), (1, 1), 1)
    whole = torch.randn(3, 4, 5, 5)
    part = whole[1:]
    freed(whole, x.nbytes)  # enough for what the part's sizes say, but not from where it begins
    cases: list[Callable[[], Any]] = [
        lambda: convforge.conv2d(freed(x.clone()), w, b),
        lambda: convforge.conv2d(freed(x.clone(), x.nbytes - 4), w, b),
        lambda: convforge.conv2d(part, w, b),
        lambda: convforge.conv2d(x, w, freed(b.clone(), 28)),
        lambda: ops.conv2d_input_gradient(freed(g.clone()), w, (5, 5), *geometry, False),
        lambda: ops.conv2d_input_gradient(g, freed(w.clone(), 100), (5, 5), *geometry, False),
        lambda: ops.conv2d_weight_gradient(freed(x.clone(), 100), g, (3, 3), *geometry, False),
        lambda: ops.conv2d_weight_gradient(x, freed(g.clone()), (3, 3), *geometry, False),
    ]
    half = [t.bfloat16() for t in (x, w, b)]
    for n in range(3):
        cases.append(lambda n=n: convforge.conv2d(*(freed(t.clone(), 8) if m == n else t for m, t in enumerate(half))))
    cases.append(lambda: convforge.conv2d(x, w, freed(torch.randn(16), 32)[::2]))
    for case in cases:
        with pytest.raises(RuntimeError, match=r"its storage has|out of bounds for storage"):
            case()


def test_tensors_that_are_parts_of_larger_ones_are_taken() -> None:
    whole, w = torch.randn(4, 9, 11, 13), torch.randn(6, 4, 3, 3)
    for x in (whole[1:, 5:, 2:, 3:], whole[:, :4, ::2, ::3], whole[3:, 2:6], whole[:1, :1].expand(2, 4, 11, 13)):
        torch.testing.assert_close(convforge.conv2d(x, w), F.conv2d(x, w), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# The same bits
# ---------------------------------------------------------------------------------------------------------------------

# The first four: Winograd that packs its own weights adds up in other pieces, if it is let.
LAYERS = [
    (1, 128, 14, 128, 3, 1), (1, 200, 20, 8, 3, 1), (4, 200, 7, 16, 5, 2), (1, 128, 7, 8, 5, 1),
    (1, 64, 14, 64, 1, 1), (2, 32, 9, 32, 3, 32), (1, 3, 32, 64, 7, 1), (4, 64, 14, 2, 3, 1),
]  # fmt: skip


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_first_call_gives_the_bits_of_the_later_ones(layer: tuple[int, ...], deterministic: bool) -> None:
    batch, channels, size, outputs, kernel, groups = layer
    x, w = torch.randn(batch, channels, size, size), torch.randn(outputs, channels // groups, kernel, kernel)
    torch.use_deterministic_algorithms(deterministic)
    try:
        first, *later = (convforge.conv2d(x, w, padding=kernel // 2, groups=groups) for _ in range(4))
        assert all(torch.equal(first, y) for y in later)
        x.requires_grad_()
        g = torch.randn_like(first)
        first, *later = (
            torch.autograd.grad(convforge.conv2d(x, w * 1, padding=kernel // 2, groups=groups), x, g)[0],
            *(
                torch.autograd.grad(convforge.conv2d(x, w, padding=kernel // 2, groups=groups), x, g)[0]
                for _ in range(4)
            ),
        )
        assert all(torch.equal(first, dx) for dx in later)
    finally:
        torch.use_deterministic_algorithms(False)


# ---------------------------------------------------------------------------------------------------------------------
# Code that cannot be loaded
# ---------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_linked_is_computed_by_torch_with_one_warning() -> None:
    said = program("""
        import warnings
        import llvmlite.binding as llvm
        import torch
        import convforge
        from convforge.native import runtime

        def link(*_):
            raise RuntimeError("no memory in reach")

        runtime.linked = llvm.JITLibraryBuilder.link = link
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for last in (torch.contiguous_format, torch.channels_last):
                for dtype in (torch.float32, torch.float64, torch.bfloat16):
                    x = torch.randn(2, 6, 9, 8, dtype=dtype).contiguous(memory_format=last).requires_grad_()
                    w, b = (torch.randn(s, dtype=dtype).requires_grad_() for s in ((4, 3, 3, 2), (4,)))
                    args = (1, 2), ((2, 0), (1, 3)), (2, 1), 2
                    results = []
                    for f in (convforge.conv2d, lambda x, w, b, s, _, d, g: torch.conv2d(
                        torch.nn.functional.pad(x, (1, 3, 2, 0)), w, b, s, 0, d, g
                    )):
                        y = f(x, w, b, *args)
                        results.append((y, *torch.autograd.grad(y.square().sum(), (x, w, b))))
                    for ours, theirs in zip(*results):
                        near = {"rtol": 5e-2, "atol": 0.5} if dtype.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-4}
                        torch.testing.assert_close(ours, theirs, **near)
                    assert results[0][0].stride() == results[1][0].stride()
                    with torch.no_grad():
                        for _ in range(3):
                            assert torch.equal(convforge.conv2d(x, w, b, *args), results[1][0])
        import gc, weakref
        x = torch.randn(2, 6, 9, 8)
        gone = weakref.ref(x)
        convforge.conv2d(x, torch.randn(4, 6, 3, 2))
        del x
        gc.collect()
        assert gone() is None, "an exception holds on to it"
        ours = [str(c.message) for c in caught if "convforge" in str(c.message)]
        print(len(ours), ours[0])
    """)
    count, _, message = said.partition(" ")
    assert int(count) == 1
    assert message.startswith("convforge hands convolutions over to PyTorch: ")
    assert "no memory in reach" in message


# ---------------------------------------------------------------------------------------------------------------------
# Forks
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this system")
def test_a_fork_while_another_thread_compiles(tmp_path: Any) -> None:
    """Children that compile themselves, begun at any moment of a compilation."""
    said = program(
        """
        import os, sys, threading, time
        os.environ["CONVFORGE_CACHE"] = sys.argv[1]
        os.environ["OMP_NUM_THREADS"] = "1"
        import numpy as np
        from convforge import Conv2dSpec, engine

        def compile_something(kernel, algorithm=""):
            spec = Conv2dSpec(20, 20, kernel, padding=kernel // 2)
            x, w = np.ones((1, 20, 9, 9), np.float32), np.ones((20, 20, kernel, kernel), np.float32)
            return engine.conv2d(x, w, None, spec, threads=1, algorithm=algorithm)

        def work():
            compile_something(3, "winograd 4×4")
            compile_something(5, "direct")

        thread = threading.Thread(target=work)
        thread.start()
        children = []
        for n in range(8):
            time.sleep(0.08)
            child = os.fork()
            if child == 0:
                compile_something(3, "direct")
                os._exit(0)
            children.append(child)
        thread.join()
        end = time.monotonic() + 60
        while children and time.monotonic() < end:
            time.sleep(0.05)
            children = [c for c in children if os.waitpid(c, os.WNOHANG)[0] == 0]
        for child in children:
            os.kill(child, 9)
        print(len(children))
        """,
        str(tmp_path / "code"),
    )
    assert int(said) == 0, f"{said.strip()} of 8 children hung"


# ---------------------------------------------------------------------------------------------------------------------
# In place of torch's function, traced, scripted
# ---------------------------------------------------------------------------------------------------------------------


def test_in_the_place_of_torchs_own_function(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = F.conv2d
    monkeypatch.setattr(F, "conv2d", convforge.conv2d)
    monkeypatch.setattr(torch, "conv2d", convforge.conv2d)
    x, w = torch.randn(2, 4, 7, 7), torch.randn(6, 4, 3, 3)
    whole = torch.randint(-5, 5, (1, 4, 7, 7)), torch.randint(-5, 5, (6, 4, 3, 3))
    assert torch.equal(F.conv2d(*whole), theirs(*whole))
    for args in ((x[0], w), (x.to(torch.complex64), w.to(torch.complex64)), (x[:0], w), (x.double(), w.double())):
        torch.testing.assert_close(F.conv2d(*args), theirs(*args), rtol=1e-4, atol=1e-4)
    mapped = torch.vmap(lambda w: F.conv2d(x, w))(torch.stack([w, w + 1]))
    torch.testing.assert_close(mapped[1], theirs(x, w + 1), rtol=1e-4, atol=1e-4)
    _, tangent = torch.func.jvp(lambda x: F.conv2d(x, w, padding="same"), (x,), (x,))
    torch.testing.assert_close(tangent, theirs(x, w, padding="same"), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="expected input"):
        F.conv2d(x[:, :3], w)


PADDINGS: list[Any] = [0, 2, (1, 2), "valid", "same", "same_half", "same_ceil", ((1, 2), (0, 3))]


@pytest.mark.parametrize("padding", PADDINGS, ids=str)
def test_a_trace_holds_the_plain_operator(padding: Any) -> None:
    layer = convforge.nn.Conv2d(4, 6, (3, 4), padding=padding, dilation=2).eval()
    x, other = torch.randn(1, 4, 12, 13), torch.randn(3, 4, 17, 12)
    traced = torch.jit.trace(layer, x)
    assert "convforge::" not in str(traced.inlined_graph)
    assert "aten::conv" in str(traced.inlined_graph) or "aten::_conv" in str(traced.inlined_graph)
    for image in (x, other):
        torch.testing.assert_close(traced(image), layer(image), rtol=1e-4, atol=1e-4)


def test_a_trace_whose_padding_depends_on_the_size_says_so() -> None:
    layer = convforge.nn.Conv2d(4, 6, 3, padding="same_ceil", stride=2).eval()
    x = torch.randn(1, 4, 12, 13)
    with pytest.warns(torch.jit.TracerWarning, match="Converting a tensor to a Python integer"):
        traced = torch.jit.trace(layer, x)
    torch.testing.assert_close(traced(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("padding", [0, 1, (1, 2), "same", "valid"], ids=str)
def test_an_optimised_model_can_be_scripted(padding: Any, mode: str) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, padding=padding, padding_mode=mode), torch.nn.ReLU())
    fast = convforge.optimize(model)
    scripted = torch.jit.script(fast)
    assert type(fast[0]) is convforge.nn.Conv2d, "the model itself stays on the engine"
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(scripted(x), model(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", ["same_ceil", ((1, 2), (0, 3))], ids=str)
def test_what_a_script_cannot_express_is_said(padding: Any) -> None:
    with pytest.raises(convforge.UserError, match=r"torch\.jit\.script cannot express padding="):
        torch.jit.script(convforge.nn.Conv2d(4, 6, 3, padding=padding))
