"""What stacking seeds gains, by model, batch size and input size: the measurement behind `training.networks.grouping`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bnstudy.sweeps.config import Config
from bnstudy.training.config import ModelConfig
from bnstudy.training.data import Dataset, DatasetShape, Split
from bnstudy.training.data.scaling import standard
from bnstudy.training.loop import Training
from bnstudy.training.networks import block_size, network_facts
from scripts.benchmark.report import Benchmark, Row, Target
from scripts.benchmark.timing import Prepare, Spread, interleave, ratio, spread

OUTPUTS = 10
METHOD = """\
Standard-normal inputs with random labels, SGD with momentum (fused), float32, one thread, CPU time of the process. \
A unit is a step of one replica in `bnstudy.training.loop.Training`; the gain of R replicas is R seeds' time one at \
a time over their time as one module, the median over interleaved rounds of the ratio within a round. What \
`replicas=auto` picks is marked "rule" and must not be slower than one at a time."""

_TURN_SAMPLES = {"mlp": 512, "resnet": 64, "torchvision": 16}
_LEAST_STEPS = 4


@dataclass(frozen=True)
class Case:
    """One training to stack.

    Args:
        model: which network.
        input_shape: of a sample.
        batch_size: samples a step.
        replicas: numbers of seeds to time beside 1.
    """

    model: ModelConfig
    input_shape: tuple[int, ...]
    batch_size: int
    replicas: tuple[int, ...] = (2, 4, 8, 16)

    @property
    def name(self) -> str:
        """The case in words."""
        model, size = self.model, "×".join(map(str, self.input_shape))
        width = f" width {model.width}" if model.architecture != "torchvision" else ""
        return f"{model.name}{width}, input {size}, batch {self.batch_size}"

    @property
    def dataset(self) -> DatasetShape:
        """A data set of one turn's samples."""
        samples = max(_TURN_SAMPLES[self.model.architecture], _LEAST_STEPS * self.batch_size)
        return DatasetShape("classification", self.input_shape, OUTPUTS, samples - samples % self.batch_size, 1)


_MLP, _RESNET8, _RESNET18 = ModelConfig(), ModelConfig("resnet8", "resnet", 8, 16), ModelConfig("resnet18", "torchvision")
CASES = (
    *(Case(_MLP, (1, 8, 8), n) for n in (2, 4, 8, 16, 32, 64, 128, 256)),
    *(Case(_MLP, (1, 28, 28), n) for n in (8, 64)),
    *(Case(ModelConfig(width=512), (1, 8, 8), n, (2, 4, 8)) for n in (8, 64)),
    *(Case(_RESNET8, (1, 8, 8), n) for n in (2, 4, 8, 16, 32, 64)),
    *(Case(_RESNET8, (1, 28, 28), n) for n in (2, 8, 16)),
    *(Case(_RESNET8, (1, 28, 28), n, (2, 4)) for n in (32, 64)),
    Case(ModelConfig("resnet8", "resnet", 8, 32), (1, 8, 8), 8),
    *(Case(_RESNET18, (1, 8, 8), n, (2,)) for n in (8, 32)),
)


def benchmark_grouping(rounds: int, cases: Sequence[Case] = CASES) -> Benchmark:
    """Time every case with 1, 2, 4, 8 and 16 replicas.

    Args:
        rounds: interleaved rounds a case.
        cases: what to train.

    Returns:
        Gains over one at a time; those that `replicas=auto` picks have the target of 1.

    Source: docs/method.md, "Replicas and pairing".
    """
    rows: list[Row] = []
    times: dict[str, dict[str, Spread]] = {}
    for case in cases:
        config = Config(model=case.model, batch_size=case.batch_size, epochs=rounds + 1, device="cpu")
        chosen = block_size(config, network_facts(case.model, case.input_shape, OUTPUTS))
        data = _noise(case.dataset)
        numbers = sorted({1, chosen, *case.replicas})
        contenders: dict[str, Prepare] = {str(number): _ready(config, data, number) for number in numbers}
        turns = interleave(contenders, rounds)
        steps = case.dataset.train_samples // case.batch_size
        seconds = {name: [turn / (steps * int(name)) for turn in found] for name, found in turns.items()}
        times[case.name] = {f"R = {name}": spread(found) for name, found in seconds.items()}
        for number in numbers:
            gain = ratio(seconds["1"], seconds[str(number)])
            target = Target(1.0, at_most=False) if number == chosen > 1 else None
            if number in (*case.replicas, chosen):
                rows.append(Row(case.name, f"R = {number}{' (rule)' if number == chosen else ''}", gain, target))
    return Benchmark("grouping", METHOD, rows, times)


def _noise(shape: DatasetShape) -> Dataset:
    """Random inputs and labels; the test split, which nobody looks at, is the training split."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(shape.train_samples, *shape.input_shape, generator=random)
    targets = torch.randint(0, OUTPUTS, (shape.train_samples,), generator=random)
    split = Split(inputs, targets)
    scaling = standard(shape.input_shape[0])
    return Dataset("noise", shape.task, shape.input_shape, OUTPUTS, split, split, scaling)


def _ready(config: Config, data: Dataset, replicas: int) -> Prepare:
    """One training that goes on from turn to turn, an epoch each."""
    training = Training(config, data, range(replicas))
    return lambda: training.run_epoch
