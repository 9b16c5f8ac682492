import numpy as np
import pytest

from operandi.stages.filters import FILTERS, filter_projections, filter_taps, that_counts

PITCH = 0.05


@pytest.mark.parametrize("name", FILTERS)
def test_filters_agree_with_a_fourier_filter_of_unlimited_padding(name: str):
    n, padded = 61, 1 << 15
    frequency = np.fft.rfftfreq(padded)
    response = {
        "ramp": np.ones_like(frequency),
        "shepp-logan": np.sinc(frequency),
        "cosine": np.cos(np.pi * frequency),
        "hann": 0.5 * (1 + np.cos(2 * np.pi * frequency)),
    }[name]
    profile = np.random.default_rng(7).normal(size=(2, n, 1))
    transform = np.fft.rfft(profile, padded, axis=1) * (frequency * response)[:, None]
    expected = np.fft.irfft(transform, padded, axis=1)[:, :n] / PITCH
    np.testing.assert_allclose(filter_projections(profile, PITCH, name), expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", FILTERS)
def test_taps_that_are_left_out_are_the_outermost_and_weigh_a_millionth(name: str):
    squares = filter_taps(name, 401, PITCH) ** 2
    kept = that_counts(squares)
    at = np.flatnonzero(kept)
    np.testing.assert_array_equal(kept[at[0] : at[-1] + 1], squares[at[0] : at[-1] + 1])
    assert 0 < squares.sum() - kept.sum() < 1e-6 * squares.sum()
    assert len(at) < np.count_nonzero(squares) / 3


def test_taps_that_all_count_are_all_kept():
    taps = filter_taps("ramp", 21, PITCH)
    np.testing.assert_array_equal(that_counts(taps), taps)
