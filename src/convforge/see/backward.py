"""The other direction: where the gradient of a convolution's weights comes from, for one image and its loss, and what
one step of learning changes.

The loss is the cross-entropy −log p(class). Its gradient comes back to the layer's output, and each weight's is the sum
of what the weight met times what came back there (`arithmetic.weight_gradient`). The same is asked of autograd.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from .arithmetic import WeightGradient, weight_gradient
from .gradients import passed
from .hooks import dtype_of
from .lru import Kept
from .network import Layer, Network, NotThere
from .pictures import Pictures
from .transposed import turned
from .verdict import Verdicts

_KEPT = 96 * 2**20


@dataclass(frozen=True)
class CameBack:
    """What came back to a layer from the loss of one image.

    Args:
        loss: −log of the probability of the class.
        incoming: the gradient by the layer's output, `(K, H_out, W_out)`.
        gradient: autograd's, by the layer's weight as it slides, `(K, C/g, k, k)`.
    """

    loss: float
    incoming: NDArray[np.float32]
    gradient: NDArray[np.float32]

    @property
    def bytes(self) -> int:
        return int(self.incoming.nbytes + self.gradient.nbytes)


@dataclass(frozen=True)
class Learned:
    """The loss and the class's probability before and after one step against the gradient."""

    loss: float
    probability: float


class Backward:
    """Losses of one network on some images, taken back to its convolutions.

    Args:
        network, pictures, verdicts: what is looked into, what it is shown, and what it answers.
    """

    def __init__(self, network: Network, pictures: Pictures, verdicts: Verdicts) -> None:
        self._network, self._pictures, self._verdicts = network, pictures, verdicts
        self._kept = Kept[CameBack](_KEPT, lambda found: found.bytes)

    def target(self, image: int, of: int | None) -> int:
        """The class that the loss is for: the one asked for, or the true one, or the most probable.

        Raises `NotThere` if there is no such class.
        """
        verdict = self._verdicts.of(image)
        if not verdict.are_logits:
            raise UserError(
                f"{self._network.name} answers with probabilities, and the loss is taken of what they are made of."
            )
        if of is None:
            return verdict.best(1)[0] if verdict.truth is None else verdict.truth
        if of >= len(verdict.logits):
            raise NotThere(f"there is no class {of}: there are {len(verdict.logits)}, and counting starts at 0.")
        return of

    def of(self, layer: int, image: int, target: int) -> CameBack:
        """What comes back to a layer.

        Raises:
            NotThere: if it is no convolution.
            UserError: if its weights are computed in its own code, so that autograd has no gradient to compare with.
        """
        return self._kept.find((layer, image, target), lambda: self._pass(layer, image, target))

    def weight(
        self, layer: int, image: int, target: int, channel: int, read: int, row: int, column: int
    ) -> WeightGradient:
        """The products behind the gradient of one weight; arguments as of `weight_gradient`."""
        came = self.of(layer, image, target)
        moment = self._network.look(image, partial(self._pictures.input, image), layer)
        assert moment.convolution is not None
        assert moment.input is not None
        given = moment.input[0].float().numpy()
        return weight_gradient(moment.convolution.spec, given, came.incoming, channel, read, row, column)

    def step(self, layer: int, image: int, target: int, rate: float) -> tuple[Learned, Learned, Learned]:
        """Before, and after one step of `rate` times the gradient: of this layer's weight alone, and of all parameters.

        Batch norms keep their statistics, as everywhere on the page.
        """
        one = self._convolution(layer)
        picture = self._pictures.input(image)

        def run() -> tuple[Learned, Learned, Learned]:
            ran = passed(self._network, one, picture, weight=True)
            loss = _loss(ran.logits, target)
            assert ran.weight is not None
            gradient = ran.gradient(loss, ran.weight)
            before = _learned(ran.logits, target)
            parameters = {name: value.detach() for name, value in ran.model.named_parameters()}
            x = picture[None].to(dtype_of(ran.model))
            name = f"{one.path}.weight" if one.path else "weight"

            def after(changed: dict[str, Tensor]) -> Learned:
                with torch.no_grad():
                    answer = torch.func.functional_call(ran.model, changed, (x,))
                return _learned(answer.reshape(-1).float(), target)

            alone = after(parameters | {name: parameters[name] - rate * gradient})
            leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
            with torch.enable_grad():
                whole = _loss(torch.func.functional_call(ran.model, leaves, (x,)).reshape(-1).float(), target)
                gradients = torch.autograd.grad(whole, list(leaves.values()), allow_unused=True)
            moved = {
                name: leaf.detach() if g is None else leaf.detach() - rate * g
                for (name, leaf), g in zip(leaves.items(), gradients, strict=True)
            }
            return before, alone, after(moved)

        return self._network.compute(run)

    def _convolution(self, index: int) -> Layer:
        layer = self._network.layer(index)
        if layer.convolution is None:
            raise NotThere(f"{layer.name!r} ({layer.type}) is not a 2-D convolution: nothing slides in it.")
        own = getattr(layer.module, "_parameters", {}).get("weight")
        if not isinstance(own, Tensor) or not torch.equal(_as_it_slides(own.detach(), layer), layer.convolution.weight):
            raise UserError(
                f"the weights of {layer.name!r} are computed in its own code, so their gradient cannot be compared "
                "with autograd's: choose a layer that has its weights as they are."
            )
        return layer

    def _pass(self, index: int, image: int, target: int) -> CameBack:
        layer = self._convolution(index)
        picture = self._pictures.input(image)
        moment = self._network.look(image, partial(self._pictures.input, image), index)
        if (
            moment.convolved is not None
            and moment.output is not None
            and not torch.equal(moment.convolved, moment.output)
        ):
            raise UserError(
                f"{layer.name!r} makes more of its convolution than a sum, so what came back to the sum is not known."
            )

        def run() -> CameBack:
            ran = passed(self._network, layer, picture, weight=True)
            assert ran.weight is not None
            loss = _loss(ran.logits, target)
            gradient = _as_it_slides(ran.gradient(loss, ran.weight), layer)
            incoming = ran.gradient(loss, ran.made)[0]
            return CameBack(float(loss.detach()), incoming.float().numpy(), gradient.float().contiguous().numpy())

        return self._network.compute(run)


def _as_it_slides(weight: Tensor, layer: Layer) -> Tensor:
    convolution = layer.convolution
    assert convolution is not None
    return weight if convolution.spread is None else turned(weight, convolution.spec.groups)


def _loss(logits: Tensor, target: int) -> Tensor:
    return F.cross_entropy(logits[None], torch.tensor([target]))


def _learned(logits: Tensor, target: int) -> Learned:
    loss = float(_loss(logits.detach().double(), target))
    return Learned(loss, float(np.exp(-loss)))
