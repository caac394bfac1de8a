"""What is made of stored statistics: what fits them decides; counts, momentum and names are hints."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnstudy.diagnosis.diagnose import diagnose
from bnstudy.diagnosis.result import Diagnosis

Pairs = list[tuple[Tensor, Tensor]]
CENTRES = 2 * torch.randn(4, 6, generator=torch.Generator().manual_seed(11))


def labelled(count: int, size: int, seed: int, tail: int = 0) -> Pairs:
    """Batches of four clusters; with `tail`, a last one of so many samples."""
    random = torch.Generator().manual_seed(seed)
    sizes = [size] * count + ([tail] if tail else [])
    targets = [torch.randint(4, (each,), generator=random) for each in sizes]
    return [(CENTRES[y] + torch.randn(len(y), 6, generator=random) + 3, y) for y in targets]


DATA = labelled(24, 16, 1)


def network(width: int = 12, **norm: float) -> nn.Sequential:
    torch.manual_seed(2)
    first, second = (nn.BatchNorm1d(width, **norm) for _ in range(2))  # type: ignore[arg-type]
    return nn.Sequential(
        nn.Linear(6, width), first, nn.ReLU(), nn.Linear(width, width), second, nn.ReLU(), nn.Linear(width, 4)
    )


def fitted(model: nn.Sequential, steps: int = 200, make: Callable[[int], Pairs] | None = None) -> nn.Sequential:
    """Trained with a rate that ends at zero."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    epoch = iter(())
    for step in range(steps):
        batch = next(epoch, None)
        if batch is None:
            epoch = iter((make or (lambda seed: labelled(24, 16, 100 + seed)))(step))
            batch = next(epoch)
        for group in optimizer.param_groups:
            group["lr"] = 0.025 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def sound() -> nn.Sequential:
    return fitted(network())


def norms(model: nn.Sequential) -> list[nn.BatchNorm1d]:
    return [layer for layer in model if isinstance(layer, nn.BatchNorm1d)]


def scaled(factor: float) -> Callable[[nn.BatchNorm1d], None]:
    def change(layer: nn.BatchNorm1d) -> None:
        layer.running_mean *= factor
        layer.running_var *= factor

    return change


def kinds(found: Diagnosis) -> list[str]:
    return [finding.kind for finding in found.findings]


@pytest.mark.parametrize("count", [0, 1, 3, 10])
@pytest.mark.parametrize("factor", [40.0, 0.02])
def test_a_low_count_does_not_make_scaled_statistics_a_slow_average(sound: nn.Sequential, factor: float, count: int) -> None:
    model = copy.deepcopy(sound)
    for layer in norms(model):
        scaled(factor)(layer)
        layer.num_batches_tracked.fill_(count)
    first = diagnose(model, DATA, swap_batches=0).findings[0]
    assert first.kind == "frozen"
    assert "all by one factor" in " ".join(first.evidence)
    assert "What was measured does not tell the cause" in first.summary


@pytest.mark.parametrize("count", [0, 2, 7])
@pytest.mark.parametrize("momentum", [0.1, 1e-3])
def test_sound_statistics_with_a_low_count_or_a_lowered_momentum_are_healthy(
    sound: nn.Sequential, count: int, momentum: float
) -> None:
    model = copy.deepcopy(sound)
    for layer in norms(model):
        layer.num_batches_tracked.fill_(count)
        layer.momentum = momentum
    assert "slow_average" not in kinds(diagnose(model, DATA, swap_batches=0))


@pytest.mark.parametrize("momentum", [0.1, 1e-3])
def test_shifted_statistics_are_not_a_slow_average_whatever_the_momentum_says(sound: nn.Sequential, momentum: float) -> None:
    model = copy.deepcopy(sound)
    for layer in norms(model):
        layer.momentum = momentum
        layer.running_mean += 2.5 * layer.running_var.sqrt() * torch.linspace(-1, 1, 12)
    assert kinds(diagnose(model, DATA, swap_batches=0))[0] == "frozen"


@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize("counted", [True, False])
def test_a_share_of_the_start_that_fits_is_a_slow_average(sound: nn.Sequential, count: int, counted: bool) -> None:
    model = copy.deepcopy(sound)
    for layer in norms(model):
        layer.reset_running_stats()
        layer.momentum = 0.02
    model.train()
    with torch.no_grad():
        for x, _ in DATA[:count]:
            model(x)
    for layer in norms(model):
        if not counted:
            layer._buffers["num_batches_tracked"] = None
    found = diagnose(model.eval(), DATA, swap_batches=0).findings[0]
    assert found.kind == "slow_average"
    assert found.effect is not None
    assert found.effect.value != 0


@pytest.mark.parametrize(("momentum", "tail"), [(0.9, 2), (0.7, 3), (0.95, 4)])
def test_a_small_last_batch_makes_a_noisy_average(momentum: float, tail: int) -> None:
    def passes(seed: int) -> Pairs:
        return labelled(12, 24, 500 + seed, tail)

    model = fitted(network(momentum=momentum), 13 * 14, passes)
    found = diagnose(model, passes(9999), swap_batches=0)
    assert "frozen" not in kinds(found)
    assert "slow_average" not in kinds(found)
    noisy = [finding for finding in found.findings if finding.kind == "noisy_average"]
    if found.findings[0].effect is not None:
        assert noisy
        assert f"The last batch of a pass has only {tail} values" in " ".join(noisy[0].evidence)
        assert "drop_last=True" in " ".join(noisy[0].evidence)


def test_a_small_last_batch_is_no_fault_at_the_usual_momentum() -> None:
    def passes(seed: int) -> Pairs:
        return labelled(12, 24, 700 + seed, 6)

    model = fitted(network(), 13 * 14, passes)
    assert kinds(diagnose(model, passes(9999), swap_batches=0)) == ["healthy"]


def images(count: int, size: int, seed: int) -> Pairs:
    """Images of four textures, each in its own light and contrast."""
    random = torch.Generator().manual_seed(seed)
    textures = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    made = []
    for _ in range(count):
        y = torch.randint(4, (size,), generator=random)
        contrast = 0.4 + 1.6 * torch.rand(size, 1, 1, 1, generator=random)
        light = 2 * torch.randn(size, 1, 1, 1, generator=random)
        made.append((contrast * (textures[y] + 0.3 * torch.randn(size, 1, 6, 6, generator=random)) + light, y))
    return made


def convolutional(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3), norm(8), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))  # fmt: skip


def test_one_sample_a_batch_is_instance_normalisation_and_its_remedy_closes_the_gap() -> None:
    model = fitted(convolutional(), 400, lambda seed: images(200, 1, 900 + seed))
    data = images(120, 1, 1)
    found = diagnose(model, data, swap_batches=0)
    first = found.findings[0]
    assert first.kind == "instance_statistics"
    assert not {"noisy_average", "dependent_samples", "mixed_domains"} & set(kinds(found))
    assert "InstanceNorm" in first.remedy
    assert "recalibrate" not in first.remedy
    mended = convolutional(lambda width: nn.InstanceNorm2d(width, affine=True))
    mended.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        losses = [float(F.cross_entropy(mended.eval()(x).double(), y)) for x, y in data]
    assert sum(losses) / len(losses) == pytest.approx(found.level("loss", "batch").value, rel=1e-4)


def test_several_samples_a_batch_are_not_taken_for_one() -> None:
    model = fitted(convolutional(), 150, lambda seed: images(40, 12, 900 + seed))
    assert "instance_statistics" not in kinds(diagnose(model, images(30, 12, 1), swap_batches=0))


@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0])
def test_statistics_that_cannot_be_right_come_before_a_gap_that_they_make(sound: nn.Sequential, value: float) -> None:
    model = copy.deepcopy(sound)
    norms(model)[1].running_var[:4] = value
    assert kinds(diagnose(model, DATA, swap_batches=0))[0] == "invalid_statistics"


def test_half_precision_that_ends_below_the_variance_is_named() -> None:
    torch.manual_seed(0)
    wide = [(300 * x, y) for x, y in DATA]
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4))
    model.train()
    for x, _ in wide:
        model(x)
    found = diagnose(model.half(), [(x.half(), y) for x, y in wide], swap_batches=0)
    assert kinds(found)[0] == "invalid_statistics"
    assert "unexplained" not in kinds(found)
    assert "float16 ends at 65504: keep the layer in float32" in " ".join(found.findings[0].evidence)


CONSTANT = [(torch.cat([x, torch.full((16, 2), 7.0)], 1), y) for x, y in DATA]


class HeadFirst(nn.Module):
    """What is registered first runs last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.norm = nn.Linear(8, 4), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))


class TwoBranches(HeadFirst):
    """Another branch has run before the data come to the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        side = self.other(x).relu()
        return self.head(self.norm(x / 2 - 1)) + side


class Killed(HeadFirst):
    """The same constant, made by weights at zero."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.before, self.frozen = nn.Linear(8, 8), frozen
        self.before.weight.data[:2] = 0

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            inner = self.before(x)
        return super().forward(inner)


def warmed(model: nn.Module, data: Pairs) -> nn.Module:
    model.train()
    with torch.no_grad():
        for _ in range(4):
            for x, _ in data:
                model(x)
    return model.eval()


@pytest.mark.parametrize("make", [HeadFirst, TwoBranches])
def test_what_is_constant_in_the_data_is_no_dead_channel(make: Callable[[], nn.Module]) -> None:
    model = warmed(make(), CONSTANT)
    found = diagnose(model, CONSTANT, swap_batches=0)
    assert found.layers["dead"].tolist() == [2]
    assert "dead_channels" not in kinds(found)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("needed", [False, True])
def test_what_weights_at_zero_make_constant_is_a_dead_channel(frozen: bool, needed: bool) -> None:
    model = warmed(Killed(frozen), CONSTANT).requires_grad_(needed)
    found = diagnose(model, CONSTANT, swap_batches=0)
    assert "dead_channels" in kinds(found)
    assert all(parameter.requires_grad == needed for parameter in model.parameters())
