"""States as frameworks write them, name by name, and small programs that have the installed ones write them again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Written:
    """A state with one BatchNorm layer or two.

    Args:
        source: what `--source` says of it; a convention for MXNet, which has none of its own here.
        keys: names of the tensors; an ending " 3x3" or " 1x3" or " -" (a count) says a shape other than (3,).
        layers: (name, mean, variance, γ, β, count) of each layer; None where there is none.
        program: Python that puts the state as arrays by name into `state`; "" where the framework cannot be installed.
    """

    source: str
    keys: tuple[str, ...]
    layers: tuple[tuple[str | None, ...], ...]
    program: str = ""


def _layer(name: str, form: str, *words: str | None) -> tuple[str | None, ...]:
    return (name, *(None if word is None else form.format(word) for word in words))


_TORCH = ("running_mean", "running_var", "weight", "bias", "num_batches_tracked")
_GAMMA = ("moving_mean", "moving_variance", "gamma", "beta")
_SEEN = "batch = np.random.default_rng(0).normal(1, 2, (8, 4)).astype('float32')\n"
_LINEN = """
import jax; from flax import linen; from flax.traverse_util import flatten_dict
class Net(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(3)(x))
        return linen.LayerNorm()(x)
net = Net()
variables = net.init(jax.random.key(0), batch, False)
variables = variables | net.apply(variables, batch, True, mutable=['batch_stats'])[1]
"""
_NNX = """
import jax; from flax import nnx
class Net(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.bn, self.ln = nnx.Linear(4, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs), nnx.LayerNorm(3, rngs=rngs)
net = Net(nnx.Rngs(0))
net.bn(net.dense(batch), use_running_average=False)
"""
_HAIKU = """
import haiku, jax
def forward(x):
    return haiku.BatchNorm(True, True, 0.9)(haiku.Linear(3)(x), True)
net = haiku.transform_with_state(forward)
params, stats = net.init(jax.random.key(0), batch)
_, stats = net.apply(params, stats, None, batch)
"""
_KERAS = """
import keras
net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization(name='bn'),
                        keras.layers.Normalization(name='scaling'), keras.layers.LayerNormalization(name='ln')])
net(batch, training=True)
array = keras.ops.convert_to_numpy
"""
_KEYSTR = "flat = jax.tree_util.tree_flatten_with_path\n"
_HAIKU_LAYER = ("{}/~/mean_ema{}average", "{}/~/var_ema{}average")

WRITTEN = {
    "torch": Written(
        "torch",
        ("net.0.weight 3x3", "net.0.bias", *(f"net.1.{word}" for word in _TORCH[:4]), "net.1.num_batches_tracked -"),
        (_layer("net.1", "net.1.{}", *_TORCH),),
        "import torch\nfrom torch import nn\n"
        "net = nn.ModuleDict({'net': nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))})\n"
        "net['net'](torch.from_numpy(batch))\nstate = {key: value.numpy() for key, value in net.state_dict().items()}",
    ),
    "torch, compiled and distributed": Written(
        "torch",
        (*(f"module._orig_mod.bn.{word}" for word in _TORCH[:4]), "module._orig_mod.bn.num_batches_tracked -"),
        (_layer("module._orig_mod.bn", "module._orig_mod.bn.{}", *_TORCH),),
    ),
    "torch without γ and β": Written(
        "torch",
        ("bn.running_mean", "bn.running_var", "bn.num_batches_tracked -"),
        (("bn", "bn.running_mean", "bn.running_var", None, None, "bn.num_batches_tracked"),),
    ),
    "tinygrad": Written(
        "tinygrad",
        (*(f"bn.{word}" for word in _TORCH[:4]), "bn.num_batches_tracked -"),
        (_layer("bn", "bn.{}", *_TORCH),),
        "import os; os.environ['DEV'] = 'PYTHON'\nfrom tinygrad.nn import BatchNorm\n"
        "from tinygrad.nn.state import get_state_dict\n"
        "class Net:\n    def __init__(self):\n        self.bn = BatchNorm(3)\n"
        "state = {key: value.numpy() for key, value in get_state_dict(Net()).items()}",
    ),
    "MLX": Written(
        "mlx",
        (*(f"bn.{word}" for word in _TORCH[:4]), "l.0.running_mean", "l.0.running_var"),
        (_layer("bn", "bn.{}", *_TORCH[:4], None), ("l.0", "l.0.running_mean", "l.0.running_var", None, None, None)),
        "import mlx.nn as nn\nfrom mlx.utils import tree_flatten\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.bn, self.l = nn.BatchNorm(3), [nn.BatchNorm(3, affine=False)]\n"
        "state = {key: np.array(value) for key, value in tree_flatten(Net().parameters())}",
    ),
    "Paddle": Written(
        "paddle",
        ("0.weight 3x3", "0.bias", "1.weight", "1.bias", "1._mean", "1._variance"),
        (("1", "1._mean", "1._variance", "1.weight", "1.bias", None),),
        "import paddle\nnet = paddle.nn.Sequential(paddle.nn.Linear(4, 3), paddle.nn.BatchNorm1D(3))\n"
        "net(paddle.to_tensor(batch))\nstate = {key: value.numpy() for key, value in net.state_dict().items()}",
    ),
    "Paddle, a static graph": Written(
        "paddle",
        ("linear_0.w_0 3x3", "linear_0.b_0", *(f"batch_norm1d_0.{word}" for word in ("w_0", "b_0", "w_1", "w_2"))),
        (_layer("batch_norm1d_0", "batch_norm1d_0.{}", "w_1", "w_2", "w_0", "b_0", None),),
        "import paddle\nnet = paddle.nn.Sequential(paddle.nn.Linear(4, 3), paddle.nn.BatchNorm1D(3))\n"
        "net(paddle.to_tensor(batch))\nstate = {value.name: value.numpy() for value in net.state_dict().values()}",
    ),
    "linen, by /": Written(
        "flax",
        ("params/Dense_0/kernel 3x3", "params/BatchNorm_0/scale", "params/BatchNorm_0/bias", "params/LayerNorm_0/scale",
         "params/LayerNorm_0/bias", "batch_stats/BatchNorm_0/mean", "batch_stats/BatchNorm_0/var"),
        (("BatchNorm_0", "batch_stats/BatchNorm_0/mean", "batch_stats/BatchNorm_0/var", "params/BatchNorm_0/scale",
          "params/BatchNorm_0/bias", None),),
        _LINEN + "state = flatten_dict(variables, sep='/')",
    ),
    "linen, by .": Written(
        "flax",
        tuple(f"{part}.BatchNorm_0.{word}" for part, word in (("params", "scale"), ("params", "bias"),
              ("batch_stats", "mean"), ("batch_stats", "var"))),
        (("BatchNorm_0", "batch_stats.BatchNorm_0.mean", "batch_stats.BatchNorm_0.var", "params.BatchNorm_0.scale",
          "params.BatchNorm_0.bias", None),),
        _LINEN + "state = flatten_dict(variables, sep='.')",
    ),
    "linen, by JAX": Written(
        "flax",
        ("['params']['BatchNorm_0']['scale']", "['params']['BatchNorm_0']['bias']",
         "['batch_stats']['BatchNorm_0']['mean']", "['batch_stats']['BatchNorm_0']['var']"),
        (("BatchNorm_0", "['batch_stats']['BatchNorm_0']['mean']", "['batch_stats']['BatchNorm_0']['var']",
          "['params']['BatchNorm_0']['scale']", "['params']['BatchNorm_0']['bias']", None),),
        _LINEN + _KEYSTR + "state = {jax.tree_util.keystr(path): value for path, value in flat(variables)[0]}",
    ),
    "linen under a root": Written(
        "flax",
        ("model/params/b/bn/scale", "model/params/b/bn/bias", "model/batch_stats/b/bn/mean", "model/batch_stats/b/bn/var"),
        (("model/b/bn", "model/batch_stats/b/bn/mean", "model/batch_stats/b/bn/var", "model/params/b/bn/scale",
          "model/params/b/bn/bias", None),),
    ),
    "linen under two roots": Written(
        "flax",
        ("params/b/bn/scale", "opt_state/0/mu/params/b/bn/scale", "ema/old/params/b/bn/scale",
         "model_state/batch_stats/b/bn/mean", "model_state/batch_stats/b/bn/var"),
        (("model_state/b/bn", "model_state/batch_stats/b/bn/mean", "model_state/batch_stats/b/bn/var", "params/b/bn/scale",
          None, None),),
    ),
    "linen's training state": Written(
        "flax",
        (".step -", ".params['BatchNorm_0']['bias']", ".params['BatchNorm_0']['scale']", ".opt_state[0].count -",
         ".opt_state[0].mu['BatchNorm_0']['scale']", ".batch_stats['BatchNorm_0']['mean']",
         ".batch_stats['BatchNorm_0']['var']"),
        (("BatchNorm_0", ".batch_stats['BatchNorm_0']['mean']", ".batch_stats['BatchNorm_0']['var']",
          ".params['BatchNorm_0']['scale']", ".params['BatchNorm_0']['bias']", None),),
        _LINEN + _KEYSTR + "import optax; from flax.training.train_state import TrainState\n"
        "class State(TrainState):\n    batch_stats: dict\n"
        "whole = State.create(apply_fn=None, params=variables['params'], batch_stats=variables['batch_stats'],\n"
        "                     tx=optax.adam(1e-3))\n"
        "state = {jax.tree_util.keystr(path): value for path, value in flat(whole)[0]}",
    ),
    "nnx, by JAX": Written(
        "flax",
        ("['bn']['bias'].value", "['bn']['mean'].value", "['bn']['scale'].value", "['bn']['var'].value",
         "['ln']['bias'].value", "['ln']['scale'].value"),
        (("bn", "['bn']['mean'].value", "['bn']['var'].value", "['bn']['scale'].value", "['bn']['bias'].value", None),),
        _NNX + _KEYSTR + "state = {jax.tree_util.keystr(path): value for path, value in flat(nnx.state(net))[0]}",
    ),
    "nnx, .value": Written(
        "flax",
        ("bn.bias.value", "bn.mean.value", "bn.scale.value", "bn.var.value", "ln.bias.value", "ln.scale.value"),
        (("bn", "bn.mean.value", "bn.var.value", "bn.scale.value", "bn.bias.value", None),),
        _NNX + _KEYSTR + "state = {jax.tree_util.keystr(path, simple=True, separator='.'): value\n"
        "         for path, value in flat(nnx.state(net))[0]}",
    ),
    "nnx, pure": Written(
        "flax",
        ("bn/bias", "bn/mean", "bn/scale", "bn/var", "ln/bias", "ln/scale"),
        (("bn", "bn/mean", "bn/var", "bn/scale", "bn/bias", None),),
        _NNX + _KEYSTR + "state = {jax.tree_util.keystr(path, simple=True, separator='/'): value\n"
        "         for path, value in flat(nnx.to_pure_dict(nnx.state(net)))[0]}",
    ),
    "Haiku": Written(
        "haiku",
        ("linear/w 3x3", "linear/b", "batch_norm/scale 1x3", "batch_norm/offset 1x3",
         *(f"batch_norm/~/{which}_ema/{word}" for which in ("mean", "var") for word in ("average 1x3", "hidden 1x3",
                                                                                        "counter -"))),
        (("batch_norm", "batch_norm/~/mean_ema/average", "batch_norm/~/var_ema/average", "batch_norm/scale",
          "batch_norm/offset", "batch_norm/~/var_ema/counter"),),
        _HAIKU + "state = {f'{module}/{name}': value for tree in (params, stats) for module, part in tree.items()\n"
        "         for name, value in part.items()}",
    ),
    "Haiku, by JAX": Written(
        "haiku",
        ("[0]['batch_norm']['scale'] 1x3", "[0]['batch_norm']['offset'] 1x3",
         *(f"[1]['batch_norm/~/{which}_ema']['{word}'] 1x3" for which in ("mean", "var") for word in ("average", "hidden")),
         "[1]['batch_norm/~/var_ema']['counter'] -"),
        (("batch_norm", "[1]['batch_norm/~/mean_ema']['average']", "[1]['batch_norm/~/var_ema']['average']",
          "[0]['batch_norm']['scale']", "[0]['batch_norm']['offset']", "[1]['batch_norm/~/var_ema']['counter']"),),
        _HAIKU + _KEYSTR + "state = {jax.tree_util.keystr(path): value for path, value in flat((params, stats))[0]}",
    ),
    "Haiku, one tree a kind": Written(
        "haiku",
        ("params/a/~/bn/scale 1x3", "state/a/~/bn/~/mean_ema/average 1x3", "state/a/~/bn/~/var_ema/average 1x3"),
        (("a/~/bn", "state/a/~/bn/~/mean_ema/average", "state/a/~/bn/~/var_ema/average", "params/a/~/bn/scale", None,
          None),),
    ),
    "Keras, by path": Written(
        "keras",
        ("sequential/dense/kernel 3x3", *(f"sequential/bn/{word}" for word in _GAMMA), "sequential/scaling/mean",
         "sequential/scaling/variance", "sequential/ln/gamma", "sequential/ln/beta"),
        (_layer("sequential/bn", "sequential/bn/{}", *_GAMMA, None),),
        _KERAS + "state = {weight.path: array(weight) for weight in net.weights}",
    ),
    "Keras, its trees": Written(
        "keras",
        ("trainable_variables/s/bn/gamma", "trainable_variables/s/bn/beta", "non_trainable_variables/s/bn/moving_mean",
         "non_trainable_variables/s/bn/moving_variance", "non_trainable_variables/s/scaling/mean"),
        (("s/bn", "non_trainable_variables/s/bn/moving_mean", "non_trainable_variables/s/bn/moving_variance",
          "trainable_variables/s/bn/gamma", "trainable_variables/s/bn/beta", None),),
        _KERAS.replace("Sequential([", "Sequential(name='s', layers=[") + "state = {}\nnet.compile('adam', 'mse')\n"
        "def collect(tree, path):\n    for key, value in tree.items():\n"
        "        name = (*path, key)\n"
        "        collect(value, name) if isinstance(value, dict) else state.update({'/'.join(name): value})\n"
        "collect(net.get_state_tree(), ())",
    ),
    "Keras, .weights.h5": Written(
        "keras",
        ("layers/dense/vars/0 3x3", "layers/dense/vars/1", *(f"layers/batch_normalization/vars/{at}" for at in range(4)),
         "layers/layer_normalization/vars/0", "layers/layer_normalization/vars/1"),
        (_layer("layers/batch_normalization", "layers/batch_normalization/vars/{}", "2", "3", "0", "1", None),),
        _KERAS + "import h5py, tempfile\nfile = tempfile.mkdtemp() + '/net.weights.h5'\nnet.save_weights(file)\nstate = {}\n"
        "h5py.File(file).visititems(lambda name, item: state.update({name: item[()]}) if hasattr(item, 'shape') else None)",
    ),
    "Keras on torch": Written(
        "keras",
        tuple(f"_torch_params.sequential/bn/{word}" for word in _GAMMA),
        (_layer("_torch_params.sequential/bn", "_torch_params.sequential/bn/{}", *_GAMMA, None),),
    ),
    "TensorFlow": Written(
        "tensorflow-fused",
        (*(f"bn/{word}:0" for word in _GAMMA), *(f"bn/{word}/ExponentialMovingAverage:0" for word in _GAMMA)),
        (_layer("bn", "bn/{}:0", *_GAMMA, None),
         _layer("bn/ExponentialMovingAverage", "bn/{}/ExponentialMovingAverage:0", *_GAMMA, None)),
        "import tensorflow as tf\n"
        f"own = [tf.Variable(tf.ones(3), name='bn/' + word) for word in {_GAMMA}]\n"
        "average = tf.train.ExponentialMovingAverage(0.99)\naverage.apply(own)\n"
        "state = {v.name: v.numpy() for v in [*own, *map(average.average, own)]}",
    ),
    "TensorFlow, a checkpoint": Written(
        "keras",
        tuple(f"model/bn/{word}/.ATTRIBUTES/VARIABLE_VALUE" for word in _GAMMA),
        (_layer("model/bn", "model/bn/{}/.ATTRIBUTES/VARIABLE_VALUE", *_GAMMA, None),),
        "import tempfile; import tensorflow as tf\n"
        "net = tf.Module(); net.bn = tf.Module()\n"
        f"for word in {_GAMMA}:\n    setattr(net.bn, word, tf.Variable(tf.ones(3), name=word))\n"
        "reader = tf.train.load_checkpoint(tf.train.Checkpoint(model=net).save(tempfile.mkdtemp() + '/net'))\n"
        "state = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map() if key.startswith('model')}",
    ),
    "TensorFlow 1, averages of moments": Written(
        "tensorflow-fused",
        ("blk/bn/beta:0", "blk/bn/gamma:0", "blk/bn/blk/bn/moments/Squeeze/ExponentialMovingAverage:0",
         "blk/bn/blk/bn/moments/Squeeze_1/ExponentialMovingAverage:0"),
        (("blk/bn", "blk/bn/blk/bn/moments/Squeeze/ExponentialMovingAverage:0",
          "blk/bn/blk/bn/moments/Squeeze_1/ExponentialMovingAverage:0", "blk/bn/gamma:0", "blk/bn/beta:0", None),),
        "import tensorflow as tf\nv1 = tf.compat.v1\nwith tf.Graph().as_default():\n"
        "    x = v1.placeholder(tf.float32, [4, 3])\n    with v1.variable_scope('blk/bn'):\n"
        "        v1.get_variable('beta', [3]), v1.get_variable('gamma', [3])\n"
        "        tf.train.ExponentialMovingAverage(0.9).apply(list(tf.nn.moments(x, [0], name='moments')))\n"
        "    state = {v.name: np.ones(v.shape.as_list(), 'float32') for v in v1.global_variables()}",
    ),
    "ONNX from torch": Written(
        "onnx",
        tuple(f"bn.{word}" for word in _TORCH[:4]),
        (_layer("bn", "bn.{}", *_TORCH[:4], None),),
    ),
    "MXNet, exported": Written(
        "paper",
        ("arg:dense0_weight 3x3", "arg:dense0_bias", "arg:batchnorm0_gamma", "arg:batchnorm0_beta",
         "aux:batchnorm0_running_mean", "aux:batchnorm0_running_var"),
        (("batchnorm0", "aux:batchnorm0_running_mean", "aux:batchnorm0_running_var", "arg:batchnorm0_gamma",
          "arg:batchnorm0_beta", None),),
    ),
    "MXNet, Gluon": Written(
        "consistent_biased",
        ("0.weight 3x3", "0.bias", "1.gamma", "1.beta", "1.running_mean", "1.running_var"),
        (("1", "1.running_mean", "1.running_var", "1.gamma", "1.beta", None),),
    ),
    "MXNet, a symbol": Written(
        "consistent_biased",
        ("bn0_gamma", "bn0_beta", "bn0_moving_mean", "bn0_moving_var"),
        (("bn0", "bn0_moving_mean", "bn0_moving_var", "bn0_gamma", "bn0_beta", None),),
    ),
    "the lecture's": Written(
        "karpathy",
        tuple(f"layers.2.{word}" for word in ("gamma", "beta", "running_mean", "running_var")),
        (_layer("layers.2", "layers.2.{}", "running_mean", "running_var", "gamma", "beta", None),),
    ),
    "Chainer": Written(
        "paper",
        ("bn/gamma", "bn/beta", "bn/avg_mean", "bn/avg_var", "bn/N -"),
        (("bn", "bn/avg_mean", "bn/avg_var", "bn/gamma", "bn/beta", "bn/N"),),
    ),
}  # fmt: skip

for _name, _case in list(WRITTEN.items()):
    if _case.program:
        WRITTEN[_name] = Written(_case.source, _case.keys, _case.layers, "import numpy as np\n" + _SEEN + _case.program)
