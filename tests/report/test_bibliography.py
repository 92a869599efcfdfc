"""`cite`: BibTeX that a strict reader accepts, and the right entries for what runs used."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import ROOT
from typer.testing import CliRunner

from ferminet_core.cli import commands
from ferminet_core.errors import InputError
from ferminet_core.inputs.config import NETWORK_DEFAULTS, OPTIMISER_DEFAULTS
from ferminet_core.inputs.run_spec import RunSpec
from ferminet_core.inputs.scan import load_scan
from ferminet_core.report import bibliography
from ferminet_core.storage import files

# Fields that an entry of a type must have; `software` is BibLaTeX's.
REQUIRED = {
    "article": {"author", "title", "journal", "volume", "pages", "year"},
    "inproceedings": {"author", "title", "booktitle", "year"},
    "incollection": {"author", "title", "booktitle", "publisher", "year"},
    "book": {"author", "title", "publisher", "year"},
    "misc": {"author", "title", "year", "eprint"},
    "software": {"author", "title", "year", "url"},
}


def parse_bibtex(text: str) -> dict[str, dict[str, str]]:
    """Entries by key; refuses all that is not `@type{key, name = {value}, ...}` or a comment line.

    Raises:
        ValueError: anything else.
    """
    text.encode("ascii")
    found: dict[str, dict[str, str]] = {}
    lines = iter([line for line in text.splitlines() if line and not line.startswith("%")])
    for line in lines:
        head = re.fullmatch(r"@([a-z]+)\{([A-Za-z]+\d{4}),", line)
        if not head:
            raise ValueError(f"no entry begins here: {line}")
        fields = {"": head[1]}
        for field in lines:
            if field == "}":
                break
            match = re.fullmatch(r"  ([a-z]+) = \{(.+)\},", field)
            if not match or match[1] in fields or not balanced(match[2]):
                raise ValueError(f"{head[2]}: {field}")
            fields[match[1]] = match[2]
        else:
            raise ValueError(f"{head[2]} does not end")
        if head[2] in found:
            raise ValueError(f"{head[2]} is there twice")
        found[head[2]] = fields
    return found


def balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def runs_of(folder: Path, system: str, **overrides: Any) -> list[RunSpec]:
    path = folder / "system.yaml"
    path.write_text(system)
    return load_scan(path, overrides={k.replace("__", "."): v for k, v in overrides.items()}).runs


def cited(runs: Sequence[RunSpec], sources: Sequence[str] = ()) -> Mapping[str, str]:
    return bibliography.purposes(runs, sources)[0]


H2 = """
units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {R: [1.4, 2.0]}
preset: paper
"""
ATOM = "units: bohr\natoms: [%s 0 0 0]\nspin: %d\npreset: paper\n"


@pytest.mark.parametrize(
    "broken",
    [
        "@article{Pfau2020,\n  title = {A {B},\n}\n",
        "@article{Pfau2020,\n  title = {A}\n}\n",
        "@article{Pfau2020,\n  title = {A},\n",
        "@article{Pfau2020,\n  year = {1},\n  year = {2},\n}\n",
        "Article{Pfau2020,\n}\n",
        "@article{Pfau2020,\n}\n@article{Pfau2020,\n}\n",
    ],
)
def test_the_reader_of_this_test_is_strict(broken: str) -> None:
    with pytest.raises(ValueError, match="Pfau2020"):
        parse_bibtex(broken)


def test_every_entry_is_complete() -> None:
    parsed = parse_bibtex(bibliography.BIB_FILE.read_text(encoding="utf-8"))
    assert list(parsed) == list(bibliography.entries())
    for key, fields in parsed.items():
        kind = fields.pop("")
        assert REQUIRED[kind] <= set(fields), key
        assert key.endswith(fields["year"]), key
        assert re.fullmatch(r"(\d+|[a-z]?\d+)(--\d+)?", fields.get("pages", "1")), key
        first, _, last = fields.get("pages", "1").partition("--")
        assert not last or int(first) < int(last), key
        assert re.fullmatch(r"10\.\d{4,5}/\S+", fields.get("doi", "10.0000/x")), key
        assert ("eprint" in fields) == ("archiveprefix" in fields), key
        assert re.fullmatch(r"\d{4}\.\d{4,5}", fields.get("eprint", "0000.0000")), key
        for author in fields["author"].split(" and "):
            assert ", " in author or author == "others" or author.startswith("{"), key
    identities = [f.get("doi") or f.get("eprint") or f["title"] for f in parsed.values()]
    assert len(set(identities)) == len(identities)


def test_every_key_has_an_entry() -> None:
    named = {key for use in bibliography.USES for key in use.keys}
    named |= {key for *_, key in (*bibliography.BASES, *bibliography.POTENTIALS)}
    assert named <= set(bibliography.entries())


@pytest.mark.parametrize("optimiser", OPTIMISER_DEFAULTS)
def test_every_optimiser_has_a_purpose_of_its_own(tmp_path: Path, optimiser: str) -> None:
    def purposes(name: str) -> set[str]:
        runs = runs_of(tmp_path, H2, optimise__optimiser=name)
        return {use.purpose for use in bibliography.USES if any(map(use.applies, runs))}

    others = (purposes(name) for name in OPTIMISER_DEFAULTS if name != optimiser)
    assert purposes(optimiser).difference(*others)


@pytest.mark.parametrize("kind", sorted(NETWORK_DEFAULTS.keys() - {"ferminet"}))
def test_every_network_has_a_purpose_of_its_own(tmp_path: Path, kind: str) -> None:
    def purposes(**settings: object) -> set[str]:
        runs = runs_of(tmp_path, H2, **settings)
        return {use.purpose for use in bibliography.USES if any(map(use.applies, runs))}

    inputs = {"network__inputs": "log", "network__jastrow": True}
    assert purposes(network__kind=kind, **inputs) - purposes(**inputs)


def test_every_entry_is_reached(tmp_path: Path) -> None:
    """By settings, and by the tables of literature."""
    correlated = ["ccsd(t)", "uccsd(t)", "nevpt2", "fci"]
    found = set(cited(runs_of(tmp_path, H2)))
    for name in OPTIMISER_DEFAULTS:
        found |= set(cited(runs_of(tmp_path, H2, optimise__optimiser=name)))
    for settings in (
        {"network__kind": "psiformer"},
        {"network__jastrow": True, "network__inputs": "log", "pretrain__optimiser": "lamb"},
        {
            "conventional__methods": correlated,
            "conventional__basis": ["cc-pvtz", "cc-pvqz"],
            "conventional__extrapolate": True,
        },
    ):
        found |= set(cited(runs_of(tmp_path, H2, **settings)))
    found |= set(cited(runs_of(tmp_path, H2 + "warm_start: neighbours\n")))
    found |= set(cited(runs_of(tmp_path, H2 + "sharing: scan\n")))
    for symbol, spin, basis in (
        ("He", 0, "cc-pvdz"),
        ("Be", 0, "cc-pvdz"),
        ("C", 2, "aug-cc-pcvdz"),
        ("Ar", 0, "cc-pcvdz"),
        ("Fe", 4, "cc-pvdz"),
        ("Br", 1, "cc-pvdz"),
        ("C", 2, "STO-3G"),
        ("C", 2, "6-31g"),
        ("C", 2, "def2-TZVP"),
    ):
        found |= set(cited(runs_of(tmp_path, ATOM % (symbol, spin), reference__basis=basis)))
    for symbol, spin, name in (
        ("C", 2, "ccecp"),
        ("Cl", 1, "ccecp"),
        ("Fe", 4, "ccecp"),
        ("Br", 1, "ccecp"),
        ("Ag", 1, "ccecp"),
        ("Cl", 1, "bfd"),
    ):
        text = ATOM % (symbol, spin) + f"pseudopotential: {name}\n"
        basis = {"ccecp": "ccecp-cc-pvdz", "bfd": "bfd-vdz"}[name]
        keys, missing = bibliography.purposes(runs_of(tmp_path, text, reference__basis=basis), ())
        assert missing == []
        found |= set(keys)
    for path in sorted((ROOT / "systems/literature").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            sources = [row["source"] for row in csv.DictReader(file)]
        found |= set(cited([], sources))
    assert found == set(bibliography.entries())


def test_only_what_was_used_is_cited(tmp_path: Path) -> None:
    def keys(system: str = H2, **overrides: Any) -> set[str]:
        return set(cited(runs_of(tmp_path, system, **overrides)))

    plain = keys()
    assert {"Pfau2020", "Martens2015", "KFACJAX2022", "Li2024", "Sun2020"} <= plain
    unused = {"Goldshlager2024", "Chen2024", "You2020", "Umrigar1989", "Kato1957", "Angeli2001"}
    assert not plain & (unused | {"Kendall1992", "Watts1993", "Knowles1984"})
    adam = keys(optimise__optimiser="adam", pretrain__optimiser="lamb")
    assert {"Kingma2015", "You2020"} <= adam
    assert not adam & {"Martens2015", "KFACJAX2022"}
    assert "Kingma2015" not in keys(pretrain__optimiser="lamb")
    paper = keys(H2.replace("preset: paper", "preset: pfau2020"))
    assert "Spencer2020" in plain
    assert "Spencer2020" not in paper
    # Of a closed shell (T) on RHF's orbitals is the first paper's; on other orbitals it is not.
    assert "Watts1993" not in keys(conventional__methods=["ccsd(t)"])
    assert "Watts1993" in keys(conventional__methods=["uccsd(t)"])
    assert "Watts1993" in keys(ATOM % ("Li", 1), conventional__methods=["ccsd(t)"])
    limit = {"conventional__basis": ["cc-pcvdz", "cc-pcvtz"], "conventional__extrapolate": True}
    assert not keys(ATOM % ("C", 2), **limit) & {"Halkier1998", "Woon1995"}  # no method asked for
    found = keys(ATOM % ("C", 2), **limit, conventional__methods=["uhf"])
    assert {"Halkier1999", "Halkier1998", "Woon1995"} <= found
    # One electron, no curve: no exchange in S^2, nothing to fit.
    assert not keys(ATOM % ("H", 1)) & {"Pauncz1979", "Simons1973", "Jay2021"}


def test_a_run_that_started_warm_was_not_pretrained(tmp_path: Path) -> None:
    anchor, warm = sorted(
        runs_of(tmp_path, H2 + "warm_start: {anchors: [r_1.4]}\n"), key=lambda run: run.neighbour
    )
    assert "Hough2006" in cited([anchor])
    assert not {"Hough2006", "Kingma2015", "DeepMind2020"} & set(cited([warm]))
    assert {"Umrigar1989", "Prim1957"} <= set(cited([warm]))


def test_a_shared_wavefunction_and_what_it_rests_on_are_cited(tmp_path: Path) -> None:
    of_sharing = {"Scherbela2022", "Gao2022", "Schoenemann1966", "Prim1957", "Umrigar1989"}
    of_sharing |= {"Filippi2000"}
    spring = cited(runs_of(tmp_path, H2, optimise__optimiser="spring"))
    assert not of_sharing & set(spring)
    shared = cited(runs_of(tmp_path, H2 + "sharing: scan\n"))
    # The group is pretrained, and optimised by SPRING.
    assert set(shared) == set(spring) | of_sharing


def test_what_has_no_entry_is_said(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, ATOM % ("C", 2), reference__basis="ano-rcc")
    text = bibliography.bibliography(runs, ["Nobody1999", "Sims2006; Pachucki2010"], "here")
    assert "% no entry for basis set ano-rcc of C: cite its authors\n" in text
    assert "% no entry for the source 'Nobody1999' of published energies\n" in text
    assert {"Sims2006", "Pachucki2010"} <= set(parse_bibtex(text))


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("ccecp-he", "ccecphe"),
        ("ecpqvszp", "ecpqvszp"),
        ("ccecp.nwchem", "ccecp.nwchem"),
        ("pots/ccecp", "pots/ccecp"),
    ],
)
def test_a_potential_without_an_entry_is_said(tmp_path: Path, name: str, stored: str) -> None:
    """A file has no entry, whatever its name."""
    (tmp_path / "pots").mkdir()
    for path in ("ccecp.nwchem", "pots/ccecp"):
        text = "ECP\nAl nelec 10\nAl ul\n1 5.0 3.0\n2 5.0 3.0\nAl S\n2 8.0 20.0\nEND\n"
        (tmp_path / path).write_text(text)
    runs = runs_of(tmp_path, ATOM % ("Al", 1) + f"pseudopotential: {name}\n")
    assert f"% no entry for pseudopotential {stored} of Al: cite its authors\n" in (
        bibliography.bibliography(runs, (), "here")
    )
    # The set of another potential has an entry all the same.
    runs = runs_of(
        tmp_path,
        ATOM % ("Al", 1) + "pseudopotential: pots/ccecp\n",
        reference__basis="ccecp-aug-cc-pvdz",
    )
    assert cited(runs)["Bennett2018"] == "basis set ccecp-aug-cc-pvdz"
    runs = runs_of(tmp_path, ATOM % ("Al", 1) + "pseudopotential: bfd-pp\n")
    assert cited(runs)["Burkatzki2007"] == "pseudopotential bfdpp"


def test_papers_named_in_the_code_have_entries() -> None:
    """Every DOI and arXiv number in the package's docstrings and comments.

    The module `machines` is left out: a price is not a method.
    """
    pattern = re.compile(r"doi:(10\.\d{4,5}/\S+?)[).,:;]*(?=\s|$)|arXiv:(\d{4}\.\d{4,5})")
    named = {
        doi or eprint
        for path in (ROOT / "ferminet_core").rglob("*.py")
        if path.stem != "machines"
        for doi, eprint in pattern.findall(path.read_text(encoding="utf-8"))
    }
    assert {"10.1063/1.434318", "2401.10190"} <= named  # or the pattern finds nothing
    bibtex = bibliography.BIB_FILE.read_text(encoding="utf-8")
    assert [name for name in sorted(named) if f"{{{name}}}" not in bibtex] == []


def invoke(*arguments: str | Path) -> str:
    done = CliRunner().invoke(commands.app, ["cite", *map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_the_command_reads_system_files_and_results(tmp_path: Path) -> None:
    scan = load_scan(ROOT / "systems" / "h2.yaml")
    text = invoke(ROOT / "systems" / "h2.yaml")
    assert text.startswith("% References for 8 runs of ")
    assert "%   Sims2006        published energies for comparison\n" in text
    with pytest.raises(InputError, match="not the folder of a scan, a run or all results"):
        invoke(tmp_path)
    folder = tmp_path / "h2" / "spec"
    folder.mkdir(parents=True)
    for run in scan.runs:
        (folder / f"{run.run_id}.json").write_text(run.model_dump_json())
    before = set(parse_bibtex(invoke(tmp_path / "h2")))
    assert before == set(parse_bibtex(text)) - {"Sims2006"}
    derived = {"literature": {"exact": {"sources": ["Sims2006"]}}}
    files.write_json(tmp_path / "h2" / "summary.json", derived)
    assert set(parse_bibtex(invoke(tmp_path))) == set(parse_bibtex(text))


def test_the_summary_keeps_the_sources() -> None:
    from ferminet_core.analysis.summary import summarise

    derived = summarise(load_scan(ROOT / "systems" / "n2.yaml"), {}).derived["literature"]
    assert derived["ferminet"]["sources"] == ["Pfau2020 (digitised from Gao2022 Fig. 6)"]
