"""Small networks of the kinds that people plan."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """A basic block as ResNet has it, with functional and in-place operations."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down = nn.Conv2d(channels, out, 1, stride, bias=False) if stride > 1 or channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.down is None else self.down(x)
        return F.relu_(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.layer1 = nn.Sequential(Residual(8, 8), Residual(8, 8))
        self.layer2 = nn.Sequential(Residual(8, 16, 2), Residual(16, 16))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        x = self.layer2(self.layer1(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Mobile(nn.Module):
    """Depthwise separable, with a squeeze-and-excitation gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(inplace=True))
        self.depthwise = nn.Conv2d(8, 8, 5, 1, 2, groups=8)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.pointwise = nn.Conv2d(8, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.depthwise(self.stem(x)))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.pointwise(x)


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a skip that is concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.bottom = nn.Conv2d(8, 16, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2, groups=2)
        self.out = nn.Conv2d(16, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        y = self.up(self.bottom(F.avg_pool2d(x, 2)))
        return self.out(torch.cat([x, y], 1))


class Dense(nn.Module):
    """Every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1 + i, dilation=1 + i) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], dim=1)
        return x


class ConvNeXt(nn.Module):
    """Linear layers over maps whose channels are last, and a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.depthwise = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm = nn.LayerNorm(8)
        self.expand = nn.Linear(8, 32)
        self.reduce = nn.Linear(32, 8)
        self.gamma = nn.Parameter(torch.full((8,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.reduce(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class Functional(nn.Module):
    """No layers at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.second = nn.Parameter(torch.randn(4, 8, 1, 5))
        self.table = nn.Parameter(torch.randn(10, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.first, stride=2, padding=1))
        x = F.conv2d(x, self.second, padding=(0, 2))
        return F.linear(x.mean((-2, -1)), self.table)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1)
        return self.head(self.block(tokens)[:, 0])


class Inception(nn.Module):
    """Branches of different reach and different offset, written into one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 4, (1, 7), padding=(0, 3))
        self.tall = nn.Conv2d(3, 4, (5, 1), padding=(2, 0))
        self.even = nn.Conv2d(3, 4, 4, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_empty(x.shape[0], 12, *x.shape[2:])
        out[:, :4] = self.wide(x)
        out[:, 4:8] = self.tall(x)
        out[:, 8:] = self.even(x)
        return out


NETWORKS: dict[str, Any] = {
    "resnet": ResNet,
    "mobile": Mobile,
    "unet": UNet,
    "dense": Dense,
    "convnext": ConvNeXt,
    "functional": Functional,
    "transformer": Transformer,
    "inception": Inception,
}
