"""`Model`: a whole network that is called with arrays or tensors, and asked about pictures."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..graph.nodes import Graph
from . import answers, bundle
from .about import About
from .pictures import Picture, Read, are_pictures, listed, name_of, pixels, read_ahead
from .prediction import Prediction
from .report import NetworkReport
from .shares import best_first, class_name, classes_of, probabilities

Array = NDArray[Any]

_TOGETHER = 16
"""Small pictures that are computed together, at most; what is left is computed one by one, so that there are two plans.
Large ones fill all threads by themselves, and together would only take more memory."""
_NUMBERS = 2**20
"""Of pictures that are computed together: 16 of 128×128 in colour, 6 of 224×224. With an eighth of it, two pictures of
128×128, threads waited for each other more often while others decoded: three quarters of the pictures a second."""


class Runs(Protocol):
    """What computes a model's outputs: `Compiled`, or something that stands in for it."""

    dtype: str

    @property
    def graph(self) -> Graph | None:
        """What it computes; None where that is not known as a graph."""

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]: ...

    @property
    def outputs(self) -> tuple[tuple[int, ...], ...]: ...

    @property
    def probabilities(self) -> bool: ...

    def batch(self) -> int | None: ...

    def __call__(self, *arrays: Array) -> tuple[Array, ...]: ...

    def report(self) -> NetworkReport: ...


class Model:
    """A network that is ready to answer: what `convforge.load` and `convforge.compile` return.

    It may be called by several threads at once. It only infers: its weights do not change, and its answers have no
    gradients.

    Args:
        network: what computes, such as a `Compiled` graph.
        about: names of the classes, normalisation of pictures.
        answer: how what it returns is made of the outputs.

    Raises:
        UserError: where `about` does not fit the network.

    >>> import numpy as np
    >>> from convforge.graph.nodes import Graph, Node, Unary
    >>> from convforge.inference.compiled import Compiled
    >>> model = Model(Compiled(Graph({"x": (1, 3, 2, 2)}, ("y",), (Node(Unary("relu"), ("x",), "y"),), {})))
    >>> model.input_shape, model(-np.ones((5, 3, 4, 6), np.float32)).shape
    ((3, 2, 2), (5, 3, 4, 6))
    """

    def __init__(self, network: Runs, about: About | None = None, answer: answers.Template = None) -> None:
        self._network, self._about = network, about or About()
        self._answer = answers.usual(len(network.outputs)) if answer is None else answer
        self._check()

    def _check(self) -> None:
        classes = self._about.classes
        if classes is not None:
            found = classes_of(self._network.outputs[0])
            if found != len(classes):
                raise UserError(
                    f"there are {len(classes)} names of classes, but the network's output has the shape "
                    f"{self._network.outputs[0]}: give one name for each number of an image's answer."
                )
        if self._about.mean is not None:
            channels, _, _ = self._images()
            if channels != len(self._about.mean):
                raise UserError(f"mean and std have {len(self._about.mean)} numbers, but images {channels} channels.")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(C, H, W)` of the images that it was made for; of its first input, where there are several. Other heights
        and widths go where the file leaves them open, other numbers of images nearly everywhere."""
        return next(iter(self._network.inputs.values()))[1:]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names in the order of the outputs; None where nobody has said them."""
        return self._about.classes

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Of each channel, what `predict` subtracts: (pixel / 255 − mean) / std. None where nobody has said it."""
        return self._about.mean

    @property
    def std(self) -> tuple[float, ...] | None:
        """Of each channel, what `predict` divides by."""
        return self._about.std

    @property
    def classifies(self) -> bool:
        """Whether its first output has one number a class for each image, so that `predict` has an answer."""
        found = classes_of(self._network.outputs[0])
        several = found is not None and found > 1  # one number alone is a measure of something
        return len(self._network.inputs) == 1 and (several or self.classes is not None)

    def __call__(self, *inputs: Any) -> Any:
        """What the network answers: a tensor for tensors, an array for arrays; several of them as the network returns
        them, in a tuple, list or dictionary.

        Args:
            inputs: floating-point numbers `(N, C, H, W)`, normalised; converted to the network's own type where they
                have another. Channels last in memory is read as it lies. Or pictures in files or of Pillow, one or a
                list, which are prepared as `predict` does it; the answer is in arrays then.

        Raises:
            UserError: for other types and numbers of inputs, shapes that the network does not take, and pictures that
                cannot be read.
        """
        names = tuple(self._network.inputs)
        if len(inputs) == 1 and are_pictures(inputs[0]):
            return self._of_pictures(listed(inputs[0]))
        if len(inputs) != len(names):
            raise UserError(f"the network takes {len(names)} inputs ({', '.join(names)}), not {len(inputs)}.")
        torch = sys.modules.get("torch")  # who has a tensor has imported it
        if torch is None or not any(isinstance(x, torch.Tensor) for x in inputs):
            outputs = self._network(*map(self._array, names, inputs))
            return answers.filled(self._answer, outputs)
        arrays = [
            self._array(name, _from_tensor(name, x, torch) if isinstance(x, torch.Tensor) else x)
            for name, x in zip(names, inputs, strict=True)
        ]
        return answers.filled(self._answer, [torch.from_numpy(y) for y in self._network(*arrays)])

    def _array(self, name: str, given: Any) -> Array:
        array = np.asarray(given)
        if array.dtype.kind != "f":
            raise UserError(
                f"the network takes floating-point numbers for {name!r}, not {array.dtype}: "
                "predict takes pictures as they are, and normalises them."
            )
        if not array.size:
            raise UserError(f"{name!r} has the shape {array.shape}: there is nothing in it to answer for.")
        return array.astype(self._network.dtype, copy=False)

    # --- pictures -----------------------------------------------------------------------------------------------------

    def predict(self, images: Picture | Iterable[Picture], top: int = 5) -> list[Prediction]:
        """The most probable classes of each picture, in the order given.

        Pictures are made the network's size and normalised as `convforge predict` does it: turned upright, transparency
        laid on white, scaled to cover `input_shape`, cropped at the centre, (pixel / 255 − mean) / std.

        Args:
            images: paths, Pillow images, uint8 arrays `(H, W)`, `(H, W, 3)` or `(H, W, 4)`; one or several, also of
                several kinds. A folder stands for the images in it and below. A file that cannot be read becomes a
                `Prediction` with an error and stops nothing.
            top: how many classes to name. Where `classes` are not known, their numbers are their names.

        Raises:
            UserError: where the network's answers are not one number a class, nobody knows how pictures are normalised
                for it, or its answers are not numbers.
        """
        return list(self.predict_each(images, top))

    def predict_each(self, images: Picture | Iterable[Picture], top: int = 5) -> Iterator[Prediction]:
        """As `predict`, one after the other as they are computed: for more pictures than there is memory for.

        Files are read ahead by some threads, a few at a time.
        """
        self._must_classify(top)
        return self._predictions(listed(images), top)

    def predict_stream(self, images: Iterable[Picture], top: int = 5) -> Iterator[Prediction]:
        """As `predict_each`, of pictures that are listed while they are answered: of any number of them only those are
        in memory that are being read. There are no folders among them.

        >>> from convforge.graph.nodes import Graph, Node, Reduce
        >>> mean = Graph({"x": (1, 3, 8, 8)}, ("y",), (Node(Reduce("mean", (2, 3)), ("x",), "y"),), {})
        >>> from convforge.inference.compiled import Compiled
        >>> model = Model(Compiled(mean), About(("red", "green", "blue"), (0, 0, 0), (1, 1, 1)))
        >>> green = np.full((8, 8, 3), (0, 255, 0), np.uint8)
        >>> [answer.ranking[0][0] for answer in model.predict_stream(green for _ in range(3))]
        ['green', 'green', 'green']
        """
        self._must_classify(top)
        return self._predictions(images, top)

    def _must_classify(self, top: int) -> None:
        if top < 1:
            raise UserError(f"top must be at least 1, not {top}.")
        if not self.classifies:
            raise UserError(
                f"the network's answer has the shape {self._network.outputs[0]} and names no classes: call it with "
                "normalised images for its numbers."
            )
        self._must_know_normalisation()

    def outputs_of(self, image: Picture) -> tuple[Array, ...]:
        """All that the network makes of one picture, which is brought to its size and normalised as `predict` does it.

        Raises:
            UserError: where the picture cannot be read, or nobody knows how it is to be normalised.
        """
        self._must_know_normalisation()
        return self._network(self._fed(self._read([image]), self._network.batch()))

    def _of_pictures(self, pictures: list[Picture]) -> Any:
        """What it answers for all of them at once, as it answers for an array of them."""
        self._must_know_normalisation()
        bound = self._network.batch()
        if bound is not None and bound != len(pictures):
            raise UserError(f"the network takes {bound} images at a time, not {len(pictures)}.")
        return answers.filled(self._answer, self._network(self._fed(self._read(pictures), bound)))

    def _read(self, pictures: list[Picture]) -> NDArray[np.uint8]:
        channels, height, width = self._images()
        read = [pixels(picture, name_of(picture, at), channels, (height, width)) for at, picture in enumerate(pictures)]
        return np.stack(read)

    def _must_know_normalisation(self) -> None:
        if len(self._network.inputs) != 1:
            raise UserError(f"the network takes {len(self._network.inputs)} inputs, and a picture is one: call it.")
        if self._about.mean is None:
            raise UserError(
                "nobody knows how this network's pictures are normalised: say it with mean and std (--mean and --std), "
                "which for ImageNet are 0.485,0.456,0.406 and 0.229,0.224,0.225."
            )

    def _predictions(self, pictures: Iterable[Picture], top: int) -> Iterator[Prediction]:
        channels, height, width = self._images()
        bound = self._network.batch()
        together = max(1, min(_TOGETHER, _NUMBERS // math.prod(self.input_shape)))
        reading = read_ahead(pictures, channels, (height, width), 2 * (bound or together))
        left = len(pictures) if isinstance(pictures, list) else None
        while True:
            # Of a list the last ones are answered as each is read, and not when all are.
            few = left is not None and left < together and not bound
            read = list(islice(reading, 1 if few else bound or together))
            if not read:
                return
            left = None if left is None else left - len(read)
            whole = bound or len(read) == together
            for part in [read] if whole else [[one] for one in read]:
                yield from self._predicted(part, top, bound)

    def _predicted(self, read: list[tuple[str, Read]], top: int, bound: int | None) -> list[Prediction]:
        good = [pixels for _, pixels in read if not isinstance(pixels, UserError)]
        shares = iter(self._shares(np.stack(good), bound) if good else ())
        return [
            Prediction(name, error=str(pixels))
            if isinstance(pixels, UserError)
            else Prediction(name, self._ranking(next(shares), top))
            for name, pixels in read
        ]

    def _shares(self, pictures: NDArray[np.uint8], bound: int | None) -> Array:
        """The probability of each class for each picture."""
        numbers = self._network(self._fed(pictures, bound))[0][: len(pictures)]
        shares = numbers.reshape(len(pictures), -1)
        if not self._network.probabilities:
            shares = probabilities(shares)
        if not np.isfinite(shares).all():
            raise UserError("the network answers with values that are not numbers: its weights are damaged.")
        return shares

    def _fed(self, pictures: NDArray[np.uint8], bound: int | None) -> Array:
        """What the network is given for these pictures; zeros fill a batch that it is bound to."""
        inputs = self._about.normalised(pictures).astype(self._network.dtype, copy=False)
        if bound:
            inputs = np.concatenate([inputs, np.zeros((bound - len(inputs), *inputs.shape[1:]), inputs.dtype)])
        return np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)) if self._channels_last() else inputs

    def _ranking(self, shares: Array, top: int) -> tuple[tuple[str, float], ...]:
        return tuple((class_name(i, self.classes), float(shares[i])) for i in best_first(shares, top))

    def _images(self) -> tuple[int, int, int]:
        shape = self.input_shape
        if len(shape) != 3:
            raise UserError(f"the network takes {shape} for each entry of a batch, which is no image (C, H, W).")
        first, second, third = shape
        return (third, first, second) if self._channels_last() else (first, second, third)

    def _channels_last(self) -> bool:
        """Whether images come as `(H, W, C)`, as TensorFlow's networks have it."""
        shape = self.input_shape
        return len(shape) == 3 and shape[0] not in (1, 3) and shape[2] in (1, 3)

    # --- what it is, and where it stays -------------------------------------------------------------------------------

    def report(self) -> NetworkReport:
        """What each step is and by which algorithm it is done, and what runs elsewhere than on the engine; prints as a
        table."""
        return self._network.report()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network as a bundle: one file with everything, which `convforge.load` reads without torch.

        The file takes the name in one step, in the place of what was there.

        Raises:
            UserError: if it cannot be written, or the network runs layer by layer.
        """
        from ..files import write_atomically

        write_atomically(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of the file that `save` writes."""
        graph = self._network.graph
        if graph is None:
            raise UserError(
                "this network runs layer by layer in PyTorch, and a bundle holds whole ones only: its report says why."
            )
        return bundle.to_bytes(bundle.Contents(graph, self._network.dtype, self._answer, self._about))

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.input_shape))
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"<convforge.Model for {shape}{classes}>"


def _from_tensor(name: str, tensor: Any, torch: Any) -> Array:
    if tensor.requires_grad and torch.is_grad_enabled():
        raise UserError(
            f"this model only infers, and {name!r} asks for gradients: call it under torch.no_grad(), or with "
            "x.detach()."
        )
    if not tensor.is_cpu:
        raise UserError(f"this model computes on the CPU, and {name!r} is on {tensor.device}: give it x.cpu().")
    if tensor.dtype == torch.bfloat16:  # which NumPy does not have
        tensor = tensor.float()
    array: Array = (tensor.detach() if tensor.requires_grad else tensor).numpy()
    return array
