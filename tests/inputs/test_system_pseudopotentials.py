"""Pseudopotentials in system files: what they mean, and what is refused."""

import json
import re
from pathlib import Path

import pytest
from helpers.scans import make_scan
from pyscf import gto

from ferminet_core.chemistry.gaussian_basis import build_mole, in_pyscf
from ferminet_core.errors import InputError
from ferminet_core.inputs.molecule import Molecule
from ferminet_core.inputs.origin import differences, molecule_differences
from ferminet_core.inputs.run_spec import RunSpec, parse_spec
from ferminet_core.inputs.scan import check_bases
from ferminet_core.planning.network_sizes import network

HCL = "units: bohr\natoms: [H 0 0 0, Cl 0 0 2.4]\npreset: smoke\n"
ATOM = "units: bohr\natoms: [{} 0 0 0]\nspin: {}\npreset: smoke\n"
BASIS = "overrides: {{reference.basis: {}}}\n"


def runs_of(folder: Path, text: str) -> list[RunSpec]:
    folder.mkdir(exist_ok=True)
    scan = make_scan(folder, text)
    check_bases(scan.runs, "here")
    return scan.runs


def refused(folder: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        runs_of(folder, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_or_named_elements(tmp_path: Path) -> None:
    (all_,) = runs_of(
        tmp_path / "a", HCL + "pseudopotential: ccecp\n" + BASIS.format("ccecp-ccpvdz")
    )
    some = HCL + "pseudopotential: {Cl: ccECP}\n" + BASIS.format("ccECP-aug-cc-pVDZ")
    (one,) = runs_of(tmp_path / "b", some)
    none = HCL + "pseudopotential: {Cl: none}\n"
    (without,) = runs_of(tmp_path / "c", none)
    assert [run.molecule.charges for run in (all_, one, without)] == [(1, 7), (1, 7), (1, 17)]
    assert [run.molecule.electrons for run in (all_, one, without)] == [(4, 4), (4, 4), (9, 9)]
    assert [run.molecule.cores for run in (all_, one)] == [{"Cl": 10, "H": 0}, {"Cl": 10}]
    assert one.molecule.atomic_numbers == (1, 17)
    # As PySCF has it: the electrons, the repulsion of the nuclei, and the set of each element.
    mole = build_mole(one.molecule, one.config.reference.basis)
    assert (mole.nelectron, mole.energy_nuc()) == (8, pytest.approx(7 / 2.4))
    assert one.molecule.nuclear_repulsion == pytest.approx(7 / 2.4)
    assert mole.nao == sum(
        gto.M(atom=s, basis=b, ecp=e, spin=1, verbose=0, parse_arg=False).nao
        for s, b, e in (("H", "aug-cc-pvdz", {}), ("Cl", "ccecp-aug-cc-pvdz", "ccecp"))
    )


def test_the_numbers_are_pyscf_s(tmp_path: Path) -> None:
    text = ATOM.format("Cu", 1) + "pseudopotential: ccecp\n" + BASIS.format("ccecp-cc-pvdz")
    (run,) = runs_of(tmp_path, text)
    (potential,) = run.molecule.pseudopotentials
    assert in_pyscf(potential) == gto.basis.load_ecp("ccecp", "Cu")
    assert (potential.name, potential.core, len(potential.channels)) == ("ccecp", 10, 2)


def test_a_molecule_of_all_electrons_is_stored_as_before() -> None:
    """Its hashes are those of versions without pseudopotentials."""
    helium = Molecule(symbols=("He",), positions=((0.0, 0.0, 0.0),))
    stored = {"symbols": ["He"], "positions": [[0.0, 0.0, 0.0]], "charge": 0, "spin": 0}
    assert helium.model_dump(mode="json") == json.loads(helium.model_dump_json()) == stored
    assert Molecule.model_validate(stored) == helium


def test_a_spec_keeps_the_potential(tmp_path: Path) -> None:
    text = HCL + "pseudopotential: ccecp\n" + BASIS.format("ccecp-cc-pvdz")
    (run,) = runs_of(tmp_path / "a", text)
    again = parse_spec(run.model_dump_json(), "a test")
    assert again == run
    assert again.stage_hash("optimise") == run.stage_hash("optimise")
    (plain,) = runs_of(tmp_path / "b", HCL)
    assert plain.stage_hash("reference") != run.stage_hash("reference")
    assert plain.fingerprint != run.fingerprint
    found = molecule_differences(again.molecule, plain.molecule)
    assert found == ["computed with ccecp (Cl, H), the file says all electrons"]
    assert differences(again, run, "inference") == []
    first, *rest = run.molecule.pseudopotentials
    changed = first.model_copy(update={"core": 2})
    other = run.molecule.model_copy(update={"pseudopotentials": (changed, *rest)})
    assert molecule_differences(run.molecule, other) == [
        "computed with ccecp (Cl, H), the file says ccecp (Cl, H) (with other numbers)"
    ]


def test_variants_have_potentials_of_their_own(tmp_path: Path) -> None:
    text = (
        "units: bohr\natoms: [Ag 0 0 0]\nspin: 1\npreset: smoke\n"
        "variants:\n"
        "  - {name: cc, pseudopotential: ccecp, overrides: {reference.basis: ccecp-cc-pvdz}}\n"
        "  - {name: la, pseudopotential: lanl2dz, overrides: {reference.basis: lanl2dz}}\n"
    )
    cc, la = runs_of(tmp_path / "a", text)
    assert [run.molecule.pseudopotentials[0].name for run in (cc, la)] == ["ccecp", "lanl2dz"]
    assert cc.molecule.n_electrons == la.molecule.n_electrons == 19
    text = (
        HCL + "pseudopotential: ccecp\nvariants:\n"
        "  - {name: cc, overrides: {reference.basis: ccecp-cc-pvdz}}\n"
        "  - {name: all, pseudopotential: none}\n"
    )
    cc, all_ = runs_of(tmp_path / "b", text)
    assert (cc.molecule.n_electrons, all_.molecule.n_electrons) == (8, 18)


def test_a_file_in_nwchem_s_format(tmp_path: Path) -> None:
    numbers = "ECP\nLi nelec 2\nLi ul\n1 15.0 1.0\n3 15.0 15.0\n2 1.8 -1.2\nLi S\n2 1.3 6.7\nEND\n"
    (tmp_path / "li.nwchem").write_text(numbers)
    text = ATOM.format("Li", 1) + "pseudopotential: li.nwchem\n"
    (run,) = runs_of(tmp_path, text + BASIS.format("ccecp-cc-pvdz"))
    (potential,) = run.molecule.pseudopotentials
    assert (potential.name, potential.core) == ("li.nwchem", 2)
    assert potential.local == ((1, 15.0, 1.0), (2, 1.8, -1.2), (3, 15.0, 15.0))
    assert potential.channels == (((2, 1.3, 6.7),),)
    line = refused(tmp_path, text.replace("li.nwchem", "no.nwchem"))
    assert line.endswith("no.nwchem: cannot be read: No such file or directory")
    line = refused(tmp_path, text.replace("Li 0", "Na 0"))
    assert "has no pseudopotential of Na in NWChem's format" in line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            HCL + "pseudopotential: ccecpp\n",
            "unknown pseudopotential 'ccecpp'; did you mean 'ccecp'",
        ),
        (
            HCL + "pseudopotential: {Br: ccecp}\n",
            "pseudopotential.Br: no atom is Br; allowed: Cl, H",
        ),
        (HCL + "pseudopotential: {cl: ccecp}\n", "unknown element 'cl'; did you mean 'Cl'"),
        (HCL + "pseudopotential: lanl2dz\n", "'lanl2dz' has no pseudopotential for H; it has Na, "),
        (HCL + "pseudopotential: 3\n", "pseudopotential: .*a name such as ccecp, a file, or"),
        (
            HCL + "pseudopotential: ccecp\n",
            "'cc-pvdz' does not belong to the pseudopotential 'ccecp' of Cl; choose a set that "
            "fits, such as 'ccecp-cc-pvdz'",
        ),
        (
            HCL + "pseudopotential: ccecp\n" + BASIS.format("aug-cc-pvtz"),
            "such as 'ccecp-aug-cc-pvtz'",
        ),
        (
            HCL + "pseudopotential: ccecp\n" + BASIS.format("bfd-vdz"),
            "'bfd-vdz' does not belong .* such as 'ccecp-cc-pvdz'",
        ),
        (
            ATOM.format("Al", 1) + "pseudopotential: ccecp-he\n" + BASIS.format("ccecp-cc-pvdz"),
            "'ccecp-cc-pvdz' does not belong to the pseudopotential 'ccecphe' of Al; choose a "
            "set that fits, such as 'ccecp-he-cc-pvdz'",
        ),
        (
            ATOM.format("Cl", 1) + "pseudopotential: lanl2dz\n" + BASIS.format("cc-pvdz"),
            "such as 'lanl2dz'",
        ),
        (HCL + BASIS.format("ccecp-cc-pvdz"), "needs a pseudopotential for Cl"),
        (ATOM.format("Ag", 1), "Ag needs a pseudopotential; give `pseudopotential`, such as ccecp"),
        (
            ATOM.format("Xe", 0) + "pseudopotential: ccecp\n",
            "for Xe; it has H, ",
        ),
        (ATOM.format("C", 8) + "pseudopotential: ccecp\n", "spin: found 8 .*with 4 electrons"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, line: str) -> None:
    found = refused(tmp_path, text)
    assert re.search(line, found), found


@pytest.mark.parametrize(
    ("potential", "basis", "symbol"),
    [("bfd", "bfd-vdz", "Cl"), ("lanl2dz", "lanl2dz", "Cl"), ("def2-svp", "def2-tzvp", "I")],
)
def test_sets_that_belong_to_a_potential(
    tmp_path: Path, potential: str, basis: str, symbol: str
) -> None:
    text = ATOM.format(symbol, 1) + f"pseudopotential: {potential}\n" + BASIS.format(basis)
    (run,) = runs_of(tmp_path, text)
    assert run.molecule.n_electrons in (7, 25)


ALH = "units: bohr\natoms: [Al 0 0 0, H 0 0 3]\npreset: smoke\npseudopotential: {}\n" + BASIS
BRH, CUH = ALH.replace("Al", "Br"), ALH.replace("Al", "Cu")


@pytest.mark.parametrize(
    ("text", "potential", "basis", "sets"),
    [
        (ALH, "{Al: bfd}", "bfd-vtz", ("bfd-vtz", "cc-pvtz")),
        (ALH, "{Al: ccecp, H: bfd}", "ccecp-cc-pvdz", ("ccecp-cc-pvdz", "bfd-vdz")),
        (ALH, "{Al: ccecp, H: bfd}", "bfd-vdz", ("ccecp-cc-pvdz", "bfd-vdz")),
        (CUH, "{Cu: cc-pvdz-pp}", "aug-cc-pvtz-pp", ("aug-cc-pvtz-pp", "aug-cc-pvtz")),
        (BRH, "{Br: cc-pvdz-pp, H: ccecp}", "cc-pvdz-pp", ("cc-pvdz-pp", "ccecp-cc-pvdz")),
        (ALH, "{Al: stuttgart}", "stuttgart", ("stuttgart", "cc-pvdz")),
        (BRH, "{Br: crenbl}", "crenbl", ("crenbl", "cc-pvdz")),
    ],
)
def test_sets_of_a_size_beside_those_of_a_potential(
    tmp_path: Path, text: str, potential: str, basis: str, sets: tuple[str, str]
) -> None:
    (run,) = runs_of(tmp_path, text.format(potential, basis))
    mole = build_mole(run.molecule, run.config.reference.basis)
    for symbol, name in zip(run.molecule.symbols, sets, strict=True):
        assert sorted(mole._basis[symbol]) == sorted(gto.basis.load(name, symbol))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ALH.format("{Al: bfd}", "cc-pvtz"), "'cc-pvtz' does not belong to"),
        (ALH.format("{Al: bfd}", "cc-pvdzz"), "unknown basis set 'cc-pvdzz'"),
        (ALH.format("{Al: ccecp, H: bfd}", "aug-cc-pvtz"), "'aug-cc-pvtz' does not belong to"),
        (ALH.format("{Al: ecpqvszp}", "ecpqvszp"), "'ecpqvszp' has no functions for Al"),
        (BRH.format("{Br: cc-pvdz-pp}", "cc-pvdz"), "'cc-pvdz' does not belong to"),
        (BRH.format("{Br: lanl08}", "qwertyuiop"), "unknown basis set 'qwertyuiop'"),
        (ATOM.format("U", 4) + "pseudopotential: ecpds60mwbso\n", "'cc-pvdz' has no functions"),
        (ATOM.format("K", 1) + BASIS.format("cc-pcvdz"), "'cc-pcvdz' has no functions for K"),
        (HCL + BASIS.format("bfd-vdz"), "'bfd-vdz' has no functions for H|needs a pseudopot"),
    ],
)
def test_a_suggested_set_is_accepted(tmp_path: Path, text: str, problem: str) -> None:
    line = refused(tmp_path / "a", text)
    assert re.search(problem, line), line
    suggested = re.findall(r"(?:mean|as|try) '([^']+)'", line)[-1]
    runs_of(tmp_path / "b", text.partition("overrides")[0] + BASIS.format(suggested))


def test_potentials_that_no_set_fits(tmp_path: Path) -> None:
    line = refused(tmp_path, ALH.format("{Al: lanl2dz, H: ccecp}", "cc-pvdz"))
    assert line.endswith("`pseudopotential: ccecp` with 'ccecp-cc-pvdz' fits all elements")
    runs_of(tmp_path, ALH.format("ccecp", "ccecp-cc-pvdz"))


def test_limits_of_two_sets_of_one_potential(tmp_path: Path) -> None:
    text = ATOM.format("C", 2) + "pseudopotential: ccecp\noverrides:\n  reference.basis: "
    text += "ccecp-cc-pvdz\n  conventional: {methods: [ccsd(t)], extrapolate: true, basis: %s}\n"
    (run,) = runs_of(tmp_path, text % "[ccecp-cc-pvtz, ccecp-cc-pvqz]")
    assert run.config.conventional.extrapolate
    assert "neighbours" in refused(tmp_path, text % "[cc-pvtz, ccecp-cc-pvqz]")


@pytest.mark.parametrize(
    ("sets", "tried"),
    [
        ("[ccecp-cc-pvdz, cc-pvtz]", "; try [ccecp-cc-pvtz, ccecp-cc-pvqz]"),
        ("[bfd-vtz, bfd-vqz]", " with the pseudopotential ccecp [ccecp-cc-pvtz, ccecp-cc-pvqz]"),
    ],
)
def test_limits_to_try_belong_to_the_potential(tmp_path: Path, sets: str, tried: str) -> None:
    text = ATOM.format("C", 2) + "pseudopotential: ccecp\noverrides:\n  reference.basis: "
    text += "ccecp-cc-pvdz\n  conventional: {methods: [ccsd(t)], extrapolate: true, basis: %s}\n"
    line = refused(tmp_path / "a", text % sets)
    assert line.endswith(tried)
    runs_of(tmp_path / "b", text % f"[{line.rpartition('[')[2]}")


VARIANTS = "variants:\n  - {name: base}\n  - {name: other, pseudopotential: %s}\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            ATOM.format("I", 1) + "pseudopotential: ccecp\n" + VARIANTS % "none",
            r"variants\[1\]\.pseudopotential: found 'none', and I needs a pseudopotential, such as",
        ),
        (
            ATOM.format("I", 1) + VARIANTS % "ccecp",
            r"variants\[0\]\.pseudopotential: is missing, and I needs a pseudopotential, such as",
        ),
        (
            ATOM.format("I", 1) + "pseudopotential: {I: none}\n",
            r":5: pseudopotential: found \{'I': 'none'\}, and I needs",
        ),
        (HCL + VARIANTS % "ccecp", "here: variant other: reference.basis: 'cc-pvdz' does not"),
        (
            HCL + "pseudopotential: ccecp\n" + VARIANTS % "none" + BASIS.format("ccecp-cc-pvdz"),
            "here: variant other: reference.basis: 'ccecp-cc-pvdz' needs a pseudopotential",
        ),
        (HCL + "pseudopotential: ccecp\n" + VARIANTS % "ccecp", "here: reference.basis: "),
        (
            "units: bohr\npreset: smoke\ngeometries:\n"
            "  - {name: a, atoms: [Al 0 0 0], spin: 1, pseudopotential: ccecp}\n",
            r"geometries\[0\]\.pseudopotential: unknown key; give .* at the top of the file or in",
        ),
        (
            HCL + "cases: [{where: R > 2, pseudopotential: ccecp}]\n",
            r"cases\[0\]\.pseudopotential: unknown key; give .* at the top of the file or in a",
        ),
        (
            HCL + "overrides: {pseudopotential: ccecp}\n",
            "overrides.pseudopotential: found 'ccecp'; give the potential at the top of",
        ),
        (
            HCL + "overrides: {pseudopotential: {Cl: ccecp}}\n",
            "overrides.pseudopotential.Cl: unknown setting; give the potential at the top of",
        ),
        (
            HCL + "pseudopotential: {quadrature: icosahedron}\n",
            r"pseudopotential.quadrature: no element; .*overrides: {pseudopotential.quadrature: ",
        ),
    ],
)
def test_the_key_and_its_place_are_named(tmp_path: Path, text: str, line: str) -> None:
    found = refused(tmp_path, text)
    assert re.search(line, found), found


def test_cores_are_not_nuclei(tmp_path: Path) -> None:
    """SiC: with one charge for both, it would have the symmetry of two equal atoms."""
    text = "units: bohr\natoms: [Si 0 0 0, C 0 0 3.2]\npreset: smoke\npseudopotential: ccecp\n"
    (run,) = runs_of(tmp_path, text + BASIS.format("ccecp-cc-pvdz"))
    assert run.molecule.charges == (4.0, 4.0)
    assert network(run.config.network, run.molecule).parities == 0
