"""Error bars and health checks of correlated Monte Carlo series (NumPy only).

Sources, cited below by name:
    Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989): reblocking.
    Lee, Conduit, Nemec, Lopez Rios and Drummond, Phys. Rev. E 83, 066706 (2011): the block size.
    Sokal, in Functional Integration (Plenum, 1997): the self-consistent window.
    Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), section 11.4: split R-hat.
    Efron, Ann. Statist. 7, 1 (1979): the bootstrap.
"""

from typing import NamedTuple

import numpy as np

from ferminet_core.units import CHEMICAL_ACCURACY

# With fewer blocks the error's own relative error, 1/sqrt(2 (n - 1)), exceeds a quarter.
MIN_BLOCKS = 8
# Sokal's c: the window is at least c times tau_int (= 1/2 + sum of rho). For an exponential decay
# the sum then lacks a share exp(-5) of tau.
WINDOW_FACTOR = 5.0
# E_L counts as an outlier beyond so many mean absolute deviations from the median. Nodes give E_L
# tails that fall as a power law, so a few outliers are normal; they are only counted.
OUTLIER_DEVIATIONS = 30.0
RHAT_LIMIT = 1.05
# A bootstrap error this much larger than the reblocked one means that walkers disagree.
BOOTSTRAP_RATIO_LIMIT = 2.0
# Share of the error by which one local energy may move the mean. A spike that dominates its series
# gives an error about as large as its own pull; in a healthy series the share is 1/100.
PULL_LIMIT = 0.5
# A pull of less than a tenth of chemical accuracy is not flagged: no curve shows it.
PULL_MATTERS = 0.1 * CHEMICAL_ACCURACY
# Share of the local energies. With a spread of a hartree, leaving out so many moves the mean by
# 0.1 mEh. Fewer are overflows on a node.
MAX_NONFINITE = 1e-4
# Below this spread (relative to |median|) E_L is constant to float32 rounding, as it is for an
# exact eigenstate, and an unchanged value says nothing about the walker.
ROUNDING_SPREAD = 1e-6


class Reblocking(NamedTuple):
    """Mean of a correlated series and its error; units of the series."""

    mean: float
    error: float  # standard error of the mean at the chosen block size
    error_error: float  # standard error of `error`
    block: int  # samples per block
    n_blocks: int  # degrees of freedom of `error` + 1
    plateau_found: bool  # False: `error` is the largest estimate, and may be too small
    level_errors: tuple[float, ...]  # standard error at block sizes 1, 2, 4, ...


class EnergyStatistics(NamedTuple):
    """Statistics of a series of local energies; hartree, variance in hartree squared."""

    mean: float
    error: float  # reblocked standard error of the mean
    error_error: float
    error_bootstrap: float  # from resampling walkers; includes walkers frozen in different modes
    variance: float  # of the local energy
    tau: float  # integrated autocorrelation time in recorded samples
    rhat: float
    n_nonfinite: int
    n_outliers: int
    n_frozen: int  # walkers whose local energy never changed
    n_blocks: int  # of `error`; an interval uses Student's t with one fewer degree of freedom
    plateau_found: bool
    # Flags in plain sentences.
    sampling_flags: tuple[str, ...] = ()  # the walkers do not sample |psi|^2
    error_flags: tuple[str, ...] = ()  # they do, but the error may be wrong

    @property
    def flags(self) -> list[str]:
        """All flags."""
        return [*self.sampling_flags, *self.error_flags]


def reblock(series: np.ndarray) -> Reblocking:
    """Mean and standard error of a correlated series (Flyvbjerg and Petersen 1989).

    Neighbouring samples are averaged pairwise again and again. The block size B is the smallest
    from which on all larger ones fulfil B^3 > 2 n (error_B / error_1)^4 (Lee et al. 2011), which
    balances the bias of short blocks against the noise of few blocks. Only block sizes that leave
    at least `MIN_BLOCKS` blocks are considered; if the largest of them fails, no plateau is
    reported, and the error is the largest of all block sizes' and the one that follows from the
    autocorrelation time.

    Args:
        series: (samples,), in time order.

    Returns:
        The result; of a constant series the error is 0, of a single sample NaN without plateau.

    Raises:
        ValueError: not one-dimensional, empty, or with NaN or infinities.
    """
    series = _checked_series(series)
    n_samples = series.size
    mean = float(series.mean())
    if n_samples == 1:
        return Reblocking(mean, np.nan, np.nan, 1, 1, False, ())
    if np.ptp(series) == 0.0:
        return Reblocking(mean, 0.0, 0.0, 1, n_samples, True, (0.0,))
    errors: list[float] = []
    counts: list[int] = []
    blocks = series - mean  # variances of small deviations, free of cancellation
    while blocks.size >= 2 and (not errors or blocks.size >= MIN_BLOCKS):
        errors.append(float(np.sqrt(blocks.var(ddof=1) / blocks.size)))
        counts.append(blocks.size)
        # With an odd number of blocks the oldest, least equilibrated one goes.
        blocks = blocks[blocks.size % 2 :].reshape(-1, 2).mean(axis=1)
    sizes = 2.0 ** np.arange(len(errors))
    enough = sizes**3 > 2.0 * n_samples * (np.array(errors) / errors[0]) ** 4
    failing = np.flatnonzero(~enough)
    first_good = int(failing[-1]) + 1 if failing.size else 0
    plateau_found = first_good < len(errors) and counts[0] >= MIN_BLOCKS
    level = first_good if plateau_found else int(np.argmax(errors))
    error = errors[level]
    if not plateau_found:
        # Too short for blocks; the windowed sum of correlations sees a little further.
        error = max(error, errors[0] * float(np.sqrt(autocorrelation_time(series))))
    return Reblocking(
        mean=mean,
        error=error,
        error_error=error / float(np.sqrt(2.0 * (counts[level] - 1))),
        block=int(sizes[level]),
        n_blocks=counts[level],
        plateau_found=plateau_found,
        level_errors=tuple(errors),
    )


def autocorrelation_time(series: np.ndarray) -> float:
    """Integrated autocorrelation time tau = 1 + 2 sum_t rho(t), in samples.

    The sum ends at Sokal's self-consistent window, the first t >= 5 max(tau, 1) / 2. The variance
    of the mean is tau times that of as many independent samples.

    Args:
        series: (samples,), in time order.

    Returns:
        tau; 1 for a constant series or a single sample, where it has no meaning. A negative sum
        is returned as it is as long as tau stays positive; the least value is 1 / samples.

    Raises:
        ValueError: not one-dimensional, empty, or with NaN or infinities.
    """
    series = _checked_series(series)
    n_samples = series.size
    if np.ptp(series) == 0.0:
        return 1.0
    deviation = series - series.mean()
    length = 2 ** int(np.ceil(np.log2(2 * n_samples)))  # zero padding: no wrap-around
    power = np.abs(np.fft.rfft(deviation, length)) ** 2
    covariance = np.fft.irfft(power, length)[:n_samples]
    rho = covariance / covariance[0]
    taus = 2.0 * np.cumsum(rho) - 1.0
    # At least three lags, or a series that alternates would be cut off after the first.
    inside = np.arange(n_samples) >= 0.5 * WINDOW_FACTOR * np.maximum(taus, 1.0)
    window = int(np.argmax(inside)) if inside.any() else n_samples - 1
    return float(max(taus[window], 1.0 / n_samples))


def split_rhat(energies: np.ndarray) -> float:
    """Split R-hat over walkers: each walker's series is cut in two and the halves compared.

    R^2 = 1 - 1/n + B / (n W), with W the mean variance within a half and B / n the variance of
    the halves' means (Gelman et al. 2013). Near 1 for walkers that all sample the same
    distribution; independent of which walker moved where.

    Args:
        energies: (samples, walkers), finite.

    Returns:
        R-hat; NaN with fewer than 4 samples or no walker, infinite when walkers that never
        change differ from each other, 1 when nothing varies at all.

    Raises:
        ValueError: not two-dimensional, or with NaN or infinities.
    """
    energies = np.asarray(energies, dtype=np.float64)
    if energies.ndim != 2 or not np.isfinite(energies).all():
        raise ValueError("split_rhat needs a finite array of shape (samples, walkers)")
    half = energies.shape[0] // 2
    if half < 2 or energies.shape[1] == 0:
        return float("nan")
    first, second = energies[:half], energies[-half:]
    means = np.concatenate([first.mean(axis=0), second.mean(axis=0)])
    within = float(np.mean([first.var(axis=0, ddof=1).mean(), second.var(axis=0, ddof=1).mean()]))
    between = float(means.var(ddof=1))
    if within == 0.0:
        return 1.0 if np.ptp(means) == 0.0 else float("inf")
    return float(np.sqrt(1.0 - 1.0 / half + between / within))


def bootstrap_error(
    walker_means: np.ndarray, rng: np.random.Generator, n_resamples: int = 1000
) -> float:
    """Standard error of the mean over walkers, from resampling whole walkers (Efron 1979).

    A walker's mean includes its correlation in time. The error therefore assumes that walkers are
    independent, and nothing about the length of the correlation.

    Args:
        walker_means: (walkers,) mean of each walker's series.
        rng: source of the resamples.
        n_resamples: number of bootstrap samples; 1000 give the error to about 2 %.

    Returns:
        The error, with the factor sqrt(m / (m - 1)) that makes its square unbiased; NaN for
        fewer than two walkers.

    Raises:
        ValueError: not one-dimensional, or with NaN or infinities.
    """
    means = np.asarray(walker_means, dtype=np.float64)
    if means.ndim != 1 or not np.isfinite(means).all():
        raise ValueError("bootstrap_error needs a finite array of shape (walkers,)")
    n_walkers = means.size
    if n_walkers < 2:
        return float("nan")
    deviation = means - means.mean()
    even = np.full(n_walkers, 1.0 / n_walkers)
    # How often each walker is drawn, a hundred resamples at a time to bound the memory.
    resampled = np.concatenate(
        [
            rng.multinomial(n_walkers, even, size=min(100, n_resamples - start)) @ deviation
            for start in range(0, n_resamples, 100)
        ]
    )
    unbiased = np.sqrt(n_walkers / (n_walkers - 1.0))
    return float(np.std(resampled / n_walkers, ddof=1) * unbiased)


def summarise_energy(local_energy: np.ndarray, seed: int) -> EnergyStatistics:
    """Energy, its error, and the flags of a series of local energies.

    Nothing is clipped. Only non-finite values are left out; they are counted, and a share above
    `MAX_NONFINITE` is flagged. An outlier has |E_L - median| > 30 mean absolute deviations from the
    median; outliers are counted and stay in. A walker whose local energy never changes is frozen.

    Args:
        local_energy: (sample, walker) float64, hartree, in time order.
        seed: of the bootstrap.

    Returns:
        The statistics; NaN energies where no value is finite.

    Raises:
        ValueError: not two-dimensional or empty.
    """
    energies = np.asarray(local_energy, dtype=np.float64)
    if energies.ndim != 2 or energies.size == 0:
        raise ValueError("local energies must have the shape (sample, walker), not empty")
    finite = np.isfinite(energies)
    n_nonfinite = int(energies.size - np.count_nonzero(finite))
    values = energies[finite] if n_nonfinite else energies.ravel()
    if values.size == 0:
        return _nothing_finite(n_nonfinite)
    # Walkers with a non-finite value are left out of R-hat, which needs series of equal length.
    rhat = split_rhat(energies[:, finite.all(axis=0)] if n_nonfinite else energies)
    blocking = reblock(_masked_means(energies, finite, axis=1))
    tau = autocorrelation_time(_masked_means(energies, finite, axis=1))
    walker_means = _masked_means(energies, finite, axis=0)
    median = float(np.median(values))
    deviations = np.abs(values - median)
    mean_deviation = float(deviations.mean())
    n_outliers = int(np.count_nonzero(deviations > OUTLIER_DEVIATIONS * mean_deviation))
    varies = mean_deviation > ROUNDING_SPREAD * abs(median)
    n_frozen = _count_frozen(energies) if varies else 0
    result = EnergyStatistics(
        mean=blocking.mean,
        error=blocking.error,
        error_error=blocking.error_error,
        error_bootstrap=bootstrap_error(walker_means, np.random.default_rng(seed)),
        variance=float(values.var()),
        tau=tau,
        rhat=rhat,
        n_nonfinite=n_nonfinite,
        n_outliers=n_outliers,
        n_frozen=n_frozen,
        n_blocks=blocking.n_blocks,
        plateau_found=blocking.plateau_found,
    )
    largest_pull = float(deviations.max()) / values.size
    return result._replace(
        sampling_flags=_sampling_flags(result, energies.shape[1], energies.size),
        error_flags=_error_flags(result, walker_means.size, energies.shape[0], largest_pull),
    )


def _sampling_flags(result: EnergyStatistics, n_walkers: int, n_values: int) -> tuple[str, ...]:
    """Flags that say that the walkers do not sample |psi|^2."""
    flags = []
    if result.n_nonfinite > MAX_NONFINITE * n_values:
        flags.append(f"{result.n_nonfinite} local energies are not finite")
    if result.n_frozen:
        flags.append(f"{result.n_frozen} of {n_walkers} walkers never moved")
    return tuple(flags)


def _error_flags(
    result: EnergyStatistics, n_walkers: int, n_samples: int, largest_pull: float
) -> tuple[str, ...]:
    """Flags that make the error of the energy doubtful.

    Walkers that disagree belong here: each of them samples |psi|^2, but their number in each region
    is not yet that of |psi|^2.
    """
    flags = []
    if not result.plateau_found:
        flags.append(
            f"no plateau of the reblocked error in {n_samples} samples (tau = {result.tau:.3g})"
        )
    if result.rhat > RHAT_LIMIT:
        flags.append(f"R-hat across walkers is {result.rhat:.3f}, above {RHAT_LIMIT}")
    # The difference must also exceed three of its own standard errors.
    noise = np.hypot(result.error_error, result.error_bootstrap / np.sqrt(2.0 * n_walkers))
    excess = result.error_bootstrap - result.error
    if excess > 3.0 * noise and result.error_bootstrap > BOOTSTRAP_RATIO_LIMIT * result.error:
        flags.append(
            f"error from walkers ({1e3 * result.error_bootstrap:.3g} mEh) exceeds the reblocked "
            f"one ({1e3 * result.error:.3g} mEh): walkers are stuck in different regions"
        )
    if result.error > 0.0 and largest_pull > max(PULL_LIMIT * result.error, PULL_MATTERS):
        flags.append("one outlying local energy makes up much of the error; the mean hangs on it")
    return tuple(flags)


def _nothing_finite(n_nonfinite: int) -> EnergyStatistics:
    """The statistics of a series without any finite value."""
    nan = float("nan")
    return EnergyStatistics(
        mean=nan,
        error=nan,
        error_error=nan,
        error_bootstrap=nan,
        variance=nan,
        tau=nan,
        rhat=nan,
        n_nonfinite=n_nonfinite,
        n_outliers=0,
        n_frozen=0,
        n_blocks=0,
        plateau_found=False,
        sampling_flags=("no local energy is finite",),
    )


def _masked_means(energies: np.ndarray, finite: np.ndarray, axis: int) -> np.ndarray:
    """Means along `axis` over finite values; entries without any are left out."""
    counts = np.count_nonzero(finite, axis=axis)
    if counts.min() == energies.shape[axis]:
        return energies.mean(axis=axis)
    sums = np.sum(energies, axis=axis, where=finite)
    return sums[counts > 0] / counts[counts > 0]


def _count_frozen(energies: np.ndarray) -> int:
    """Walkers whose local energy is the same, finite number in every sample."""
    if energies.shape[0] < 2:
        return 0
    return int(np.count_nonzero((energies == energies[0]).all(axis=0)))


def _checked_series(series: np.ndarray) -> np.ndarray:
    """The series in float64."""
    series = np.asarray(series, dtype=np.float64)
    if series.ndim != 1 or series.size == 0:
        raise ValueError(f"a series has one dimension and is not empty, got shape {series.shape}")
    if not np.isfinite(series).all():
        raise ValueError("the series holds NaN or infinities")
    return series


def frozen_walkers(energies: np.ndarray, window: int) -> int:
    """Walkers whose local energy (record, walker) stays the same over `window` records, bit by bit.

    An accepted move changes the energy, so equal energies in a row mean that no move was accepted.
    """
    if len(energies) < window:
        return 0
    same = energies[1:] == energies[:-1]
    # Length of the run of equal neighbours that ends at each record.
    run, longest = np.zeros(energies.shape[1], int), np.zeros(energies.shape[1], int)
    for row in same:
        run = np.where(row, run + 1, 0)
        longest = np.maximum(longest, run)
    return int(np.sum(longest >= window - 1))
