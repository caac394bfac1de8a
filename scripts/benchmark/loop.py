"""What the training loop costs: steps a second against a bare hand-written loop, alone and with replicas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.sweeps.config import Config
from bnstudy.training.config import DatasetConfig, ModelConfig
from bnstudy.training.data import Dataset, describe, load_dataset
from bnstudy.training.loop import Training
from bnstudy.training.networks import block_size, build_model, network_facts
from bnstudy.training.optimization import build_optimizer
from bnstudy.training.schedule import learning_rates
from bnstudy.training.seeds import generator
from scripts.benchmark.report import Benchmark, Row, Target
from scripts.benchmark.timing import Prepare, Spread, interleave, ratio, spread

SEEDS = 16
METHOD = f"""\
Digits (1,437 images of 8×8), SGD with momentum (fused), float32, one thread, CPU time of the process. A turn trains \
whole epochs from fresh weights of a new seed; building models and data is off the clock. "bare" is plain PyTorch as \
a competent user writes it, one seed at a time: shuffle, index a batch, `model(x)`, `cross_entropy`, `backward`, \
`step`, `zero_grad`, nothing measured and nothing recorded, on the network of `build_model` with torch's own \
`nn.BatchNorm`; "bare, bnstudy's layers" is the same with `build_model`'s network as it is. "Training" is \
`bnstudy.training.loop.Training` as a study runs it: all moving averages kept, every batch's outputs recorded, \
accuracy, loss, calibration error and divergence worked out after each epoch. A unit is one step of one seed; ratios \
are in steps a second, medians over interleaved rounds of the ratio within a round. "replicas" trains {SEEDS} seeds \
in the blocks of `replicas=auto`, and counts the steps of every seed."""


@dataclass(frozen=True)
class Case:
    """One training to time.

    Args:
        model: which network.
        batch_size: samples a step.
        epochs: passes over the split in a turn.
        train_size: samples of the split; None for all of it.
        gain: what `replicas=auto` has to reach over the bare loop; None where no target is declared.
    """

    model: ModelConfig
    batch_size: int
    epochs: int
    train_size: int | None = None
    gain: float | None = None


_RESNET8 = ModelConfig("resnet8", "resnet", 8, 16)
CASES = (
    Case(ModelConfig(), 8, 1, gain=4.5),
    Case(ModelConfig(), 32, 3),
    Case(_RESNET8, 8, 1, train_size=512),
    Case(_RESNET8, 32, 1, train_size=1024),
)


def bare_loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, dataset: Dataset, batch_size: int, epochs: int, seed: int
) -> None:
    """Plain PyTorch as a competent user writes it: one network, nothing measured, nothing recorded.

    Every epoch draws an order, indexes a batch at a time, and for each takes model(x), cross-entropy, backward, step and
    zero_grad; a last partial batch is dropped. The learning rate stays as the optimizer has it.

    Args:
        model: as `build_model` makes it, with torch's own `nn.BatchNorm` or bnstudy's layers; trained in place.
        optimizer: of its parameters.
        dataset: classes.
        batch_size: samples a step.
        epochs: passes over the training split.
        seed: of the order, drawn as `Training` draws it: both see the same batches.
    """
    inputs, targets = dataset.train.inputs, dataset.train.targets
    random = generator(seed, "order")
    whole = len(inputs) - len(inputs) % batch_size
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(inputs), generator=random)[:whole].split(batch_size):
            loss = F.cross_entropy(model(inputs[index]), targets[index])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def with_torch_batchnorm(model: nn.Module) -> nn.Module:
    """Put torch's own BatchNorm in the place of bnstudy's layers, with their values and options; in place.

    Raises:
        ValueError: a layer is not what torch's computes: another convention than `paper`, or ghost batches.
    """
    for path, layer in batchnorm_layers(model).items():
        if layer.convention.name != "paper" or layer.norm_batch_size is not None:
            raise ValueError(f"model: layer '{path}' is not torch's BatchNorm; build it with convention 'paper'")
        theirs = next(base for base in type(layer).__mro__ if base.__module__.startswith("torch.nn"))
        swapped: nn.Module = theirs(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        swapped.load_state_dict(layer.state_dict())
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, swapped)
    return model


def benchmark_loop(rounds: int, cases: Sequence[Case] = CASES) -> Benchmark:
    """Time `Training` for one seed, and for 16 seeds with `replicas=auto`, against the bare loop.

    Args:
        rounds: interleaved rounds a case, each with a seed of its own.
        cases: what to train.

    Returns:
        Ratios of steps a second, with their targets.

    Source: docs/method.md, "Replicas and pairing".
    """
    rows: list[Row] = []
    times: dict[str, dict[str, Spread]] = {}
    for case in cases:
        data = DatasetConfig(train_size=case.train_size)
        config = Config(dataset=data, model=case.model, batch_size=case.batch_size, epochs=case.epochs, device="cpu")
        shape = describe(config.dataset)
        block = min(SEEDS, block_size(config, network_facts(config.model, shape.input_shape, shape.outputs)))
        seconds = _measure(config, block, rounds)
        name = f"{case.model.name}, batch {case.batch_size}"
        times[name] = {contender: spread(found) for contender, found in seconds.items()}
        alone, bare = seconds["Training"], seconds["bare"]
        least = Target(0.95, at_most=False)
        rows.append(Row(name, "Training, 1 seed / bare", ratio(bare, alone), least))
        layers = seconds["bare, bnstudy's layers"]
        rows.append(Row(name, "Training, 1 seed / bare, bnstudy's layers", ratio(layers, alone), least))
        gain = None if case.gain is None else Target(case.gain, at_most=False)
        measured = f"Training, {SEEDS} seeds in blocks of {block} / bare"
        rows.append(Row(name, measured, ratio(bare, seconds["Training, replicas"]), gain))
    return Benchmark("loop", METHOD, rows, times)


def _measure(config: Config, block: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a step and seed, by contender and round."""
    dataset = load_dataset(config.dataset)
    steps = config.epochs * (len(dataset.train) // config.batch_size)
    contenders: dict[str, Prepare] = {
        "bare": _Bare(config, dataset, torch_layers=True),
        "bare, bnstudy's layers": _Bare(config, dataset, torch_layers=False),
        "Training": _Blocks(config, dataset, block=1, seeds=1),
        "Training, replicas": _Blocks(config, dataset, block, seeds=SEEDS),
    }
    seconds = interleave(contenders, rounds)
    units = {name: steps * (SEEDS if name.endswith("replicas") else 1) for name in seconds}
    return {name: [turn / units[name] for turn in turns] for name, turns in seconds.items()}


class _Bare:
    """Makes a bare loop ready, each time from the next seed."""

    def __init__(self, config: Config, dataset: Dataset, torch_layers: bool) -> None:
        self.config, self.dataset, self.torch_layers = config, dataset, torch_layers
        self.seed = -1

    def __call__(self) -> Callable[[], None]:
        self.seed += 1
        config, dataset = self.config, self.dataset
        model = build_model(config.model, dataset.input_shape, dataset.outputs, seed=self.seed)
        if self.torch_layers:
            model = with_torch_batchnorm(model)
        rate = learning_rates(config.optimizer, config.schedule, config.batch_size, 1)[0]
        optimizer = build_optimizer(replace(config.optimizer, lr=rate), model)
        return partial(bare_loop, model, optimizer, dataset, config.batch_size, config.epochs, self.seed)


class _Blocks:
    """Makes the trainings of some seeds ready, block by block; each time from the next seeds."""

    def __init__(self, config: Config, dataset: Dataset, block: int, seeds: int) -> None:
        self.config, self.dataset, self.block, self.seeds = config, dataset, block, seeds
        self.first = -seeds

    def __call__(self) -> Callable[[], None]:
        self.first += self.seeds
        starts = range(self.first, self.first + self.seeds, self.block)
        trainings = [Training(self.config, self.dataset, range(start, start + self.block)) for start in starts]
        return partial(_finish, trainings)


def _finish(trainings: Sequence[Training]) -> None:
    for training in trainings:
        while not training.finished:
            training.run_epoch()
