"""Who trains a network: forward, loss, backward and a step of SGD with momentum, all in PyTorch.

Images of one batch, the same at every step, lie in memory already. What draws at random is off (dropout), so that the
gradients of the first step can be compared with those in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..contenders import CHANNELS_LAST, OURS, PLAIN
from .contender import Contender, Given, Ready
from .named import Case

_RATE = 1e-4
"""Small: after hundreds of steps on one batch the gradients should still be numbers of the usual size."""


def prepared(case: Case) -> nn.Module:
    """The network as it is trained."""
    module = case.module().train().requires_grad_(True)
    for layer in module.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = 0.0
    return module


def loss_of(outputs: Any) -> Tensor:
    """Cross entropy, with a class for each image, where there is a number a class; else the outputs' mean square."""
    from torch.utils._pytree import tree_leaves

    leaves = tree_leaves(outputs)
    if len(leaves) == 1 and leaves[0].ndim == 2:
        return F.cross_entropy(leaves[0], torch.arange(len(leaves[0])) % leaves[0].shape[1])
    loss: Tensor = sum(leaf.square().mean() for leaf in leaves)
    return loss


def gradients(module: nn.Module) -> Iterator[Tensor]:
    """Of all parameters that have one, in their order."""
    return (parameter.grad for parameter in module.parameters() if parameter.grad is not None)


def truth(case: Case) -> list[NDArray[np.float64]]:
    """The gradients of the first step in float64."""
    module = prepared(case).double()
    loss_of(module(torch.from_numpy(case.images()).double())).backward()  # type: ignore[no-untyped-call]
    return [gradient.numpy() for gradient in gradients(module)]


def _by(made: Callable[[nn.Module], Callable[..., Any]], last: bool = True) -> Callable[[Given], Ready]:
    """The module in one of torch's layouts, as `made` makes it fast. What that does takes part in the first step."""

    def load(given: Given) -> Ready:
        module, images = prepared(given.case), torch.from_numpy(given.images)
        if last:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            images = images.to(memory_format=torch.channels_last)
        run = made(module)
        trained = run if isinstance(run, nn.Module) else module
        optimizer = torch.optim.SGD(trained.parameters(), lr=_RATE, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss_of(run(images)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return Ready(step, lambda: [gradient.contiguous().numpy() for gradient in gradients(trained)])

    return load


def _compiled(module: nn.Module) -> Callable[..., Any]:
    from ...pytorch.backend import convforge

    return torch.compile(module, backend=convforge)  # what backend="convforge" is where the package is installed


def _swapped(module: nn.Module) -> Callable[..., Any]:
    from ...pytorch.optimize import optimize

    return optimize(module)


def _inductor(module: nn.Module) -> Callable[..., Any]:
    return torch.compile(module)


def _as_it_is(module: nn.Module) -> Callable[..., Any]:
    return module


TRAINING: dict[str, Contender] = {
    OURS: Contender(OURS, (), "", _by(_compiled)),
    "optimize": Contender(f"{OURS}, layer by layer", (), "", _by(_swapped)),
    "torch": Contender(PLAIN, ("torch",), "", _by(_as_it_is, last=False)),
    "torch-last": Contender(CHANNELS_LAST, ("torch",), "", _by(_as_it_is)),
    "inductor": Contender("torch Inductor", ("torch",), "", _by(_inductor), compiler=True),
}
"""By the names that `--peers` takes."""
