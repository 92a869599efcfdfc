"""What was measured of a group's wavefunction along its parameter, as tables and as a dataset.

Points are energies at geometries that the wavefunction was not trained for, or was. Steps are
differences of the energies of two near geometries from the same walkers: one across each trained
geometry, which gives the slope there, and segments that lead from each to the next.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import xarray as xr

from ferminet_core.inputs.run_spec import GroupSpec

SLOPE, SEGMENT, NEIGHBOURS = "slope", "segment", "neighbours"
_POINTS: Mapping[str, Any] = {
    "value": float,  # of the parameter
    "bond_bohr": float,  # length of the shortest bond
    "energy_Eh": float,
    "error_Eh": float,
    "variance_Eh2": float,
    "tau": float,
    "s2": float,
    "n_samples": int,
    "flags": str,
}
_STEPS: Mapping[str, Any] = {
    "kind": str,
    "first": float,  # trained values of the parameter that a segment lies between; of a slope equal
    "last": float,
    "n_segments": int,  # between first and last
    "start": float,
    "end": float,
    "start_bohr": float,  # lengths of the shortest bond
    "end_bohr": float,
    "difference_Eh": float,  # E(end) - E(start)
    "error_Eh": float,
    "effective": float,  # share of the samples
    "n_samples": int,
    "reason": str,  # why there is no difference
}


class JointCurve(NamedTuple):
    """The measurements of one group.

    group, variant: names; parameter: that varies; trained: its values by run_id of the members
    points, steps: the columns of `_POINTS` and `_STEPS`
    """

    group: str
    variant: str
    parameter: str
    trained: dict[str, float]
    points: pd.DataFrame
    steps: pd.DataFrame

    @classmethod
    def of(cls, spec: GroupSpec, parameter: str, found: xr.Dataset | None = None) -> Self:
        """The measurements in a dataset of `dataset`; none yet without one."""
        trained = {member.run_id: member.parameters[parameter] for member in spec.members}
        tables = (_table(found, "point", _POINTS), _table(found, "step", _STEPS))
        return cls(spec.run_id, spec.variant, parameter, trained, *tables)

    def dataset(self) -> xr.Dataset:
        """Variables "point.<column>" and "step.<column>"."""
        variables = {}
        for name, table in (("point", self.points), ("step", self.steps)):
            for column in table.columns if len(table) else ():
                values = table[column].to_numpy()
                values = values.astype(str) if values.dtype == object else values
                variables[f"{name}.{column}"] = ((name,), values)
        return xr.Dataset(variables)

    def with_point(self, **row: Any) -> Self:
        """With a point in place of any at the same value, in the order of values."""
        others = self.points[self.points["value"] != row["value"]]
        points = _joined(others, row, _POINTS).sort_values("value", ignore_index=True)
        return self._replace(points=points)

    def with_step(self, **row: Any) -> Self:
        """With a step in place of any between the same values."""
        same = (self.steps["kind"] == row["kind"]) & (
            (self.steps["start"] == row["start"]) & (self.steps["end"] == row["end"])
        )
        return self._replace(steps=_joined(self.steps[~same], row, _STEPS))

    def without_segments(self, first: float, last: float) -> Self:
        """Without the segments between two trained values."""
        mine = (self.steps["kind"] == SEGMENT) & (
            (self.steps["first"] == first) & (self.steps["last"] == last)
        )
        return self._replace(steps=self.steps[~mine].reset_index(drop=True))

    def known_differences(self) -> pd.DataFrame:
        """The steps that have a difference."""
        return self.steps[np.isfinite(self.steps["difference_Eh"].to_numpy(float))]

    def neighbours(self) -> list[dict[str, Any]]:
        """E(last) - E(first) of neighbouring trained values whose segments are all there."""
        found = []
        segments = self.known_differences()
        segments = segments[segments["kind"] == SEGMENT]
        for (first, last), rows in segments.groupby(["first", "last"]):
            if len(rows) == rows["n_segments"].iloc[0]:
                found.append(
                    {
                        "kind": NEIGHBOURS,
                        "start": first,
                        "end": last,
                        "difference_Eh": rows["difference_Eh"].sum(),
                        # Each segment has walkers of its own.
                        "error_Eh": float(np.sqrt((rows["error_Eh"] ** 2).sum())),
                        "effective": rows["effective"].min(),
                        "n_samples": rows["n_samples"].sum(),
                    }
                )
        return found


def point_table(curves: Iterable[JointCurve]) -> pd.DataFrame:
    """The columns of curve_points.csv: a row for each point of each group."""
    frames = []
    for curve in curves:
        points = curve.points.rename(columns={"value": curve.parameter})
        trained = curve.points["value"].isin(list(curve.trained.values()))
        points.insert(0, "group", curve.group)
        points.insert(1, "variant", curve.variant)
        points.insert(3, "trained", np.where(trained, "yes", "no"))
        frames.append(points)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def step_table(curves: Iterable[JointCurve]) -> pd.DataFrame:
    """The columns of curve_slopes.csv: slopes, segments, and sums of segments between neighbours.

    `slope` is per unit of the parameter, in the middle of start and end.
    """
    frames = []
    for curve in curves:
        steps = pd.concat(
            [curve.known_differences(), pd.DataFrame(curve.neighbours())], ignore_index=True
        )
        if steps.empty:
            continue
        length = steps["end"] - steps["start"]
        table = pd.DataFrame({"group": curve.group, "variant": curve.variant}, index=steps.index)
        table["kind"] = steps["kind"]
        table[f"{curve.parameter}_start"], table[f"{curve.parameter}_end"] = (
            steps["start"],
            steps["end"],
        )
        for name in ("difference_Eh", "error_Eh"):
            table[name] = steps[name]
        table["slope_Eh"] = steps["difference_Eh"] / length
        table["slope_error_Eh"] = steps["error_Eh"] / length
        for name in ("effective", "n_samples"):
            table[name] = steps[name]
        frames.append(table)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _table(found: xr.Dataset | None, name: str, columns: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one kind in a dataset."""
    if found is None or name not in found.sizes:
        return _typed(pd.DataFrame(columns=list(columns)), columns)
    made = pd.DataFrame({column: found[f"{name}.{column}"].to_numpy() for column in columns})
    return _typed(made, columns)


def _joined(
    table: pd.DataFrame, row: Mapping[str, Any], columns: Mapping[str, Any]
) -> pd.DataFrame:
    """A table with one row more."""
    names = list(columns)
    rows: list[Any] = [*table[names].to_dict("records"), {name: row[name] for name in names}]
    return _typed(pd.DataFrame(rows, columns=names), columns)


def _typed(table: pd.DataFrame, columns: Mapping[str, Any]) -> pd.DataFrame:
    """A table with the types of its columns, whatever pandas has made of them."""
    return table.astype({n: object if kind is str else kind for n, kind in columns.items()})
