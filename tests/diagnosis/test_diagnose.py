"""A diagnosis end to end: its numbers against oracles, its limits, and the cases that people ask about."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bnstudy
from bnstudy.diagnosis.diagnose import diagnose
from bnstudy.diagnosis.result import TERMS
from bnstudy.errors import UserError

Pair = tuple[Tensor, Tensor]


def digits() -> Pair:
    inputs, targets = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(inputs))
    scaled = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-3)
    return torch.tensor(scaled[order], dtype=torch.float32), torch.tensor(targets[order])


def mlp(width: int = 64, **norm: object) -> nn.Sequential:
    layer = nn.BatchNorm1d if "convention" not in norm else bnstudy.BatchNorm1d
    return nn.Sequential(
        nn.Linear(64, width), layer(width, **norm), nn.ReLU(),
        nn.Linear(width, width), layer(width, **norm), nn.ReLU(), nn.Linear(width, 10),
    )  # fmt: skip


def train(model: nn.Module, batch_size: int = 32, epochs: int = 4, seed: int = 0) -> nn.Module:
    inputs, targets = digits()
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05 * batch_size / 32, momentum=0.9)
    steps = epochs * (len(inputs) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for index in torch.randperm(len(inputs), generator=random).split(batch_size):
            if len(index) < batch_size:
                continue
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[index]), targets[index]).backward()
            optimizer.step()
            schedule.step()
    return model


def batches(batch_size: int = 32, count: int | None = None, seed: int = 1) -> list[Pair]:
    inputs, targets = digits()
    parts = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed)).split(batch_size)
    parts = [part for part in parts if len(part) == batch_size][:count]
    return [(inputs[part], targets[part]) for part in parts]


@pytest.fixture(scope="module")
def healthy() -> nn.Module:
    torch.manual_seed(0)
    return train(mlp())


@pytest.fixture(scope="module")
def tiny() -> dict[int, nn.Module]:
    models = {}
    for size in (2, 4):
        torch.manual_seed(0)
        models[size] = train(mlp(), size, epochs=2)
    return models


@pytest.mark.parametrize("convention", ["paper", "karpathy", "flax", "inverted"])
def test_the_four_terms_sum_to_the_gap_and_equal_a_computation_by_hand(convention: str) -> None:
    torch.manual_seed(0)
    model = train(mlp(convention=convention), 8, epochs=1).double().eval()
    data = [(inputs.double(), targets) for inputs, targets in batches(8, 40)]
    found = diagnose(model, data, "loss", swap_batches=0)
    terms = found.terms.set_index("term")["value"]
    assert sum(terms[term] for term in TERMS) == pytest.approx(terms["gap"], abs=1e-12)

    # By hand: the layers' own inputs in batch mode, batch by batch; then each statistic put into the running buffers.
    unbiased = convention in ("karpathy", "inverted")
    c = 8 / 7
    by_hand = copy.deepcopy(model)
    for norm in (by_hand[1], by_hand[4]):
        norm.train()
    seen: dict[int, list[np.ndarray]] = {1: [], 4: []}
    hooks = [
        by_hand[place].register_forward_pre_hook(lambda _, args, place=place: seen[place].append(args[0].numpy()))
        for place in seen
    ]
    with torch.no_grad():
        batch = np.mean([float(F.cross_entropy(by_hand(inputs), targets)) for inputs, targets in data])
    for hook in hooks:
        hook.remove()

    def loss(statistics: dict[int, Pair]) -> float:
        stored = copy.deepcopy(model)
        for place, (mean, var) in statistics.items():
            stored[place].running_mean.copy_(mean)
            stored[place].running_var.copy_(var)
        with torch.no_grad():
            return float(np.mean([float(F.cross_entropy(stored(inputs), targets)) for inputs, targets in data]))

    k = c if unbiased else 1.0
    own = {place: (model[place].running_mean, model[place].running_var) for place in seen}
    as_unbiased = {
        place: (mean, var * (c if convention in ("flax", "inverted") else 1.0)) for place, (mean, var) in own.items()
    }
    population: dict[str, dict[int, Pair]] = {"unbiased": {}, "total": {}}
    for place, arrays in seen.items():
        flat = np.concatenate(arrays)
        within = np.mean([array.var(0, ddof=1) for array in arrays], 0)
        population["unbiased"][place] = (torch.tensor(flat.mean(0)), torch.tensor(k * within))
        population["total"][place] = (torch.tensor(flat.mean(0)), torch.tensor(k * flat.var(0)))
    path = [
        loss(own),
        loss({place: (mean, k * var) for place, (mean, var) in as_unbiased.items()}),
        loss(population["unbiased"]),
        loss(population["total"]),
        float(batch),
    ]
    for term, first, second in zip(TERMS, path[:-1], path[1:], strict=True):
        assert terms[term] == pytest.approx(first - second, abs=1e-10), term


def test_a_model_of_batch_size_32_is_healthy_and_comes_back_to_the_bit(healthy: nn.Module) -> None:
    before, random = copy.deepcopy(healthy.state_dict()), torch.get_rng_state()
    found = diagnose(healthy, batches())
    assert [finding.kind for finding in found.findings] == ["healthy"]
    assert found.healthy
    assert all(torch.equal(before[key], value) for key, value in healthy.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_the_same_call_gives_the_same_diagnosis(healthy: nn.Module) -> None:
    first, second = (diagnose(healthy, batches()) for _ in range(2))
    assert first.findings == second.findings
    for name in ("levels", "terms", "layers"):
        assert getattr(first, name).equals(getattr(second, name))


def test_the_whole_model_part_takes_at_most_ten_passes_and_says_how_many(healthy: nn.Module) -> None:
    data, calls = batches(32, 12), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = healthy.register_forward_pre_hook(count)
    try:
        found = diagnose(healthy, data, swap_batches=0)
        whole = calls
        calls = 0
        again = diagnose(healthy, data, swap_batches=3)
    finally:
        hook.remove()
    assert whole <= 10 * len(data)
    assert (
        whole == found.setting["passes"] * len(data) + 2
    )  # the first batch tells what the outputs are, and whether modes differ
    assert calls - whole == again.setting["swap_passes"] == 3 * (1 + 2)


def test_batches_are_a_list_a_loader_or_a_function(healthy: nn.Module) -> None:
    data = batches(32, 12)
    inputs, targets = (torch.cat(part) for part in zip(*data, strict=True))
    loader: DataLoader[Pair] = DataLoader(TensorDataset(inputs, targets), batch_size=32)
    results = [diagnose(healthy, source, swap_batches=0) for source in (data, loader, lambda: iter(data))]
    for other in results[1:]:
        assert other.levels.equals(results[0].levels)


def test_the_limit_takes_the_first_batches(healthy: nn.Module) -> None:
    data = batches(32, 12)
    assert diagnose(healthy, data, limit=9, swap_batches=0).levels.equals(diagnose(healthy, data[:9], swap_batches=0).levels)


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    import tracemalloc

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))

    def peak(count: int) -> int:
        def stream():  # type: ignore[no-untyped-def]
            random = torch.Generator().manual_seed(0)
            for _ in range(count):
                yield torch.randn(4, 8, generator=random)

        tracemalloc.start()
        try:
            diagnose(model, stream, swap_batches=0)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(300)  # whatever is imported and cached along the way
    assert peak(3000) < 1.3 * peak(800)


def test_swaps_find_the_broken_layer(healthy: nn.Module) -> None:
    model = copy.deepcopy(healthy)
    model[4].running_var.mul_(9)
    layers = diagnose(model, batches(), swap_batches=4).layers.set_index("layer")
    assert layers["swap_distance"].idxmax() == "4"
    data = batches()[:4]
    base, swapped = copy.deepcopy(model).train(), copy.deepcopy(model).train()
    swapped[4].eval()
    with torch.no_grad():
        change = [swapped(inputs) - base(inputs) for inputs, _ in data]
        outputs = [base(inputs) for inputs, _ in data]
    expected = torch.cat(change).double().norm() / torch.cat(outputs).double().norm()
    assert layers.loc["4", "swap_distance"] == pytest.approx(float(expected), rel=1e-5)


def test_dropout_has_a_term_of_its_own(healthy: nn.Module) -> None:
    model = nn.Sequential(*[copy.deepcopy(layer) for layer in healthy[:6]], nn.Dropout(0.7), copy.deepcopy(healthy[6]))
    found = diagnose(model, batches(), swap_batches=0)
    assert [finding.kind for finding in found.findings] == ["other_layers"]
    plain = diagnose(healthy, batches(), swap_batches=0)
    assert found.terms.query("term != 'other'").equals(plain.terms.query("term != 'other'"))


def test_the_chain_of_pytorch_100048_is_explained() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.BatchNorm1d(2, eps=1e-12, momentum=0.01, affine=False) for _ in range(20)])
    x = torch.randn(64, 2) * 2 - 1
    for _ in range(2048):
        model(x)
    found = diagnose(model, [x] * 20)
    assert found.findings[0].kind == "dependent_samples"
    terms = found.terms.set_index("term")["value"]
    # Each of 20 layers divides by √(64/63) too much: (63/64)^10 of the outputs is left, and all of it is Bessel's correction
    # of a variance between batches that does not exist.
    assert terms["gap"] == pytest.approx((63 / 64) ** 10 - 1, abs=1e-4)
    assert terms["pooling"] == pytest.approx(terms["gap"], abs=1e-4)
    assert f"{(63 / 64) ** 10:.4f}" in " ".join(found.findings[0].evidence)


@pytest.mark.parametrize("size", [2, 4])
def test_a_model_of_batch_size_2_or_4_is_explained_by_the_noise_of_its_batches(
    size: int, tiny: dict[int, nn.Module]
) -> None:
    found = diagnose(tiny[size], batches(size))
    first = found.findings[0]
    assert first.kind == "tiny_batches"
    assert f"m = {size}" in first.evidence[0]
    terms = found.terms.set_index(["metric", "term"])["value"]
    assert abs(terms["loss", "noise"]) > 0.5 * abs(terms["loss", "gap"])
    m_eff = found.layers.set_index("layer")["m_eff"]
    assert m_eff["1"] == pytest.approx(size, rel=0.15)


def test_a_checkpoint_of_another_convention_gives_itself_away() -> None:
    torch.manual_seed(0)
    flax = train(mlp(convention="flax"), 4, epochs=2)
    model = mlp()
    model.load_state_dict(flax.state_dict())
    first = diagnose(model, batches(4)).findings[0]
    assert first.kind == "wrong_convention"
    assert "`consistent_biased`" in first.summary
    assert diagnose(flax, batches(4)).findings[0].kind != "wrong_convention"


def test_no_batch_norm_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"^model: Linear has no BatchNorm layer; .* expected$"):
        diagnose(nn.Linear(2, 2), [torch.zeros(2, 2)])


def explode(outputs: Tensor, targets: Tensor) -> float:
    raise KeyError("weights")


MISTAKES = {
    "batches: there is no batch in it": lambda model: diagnose(model, []),
    "batches: a generator can be read only once": lambda model: diagnose(model, (pair for pair in batches())),
    "batches: something of type int holds no batches": lambda model: diagnose(model, 3),
    "batches: a batch of 1 leaves a layer one value per channel": lambda model: diagnose(model, batches(1, 4)),
    "batches: batch 2 has inputs that are not finite": lambda model: diagnose(
        model, [*batches(8, 1), (torch.full((8, 64), math.nan), torch.zeros(8, dtype=torch.long))]
    ),
    "batches: the model fails on inputs of shape (8, 5)": lambda model: diagnose(model, [torch.zeros(8, 5)]),
    "metric: 'explode' fails": lambda model: diagnose(model, batches(8, 4), explode),
    "metric: 'f1' is unknown; use accuracy": lambda model: diagnose(model, batches(8, 4), "f1"),
    "metric: something of type int is no function": lambda model: diagnose(model, batches(8, 4), 3),
    "limit: 0 leaves no batch": lambda model: diagnose(model, batches(8, 4), limit=0),
    "swap_layers: conv* fits no layer": lambda model: diagnose(model, batches(8, 9), swap_layers=["conv*"]),
    "evaluation_batches: there is no batch": lambda model: diagnose(model, batches(8, 9), evaluation_batches=[]),
}


@pytest.mark.parametrize("said", MISTAKES)
def test_mistakes_are_one_clear_line_each(said: str, healthy: nn.Module) -> None:
    with pytest.raises(UserError) as caught:
        MISTAKES[said](healthy)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_not_blamed_on_batch_norm(healthy: nn.Module) -> None:
    model = copy.deepcopy(healthy)
    with torch.no_grad():
        model[6].weight[0, 0] = math.nan
    with pytest.raises(
        UserError, match=r"^model: its outputs for batch 1 of batches are not finite even on batch statistics"
    ):
        diagnose(model, batches())


def test_few_batches_are_not_enough(healthy: nn.Module) -> None:
    (finding,) = diagnose(healthy, batches(32, 3)).findings
    assert finding.kind == "not_separable"
    assert "5 more batches" in finding.remedy


def test_outputs_may_be_mappings_and_inputs_too(healthy: nn.Module) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = healthy

        def forward(self, pixels: Tensor) -> dict[str, Tensor | None]:
            return {"loss": None, "logits": self.inner(pixels)}

    data = batches(32, 12)
    wrapped = diagnose(Wrapped(), [({"pixels": inputs}, targets) for inputs, targets in data], swap_batches=0)
    assert wrapped.levels.equals(diagnose(healthy, data, swap_batches=0).levels)
