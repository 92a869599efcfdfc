"""Packages that hide those of this environment.

Module files of clusters set PYTHONPATH, whose folders come before those of a virtual environment.
Another NumPy there breaks the compiled packages, or silently computes with other versions.
"""

import importlib.metadata
import os
import sys
from pathlib import Path

from ferminet_core.errors import InputError

# Packages and modules by name of their import and of their distribution.
_NEEDED = {
    **{
        name: name
        for name in (
            *("numpy", "scipy", "jax", "jaxlib", "h5py", "pyscf", "pandas", "xarray", "zarr"),
            *("pydantic", "pydantic_core", "typing_extensions", "typer", "click", "rich"),
            *("matplotlib", "optax", "snakemake", "jinja2"),
        )
    },
    "yaml": "pyyaml",
    "kfac_jax": "kfac-jax",
}


def check_python_path() -> None:
    """Check that PYTHONPATH brings no other version of a package that this environment has.

    Raises:
        InputError: It does; the line names the folder and the package.
    """
    if sys.flags.ignore_environment:
        return
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    foreign = [Path(entry).absolute() for entry in given if entry]
    own = [path for entry in sys.path if (path := Path(entry).absolute()) not in foreign]
    for folder in foreign:
        for name, distribution in _NEEDED.items():
            if not _holds(folder, name):
                continue
            hidden = next((path for path in own if _holds(path, name)), None)
            versions = _version(folder, distribution), _version(hidden, distribution)
            if hidden is None or (versions[0] and versions[0] == versions[1]):
                continue
            raise InputError(
                f"PYTHONPATH: {folder} holds another {distribution} "
                f"({versions[0] or 'of unknown version'}), which hides that of this environment "
                f"({versions[1]}); unset PYTHONPATH, or unload the module that sets it"
            )


def _holds(folder: Path, name: str) -> bool:
    return (folder / name / "__init__.py").is_file() or (folder / f"{name}.py").is_file()


def _version(folder: Path | None, distribution: str) -> str:
    """The version of a package in a folder; empty if the folder does not say."""
    path = [str(folder)]
    found = importlib.metadata.distributions(name=distribution, path=path)
    return next((one.version for one in found), "")
