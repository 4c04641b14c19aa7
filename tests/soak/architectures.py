"""Networks of the kinds that no package of ours has, as their papers draw them, some narrower."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv(channels: int, width: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Ronneberger et al., 2015: four times down and up again, with what was there joined on."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            nn.Sequential(_conv(before, after), _conv(after, after))
            for before, after in zip([3, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * wide, wide, 2, 2) for wide in widths[-2::-1])
        self.join = nn.ModuleList(nn.Sequential(_conv(2 * wide, wide), _conv(wide, wide)) for wide in widths[-2::-1])
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for stage in self.down[:-1]:
            skips.append(stage(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.down[-1](x)
        for up, join, skip in zip(self.up, self.join, reversed(skips), strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        result: Tensor = self.last(x)
        return result


class Detector(nn.Module):
    """RetinaNet's heads (Lin et al., 2017) on a feature pyramid over a small backbone, and SSD's way to lay out boxes:
    (N, boxes of all levels, numbers of a box)."""

    def __init__(self, width: int = 64, anchors: int = 3, classes: int = 5) -> None:
        super().__init__()
        widths = (32, 64, 128, 256)
        self.stages = nn.ModuleList(_conv(a, b, stride=2) for a, b in zip((3, *widths[:-1]), widths, strict=True))
        self.lateral = nn.ModuleList(nn.Conv2d(wide, width, 1) for wide in widths[1:])
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in widths[1:])
        self.numbers = (classes, 4)
        self.heads = nn.ModuleList(
            nn.Sequential(_conv(width, width), nn.Conv2d(width, anchors * each, 3, padding=1)) for each in self.numbers
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        maps = [lateral(each) for lateral, each in zip(self.lateral, maps[1:], strict=True)]
        for level in (1, 0):
            larger = F.interpolate(maps[level + 1], size=maps[level].shape[-2:], mode="nearest")
            maps[level] = maps[level] + larger
        maps = [smooth(each) for smooth, each in zip(self.smooth, maps, strict=True)]
        return {
            name: torch.cat([head(each).permute(0, 2, 3, 1).reshape(each.shape[0], -1, many) for each in maps], 1)
            for name, many, head in zip(("classes", "boxes"), self.numbers, self.heads, strict=True)
        }


def dcgan() -> nn.Module:
    """The generator of Radford et al., 2015: noise `(N, 100, 1, 1)` to images of 64×64."""
    layers: list[nn.Module] = []
    for channels, width, stride, padding in ((100, 256, 1, 0), (256, 128, 2, 1), (128, 64, 2, 1), (64, 32, 2, 1)):
        layers += [nn.ConvTranspose2d(channels, width, 4, stride, padding, bias=False), nn.BatchNorm2d(width)]
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False), nn.Tanh())


def super_resolution() -> nn.Module:
    """ESPCN (Shi et al., 2016): images of three times the size."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh(),
        nn.Conv2d(32, 27, 3, padding=1), nn.PixelShuffle(3),
    )  # fmt: skip


class _Bottleneck(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(_conv(channels, half, 1), _conv(half, half), nn.Conv2d(half, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


class _Level(nn.Module):
    """Down, deeper levels, and up again, beside what stays at this size."""

    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.beside, self.before, self.after = (_Bottleneck(channels) for _ in range(3))
        self.deeper = _Level(depth - 1, channels) if depth > 1 else _Bottleneck(channels)

    def forward(self, x: Tensor) -> Tensor:
        small = self.after(self.deeper(self.before(F.max_pool2d(x, 2))))
        result: Tensor = self.beside(x) + F.interpolate(small, scale_factor=2, mode="nearest")
        return result


class Hourglass(nn.Module):
    """Newell et al., 2016: two of them, each with heatmaps that enter the next."""

    def __init__(self, channels: int = 64, joints: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, channels, 7, 2), _Bottleneck(channels), nn.MaxPool2d(2))
        self.glasses = nn.ModuleList(nn.Sequential(_Level(3, channels), _Bottleneck(channels)) for _ in range(2))
        self.heads = nn.ModuleList(nn.Conv2d(channels, joints, 1) for _ in range(2))
        self.back = nn.Conv2d(joints, channels, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        first = self.glasses[0](x)
        heatmaps = self.heads[0](first)
        return [heatmaps, self.heads[1](self.glasses[1](x + first + self.back(heatmaps)))]


class _LastNorm(nn.LayerNorm):
    """Over the channels of images."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        made = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        made = self.scale * self.narrow(F.gelu(self.wide(made)))
        result: Tensor = x + made.permute(0, 3, 1, 2)
        return result


def convnext_tiny() -> nn.Module:
    """Liu et al., 2022."""
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), _LastNorm(96, 1e-6)]
    for stage, times in enumerate((3, 3, 9, 3)):
        channels = 96 << stage
        if stage:
            layers += [_LastNorm(channels // 2, 1e-6), nn.Conv2d(channels // 2, channels, 2, 2)]
        layers += [_ConvNeXtBlock(channels) for _ in range(times)]
    head = [nn.AdaptiveAvgPool2d(1), _LastNorm(768, 1e-6), nn.Flatten(), nn.Linear(768, 1000)]
    return nn.Sequential(*layers, *head)
