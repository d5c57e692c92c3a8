import math

import numpy as np
import pytest

from nbnorm.model import schedules
from nbnorm.model.schedules import (
    Constant,
    Cosine,
    Finder,
    LearningRates,
    OneCycle,
    Plateau,
    StepDecay,
    resolve,
)


def test_constant():
    np.testing.assert_array_equal(Constant().rates(0.3, epochs=2, steps=2), [0.3] * 4)


def test_step_decay():
    got = StepDecay(every=1, factor=0.5).rates(0.4, epochs=3, steps=2)
    np.testing.assert_allclose(got, [0.4, 0.4, 0.2, 0.2, 0.1, 0.1])
    thirds = StepDecay().rates(1.0, epochs=7, steps=1)  # every 3 epochs
    np.testing.assert_allclose(thirds, [1, 1, 1, 0.1, 0.1, 0.1, 0.01])


def test_cosine():
    got = Cosine().rates(0.3, epochs=1, steps=4)
    np.testing.assert_allclose(got, [0.3, 0.15 * (1 + math.sqrt(0.5)), 0.15, 0.15 * (1 - math.sqrt(0.5))])
    warm = Cosine(final=0.5, warmup=0.5).rates(0.3, epochs=2, steps=2)
    np.testing.assert_allclose(warm, [0.1, 0.2, 0.3, 0.225])


def test_one_cycle():
    got = OneCycle(start=0.2, warmup=0.4, final=0.1).rates(0.5, epochs=5, steps=2)
    assert got[0] == pytest.approx(0.1)
    assert got[4] == got.max() == pytest.approx(0.5)
    assert (np.diff(got[:5]) > 0).all()
    assert (np.diff(got[4:]) < 0).all()
    assert got[2] == pytest.approx(0.3)  # half way
    assert got[-1] == pytest.approx(0.05 + 0.45 * 0.5 * (1 + math.cos(math.pi * 5 / 6)))


@pytest.mark.parametrize(
    ("warmup", "total", "peak"),
    [
        (0.25, 5, 1),  # of 1.25 steps
        (0.35, 5, 2),  # of 1.75
        (0.25, 10, 2),  # of 2.5: the even one
        (0.75, 2, 1),  # of 1.5: one step is left for the peak
        (0.375, 4, 2),  # of 1.5: the even one
        (0.9, 1, 0),
        (0.0, 3, 0),
        (0.1, 4, 0),
    ],
)
@pytest.mark.parametrize("kind", [Cosine, OneCycle])
def test_the_warm_up_is_the_nearest_number_of_steps(kind, warmup, total, peak):
    rates = kind(warmup=warmup).rates(1.0, epochs=1, steps=total)
    assert rates.argmax() == peak
    assert rates[peak] == 1.0
    if kind is Cosine:
        np.testing.assert_allclose(rates[:peak], np.arange(1, peak + 1) / (peak + 1))


@pytest.mark.parametrize("schedule", [Constant(), StepDecay(), Cosine(warmup=0.3), OneCycle()])
@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 7), (5, 3)])
def test_epochs_put_together_are_the_whole(schedule, epochs, steps):
    rates = schedule.begin(0.1, epochs, steps)
    parts = np.empty((epochs, steps))
    for epoch in range(epochs):
        rates.fill(epoch * steps, parts[epoch])
    np.testing.assert_array_equal(parts.ravel(), schedule.rates(0.1, epochs=epochs, steps=steps))
    assert (parts >= 0).all()
    assert (parts <= 0.1).all()


def follow(rates, values):
    """Return the rate of each epoch whose end brings these values."""
    got = []
    for epoch, value in enumerate(values):
        row = np.empty(1)
        rates.fill(epoch, row)
        got.append(row[0])
        rates.after(epoch + 1, value)
    return got


def test_plateau():
    values = [3.0, 2.0, 2.0, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    got = follow(Plateau(factor=0.5, patience=2, least=0.3).begin(1.0, 10, 1), values)
    np.testing.assert_allclose(got, [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3])
    rising = Plateau("val_accuracy", factor=0.5, patience=1, min_delta=0.1)
    np.testing.assert_allclose(follow(rising.begin(1.0, 4, 1), [0.1, 0.3, 0.35, 0.5]), [1, 1, 1, 0.5])
    never_up = Plateau(patience=1, least=5.0).begin(1.0, 4, 1)
    assert follow(never_up, [1.0, 1.0, 1.0]) == [1.0, 1.0, 1.0]


def test_plateau_goes_on_from_its_state():
    values = [3.0, 3.0, 3.0, math.nan, 3.0, 1.0, 1.0, 1.0]
    whole = follow(Plateau(patience=2).begin(1.0, 8, 1), values)
    first, second = (Plateau(patience=2).begin(1.0, 8, 1) for _ in range(2))
    got = follow(first, values[:4])
    second.restore(first.state())
    assert got + follow(second, values[4:]) == whole


def test_callable():
    got = resolve(lambda step: 1 / (1 + step)).rates(9.0, epochs=1, steps=3)
    np.testing.assert_allclose(got, [1, 1 / 2, 1 / 3])
    with pytest.raises(ValueError, match=r"schedule\(step\) must be finite and at least 0, got -1"):
        resolve(lambda step: -1).rates(1.0, epochs=1, steps=1)


def test_resolve():
    for name, kind in schedules.NAMED.items():
        assert type(resolve(name)) is kind
    cosine = Cosine(0.1)
    assert resolve(cosine) is cosine
    for wrong in ("linear", 3, None, Cosine):
        with pytest.raises(ValueError, match="schedule must be one of 'constant', 'step'"):
            resolve(wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepDecay(every=0), "every must be at least 1, got 0"),
        (lambda: StepDecay(factor=1.0), "factor must be finite and above 0 and below 1"),
        (lambda: Cosine(final=1.5), "final must be"),
        (lambda: Cosine(warmup=1.0), "warmup must be"),
        (lambda: OneCycle(start=0.0), "start must be"),
        (lambda: Plateau(patience=0), "patience must be"),
        (lambda: Plateau(mode="least"), "mode must be one of 'auto', 'min', 'max'"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_monitor():
    with pytest.raises(TypeError, match="monitor must be a name, got int"):
        Plateau(3)


# ----------------------------------------------------------------------------------------------
# The range test
# ----------------------------------------------------------------------------------------------


def test_finder():
    finder = Finder(1e-3, 10.0, 5)
    np.testing.assert_allclose(finder.rates, [1e-3, 1e-2, 1e-1, 1, 10])
    assert [finder.add(loss) for loss in (2.0, 1.0, 1.0)] == [True] * 3
    np.testing.assert_array_equal(finder.result().losses, [2, 1, 1])
    assert not finder.add(1e6)
    assert len(finder.result().rates) == 4
    assert not Finder(1e-3, 10.0, 5).add(math.nan)
    with pytest.raises(ValueError, match="first step is not finite"):
        Finder(1e-3, 10.0, 5).result()


def test_finder_bears_a_single_batch_but_not_an_explosion():
    finder = Finder(1e-6, 10.0, 100)
    assert all(finder.add(loss) for loss in [1.0] * 20 + [20.0] + [1.0] * 20)
    # a mean with weights 0.9**k is four times the least when 1 + 0.1 (m - 1) (1 + .9 + ...) > 4
    assert [finder.add(9.0) for _ in range(6)] == [True] * 4 + [False] * 2


EXPONENTS = np.linspace(-6, 1, 100)


def measured(noise, seed=0, middle=-2.0):
    """Losses of a range test that fall around 10**middle and explode at 1."""
    losses = 2.0 - np.tanh(2.0 * (EXPONENTS - middle)) + np.exp(6.0 * EXPONENTS)
    return LearningRates(10.0**EXPONENTS, losses + noise * np.random.default_rng(seed).normal(size=100))


def test_smoothed_is_a_mean_over_the_neighbours():
    found = measured(0.1)
    weights = np.exp(-0.5 * ((np.arange(100) - 30) / 8.0) ** 2)
    assert found.smoothed[30] == pytest.approx(np.average(found.losses, weights=weights))
    constant = LearningRates(10.0**EXPONENTS, np.full(100, 3.0))  # no bias at the ends
    np.testing.assert_allclose(constant.smoothed, 3.0, rtol=1e-14)


@pytest.mark.parametrize("middle", [-4.0, -3.0, -2.0])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_suggestion_is_where_the_loss_has_fallen(noise, middle):
    for seed in range(20):
        found = measured(noise, seed, middle)
        lowest = found.rates[np.argmin(found.smoothed)]
        assert 10**middle < found.suggestion < min(lowest, 1.0)


def test_first_noise_does_not_decide():
    found = measured(0.0)
    losses = found.losses.copy()
    losses[:3] += [0.0, -1.5, 1.5]
    expected = math.log10(found.suggestion)
    assert math.log10(LearningRates(found.rates, losses).suggestion) == pytest.approx(expected, abs=0.15)


def test_suggestion_of_a_loss_that_never_falls():
    assert LearningRates(np.array([0.1, 1.0]), np.array([1.0, 2.0])).suggestion == pytest.approx(0.01)
    rising = LearningRates(10.0**EXPONENTS, np.exp(EXPONENTS))
    assert rising.suggestion <= rising.rates[20]


def test_learning_rates_plot(tmp_path):
    pytest.importorskip("matplotlib")
    found = LearningRates(np.array([0.01, 0.1, 1.0]), np.array([2.0, 1.0, 3.0]))
    axes = found.plot(tmp_path / "rates.png").axes[0]
    np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), found.smoothed)
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
