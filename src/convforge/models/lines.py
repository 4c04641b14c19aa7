"""A network written as a line: "conv 64 3x3 same, relu, pool 2, conv 128 3x3 same, gap, linear 10".

Layers are separated by commas, and channels are inferred. Sizes are checked while the line is read: a layer that does
not fit is refused, by its words, before there is a model.

    conv OUT KxK|K [same|valid|same_ceil|same_half|pad P] [stride S] [dilation D] [groups G|depthwise] [nobias]
                                     or with an =, as PyTorch has it: stride=2, padding='same', padding=1, bias=False
    pool K [stride S] [pad P]        the largest of K×K; the stride is K unless said
    avgpool K [stride S] [pad P]     the mean of K×K
    gap                              global average pooling: one number a channel
    bn                               batch normalisation
    relu relu6 gelu silu hardswish sigmoid tanh
    dropout P
    flatten                          implied before the first linear
    linear N
"""

from __future__ import annotations

import difflib
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

from torch import nn

from ..errors import UserError
from ..pytorch.modules import Conv2d
from ..spec import Conv2dSpec, Pair, SpecError, among_layers
from .words import CALLED, PADDINGS, split

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
_CONV_OPTIONS = (*PADDINGS, "pad P", "stride S", "dilation D", "groups G", "depthwise", "nobias")
_POOL_OPTIONS = ("stride S", "pad P")
_KINDS = ("conv", "pool", "avgpool", "gap", "bn", *_ACTIVATIONS, "dropout", "flatten", "linear")


class DoesNotFit(SpecError):
    """A layer of a line cannot be applied to what the layers before it leave; `fitting` are these."""

    def __init__(self, said: str, fitting: nn.Sequential) -> None:
        super().__init__(said)
        self.fitting = fitting


class _Words:
    """The words of one layer, taken one by one; errors quote the layer."""

    def __init__(self, text: str) -> None:
        self._words = split(text)
        self.text = " ".join(text.split())

    def __bool__(self) -> bool:
        return bool(self._words)

    def take(self, what: str) -> str:
        """The next word; `what` is what should stand there."""
        if not self._words:
            raise UserError(f"in {self.text!r} there is no {what}: write for example {_example(self.text)!r}.")
        return self._words.pop(0)

    def whole(self, what: str, minimum: int = 1) -> int:
        """A whole number."""
        word = self.take(what)
        if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) < minimum:
            raise UserError(f"in {self.text!r} the {what} must be a whole number of at least {minimum}, not {word!r}.")
        return int(word)

    def size(self, what: str, minimum: int = 1) -> Pair:
        """A whole number, or two with an x between them: rows first."""
        word = self.take(what)
        match = re.fullmatch(r"([0-9]{1,9})(?:[x×]([0-9]{1,9}))?", word)
        pair = (int(match[1]), int(match[2] or match[1])) if match else (-1, -1)
        if min(pair) < minimum:
            raise UserError(
                f"in {self.text!r} the {what} must be a number such as 3, or rows x columns such as 3x3, not {word!r}."
            )
        return pair

    def padding(self) -> str | Pair:
        """A rule by its name, or sizes."""
        if self._words and self._words[0].lower() in PADDINGS:
            return self._words.pop(0).lower()
        return self.size("padding", minimum=0)

    def truth(self, what: str) -> bool:
        """True or False."""
        word = self.take(what).lower()
        if word not in ("true", "false"):
            raise UserError(f"in {self.text!r} the {what} must be True or False, not {word!r}.")
        return word == "true"

    def unknown(self, word: str, known: tuple[str, ...]) -> UserError:
        """The error for a word that nobody knows."""
        options = f"known after it: {', '.join(known)}." if known else "nothing follows it."
        return UserError(f"{word!r} in {self.text!r} is not an option of {self.text.split(' ')[0]!r}; {options}")

    def done(self) -> None:
        """Nothing may be left."""
        if self._words:
            raise self.unknown(self._words[0], ())


def _example(text: str) -> str:
    """A complete example of the layer that `text` begins with."""
    examples = {"conv": "conv 64 3x3 same", "linear": "linear 10", "dropout": "dropout 0.5", "avgpool": "avgpool 2"}
    examples |= {"gap": "gap", "bn": "bn", "silu": "silu"}
    return examples.get(text.split(" ")[0].lower(), "pool 2")


class _Builder:
    """The shape after the layers read so far, and the layers."""

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        self.shape: tuple[int, ...] = input_shape
        self.layers: OrderedDict[str, nn.Module] = OrderedDict()
        self._count: Counter[str] = Counter()

    def next_name(self, kind: str) -> str:
        return f"{kind}{self._count[kind] + 1}"

    def add(self, kind: str, module: nn.Module) -> None:
        self.layers[self.next_name(kind)] = module
        self._count[kind] += 1

    def maps(self, words: _Words) -> tuple[int, Pair]:
        """Channels and size, for a layer that needs feature maps."""
        if len(self.shape) != 3:
            raise UserError(
                f"{words.text!r} needs feature maps, but the layers before it leave {self.shape[0]} numbers in a row: "
                "put it before 'flatten' and 'linear'."
            )
        return self.shape[0], (self.shape[1], self.shape[2])

    def fitting(self, name: str, words: _Words, formula: Callable[[], Any]) -> Any:
        """What a formula of the spec gives, or its error with the layer in front."""
        try:
            return formula()
        except SpecError as error:
            said = among_layers(error) if self.layers else str(error)
            raise SpecError(f"layer {name!r} ({words.text}): {said}") from None

    # --- one method a kind -------------------------------------------------------------------------------------------

    def conv(self, words: _Words) -> None:
        channels, size = self.maps(words)
        out, kernel = words.whole("number of output channels"), words.size("kernel")
        stride, dilation, groups, bias = (1, 1), (1, 1), 1, True
        padding: str | Pair = "valid"
        while words:
            word = words.take("option").lower()
            if word in PADDINGS:
                padding = word
            elif word in ("pad", "padding"):
                padding = words.padding()
            elif word == "stride":
                stride = words.size("stride")
            elif word == "dilation":
                dilation = words.size("dilation")
            elif word == "groups":
                groups = words.whole("number of groups")
            elif word == "depthwise":
                groups = channels
            elif word == "nobias":
                bias = False
            elif word == "bias":
                bias = words.truth("bias")
            else:
                raise words.unknown(word, _CONV_OPTIONS)
        name = self.next_name("conv")
        spec = self.fitting(
            name, words, lambda: Conv2dSpec(channels, out, kernel, stride, padding, dilation, groups, bias)
        )
        height, width = self.fitting(name, words, lambda: spec.output_size(size))
        settings: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups, "bias": bias}
        self.add("conv", Conv2d(channels, out, kernel, padding=padding, **settings))
        self.shape = (out, height, width)

    def pool(self, words: _Words, kind: str) -> None:
        channels, size = self.maps(words)
        kernel = words.size("window")
        stride, padding = kernel, (0, 0)
        while words:
            word = words.take("option").lower()
            if word == "stride":
                stride = words.size("stride")
            elif word in ("pad", "padding"):
                padding = words.size("padding", minimum=0)
            else:
                raise words.unknown(word, _POOL_OPTIONS)
        if any(p > k // 2 for p, k in zip(padding, kernel, strict=True)):
            raise UserError(f"in {words.text!r} the padding is more than half of the window: use {kernel[0] // 2}.")
        name = self.next_name(kind)
        # A pooling slides as the depthwise convolution does.
        spec = Conv2dSpec(channels, channels, kernel, stride, padding, groups=channels)
        height, width = self.fitting(name, words, lambda: spec.output_size(size))
        self.add(kind, (nn.MaxPool2d if kind == "pool" else nn.AvgPool2d)(kernel, stride, padding))
        self.shape = (channels, height, width)

    def simple(self, words: _Words, kind: str) -> None:
        if kind in _ACTIVATIONS:
            module = _ACTIVATIONS[kind]()
        elif kind == "bn":
            module = nn.BatchNorm2d(self.shape[0]) if len(self.shape) == 3 else nn.BatchNorm1d(self.shape[0])
        elif kind == "gap":
            module = nn.AdaptiveAvgPool2d(1)
            self.shape = (self.maps(words)[0], 1, 1)
        else:
            module = nn.Flatten()
            self.shape = (prod(self.shape),)
        self.add(kind, module)

    def dropout(self, words: _Words) -> None:
        word = words.take("probability")
        if not re.fullmatch(r"0?\.[0-9]+|0|1|1\.0+|0\.", word):
            raise UserError(f"in {words.text!r} the probability must be between 0 and 1, such as 0.5, not {word!r}.")
        words.done()
        self.add("dropout", nn.Dropout(float(word)))

    def linear(self, words: _Words) -> None:
        neurons = words.whole("number of neurons")
        words.done()
        if len(self.shape) == 3:
            self.simple(_Words("flatten"), "flatten")
        self.add("linear", nn.Linear(self.shape[0], neurons))
        self.shape = (neurons,)


def _layers(line: str) -> Iterator[_Words]:
    parts = line.split(",")
    for position, part in enumerate(parts):
        words = _Words(part)
        if words.text:
            yield words
        elif position < len(parts) - 1 or position == 0:
            raise UserError(f"layer {position + 1} of {line!r} is empty: layers are separated by single commas.")


def parse(line: str, input_shape: tuple[int, int, int]) -> nn.Sequential:
    """The network that `line` describes, for images of `input_shape` = (C, H, W), freshly initialised.

    Raises:
        UserError: for a word that is not known, with the words that are.
        DoesNotFit: for a layer that does not fit, with the formula filled in; a plain SpecError if it is the first.

    >>> parse("conv 64 3x3 same nobias, relu, pool 2, linear 10", (3, 8, 8))
    Sequential(
      (conv1): Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=same, bias=False)
      (relu1): ReLU()
      (pool1): MaxPool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), dilation=1, ceil_mode=False)
      (flatten1): Flatten(start_dim=1, end_dim=-1)
      (linear1): Linear(in_features=1024, out_features=10, bias=True)
    )
    """
    builder = _Builder(input_shape)
    for words in _layers(line):
        try:
            _add(builder, words)
        except SpecError as error:
            if not builder.layers:
                raise
            raise DoesNotFit(str(error), nn.Sequential(builder.layers)) from None
    return nn.Sequential(builder.layers)


def _add(builder: _Builder, words: _Words) -> None:
    """Add the layer that these words describe."""
    kind = words.take("layer").lower()
    if kind == "conv":
        builder.conv(words)
    elif kind in ("pool", "avgpool"):
        builder.pool(words, kind)
    elif kind == "dropout":
        builder.dropout(words)
    elif kind == "linear":
        builder.linear(words)
    elif kind in _KINDS:
        words.done()
        builder.simple(words, kind)
    else:
        if kind in CALLED:
            here = CALLED[kind]
            raise UserError(f"{kind!r} is called {here!r} here: write for example {_example(here)!r}.")
        close = difflib.get_close_matches(kind, _KINDS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"{kind!r} is not a layer{hint}; known: {', '.join(_KINDS)}.")
