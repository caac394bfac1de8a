"""The layers that the audit knows, by name; nothing here imports a framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bnstudy.errors import UserError, shown


@dataclass(frozen=True)
class Entry:
    """A layer of a framework.

    Args:
        name: what `bnstudy audit NAME` takes.
        layer: the layer in the framework's own words.
        module: its adapter, under `bnstudy.frameworks.audit.adapters`.
        packages: distributions it needs, whose versions are recorded; the first is the framework. "a|b" takes either.
        environment: variables of the child process.
    """

    name: str
    layer: str
    module: str
    packages: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def framework(self) -> str:
        """The first word of the name; `bnstudy audit keras` measures all of that framework's layers."""
        return self.name.split("-")[0]


def _keras(backend: str, *packages: str) -> Entry:
    layer = f"keras.layers.BatchNormalization, {backend} backend{' (not fused)' if backend == 'tensorflow' else ''}"
    return Entry(f"keras-{backend}", layer, "keras_layer", ("keras", *packages), {"KERAS_BACKEND": backend})


_ONNX = ("onnx", "torch")
_RUNTIME = "onnxruntime|onnxruntime-gpu"
_TENSORFLOW = "tensorflow-cpu|tensorflow"
ENTRIES = (
    Entry("torch", "torch.nn.BatchNorm2d", "torch_layers", ("torch",)),
    Entry("torch-compile", "torch.compile(torch.nn.BatchNorm2d)", "torch_layers", ("torch",)),
    Entry("torch-functional", "torch.batch_norm", "torch_layers", ("torch",)),
    Entry("onnxruntime", "torch.onnx.export(dynamo=False) in training mode, run by onnxruntime", "onnx_graphs",
          (_RUNTIME, *_ONNX)),
    Entry("onnx-reference", "torch.onnx.export(dynamo=False) in training mode, run by onnx.reference", "onnx_graphs", _ONNX),
    Entry("onnx-dynamo", "torch.onnx.export(dynamo=True) in training mode, run by onnxruntime", "onnx_graphs",
          (*_ONNX, _RUNTIME, "onnxscript")),
    Entry("onnx-operator", "BatchNormalization, opset 15, training_mode=1, in onnx.reference", "onnx_graphs", ("onnx",)),
    Entry("torchvision-frozen", "torchvision.ops.FrozenBatchNorm2d", "torch_layers", ("torchvision", "torch")),
    Entry("timm-batchnormact", "timm.layers.BatchNormAct2d", "torch_layers", ("timm", "torch")),
    Entry("timm-frozen", "timm.layers.FrozenBatchNormAct2d", "torch_layers", ("timm", "torch")),
    Entry("timm-splitbatchnorm", "timm.layers.SplitBatchNorm2d, 2 splits", "torch_layers", ("timm", "torch")),
    Entry("timm-evonorm-b0", "timm.layers.EvoNorm2dB0", "torch_layers", ("timm", "torch")),
    Entry("flax-linen", "flax.linen.BatchNorm", "flax_layers", ("flax", "jax")),
    Entry("flax-nnx", "flax.nnx.BatchNorm", "flax_layers", ("flax", "jax")),
    Entry("haiku", "haiku.BatchNorm", "haiku_layer", ("dm-haiku", "jax")),
    Entry("equinox-batch", "equinox.nn.BatchNorm(mode='batch')", "equinox_layers", ("equinox", "jax")),
    Entry("equinox-ema", "equinox.nn.BatchNorm(mode='ema')", "equinox_layers", ("equinox", "jax")),
    _keras("torch", "torch"),
    _keras("jax", "jax"),
    _keras("tensorflow", _TENSORFLOW),
    Entry("tensorflow-fused", "tf.raw_ops.FusedBatchNormV3", "tensorflow_fused", (_TENSORFLOW,)),
    Entry("tinygrad", "tinygrad.nn.BatchNorm", "tinygrad_layer", ("tinygrad",)),
    Entry("mlx", "mlx.nn.BatchNorm", "mlx_layer", ("mlx",)),
    Entry("paddle", "paddle.nn.BatchNorm2D", "paddle_layer", ("paddlepaddle|paddlepaddle-gpu",)),
    Entry("karpathy", "BatchNorm1d of the makemore lecture, from its description", "karpathy", ("torch",)),
)  # fmt: skip


def entries(names: Sequence[str] = ()) -> tuple[Entry, ...]:
    """The entries of some names, in the registry's order; all of them for none.

    Args:
        names: names of entries or of frameworks ("keras" is all three backends).

    Raises:
        UserError: a name that is neither.
    """
    for name in names:
        if not any(name in (entry.name, entry.framework) for entry in ENTRIES):
            accepted = ", ".join(entry.name for entry in ENTRIES)
            raise UserError(f"names: {shown(name)} is no audited layer or framework; use {accepted}")
    wanted = set(names)
    exact = {entry.name for entry in ENTRIES} & wanted
    return tuple(
        entry
        for entry in ENTRIES
        if not names or entry.name in exact or (entry.framework in wanted and entry.framework not in exact)
    )
