"""Conventional methods against each other and exact energies; limits against their own forms."""

import json
import math
import re
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from helpers.molecules import SCF_ROUNDING, atom, diatomic, directly, with_pseudopotentials
from pyscf import __config__, fci, gto, mcscf, scf

from ferminet_core.chemistry import conventional, correlated_methods, hartree_fock
from ferminet_core.chemistry.correlated_methods import MethodEnergy, correlated_energies
from ferminet_core.chemistry.gaussian_basis import build_mole
from ferminet_core.errors import ArtefactError, InputError
from ferminet_core.inputs.config import Config, NetworkConfig
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.start_settings import ConventionalConfig, ReferenceConfig
from ferminet_core.runner import run_stage
from ferminet_core.runner.job import Job
from ferminet_core.runner.stopping import Stop
from ferminet_core.storage import artefacts, files


def spec_of(molecule: Molecule, **settings: Any) -> RunSpec:
    config = Config(conventional=ConventionalConfig.model_validate(settings))
    return RunSpec(scan="s", run_id="r", geometry="r", molecule=molecule, config=config)


def compute(molecule: Molecule, basis: str, *methods: str) -> dict[str, MethodEnergy]:
    """Energy and note by method, from the stage's artefact."""
    ds = conventional.run(spec_of(molecule, methods=methods, basis=[basis]))
    notes = json.loads(ds.attrs["notes"])[basis]
    return {m: MethodEnergy(float(ds["energy"].loc[m, basis]), notes.get(m, "")) for m in methods}


def full_ci(molecule: Molecule, basis: str, method: Any) -> float:
    mean_field = directly(molecule, basis, method)
    return float(fci.FCI(mean_field).kernel()[0])


# -- the methods --


def test_correlated_methods_agree_where_they_are_exact() -> None:
    # Two electrons: CCSD is full CI, and there are no triples.
    molecule = diatomic("H", "H", 1.4)
    found = compute(molecule, "cc-pvdz", "ccsd(t)", "uccsd(t)", "fci")
    exact = full_ci(molecule, "cc-pvdz", scf.RHF)
    assert list(found) == ["ccsd(t)", "uccsd(t)", "fci"]
    for energy, note in found.values():
        assert energy == pytest.approx(exact, abs=1e-7)  # CCSD's convergence
        assert note == ""


@pytest.mark.parametrize(
    ("molecule", "basis"),
    [
        (atom("Li", spin=1), "cc-pvdz"),
        (diatomic("H", "H", 2.0, spin=2), "cc-pvdz"),
        (atom("N", spin=3), "sto-3g"),  # no empty up orbital
        (atom("H", spin=1), "cc-pvdz"),
    ],
    ids=["Li", "triplet H2", "N", "H"],
)
def test_correlated_methods_of_open_shells(molecule: Molecule, basis: str) -> None:
    found = compute(molecule, basis, "ccsd(t)", "uccsd(t)", "fci")
    for method in ("ccsd(t)", "uccsd(t)"):
        # Triples of the three electrons of Li are worth less than 1e-6 hartree.
        assert found[method].energy == pytest.approx(found["fci"].energy, abs=1e-6)


@pytest.mark.parametrize(
    ("molecule", "restricted"),
    [(diatomic("H", "H", 6.0), scf.RHF), (atom("N", spin=3), scf.ROHF)],
    ids=["H2", "N"],
)
def test_hartree_fock_is_the_careful_search_s(molecule: Molecule, restricted: Any) -> None:
    """The restricted solution, and below it the unrestricted one that the reference would take."""
    found = compute(molecule, "cc-pvdz", "rhf", "uhf")
    expected = directly(molecule, "cc-pvdz", restricted).e_tot
    assert found["rhf"].energy == pytest.approx(expected, abs=SCF_ROUNDING)
    chosen = hartree_fock.solve(molecule, Config().reference)
    assert chosen.attrs["method"] == "uhf"
    assert found["uhf"].energy == chosen.attrs["e_hf"]


def test_no_orbital_is_left_to_excite_to() -> None:
    # One AO and two electrons: one determinant, nothing to converge, and rounding of -2.8 hartree.
    found = compute(atom("He"), "sto-3g", "rhf", "ccsd(t)", "fci")
    for energy, _ in found.values():
        assert energy == pytest.approx(found["rhf"].energy, abs=1e-10)


def nevpt2(molecule: Molecule, basis: str) -> MethodEnergy:
    return compute(molecule, basis, "nevpt2")["nevpt2"]


def test_nevpt2_of_a_whole_basis_of_valence_orbitals_is_full_ci() -> None:
    # Nothing is left to perturb.
    chain = tuple((0.0, 0.0, 1.8 * i) for i in range(4))
    h4 = Molecule(symbols=("H",) * 4, positions=chain, charge=0, spin=0)
    for molecule in (diatomic("H", "H", 6.0), h4):
        exact = full_ci(molecule, "sto-3g", scf.RHF)
        # Variational: off by no more than the last change, 1e-9 of CASSCF and 1e-8 of its CI.
        assert nevpt2(molecule, "sto-3g").energy == pytest.approx(exact, abs=1e-8)


def test_nevpt2_of_molecules_far_apart_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # It is strictly separable, where (T) on a broken bond is not. PySCF's limits leave 4e-7: the CI
    # stops at a residual of 1e-6, the root of `lindep`, and the orbitals at a gradient of 3e-5.
    monkeypatch.setattr(mcscf.mc1step.CASSCF, "conv_tol_grad", 1e-6)
    for name, limit in (("CASSCF_fcisolver_conv_tol", 1e-14), ("CASCI_fcisolver_lindep", 1e-18)):
        module = "mc1step" if name.startswith("CASSCF") else "casci"
        monkeypatch.setattr(__config__, f"mcscf_{module}_{name}", limit, raising=False)
    positions = [(0.0, 0.0, z) for z in (0.0, 2.5, 100.0, 102.5)]
    both = Molecule(symbols=("H",) * 4, positions=tuple(positions), charge=0, spin=0)
    one = diatomic("H", "H", 2.5)
    # The second-order energy is linear in the orbitals' errors, gradients over curvatures. For one
    # molecule its derivative, over the curvature of each rotation, has a norm of 0.0031: a gradient
    # of 1e-6 leaves 3.1e-9, four times. Quadrupoles at 100 bohr are 1e-10.
    assert nevpt2(both, "cc-pvdz").energy == pytest.approx(
        2 * nevpt2(one, "cc-pvdz").energy, abs=1.3e-8
    )


def test_nevpt2_breaks_the_bond_of_nitrogen_to_its_atoms() -> None:
    molecule = nevpt2(diatomic("N", "N", 20.0), "cc-pvdz")
    free = nevpt2(atom("N", spin=3), "cc-pvdz")
    assert molecule.note == "active space of 10 electrons in 8 orbitals"
    # The second-order energy, 0.15 hartree, is linear in the orbitals' errors. CASSCF ends at an
    # orbital gradient of 3e-5, the root of its 1e-9, with curvatures of some hartree: 5e-6. The
    # dispersion of the atoms, C6 / R^6 = 24 / 20^6 = 4e-7, is less.
    assert molecule.energy == pytest.approx(2 * free.energy, abs=5e-6)


def test_the_near_degeneracy_of_beryllium_is_in_the_active_space() -> None:
    found = nevpt2(atom("Be"), "cc-pvdz")
    assert found.note == "active space of 2 electrons in 4 orbitals"  # 2s2 and 2p2


def test_perturbative_triples_of_rohf_do_not_depend_on_the_choice_of_orbitals() -> None:
    # Semicanonical orbitals are unique, ROHF's own are not: turn them, keep the determinant.
    mean_field = directly(atom("C", spin=2), "cc-pvdz", scf.ROHF)
    first = correlated_energies(["ccsd(t)"], mean_field, None)["ccsd(t)"]
    rng = np.random.default_rng(3)
    turned = mean_field.mo_coeff.copy()
    for block in (mean_field.mo_occ == 2, mean_field.mo_occ == 0):
        rotation = np.linalg.qr(rng.normal(size=(block.sum(), block.sum())))[0]
        turned[:, block] = turned[:, block] @ rotation
    mean_field.mo_coeff = turned
    second = correlated_energies(["ccsd(t)"], mean_field, None)["ccsd(t)"]
    # The amplitudes' convergence, in which (T) is linear: 1e-7 times integrals below one.
    assert second.energy == pytest.approx(first.energy, abs=1e-7)


def test_full_ci_has_the_molecule_s_spin() -> None:
    # Singlet carbon lies above the triplet, whose M = 0 component plain FCI would find.
    singlet = compute(atom("C"), "sto-3g", "fci")["fci"]
    triplet = compute(atom("C", spin=2), "sto-3g", "fci")["fci"]
    assert singlet.energy > triplet.energy + 0.01


# -- what fails --


def test_refused_and_unconverged_methods_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlated_methods, "MAX_DETERMINANTS", 100)
    monkeypatch.setattr(correlated_methods, "MAX_ACTIVE", 3)
    monkeypatch.setattr(correlated_methods, "_MAX_CYCLES", 1)
    molecule = diatomic("Li", "H", 3.015)
    found = compute(molecule, "cc-pvdz", "rhf", "ccsd(t)", "nevpt2", "fci")
    assert "FCI refused: 2.92e+04 determinants" in found["fci"].note
    assert "NEVPT2 refused: active space of 2 electrons in 5 orbitals" in found["nevpt2"].note
    assert "did not converge in 1 cycles" in found["ccsd(t)"].note
    assert math.isfinite(found.pop("rhf").energy)
    assert all(math.isnan(energy) for energy, _ in found.values())


def test_what_pyscf_raises_is_recorded_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(mean_field: Any) -> MethodEnergy:
        raise ValueError("no root\nand a traceback")

    monkeypatch.setitem(correlated_methods._METHODS, "ccsd(t)", fail)
    found = compute(atom("He"), "cc-pvdz", "ccsd(t)", "fci")
    assert found["ccsd(t)"].note == "ValueError: no root"
    assert math.isnan(found["ccsd(t)"].energy)
    assert found["fci"].energy < -2.88  # 2.8877 hartree in this basis


def test_a_basis_set_that_is_too_small_leaves_the_others() -> None:
    ds = conventional.run(spec_of(atom("He", spin=2), methods=["uhf"], basis=["sto-3g", "cc-pvdz"]))
    assert np.isnan(ds["energy"].values).tolist() == [[True, False]]
    reason = json.loads(ds.attrs["notes"])["sto-3g"]["uhf"]
    assert reason.startswith("conventional.basis: 'sto-3g' gives 1 orbitals for 2 spin-up")


def test_hartree_fock_without_an_end_takes_its_methods_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def give_up(mean_field: Any, density: np.ndarray | None) -> None:
        mean_field.max_cycle = 1
        mean_field.kernel(dm0=density)

    monkeypatch.setattr(hartree_fock, "_converge", give_up)
    found = compute(diatomic("Li", "H", 3.0), "sto-3g", "uhf", "uccsd(t)", "fci")
    assert all(math.isnan(energy) for energy, _ in found.values())
    assert found["fci"].note == "its Hartree-Fock did not converge"


def test_a_spec_without_methods_is_refused() -> None:
    with pytest.raises(InputError, match=r"conventional\.methods: found none for run r"):
        conventional.run(spec_of(atom("He")))


# -- the basis-set limit --


@pytest.mark.parametrize("cardinal", [2, 3, 4, 5])
def test_limits_of_energies_that_follow_the_formulas_are_exact(cardinal: int) -> None:
    def start(limit: float, x: int) -> float:
        return limit + 3.0 * math.exp(-1.63 * x)

    def total(limit: float, x: int) -> float:
        return start(limit, x) - 0.4 + 0.7 / x**3

    def in_basis(x: int) -> dict[str, MethodEnergy]:
        energies = {"rhf": start(-75.0, x), "uhf": start(-75.2, x)}
        energies |= {"ccsd(t)": total(-75.0, x), "uccsd(t)": total(-75.2, x)}
        return {method: MethodEnergy(energy) for method, energy in energies.items()}

    basis = f"cc-pv{' dtq5'[cardinal - 1]}z"
    smaller, larger = in_basis(cardinal), in_basis(cardinal + 1)
    expected = {"rhf": -75.0, "uhf": -75.2, "ccsd(t)": -75.4, "uccsd(t)": -75.6}
    for method, limit in expected.items():
        found = conventional._limit(method, basis, smaller, larger)
        # Rounding of energies of 75 hartree, times 4 by the differences of cubes.
        assert found.energy == pytest.approx(limit, abs=1e-12)
    lost = {**larger, "rhf": MethodEnergy(math.nan, "lost")}
    assert math.isnan(conventional._limit("ccsd(t)", basis, smaller, lost).energy)
    assert math.isfinite(conventional._limit("uccsd(t)", basis, smaller, lost).energy)


def test_limits_of_helium_come_near_its_published_energies() -> None:
    # The numerical Hartree-Fock limit, and Pekeris 1959, doi:10.1103/PhysRev.115.1216.
    published = {"rhf": -2.861679996, "fci": -2.903724377}
    settings = {"methods": list(published), "basis": ["cc-pvtz", "cc-pvqz"], "extrapolate": True}
    energy = conventional.run(spec_of(atom("He"), **settings))["energy"]
    assert list(energy["basis"].values) == ["cc-pvtz", "cc-pvqz", "cbs(t,q)"]
    for method, truth in published.items():
        error = abs(energy.loc[method] - truth)
        # Forms that hold for large sets leave something of the larger set's error.
        assert float(error.loc["cbs(t,q)"]) < 0.5 * float(error.loc["cc-pvqz"])


# -- the stage --


def drive(spec: RunSpec, folder: Path) -> xr.Dataset:
    job = Job("conventional", spec, folder / "conventional.zarr.zip", folder / "work")
    run_stage.run_once(job, conventional.run, Stop())
    return artefacts.load(job.out)


def test_other_methods_start_over_and_keep_the_old(tmp_path: Path) -> None:
    helium = atom("He")
    spec = spec_of(helium, methods=["rhf"], basis=["sto-3g"])
    first = drive(spec, tmp_path)
    assert first.attrs["stage"] == "conventional"
    (tmp_path / "conventional.zarr.zip").unlink()
    # Settings of other stages are none of its business.
    config = spec.config.model_copy(update={"network": NetworkConfig(layers=1)})
    again = drive(spec.model_copy(update={"config": config}), tmp_path)
    assert again.attrs["digest"] == first.attrs["digest"]
    second = drive(spec_of(helium, methods=["rhf", "fci"], basis=["sto-3g"]), tmp_path)
    assert list(second["method"].values) == ["rhf", "fci"]
    assert [path.name for path in (tmp_path / "work" / "aside").iterdir()] == ["result.zarr.zip"]
    text = (tmp_path / "work" / "events.jsonl").read_text()
    assert len(re.findall("finished before", text)) == 1


def state_of(folder: Path) -> tuple[str, str]:
    status = files.read_json(folder / "work" / "status.json") or {}
    return status["state"], status["reason"]


# HDF5 complains once more when it lets go of the file.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_no_result_of_a_method(tmp_path: Path) -> None:
    """PySCF writes integrals in a thread, and passes its error on as text."""
    spec = spec_of(diatomic("H", "H", 1.4), methods=["rhf", "fci"], basis=["cc-pvdz"])
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(ArtefactError, match=r"temporary files .* \(File too large\)"):
            drive(spec, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    state, reason = state_of(tmp_path)
    assert state == "resumable"
    assert "PYSCF_TMPDIR" in reason
    assert np.isfinite(drive(spec, tmp_path)["energy"]).all()


def test_a_lack_of_memory_is_no_result_of_a_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(mean_field: Any) -> MethodEnergy:
        return MethodEnergy(float(np.ones(2**50).sum()))

    spec = spec_of(atom("He"), methods=["fci"], basis=["sto-3g"])
    with monkeypatch.context() as patch:
        patch.setitem(correlated_methods._METHODS, "fci", too_large)
        with pytest.raises(MemoryError, match=r"^fci: Unable to allocate"):
            drive(spec, tmp_path)
    assert state_of(tmp_path)[0] == "resumable"
    assert np.isfinite(drive(spec, tmp_path)["energy"]).all()


def test_a_failure_of_a_method_leaves_its_traceback_in_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def faulty(mean_field: Any) -> MethodEnergy:
        return mean_field.no_such_attribute

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(correlated_methods._METHODS, "fci", faulty)
        found = correlated_methods.correlated_energies(["fci"], object(), None)
    assert "no_such_attribute" in found["fci"].note
    assert "in faulty\n" in capsys.readouterr().err
    # Words of this package say all that there is to say.
    correlated_methods.failed(InputError("no such basis set"), "fci")
    assert capsys.readouterr().err == ""


def test_a_failure_without_words_has_its_type_as_reason() -> None:
    assert correlated_methods.failed(ZeroDivisionError(), "fci").note == "ZeroDivisionError"
    assert correlated_methods.failed(KeyError("1s"), "fci").note == "KeyError: '1s'"


def test_the_active_space_of_valence_electrons_is_that_of_all() -> None:
    """PySCF's labels of shells depend on the electrons that a pseudopotential replaces."""
    spaces = []
    for choice, basis in (("ccecp", "ccecp-cc-pvdz"), ("none", "cc-pvdz")):
        molecule = with_pseudopotentials(("Al", "H"), ((0, 0, 0), (0, 0, 3.1)), choice=choice)
        restricted = scf.RHF(build_mole(molecule, basis)).run()
        found = correlated_methods.active_space(restricted)
        assert found is not None
        spaces.append(found[:2])
    assert spaces == [(5, 4)] * 2  # 3s and 3p of Al, 1s of H


def test_energies_with_a_pseudopotential_are_pyscf_s() -> None:
    """The same molecule, with the potential by PySCF's own name."""
    molecule = with_pseudopotentials(("Li", "H"), ((0, 0, 0), (0, 0, 3.0)), choice={"Li": "ccecp"})
    config = ReferenceConfig(method="rhf", basis="ccecp-cc-pvdz")
    found = float(hartree_fock.solve(molecule, config).attrs["e_hf"])
    mole = gto.M(
        atom="Li 0 0 0; H 0 0 3.0",
        unit="bohr",
        basis={"Li": "ccecp-ccpvdz", "H": "ccpvdz"},
        ecp={"Li": "ccecp"},
        verbose=0,
        parse_arg=False,
    )
    mean_field = scf.RHF(mole)
    mean_field.conv_tol = 1e-11
    assert found == pytest.approx(float(mean_field.kernel()), abs=SCF_ROUNDING)
