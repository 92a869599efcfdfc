"""The chain on NVIDIA GPUs, and on two ranks with GPUs of their own. Run by `make test-gpu`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.layouts import LAUNCHER, Layout, start
from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import write_specs
from ferminet_core.parallel.gpus import visible_gpus
from ferminet_core.storage import artefacts

SYSTEM = """
name: gpu
units: bohr
atoms: [H 0 0 -0.7, H 0 0 0.7]
preset: smoke
overrides: {optimise.iterations: 200, inference.samples: 200}
"""
GPUS = visible_gpus()
# What starts ranks here; a site's own, as in the profile, by FERMINET_LAUNCHER="srun --mpi=pmix".
LAUNCH = os.environ.get("FERMINET_LAUNCHER", LAUNCHER)
# What makes the other tests compile faster (tests/conftest.py); here it is compiled as for users.
FASTER = ("--xla_force_host_platform_device_count", "--xla_backend_optimization_level")
pytestmark = pytest.mark.skipif(not GPUS, reason="no NVIDIA GPU here")


@pytest.fixture(autouse=True)
def _as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = os.environ["XLA_FLAGS"].split()
    kept = [flag for flag in flags if flag.partition("=")[0] not in FASTER]
    monkeypatch.setenv("XLA_FLAGS", " ".join(kept))


def chain(folder: Path, ranks: int) -> dict[str, Any]:
    """Run all stages; attributes of the inference, with the optimisation's provenance."""
    folder.mkdir()
    system = folder / "gpu.yaml"
    system.write_text(SYSTEM)
    spec = write_specs(load_scan(system), folder)[0]
    made: dict[str, Path] = {}
    needs = {"pretrain": ["reference"], "optimise": ["pretrain"]}
    needs["inference"] = ["optimise", "reference"]
    made["reference"] = folder / "reference.zarr.zip"
    words = [sys.executable, "-m", "ferminet_core", "reference", str(spec)]
    words += ["--out", str(made["reference"]), "--work", str(folder / "reference.work")]
    subprocess.run(words, check=True)
    for stage, parents in needs.items():
        made[stage] = folder / f"{stage}.zarr.zip"
        options = [str(w) for name in parents for w in (f"--{name}", made[name])]
        files: list[str | Path] = ["--out", made[stage], "--work", folder / f"{stage}.work"]
        start(Layout(ranks, 1), LAUNCH, stage, spec, *options, *files)
    provenance = json.loads((folder / "optimise.provenance.json").read_text())
    return {**artefacts.load(made["inference"]).attrs, "provenance": provenance}


def test_products_in_float32_are_not_made_in_tf32() -> None:
    code = (
        "from ferminet_core.parallel import jax_setup; jax_setup.configure_jax('float32')\n"
        "import jax, jax.numpy as jnp, numpy as np\n"
        "assert jax.default_backend() == 'gpu', jax.devices()\n"
        "x = np.random.default_rng(0).normal(size=(512, 512))\n"
        "error = np.abs(np.asarray(jnp.asarray(x, 'f4') @ jnp.asarray(x, 'f4')) - x @ x).max()\n"
        # 512 terms of size 1 with 24 bits: 1e-5 in the mean square; TF32 has 11 bits, 1e-2.
        "assert error < 1e-3, error\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_rank_and_one_rank_per_gpu_agree(tmp_path: Path) -> None:
    one = chain(tmp_path / "one", 1)
    assert one["provenance"]["jax"]["devices"] == len(GPUS)
    assert "NVIDIA" in one["provenance"]["jax"]["device_kind"]
    if len(GPUS) < 2:
        pytest.skip("one GPU: no second rank")
    many = chain(tmp_path / "many", len(GPUS))
    assert many["provenance"]["jax"]["devices"] == len(GPUS)
    assert len(many["provenance"]["ranks"]) == len(GPUS)
    # Sums in another order end in another, equally good, network: compared as measurements. Both
    # lie above the exact energy (Sims and Hagstrom 2006) and, better than one determinant, below
    # the Hartree-Fock limit. The difference of 0.041 hartree is the correlation energy.
    for made in (one, many):
        error = 5 * made["error_Eh"]
        assert -1.174476 - error < made["energy_Eh"] < -1.133630 + error
