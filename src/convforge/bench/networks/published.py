"""Networks that everybody measures, so that measuring them needs no other package: with the layers and sizes of their
papers, and freshly drawn weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

_CLASSES = 1000


class _Residual(nn.Module):
    """ReLU(skip(x) + F(x)), or the sum itself."""

    def __init__(self, body: nn.Module, skip: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.skip, self.last = body, skip, last

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.last(self.body(images) + self.skip(images))
        return result


def _conv(
    channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1, act: Callable[[], nn.Module] | None = None
) -> Iterator[nn.Module]:
    """A convolution, its batch norm, and what follows."""
    yield nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    yield nn.BatchNorm2d(width)
    if act is not None:
        yield act()


def _resnet(blocks: tuple[int, ...], bottleneck: bool) -> nn.Module:
    """He et al., 2015; the stride is that of the 3×3 layer (version 1.5)."""
    layers = [*_conv(3, 64, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, times in enumerate(blocks):
        width = 64 << stage
        out = 4 * width if bottleneck else width
        for block in range(times):
            stride = 2 if stage and not block else 1
            if bottleneck:
                body = [*_conv(channels, width, 1, act=nn.ReLU), *_conv(width, width, 3, stride, act=nn.ReLU)]
                body += _conv(width, out, 1)
            else:
                body = [*_conv(channels, width, 3, stride, act=nn.ReLU), *_conv(width, out, 3)]
            other = stride > 1 or channels != out
            skip = nn.Sequential(*_conv(channels, out, 1, stride)) if other else nn.Identity()
            layers.append(_Residual(nn.Sequential(*body), skip, nn.ReLU()))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, _CLASSES))


def _mobilenet_v2() -> nn.Module:
    """Sandler et al., 2018, width 1."""
    layers = [*_conv(3, 32, 3, 2, act=nn.ReLU6)]
    channels = 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, width, times, first in stages:
        for block in range(times):
            stride, inner = (1 if block else first), channels * expansion
            body = [*_conv(channels, inner, 1, act=nn.ReLU6)] if expansion > 1 else []
            body += [*_conv(inner, inner, 3, stride, inner, act=nn.ReLU6), *_conv(inner, width, 1)]
            if stride == 1 and channels == width:
                layers.append(_Residual(nn.Sequential(*body), nn.Identity(), nn.Identity()))
            else:
                layers += body
            channels = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, _CLASSES)]
    return nn.Sequential(*layers, *_conv(channels, 1280, 1, act=nn.ReLU6), *head)


def _vgg16() -> nn.Module:
    """Simonyan & Zisserman, 2014, configuration D, without batch norm."""
    layers: list[nn.Module] = []
    channels = 3
    for width, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(times):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten()]
    for inputs in (512 * 49, 4096):
        layers += [nn.Linear(inputs, 4096), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(4096, _CLASSES))


def _tiny() -> nn.Module:
    """One layer of each kind: to see whether everything works, in no time."""
    return nn.Sequential(
        *_conv(3, 8, 3, 2, act=nn.ReLU),
        *_conv(8, 8, 3, groups=8, act=nn.ReLU),
        _Residual(nn.Sequential(*_conv(8, 8, 1)), nn.Identity(), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: _resnet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: _resnet((3, 4, 6, 3), bottleneck=True),
    "mobilenetv2": _mobilenet_v2,
    "vgg16": _vgg16,
    "tiny": _tiny,
}
"""By name; all take images of three channels of any size from 32×32 on."""
