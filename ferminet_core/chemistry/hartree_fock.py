"""Hartree-Fock reference from PySCF: RHF, ROHF or UHF, with a reproducible choice.

Near dissociation a wrong reference is the likeliest physics error of a scan. So this module tries
several initial guesses, analyses the stability of each solution (Seeger and Pople 1977,
doi:10.1063/1.434318) and follows instabilities downhill. It records each solution with its energy
and <S^2>, and the choice with its reason. A spin-broken UHF solution of a system with equal numbers
of up and down electrons yields two determinants, the solution and its spin-flipped image, which
together represent the singlet.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyscf
import xarray as xr
from pyscf import gto, lib, scf
from pyscf.data import elements

from ferminet_core.chemistry.determinant_families import Determinant, family
from ferminet_core.chemistry.gaussian_basis import build_mole, shell_variables
from ferminet_core.chemistry.orbitals import half_power
from ferminet_core.errors import BrokenRunError, InputError
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.start_settings import ReferenceConfig

# A UHF solution counts if its energy is this much (hartree) below the restricted one.
LOWER = 1e-6
# A UHF solution is spin-broken if <S^2> exceeds S(S + 1) by this.
BROKEN_SPIN = 0.01
# Otherwise PySCF opens a temporary file for every solution, which nothing reads.
scf.hf.MUTE_CHKFILE = True
# Limit of the descent along instabilities. Two steps are already rare.
_MAX_DESCENTS = 6
# Curvatures (hartree) closer to zero come from a degenerate state or from rounding.
_FLAT = 1e-5
# Largest number of orbital rotations whose whole Hessian is diagonalised.
_DENSE = 100


class Solution(NamedTuple):
    """One converged (or abandoned) self-consistent field solution."""

    method: str  # "rhf", "rohf" or "uhf"
    guess: str
    energy: float  # hartree
    s2: float
    converged: bool
    stable: bool | None  # against rotations within its own method
    stable_uhf: bool | None  # closed-shell RHF: against UHF
    coefficients: np.ndarray  # (spin, ao, orbital)
    energies: np.ndarray  # (spin, orbital), hartree
    occupations: np.ndarray  # (spin, orbital)
    mean_field: Any  # the PySCF object

    def record(self) -> dict[str, Any]:
        """The record of this solution in the artefact."""
        return {
            "method": self.method,
            "guess": self.guess,
            "energy_Eh": self.energy,
            "s2": self.s2,
            "converged": self.converged,
            "stable": self.stable,
            "stable_uhf": self.stable_uhf,
        }


def _converge(mean_field: Any, density: np.ndarray | None) -> None:
    """Run to self-consistency: DIIS, then second-order steps, then a level shift; in place."""
    mean_field.kernel(dm0=density)
    if mean_field.converged:
        return
    _second_order(mean_field, mean_field.mo_coeff)
    if mean_field.converged:
        return
    mean_field.level_shift = 0.3
    mean_field.kernel(dm0=mean_field.make_rdm1())
    mean_field.level_shift = 0.0
    mean_field.kernel(dm0=mean_field.make_rdm1())


def _second_order(mean_field: Any, orbitals: np.ndarray) -> None:
    """Descend by second-order steps, which do not climb back to a saddle as DIIS may; in place."""
    newton = mean_field.newton()
    newton.max_cycle = 200
    newton.kernel(orbitals, mean_field.mo_occ)
    mean_field.mo_coeff, mean_field.mo_occ = newton.mo_coeff, newton.mo_occ
    mean_field.mo_energy = newton.mo_energy
    mean_field.e_tot, mean_field.converged = newton.e_tot, newton.converged


def _rotations(mean_field: Any) -> int:
    """Number of orbital rotations that change the determinant."""
    occupation = np.asarray(mean_field.mo_occ)
    if occupation.ndim == 2:
        filled = (occupation > 0).sum(axis=1)
        return int((filled * (occupation.shape[1] - filled)).sum())
    double, single = int((occupation == 2).sum()), int((occupation == 1).sum())
    empty = occupation.size - double - single
    return double * single + (double + single) * empty


def _lowest_mode(mean_field: Any) -> tuple[float, np.ndarray]:
    """Lowest curvature of the energy (hartree) under orbital rotations, and its orbitals.

    The orbitals returned are moved along that mode.
    """
    newton = mean_field.newton()
    orbitals, occupation = mean_field.mo_coeff, mean_field.mo_occ
    _, hessian, diagonal = newton.gen_g_hop(orbitals, occupation)
    size = diagonal.size
    if size <= _DENSE:
        matrix = np.stack([hessian(unit) for unit in np.eye(size)])
        values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    else:
        # A search that starts with a symmetry keeps it and misses modes that break it. So the
        # search starts with the cheapest rotations and one without symmetry.
        starts = list(np.eye(size)[np.argsort(diagonal)[:3]])
        starts.append(np.random.default_rng(0).normal(size=size) / (0.1 + np.abs(diagonal)))
        found = lib.davidson(
            hessian,
            starts,
            lambda residual, value, _: residual / np.maximum(np.abs(diagonal - value), 1e-2),
            tol=1e-7,
            max_cycle=100,
            nroots=3,
            verbose=0,
        )
        values, vectors = found[0], np.stack(found[1], axis=1)
    turn = newton.update_rotate_matrix(vectors[:, 0], occupation)
    return float(values[0]), newton.rotate_mo(orbitals, turn)


def _is_stable(mean_field: Any) -> tuple[bool, np.ndarray]:
    """Stability within the method, and the orbitals moved along the lowest mode."""
    if mean_field.mol.nelectron == 1 or _rotations(mean_field) == 0:
        return True, mean_field.mo_coeff
    curvature, orbitals = _lowest_mode(mean_field)
    return curvature > -_FLAT, orbitals


def _descend(mean_field: Any) -> bool:
    """Follow instabilities downhill; returns whether the last solution is stable."""
    stable, orbitals = _is_stable(mean_field)
    for _ in range(_MAX_DESCENTS):
        if stable or not mean_field.converged:
            break
        _second_order(mean_field, orbitals)
        stable, orbitals = _is_stable(mean_field)
    return stable


def determinant_spin_squared(up: np.ndarray, down: np.ndarray, overlap: np.ndarray) -> float:
    """<S^2> of a determinant of orbitals up (ao, n_up) and down (ao, n_down).

    Szabo and Ostlund, Modern Quantum Chemistry, equation 2.271.
    """
    half = 0.5 * (up.shape[1] - down.shape[1])
    spilled = down.shape[1] - float(np.sum((up.T @ overlap @ down) ** 2))
    return half * (half + 1.0) + spilled


def _solve_once(
    mole: gto.Mole, method: str, guess: str, density: np.ndarray | None = None
) -> Solution:
    """One solution of a method from one initial density, with its stability."""
    build = {"rhf": scf.RHF, "rohf": scf.ROHF, "uhf": scf.UHF}[method]
    mean_field = build(mole)
    # Tighter than any use of the orbitals requires: E_HF is exact to 1e-9 hartree.
    mean_field.conv_tol, mean_field.conv_tol_grad = 1e-10, 1e-6
    mean_field.max_cycle = 150
    _converge(mean_field, density)
    stable = _descend(mean_field) if mean_field.converged else None
    stable_uhf = None
    if method == "rhf" and mean_field.converged:
        stable_uhf = _is_stable(scf.addons.convert_to_uhf(mean_field))[0]
    coefficients, energies = np.asarray(mean_field.mo_coeff), np.asarray(mean_field.mo_energy)
    occupations = np.asarray(mean_field.mo_occ)
    if method != "uhf":
        coefficients, energies = np.stack([coefficients] * 2), np.stack([energies] * 2)
        occupations = np.stack([occupations > 0, occupations == 2])
    occupied = [c[:, o > 0] for c, o in zip(coefficients, occupations, strict=True)]
    return Solution(
        method=method,
        guess=guess,
        energy=float(mean_field.e_tot),
        s2=determinant_spin_squared(occupied[0], occupied[1], mole.intor_symmetric("int1e_ovlp")),
        converged=bool(mean_field.converged),
        stable=stable,
        stable_uhf=stable_uhf,
        coefficients=coefficients,
        energies=energies,
        occupations=occupations.astype(float),
        mean_field=mean_field,
    )


def _unpaired(symbol: str) -> int:
    """Number of unpaired electrons of the neutral atom, by Hund's rule."""
    total = 0
    for momentum, count in enumerate(elements.CONFIGURATION[gto.charge(symbol)]):
        places = 2 * momentum + 1
        open_shell = count % (2 * places)
        total += open_shell if open_shell <= places else 2 * places - open_shell
    return total


def _alternating_signs(positions: np.ndarray) -> np.ndarray:
    """Signs +1 and -1 so that each atom differs from the nearest one with a sign: (M,)."""
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    signs = np.zeros(len(positions))
    signs[0] = 1.0
    while not signs.all():
        done, left = np.flatnonzero(signs), np.flatnonzero(signs == 0)
        row, column = np.unravel_index(
            np.argmin(distances[np.ix_(done, left)]), (len(done), len(left))
        )
        signs[left[column]] = -signs[done[row]]
    return signs


def _alternating_density(mole: gto.Mole) -> np.ndarray:
    """Atomic densities with spins that alternate from atom to atom: (spin, ao, ao)."""
    density = np.asarray(scf.hf.init_guess_by_minao(mole))
    signs = _alternating_signs(mole.atom_coords())
    polarisation = np.zeros(mole.nao)
    for atom, (_, _, first, last) in enumerate(mole.aoslice_by_atom()):
        symbol = mole.atom_pure_symbol(atom)
        polarisation[first:last] = signs[atom] * _unpaired(symbol) / mole.atom_charge(atom)
    tilt = 0.25 * (polarisation[:, None] + polarisation[None, :]) * density
    return np.stack([0.5 * density + tilt, 0.5 * density - tilt])


def _density(solution: Solution) -> np.ndarray:
    """Density matrices of a solution: (spin, ao, ao)."""
    return np.einsum(
        "sao,so,sbo->sab", solution.coefficients, solution.occupations, solution.coefficients
    )


def _mixed_density(solution: Solution) -> np.ndarray:
    """Closed-shell density with the highest occupied orbital h split into (h + l) and (h - l)."""
    c, occupied = solution.coefficients[0], int(solution.occupations[0].sum())
    core = c[:, : occupied - 1] @ c[:, : occupied - 1].T
    parts = [(c[:, occupied - 1] + s * c[:, occupied]) / np.sqrt(2.0) for s in (1.0, -1.0)]
    return np.stack([core + np.outer(part, part) for part in parts])


def _unrestricted_guesses(
    mole: gto.Mole, restricted: Solution
) -> list[tuple[str, Callable[[], np.ndarray | None]]]:
    """Initial densities for UHF, by name."""
    guesses: list[tuple[str, Callable[[], np.ndarray | None]]] = []
    if restricted.converged:
        guesses.append((f"{restricted.method} orbitals", lambda: _density(restricted)))
    if mole.nelectron == 1:
        return guesses  # one electron: every guess leads to the same exact solution
    if mole.spin != 0:
        guesses.append(("minao", lambda: None))
    elif restricted.converged and restricted.occupations[0].sum() < len(restricted.energies[0]):
        guesses.append(("mixed frontier orbitals", lambda: _mixed_density(restricted)))
    if mole.natm > 1 and any(_unpaired(mole.atom_pure_symbol(i)) for i in range(mole.natm)):
        guesses.append(("alternating spins", lambda: _alternating_density(mole)))
    return guesses or [("minao", lambda: None)]


def all_solutions(mole: gto.Mole, unrestricted: bool) -> list[Solution]:
    """All solutions that were tried.

    The first is the restricted one: RHF, or ROHF for an open shell. If `unrestricted` is set, UHF
    from several guesses follows.
    """
    restricted = _solve_once(mole, "rhf" if mole.spin == 0 else "rohf", "minao")
    solutions = [restricted]
    if unrestricted:
        solutions += [
            _solve_once(mole, "uhf", name, density())
            for name, density in _unrestricted_guesses(mole, restricted)
        ]
    return solutions


def lowest(solutions: list[Solution], method: str) -> Solution | None:
    """The lowest converged solution of a method; the first one of equal solutions."""
    found = [s for s in solutions if s.method == method and s.converged]
    if not found:
        return None
    bottom = min(solution.energy for solution in found)
    return next(solution for solution in found if solution.energy <= bottom + 1e-8)


def _choose(solutions: list[Solution], method: str, system: str) -> tuple[Solution, str]:
    """The reference and the reason for it.

    Raises:
        BrokenRunError: No solution converged.
    """
    label = solutions[0].method
    restricted, unrestricted = lowest(solutions, label), lowest(solutions, "uhf")
    name = label.upper()
    wanted = {"auto": restricted or unrestricted, "uhf": unrestricted}.get(method, restricted)
    if wanted is None:
        tried = ", ".join(f"{s.method} from {s.guess}" for s in solutions)
        raise BrokenRunError(
            f"Hartree-Fock did not converge for {system} (tried {tried}, with second-order steps "
            "and a level shift); choose another reference.basis or reference.method"
        )
    if method == "rohf" and label == "rhf":
        return wanted, "rohf as asked: for a closed shell it is RHF"
    if method != "auto":
        return wanted, f"{method} as asked"
    if restricted is None:
        return wanted, f"auto: {name} did not converge, UHF did"
    if unrestricted is None:
        return restricted, f"auto: UHF did not converge, {name} did"
    gain = restricted.energy - unrestricted.energy
    if gain > LOWER:
        return unrestricted, f"auto: UHF lies {gain:.6f} hartree below {name}"
    return restricted, f"auto: no UHF solution lies more than {LOWER:g} hartree below {name}"


def fix_degenerate(
    coefficients: np.ndarray,
    energies: np.ndarray,
    labels: np.ndarray,
    half: np.ndarray,
    width: float = 1e-6,
) -> np.ndarray:
    """Turn degenerate orbitals of equal occupation into the ones that a fixed operator tells apart.

    Any rotation among them is as good for Hartree-Fock, so that rounding would choose. The operator
    weighs the Loewdin-orthogonalised AOs by their number, and so turns a p or pi set along the
    axes, and those of equal atoms far apart onto the atoms. The largest coefficient of each orbital
    (the first of several as large) is made positive.

    Args:
        coefficients: (ao, orbital), by rising energy among those of one label.
        energies: (orbital,), hartree.
        labels: (orbital,); orbitals of different labels are never mixed.
        half: the overlap matrix to the power 1/2.
        width: neighbours less than this apart, in hartree, are degenerate.
    """
    fixed = coefficients.copy()
    start = 0
    for stop in range(1, len(energies) + 1):
        same = stop < len(energies) and labels[stop] == labels[start]
        if same and energies[stop] - energies[stop - 1] < width:
            continue
        if stop - start > 1:
            block = half @ fixed[:, start:stop]
            weighed = block.T @ (np.arange(1.0, len(block) + 1.0)[:, None] * block)
            fixed[:, start:stop] = fixed[:, start:stop] @ np.linalg.eigh(weighed)[1]
        start = stop
    size = np.abs(fixed)
    first = np.argmax(size > 0.999 * size.max(axis=0), axis=0)
    return fixed * np.where(fixed[first, np.arange(fixed.shape[1])] < 0.0, -1.0, 1.0)


def _standard_form(solution: Solution, overlap: np.ndarray) -> Solution:
    """The same determinant, with all that convention is free to choose fixed."""
    half = half_power(overlap)
    occupations = solution.occupations
    labels = occupations if solution.method == "uhf" else np.stack([occupations.sum(axis=0)] * 2)
    coefficients = np.stack(
        [
            fix_degenerate(c, e, o, half)
            for c, e, o in zip(solution.coefficients, solution.energies, labels, strict=True)
        ]
    )
    fixed = solution._replace(coefficients=coefficients)
    if occupations[0].sum() != occupations[1].sum():
        return fixed
    # Between a spin-broken solution and its image, choose the one whose first polarised AO is up.
    density = half @ (_density(fixed)[0] - _density(fixed)[1]) @ half
    polarised = np.flatnonzero(np.abs(np.diagonal(density)) > 1e-3)
    if polarised.size and density[polarised[0], polarised[0]] < 0.0:
        flip = slice(None, None, -1)
        fixed = fixed._replace(
            coefficients=coefficients[flip],
            energies=fixed.energies[flip],
            occupations=occupations[flip],
        )
    return fixed


def _dataset(molecule: Molecule, mole: gto.Mole, solution: Solution) -> xr.Dataset:
    """Arrays of the artefact. `solve` describes them and adds the attributes."""
    (up, down), (up_energies, down_energies) = (
        [x[..., o > 0] for x, o in zip(values, solution.occupations, strict=True)]
        for values in (solution.coefficients, solution.energies)
    )
    first = Determinant(up, down, up_energies, down_energies)
    broken = mole.spin == 0 and solution.s2 > BROKEN_SPIN
    with lib.with_omp_threads(1):
        related = family(mole, first, broken)
    if related:
        determinants = related.determinants
    else:
        determinants = [first, first.flipped()] if broken else [first]
    dataset = xr.Dataset(
        {
            "mo_up": (("determinant", "ao", "orbital_up"), np.stack([d.up for d in determinants])),
            "mo_down": (
                ("determinant", "ao", "orbital_down"),
                np.stack([d.down for d in determinants]),
            ),
            "orbital_coefficient": (("spin", "ao", "orbital"), solution.coefficients),
            "orbital_energy": (("spin", "orbital"), solution.energies),
            "orbital_occupation": (("spin", "orbital"), solution.occupations),
            "overlap": (("ao", "ao_2"), mole.intor_symmetric("int1e_ovlp")),
            "nuclei": (("nucleus", "xyz"), np.asarray(molecule.positions, dtype=float)),
            "nuclear_charge": ("nucleus", np.asarray(molecule.charges, dtype=float)),
            **shell_variables(mole),
        }
    )
    if related:
        dataset["coefficient"] = ("determinant", related.coefficients)
        for spin, energies in (
            ("up", np.stack([d.up_energies for d in determinants])),
            ("down", np.stack([d.down_energies for d in determinants])),
        ):
            dataset[f"mo_{spin}_energy"] = (("determinant", f"orbital_{spin}"), energies)
        dataset.attrs["e_family"] = related.energy
        if related.parities:
            parities = [((matrix + 0.0).tolist(), value) for matrix, value in related.parities]
            dataset.attrs["parities"] = json.dumps(parities)
    for name, unit in (
        *((name, "hartree") for name in dataset if str(name).endswith("_energy")),
        ("nuclei", "bohr"),
        ("primitive_exponent", "bohr^-2"),
    ):
        dataset[name].attrs["units"] = unit
    return dataset


def solve(molecule: Molecule, config: ReferenceConfig, cartesian: bool = False) -> xr.Dataset:
    """Hartree-Fock reference of a molecule, as the determinants that walkers and pretraining use.

    It runs on one thread, so the same input gives the same bits on the same machine.

    Args:
        molecule: Nuclei (bohr), charge and spin.
        config: Method ("auto", "rhf", "rohf", "uhf") and basis set.
        cartesian: Whether d, f, ... functions are Cartesian instead of spherical.

    Returns:
        Dataset with mo_up (determinant, ao, orbital_up) and mo_down (determinant, ao,
        orbital_down), bohr^(-3/2) coefficients over the AOs; orbital_coefficient (spin, ao,
        orbital), orbital_energy and orbital_occupation (spin, orbital); overlap (ao, ao_2); nuclei
        (nucleus, xyz), nuclear_charge; and the basis as shell_centre, shell_momentum (shell),
        primitive_shell, primitive_exponent, primitive_coefficient (primitive). Attributes: method,
        reason, e_hf (hartree), s2, basis, cartesian, and as JSON: energies (lowest by method),
        stability (of the chosen), solutions (all tried).

    Raises:
        InputError: The basis is unusable, or RHF is asked for with an open shell.
        BrokenRunError: No solution of the method converged.
    """
    if config.method == "rhf" and molecule.spin != 0:
        raise InputError(
            f"reference.method: rhf needs spin 0, found spin {molecule.spin}; use rohf, uhf or auto"
        )
    mole = build_mole(molecule, config.basis, cartesian)
    with lib.with_omp_threads(1):
        solutions = all_solutions(mole, unrestricted=config.method in ("auto", "uhf"))
        system = "".join(molecule.symbols) + f" in {config.basis}"
        chosen, reason = _choose(solutions, config.method, system)
    best = {name: lowest(solutions, name) for name in dict.fromkeys(s.method for s in solutions)}
    fixed = _standard_form(chosen, mole.intor_symmetric("int1e_ovlp"))
    dataset = _dataset(molecule, mole, fixed)
    dataset.attrs.update(
        method=chosen.method,
        reason=reason,
        e_hf=chosen.energy,
        s2=chosen.s2,
        basis=config.basis,
        cartesian=int(cartesian),
        fingerprint=molecule.fingerprint,
        energies=json.dumps({name: s.energy for name, s in best.items() if s is not None}),
        stability=json.dumps({"internal": chosen.stable, "rhf_to_uhf": chosen.stable_uhf}),
        solutions=json.dumps([{**s.record(), "chosen": s is chosen} for s in solutions]),
        pyscf=pyscf.__version__,
    )
    return dataset
