"""Coupled cluster, NEVPT2 and full CI from a Hartree-Fock solution.

All electrons are correlated, as in the quantum Monte Carlo that they are compared with. A method
that fails or is refused does not stop the run. It is recorded with its reason, without an energy.
"""

import math
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pyscf import ao2mo, cc, fci, gto, mcscf, mrpt, scf
from pyscf.gto.ecp import core_configuration
from pyscf.mcscf import avas

from ferminet_core.chemistry.hartree_fock import fix_degenerate
from ferminet_core.chemistry.orbitals import half_power
from ferminet_core.errors import FermiNetError, describe, failed_machine

# Bound on the product of up and down strings: about 4 GB of trial vectors.
MAX_DETERMINANTS = 2e7
# The four-electron density matrix of an active space of n orbitals has n^8 numbers: 0.8 GB for 10.
MAX_ACTIVE = 10
_MAX_CYCLES = 200
# A molecular orbital is active if the share of valence atomic orbitals in it is at least this.
_VALENCE_SHARE = 0.3
# hartree. Wider than the split that CASSCF's convergence (an orbital gradient of 3e-5) can leave
# between equal orbitals. Off-diagonal Fock elements of this size count by their square: 1e-8 of the
# perturbation energy.
_DEGENERATE = 1e-4
_VALENCE_BASIS = "sto-3g"  # PySCF's own choice has no 2p orbitals of lithium and beryllium


class MethodEnergy(NamedTuple):
    """A method's energy of a molecule.

    energy: hartree, NaN if the method failed or was refused
    note: the reason for a NaN, or a remark on the energy
    """

    energy: float
    note: str = ""


def no_energy(reason: str) -> MethodEnergy:
    """A method that failed or was refused."""
    return MethodEnergy(math.nan, reason)


def failed(error: Exception, what: str) -> MethodEnergy:
    """A method that raised an error; PySCF raises errors of many types.

    Args:
        error: What it raised.
        what: The method or basis set, for the message on a lack of memory.

    Raises:
        OSError: Files failed (a full disk, a missing folder), not the method.
        MemoryError: There is not enough memory.
    """
    machine = failed_machine(error)
    if isinstance(machine, OSError):
        raise machine from error
    if machine is not None:
        remedy = "give it more memory, or choose a smaller basis set"
        raise MemoryError(f"{what}: {describe(machine)}; {remedy}") from error
    line = describe(error).split("\n")[0]
    if not isinstance(error, FermiNetError) and line != type(error).__name__:
        line = f"{type(error).__name__}: {line}"
    if not isinstance(error, FermiNetError):
        traceback.print_exception(error)  # a line does not tell where a bug is
    return no_energy(line)


def _semicanonical(restricted: Any) -> Any:
    """ROHF determinant in semicanonical orbitals, as a UHF object.

    They diagonalise each spin's Fock matrix among the occupied and among the empty orbitals. The
    (T) correction of an ROHF reference is defined in these orbitals (Watts, Gauss and Bartlett
    1993, doi:10.1063/1.464480).
    """
    unrestricted = scf.addons.convert_to_uhf(restricted)
    fock = unrestricted.get_fock(dm=unrestricted.make_rdm1())
    orbitals, energies = [], []
    for spin in range(2):
        c, occupied = unrestricted.mo_coeff[spin].copy(), unrestricted.mo_occ[spin] > 0
        energy = np.zeros(len(occupied))
        for block in (occupied, ~occupied):
            if block.any():
                part = c[:, block]
                energy[block], rotation = np.linalg.eigh(part.T @ fock[spin] @ part)
                c[:, block] = part @ rotation
        orbitals.append(c)
        energies.append(energy)
    unrestricted.mo_coeff, unrestricted.mo_energy = np.stack(orbitals), np.stack(energies)
    return unrestricted


def _coupled_cluster(mean_field: Any) -> MethodEnergy:
    """CCSD(T) from an RHF, ROHF or UHF object."""
    mole: gto.Mole = mean_field.mol
    orbitals = np.asarray(mean_field.mo_coeff).shape[-1]
    empty = [orbitals - n for n in mole.nelec]
    if mole.nelectron == 1 or sum(empty) == 0:
        note = "no correlation: one electron or no empty orbital"
        return MethodEnergy(float(mean_field.e_tot), note)
    if isinstance(mean_field, scf.rohf.ROHF):
        mean_field = _semicanonical(mean_field)
    if isinstance(mean_field, scf.hf.RHF):
        solver = cc.RCCSD(mean_field)
    elif min(*empty, *mole.nelec) > 0:
        solver = cc.UCCSD(mean_field)
    else:  # the spin-orbital code handles a spin without excitations
        solver = cc.GCCSD(scf.addons.convert_to_ghf(mean_field))
    solver.max_cycle = _MAX_CYCLES
    # PySCF's default limits leave 2e-7 hartree, measured for two electrons, where CCSD is FCI.
    solver.conv_tol, solver.conv_tol_normt = 1e-9, 1e-7
    solver.verbose = 0
    solver.kernel()
    if not solver.converged:
        return no_energy(f"CCSD did not converge in {_MAX_CYCLES} cycles")
    if solver.e_corr > 1e-7:  # another root, such as the triplet of a broken bond
        return no_energy("CCSD converged to a state above its reference")
    return MethodEnergy(float(solver.e_tot + solver.ccsd_t()))


def _full_ci(restricted: Any) -> MethodEnergy:
    """Full CI of the molecule's spin from restricted orbitals."""
    mole: gto.Mole = restricted.mol
    c = np.asarray(restricted.mo_coeff)
    orbitals, (n_up, n_down) = c.shape[1], mole.nelec
    determinants = math.comb(orbitals, n_up) * math.comb(orbitals, n_down)
    if determinants > MAX_DETERMINANTS:
        return no_energy(
            f"FCI refused: {determinants:.2e} determinants, at most {MAX_DETERMINANTS:.0e}; "
            "choose a smaller basis set"
        )
    integrals = ao2mo.kernel(mole, c)
    core = c.T @ restricted.get_hcore() @ c
    half = 0.5 * mole.spin
    exact = half * (half + 1.0)
    solver = fci.direct_spin1.FCI(mole)
    solver.verbose = 0
    solver.conv_tol, solver.max_cycle = 1e-10, _MAX_CYCLES
    energy, vector = solver.kernel(core, integrals, orbitals, mole.nelec, ecore=mole.energy_nuc())
    if abs(fci.spin_square(vector, orbitals, mole.nelec)[0] - exact) > 1e-3:
        # A state of higher spin is lower, or degenerate states have mixed: raise the others.
        fci.addons.fix_spin_(solver, ss=exact)
        energy, vector = solver.kernel(
            core, integrals, orbitals, mole.nelec, ecore=mole.energy_nuc()
        )
    s2 = float(fci.spin_square(vector, orbitals, mole.nelec)[0])
    if not solver.converged or abs(s2 - exact) > 1e-2:
        return no_energy(
            f"FCI did not converge to the wanted spin (<S^2> = {s2:.3f}, wanted {exact:.3f})"
        )
    return MethodEnergy(float(energy))


def _valence_shells(mole: gto.Mole) -> list[str] | None:
    """PySCF's labels of the atoms' valence orbitals; None beyond argon."""
    shells = {1: ("1s",), 3: ("2s", "2p"), 11: ("3s", "3p")}
    labels = set()
    for symbol in {mole.atom_pure_symbol(i) for i in range(mole.natm)}:
        charge = gto.charge(symbol)
        if charge > 18:
            return None
        labels |= {f"{symbol} {name}" for name in shells[max(z for z in shells if z <= charge)]}
    return sorted(labels)


def _valence_basis(mole: gto.Mole) -> str | dict[str, list[Any]]:
    """The set that has the atoms' valence orbitals under PySCF's labels.

    PySCF counts an atom's shells from the first one that its pseudopotential leaves. So the set of
    such an atom has no other shells.
    """
    if not mole.has_ecp():
        return _VALENCE_BASIS
    found = {}
    for atom in range(mole.natm):
        symbol = mole.atom_pure_symbol(atom)
        below = list(core_configuration(mole.atom_nelec_core(atom), symbol))
        kept = []
        for shell in gto.basis.load(_VALENCE_BASIS, symbol):
            if below[shell[0]] > 0:
                below[shell[0]] -= 1
            else:
                kept.append(shell)
        found[symbol] = kept
    return found


def active_space(restricted: Any) -> tuple[int, int, np.ndarray] | None:
    """The valence shell, found by its overlap with the atoms' valence orbitals.

    By AVAS (Sayfutyarova et al. 2017, doi:10.1021/acs.jctc.7b00128), so that bonds may be broken.

    Args:
        restricted: A converged restricted Hartree-Fock solution of PySCF.

    Returns:
        Orbitals, electrons and the coefficients (ao, orbital) to start from; None beyond argon.
    """
    mole: gto.Mole = restricted.mol
    labels = _valence_shells(mole)
    if labels is None:
        return None
    minao = _valence_basis(mole)
    orbitals, electrons, start = avas.avas(
        restricted, labels, threshold=_VALENCE_SHARE, minao=minao, canonicalize=False
    )
    return int(orbitals), int(electrons), start


def _nevpt2(restricted: Any) -> MethodEnergy:
    """Strongly contracted NEVPT2 (Angeli et al. 2001, doi:10.1063/1.1361246) on a CASSCF.

    Strong contraction depends on how degenerate core and empty orbitals are turned among each
    other: by 2e-5 hartree for two nitrogen atoms far apart, as rounding chooses. Orbitals of one
    atom each make the energies of the atoms add up, so that is the choice.
    """
    mole: gto.Mole = restricted.mol
    if mole.nelectron == 1:
        return MethodEnergy(float(restricted.e_tot), "no correlation: one electron")
    valence = active_space(restricted)
    if valence is None:
        return no_energy("NEVPT2 refused: atoms beyond argon")
    orbitals, electrons, start = valence
    space = f"active space of {electrons} electrons in {orbitals} orbitals"
    if orbitals > MAX_ACTIVE:
        return no_energy(f"NEVPT2 refused: {space}, at most {MAX_ACTIVE} orbitals")
    half = 0.5 * mole.spin
    solver = mcscf.CASSCF(restricted, orbitals, electrons)
    solver.fix_spin_(ss=half * (half + 1.0))
    solver.verbose = 0
    solver.conv_tol, solver.max_cycle_macro = 1e-9, _MAX_CYCLES
    solver.kernel(start)
    if not solver.converged:
        return no_energy(f"CASSCF with an {space} did not converge in {_MAX_CYCLES} cycles")
    perturbation = mrpt.NEVPT(solver)
    perturbation.verbose = 0
    _settle(perturbation, solver)
    return MethodEnergy(float(solver.e_tot + perturbation.kernel()), space)


def _settle(perturbation: Any, solver: Any) -> None:
    """Give NEVPT2 the CASSCF's canonical orbitals, degenerate ones turned onto their atoms."""
    canonical, vector, energies = solver.canonicalize(
        solver.mo_coeff, solver.ci, cas_natorb=True, verbose=0
    )[:3]
    half = half_power(solver.mol.intor_symmetric("int1e_ovlp"))
    orbitals = canonical.copy()
    # The active orbitals stay, for the vector belongs to them.
    for part in (slice(solver.ncore), slice(solver.ncore + solver.ncas, None)):
        alike = np.zeros(len(energies[part]))
        orbitals[:, part] = fix_degenerate(
            canonical[:, part], energies[part], alike, half, _DEGENERATE
        )
    perturbation.mo_coeff, perturbation.ci, perturbation.mo_energy = orbitals, vector, energies
    perturbation.canonicalized = True


_METHODS = {
    "ccsd(t)": _coupled_cluster,
    "uccsd(t)": _coupled_cluster,
    "nevpt2": _nevpt2,
    "fci": _full_ci,
}


def correlated_energies(
    methods: Sequence[str], restricted: Any | None, unrestricted: Any | None
) -> dict[str, MethodEnergy]:
    """Energies of correlated methods, by method.

    Args:
        methods: Any of "ccsd(t)", "nevpt2", "fci" (from RHF or ROHF) and "uccsd(t)" (from UHF).
        restricted: Converged PySCF RHF or ROHF object, or None.
        unrestricted: Converged PySCF UHF object, or None.

    Raises:
        OSError: As `failed`.
        MemoryError: As `failed`.
    """
    fields = {method: unrestricted if method == "uccsd(t)" else restricted for method in methods}
    return {method: _energy(method, fields[method]) for method in methods}


def _energy(method: str, mean_field: Any | None) -> MethodEnergy:
    """The energy of a method, or the reason why it failed."""
    if mean_field is None:
        return no_energy("its Hartree-Fock did not converge")
    try:
        found = _METHODS[method](mean_field)
    except Exception as error:  # noqa: BLE001  (recorded as the reason)
        return failed(error, method)
    if math.isinf(found.energy) or (math.isnan(found.energy) and not found.note):
        return no_energy("its energy is not a finite number")
    return found
