"""The ResNet for small images: 6n+2 layers in three stages."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
"""Makes the normalisation layer of a number of channels."""


class Block(nn.Module):
    """Basic residual block: y = ReLU(norm(conv(ReLU(norm(conv(x))))) + shortcut(x)), two 3x3 convolutions.

    The shortcut is the identity, or a 1x1 convolution with a norm where the shape changes.

    Args:
        inputs: channels of x, shape (N, inputs, H, W).
        channels: channels of y, shape (N, channels, H/stride, W/stride).
        stride: of the first convolution and of the shortcut.
        norm: makes a normalisation layer.
        bias: whether convolutions have a bias.

    Source: He et al. 2016, figure 2 and section 3.3 (shortcut of option B).
    """

    def __init__(self, inputs: int, channels: int, stride: int, norm: Norm, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=bias)
        self.norm1 = norm(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.norm2 = norm(channels)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != channels:
            self.shortcut.add_module("conv", nn.Conv2d(inputs, channels, 1, stride, bias=bias))
            self.shortcut.add_module("norm", norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, channels, H/stride, W/stride)."""
        y = self.relu1(self.norm1(self.conv1(x)))
        out: Tensor = self.relu2(self.norm2(self.conv2(y)) + self.shortcut(x))
        return out


class ResNet(nn.Sequential):
    """ResNet of depth 6n+2: a 3x3 stem, three stages of n blocks with w, 2w and 4w channels, mean over space, Linear.

    The second and third stage halve height and width. Shortcuts that change shape are projections (option B), where He et
    al. pad with zero channels on CIFAR (option A): a projection has a BatchNorm of its own, as in every ResNet in use
    today, and padding would join channels across the boundary between replicas laid side by side.

    Weights of convolutions are drawn from N(0, 2/fan_out), their biases are 0, as in torchvision's ResNets.

    Args:
        inputs: channels of an image.
        outputs: size of the last layer.
        depth: 6n+2.
        width: w, channels of the first stage.
        norm: makes a normalisation layer.
        bias: whether convolutions have a bias.

    Source: He et al. 2016, section 4.2; initialisation He et al. 2015, equation 14.
    """

    def __init__(self, inputs: int, outputs: int, depth: int, width: int, norm: Norm, bias: bool) -> None:
        super().__init__()
        self.add_module("stem", nn.Conv2d(inputs, width, 3, padding=1, bias=bias))
        self.add_module("norm", norm(width))
        self.add_module("relu", nn.ReLU())
        channels = width
        for stage in range(3):
            blocks = nn.Sequential()
            for index in range((depth - 2) // 6):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(channels, width * 2**stage, stride, norm, bias))
                channels = width * 2**stage
            self.add_module(f"stage{stage + 1}", blocks)
        self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("head", nn.Linear(channels, outputs))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
