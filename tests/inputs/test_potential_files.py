"""Files with pseudopotentials: what is read, and that nothing else gets by."""

import re
from pathlib import Path

import pytest
from helpers.scans import make_scan
from pyscf import gto

from ferminet_core.errors import InputError
from ferminet_core.inputs.molecule import Molecule, Pseudopotential, RadialTerm
from ferminet_core.inputs.origin import molecule_differences, same_molecule
from ferminet_core.inputs.potential_files import Parts, read_potential
from ferminet_core.inputs.pseudopotentials import (
    NONE,
    Choice,
    canonical,
    from_pyscf,
    is_file,
    pseudopotentials,
)

AL = """ECP
Al nelec 10
Al ul
1        5.073893000      3.000000000
2        3.027490000    -11.165685000
3        8.607001000     15.221680000
Al s
2        7.863954000     14.879513000
2        2.061358000     20.746863000
Al p
2        3.125175000      7.786227000
2        1.414930000      7.109015000
END
"""
LOCAL = (
    RadialTerm(1, 5.073893, 3.0),
    RadialTerm(2, 3.02749, -11.165685),
    RadialTerm(3, 8.607001, 15.22168),
)
NUMBERS = Parts(
    10,
    {
        -1: LOCAL,
        0: (RadialTerm(2, 7.863954, 14.879513), RadialTerm(2, 2.061358, 20.746863)),
        1: (RadialTerm(2, 3.125175, 7.786227), RadialTerm(2, 1.41493, 7.109015)),
    },
)
BASIS = 'BASIS "ao basis" SPHERICAL PRINT\nAl    S\n  0.3045  0.19\n  0.1013  -0.9\nEND\n'
CL = AL.replace("Al", "Cl").replace("7.8", "8.8")


def read(folder: Path, text: str, symbol: str = "Al") -> Parts:
    path = folder / "a.nwchem"
    path.write_bytes(text.encode())
    return read_potential(path, symbol, "here")


def asked(choice: Choice, symbols: set[str], folder: Path = Path()) -> tuple[Pseudopotential, ...]:
    return pseudopotentials(choice, symbols, folder, lambda *keys: ".".join(("here", *keys)))


def refused(choice: Choice, symbols: set[str]) -> str:
    with pytest.raises(InputError) as caught:
        asked(choice, symbols)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "symbols"),
    [
        ("ccecp", ("H", "C", "Cl", "Cu", "Au", "Gd", "Bi")),
        ("ccecphe", ("Al",)),
        ("sbkjc", ("B", "N", "Rn")),
        ("lanl2dz", ("Na", "Ag", "Pu")),
        ("stuttgart", ("Li", "U")),
        ("ecpqvszp", ("B", "Rn")),
        ("ccpvdzpp", ("Cu", "Au")),
        ("def2svp", ("I",)),
    ],
)
def test_the_numbers_are_those_of_pyscf_s_reader(name: str, symbols: tuple[str, ...]) -> None:
    """Of its own files, with basis sets before the potentials, to the last bit."""
    path = Path(gto.basis.__file__).parent / gto.basis.ALIAS[name]
    for symbol in symbols:
        assert read_potential(path, symbol, "here") == from_pyscf(name, symbol), symbol


@pytest.mark.parametrize(
    "text",
    [
        AL,
        AL.replace("ECP\n", "").replace("END\n", ""),
        AL.replace("\n", "\r\n"),
        "\N{BYTE ORDER MARK}" + AL,
        f"# ccECP\n! of Al\n\n{AL}".replace("Al s", "Al s # a part\n\n").replace(
            "END", "END ! all"
        ),
        AL.upper().replace("NELEC", "nelec").replace("END", "end"),
        re.sub(r"(\.[0-9]+)", r"\1d0", AL),
        re.sub(r"(\.[0-9]+)", r"\1D+00", AL),
        BASIS + AL,
        BASIS.replace("END\n", "") + AL,
        AL + BASIS,
        CL + AL,
        AL.replace("END\n", "") + CL.replace("ECP\n", "").replace("3.000000000", "?"),
        AL.replace("Al s\n", "Al s\n2 1.0 0.0\n"),
    ],
)
def test_what_is_read(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == NUMBERS


@pytest.mark.parametrize("local", ["Al ul\n", "Al ul\n2 1.0 0.0\n"])
def test_a_local_part_may_be_zero(tmp_path: Path, local: str) -> None:
    text = f"Al nelec 10\n{local}" + AL[AL.index("Al s") :]
    assert read(tmp_path, text).terms == {**NUMBERS.terms, -1: ()}


ROW = "2        2.061358000     20.746863000"  # line 9


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (ROW, "2 2.0", ":9: found '2 2.0'; allowed: three numbers, n, a and c of a term c r"),
        (ROW, ROW + " 0.5", ":9: found .* spin-orbit coupling, which this program does not"),
        (ROW, ROW + " (fit)", r":9: found .* \(fit\)'; allowed: three numbers.* begin with #$"),
        (ROW, "2 2,061 20.7", ":9: found '2,061'; allowed: a finite number, such as 1.5 or 1.5d0"),
        (ROW, "2 1*2 20.7", r":9: found '1\*2'; allowed: a finite number"),
        (ROW, "2 1_0 20.7", ":9: found '1_0'; allowed: a finite number"),
        (ROW, "2 1.0 nan", ":9: found 'nan'; allowed: a finite number"),
        (ROW, "2 1.0 1e999", ":9: found '1e999'; allowed: a finite number"),
        (ROW, "2 -2.0 20.7", ":9: found a = '-2.0'; allowed: more than 0"),
        (ROW, "2 1e-999 20.7", ":9: found a = '1e-999'; allowed: more than 0"),
        (ROW, "-1 2.0 20.7", ":9: found n = '-1'; allowed: 0 to 4"),
        (ROW, "7 2.0 20.7", ":9: found n = '7'; allowed: 0 to 4"),
        (ROW, "2.0 2.0 20.7", ":9: found n = '2.0'; allowed: 0 to 4"),
        ("nelec 10", "nelec 10.5", ":2: found 'Al nelec 10.5'; allowed after `nelec`: .* whole"),
        ("nelec 10", "nelec", ":2: found 'Al nelec'; allowed after `nelec`"),
        ("nelec 10", "nelec 8", "`Al nelec 8` leaves Al the charge 5, .* part cancels 3 / r"),
        ("nelec 10", "nelec 11", "`Al nelec 11` leaves Al the charge 2, .* part cancels 3 / r"),
        ("Al nelec 10\n", "", "has no line `Al nelec` in NWChem's format"),
        ("Al p", "Al q", ":10: found 'Al q'; allowed: `Al nelec` with .* one of s, p, d"),
        ("Al p", "p", ":10: found 'p'; allowed: `Al nelec`"),
        ("Al p", "Al s", ":10: found a second `Al s`; allowed: one potential of Al"),
        ("Al ul\n", "", r":3: found '1 5.07.* belongs to no part; allowed before it: `Al ul`"),
        ("Al ul\n", "Al d\n", "has no local part of Al, `Al ul`; allowed: one, without rows"),
        ("END\n", "SO\nAl p\n2 1.0 1.0\nEND\n", ":13: found 'SO', a block for spin-orbit"),
        ("END\n", "END\n" + AL, ":15: found a second `Al nelec`; allowed: one potential of Al"),
        (AL, "", "has no pseudopotential of Al in NWChem's format, which begins with `Al nelec`"),
        (AL, CL, "has no pseudopotential of Al .*; it has Cl$"),
        (AL, BASIS, "has no pseudopotential of Al in NWChem's format"),
        (AL, "AL 0\nAL-ECP 2 10\n", ":1: found 'AL 0'; allowed: `Al nelec` with a number"),
    ],
)
def test_what_is_refused(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert old in AL
    with pytest.raises(InputError) as caught:
        read(tmp_path, AL.replace(old, new, 1))
    found = str(caught.value)
    assert found.startswith(f"here: {tmp_path}/a.nwchem:")
    assert "\n" not in found
    assert re.search(line, found), found


def test_nothing_in_a_file_runs(tmp_path: Path) -> None:
    """PySCF's reader would evaluate the row."""
    made = tmp_path / "made"
    row = f"2 1.0 bool(open({str(made)!r},'w').write('x'))"
    with pytest.raises(InputError, match=r"found .bool"):
        read(tmp_path, AL.replace(ROW, row))
    assert not made.exists()


def test_a_name_never_reads_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PySCF prefers a file of this name in the working folder."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "made"
    numbers = AL.replace("20.746863000", f"bool(open({str(made)!r},'w').write('x'))")
    for name in ("ccecp", "lanl2dz", "ccecpp"):
        (tmp_path / name).write_text(numbers)
    (potential,) = asked("ccecp", {"Al"}, tmp_path)
    assert potential.local == LOCAL
    assert "did you mean 'ccecp'" in refused("ccecpp", {"Al"})
    assert not made.exists()


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("al.nwchem", "al.nwchem"),
        ("pots/al.nwchem", "al.nwchem"),
        ("pots/ccecp", "pots/ccecp"),
        ("./pots/ccecp", "pots/ccecp"),
        ("./ccecp", "./ccecp"),
        ("pots/../ccecp", "../ccecp"),
    ],
)
def test_a_stored_name_tells_files_from_names(tmp_path: Path, given: str, stored: str) -> None:
    (tmp_path / "pots").mkdir()
    path = tmp_path / given
    path.write_text(AL)
    (potential,) = asked(given, {"Al"}, tmp_path)
    assert potential.name == stored
    assert is_file(stored)
    (potential,) = asked(str(path), {"Al"})
    assert is_file(potential.name)


def test_one_spelling_of_a_name() -> None:
    names = ("ccecp", "ccECP", "cc-ECP", "CC_ecp")
    found = {asked(name, {"Al", "H"}) for name in names}
    assert [potential.name for potential in found.pop()] == ["ccecp", "ccecp"]
    assert not found
    assert [canonical(n) for n in ("def2-SVP", NONE, "Al.NWChem", "A-b/C")] == [
        "def2svp",
        NONE,
        "Al.NWChem",
        "A-b/C",
    ]


def test_a_result_under_another_spelling_is_no_other() -> None:
    """Versions before this one stored the spelling of the system file."""
    (potential,) = asked("ccecp", {"Al"})
    new, old, other = (
        Molecule(
            symbols=("Al",),
            positions=((0.0, 0.0, 0.0),),
            spin=1,
            pseudopotentials=(potential.model_copy(update={"name": name}),),
        )
        for name in ("ccecp", "ccECP", "bfd")
    )
    assert same_molecule(new, old)
    assert molecule_differences(old, new) == []
    charged = old.model_copy(update={"charge": 1, "spin": 0})
    assert not any("ecp" in line for line in molecule_differences(charged, new))
    assert not same_molecule(new, other)


@pytest.mark.parametrize(
    ("choice", "symbols", "line"),
    [
        ("def2-svp", {"I", "H"}, r"choose one that has H, or .* as in \{I: def2-svp\}$"),
        ("def2-svp", {"I", "Br", "Rb"}, r"that has Br, or .* as in \{Rb: def2-svp, I: def2-svp\}$"),
        ("def2-svp", {"H"}, "; choose one that has H$"),
        ({"H": "def2-svp"}, {"I", "H"}, "^here.H: .*; choose one that has H$"),
        ("ccepc", {"Al"}, "^here: unknown pseudopotential 'ccepc'; did you mean 'ccecp'\\?$"),
        ("None", {"Al"}, "did you mean 'none'\\?$"),
        ("wrong", {"Al"}, "; allowed: none, a file, or a name of PySCF's, such as 'ccecp'$"),
        ({"AL": "ccecp"}, {"Al"}, "did you mean 'Al'\\? allowed: H to Kr, with a pseudopotential"),
        ("~nobody-here/al", {"Al"}, "~nobody-here/al: cannot be read: No such file"),
    ],
)
def test_suggestions(choice: Choice, symbols: set[str], line: str) -> None:
    found = refused(choice, symbols)
    assert re.search(line, found), found


def test_an_empty_name_is_refused(tmp_path: Path) -> None:
    text = 'units: bohr\natoms: [Al 0 0 0]\nspin: 1\npreset: smoke\npseudopotential: ""\n'
    with pytest.raises(InputError, match="found ''; allowed: text that is not empty"):
        make_scan(tmp_path, text)
