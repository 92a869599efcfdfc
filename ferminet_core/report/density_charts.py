"""Charts of the electron density of a run, from the stored walkers of the inference."""

import numpy as np
import xarray as xr

from ferminet_core.analysis import electron_density
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.report.chart_data import RUN_COLOURS
from ferminet_core.report.charts import INK, Chart, axis, figure, line, markers, numbers

_VERMILION, _BLUE, _GREEN = RUN_COLOURS[:3]
# Colours follow the square root of the density, so that valence electrons show next to cores.
_COLOURS = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")


def density_charts(name: str, dataset: xr.Dataset, molecule: Molecule) -> list[Chart]:
    """The electron density of the inference's stored walkers, on a line and in a plane.

    The line is the principal axis of the nuclei; of an atom it is the distance from the nucleus.
    The plane is that of the two largest principal axes.

    Args:
        name: prefix of the charts' names.
        dataset: the inference's artefact.
        molecule: its nuclei are marked.
    """
    if "walkers" not in dataset or dataset["walkers"].size == 0:
        return []
    nuclei = np.array(molecule.positions)
    frame = electron_density.principal_frame(nuclei)
    stored = dataset["walkers"].to_numpy().astype(float)  # (kept, walker, electron, xyz)
    points = electron_density.project(stored.reshape(-1, *stored.shape[2:]), frame)
    points = points[np.isfinite(points).all(axis=(1, 2))]
    if len(points) == 0:
        return []
    places = electron_density.project(nuclei, frame)
    return [
        _line_chart(name, points, places, molecule),
        _plane_chart(name, points[..., :2], places[:, :2], molecule),
    ]


def _line_chart(name: str, points: np.ndarray, places: np.ndarray, molecule: Molecule) -> Chart:
    atom = len(molecule.symbols) == 1
    if atom:
        coordinate = np.linalg.norm(points, axis=-1)
        edges = electron_density.radial_edges(coordinate)
        title, x = "Radial density", "distance from the nucleus (bohr)"
    else:
        coordinate = points[..., 0]
        edges = electron_density.line_edges(coordinate, places[:, 0])
        title, x = "Density along the molecule", "along the principal axis (bohr)"
    data = []
    parts = [("all electrons", slice(None), _BLUE)]
    if molecule.n_down > 0 and molecule.n_up != molecule.n_down:
        up = slice(None, molecule.n_up)
        parts += [("up", up, _VERMILION), ("down", slice(molecule.n_up, None), _GREEN)]
    centres = numbers(0.5 * (edges[1:] + edges[:-1]), 5)
    for part, electrons, colour in parts:
        values = electron_density.line_density(coordinate[:, electrons], edges).density
        data.append(line(part, centres, numbers(values, 4), colour, shape="hvh"))
    shapes, annotations = [], []
    if not atom:
        for symbol, place in zip(molecule.symbols, places[:, 0], strict=True):
            style = {"color": INK, "width": 1, "dash": "dot"}
            ends = {"x0": place, "x1": place, "yref": "y domain", "y0": 0, "y1": 1}
            shapes.append({"type": "line", **ends, "line": style})
            where = {"x": place, "yref": "y domain", "y": 0, "yanchor": "bottom", "xanchor": "left"}
            annotations.append({**where, "text": symbol, "showarrow": False})
    return Chart(
        name=f"{name}-line-density",
        title=title,
        text=(
            f"{len(points)} stored walkers with {molecule.n_up} up and {molecule.n_down} down "
            f"electrons, in bins of {edges[1] - edges[0]:.2g} bohr."
        ),
        views=[
            figure(
                data,
                axis(x),
                axis("electrons per bohr", rangemode="tozero"),
                shapes=shapes,
                annotations=annotations,
            )
        ],
        note="Summed over all directions." if atom else "Summed over both other directions.",
    )


def _plane_chart(name: str, points: np.ndarray, places: np.ndarray, molecule: Molecule) -> Chart:
    found = electron_density.plane_density(points, places)
    first, second = (edges for edges in found.edges)
    width = float(first[1] - first[0])
    n = len(_COLOURS) - 1
    heat = {
        "type": "heatmap",
        "x0": float(first[0]) + width / 2,
        "dx": width,
        "y0": float(second[0]) + width / 2,
        "dy": width,
        "z": [numbers(row, 3) for row in found.density.T],
        "zmin": 0,
        # Equal steps of colour are equal steps of the square root of the density.
        "colorscale": [[(i / n) ** 2, colour] for i, colour in enumerate(_COLOURS)],
        "colorbar": {"title": {"text": "bohr⁻²", "font": {"size": 12}}, "thickness": 12},
        "hovertemplate": "%{x:.2f}, %{y:.2f} bohr: %{z} electrons per bohr²<extra></extra>",
    }
    x, y = (numbers(coordinate, 6) for coordinate in places.T)
    nuclei = markers("nuclei", x, y, "#ffffff", symbol="cross-thin")
    nuclei["marker"] |= {"size": 9, "line": {"width": 1.5, "color": "#ffffff"}}
    nuclei |= {"text": list(molecule.symbols), "hoverinfo": "text", "showlegend": False}
    return Chart(
        name=f"{name}-plane-density",
        title="Density in a plane",
        text=(
            f"Crosses mark the nuclei; the largest density is "
            f"{found.density.max():.3g} electrons per bohr²."
        ),
        views=[
            figure(
                [heat, nuclei],
                axis("bohr", constrain="domain"),
                axis("bohr", scaleanchor="x", constrain="domain"),
            )
        ],
        note=(
            f"Summed over the direction across the plane, in squares of {width:.2g} bohr. Colours "
            "follow the square root of the density."
        ),
    )
