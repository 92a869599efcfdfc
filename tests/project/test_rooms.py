"""The direction of the imports: a room imports only from the rooms above it in `ROOMS`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.rooms import ROOMS

PACKAGE = ROOT / "ferminet_core"

ENTRY_POINTS = {"ferminet_core", "ferminet_core.__main__"}

# Packages that these modules alone may import; nothing may import Snakemake.
ONLY_IMPORTERS = {
    "mpi4py": ("ferminet_core.parallel.distributed",),
    "jax.distributed": ("ferminet_core.parallel.distributed",),
    "kfac_jax": (
        "ferminet_core.vmc.optimisers.kfac",
        "ferminet_core.vmc.optimisers.kfac_blocks",
        "ferminet_core.vmc.optimisers.kfac_solves",
        "ferminet_core.parallel.patches",
    ),
    "plotly": ("ferminet_core.report",),
    "jinja2": ("ferminet_core.report",),
    "snakemake": (),
}
# What a login node should not load when it parses the Snakefile or answers `--help`.
HEAVY = {"jax", "jaxlib", "pyscf", "numpy", "scipy", "xarray", "zarr", "pandas", "matplotlib"}
LIGHT = ("ferminet_core.errors", "ferminet_core.units", "ferminet_core.inputs", "ferminet_core.cli")


def module_name(path: Path) -> str:
    """Dotted name of a source file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported_names(path: Path, at_start_only: bool = False) -> Iterator[str]:
    """Dotted names of everything that a module imports or names by a dotted attribute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_start_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the room they import from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def room(name: str) -> str:
    """The room of a dotted name of the package; "" for the package itself."""
    return [*name.split("."), ""][1]


def imports_from_below(name: str, imported: Iterator[str]) -> list[str]:
    """Names that a module imports from a room below its own."""
    own = ROOMS.index(room(name))
    return sorted(
        used
        for used in imported
        if used.startswith("ferminet_core.") and room(used) in ROOMS[own + 1 :]
    )


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)


def test_the_folders_are_the_rooms() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    files = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert folders | files == set(ROOMS)
    assert len([p for p in PACKAGE.iterdir() if p.is_file()]) <= 6


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_a_room_imports_only_from_rooms_above_it(path: Path) -> None:
    if module_name(path) not in ENTRY_POINTS:
        assert imports_from_below(module_name(path), imported_names(path)) == []


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_packages_with_few_importers(path: Path) -> None:
    name, found = module_name(path), set(imported_names(path))
    for package, importers in ONLY_IMPORTERS.items():
        if any(within(used, (package,)) for used in found):
            assert within(name, importers), f"{name} imports {package}"


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_what_a_login_node_loads_is_light(path: Path) -> None:
    if within(module_name(path), LIGHT) or module_name(path) in ENTRY_POINTS:
        found = {name.split(".")[0] for name in imported_names(path, at_start_only=True)}
        assert not found & HEAVY


def test_kfac_jax_loads_only_where_a_run_uses_it() -> None:
    """It takes as long to import as JAX does."""
    kfac = "ferminet_core.vmc.optimisers.kfac"
    for path in modules():
        at_start = imported_names(path, at_start_only=True)
        assert not [name for name in at_start if within(name, (kfac,))], path


@pytest.mark.parametrize("path", sorted((PACKAGE / "analysis").glob("*.py")), ids=module_name)
def test_analysis_loads_arrays_and_tables_alone(path: Path) -> None:
    found = {name.split(".")[0] for name in imported_names(path)}
    assert not found & (HEAVY - {"numpy", "scipy", "pandas", "xarray"})


@pytest.mark.parametrize(
    "path", [p for p in modules() if p.name == "__init__.py" and p.parent != PACKAGE], ids=str
)
def test_a_room_itself_holds_a_docstring_alone(path: Path) -> None:
    """Importing one module of a room must not load the others."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_no_two_modules_import_each_other_at_start() -> None:
    names = {module_name(path): path for path in modules()}
    edges = {}
    for name, path in names.items():
        found = set(imported_names(path, at_start_only=True))
        # `from room import module` names the module; `from module import name` has it before.
        found |= {used.rpartition(".")[0] for used in found}
        edges[name] = found & set(names) - {name}
    while leaves := {name for name, used in edges.items() if not used & set(edges)}:
        edges = {name: used for name, used in edges.items() if name not in leaves}
    assert edges == {}


def test_a_reversed_import_is_found(tmp_path: Path) -> None:
    path = tmp_path / "artefacts.py"
    path.write_text(
        "def f():\n    from ferminet_core.runner import job\n    from ferminet_core import cli\n"
        "    from ferminet_core import errors\n"
    )
    found = imports_from_below("ferminet_core.storage.artefacts", imported_names(path))
    assert found == ["ferminet_core.cli", "ferminet_core.runner.job"]
