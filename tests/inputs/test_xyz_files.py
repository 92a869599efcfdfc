"""Geometries from XYZ files: what is read, what is left out, and the frames of a path."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ferminet_core.errors import InputError
from ferminet_core.inputs.scan import Scan, load_scan
from ferminet_core.units import ANGSTROM_IN_BOHR

Load = Callable[..., Scan]

FRAME = "2\n{}\nH 0 0 0\nH 0 0 {}\n"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a system file with this XYZ file, and with further keys."""

    def write_and_load(xyz: str | bytes, more: str = "xyz: a.xyz\n", units: str = "bohr") -> Scan:
        content = xyz if isinstance(xyz, bytes) else xyz.encode()
        (tmp_path / "a.xyz").write_bytes(content)
        path = tmp_path / "h2.yaml"
        path.write_text(f"units: {units}\npreset: smoke\n{more}")
        return load_scan(path)

    return write_and_load


def distances(scan: Scan) -> dict[str, float]:
    return {run.run_id: run.molecule.positions[1][2] for run in scan.runs}


def test_frames_are_geometries_that_are_numbered(load: Load) -> None:
    scan = load("".join(FRAME.format("a path", 1 + i / 10) for i in range(12)))
    assert list(distances(scan)) == [f"frame_{i}" for i in range(1, 13)]
    assert distances(scan)["frame_12"] == 2.1
    assert scan.parameters == ("frame",)
    assert [run.parameters for run in scan.runs[:2]] == [{"frame": 1.0}, {"frame": 2.0}]


def test_numbers_in_the_comments_are_the_parameters(load: Load) -> None:
    comment = 'R={} theta=90 energy=-{} Properties=species:S:1:pos:R:3 pbc="F F F" note=x'
    scan = load("".join(FRAME.format(comment.format(r, r), r) for r in (1.2, 1.4)))
    # theta is the same in all frames, and an energy is a result.
    assert distances(scan) == {"r_1.2": 1.2, "r_1.4": 1.4}
    assert scan.parameters == ("R",)


def test_frames_that_their_numbers_do_not_tell_apart_are_numbered(load: Load) -> None:
    scan = load("".join(FRAME.format(f"side={side}", r) for side, r in ((1, 1), (1, 2), (2, 3))))
    assert distances(scan) == {"frame_1_side_1": 1, "frame_2_side_1": 2, "frame_3_side_2": 3}


def test_a_number_that_some_frames_lack_is_no_parameter(load: Load) -> None:
    scan = load(FRAME.format("R=1", 1) + FRAME.format("", 2))
    assert list(distances(scan)) == ["frame_1", "frame_2"]


def test_listed_frames_begin_with_the_name_of_their_entry(load: Load) -> None:
    frames = FRAME.format("R=1", 1) + FRAME.format("R=2", 2)
    scan = load(
        frames,
        "geometries: [{name: path, xyz: a.xyz}, {name: he, atoms: [He 0 0 0]}]\n"
        "cases: [{where: R > 1.5, overrides: {seed: 7}}]\nvariants: [{name: base}, {name: v}]\n",
    )
    assert [run.run_id for run in scan.runs] == [
        *("path_r_1", "path_r_1+v", "path_r_2", "path_r_2+v", "he", "he+v")
    ]
    assert [run.config.seed for run in scan.runs] == [0, 0, 7, 7, 0, 0]


def test_a_single_frame_has_the_name_of_the_scan_and_no_parameter(load: Load) -> None:
    scan = load(FRAME.format("R=1.4", 1.4))
    assert distances(scan) == {"h2": 1.4}
    assert scan.parameters == ()


def test_published_energies_may_match_the_parameters_of_frames(load: Load, tmp_path: Path) -> None:
    from ferminet_core.analysis.literature import read_published

    (tmp_path / "x.csv").write_text("R,value\n1,-1.1\n2,-1.2\n")
    scan = load(
        FRAME.format("R=1", 1) + FRAME.format("R=2", 2),
        "xyz: a.xyz\nliterature: [{name: x, file: x.csv, match: {R: R}, kind: method}]\n",
    )
    (published,), warnings = read_published(scan)
    assert (published.values, warnings) == ({"r_1": -1.1, "r_2": -1.2}, [])


@pytest.mark.parametrize(
    "content",
    [
        FRAME.format("", 1.4).encode(),
        b"\xef\xbb\xbf" + FRAME.format("", 1.4).encode(),
        FRAME.format("caf\xe9 \x85", 1.4).encode("latin-1"),
        FRAME.format("", 1.4).replace("\n", "\r\n").encode(),
        FRAME.format("", "1.4D+00").encode(),
        FRAME.format("", "14*^-1").encode(),
        FRAME.format("", "+1.4 0.2 0.3").encode(),
        FRAME.format("", 1.4).replace("H", "1").encode(),
        FRAME.format("", 1.4).replace("H", "h").encode(),
        FRAME.format("", 1.4).encode() + b"4401.2\t1.0\nH[H]\nInChI=1S/H2/h1H\n\n",
    ],
)
def test_variants_of_the_format_give_the_same_molecule(load: Load, content: bytes) -> None:
    (run,) = load(content).runs
    assert run.molecule.symbols == ("H", "H")
    assert run.molecule.positions == ((0, 0, 0), (0, 0, 1.4))


def test_lines_after_the_atoms_may_lie_between_frames(load: Load) -> None:
    scan = load(FRAME.format("", 1) + "1341.3 1341.4\nC C\n>\n" + FRAME.format("", 2))
    assert distances(scan) == {"frame_1": 1, "frame_2": 2}


def test_units_are_those_of_the_system_file(load: Load) -> None:
    scan = load(FRAME.format("units=angstrom", 1), units="angstrom")
    assert distances(scan) == {"h2": ANGSTROM_IN_BOHR}


def test_two_letters_in_capitals_are_one_element(load: Load) -> None:
    (run,) = load("2\n\nLI 0 0 0\nCL 0 0 4\n").runs
    assert run.molecule.symbols == ("Li", "Cl")


def test_frames_cannot_be_one_geometry_of_a_grid_with_their_own_name(load: Load) -> None:
    more = "xyz: a.xyz\nparameters: {R: [1, 2]}\ncases: [{where: R > 1}]\n"
    with pytest.raises(InputError, match="'R' is a parameter of the frames, too; rename yours"):
        load(FRAME.format("R=1", 1) + FRAME.format("R=2", 2), more)
