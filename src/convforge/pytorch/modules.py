"""`Conv2d`, `ConvTranspose2d` and `BatchNorm2d`, torch's modules on convforge's engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from ..errors import UserError
from ..spec import Sides, as_padding, same_half_pad, strided_same_error
from .arguments import resolve_padding
from .batch_norm import batch_norm
from .functional import conv2d, conv_transpose2d

__all__ = ["BatchNorm2d", "Conv2d", "ConvTranspose2d"]

_is_scripting: Any = torch.jit.is_scripting  # type: ignore[attr-defined]
_BEYOND_TORCH = ("same_half", "same_ceil")


class Conv2d(torch.nn.Conv2d):
    """`torch.nn.Conv2d` with its arguments, padding modes and `state_dict`, computed by convforge.

    Beyond torch, `padding` may be `((top, bottom), (left, right))`, 'same_ceil' or 'same_half' (see `Conv2dSpec`).

    Raises:
        SpecError (a ValueError): for padding='same' with a stride, naming the two rules to choose from.
        ValueError: torch's own, for arguments that do not fit.

    >>> import torch
    >>> layer = Conv2d(3, 64, 3, stride=2, padding="same_ceil")
    >>> layer(torch.ones(1, 3, 224, 224)).shape
    torch.Size([1, 64, 112, 112])
    """

    __module__ = "convforge.nn"  # the name that models which were saved whole look for, wherever this file lies

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | str | tuple[int, int] | Sides = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        by_side = isinstance(padding, Sequence) and len(padding) == 2 and isinstance(padding[0], Sequence)
        plain: Any = 0 if by_side or padding in _BEYOND_TORCH else padding
        steps = _pair(stride)
        if padding == "same" and steps != (1, 1):
            raise strided_same_error(steps)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, plain, dilation, groups, bias, padding_mode, device, dtype
        )
        if padding == "same_half":
            # The same on both sides, so torch can say it, too: the module stays exchangeable.
            (top, _), (left, _) = (same_half_pad(self.kernel_size[a], self.dilation[a]) for a in (0, 1))
            self.padding = (top, left)
            self._reversed_padding_repeated_twice = [left, left, top, top]
        elif by_side or padding == "same_ceil":
            known: Any = as_padding(padding, _pair(kernel_size), steps, _pair(dilation))
            self.padding = known

    def __prepare_scriptable__(self) -> Conv2d:
        """Asked by `torch.jit.script` before it reads the code below."""
        padding: Any = self.padding
        if padding == "same_ceil" or isinstance(padding[0], tuple):
            raise UserError(
                f"torch.jit.script cannot express padding={padding!r}: use torch's own kinds of padding, or pad the "
                "input with torch.nn.ZeroPad2d."
            )
        return self

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if _is_scripting():  # torch's own method, which cannot be called from a script
            if self.padding_mode != "zeros":
                input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
                return torch.conv2d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
            return torch.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        else:  # noqa: RET505  (a script is made of one branch or of the other)
            return self._on_engine(input, weight, bias)

    @torch.jit.unused
    def _on_engine(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            size = (input.shape[-2], input.shape[-1])
            sides = resolve_padding(padding, size, self.kernel_size, self.stride, self.dilation)
            if sides is not None:
                (top, bottom), (left, right) = sides
                input = F.pad(input, (left, right, top, bottom), mode=self.padding_mode)
            padding = 0
        return conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` with its arguments and `state_dict`, computed by convforge.

    Raises:
        ValueError: torch's own, for arguments that do not fit, and for an `output_size` out of reach.

    >>> import torch
    >>> layer = ConvTranspose2d(64, 3, 4, stride=2, padding=1)
    >>> layer(torch.ones(1, 64, 112, 112)).shape
    torch.Size([1, 3, 224, 224])
    """

    __module__ = "convforge.nn"

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.padding_mode != "zeros":
            raise ValueError("ConvTranspose2d pads with zeros only.")
        assert isinstance(self.padding, tuple)
        more = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            2,
            self.dilation,  # type: ignore[arg-type]
        )
        if _is_scripting():
            return F.conv_transpose2d(
                input, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation
            )
        else:  # noqa: RET505  (a script is made of one branch or of the other)
            return self._on_engine(input, more)

    @torch.jit.unused
    def _on_engine(self, input: Tensor, output_padding: list[int]) -> Tensor:
        padding: Any = self.padding
        return conv_transpose2d(
            input, self.weight, self.bias, self.stride, padding, output_padding, self.groups, self.dilation
        )


class BatchNorm2d(torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with its arguments and `state_dict`, computed by convforge for images in channels_last.

    >>> import torch
    >>> layer = BatchNorm2d(64)
    >>> layer(torch.ones(2, 64, 56, 56)).shape
    torch.Size([2, 64, 56, 56])
    """

    __module__ = "convforge.nn"

    def __prepare_scriptable__(self) -> torch.nn.BatchNorm2d:
        """Asked by `torch.jit.script`: torch's own, of the same parameters."""
        plain = torch.nn.BatchNorm2d.__new__(torch.nn.BatchNorm2d)
        plain.__dict__ = self.__dict__
        return plain

    def forward(self, input: Tensor) -> Tensor:
        image: Any = input
        if isinstance(image, torch.fx.Proxy):  # torch.fx.symbolic_trace does not look into torch's own, either
            tracer: Any = image.tracer
            traced: Tensor = tracer.create_proxy("call_module", tracer.path_of_module(self), (image,), {})
            return traced
        self._check_input_dim(input)
        tracked = self.training and self.track_running_stats
        factor = self.momentum
        if tracked and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            factor = 1.0 / float(self.num_batches_tracked) if factor is None else factor
        known = tracked or not self.training  # or else the statistics are neither used nor updated
        mean, var = (self.running_mean, self.running_var) if known else (None, None)
        training = self.training or (self.running_mean is None and self.running_var is None)
        return batch_norm(input, mean, var, self.weight, self.bias, training, factor or 0.0, self.eps)
