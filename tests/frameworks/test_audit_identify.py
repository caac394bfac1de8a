"""Identification on NumPy layers written here, some with planted oddities; no framework is involved."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.frameworks.audit.behaviour import Behaviour, identify
from bnstudy.frameworks.audit.experiment import MOMENTA, Kind, Stored, observe
from bnstudy.frameworks.audit.observations import Observations

AXES = (0, 2, 3)
NAMES = {
    ("biased", "unbiased"): "paper",
    ("unbiased", "unbiased"): "consistent_unbiased",
    ("biased", "biased"): "consistent_biased",
    ("unbiased", "biased"): "inverted",
}


@dataclass(frozen=True)
class Plan:
    """What a NumPy layer does; every field is one place where a layer may be odd."""

    normalize: str = "biased"
    accumulate: str = "biased"
    eps: float = 1e-5
    eval_eps: float | None = None
    place: str = "inside"
    eval_place: str | None = None
    default: float = 0.1
    argument_weighs: str = "new"
    averaged: str = "variance"
    use: str = "variance"
    schedule: str = "constant"
    swap_mean: bool = False
    stored_in_training: bool = False
    centre: bool = True
    squash: bool = False
    factor_at_inference: float = 1.0
    bessel_by: str = "m"
    shift: float = 0.0
    constant: float | None = None
    mean_at_inference: float = 1.0
    correct_at_inference: str = ""


class NumpyLayer:
    """BatchNorm in float32, written from the formulas of docs/method.md, with the plan's deviations."""

    def __init__(self, plan: Plan, channels: int, momentum: float | None) -> None:
        argument = plan.default if momentum is None else momentum
        self.plan, self.alpha, self.t = plan, argument if plan.argument_weighs == "new" else 1 - argument, 0
        zero_start = plan.schedule == "bias-corrected"
        self.mean = np.zeros(channels, np.float32)
        self.var = np.zeros(channels, np.float32) if zero_start else np.ones(channels, np.float32)
        self.gamma = np.linspace(0.5, 2, channels, dtype=np.float32)
        self.beta = np.full(channels, plan.shift, np.float32)

    def _divide(self, x, mean, var, eps, place):
        x, mean, var = x, mean[:, None, None], var[:, None, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            if place == "inside":
                y = (x - mean) / np.sqrt(var + np.float32(eps))
            elif place == "outside":
                y = (x - mean) / (np.sqrt(var) + np.float32(eps))
            else:
                y = (x - mean) / np.sqrt(np.maximum(var, np.float32(eps)))
        y = np.tanh(y) if self.plan.squash else y
        return np.asarray(self.gamma[:, None, None] * y + self.beta[:, None, None], np.float32)

    def train(self, x):
        plan = self.plan
        m = x[:, 0].size
        count = m if plan.bessel_by == "m" else x.shape[0]
        c = np.float32(count / (count - 1)) if count > 1 else np.float32(np.nan)
        c = c if plan.constant is None else np.float32(plan.constant)
        mean, biased = x.mean(AXES), x.var(AXES)
        used = {"biased": biased, "unbiased": c * biased}
        y = self._divide(x, mean if plan.centre else 0 * mean, used[plan.normalize], plan.eps, plan.place)
        if plan.stored_in_training:
            y = self._divide(x, self.mean, self.var, plan.eps, plan.place)
        self.t += 1
        alpha = {
            "constant": self.alpha,
            "cumulative": 1 / self.t,
            "first": 1.0 if self.t == 1 else self.alpha,
            "bias-corrected": self.alpha / (1 - (1 - self.alpha) ** self.t),
        }[plan.schedule]
        f = {
            "variance": used[plan.accumulate],
            "std": np.sqrt(used[plan.accumulate]),
            "second": biased + mean**2,
            "about": biased + (mean - self.mean) ** 2,
        }[plan.averaged]
        alpha = np.float32(alpha)
        self.var = (1 - alpha) * self.var + alpha * f
        weight = 1 - alpha if plan.swap_mean else alpha
        self.mean = (1 - weight) * self.mean + weight * mean
        return y

    def evaluate(self, x):
        plan = self.plan
        var = self.var**2 if plan.use == "std" else self.var
        remaining = np.float32(1 - (1 - self.alpha) ** self.t) if self.t else np.float32(1)
        mean = np.float32(plan.mean_at_inference) * self.mean
        if plan.correct_at_inference:
            var = var / remaining
            mean = mean / remaining if plan.correct_at_inference == "both" else mean
        eps, place = plan.eps if plan.eval_eps is None else plan.eval_eps, plan.eval_place or plan.place
        return self._divide(x, mean, np.float32(plan.factor_at_inference) * var, eps, place)

    def read(self):
        return Stored(self.mean.copy(), self.var.copy(), self.gamma, self.beta)

    def write(self, mean, variance):
        self.mean, self.var = mean, variance


def kind(plan: Plan) -> Kind:
    return Kind(lambda channels, momentum: NumpyLayer(plan, channels, momentum), plan.default)


def found(plan: Plan, seed: int = 0) -> Behaviour:
    return identify(observe(kind(plan), seed))


@pytest.mark.parametrize("pair", NAMES)
def test_each_convention_gets_its_name(pair):
    behaviour = found(Plan(*pair))
    assert behaviour.convention == NAMES[pair]
    assert (behaviour.normalize, behaviour.accumulate) == pair
    assert behaviour.oddities == ()
    assert behaviour.residual < 1e-5
    assert behaviour.runner_up > 1000 * behaviour.residual  # hypotheses are apart by far more than rounding


@settings(max_examples=60, deadline=None)
@given(
    pair=st.sampled_from(list(NAMES)),
    eps=st.floats(-8, -2).map(lambda power: 10.0**power),
    alpha=st.floats(0.002, 0.49),
    weighs=st.sampled_from(["new", "old"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_convention_momentum_and_eps_are_recovered_whatever_they_are(pair, eps, alpha, weighs, seed):
    default = alpha if weighs == "new" else 1 - alpha
    behaviour = found(Plan(*pair, eps=eps, default=default, argument_weighs=weighs), seed)
    assert behaviour.convention == NAMES[pair]
    assert behaviour.weight == pytest.approx(alpha, rel=1e-3)
    assert behaviour.eps == pytest.approx(eps, rel=1e-3)
    assert behaviour.eval_eps == pytest.approx(eps, rel=1e-3)
    assert behaviour.momentum_means == ("new batch" if weighs == "new" else "old value")
    assert behaviour.momentum_default == pytest.approx(default, rel=1e-4)


def test_a_layer_that_starts_with_other_gain_and_shift_is_no_different():
    behaviour = found(Plan("biased", "unbiased", shift=0.3))
    assert (behaviour.convention, behaviour.eps, behaviour.eval_eps) == ("paper", 1e-5, 1e-5)


PLANTED = {
    "averages the standard deviation": Plan(averaged="std", use="std"),
    "stores a standard deviation": Plan(averaged="std", use="std"),
    "momentum swapped: the new batch weighs 0.9": Plan(argument_weighs="old"),
    "momentum swapped between mean and variance": Plan(swap_mean=True),
    "ε outside the root in training": Plan(place="outside"),
    "ε outside the root at inference": Plan(eval_place="outside"),
    "ε is a floor in training": Plan(place="floor"),
    "ε is a floor at inference": Plan(eval_place="floor"),
    "ε is 1e-05 in training and 0.001 at inference": Plan(eval_eps=1e-3),
    "training divides by N-1 samples, not by m-1 values": Plan("unbiased", "biased", bessel_by="N"),
    "stores the variance over N-1 samples, not over m-1 values": Plan("biased", "unbiased", bessel_by="N"),
    "averages the second moment about zero": Plan(averaged="second"),
    "averages the variance about the stored mean": Plan(averaged="about"),
    "training normalises by the stored statistics": Plan(stored_in_training=True),
    "training does not centre on the mean that belongs to its variance": Plan(centre=False),
    "the training output is no affine function of the input within a channel": Plan(squash=True),
    "training scales the batch variance by 1.143": Plan("unbiased", "biased", constant=8 / 7),
    "stores the batch variance times 1.143": Plan("biased", "unbiased", constant=8 / 7),
    "inference scales the running statistics by an unknown factor": Plan(mean_at_inference=0.0),
    "inference scales the stored variance by 1.143": Plan(factor_at_inference=8 / 7),
}


@pytest.mark.parametrize(("said", "plan"), PLANTED.items(), ids=PLANTED)
@pytest.mark.parametrize("pair", NAMES, ids=NAMES.values())
def test_a_planted_oddity_is_named_and_never_taken_for_one_of_the_four(said, plan, pair):
    fixed = plan.bessel_by == "N" or plan.constant is not None
    odd = plan if fixed else replace(plan, normalize=pair[0], accumulate=pair[1])
    behaviour = found(odd)
    assert behaviour.convention == "unknown"
    assert said in behaviour.oddities


@settings(max_examples=60, deadline=None)
@given(
    pair=st.sampled_from(list(NAMES)),
    eps=st.floats(-8, -2).map(lambda power: 10.0**power),
    alpha=st.floats(0.002, 0.45),
    odd=st.sampled_from(
        [
            {"place": "outside"},
            {"eval_place": "outside"},
            {"place": "floor"},
            {"averaged": "std", "use": "std"},
            {"averaged": "std"},
            {"argument_weighs": "old"},
            {"swap_mean": True},
            {"factor_at_inference": 1.01},
            {"stored_in_training": True},
            {"averaged": "about"},
        ]
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_oddity_passes_for_one_of_the_four_whatever_the_eps_and_the_momentum(pair, eps, alpha, odd, seed):
    behaviour = found(Plan(*pair, eps=eps, default=alpha, **odd), seed)
    assert behaviour.convention == "unknown"
    assert behaviour.oddities


def test_a_standard_deviation_averaged_but_used_as_a_variance_is_unknown():
    assert found(Plan(averaged="std", use="variance")).convention == "unknown"


@pytest.mark.parametrize(
    ("plan", "schedule", "correction"),
    [
        (Plan(schedule="cumulative"), "cumulative", "none"),
        (Plan(schedule="first"), "first batch replaces the start", "none"),
        (Plan(schedule="bias-corrected"), "bias-corrected", "in the stored average"),
        (Plan(correct_at_inference="both"), "constant", "at inference"),
    ],
)
def test_schedules_of_the_average_are_told_apart_and_keep_the_convention(plan, schedule, correction):
    behaviour = found(plan)
    assert (behaviour.convention, behaviour.schedule) == ("consistent_biased", schedule)
    assert behaviour.bias_correction == correction


def test_a_correction_at_inference_that_forgets_the_mean_is_unknown():
    assert found(Plan(correct_at_inference="variance")).convention == "unknown"


def test_starting_values_and_the_single_value_case_are_reported():
    behaviour = found(Plan())
    assert (behaviour.start_mean, behaviour.start_variance) == (0.0, 1.0)
    assert behaviour.single == "output 0, variance 0 taken in"
    assert found(Plan(accumulate="unbiased")).single.endswith("variance becomes NaN")


class Refusing(NumpyLayer):
    def train(self, x):
        if x[:, 0].size == 1:
            raise ValueError("more than one value, please\nsecond line")
        return super().train(x)


def test_a_layer_that_refuses_one_value_is_said_to_refuse():
    kind = Kind(lambda channels, momentum: Refusing(Plan(), channels, momentum), 0.1)
    assert identify(observe(kind)).single == "refuses (ValueError)"


class ReadOnly(NumpyLayer):
    def write(self, mean, variance):
        raise NotImplementedError


def test_statistics_that_cannot_be_written_leave_the_inference_eps_unmeasured():
    kind = Kind(lambda channels, momentum: ReadOnly(Plan(), channels, momentum), None, has_momentum=False)
    behaviour = identify(observe(kind))
    assert behaviour.convention == "consistent_biased"
    assert behaviour.eval_place == "not measured"
    assert math.isnan(behaviour.eval_eps)
    assert behaviour.momentum_means == "no argument"


class Broken(NumpyLayer):
    def train(self, x):
        y = super().train(x)
        self.var = self.var * np.nan
        return y


def test_a_layer_that_stores_nan_is_unknown():
    behaviour = identify(observe(Kind(lambda channels, momentum: Broken(Plan(), channels, momentum), 0.1)))
    assert behaviour.convention == "unknown"
    assert "stores values that are not finite" in behaviour.oddities


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, None])
def test_output_that_says_nothing_is_unknown_and_breaks_nothing(value):
    class Silent(NumpyLayer):
        def train(self, x):
            super().train(x)
            return self.evaluate(x)

        def evaluate(self, x):
            return np.random.default_rng(x.size).standard_normal(x.shape) if value is None else np.full_like(x, value)

    behaviour = identify(observe(Kind(lambda channels, momentum: Silent(Plan(), channels, momentum), 0.1)))
    assert (behaviour.convention, behaviour.normalize) == ("unknown", "unknown")
    assert behaviour.accumulate == "biased"


class Leaking(NumpyLayer):
    def evaluate(self, x):
        y = super().evaluate(x)
        self.var = 0.9 * self.var + 0.1 * x.var(AXES)
        return y


def test_a_layer_that_goes_on_averaging_in_evaluation_mode_is_unknown():
    assert (
        identify(observe(Kind(lambda channels, momentum: Leaking(Plan(), channels, momentum), 0.1))).convention == "unknown"
    )


def test_observations_survive_the_file(tmp_path):
    seen = observe(kind(Plan()))
    seen.save(tmp_path / "seen.npz")
    again = Observations.load(tmp_path / "seen.npz")
    assert identify(again) == identify(seen)
    assert [run.argument for run in again.momenta] == list(MOMENTA)
    np.testing.assert_array_equal(again.main.outputs, seen.main.outputs)


def test_the_experiment_leaves_the_global_generator_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    observe(kind(Plan()))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
