"""Other people's ways to train the same networks one after another: a DataLoader loop, and PyTorch Lightning's Trainer."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from bnstudy.sweeps.config import Config
from bnstudy.training.data import Dataset
from bnstudy.training.networks import build_model
from bnstudy.training.optimization import build_optimizer
from bnstudy.training.schedule import learning_rates
from bnstudy.training.seeds import generator
from scripts.benchmark.loop import with_torch_batchnorm
from scripts.benchmark.timing import Clock


class Stopwatch:
    """A clock that can be stopped: what a rival does before its first step and after its last is not held against it.

    Args:
        clock: that goes on underneath. Default: CPU time of the process.
    """

    def __init__(self, clock: Clock = time.process_time) -> None:
        self._clock, self._left_out = clock, 0.0
        self._stopped: float | None = None

    def __call__(self) -> float:
        """Seconds without the stops."""
        return (self._clock() if self._stopped is None else self._stopped) - self._left_out

    def stop(self) -> None:
        """Stand still."""
        if self._stopped is None:
            self._stopped = self._clock()

    def go_on(self) -> float:
        """Go on; returns for how many seconds it has stood still."""
        if self._stopped is None:
            return 0.0
        pause = self._clock() - self._stopped
        self._left_out, self._stopped = self._left_out + pause, None
        return pause


def wall_clock(device: str) -> Clock:
    """Wall time, read once the device has done all that it was given."""

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def training_parts(config: Config, dataset: Dataset, seed: int) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    """What a rival trains: the network of `build_model` with torch's own BatchNorm, the study's optimizer, and a DataLoader.

    The loader works in this process and gives the batches that `bnstudy.training.loop.Training` takes for this seed.

    Args:
        config: model, optimizer, batch size; the learning rate is that of the first step.
        dataset: classes, on the CPU.
        seed: of initial weights and order.
    """
    model = with_torch_batchnorm(build_model(config.model, dataset.input_shape, dataset.outputs, seed=seed))
    model.to(config.device).train()
    rate = learning_rates(config.optimizer, config.schedule, config.batch_size, 1)[0]
    optimizer = build_optimizer(replace(config.optimizer, lr=rate), model)
    samples = TensorDataset(dataset.train.inputs, dataset.train.targets)
    # The sampler alone has the generator: a loader would first draw a number from it for its workers.
    order = RandomSampler(samples, generator=generator(seed, "order"))
    return model, optimizer, DataLoader(samples, config.batch_size, sampler=order, drop_last=config.drop_last)


class LoaderLoop:
    """Makes a hand-written loop over a DataLoader ready, each time from the next seed.

    Args:
        config: see `training_parts`; `steps` is the number of steps, within an epoch.
        dataset: see `training_parts`.
    """

    def __init__(self, config: Config, dataset: Dataset) -> None:
        self.config, self.dataset, self.seed = config, dataset, -1

    def __call__(self) -> Callable[[], None]:
        """A training of some steps."""
        self.seed += 1
        model, optimizer, loader = training_parts(self.config, self.dataset, self.seed)
        return partial(loader_loop, model, optimizer, loader, self.config)


def loader_loop(model: nn.Module, optimizer: torch.optim.Optimizer, loader: Any, config: Config) -> None:
    """One network, batch after batch: to the device, model(x), cross-entropy, backward, step, zero_grad."""
    for x, target in islice(loader, config.steps):
        loss = F.cross_entropy(model(x.to(config.device)), target.to(config.device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


class LightningFit:
    """Makes a fit of Lightning's Trainer ready, each time from the next seed.

    Progress bar, logger, checkpoints, model summary and validation are off. The clock stands still until Lightning calls
    `on_train_start`, and from `on_train_end` on; for how long goes to `start_up`.

    Args:
        config: see `training_parts`; `steps` is the number of steps, within an epoch.
        dataset: see `training_parts`.
        clock: that times the turns.
        start_up: takes the seconds that the clock stood still in each fit.
    """

    def __init__(self, config: Config, dataset: Dataset, clock: Stopwatch, start_up: list[float]) -> None:
        self.config, self.dataset, self.clock, self.start_up, self.seed = config, dataset, clock, start_up, -1

    def __call__(self) -> Callable[[], None]:
        """A training of some steps."""
        self.seed += 1
        return partial(self._fit, *training_parts(self.config, self.dataset, self.seed))

    def _fit(self, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Any) -> None:
        self.start_up.append(lightning_fit(model, optimizer, loader, self.config, self.clock))


def lightning_fit(
    model: nn.Module, optimizer: torch.optim.Optimizer, loader: Any, config: Config, clock: Stopwatch
) -> float:
    """One network by Lightning's Trainer; returns for how many seconds the clock stood still."""
    clock.stop()
    pauses = []
    with _quiet():
        import lightning.pytorch as pl

        trainer = pl.Trainer(
            accelerator="gpu" if config.device == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            max_steps=config.steps or -1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(_module(model, optimizer, lambda: pauses.append(clock.go_on()), clock.stop), loader)
    return sum(pauses) + clock.go_on()


def _module(model: nn.Module, optimizer: torch.optim.Optimizer, begun: Callable[[], None], ended: Callable[[], None]) -> Any:
    """The training as Lightning's tutorials write it."""
    import lightning.pytorch as pl

    class Classifier(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            x, target = batch
            return F.cross_entropy(self.model(x), target)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

        def on_train_start(self) -> None:
            begun()

        def on_train_end(self) -> None:
            ended()

    return Classifier()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice on GPUs, workers and logging intervals."""
    import lightning.pytorch  # which sets the level

    logger = logging.getLogger(lightning.pytorch.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
