"""Charts of one run say what its artefacts hold, also those of earlier versions."""

import math

import numpy as np
import xarray as xr

from ferminet_core.report import run_charts


def test_the_pretraining_names_its_scatter_where_it_was_measured() -> None:
    series = {"orbital_misfit": [0.2, 0.1], "energy_Eh": [np.nan, -1.0], "error_Eh": [np.nan, 0.1]}
    dataset = xr.Dataset({k: ("step", v) for k, v in series.items()}, attrs={"converged": 1})
    known = run_charts.levels("r", math.nan, [])

    def text(dataset: xr.Dataset) -> str:
        return run_charts.pretraining_charts("r", dataset, known, [])[0].text

    assert text(dataset) == "Misfit 0.1 after 2 iterations; the criterion was met."
    measured = text(dataset.assign_attrs(scatter=0.0612))
    assert measured.endswith(" The scatter of log|psi/psi_HF| was 0.0612.")
