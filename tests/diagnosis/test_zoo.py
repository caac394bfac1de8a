"""Models as the world has them: torchvision's and timm's, with BatchNorm subclasses, branches and modes of their own."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from bnstudy.diagnosis.diagnose import diagnose


def images(side: int = 64, count: int = 9, size: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 3, side, side, generator=random), torch.randint(5, (size,), generator=random))
        for _ in range(count)
    ]


def settled(model: nn.Module, data: list[tuple[torch.Tensor, torch.Tensor]]) -> nn.Module:
    """With running statistics of these batches, so that evaluation mode is sound."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = None
    model.train()
    with torch.no_grad():
        for inputs, _ in data:
            model(inputs)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("mobilenet_v3_small", 64),
        pytest.param("resnet18", 64, marks=pytest.mark.slow),
        pytest.param("densenet121", 64, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 64, marks=pytest.mark.slow),
        pytest.param("shufflenet_v2_x0_5", 64, marks=pytest.mark.slow),
        pytest.param("inception_v3", 96, marks=pytest.mark.slow),
    ],
)
def test_torchvisions_models_are_measured_in_every_layer_and_left_alone(name: str, side: int) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": False} if name == "inception_v3" else {}
    model = settled(torchvision.models.get_model(name, weights=None, num_classes=5, **options), images(side))
    before = copy.deepcopy(model.state_dict())
    found = diagnose(model, images(side), swap_batches=1)
    layers = sum(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())
    assert len(found.layers) == layers
    assert found.layers["swap_distance"].notna().all()
    assert (found.layers["m"] % 8 == 0).all()
    assert found.terms.query("metric == 'loss'")["value"].notna().all()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18d", "efficientnet_lite0", "seresnet18"])
def test_timms_own_layers_are_understood(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    data = images()
    model = settled(timm.create_model(name, num_classes=5, drop_rate=0.0), data)
    found = diagnose(model, data, swap_batches=1)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert len(found.layers) == len(layers)
    if name == "efficientnet_lite0":
        assert "BatchNormAct2d" in set(found.layers["type"])
    # Statistics that are the mean over these very batches: nothing but the reference's own rounding is between them.
    assert found.layers["distance"].max() < 0.05
