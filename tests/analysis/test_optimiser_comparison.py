"""The comparison of optimisers on energies whose approach to the limit is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ferminet_core.analysis.literature import PublishedEnergies
from ferminet_core.analysis.optimiser_comparison import (
    Trace,
    advantages,
    best_known,
    curve,
    steps_to,
)
from ferminet_core.report import plots


def decaying(steps: int, rate: float, limit: float = -1.0) -> np.ndarray:
    return np.asarray(limit + np.exp(-rate * np.arange(1, steps + 1)))


def published(name: str, kind: str) -> PublishedEnergies:
    return PublishedEnergies(name, name, kind, "", {}, {}, {}, ())


def test_a_curve_is_the_error_between_its_points() -> None:
    found = curve(decaying(1000, 0.01), -1.0)
    assert (np.diff(found.step) > 0).all()
    assert found.step[-1] > 900
    # The median of a monotonic error is that of the middle, or the mean of two about it.
    np.testing.assert_allclose(found.error_Eh, np.exp(-0.01 * found.step), rtol=1e-4)


def test_one_wild_iteration_moves_no_point() -> None:
    energies = decaying(1000, 0.01)
    calm = curve(energies, -1.0)
    energies[500] = 1e6
    # The median of a point of 20 iterations and more moves by one place of an order.
    np.testing.assert_allclose(curve(energies, -1.0).error_Eh, calm.error_Eh, rtol=0.02)


def test_a_target_counts_once_it_is_kept() -> None:
    energies = np.full(1000, -1.0)
    energies[:200] = -0.9
    energies[400:500] = -0.95  # falls back
    found = curve(energies, -1.0)
    # The first point past the iterations that are too high; points are 12 % apart.
    assert 500 <= (steps_to(found, 0.01) or 0) <= 560
    assert 200 <= (steps_to(found, 0.06) or 0) <= 230
    assert steps_to(found, 1.0) == round(found.step[0])
    energies[-100:] = 0.0
    assert steps_to(curve(energies, -1.0), 0.01) is None


def test_the_advantage_is_that_of_the_rates() -> None:
    """Errors that fall four times as fast reach a target after a quarter of the steps."""
    traces = [
        Trace("be", "kfac", decaying(4000, 0.02), seconds=0.3),
        Trace("be", "adam", decaying(4000, 0.005), seconds=0.1),
        Trace("alone", "kfac", decaying(100, 0.02), seconds=0.3),
    ]
    table = advantages(traces, {"be": -1.0, "alone": -1.0})
    assert set(table["geometry"]) == {"be"}
    at = table[np.isclose(table["error_Eh"], 0.003)].set_index("variant")
    steps, seconds = (at[name].astype(float).to_dict() for name in ("steps", "seconds"))
    assert steps["kfac"] == pytest.approx(-np.log(0.003) / 0.02, rel=0.15)
    # Points are a factor 10^(1/20) = 1.12 apart.
    assert steps["adam"] / steps["kfac"] == pytest.approx(4.0, rel=0.15)
    assert seconds["adam"] == pytest.approx(0.1 * steps["adam"])


def test_what_was_not_reached_is_missing() -> None:
    traces = [Trace("be", name, decaying(100, 0.01), 0.1) for name in ("kfac", "adam")]
    table = advantages(traces, {"be": -1.0})
    reached = table.groupby("error_Eh")["steps"].count()
    assert reached.to_dict() == dict.fromkeys(sorted({0.1, 0.03, 0.01, 0.003, 0.0016}), 0)


def test_errors_are_measured_from_the_exact_energy_where_it_is_known() -> None:
    done = pd.DataFrame(
        {
            "geometry": ["be", "be", "h4", "h4", "ne", "ne"],
            "energy_Eh": [-14.66, -14.64, -2.2, -2.1, -128.9, -128.8],
            "ref_best_Eh": [-14.6, -14.6, np.nan, np.nan, -128.94, -128.94],
            "ref_exact_Eh": [-14.667, -14.667, np.nan, np.nan, np.nan, np.nan],
        }
    )
    references = [published("best", "method"), published("exact", "exact")]
    assert best_known(done, references) == {"be": -14.667, "h4": -2.2, "ne": -128.94}


def test_the_picture_has_a_line_per_optimiser_and_axis(tmp_path: Path) -> None:
    traces = [Trace("be", name, decaying(500, 0.01), 0.1) for name in ("kfac", "adam")]
    plots.plot_convergence(traces, {"be": -1.0}, tmp_path)
    picture = (tmp_path / "convergence.svg").read_text()
    for text in ("kfac", "adam", "be: error (mEh)", "iterations", "seconds"):
        assert text in picture
