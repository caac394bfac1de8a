"""The gallery's two networks: an MLP of torch's own layers, and torchvision's ResNet at digits' size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import StochasticDepth

KINDS_OF_MODEL = ("mlp", "resnet")
CLASSES = 10
_PIXELS = 64
_TORCHVISION_WIDTH = 64


class DigitsResNet(ResNet):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's ResNet with one basic block a stage, made narrower, for images with one channel.

    `conv1` is 3x3 at stride `stride` and nothing is pooled after it, as is usual for small images: at 8x8 the four stages
    have 8², 4², 2² and 1 positions with stride 1, and 4², 2², 1 and 1 with stride 2.

    Args:
        width: channels of the first stage; later ones double it.
        stride: of the first convolution. Default: 1.
        drop_rate: dropout in front of the head. Default: 0.
        drop_path: probability that a sample skips a block's branch (`torchvision.ops.StochasticDepth`). Default: 0.

    Source: He et al. 2016; torchvision.models.resnet.
    """

    def __init__(self, width: int, stride: int = 1, drop_rate: float = 0.0, drop_path: float = 0.0) -> None:
        self.width = width
        super().__init__(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)
        self.conv1 = nn.Conv2d(1, _TORCHVISION_WIDTH, 3, stride, 1, bias=False)
        self.maxpool = nn.Identity()
        head: list[nn.Module] = [nn.Dropout(drop_rate)] if drop_rate else []
        self.fc = nn.Sequential(*head, nn.Linear(8 * width, CLASSES))
        if drop_path:
            for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
                # A block adds bn2's output to its shortcut: what is dropped behind bn2 is the branch.
                stage[0].bn2 = nn.Sequential(stage[0].bn2, StochasticDepth(drop_path, "row"))

    def _make_layer(self, block: Any, planes: int, *arguments: Any, **options: Any) -> nn.Sequential:
        narrow = planes * self.width // _TORCHVISION_WIDTH
        made: nn.Sequential = super()._make_layer(block, narrow, *arguments, **options)
        return made


def mlp(width: int, depth: int, drop_rate: float = 0.0, drop_between: float = 0.0) -> nn.Sequential:
    """[Linear, BatchNorm1d, ReLU] `depth` times and a Linear head, on flattened digits.

    Args:
        width: of every hidden layer.
        depth: hidden layers.
        drop_rate: dropout in front of the head, where no BatchNorm sees it. Default: 0.
        drop_between: dropout behind every other ReLU, in front of the next layer's BatchNorm. Default: 0.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for block in range(depth):
        layers += [nn.Linear(width if block else _PIXELS, width), nn.BatchNorm1d(width), nn.ReLU()]
        rate = drop_rate if block == depth - 1 else drop_between
        if rate:
            layers.append(nn.Dropout(rate))
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


class SharedMLP(nn.Module):
    """[Linear, BatchNorm1d, ReLU] with a single BatchNorm1d for all depths, and a Linear head.

    The depths differ in the scale and offset that their Linear starts with, which training keeps apart: nothing in the loss
    asks for equal pre-activations.

    Args:
        width: of every hidden layer.
        scales: factor on the initial weights of each hidden layer; as many layers as there are factors.
    """

    def __init__(self, width: int, scales: tuple[float, ...]) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(width if block else _PIXELS, width) for block in range(len(scales)))
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, CLASSES)
        with torch.no_grad():
            for linear, scale in zip(self.hidden, scales, strict=True):
                for parameter in linear.parameters():
                    parameter.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, 10), of flattened digits."""
        x = x.flatten(1)
        for linear in self.hidden:
            x = torch.relu(self.norm(linear(x)))
        logits: Tensor = self.head(x)
        return logits


def share_within_blocks(model: nn.Module) -> nn.Module:
    """Let the two convolutions of every basic block share one BatchNorm2d: a slip of the hand in a block's constructor."""
    for block in model.modules():
        if isinstance(block, BasicBlock):
            block.bn2 = block.bn1
    return model


def batchnorms(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Its BatchNorm layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}


class NormEval(nn.Module):
    """A model whose `train()` leaves its BatchNorm layers in evaluation mode, as detection backbones do (`norm_eval`).

    Args:
        body: the model.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def train(self, mode: bool = True) -> NormEval:
        """Set the mode of all layers but BatchNorm."""
        super().train(mode)
        for layer in batchnorms(self).values():
            layer.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """What the body says."""
        logits: Tensor = self.body(x)
        return logits


def feeding(model: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    """The Linear or convolution right in front of a BatchNorm layer of this module's networks."""
    *path, last = name.split(".")
    before = str(int(last) - 1) if last.isdigit() else last.replace("bn", "conv")
    found = model.get_submodule(".".join([*path, before]))
    if not isinstance(found, nn.Linear | nn.Conv2d):
        raise TypeError(f"name: {name} has a {type(found).__name__} in front of it; a Linear or a convolution expected")
    return found
