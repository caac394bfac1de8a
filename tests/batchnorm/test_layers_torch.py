"""The layers beside torch's own: `paper` to the bit on torch's sample inputs, and everything else a drop-in has to do."""

from __future__ import annotations

import copy
import inspect
import io
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing._internal import common_modules

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.batchnorm.layers import BATCHNORM_LAYERS, BatchNorm1d, BatchNorm2d, BatchNorm3d

OURS = dict(zip((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), BATCHNORM_LAYERS, strict=True))
INFOS = [info for info in common_modules.module_db if info.module_cls in OURS]
CASES = [pytest.param(info, dtype, id=f"{info.name}-{dtype}") for info in INFOS for dtype in info.dtypes]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def observed(layer, x, training):
    """Everything a user can see after a step, or the error."""
    layer.train(training)
    x = x.detach().clone().requires_grad_()
    try:
        output = layer(x)
        if output.requires_grad:
            output.backward(torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output))
    except (ValueError, RuntimeError) as error:
        return type(error), str(error)
    gradients = [None if parameter is None else parameter.grad for parameter in (x, layer.weight, layer.bias)]
    return [output, *gradients, layer.running_mean, layer.running_var, layer.num_batches_tracked]


def assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(theirs, tuple):
        assert ours == theirs
        return
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            assert one.stride() == other.stride()
            assert torch.equal(one, other)


def pair(cls, *args, convention="paper", **kwargs):
    """A layer of torch's and ours, with the same parameters, none of them at its default."""
    theirs = cls(*args, **kwargs)
    with torch.no_grad():
        for index, parameter in enumerate(theirs.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=index + 5, dtype=parameter.dtype))
    ours = OURS[cls](*args, convention=convention, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def test_torch_lists_its_three_batchnorm_modules():
    assert {info.module_cls for info in INFOS} == set(OURS)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("info", "dtype"), CASES)
def test_paper_equals_torch_to_the_bit_on_torchs_sample_inputs(info, dtype, training):
    samples = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
    assert len(samples) > 4
    for sample in samples:
        arguments = sample.constructor_input
        ours, theirs = pair(info.module_cls, *arguments.args, **{"dtype": dtype, **arguments.kwargs})
        for step in range(3):
            x = sample.forward_input.args[0] * (step + 1)
            assert_same(observed(ours, x, training), observed(theirs, x, training))
        assert_same(observed(ours, x, False), observed(theirs, x, False))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("info", "dtype"), CASES)
def test_torchs_error_inputs_raise_the_same_error(info, dtype, convention):
    samples = info.module_error_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=True)
    assert samples
    for sample in samples:
        inputs = sample.module_error_input
        layer = OURS[info.module_cls](
            *inputs.constructor_input.args, dtype=dtype, convention=convention, **inputs.constructor_input.kwargs
        )
        with pytest.raises(sample.error_type, match=sample.error_regex):
            layer(*inputs.forward_input.args)


@pytest.mark.parametrize(
    ("cls", "shape"),
    [
        (nn.BatchNorm1d, (1, 3)),
        (nn.BatchNorm2d, (1, 3, 1, 1)),
        (nn.BatchNorm3d, (1, 3, 1, 1, 1)),
        (nn.BatchNorm1d, (4, 5)),
        (nn.BatchNorm1d, (4, 1)),
        (nn.BatchNorm2d, (4, 3)),
        (nn.BatchNorm1d, (4, 3, 2, 2)),
        (nn.BatchNorm3d, (4, 3, 2, 2)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("everything", [False, True])
def test_wrong_inputs_raise_what_torch_raises(cls, shape, training, convention, everything):
    ours, theirs = pair(cls, 3, convention=convention)
    if everything:
        ours.track_all_statistics()
    got, expected = observed(ours, normal(*shape), training), observed(theirs, normal(*shape), training)
    if isinstance(expected, tuple):
        assert got == expected
    else:
        torch.testing.assert_close(got[0], expected[0])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_single_value_per_channel_raises_naming_the_layers_input_shape(convention):
    for size, shape in ((None, (1, 3)), (1, (4, 3)), (2, (5, 3))):
        layer = BatchNorm1d(3, convention=convention, norm_batch_size=size)
        with pytest.raises(
            ValueError,
            match=re.escape(f"Expected more than 1 value per channel when training, got input size {torch.Size(shape)}"),
        ):
            layer(normal(*shape))
        assert torch.equal(layer.running_var, torch.ones(3))
    with pytest.raises(ValueError, match=r"\[4, 3, 1, 1\].*norm_batch_size=1"):
        BatchNorm2d(3, convention=convention, norm_batch_size=1)(normal(4, 3, 1, 1))


def test_wrong_channels_with_ghost_batches_raise_and_are_never_broadcast():
    for affine in (True, False):
        for channels in (1, 2, 6):
            with pytest.raises(RuntimeError):
                BatchNorm1d(3, affine=affine, norm_batch_size=2)(normal(4, channels))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 3, 0, 2)])
@pytest.mark.parametrize("size", [None, 1, 2])
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_empty_batch_is_torchs_empty_batch(convention, shape, size, everything, momentum):
    ours = BatchNorm2d(3, momentum=momentum, convention=convention, norm_batch_size=size)
    if everything:
        ours.track_all_statistics()
    theirs = nn.BatchNorm2d(3, momentum=momentum)
    assert_same(observed(ours, torch.zeros(shape), True), observed(theirs, torch.zeros(shape), True))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 6),
    channels=st.integers(1, 4),
    tail=st.sampled_from([(), (1,), (5,), (2, 3), (1, 2, 2)]),
    momentum=st.sampled_from([0.0, 0.1, 1.0, None]),
    affine=st.booleans(),
    track=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_paper_equals_torch_to_the_bit(n, channels, tail, momentum, affine, track, dtype, seed):
    cls = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[len(tail)]
    ours, theirs = pair(cls, channels, 1e-4, momentum, affine, track, dtype=dtype)
    for training in (True, True, False):
        x = normal(n, channels, *tail, seed=seed, dtype=dtype)
        assert_same(observed(ours, x, training), observed(theirs, x, training))


def test_the_constructor_takes_torchs_arguments_in_torchs_order():
    for theirs, ours in OURS.items():
        expected = list(inspect.signature(theirs).parameters)
        assert list(inspect.signature(ours).parameters)[: len(expected)] == expected
        assert issubclass(ours, theirs)
        assert "convention=inverted" in repr(ours(3, convention="inverted"))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("size", [None, 2])
def test_state_dict_keys_are_torchs_and_copies_keep_everything(convention, everything, size):
    layer = BatchNorm2d(3, convention=convention, norm_batch_size=size)
    if everything:
        layer.track_all_statistics()
    layer(normal(4, 3, 2, 2))
    assert list(layer.state_dict()) == list(nn.BatchNorm2d(3).state_dict())
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for copied in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert repr(copied) == repr(layer)
        for one, other in zip(copied.buffers(), layer.buffers(), strict=True):
            assert torch.equal(one, other)
            assert one is not other
        x = normal(4, 3, 2, 2, seed=1)
        assert torch.equal(copied(x), copy.deepcopy(layer)(x))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_works_as_torchs_does_with_and_without_autocast(convention, affine, size, everything, dtype):
    x = normal(4, 3, 2, 2, dtype=dtype)
    for parameters in (dtype, torch.float32):  # a half layer; a float32 layer fed half activations, as under autocast
        layer = BatchNorm2d(3, affine=affine, convention=convention, norm_batch_size=size, dtype=parameters)
        if everything:
            layer.track_all_statistics()
        output = layer(x.requires_grad_())
        output.float().sum().backward()
        assert output.dtype == dtype
        assert {buffer.dtype for name, buffer in layer.named_buffers() if name.startswith(("ema", "running"))} == {
            parameters
        }
        reference = BatchNorm2d(3, affine=affine, convention=convention, norm_batch_size=size)
        torch.testing.assert_close(output.float(), reference(x.detach().float()), rtol=0.02, atol=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model = nn.Sequential(nn.Conv2d(3, 3, 1), BatchNorm2d(3, affine=affine, convention=convention, norm_batch_size=size))
        output = model(x.detach().float())
        assert output.dtype == torch.bfloat16
        output.float().sum().backward()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_channels_last_keeps_its_format_and_its_values(convention):
    x = normal(4, 3, 5, 5, dtype=torch.float64)
    for size in (None, 2):
        layer = BatchNorm2d(3, dtype=torch.float64, convention=convention, norm_batch_size=size)
        expected = copy.deepcopy(layer)(x)
        output = layer(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
        assert size is not None or output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("size", [None, 2])
def test_two_forwards_before_backward_and_a_retained_graph_do_not_raise(convention, everything, size):
    layer = BatchNorm1d(3, convention=convention, norm_batch_size=size)
    if everything:
        layer.track_all_statistics()
    x = normal(4, 3).requires_grad_()
    loss = layer(x).square().sum() + layer(2 * x).sum()
    loss.backward(retain_graph=True)
    first = x.grad.clone()
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * first)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("affine", [True, False])
def test_gradcheck_and_gradgradcheck(convention, everything, size, affine):
    layer = BatchNorm2d(2, affine=affine, dtype=torch.float64, convention=convention, norm_batch_size=size)
    if everything:
        layer.track_all_statistics()
    x = normal(4, 2, 1, 2, dtype=torch.float64).requires_grad_()
    parameters = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]

    def function(x, *parameters):
        named = dict(zip(("weight", "bias"), parameters, strict=False))
        return torch.func.functional_call(layer, named, (x,))

    assert torch.autograd.gradcheck(function, (x, *parameters))
    assert torch.autograd.gradgradcheck(function, (x, *parameters))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("everything", [False, True])
def test_training_under_no_grad_updates_the_buffers(convention, everything):
    with_grad, without = (BatchNorm1d(3, convention=convention) for _ in range(2))
    for layer in (with_grad, without):
        if everything:
            layer.track_all_statistics()
    x = normal(4, 3)
    expected = with_grad(x)
    with torch.no_grad():
        assert torch.equal(without(x), expected)
    with torch.inference_mode():
        copy.deepcopy(without)(x)
    assert torch.equal(without.running_var, with_grad.running_var)
    assert not torch.equal(without.running_var, torch.ones(3))


@pytest.mark.parametrize("everything", [False, True])
def test_reset_running_stats_starts_every_average_afresh(everything):
    layer = BatchNorm1d(3)
    if everything:
        layer.track_all_statistics()
    layer(normal(4, 3))
    layer.reset_running_stats()
    fresh = BatchNorm1d(3)
    if everything:
        fresh.track_all_statistics()
    for one, other in zip(layer.buffers(), fresh.buffers(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_tools_that_read_every_attribute_or_trace_the_layer_still_work(convention):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNorm2d(4, convention=convention)).eval()
    x = normal(2, 3, 4, 4)
    assert inspect.getmembers(model[1])
    traced = torch.jit.trace(model, x)
    torch.testing.assert_close(traced(x), model(x))
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def assert_compiles(layer, backend, sizes):
    torch._dynamo.reset()
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for step, n in enumerate(sizes):
        results = []
        for function in (compiled, eager):
            x = normal(n, 3, seed=step, dtype=torch.float64).requires_grad_()
            output = function(x)
            output.square().sum().backward()
            results.append((output, x.grad))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        for one, other in zip(layer.buffers(), eager.buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("size", [None, 4])
def test_compiles_without_a_graph_break_and_follows_the_batch_size(convention, everything, size):
    layer = BatchNorm1d(3, dtype=torch.float64, convention=convention, norm_batch_size=size)
    if everything:
        layer.track_all_statistics()
    assert_compiles(layer, "aot_eager", (8, 6, 10, 7))


@pytest.mark.slow
@pytest.mark.parametrize(("convention", "everything"), [("inverted", True), ("total", False)])
def test_compiles_to_machine_code(convention, everything):
    layer = BatchNorm1d(3, dtype=torch.float64, convention=convention)
    if everything:
        layer.track_all_statistics()
    assert_compiles(layer, "inductor", (8, 6))


def test_a_group_size_below_one_is_refused():
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"norm_batch_size: {size} .*1 or more"):
            BatchNorm3d(3, norm_batch_size=size)
