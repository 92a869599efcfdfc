"""Packages for `benchmarks.gpu_speed` on a machine that may have no network.

    python3 -m benchmarks.gpu_setup wheels --python 3.12 --cuda 13     # where there is a network
    python3 -m benchmarks.gpu_setup run [OPTIONS OF benchmarks.gpu_speed]

`wheels` downloads into `.gpu-wheels` what the benchmark imports, in the versions of
requirements.lock, with JAX's plugin for GPUs, folx and DeepQMC. NVIDIA's own libraries (gigabytes)
are left out: the other machine has them, as the packages `nvidia-*` of some Python, or in its
system. `--volume 60` cuts the files into folders of at most 60 MB, for machines that take no more
at a time; `run` puts them together.

`run` takes the first Python whose JAX computes on a GPU and that has all packages: PYTHON, that of
`.venv`, `python3`. Where none has, it installs the wheels into `.gpu-site`, in front of what
`python3` has. It needs nothing but Python and pip.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WHEELS, SITE = ROOT / ".gpu-wheels", ROOT / ".gpu-site"
# What a process of `benchmarks.gpu_parts` imports; tests/project/test_gpu_speed.py compares.
PACKAGES = (
    *("jax", "jaxlib", "ml-dtypes", "numpy", "scipy", "opt-einsum", "kfac-jax", "immutabledict"),
    *("distrax", "tfp-nightly", "chex", "dm-tree", "optax", "absl-py", "toolz", "wrapt", "attrs"),
    *("cloudpickle", "decorator", "gast", "six", "typing-extensions", "packaging", "pyscf", "h5py"),
    *("setuptools", "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "pyyaml"),
    *("typer", "click", "shellingham", "rich", "pygments", "markdown-it-py", "mdurl", "xarray"),
    *(
        "annotated-doc",
        "tabulate",
        "pandas",
        "python-dateutil",
        "zarr",
        "numcodecs",
        "donfig",
        "google-crc32c",
    ),
)
PEERS = (
    *("folx==0.2.30", "jaxtyping==0.3.11", "wadler-lindig==0.1.8"),
    # DeepQMC 1.3.0 asks for JAX below 0.9; on CPUs it also ran with 0.9.1.
    *("deepqmc==1.3.0", "dm-haiku==0.0.17", "jmp==0.0.4", "hydra-core==1.3.2", "omegaconf==2.3.0"),
    *("antlr4-python3-runtime==4.9.3", "jax-dataclasses==1.6.3", "tensorboardX==2.6.4"),
    *("tqdm==4.67.1", "uncertainties==3.2.3", "protobuf==6.33.1"),
)
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
VOLUME = "volume-"


# --- where there is a network ---------------------------------------------------------------------


def locked(python: str, lock: str) -> dict[str, str]:
    """Versions of the lock for a Python such as "3.12", by package."""
    found = {}
    for name, version, rest in re.findall(r"^([\w.-]+)==(\S+)(.*)$", lock, re.MULTILINE):
        marker = re.search(r"python_full_version (<|>=) '3\.(\d+)", rest)
        minor = int(python.split(".")[1])
        if marker is None or (minor < int(marker[2])) == (marker[1] == "<"):
            found[name] = version
    return found


def wheels(python: str, cuda: int, machine: str, volume: int | None, there: list[str]) -> None:
    """Download the wheels for another machine's Python, which has those of `there`."""
    versions = locked(python, (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    plugin = [f"jax-cuda{cuda}-{part}=={versions['jax']}" for part in ("plugin", "pjrt")]
    own = (f"{name}=={versions[name]}" for name in PACKAGES)
    wanted = [x for x in (*own, *plugin, *PEERS) if x.partition("==")[0] not in there]
    shutil.rmtree(WHEELS, ignore_errors=True)
    options = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for platform in PLATFORMS:
        options += ["--platform", f"{platform}_{machine}"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # This one comes as source only, and is the same for every Python.
    source = [package for package in wanted if package.startswith("antlr4")]
    binary = [package for package in wanted if package not in source]
    into = ["--quiet", "--no-deps"]
    subprocess.run([*pip, "download", *into, "--dest", WHEELS, *options, *binary], check=True)
    subprocess.run([*pip, "wheel", *into, "--wheel-dir", WHEELS, *source], check=True)
    size = sum(path.stat().st_size for path in WHEELS.iterdir())
    print(f"{WHEELS.name}: {len(wanted)} packages, {size / 1e6:.0f} MB")
    if volume:
        for folder in cut(WHEELS, volume * 10**6):
            print(f"  {folder.relative_to(ROOT)}")


def cut(folder: Path, most: int) -> list[Path]:
    """Move the files of a folder into folders in it, in pieces, of at most this many bytes each."""
    made: list[Path] = []
    room = 0
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        data, piece = path.read_bytes(), 0
        while data:
            if not room:
                made.append(folder / f"{VOLUME}{len(made) + 1}")
                made[-1].mkdir()
                room = most
            (made[-1] / f"{path.name}.{piece:03}").write_bytes(data[:room])
            piece, room, data = piece + 1, room - len(data[:room]), data[room:]
        path.unlink()
    return made


# --- on the machine with the GPU ------------------------------------------------------------------


def put_together(folder: Path) -> list[Path]:
    """The wheels of a folder, those of its volumes made whole."""
    pieces: dict[str, list[Path]] = {}
    for path in folder.glob(f"{VOLUME}*/*.whl.*"):
        pieces.setdefault(path.stem, []).append(path)
    for name, found in pieces.items():
        whole = b"".join(p.read_bytes() for p in sorted(found, key=lambda p: p.suffix))
        (folder / name).write_bytes(whole)
    return sorted(folder.glob("*.whl"))


def pythons() -> Iterator[str]:
    """Those that may have what is needed, the best first."""
    if chosen := os.environ.get("PYTHON"):
        yield chosen
    elif (own := ROOT / ".venv" / "bin" / "python").exists():
        yield str(own)
    yield from (path for name in ("python3", "python") if (path := shutil.which(name)))


def environment() -> dict[str, str]:
    """With `.gpu-site` in front of a Python's own packages."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SITE, ROOT)))}


ASK = """
import importlib.util, json, jax
wanted = ("kfac_jax", "pyscf", "xarray", "pydantic", "typer", "distrax", "yaml")
print(json.dumps({
    "jax": jax.__version__,
    "platform": jax.default_backend(),
    "missing": [name for name in wanted if importlib.util.find_spec(name) is None],
}))
"""


LIBRARIES = """
import importlib.util
found = importlib.util.find_spec("nvidia")
print(next(iter(found.submodule_search_locations), "") if found else "")
"""


def found_by(python: str) -> dict[str, object]:
    """JAX's version and platform in a Python, and packages that are missing; empty without JAX."""
    quiet = {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", ""), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [python, "-c", ASK],
        capture_output=True,
        text=True,
        check=False,
        env={**environment(), **quiet},
        cwd=ROOT,
    )
    return dict(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else {}


def usable(allow_cpu: bool) -> str | None:
    """The first Python that can measure."""
    for python in pythons():
        found = found_by(python)
        print(f"{python}: {json.dumps(found) if found else 'no JAX'}", file=sys.stderr)
        if found and not found["missing"] and (allow_cpu or found["platform"] != "cpu"):
            return python
    return None


def install() -> None:
    """Install the wheels into `SITE` by the Python named by PYTHON, or the first in PATH."""
    found = put_together(WHEELS)
    python = os.environ.get("PYTHON") or shutil.which("python3") or sys.executable
    options = ["--no-index", "--no-deps", "--no-compile", "--quiet", "--upgrade"]
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", *options]
    subprocess.run([*pip, "--target", str(SITE), *map(str, found)], check=True)
    # JAX's plugin also looks for NVIDIA's libraries next to itself.
    asked = subprocess.run([python, "-c", LIBRARIES], capture_output=True, text=True, check=True)
    if asked.stdout.strip():
        (SITE / "nvidia").symlink_to(asked.stdout.strip())


def run(options: list[str]) -> int:
    """Measure with the first Python that can."""
    allow_cpu = "--quick" in options or "--show" in options
    python = usable(allow_cpu)
    if python is None and WHEELS.exists() and not SITE.exists():
        install()
        python = usable(allow_cpu)
    if python is None:
        print(
            "error: no Python here has JAX on a GPU and the other packages; set up .venv and "
            '`.venv/bin/pip install "jax[cuda12]==0.9.1"`, or bring the folder that '
            "`make gpu-wheels` makes",
            file=sys.stderr,
        )
        return 2
    command = [python, "-m", "benchmarks.gpu_speed", *options]
    return subprocess.run(command, env=environment(), cwd=ROOT, check=False).returncode


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    bring = commands.add_parser("wheels", help="download")
    bring.add_argument("--python", default=f"3.{sys.version_info.minor}", help="of the machine")
    bring.add_argument("--cuda", type=int, choices=(12, 13), default=12)
    bring.add_argument("--machine", default="x86_64", help="processor architecture")
    bring.add_argument("--there", nargs="*", default=[], help="packages that the machine has")
    bring.add_argument("--volume", type=int, help="MB of each folder, at most")
    commands.add_parser("run", help="measure")
    known, options = parser.parse_known_args()
    if known.command == "wheels":
        if options:
            parser.error(f"unknown: {' '.join(options)}")
        wheels(known.python, known.cuda, known.machine, known.volume, known.there)
    else:
        sys.exit(run(options))


if __name__ == "__main__":
    main()
