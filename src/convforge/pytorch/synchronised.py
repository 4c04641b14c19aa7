"""Batch norm whose statistics are those of all processes' images together, on the CPU.

`torch.nn.SyncBatchNorm` is for GPUs only. This is its computation (Ioffe & Szegedy, "Batch normalization", 2015, with
the sums of one batch gathered from several places): forward each process sends what it has of every channel, the
number of values, their mean and their squared deviations; backward two sums. So a batch that is shared out among
processes is normalised as it would be in one, but for the order in which numbers are added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["synchronised"]


@contextmanager
def synchronised(model: nn.Module) -> Iterator[None]:
    """Within the block the batch norms of the model share their statistics with the other processes' in training mode.

    All processes must enter it, and then do the same: run the same model forward and backward, in the same order. The
    names in the model's `state_dict` stay.

    Raises:
        RuntimeError: if torch's process group is not initialised.

    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> layer, x = nn.BatchNorm2d(3), torch.rand(4, 3, 5, 5)
    >>> alone = layer(x)
    >>> with synchronised(layer):
    ...     torch.allclose(layer(x), alone, atol=1e-6)
    True
    >>> dist.destroy_process_group()
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(layer, type(layer)) for layer in layers]
    # Its own group: what is sent for gradients meanwhile is not mixed up with it.
    group = dist.new_group(backend="gloo")
    try:
        for layer, kind in before:
            layer.__class__ = _shared(kind)
            layer._group = group
        yield
    finally:
        for layer, kind in before:
            layer.__class__ = kind
            del layer._group
        dist.destroy_process_group(group)


def _shared(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    """The class of batch norms, sharing: still one of its kind, for whoever looks for such."""

    def forward(self: Any, input: Tensor) -> Tensor:
        if not self.training:
            return kind.forward(self, input)
        self._check_input_dim(input)
        y, mean, variance, count = _Norm.apply(input, self.weight, self.bias, self.eps, self._group)  # type: ignore[no-untyped-call]
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            part = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), part)
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), part)
        result: Tensor = y
        return result

    return type(f"Shared{kind.__name__}", (kind,), {"forward": forward})


class _Norm(torch.autograd.Function):
    """(x − mean) / √(variance + eps) · weight + bias, of all processes' x; and what it found: mean, variance, count."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any) -> Any:
        mean, variance, count = _of_all(x, group)
        inverse = (variance + eps).rsqrt()
        y = torch.batch_norm(x, weight, bias, mean.to(x.dtype), variance.to(x.dtype), False, 0.0, eps, False)
        ctx.save_for_backward(x, weight, mean, inverse, count)
        ctx.group, ctx.affine = group, bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        x, weight, mean, inverse, count = ctx.saved_tensors
        dy = gradients[0]
        assert dy is not None
        others = _others(x)
        here = dy.sum(others, dtype=torch.float64)
        # Σ dy·(x − mean), of which the second part is known already: x itself is not centred in memory.
        along = (dy * (x - _beside(mean, x))).sum(others, dtype=torch.float64) * inverse
        sums = torch.stack([here, along])
        dist.all_reduce(sums, group=ctx.group)
        scale = inverse if weight is None else inverse * weight
        # dx = scale · (dy − Σdy / n − x̂ · Σ(dy·x̂) / n), with x̂ = (x − mean) · inverse: a line in dy and x.
        slope = -scale * inverse * sums[1] / count
        offset = -scale * sums[0] / count - slope * mean
        dx = torch.addcmul(_beside(offset, x) + dy * _beside(scale, x), x, _beside(slope, x))
        # Of the parameters, this process's part: whoever adds up gradients adds these up, too.
        dweight = along.to(weight.dtype) if weight is not None else None
        return dx, dweight, here.to(x.dtype) if ctx.affine else None, None, None


def _of_all(x: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each channel of all processes' x, float64 `(C,)`, and how many values there are, each
    process's own put together as Chan, Golub and LeVeque do (1979): nothing is lost where the mean is large."""
    variance, mean = torch.var_mean(x.float() if x.dtype.itemsize < 4 else x, _others(x), correction=0)
    count = x.numel() // x.shape[1]
    ours = torch.cat([mean.double(), variance.double(), torch.tensor([count], dtype=torch.float64)])
    gathered = [torch.empty_like(ours) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, ours, group=group)
    found = torch.stack(gathered)
    channels = x.shape[1]
    means, variances, counts = found[:, :channels], found[:, channels:-1], found[:, -1:]
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    return mean, (counts * (variances + (means - mean) ** 2)).sum(0) / total, total


def _others(x: Tensor) -> list[int]:
    """All dimensions but that of the channels."""
    return [0, *range(2, x.dim())]


def _beside(values: Tensor, x: Tensor) -> Tensor:
    """One number a channel, to compute with x."""
    return values.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))
