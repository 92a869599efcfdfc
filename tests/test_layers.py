"""The direction of the imports: a module knows only modules of its own layer or below."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ferminet_core"

LAYERS = {
    # what is computed
    "__init__": 0,
    "basis": 0,
    "citations": 0,
    "config": 0,
    "cost": 0,
    "errors": 0,
    "expansion": 0,
    "expressions": 0,
    "geometry": 0,
    "job": 0,
    "machines": 0,
    "neighbours": 0,
    "plan": 0,
    "scan": 0,
    "scan_lock": 0,
    "sizes": 0,
    "system": 0,
    "system_checks": 0,
    "system_file": 0,
    "units": 0,
    "validation": 0,
    "yaml_reader": 0,
    # the wavefunction
    "correlated": 1,
    "determinants": 1,
    "distributed": 1,
    "envelopes": 1,
    "features": 1,
    "gaussian_basis": 1,
    "gpus": 1,
    "hartree_fock": 1,
    "networks": 1,
    "orbitals": 1,
    "parameters": 1,
    # expectation values
    "collectives": 2,
    "forward_laplacian": 2,
    "hamiltonian": 2,
    "loss": 2,
    "mcmc": 2,
    "mesh": 2,
    "observables": 2,
    "statistics": 2,
    "walkers": 2,
    # stages
    "artefacts": 3,
    "cholesky": 3,
    "conventional": 3,
    "convergence": 3,
    "electron_density": 3,
    "inference": 3,
    "kfac": 3,
    "literature": 3,
    "measurement": 3,
    "optimise": 3,
    "potential_curve": 3,
    "pretrain": 3,
    "quantities": 3,
    "scan_dataset": 3,
    "reference": 3,
    "smoothness": 3,
    "spring": 3,
    "stage": 3,
    "summary": 3,
    "variance_extrapolation": 3,
    "verdict": 3,
    "warm_start": 3,
    # the outside world
    "calibration": 4,
    "checkpoint": 4,
    "html_charts": 4,
    "html_density_charts": 4,
    "html_report": 4,
    "html_run": 4,
    "html_run_charts": 4,
    "html_scan_charts": 4,
    "html_tables": 4,
    "jax_setup": 4,
    "lease": 4,
    "plots": 4,
    "progress": 4,
    "housekeeping": 4,
    "record": 4,
    "run_state": 4,
    "report": 4,
    "resume": 4,
    "runtime": 4,
    "stopping": 4,
    "store": 4,
    # the command line
    "__main__": 5,
    "cli": 5,
    "driver": 5,
    "listing": 5,
    "watch": 5,
    "plan_tables": 5,
}

# Packages that one module alone may import; nothing may import Snakemake.
ONLY_IMPORTER = {
    "mpi4py": "distributed",
    "kfac_jax": "kfac",
    "plotly": "html_report",
    "snakemake": "",
}
# Light enough for a login node, where the Snakefile is parsed.
HEAVY = {"jax", "jaxlib", "pyscf", "numpy", "scipy", "xarray", "zarr", "pandas", "matplotlib"}


def imported_names(path: Path, at_start_only: bool = False) -> Iterator[str]:
    """Dotted names of everything that a module imports; relative imports made absolute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_start_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "ferminet_core." * bool(node.level) + (node.module or "")
            yield from (f"{base.rstrip('.')}.{alias.name}" for alias in node.names)


def upward_imports(module: str, names: Iterator[str], layers: dict[str, int]) -> list[str]:
    """Modules of the package that are imported from a layer above that of `module`."""
    parts = [name.split(".") for name in names]
    used = {p[1] for p in parts if p[0] == "ferminet_core" and len(p) > 1}
    return sorted(u for u in used if u in layers and layers[u] > layers[module])


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_module_has_a_layer() -> None:
    assert {path.stem for path in modules()} <= set(LAYERS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_imports_point_downwards(path: Path) -> None:
    assert upward_imports(path.stem, imported_names(path), LAYERS) == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_packages_with_one_importer(path: Path) -> None:
    found = {name.split(".")[0] for name in imported_names(path)}
    wrong = {name for name in found & set(ONLY_IMPORTER) if ONLY_IMPORTER[name] != path.stem}
    assert not wrong


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_layer_0_is_light(path: Path) -> None:
    if LAYERS[path.stem] == 0 or path.stem in {"cli", "__main__", "listing"}:
        found = {name.split(".")[0] for name in imported_names(path, at_start_only=True)}
        assert not found & HEAVY


def test_no_two_modules_import_each_other_at_start() -> None:
    edges = {}
    for path in modules():
        parts = [name.split(".") for name in imported_names(path, at_start_only=True)]
        known = {p[1] for p in parts if p[0] == "ferminet_core" and len(p) > 1}
        edges[path.stem] = known & set(LAYERS)
    while leaves := {name for name, used in edges.items() if not used & set(edges)}:
        edges = {name: used for name, used in edges.items() if name not in leaves}
    assert edges == {}


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    path = tmp_path / "hamiltonian.py"
    path.write_text("def f():\n    from ferminet_core.store import load\n    from . import cli\n")
    assert upward_imports("hamiltonian", imported_names(path), LAYERS) == ["cli", "store"]
