"""`python -m soak.replaced LONG FIRST` runs what torch tests of its convolutions while our conv2d stands in for them.

The functions are replaced before torch's lists of operators are made, so that these hold ours. What our conv2d hands on
to torch (complex numbers, integers, transforms) must reach torch's own, and not come back.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import convforge

from .apart import announced, say, whole

ITS_OWN: Any = F.conv2d


def put(function: Any) -> None:
    F.conv2d = torch.conv2d = function


@contextmanager
def torchs_own() -> Iterator[None]:
    put(ITS_OWN)
    try:
        yield
    finally:
        put(convforge.conv2d)


def torchs_lists() -> tuple[list[Any], list[Any]]:
    """Operators and modules that convolve, with ours in the place of torch's function."""
    put(convforge.conv2d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch's test helpers warn about when they are imported is theirs
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
    operators = [op for op in op_db if "conv" in op.name]
    return operators, [module for module in module_db if "Conv" in module.module_cls.__name__]


_EVEN_KERNEL = "Using padding='same' with even kernel lengths"


def same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs)


def widened(value: Any) -> Any:
    """Numbers of 16 bits as float32, in which sums are not rounded at every step."""
    if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        return value.detach().float().requires_grad_(value.requires_grad)
    return value


def of_operator(op: Any, sample: Any) -> None:
    arguments, options = (sample.input, *sample.args), sample.kwargs

    def results(function: Any, arguments: Any, options: Any) -> list[Tensor]:
        y = function(*arguments, **options)
        leaves = [t for t in (*arguments, *options.values()) if isinstance(t, Tensor) and t.requires_grad]
        return [t.detach() for t in (y, *(torch.autograd.grad(y, leaves, torch.ones_like(y)) if leaves else ()))]

    ours = results(op.op, arguments, options)
    if op.name == "nn.functional.conv2d":
        assert op.op is convforge.conv2d, "ours is what torch's list holds"
        arguments, options = [widened(a) for a in arguments], {name: widened(a) for name, a in options.items()}
        theirs = [t.to(mine.dtype) for t, mine in zip(results(ITS_OWN, arguments, options), ours, strict=True)]
    else:
        with torchs_own():
            theirs = results(op.op, arguments, options)
    same(ours, theirs)


def of_module(info: Any, case: Any, dtype: torch.dtype) -> None:
    made, given = case.constructor_input, case.forward_input
    module = info.module_cls(*made.args, **made.kwargs, dtype=dtype)
    ours = module(*given.args, **given.kwargs)
    with torchs_own():
        theirs = module(*given.args, **given.kwargs)
    same(ours.detach(), theirs.detach())


def transforms() -> dict[str, Callable[[], Any]]:
    """Ways to come to a convolution that torch takes apart itself; each is run with our conv2d, and with torch's."""
    made = torch.Generator().manual_seed(2)
    x, w, v = (
        torch.randn(*shape, generator=made, dtype=torch.float64) for shape in ((2, 3, 7, 8), (4, 3, 3, 3), (2, 3, 7, 8))
    )

    def dual() -> Tensor:
        with torch.autograd.forward_ad.dual_level():
            made = torch.autograd.forward_ad.make_dual(x, v)
            tangent: Tensor = torch.autograd.forward_ad.unpack_dual(F.conv2d(made, w, padding=1)).tangent
            return tangent.clone()

    def narrow() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.conv2d(x.float(), w.float())

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return F.conv2d(a, b, stride=2).square().sum()

    module = torch.nn.Conv2d(3, 4, 3, dtype=torch.float64)
    reflecting = torch.nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", dtype=torch.float64)
    module.load_state_dict({"weight": w, "bias": w[:, 0, 0, 0]})
    reflecting.load_state_dict({"weight": w, "bias": w[:, 0, 0, 0]})
    scripted = torch.zeros(0, device="meta")
    return {
        "vmap": lambda: torch.func.vmap(lambda a: F.conv2d(a[None], w)[0])(x),
        "vmap over weights": lambda: torch.func.vmap(lambda b: F.conv2d(x, b[None]))(w),
        "jvp": lambda: torch.func.jvp(lambda a: F.conv2d(a, w), (x,), (v,))[1],
        "vjp": lambda: torch.func.vjp(lambda a: F.conv2d(a, w), x)[1](torch.ones(2, 4, 5, 6, dtype=torch.float64))[0],
        "grad": lambda: torch.func.grad(loss, 1)(x, w),
        "gradients of every image": lambda: torch.func.vmap(torch.func.grad(lambda b, a: loss(a[None], b)), (None, 0))(
            w, x
        ),
        "hessian": lambda: torch.func.hessian(lambda b: loss(x[:1], b))(w[:1, :, :1, :1]),
        "dual": dual,
        "autocast": narrow,
        "functional call": lambda: torch.func.functional_call(module, {"weight": 2 * w}, (x,)),
        "module": lambda: module(x),
        "module that reflects": lambda: reflecting(x),
        "one image": lambda: F.conv2d(x[0], w),
        "complex": lambda: F.conv2d(torch.complex(x, v), torch.complex(w, w)),
        "integers": lambda: F.conv2d(x.long(), w.long()),
        "same": lambda: F.conv2d(x, w, padding="same"),
        "negated": lambda: F.conv2d(torch._neg_view(x), w),
        "meta": lambda: torch.full(F.conv2d(scripted.new_empty(2, 3, 7, 8), scripted.new_empty(4, 3, 3, 3)).shape, 1.0),
        "nothing": lambda: F.conv2d(x[:0], w),
    }


def main(long: bool, first: int) -> None:
    operators, modules = torchs_lists()
    number = 0

    def attempt(name: str, run: Callable[[], None]) -> None:
        nonlocal number
        if number >= first:
            with announced(name), warnings.catch_warnings():
                warnings.filterwarnings("ignore", _EVEN_KERNEL)
                warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")  # torch's forward derivatives
                run()
        number += 1

    def transformed(name: str) -> None:
        ours = transforms()[name]()
        with torchs_own():
            theirs = transforms()[name]()
        same(ours, theirs)

    for name in transforms():
        attempt(name, lambda: transformed(name))  # noqa: B023
    names = set()
    for op in operators if long else [op for op in operators if op.name == "nn.functional.conv2d"]:
        for dtype in sorted(op.supported_dtypes("cpu"), key=str):
            floating = dtype.is_floating_point or dtype.is_complex
            for n, sample in enumerate(op.sample_inputs("cpu", dtype, requires_grad=floating)):
                names.add(op.name)
                attempt(f"{op.name}, {dtype}, sample {n}", lambda: of_operator(op, sample))  # noqa: B023
    for info in modules:
        for dtype in (torch.float64, torch.complex128) if long else (torch.float64,):
            inputs = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=True)
            for n, case in enumerate(inputs):
                if "2d" in info.module_cls.__name__ or long:
                    names.add(info.module_cls.__name__)
                    attempt(f"{info.name}, {dtype}, input {n}", lambda: of_module(info, case, dtype))  # noqa: B023
    say(sorted(names))
    whole()


if __name__ == "__main__":
    main(sys.argv[1] == "long", int(sys.argv[-1]))
