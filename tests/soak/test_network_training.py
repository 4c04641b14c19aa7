"""Networks that everybody knows, in training: their gradients are those of float64, and their losses go torch's way.

Both by `convforge.optimize` and by `torch.compile`, which run the layers on the engine one by one, and the latter batch
norms with what stands behind them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import convforge
from convforge.pytorch.backend import convforge as backend

from .conftest import Soak
from .decided import Following, Told, gradients, telling
from .listed import NETWORKS, images, pytest_generate_tests, sizes, trained  # noqa: F401

CLOSE = 1e-3
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What was compiled by one test is no graph of another's."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# ---------------------------------------------------------------------------------------------------------------------
# Gradients
# ---------------------------------------------------------------------------------------------------------------------


def by_layers(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
    with Told() as told:
        return gradients(model, model, x), told.parts


def by_optimize(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
    return by_layers(convforge.optimize(model), x)


def by_torch_compile(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
    torch._dynamo.reset()
    parts: list[Tensor] = []
    return gradients(model, torch.compile(model, backend=telling(backend, parts), fullgraph=True), x), parts


def distances(found: dict[str, Tensor], true: dict[str, Tensor]) -> tuple[float, float]:
    """All parameters together, relative in the Euclidean norm; and of the tensor that is farthest off, none left out.

    Some gradients are 0, as of a batch norm's shift before another batch norm, and what is computed is rounding of
    sums that cancel. A tensor is therefore compared with its own norm and a thousandth of all parameters'.
    """
    whole = torch.stack([g.norm() for name, g in true.items() if name != "images"]).norm()
    apart = {name: (found[name] - g).norm() for name, g in true.items()}
    together = torch.stack([off for name, off in apart.items() if name != "images"]).norm() / whole
    return float(together), max(float(apart[name] / (g.norm() + 1e-3 * whole)) for name, g in true.items())


def test_gradients_are_those_of_float64(name: str, soak: Soak, tmp_path: Path) -> None:
    """As far as they are defined: where rounding decides on which side of 0 a ReLU's input is, float64 follows.

    How often that is and how far torch's own float32 is from float64 in the same way is said in the table.
    """
    entry = NETWORKS[name]
    model, off, others, decided = trained(entry, tmp_path), dict.fromkeys(("ours", "torch"), 0.0), 0, 1
    x = images(entry, 4, sizes(entry)[0])
    for way, wanted in ((by_optimize, "NCHW"), (by_torch_compile, "NHWC"), (by_layers, "NHWC"))[: soak.length(2, 3)]:
        form = "NCHW" if entry.get("NCHW") else wanted
        with soak.case(f"{name} by {way.__name__}, {form}"):
            given: dict[str, Any] = {"memory_format": FORMATS[form]}
            found, parts = way(copy.deepcopy(model).to(**given), x.contiguous(**given))
            double = copy.deepcopy(model).double()
            with Following(parts) as following:
                true = gradients(double, double, x.double())
            together, farthest = distances(found, true)
            whose = "torch" if way is by_layers else "ours"
            off[whose] = max(off[whose], together)
            if whose == "torch":
                continue
            others, decided = max(others, following.others), following.decided
            assert following.beyond < CLOSE, f"an input was {following.beyond:.1e} on the wrong side"
            assert following.others <= 1e-4 * decided, f"{following.others} of {decided} are on the wrong side"
            assert together < CLOSE, f"all are {together:.1e} from float64"
            assert farthest < CLOSE, f"one is {farthest:.1e} from float64"
    soak.figure(name, f"{off['ours']:.0e} (torch {off['torch']:.0e}; {others:,} of {decided:,} decided by rounding)")


# ---------------------------------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------------------------------

BATCH = 8
RATE = 1e-3


def data(entry: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Images of ten kinds, each a picture below noise, and which they are."""
    draw, shape = torch.Generator().manual_seed(0), (entry.get("channels", 3), *sizes(entry)[0])
    kinds = torch.arange(8 * BATCH) % 10
    return 0.5 * torch.randn(10, *shape, generator=draw)[kinds] + torch.randn(len(kinds), *shape, generator=draw), kinds


def loss_of(answer: Any, kinds: Tensor) -> Tensor:
    """Which of ten kinds it is where there is a number a class; else the distance to one drawn result for each kind."""
    every = tree_leaves(answer)
    if every[0].dim() == 2:
        return F.cross_entropy(every[0], kinds)
    draw = torch.Generator().manual_seed(1)
    drawn = (torch.randn(10, *y.shape[1:], generator=draw)[kinds] for y in every)
    return torch.stack([(y - z).square().mean() for y, z in zip(every, drawn, strict=True)]).sum()


def curve(model: nn.Module, run: Any, x: Tensor, kinds: Tensor, steps: int, rate: float) -> Tensor:
    optimizer, losses = torch.optim.SGD(model.parameters(), rate, momentum=0.9), []
    for step in range(steps):
        batch = slice(step * BATCH % len(x), step * BATCH % len(x) + BATCH)
        optimizer.zero_grad()
        loss = loss_of(run(x[batch]), kinds[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().double())
    return torch.stack(losses)


def nudged(model: nn.Module) -> nn.Module:
    """With each weight moved by one unit in the last place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.nextafter(parameter, torch.full_like(parameter, torch.inf)))
    return model


def smooth(losses: Tensor) -> Tensor:
    """Means of ten steps."""
    return F.avg_pool1d(losses[None], 10, 1)[0]


def test_losses_go_the_way_of_torchs(name: str, soak: Soak, tmp_path: Path) -> None:
    """Training is chaotic: rounding grows from step to step, and how fast, torch itself shows: with images in the
    other memory format, and with weights moved by one unit in the last place. Ours may stray twice as far as those.

    The first losses, which have seen no update, agree to 10⁻⁵; and torch's own runs stray by less than a fifth of what
    is learned, or nothing would be shown.
    """
    entry, steps = NETWORKS[name], soak.length(12, 100)
    model, (x, kinds) = trained(entry, tmp_path), data(entry)

    def run(form: str, change: Any = copy.deepcopy, way: Any = lambda m: (m, m)) -> Tensor:
        given: dict[str, Any] = {"memory_format": FORMATS["NCHW" if entry.get("NCHW") else form]}
        trained_one, called = way(change(copy.deepcopy(model)).to(**given))
        return curve(trained_one, called, x.contiguous(**given), kinds, steps, entry.get("rate", RATE))

    eager = run("NCHW")
    others = [("NCHW", nudged)] if entry.get("NCHW") else [("NHWC",), ("NCHW", nudged), ("NHWC", nudged)]
    strays = [smooth(run(*how) - eager).abs().max() for how in others]
    learned = smooth(eager).max() - smooth(eager).min()
    with soak.case(f"{name} by torch"):
        assert max(strays) < 0.2 * learned, f"torch strays by {max(strays):.1e}, and {learned:.1e} is learned"

    def optimized(m: nn.Module) -> Any:
        return (fast := convforge.optimize(m)), fast

    def compiled(m: nn.Module) -> Any:
        torch._dynamo.reset()
        return m, torch.compile(m, backend="convforge", fullgraph=True)

    found = []
    for form, way in (("NCHW", optimized), ("NHWC", compiled)):
        with soak.case(f"{name} by {way.__name__}"):
            ours = run(form, way=way)
            assert abs(ours[0] / eager[0] - 1) < 1e-5, f"begins with {ours[0]}, not {eager[0]}"
            found.append(smooth(ours - eager).abs().max())
            limit = 2 * max(strays) + 1e-5 * eager[0]
            assert found[-1] <= limit, f"strays by {found[-1]:.1e}, torch itself by {max(strays):.1e}"
    soak.figure(name, f"{smooth(eager)[0]:.2f} → {smooth(eager)[-1]:.2f}: {max(found):.0e} (torch {max(strays):.0e})")
