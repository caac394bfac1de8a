"""ONNX's BatchNormalization: graphs exported from torch, in onnxruntime or the reference evaluator; the bare operator."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from bnstudy.frameworks.audit.experiment import Kind, Stored, given
from bnstudy.frameworks.audit.observations import Array

_STATE = ("mean", "variance")


class GraphLayer:
    """A training graph and an inference graph over (x, scale, bias, mean, variance), whose state this object carries.

    Args:
        channels: C.
        training, inference: graphs with inputs x, scale, bias, mean, variance; the training graph may answer with the new
            mean and variance after y, or with y alone.
        runtime: "onnxruntime" or "reference".
    """

    def __init__(self, channels: int, training: onnx.ModelProto, inference: onnx.ModelProto, runtime: str) -> None:
        self._training, self._inference = _session(training, runtime), _session(inference, runtime)
        ones = np.ones(channels, np.float32)
        self._state = {"scale": ones, "bias": 0 * ones, "mean": 0 * ones, "variance": ones}

    def train(self, x: Array) -> Array:
        y, *new = self._training(x, self._state)
        self._state |= dict(zip(_STATE, new, strict=False))
        return np.asarray(y)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(self._inference(x, self._state)[0])

    def read(self) -> Stored:
        state = self._state
        return Stored(state["mean"], state["variance"], state["scale"], state["bias"])

    def write(self, mean: Array, variance: Array) -> None:
        self._state |= {"mean": mean, "variance": variance}


def _session(model: onnx.ModelProto, runtime: str) -> Any:
    if runtime == "reference":
        evaluator = ReferenceEvaluator(model)
        return lambda x, state: evaluator.run(None, {"x": x, **state})
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return lambda x, state: session.run(None, {"x": x, **state})


def operator(channels: int, momentum: float | None, training: bool) -> onnx.ModelProto:
    """A graph of one BatchNormalization node (opset 15) with its attributes at their defaults."""
    outputs = ["y", "new_mean", "new_variance"] if training else ["y"]
    node = helper.make_node(
        "BatchNormalization", ["x", "scale", "bias", *_STATE], outputs, training_mode=int(training),
        **given("momentum", momentum),
    )  # fmt: skip
    batch = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, "H", "W"])
    vectors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [channels]) for name in ("scale", "bias", *_STATE)]
    answers = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([node], "batchnorm", [batch, *vectors], answers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def exported(channels: int, momentum: float | None, training: bool, dynamo: bool) -> onnx.ModelProto:
    """torch.nn.BatchNorm2d as its exporter writes it, weights and buffers made inputs and running statistics outputs.

    Args:
        channels: C.
        momentum: torch's argument; None for its default.
        training: export the module in training mode.
        dynamo: the exporter on torch.export (the default since torch 2.9), else the one on TorchScript.
    """
    import torch

    module = torch.nn.BatchNorm2d(channels, **given("momentum", momentum)).train(training)
    for place, tensor in enumerate((module.weight, module.bias, module.running_mean, module.running_var)):
        torch.nn.init.constant_(cast(torch.Tensor, tensor), place)  # the exporter would merge tensors that are equal
    example = torch.zeros(4, channels, 3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            dims = {0: torch.export.Dim("n", min=1), 2: torch.export.Dim("h", min=1), 3: torch.export.Dim("w", min=1)}
            program = torch.onnx.export(
                module, (example,), dynamo=True, input_names=["x"], dynamic_shapes=(dims,), verbose=False
            )
            model = program.model_proto  # type: ignore[union-attr]
        else:
            mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "batchnorm.onnx"
                torch.onnx.export(
                    module, (example,), file, dynamo=False, training=mode, opset_version=17, do_constant_folding=False,
                    keep_initializers_as_inputs=True, input_names=["x"], dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}},
                )  # fmt: skip
                model = onnx.load(file)
    return _opened(model, channels)


def _opened(model: onnx.ModelProto, channels: int) -> onnx.ModelProto:
    """Turn the BatchNormalization node's weights and buffers into inputs, and its statistics into outputs if it has any."""
    node = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    names = dict(zip(node.input[1:], ("scale", "bias", *_STATE), strict=True))
    for item in model.graph.node:
        item.input[:] = [names.get(name, name) for name in item.input]
    del model.graph.initializer[:]
    x = next(value for value in model.graph.input if value.name == "x")
    del model.graph.input[:]
    vectors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [channels]) for name in names.values()]
    model.graph.input.extend([x, *vectors])
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output[1:])
    return model


def kind(name: str) -> Kind:
    """The kind of a name in the registry."""
    if name == "onnx-operator":
        schema = onnx.defs.get_schema("BatchNormalization", 15)
        return Kind(
            lambda channels, momentum: GraphLayer(
                channels, operator(channels, momentum, True), operator(channels, momentum, False), "reference"
            ),
            float(schema.attributes["momentum"].default_value.f),
        )
    dynamo = name == "onnx-dynamo"
    runtime = "reference" if name == "onnx-reference" else "onnxruntime"

    def build(channels: int, momentum: float | None) -> GraphLayer:
        graphs = [exported(channels, momentum, training, dynamo) for training in (True, False)]
        return GraphLayer(channels, graphs[0], graphs[1], runtime)

    return Kind(build, 0.1)
