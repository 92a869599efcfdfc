"""Errors of correlated series against series whose error is known."""

import numpy as np
import pytest
from helpers.series import ar1, healthy
from scipy import stats

from ferminet_core.analysis import statistics


def exact_error(phi: float, n_samples: int) -> float:
    """Standard error of the mean of `ar1`, with its finite-size terms."""
    lags = np.arange(1, n_samples)
    factor = 1.0 + 2.0 * np.sum((1.0 - lags / n_samples) * phi**lags)
    return float(np.sqrt(factor / (1.0 - phi**2) / n_samples))


@pytest.mark.parametrize(
    ("phi", "n_samples"), [(0.0, 1000), (0.3, 1000), (2 / 3, 1000), (0.8, 4000), (0.9, 8000)]
)
def test_reblocked_error_is_right_and_the_interval_covers(phi: float, n_samples: int) -> None:
    n_series = 400
    results = [statistics.reblock(x) for x in ar1(phi, n_samples, n_series, seed=7)]
    errors = np.array([r.error for r in results])
    expected = exact_error(phi, n_samples)
    # A finite block keeps a bias of about -tau / (4 block) (4 % at most for these lengths); the
    # scatter of single errors, up to 20 %, averages to 1 %.
    assert np.mean(errors) == pytest.approx(expected, rel=0.06)
    # Its own estimate of its scatter. A choice of the block size from the data adds 1.5 %: given
    # the error of one size, that of twice the size has the same mean (independent blocks) and twice
    # the variance. The bias grows from size to size, which adds up to 4 %, and series without a
    # plateau add 2 %. The scatter of 400 errors is itself known to 1 / sqrt(800) = 3.5 %; four of
    # it.
    scatter = np.std(errors) / np.mean([r.error_error for r in results])
    assert 0.86 < scatter < 1.08 * 1.14
    # The plateau is lost where the largest block fails: for 1000 samples with tau = 5, where 15
    # blocks of 64 have 64^3 / 2000 < (error_64 / error_1)^4, chi^2 with 14 degrees of freedom is
    # 2.3 times its mean. The probability is 0.5 % or less: 2 of 400, more than 8 once in
    # 4000 cases.
    assert sum(not r.plateau_found for r in results) <= 8
    # Coverage of the 95 % interval with Student's t. Binomial scatter over 400 series: 1.1 %;
    # the bias of 4 % above costs another 0.8 %: within 0.95 -0.045 +0.033 (three sigma).
    limits = [stats.t.ppf(0.975, r.n_blocks - 1) * r.error for r in results]
    covered = np.mean(np.abs([r.mean for r in results]) < limits)
    assert 0.905 <= covered <= 0.983


def test_naive_error_would_fail_the_same_test() -> None:
    """The oracle can tell: ignoring the correlation covers far less."""
    series = ar1(2 / 3, 1000, 400, seed=7)
    naive = series.std(axis=1) / np.sqrt(1000)
    # P(|z| < 1.96 / sqrt(5)) = 0.62
    assert np.mean(np.abs(series.mean(axis=1)) < 1.96 * naive) < 0.75


def test_white_noise_and_shift_and_scale() -> None:
    x = np.random.default_rng(3).standard_normal(4096)
    result = statistics.reblock(x)
    # Relative scatter of the error 1/sqrt(2 (n_blocks - 1)), about 6 % here; three of it.
    assert result.error == pytest.approx(1 / 64, rel=0.2)
    assert result.level_errors[0] == pytest.approx(x.std(ddof=1) / 64)
    assert result.block * result.n_blocks <= 4096
    shifted = statistics.reblock(1e3 - 2 * x)
    # Rounding at 1000 against deviations of 1.
    assert shifted.error == pytest.approx(2 * result.error, rel=1e-9)
    assert shifted.mean == pytest.approx(1e3 - 2 * x.mean(), abs=1e-10)


def test_a_series_too_short_for_its_correlation_has_no_plateau() -> None:
    flagged = [statistics.reblock(x) for x in ar1(0.98, 200, 50, seed=1)]  # two tau long
    # A plateau needs blocks of 16 whose means have a variance of 0.55 or less; the values within
    # blocks have 2.3. Such a random walk of 200 unit steps has a probability of exp(-46).
    assert not any(r.plateau_found for r in flagged)
    # The fallback is the largest estimate at hand, never below what blocking saw.
    assert all(r.error >= max(r.level_errors) for r in flagged if not r.plateau_found)


@pytest.mark.parametrize("n_samples", [2, 3, 7, 9])
def test_very_short_series_give_an_error_but_no_plateau(n_samples: int) -> None:
    result = statistics.reblock(np.random.default_rng(0).standard_normal(n_samples))
    assert not result.plateau_found
    assert result.error > 0


def test_constant_single_and_bad_series() -> None:
    constant = statistics.reblock(np.full(100, -0.5))
    assert (constant.mean, constant.error, constant.plateau_found) == (-0.5, 0.0, True)
    assert statistics.autocorrelation_time(np.full(100, -0.5)) == 1.0
    single = statistics.reblock(np.array([2.0]))
    assert single.mean == 2.0
    assert np.isnan(single.error)
    assert not single.plateau_found
    for bad in (np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.array([]), np.ones((2, 2))):
        with pytest.raises(ValueError, match="series"):
            statistics.reblock(bad)
        with pytest.raises(ValueError, match="series"):
            statistics.autocorrelation_time(bad)


@pytest.mark.parametrize("phi", [-0.3, 0.0, 0.5, 0.9])
def test_autocorrelation_time_of_known_series(phi: float) -> None:
    n_samples, n_series = 8000, 40
    taus = [statistics.autocorrelation_time(x) for x in ar1(phi, n_samples, n_series, seed=2)]
    tau = (1 + phi) / (1 - phi)
    # Sokal's relative variance 2 (2 W + 1) / n of one estimate with W = 5 tau / 2 (at least 3);
    # the window cuts exp(-5) or less of tau, the subtracted mean tau / n.
    window = max(2.5 * tau, 3.0)
    scatter = np.sqrt(2 * (2 * window + 1) / n_samples / n_series)
    assert np.mean(taus) == pytest.approx(tau, rel=4 * scatter + 0.01)


def test_rhat_of_walkers_that_agree_and_that_do_not() -> None:
    mixed = ar1(0.5, 1000, 64, seed=4).T
    # Expected excess (tau - 1) / (2 n) = 2 / 1000 for halves of 500 samples. The variance of their
    # 128 means, 3 / 500 of that within, scatters by 1 / 8: R-hat by 0.0004. Five of it.
    assert statistics.split_rhat(mixed) == pytest.approx(1.002, abs=0.002)
    # Two groups at +-1 next to a variance W = 1/(1 - phi^2) = 4/3 within each:
    # R^2 = 1 - 1 / 500 + (128 / 127 + tau W / 500) / W. The products of +-1 with the noise of the
    # means, sqrt(tau W / 500) = 0.09, scatter their variance by 2 * 0.09 / sqrt(128) = 0.016; W
    # scatters by 0.7 %. Both make 0.4 % of R-hat; four of it.
    within, noise = 4 / 3, 3 * 4 / 3 / 500
    apart = mixed + np.where(np.arange(64) < 32, 1.0, -1.0)
    expected = np.sqrt(1 - 1 / 500 + (128 / 127 + noise) / within)
    assert statistics.split_rhat(apart) == pytest.approx(expected, rel=0.016)
    # A common drift shows because each walker's halves are compared. Their means lie at +-1, and
    # the drift adds 2^2 / 12 to the variance within.
    drift = mixed + np.linspace(-2, 2, 1000)[:, None]
    expected = np.sqrt(1 - 1 / 500 + (128 / 127 + noise) / (within + 1 / 3))
    assert statistics.split_rhat(drift) == pytest.approx(expected, rel=0.016)


def test_rhat_of_degenerate_series() -> None:
    assert statistics.split_rhat(np.ones((10, 3))) == 1.0
    assert statistics.split_rhat(np.ones((10, 2)) * [1.0, 2.0]) == np.inf
    assert np.isnan(statistics.split_rhat(np.ones((3, 2))))
    with pytest.raises(ValueError, match="finite"):
        statistics.split_rhat(np.full((10, 2), np.nan))


def test_bootstrap_error_is_the_standard_error_over_walkers() -> None:
    means = np.random.default_rng(5).standard_normal(400)
    error = statistics.bootstrap_error(means, np.random.default_rng(0), n_resamples=4000)
    # 4000 resamples: 1.1 % scatter; four of it.
    assert error == pytest.approx(means.std(ddof=1) / 20, rel=0.045)
    assert np.isnan(statistics.bootstrap_error(means[:1], np.random.default_rng(0)))
    # 0, 1/2 and 1 with weights 1/4, 1/2, 1/4: the same scatter or less.
    few = statistics.bootstrap_error(np.array([0.0, 1.0]), np.random.default_rng(0), 4000)
    assert few == pytest.approx(0.5, rel=0.06)  # std(ddof=1) / sqrt(2), not 0.35


def test_summary_of_a_healthy_series() -> None:
    energies = healthy()
    result = statistics.summarise_energy(energies, seed=1)
    expected = 0.1 * exact_error(0.5, 1000) / 8
    assert result.flags == []
    assert (result.n_nonfinite, result.n_outliers, result.n_frozen) == (0, 0, 0)
    assert abs(result.mean + 1.0) < 4 * expected
    # Relative scatter: 1/sqrt(2 (n_blocks - 1)) <= 0.19 for at least 15 blocks; three of it.
    assert result.error == pytest.approx(expected, rel=0.57)
    # 64 walkers: 9 % scatter; four of it.
    assert result.error_bootstrap == pytest.approx(expected, rel=0.36)
    # Sokal's scatter with W = 7.5 and n = 1000 is 18 %; three of it.
    assert result.tau == pytest.approx(3.0, rel=0.54)
    assert result.variance == pytest.approx(energies.var())
    assert result == statistics.summarise_energy(energies, seed=1)


def test_healthy_series_are_hardly_ever_flagged() -> None:
    # The likeliest false flag is a bootstrap error twice the reblocked one: chi^2 with 30 degrees
    # of freedom below a quarter of its mean, or below a third with the bootstrap's own scatter of
    # 9 %. Its probability and that of the others is below 1e-3: two of 40 then have 8e-4.
    flagged = [bool(statistics.summarise_energy(healthy(seed=s), s).flags) for s in range(40)]
    assert sum(flagged) <= 1


def test_walkers_stuck_in_two_modes_are_seen_by_the_bootstrap_alone() -> None:
    # 0.2 hartree apart with a spread of 0.1, or 0.04 apart, which is too little for R-hat. Neither
    # leaves a trace in the series of means over walkers, whose reblocked error stays the same.
    shift = np.where(np.arange(256) < 128, 0.1, -0.1)
    energies = healthy(2000, 256) + shift
    apart = statistics.summarise_energy(energies, seed=1)
    together = statistics.summarise_energy(energies - shift, seed=1)
    assert apart.error == pytest.approx(together.error, rel=1e-6)
    # Halves at +-0.1: standard error over walkers 0.1 / 16 next to 0.0004. Resampling scatters by
    # 1 / sqrt(2 * 1000) = 2 % or less.
    assert apart.error_bootstrap == pytest.approx(0.1 / 16, rel=0.15)
    assert any("stuck in different regions" in flag for flag in apart.flags)
    assert apart.rhat > 1.1 > together.rhat
    assert any("R-hat" in flag for flag in apart.flags)
    # Halves at +-0.02: 1 + 0.02^2 / (2 * 0.0133) = 1.015 in R-hat, and 0.02 / 16 over walkers, 4.5
    # times the reblocked error, where twice is the limit.
    slight = statistics.summarise_energy(energies - 0.8 * shift, seed=1)
    assert slight.rhat < statistics.RHAT_LIMIT
    assert any("stuck in different regions" in flag for flag in slight.flags)


def test_frozen_walkers_are_counted_and_flagged() -> None:
    energies = healthy()
    energies[:, [3, 10]] = energies[0, [3, 10]]
    result = statistics.summarise_energy(energies, seed=1)
    assert result.n_frozen == 2
    assert "2 of 64 walkers never moved" in result.flags
    # An exact eigenstate has the same local energy everywhere; nothing is frozen.
    exact = statistics.summarise_energy(np.full((100, 8), -0.5), seed=1)
    assert exact.n_frozen == 0
    assert exact.error == 0.0
    assert exact.flags == []


def test_non_finite_energies_are_masked_counted_and_flagged() -> None:
    clean = healthy()
    energies = clean.copy()
    energies[5, 3], energies[6, 3], energies[7, 9] = np.nan, np.inf, -np.inf
    result = statistics.summarise_energy(energies, seed=1)
    assert result.n_nonfinite == 3
    assert result.flags == []  # 5e-5 of all
    # Three of 64 000 values left out, each at most 0.5 hartree from the mean.
    assert result.mean == pytest.approx(clean.mean(), abs=3 * 0.5 / 64000)
    assert np.isfinite([*result[:7]]).all()
    whole_row = clean.copy()
    whole_row[5] = np.nan
    share = statistics.summarise_energy(whole_row, seed=1)
    assert np.isfinite(share.error)
    assert share.sampling_flags == ("64 local energies are not finite",)  # 1e-3
    nothing = statistics.summarise_energy(np.full((10, 4), np.nan), seed=1)
    assert nothing.n_nonfinite == 40
    assert np.isnan(nothing.mean)
    assert nothing.flags == ["no local energy is finite"]


def test_outliers_are_counted_and_stay_in() -> None:
    energies = healthy()
    before = energies.mean()
    energies[100, 5] = -1.0 - 0.5e3  # far beyond 30 mean absolute deviations of 0.09
    energies[200, 6] = -1.0 + 2.0  # 22 of them: a tail
    result = statistics.summarise_energy(energies, seed=1)
    assert result.n_outliers == 1
    assert result.mean == pytest.approx(energies.mean())
    assert result.mean < before - 0.005
    assert any("one outlying local energy" in flag for flag in result.flags)


def test_an_outlier_that_moves_the_mean_by_next_to_nothing_is_no_flag() -> None:
    energies = -1.0 + 1e-2 * (healthy() + 1.0)
    energies[100, 5] = -1.0 - 8.0  # 0.125 mEh of the mean over 64 walkers and 1000 samples
    result = statistics.summarise_energy(energies, seed=1)
    assert result.n_outliers == 1
    assert result.error < 2 * 8.0 / energies.size  # so that it does make up much of the error
    assert not any("outlying" in flag for flag in result.flags)


def test_frozen_walkers_are_those_whose_energy_stays_over_a_whole_window() -> None:
    energies = np.random.default_rng(0).normal(size=(40, 5))
    energies[10:20, 1] = 0.5  # ten equal records in a row
    energies[10:19, 2] = 0.5  # nine
    energies[:, 3] = np.nan  # no number equals itself here
    energies[::2, 4] = 0.5  # equal, but not in a row
    assert statistics.frozen_walkers(energies, 10) == 1
    assert statistics.frozen_walkers(energies, 9) == 2
    assert statistics.frozen_walkers(energies[:5], 10) == 0
