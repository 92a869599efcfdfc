"""The public names: what importing them loads, and that type checkers and `dir` see the same."""

import ast
import subprocess
import sys

import pytest
from helpers.paths import ROOT

import ferminet_core

HEAVY = ("jax", "jaxlib", "pyscf", "numpy", "scipy", "xarray", "zarr", "pandas", "matplotlib")


def loaded_by(statement: str) -> set[str]:
    """Heavy packages that a fresh process has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*{HEAVY!r} & sys.modules.keys())"
    code = code.replace(f"*{HEAVY!r} &", f"*set({HEAVY!r}) &")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import ferminet_core; dir(ferminet_core)") == set()


def test_a_system_file_is_read_without_anything_heavy() -> None:
    statement = "import ferminet_core; ferminet_core.load_system('systems/h2.yaml')"
    assert loaded_by(statement) == set()


def test_the_interface_loads_jax_only_when_it_computes() -> None:
    statement = "import ferminet_core; ferminet_core.open, ferminet_core.configuration('smoke')"
    assert not loaded_by(statement) & {"jax", "jaxlib", "pyscf", "matplotlib"}


def test_every_name_is_there() -> None:
    for name in ferminet_core.__all__:
        assert getattr(ferminet_core, name).__doc__
    assert set(ferminet_core.__all__) <= set(dir(ferminet_core))


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "ferminet_core/__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    names = [alias.asname for node in imports for alias in node.names]
    assert sorted(filter(None, names)) == sorted(ferminet_core.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        ferminet_core.nonsense  # noqa: B018
