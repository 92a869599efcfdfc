"""The command `check` on 300 and more inputs, most of them wrong.

A wrong one ends with the exit code 2 and a line for each problem, which names the file and the key.
None leaves a traceback or takes long.
"""

import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from ferminet_core.__main__ import main
from ferminet_core.inputs.config import Config, setting_keys
from ferminet_core.inputs.messages import MAX_LINES

# Processor seconds of one check, a guard against work that grows with the square of the input. A
# right file takes some hundredths. 60 000 unknown keys took 1.4 to 2.2 beside other work.
LIMIT = 5.0
# Seconds after which an input counts as one that hangs, on a machine with other work.
HANGS = 60

BASE = """\
units: bohr
atoms: [H 0 0 0, H 0 0 R]
parameters: {R: [1.4]}
preset: smoke
"""
XYZ = "units: angstrom\nxyz: a.xyz\npreset: smoke\n"
H2 = "2\n\nH 0 0 0\nH 0 0 0.74\n"


class Input(NamedTuple):
    """One input: a system file, further files, options, and what is expected.

    line: a pattern of the error line, after the file; None for an accepted file
    """

    name: str
    text: str | bytes
    line: str | None
    files: Mapping[str, str | bytes] = MappingProxyType({})
    options: tuple[str, ...] = ()
    prepare: Callable[[Path], None] | None = None


class Outcome(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float


class Hangs(BaseException):
    """Not an Exception, which the outermost frame would report as a bug."""


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Runs the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def stop(*_: object) -> None:
        raise Hangs

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ferminet-core", "check", *arguments])
        previous = signal.signal(signal.SIGALRM, stop)
        signal.alarm(HANGS)
        start = time.process_time()
        try:
            code = main()
        except SystemExit as end:  # a wrong option
            code = int(end.code or 0)
        finally:
            seconds = time.process_time() - start
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)
        out, err = capfd.readouterr()
        return Outcome(code, out, err, seconds)

    return run


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """The first check imports PySCF and pandas."""
    import pandas  # noqa: F401
    import pyscf.gto  # noqa: F401


def with_setting(key: str, value: str) -> str:
    return f"{BASE}overrides: {{{key}: {value}}}\n"


# --- settings -------------------------------------------------------------------------------------

WRONG_NUMBERS = ("1e30", "-7", "many", ".nan", ".inf", "true", "[1]", "{a: 1}", "'64'", "9" * 400)
WRONG_OTHERS = ("3.5", "[3]", "{a: 1}", "~", "qwertyuiop", ".nan")


def settings() -> Iterator[Input]:
    """Three wrong values for every setting, from a fixed draw."""
    draw = random.Random(1)
    stored = Config().model_dump()
    for key in setting_keys():
        section, _, name = key.partition(".")
        default = stored[section][name] if name else stored[section]
        number = default is None or (
            isinstance(default, int | float) and not isinstance(default, bool)
        )
        values = draw.sample(WRONG_NUMBERS if number else WRONG_OTHERS, 3)
        for value in values:
            if key in ("conventional.basis", "reference.basis") and value == "qwertyuiop":
                value = "''"
            line = rf":5: overrides\.{re.escape(key)}(\[0\])?: (found|allowed)"
            yield Input(f"{key}={value[:9]}", with_setting(key, value), line)


def bounds() -> Iterator[Input]:
    """What no machine can compute, with the reason."""
    for key, value, line in (
        ("mcmc.walkers", "1e12", "found 1000000000000; allowed: at most 10000000 .*GPU holds"),
        ("mcmc.walkers", "7", "found 7; allowed: a multiple of 2 .*two halves"),
        ("network.layers", "1e9", "found 1000000000; allowed: at most 100 .published"),
        ("network.one_electron_width", "1e6", "at most 10000 .the weights"),
        ("optimise.learning_rate", "1e10", "found 1.*; allowed: at most 10 .parameters are"),
        ("pretrain.learning_rate", "11", "at most 10 .parameters are"),
        ("optimise.iterations", "1e9", "at most 100000000 .a hundred million takes months"),
        ("inference.samples", "15", "a multiple of 10 .10 records are one compiled call"),
        ("inference.max_equilibration", "99", "at least 100 .fewer than a hundred"),
        ("seed", str(2**63), "at most 9223372036854775807 .64 bits"),
        ("seed", "9" * 5000, "an integer of thousands of digits"),
        ("checkpoint.keep", "1001", "at most 1000 .each holds"),
        ("optimise.damping", "1e7", "at most 1e\\+06 .single precision"),
        ("network.bias", "no", "found 'no'; allowed: true or false"),
        ("reference.basis", "{H: cc-pvdz}", "allowed: one basis set for all elements"),
        ("reference", "{basis: {H: cc-pvdz}}", "basis: .*allowed: one basis set for all"),
        ("reference.basis", "x" * 101, "found 101 characters; allowed: at most 100"),
        (
            "conventional.basis",
            "[" + "a, " * 20 + "a]",
            "found 21 entries; allowed: at most 20",
        ),
        ("network", "[]", r"network: found \[\]; allowed: a mapping"),
        ("layers", "3", "layers: unknown setting; did you mean 'network.layers'"),
        ("network.layrs", "3", "unknown setting; did you mean 'layers'"),
        ('"a\\nb"', "3", r"a\\nb: unknown setting"),
        ('"\\e[31mred"', "3", r"character U\+001B, which is not"),
        ("x" * 900, "3", "xxxx\\.\\.\\.: unknown setting"),
    ):
        yield Input(f"{key[:20]}={value[:9]}", with_setting(key, value), line)


# --- YAML -----------------------------------------------------------------------------------------

DEEP = "[" * 30 + "]" * 30
ALIASES = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(30))


def yaml_files() -> Iterator[Input]:
    for name, text, line in (
        ("empty", "", "is empty"),
        ("comment", "# nothing\n", "is empty"),
        ("spaces", " \n\n", "is empty"),
        ("text", "H2\n", ":1: found a str; allowed: a mapping"),
        ("number", "3\n", ":1: found a int; allowed: a mapping"),
        ("null", "~\n", ":1: found a NoneType; allowed: a mapping"),
        ("list", "- 3\n", ":1: found a list; allowed: a mapping"),
        ("tab", "units: bohr\n\tatoms: [H 0 0 0]\n", ":2: .*use spaces in place of tabs"),
        ("open list", "units: [bohr\n", ":1: .*expected"),
        ("open quote", "title: 'x\n", ":1: .*quoted scalar|end of stream"),
        ("two documents", BASE + "---\n" + BASE, ":5: .*another document"),
        ("duplicate", BASE + "preset: small\n", ":5: key 'preset' is given twice"),
        (
            "nested duplicate",
            BASE + "overrides: {mcmc: {steps: 1, steps: 2}}\n",
            "'steps' is given",
        ),
        (
            "dotted twice",
            BASE + "overrides: {seed: 1, network: {layers: 1}, network.layers: 2}\n",
            r"network\.layers: given twice",
        ),
        ("number key", BASE + "3: 4\n", ":5: key '3' is not text"),
        ("null key", BASE + "~: 4\n", ":5: key '~' is not text"),
        ("list key", BASE + "? [a, b]\n: 4\n", ":5: key .* is not text"),
        ("boolean key", BASE + "true: 4\n", ":5: key 'true' is not text"),
        ("Norway", BASE + "no: 4\n", ":5: no: unknown key"),
        ("merge", BASE + "<<: {seed: 3}\n", ":5: <<: unknown key"),
        ("alias", "a: &x 1\nb: *x\n", ":2: aliases"),
        ("alias bomb", ALIASES, ":2: aliases"),
        ("tag", "a: !!python/object/apply:os.system [x]\n", ":1: tags"),
        ("long tag", f"a: !{'x' * 5000} 3\n", ":1: tags"),
        ("binary", "a: !!binary aGk=\n", ":1: tags"),
        ("deep list", f"title: {DEEP}\n", ":1: nested too deeply; allowed: 20 levels"),
        ("very deep list", "title: " + "[" * 100_000, ":1: nested too deeply"),
        ("deep mapping", "a: " + "{a: " * 50 + "1" + "}" * 50, ":1: nested too deeply"),
        ("deep block", "".join(" " * i + "a:\n" for i in range(60)), ":21: nested too deeply"),
        ("control", "title: \x07\n", "control characters are not allowed"),
        ("NUL", "title: \0\n", "control characters are not allowed"),
        ("latin-1", b"title: caf\xe9\n", "cannot be read: it is not UTF-8 text"),
        ("UTF-16", BASE.encode("utf-16"), "cannot be read: it is not UTF-8 text"),
        ("random bytes", random.Random(2).randbytes(4000), "cannot be read: it is not UTF-8 text"),
        ("large", "#" * 1_000_001, "cannot be read: it is larger than 1000000 bytes"),
        ("long number", "charge: " + "9" * 5000, "an integer of thousands of digits"),
        ("long unknown key", BASE + "x" * 900 + ": 1\n", r":5: x{57}\.\.\.: unknown key"),
        (
            "escape in a key",
            BASE + '"\\e[2J": 1\n',
            r":5: .*character U\+001B, which is not",
        ),
        ("line end in a key", BASE + '"a\\nb": 1\n', r":5: a\\nb: unknown key"),
        ("bidirectional key", BASE + '"a\\u202eb": 1\n', r":5: a\\u202eb: unknown key"),
        (
            "C1 control",
            BASE + 'title: 1\n"a\\u009b1": 1\n',
            r":6: .*character U\+009B, which is not",
        ),
    ):
        yield Input(name, text, line)
    for name, right in (
        ("byte-order mark", b"\xef\xbb\xbf" + BASE.encode()),
        ("Windows", BASE.replace("\n", "\r\n")),
        ("document", "---\n" + BASE + "...\n"),
        ("flow", "{units: bohr, atoms: [H 0 0 0], spin: 1, preset: smoke}"),
        ("title", BASE + 'title: "H₂ – Dissoziationskurve"\n'),
        ("nitric oxide", BASE + "name: no\n"),
        ("whole float", BASE + "overrides: {mcmc.walkers: 6.4e1}\n"),
    ):
        yield Input(name, right, None)


# --- keys and their values ------------------------------------------------------------------------


def keys() -> Iterator[Input]:
    for name, text, line in (
        ("unit", BASE.replace("units", "unit"), ":1: unit: unknown key; did you mean 'units'"),
        ("inch", BASE.replace("bohr", "inch"), ":1: units: found 'inch'"),
        ("multiplicity", BASE + "multiplicity: 1\n", ":5: multiplicity: .*spin.*multiplicity - 1"),
        ("mult", BASE + "mult: 3\n", ":5: mult: unknown key; give `spin`"),
        (
            "basis",
            BASE + "basis: cc-pvdz\n",
            r":5: basis: .*overrides: {reference\.basis: cc-pvdz}",
        ),
        ("walkers", BASE + "walkers: 64\n", r":5: walkers: .*overrides: {mcmc\.walkers: \.\.\.}"),
        ("network", BASE + "network: {layers: 2}\n", ":5: network: .*it is a setting"),
        ("lattice", BASE + "lattice: [1, 2, 3]\n", ":5: lattice: .*periodic systems are not"),
        ("ecp", BASE + "ecp: lanl2dz\n", ":5: ecp: unknown key; give `pseudopotential`"),
        ("geometry", BASE + "geometry: [H 0 0 0]\n", ":5: geometry: .*give `atoms`"),
        ("no units", BASE.replace("units: bohr\n", ""), "units: is missing, .*bohr, angstrom"),
        (
            "no preset",
            BASE.replace("preset: smoke\n", ""),
            "preset: is missing; allowed: .*smoke.*small",
        ),
        ("null preset", BASE.replace("smoke", "~"), "preset: is missing; allowed: .*smoke"),
        ("preset", BASE.replace("smoke", "smok"), ":4: preset: unknown .* did you mean 'smoke'"),
        ("preset number", BASE.replace("smoke", "3"), ":4: preset: found 3"),
        ("long preset", BASE.replace("smoke", "s" * 900), ":4: preset: unknown preset"),
        ("no atoms", "units: bohr\npreset: smoke\n", "no geometry; give `atoms`"),
        ("empty atoms", "units: bohr\npreset: smoke\natoms: []\n", r":3: atoms: found \[\]"),
        ("null atoms", "units: bohr\npreset: smoke\natoms: ~\n", "no geometry; give `atoms`"),
        (
            "atoms text",
            "units: bohr\npreset: smoke\natoms: H 0 0 0\n",
            ":3: atoms: found 'H 0 0 0'",
        ),
        (
            "atoms numbers",
            "units: bohr\npreset: smoke\natoms: [1, 2]\n",
            r":3: atoms\[0\]: found 1",
        ),
        (
            "atoms lists",
            "units: bohr\npreset: smoke\natoms: [[H, 0, 0, 0]]\n",
            r"atoms\[0\]: found",
        ),
        ("atoms and xyz", BASE + "xyz: a.xyz\n", ":5: xyz: `atoms` is given as well"),
        ("charge text", BASE + "charge: one\n", ":5: charge: found 'one'"),
        ("charge true", BASE + "charge: true\n", ":5: charge: found True"),
        ("charge nan", BASE + "charge: .nan\n", ":5: charge: found nan"),
        ("charge half", BASE + "charge: 0.5\n", ":5: charge: found 0.5"),
        ("charge +2", BASE + "charge: 2\n", "charge: found 2, which leaves 0 electrons"),
        ("charge -3", BASE + "charge: -3\n", "charge: found -3; allowed: at least -2 .an atom in"),
        ("charge -200", BASE + "charge: -200\n", "charge: found -200; allowed: at least -2"),
        ("charge -1e9", BASE + "charge: -999999999\n", "charge: found -999999999; allowed: at"),
        ("charge 1e9", BASE + "charge: 999999999\n", "charge: found 999999999, which leaves"),
        ("charge -1e300", BASE + "charge: -1e300\n", r"charge: found -1000.*\.\.\.; allowed: at"),
        ("charge 4000 digits", BASE + "charge: -" + "9" * 4000, r"charge: found -999.*\.\.\.;"),
        ("spin 1", BASE + "spin: 1\n", "spin: found 1 .*did you mean 0"),
        ("spin -2", BASE + "spin: -2\n", "spin: found -2 .*did you mean 0"),
        ("spin 4", BASE + "spin: 4\n", "spin: found 4 .*did you mean 2"),
        ("spin 1e12", BASE + "spin: 1000000000000\n", "spin: found 1000000000000 .*mean 2"),
        ("spin list", BASE + "spin: [0]\n", r":5: spin: found \[0\]"),
        ("seed twice", BASE + "seed: 1\noverrides: {seed: 1}\n", ":5: seed: also given"),
        ("seed -1", BASE + "seed: -1\n", ":5: seed: found -1; allowed: at least 0"),
        ("seed 2^64", BASE + f"seed: {2**64}\n", ":5: seed: found .*64 bits"),
        ("overrides list", BASE + "overrides: [seed]\n", ":5: overrides: found"),
        ("cases mapping", BASE + "cases: {where: R > 1}\n", ":5: cases: found"),
        ("cases number", BASE + "cases: [3]\n", r":5: cases\[0\]: found 3"),
        ("case without", BASE + "cases: [{spin: 0}]\n", r":5: cases\[0\]\.where: is missing"),
        ("name", BASE + "name: A b\n", ":5: name: found 'A b'; allowed: names of the form"),
        ("name path", BASE + "name: ../x\n", ":5: name: found '../x'"),
        ("name line end", BASE + 'name: "x\\n"\n', r":5: name: found 'x\\n'"),
        (
            "long name",
            BASE + f"name: {'x' * 101}\n",
            ":5: name: found 101 characters; .*100 .names",
        ),
        ("warm start", BASE + "warm_start: neighbors\n", ":5: warm_start: found 'neighbors'; did"),
        ("warm share", BASE + "warm_start: {share: 2}\n", "share: found 2; allowed: at most 1 ."),
        ("warm anchor", BASE + "warm_start: {anchors: [r_9]}\n", "unknown geometry 'r_9'"),
        ("grid", BASE.replace("[1.4]", "{grid: far}"), ":3: parameters.R: unknown grid 'far'"),
    ):
        yield Input(name, text, line)
    many = BASE + "".join(f"key{i}: 1\n" for i in range(60_000))
    yield Input("60000 keys", many, ": 59980 more problems")
    settings = "".join(f"  key{i}: 1\n" for i in range(60_000))
    yield Input("60000 settings", BASE + "overrides:\n" + settings, "key0: unknown setting")
    yield Input("anion", BASE + "charge: -1\nspin: 1\n", None)
    yield Input("triplet", BASE + "spin: 2\n", None)


# --- atoms, expressions and parameters ------------------------------------------------------------


def atoms() -> Iterator[Input]:
    for line, expected in (
        ("H 0 0", "allowed: an element and three coordinates"),
        ("H 0 0 0 0", "allowed: an element and three coordinates"),
        ("H 0 0 R / 2", "without spaces inside"),
        ("", "allowed: an element and three coordinates"),
        ("H" + " 0" * 1000, "allowed: an element and three coordinates"),
        ("h 0 0 R", "unknown element 'h'; did you mean 'H'"),
        ("D 0 0 R", "unknown element 'D'; deuterium: write H"),
        ("T 0 0 R", "unknown element 'T'; tritium: write H"),
        ("Rb 0 0 R", "Rb needs a pseudopotential; .*without one allowed: H to Kr"),
        ("U 0 0 R", "U needs a pseudopotential; .*without one allowed: H to Kr"),
        ("X 0 0 R", "unknown element 'X'; dummy atoms are not"),
        ("ghost-H 0 0 R", "unknown element 'ghost-H'; ghost atoms are not"),
        ("X-H 0 0 R", "unknown element 'X-H'; ghost atoms are not"),
        ("Bq 0 0 R", "unknown element 'Bq'; ghost atoms are not"),
        ("@H 0 0 R", "unknown element '@H'; ghost atoms are not"),
        ("H1 0 0 R", "unknown element 'H1'; labels are not supported; write H"),
        ("H@sto-3g 0 0 R", "unknown element 'H@sto-3g'; labels are not.*one basis set for all"),
        ("6 0 0 R", "unknown element '6'"),
        ("H 0 0 R#x", "'#' is not arithmetic"),
        ("H 0 0 1_0", "'1_' is not arithmetic"),
        ("H 0 0 0x10", "'0x1' is not arithmetic"),
        ("H 0 0 R\u00b2", "is not arithmetic"),
        ("H 0 0 \uff32", "is not arithmetic"),
        ("H 0 0 \u0663", "is not arithmetic"),
        ("H 0 0 R;R", "';' is not arithmetic"),
        ("H 0 0 (R\\n+1)", "is not arithmetic"),
        ("H 0 0 2R", "not arithmetic .write 2\\*R"),
        ("H 0 0 R^2", "write \\*\\* for a power"),
        ("H 0 0 S", "unknown parameter 'S'"),
        ("H 0 0 nan", "unknown parameter 'nan'"),
        ("H 0 0 1e999", "has no finite real value"),
        ("H 0 0 R/0", "has no finite real value"),
        ("H 0 0 sqrt(-R)", "has no finite real value"),
        ("H 0 0 9**9**9", "too large"),
        ("H 0 0 1j", "not a real number"),
        ("H 0 0 True", "True"),
        ("H 0 0 R.real", "attribute access is not allowed"),
        ("H 0 0 R[0]", "indexing is not allowed"),
        ("H 0 0 exec(R)", "unknown function 'exec'"),
        ("H 0 0 __import__('os')", "unknown function '__import__'"),
        ("H 0 0 R>1", "is a condition where a number is needed"),
        ("H 0 0 " + "(" * 90 + "R" + ")" * 90 + "(", "not arithmetic"),
        ("H 0 0 " + "-" * 190 + "R" * 30, "allowed: 200"),
    ):
        atoms = f'["H 5 5 -R", "{line}"]'
        text = BASE.replace("[H 0 0 0, H 0 0 R]", atoms)
        yield Input(f"atom {line[:24]!r}", text, rf":2: atoms\[1\]: .*{expected}")
    for atom, expected in (
        ("H 0 0 0", "atoms 1 .H. and 2 .H. coincide"),
        ("H 0 0 1e6*R", r"atom 2 .H.: found a coordinate of 1\.4e\+06 bohr; allowed: at most 1000"),
        ("H 0 0 -1e300*R", "atom 2 .H.: found a coordinate of"),
    ):
        text = BASE.replace("H 0 0 R", atom).replace(
            "{R: [1.4]}", "{R: [1.4]}" if "R" in atom else "{}"
        )
        yield Input(f"atoms {atom!r}", text, f"geometry .*: {expected}")
    kryptons = ", ".join(f"Kr 0 0 {i}" for i in range(6))
    yield Input(
        "216 electrons",
        f"{{units: bohr, preset: smoke, atoms: [{kryptons}]}}",
        "geometry case: found 216 electrons; allowed: at most 200",
    )
    many = ", ".join(f"H 0 0 {i}" for i in range(201))
    yield Input(
        "201 atoms",
        f"{{units: bohr, preset: smoke, atoms: [{many}]}}",
        "atoms: found 201 entries; allowed: at most 200 .the largest",
    )
    for right in ("H 0 0 sqrt(2)*R", "H 0 R*cos(radians(90)) R", "H 0 0 (R + 1)", "H 0 0 R**0.5"):
        yield Input(f"atom {right!r}", BASE.replace("H 0 0 R", right), None)


def parameters() -> Iterator[Input]:
    for value, expected in (
        ("[]", "parameters.R: empty grid"),
        ("[1, 1]", "parameters.R: 1 is given twice"),
        ("[1, 1.00000000001]", "parameters.R: 1 is given twice"),
        ("[1, .nan]", r"parameters.R\[1\]: found nan; allowed: a finite number"),
        (".inf", "parameters.R: found inf; allowed: a finite number"),
        ("[1, two]", r"parameters.R\[1\]: found 'two'"),
        ("[1, true]", r"parameters.R\[1\]: found True"),
        ("true", "parameters.R: found True"),
        ("~", "parameters.R: found None"),
        ("long", "parameters.R: found 'long'; allowed: a list of numbers"),
        ("'1.4'", "parameters.R: found '1.4'; allowed: a list of numbers"),
        ("[[1]]", r"parameters.R\[0\]: found \[1\]"),
        ("{start: 1, stop: 2}", "parameters.R.num: is missing"),
        ("{start: 1, stop: 2, num: 1e9}", "num: found 1000000000; allowed: at most 10000 .a scan"),
        ("{start: 1, stop: 2, num: 1}", "parameters.R.num: found 1; allowed: at least 2"),
        ("{start: 1, stop: 2, num: 2.5}", "parameters.R.num: found 2.5"),
        ("{start: 1, stop: .nan, num: 3}", "parameters.R.stop: found nan"),
        ("{start: -1e308, stop: 1e308, num: 3}", "parameters.R: start and stop are too far apart"),
        ("{start: 1, stop: 1, num: 3}", "parameters.R: 1 is given twice"),
        (
            "{start: 1, stop: 2, steps: 3}",
            "parameters.R.steps: unknown key; did you mean|steps: unk",
        ),
        ("{start: 1, stp: 2, num: 3}", "parameters.R.stp: unknown key; did you mean 'stop'"),
        ("{linspace: [1, 2, 3]}", "parameters.R.linspace: unknown key"),
        (
            "[" + "1, " * 10_000 + "1]",
            r"parameters.R: found 10001 entries; allowed: at most 10000",
        ),
    ):
        yield Input(f"R: {value[:30]}", BASE.replace("[1.4]", value), f":3: {expected}|{expected}")
    for name, expected in (
        ('"R\\n"', r"found 'R\\n'; allowed: names of the form"),
        ('"R\\e[31m"', r"character U\+001B, which is not"),
        ("R-1", "found 'R-1'; allowed: names of the form"),
        ("1R", "found '1R'; allowed: names of the form"),
        ("sqrt", "'sqrt' is a word of expressions"),
        ("pi", "'pi' is a word of expressions"),
        ("energy_Eh", "'energy_Eh' is a column of the scan table"),
        ("r", "differs from 'R' only in case"),
        ("S", "no coordinate and no case uses this parameter"),
        ("x" * 200, "no coordinate and no case uses this parameter"),
    ):
        text = BASE.replace("{R: [1.4]}", f"{{R: [1.4], {name}: [1]}}")
        yield Input(f"parameter {name[:20]}", text, f":3: (parameters.*: )?.*{expected}")
    grids = ", ".join(f"{name}: {{start: 1, stop: 2, num: 9999}}" for name in "RST")
    product = BASE.replace("H 0 0 R", "H S T R").replace("{R: [1.4]}", f"{{{grids}}}")
    yield Input("1e12 runs", product, "more than 10000 runs; split the scan")
    run_name = "g" * 140
    listed = f"geometries: [{{name: {run_name}, atoms: [He 0 0 0]}}]\n"
    head = "units: bohr\npreset: smoke\n"
    yield Input("name of 140", head + listed, None)
    yield Input(
        "name of 300",
        head + listed.replace(run_name, "g" * 300),
        "geometry 'ggg.*: the run's name has 300 characters; allowed: at most 150 .names of",
    )
    yield Input(
        "name and variant",
        head + listed + f"variants: [{{name: {'v' * 20}}}]\n",
        "the run's name has 161 characters",
    )


# --- XYZ files ------------------------------------------------------------------------------------

QM9 = (
    "5\ngdb 1\t157.7118\t157.70997\t0.\t13.21\n"
    "C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689\n"
    "H\t 0.002150416\t-6.0313176*^-3\t 0.0019761204\t 0.133921\n"
    "H\t 1.0117308433\t 1.4637511618\t 2.765748*^-4\t 0.133922\n"
    "H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923\n"
    "H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923\n"
    "1341.307\t1341.3284\t1341.365\nC\tC\nInChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4\n"
)
LATTICE = '2\nLattice="9 0 0 0 9 0 0 0 9" %s\nH 0 0 0\nH 0 0 0.74\n'


def xyz_files() -> Iterator[Input]:
    for name, content, line in (
        ("empty", "", "a.xyz:1: found ''; allowed: the number of atoms"),
        ("no count", "H 0 0 0\n", "a.xyz:1: found 'H 0 0 0'; allowed: the number"),
        ("zero", "0\n\n", "a.xyz:1: found '0'"),
        ("negative", "-2\n\n", "a.xyz:1: found '-2'"),
        ("5000 digits", "9" * 5000, "a.xyz:1: found '999"),
        (
            "a million atoms",
            "1000000\n\nH 0 0 0\n",
            "a.xyz:1: found 1000000 atoms; allowed: at most",
        ),
        ("Arabic count", "\u0662\n\nH 0 0 0\nH 0 0 1\n", "a.xyz:1: found"),
        ("too few", "3\n\nH 0 0 0\nH 0 0 1\n", "a.xyz: found 2 atoms; the first line says 3"),
        ("too many", "1\n\nH 0 0 0\nH 0 0 1\n", "a.xyz: found 2 atoms; the first line says 1"),
        ("second frame", H2 + "2\n\nH 0 0 0\n", "a.xyz: found 1 atoms; line 5 says 2"),
        ("short row", "2\n\nH 0 0 0\nH 0 0\n", "a.xyz:4: found 'H 0 0'; allowed: an element"),
        ("blank row", "2\n\nH 0 0 0\n\nH 0 0 1\n", "a.xyz:4: found ''"),
        ("words", "2\n\nH 0 0 0\nH 0 0 R\n", "a.xyz:4: found 'R'; allowed: a finite number"),
        ("nan", "2\n\nH 0 0 0\nH 0 0 nan\n", "a.xyz:4: found 'nan'; allowed: a finite number"),
        ("overflow", "2\n\nH 0 0 0\nH 0 0 1e999\n", "a.xyz:4: found '1e999'"),
        ("underscore", "2\n\nH 0 0 0\nH 0 0 1_0\n", "a.xyz:4: found '1_0'"),
        ("comma", "2\n\nH 0 0 0\nH 0 0 0,74\n", "a.xyz:4: found '0,74'"),
        ("deuterium", "2\n\nH 0 0 0\nD 0 0 1\n", "a.xyz:4: unknown element 'D'; deuterium"),
        ("uranium", "2\n\nH 0 0 0\nU 0 0 1\n", "a.xyz:2: U needs a pseudopotential"),
        (
            "number 92",
            "2\n\n1 0 0 0\n92 0 0 1\n",
            "a.xyz:2: U needs a pseudopotential",
        ),
        ("number 0", "2\n\n1 0 0 0\n0 0 0 1\n", "a.xyz:4: found the atomic number 0"),
        (
            "long number",
            f"2\n\n1 0 0 0\n{'9' * 5000} 0 0 1\n",
            "a.xyz:4: found the atomic number 9",
        ),
        ("ghost", "2\n\nH 0 0 0\nGh 0 0 1\n", "a.xyz:4: unknown element 'Gh'; ghost atoms"),
        ("escape", "2\n\nH 0 0 0\n\x1b[31m 0 0 1\n", r"a.xyz:4: unknown element '\\x1b"),
        ("lattice", LATTICE % "", "a.xyz:2: the comment describes a periodic cell"),
        ("pbc", LATTICE % 'pbc="T T F"', "a.xyz:2: the comment describes a periodic cell"),
        ("pbc alone", H2.replace("\n\n", "\npbc=[True, False, False]\n"), "a.xyz:2: .* periodic"),
        (
            "columns",
            H2.replace("\n\n", "\nProperties=pos:R:3:species:S:1\n"),
            "a.xyz:2: found Prop",
        ),
        (
            "charge",
            H2.replace("\n\n", "\ncharge=1\n"),
            "a.xyz:2: found charge=1 in the comment, but",
        ),
        ("multiplicity", H2.replace("\n\n", "\nmultiplicity=3\n"), "a.xyz:2: found multiplicity=3"),
        ("units", H2.replace("\n\n", "\nunits=bohr\n"), "a.xyz:2: found units of bohr .*angstrom"),
        ("far", "2\n\nH 0 0 0\nH 0 0 1e6\n", "atom 2 .H.: found a coordinate of"),
        ("together", "2\n\nH 0 0 0\nH 0 0 0\n", "atoms 1 .H. and 2 .H. coincide"),
        ("large", "2\n" + "#" * 1_000_001, "a.xyz cannot be read: it is larger than 1000000 bytes"),
        ("UTF-16", H2.encode("utf-16"), "a.xyz:1: found"),
    ):
        where = "geometry " if name in ("far", "together") else ":2: xyz: .*"
        yield Input(f"xyz {name}", XYZ, where + ".*" + line, {"a.xyz": content})
    for name, right in (
        ("plain", H2),
        ("Windows", H2.replace("\n", "\r\n")),
        ("old Mac", H2.replace("\n", "\r")),
        ("byte-order mark", b"\xef\xbb\xbf" + H2.encode()),
        ("latin-1", H2.encode().replace(b"\n\n", b"\nd\xe9j\xe0 \x85 vu\n")),
        ("QM9", QM9),
        ("case", "4\n\nli 0 0 0\nCL 0 0 4\nH 0 0 -2\nh 0 0 9\n"),
        ("atomic numbers", "3\n\n8 0 0 0\n1 0 0 1\n1 0 1 0\n"),
        ("Fortran", "2\n\nH 0 0 0\nH 0 0 7.4D-01\n"),
        ("no cell", LATTICE % 'pbc="F F F"'),
        ("same facts", H2.replace("\n\n", "\ncharge=0 multiplicity=1 units=Angstrom\n")),
        ("frames", H2 + H2.replace("0.74", "0.8")),
        ("named frames", H2.replace("\n\n", "\nR=0.74\n") + "2\nR=0.8\nH 0 0 0\nH 0 0 0.8\n"),
        ("separated frames", H2 + ">\n" + H2.replace("0.74", "0.8") + "\n\n"),
    ):
        yield Input(f"xyz {name}", XYZ, None, {"a.xyz": right})
    yield Input(
        "xyz frames and parameter",
        XYZ + "parameters: {frame: [1, 2]}\n",
        ":2: xyz: 'frame' is a parameter of the frames, too",
        {"a.xyz": H2 + H2},
    )
    yield Input("xyz missing", XYZ, ":2: xyz: .*a.xyz cannot be read: No such file")
    yield Input(
        "xyz NUL",
        XYZ.replace("a.xyz", '"a\\0.xyz"'),
        r":2: .*character U\+0000, which is not",
    )
    yield Input("xyz long path", XYZ.replace("a.xyz", "x" * 900), ":2: xyz: .*File name too long")
    yield Input("xyz very long path", XYZ.replace("a.xyz", "x" * 1001), ":2: xyz: found 1001 char")
    yield Input("xyz folder", XYZ.replace("a.xyz", "."), ":2: xyz: .*it is a folder")
    yield Input(
        "xyz zero", XYZ.replace("a.xyz", "/dev/zero"), ":2: xyz: .*it is a device or a pipe"
    )
    yield Input(
        "xyz pipe",
        XYZ,
        ":2: xyz: .*it is a device or a pipe",
        {},
        (),
        lambda folder: os.mkfifo(folder / "a.xyz"),
    )
    yield Input(
        "xyz loop",
        XYZ,
        ":2: xyz: .*Too many levels of symbolic links",
        {},
        (),
        lambda folder: (folder / "a.xyz").symlink_to("a.xyz"),
    )
    yield Input(
        "xyz link",
        XYZ,
        None,
        {"b.xyz": H2},
        (),
        lambda folder: (folder / "a.xyz").symlink_to("b.xyz"),
    )


# --- the rest of the file, files and options ------------------------------------------------------

LITERATURE = BASE + "literature: [{name: x, file: %s, match: {R: R}, kind: exact}]\n"


def others() -> Iterator[Input]:
    atom = BASE.replace("H 0 0 R", "K 0 0 R") + "spin: 0\n"
    for name, text, line in (
        ("basis typo", with_setting("reference.basis", "cc-pvdzz"), "basis: .*mean 'cc-pvdz'"),
        ("basis pople", with_setting("reference.basis", "6-31gsx"), "basis: .*mean '6-31g"),
        ("basis def2", with_setting("reference.basis", "def2-svpp"), "basis: .*mean 'def2-svp"),
        ("basis path", with_setting("reference.basis", "/etc/passwd"), "basis: unknown basis set"),
        ("basis text", with_setting("reference.basis", '"H S\\n1 1"'), r"basis: .*'H S\\n1 1'"),
        ("basis pipe", with_setting("reference.basis", "'@'"), "basis: unknown basis set '@'"),
        ("basis ecp", atom + "overrides: {reference.basis: lanl2dz}\n", "needs a pseudopotential"),
        (
            "basis lacks",
            atom + "overrides: {reference.basis: cc-pcvdz}\n",
            "'cc-pcvdz' has no functions for K; it has H, He, Li",
        ),
        (
            "variant twice",
            BASE + "variants: [{name: a}, {name: a}]\n",
            r"variants\[1\].name: variant",
        ),
        (
            "variant base",
            BASE + "variants: [{name: base, overrides: {seed: 1}}]\n",
            "'base' is the",
        ),
        (
            "variant key",
            BASE + "variants: [{nme: a}]\n",
            r"variants\[0\].nme: unknown key; did you",
        ),
        ("variant name", BASE + "variants: [{name: 'a+b'}]\n", r"variants\[0\].name: found 'a\+b'"),
        ("condition", BASE + "cases: [{where: R}]\n", r"cases\[0\].where: 'R': is a number where"),
        ("condition =", BASE + "cases: [{where: R = 1}]\n", r"where: .*write == to compare"),
        ("condition #", BASE + "cases: [{where: 'R > 1 # x'}]\n", "'#' is not arithmetic"),
        ("condition S", BASE + "cases: [{where: S > 1}]\n", "where: .*unknown parameter 'S'"),
        (
            "rhf",
            BASE + "spin: 2\noverrides: {reference.method: rhf}\n",
            "reference.method: found 'rhf'",
        ),
        (
            "min",
            with_setting("pretrain.min_iterations", "99999"),
            "pretrain: min_iterations is 99999",
        ),
        ("limit", with_setting("conventional.extrapolate", "true"), "conventional: extrapolate is"),
        (
            "geometry twice",
            "{units: bohr, preset: smoke, geometries: [{name: a, atoms: [He 0 0 0]}, "
            "{name: a, atoms: [Be 0 0 0]}]}",
            "two runs are named 'a'",
        ),
        (
            "geometry empty",
            "{units: bohr, preset: smoke, geometries: [{name: a}]}",
            "no coordinates",
        ),
        (
            "literature kind",
            LITERATURE.replace("exact", "exat") % "x.csv",
            "kind: found 'exat'; did",
        ),
        ("literature match", LITERATURE.replace(": R}", ": S}") % "x.csv", "unknown parameter 'S'"),
        (
            "literature NUL",
            LITERATURE % '"x\\0"',
            r"character U\+0000, which is not",
        ),
        ("literature empty", LITERATURE % "''", r"literature\[0\].file: found ''"),
        ("quantity", BASE + "quantities: [{name: a, of: {r_9: 1}}]\n", "of.r_9: unknown geometry"),
        ("quantity bool", BASE + "quantities: [{name: a, of: {r_1.4: true}}]\n", "found True"),
        ("quantity nan", BASE + "quantities: [{name: a, of: {r_1.4: .nan}}]\n", "found nan"),
        (
            "correlation",
            BASE + "correlation: {hartree_fock: a, exact: b}\n",
            "unknown literature 'a'",
        ),
    ):
        yield Input(name, text, line)
    for name, file, prepare in (
        ("missing", "x.csv", None),
        ("zero", "/dev/zero", None),
        ("address", "http://127.0.0.1:9/x.csv", None),
        ("pipe", "x.csv", lambda folder: os.mkfifo(folder / "x.csv")),
        ("large", "x.csv", lambda folder: (folder / "x.csv").write_bytes(b"#" * 10_000_001)),
        ("binary", "x.csv", lambda folder: (folder / "x.csv").write_bytes(b"\xff\xfe\0\n")),
    ):
        yield Input(f"literature {name}", LITERATURE % file, None, {}, (), prepare)
    for options, expected in (
        (("--set", "mcmc.walkers"), "--set: found 'mcmc.walkers'; allowed: KEY=VALUE"),
        (("--set", "mcmc.walkers="), "--set: found 'mcmc.walkers='; allowed: KEY=VALUE"),
        (
            ("--set", "mcmc.walkers=1e12"),
            "--set mcmc.walkers: found 1000000000000; allowed: at most",
        ),
        (("--set", "mcmc.walkers=[1"), "--set mcmc.walkers:1: .*expected"),
        (("--set", f"mcmc.walkers={'[' * 50_000}"), "--set mcmc.walkers:1: nested too deeply"),
        (("--set", "mcmc.walkers=*a"), "--set mcmc.walkers:1: aliases"),
        (("--set", f"mcmc.walkers={'9' * 5000}"), "--set mcmc.walkers: has an integer of"),
        (("--set", "x\n=1"), r"--set x: unknown setting"),
        (("--set", "\x1b[31m=1"), r"--set \\x1b\[31m: unknown setting"),
        (("--set", f"{'x' * 900}=1"), r"--set xxx.*\.\.\.: unknown setting"),
        (("--set", "seed=1", "--set", "seed=2"), "--set seed: given twice"),
        (("--preset", "smal"), "--preset: unknown preset 'smal'; did you mean 'small'"),
        (("--preset", "\x1b[31m"), r"--preset: unknown preset '\\x1b"),
    ):
        yield Input(" ".join(options)[:30], BASE, expected, {}, options)
    yield Input("resolved", BASE, None, {}, ("--resolved",))
    yield Input(
        "preset of the options",
        BASE.replace("preset: smoke\n", ""),
        None,
        {},
        ("--preset", "smoke"),
    )


INPUTS = [
    *settings(), *bounds(), *yaml_files(), *keys(), *atoms(), *parameters(), *xyz_files(), *others()
]  # fmt: skip


def test_there_are_three_hundred() -> None:
    assert len(INPUTS) >= 300


def agrees(outcome: Outcome, line: str | None, file: str) -> None:
    """The outcome is the expected one, and is told as an error has to be."""
    assert "Traceback" not in outcome.err
    assert outcome.seconds < LIMIT
    lines = outcome.err.splitlines()
    assert all(text.isprintable() and len(text) < 1000 for text in lines)
    if line is None:
        assert outcome.code == 0, outcome.err
        assert outcome.out
        assert all(text.startswith("warning: ") for text in lines)
        return
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert len(lines) <= MAX_LINES + 1
    assert lines[0].startswith("error: ")
    assert all(file in text for text in lines), outcome.err
    assert any(re.search(line, text) for text in lines), outcome.err


@pytest.mark.parametrize("given", INPUTS, ids=lambda given: ascii(given.name)[1:-1])
def test_each_input_is_accepted_or_refused(
    given: Input, check: Callable[..., Outcome], tmp_path: Path
) -> None:
    for name, content in {"case.yaml": given.text, **given.files}.items():
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
    if given.prepare:
        given.prepare(tmp_path)
    outcome = check("case.yaml", *given.options)
    agrees(outcome, given.line, "--" if given.options else "case.yaml")


@pytest.mark.parametrize(
    ("name", "prepare", "line"),
    [
        ("none.yaml", None, "no such file"),
        (".", None, "is a folder; give the system file"),
        ("", None, "is a folder; give the system file"),
        ("x" * 300 + ".yaml", None, "cannot be read: File name too long"),
        ("/dev/zero", None, "cannot be read: it is a device or a pipe"),
        ("/dev/null", None, "cannot be read: it is a device or a pipe"),
        ("pipe.yaml", os.mkfifo, "cannot be read: it is a device or a pipe"),
        ("loop.yaml", lambda path: path.symlink_to(path.name), "cannot be read: Too many levels"),
        ("a\nb.yaml", lambda path: path.write_text(BASE), "cannot be printed; rename the file"),
        ("a\x1b[31m.yaml", lambda path: path.write_text(BASE), "cannot be printed; rename the"),
        ("a\udcff.yaml", lambda path: path.write_text(BASE), "cannot be printed; rename the file"),
        ("A b.yaml", lambda path: path.write_text(BASE), "'A b' cannot name its results; give a"),
        ("x" * 101 + ".yaml", lambda path: path.write_text(BASE), "cannot name its results"),
        ("x.json", lambda path: path.write_text("{"), "is damaged"),
        ("zero.json", lambda path: path.symlink_to("/dev/zero"), "it is a device or a pipe"),
        ("pipe.json", os.mkfifo, "cannot be read: it is a device or a pipe"),
    ],
)
def test_each_path_is_refused(
    name: str,
    prepare: Callable[[Path], None] | None,
    line: str,
    check: Callable[..., Outcome],
    tmp_path: Path,
) -> None:
    if prepare:
        prepare(tmp_path / name)
    agrees(check(name), line, ascii(name)[1:-1].replace("\\\\", "\\") if name else ".")


def test_random_slips_leave_no_traceback(check: Callable[..., Outcome], tmp_path: Path) -> None:
    """Whatever is deleted, doubled or put in: an answer, and none that takes long."""
    draw = random.Random(3)
    valid = BASE + (
        "title: H2\ncases: [{where: R > 1, overrides: {seed: 1}}]\ngrids: {g: [1, 2]}\n"
        "variants: [{name: base}, {name: v, overrides: {network: {layers: 2}}}]\n"
        "warm_start: {anchors: [r_1.4], share: 0.5}\nseed: 3\ncharge: 0\n"
    )
    for _ in range(300):
        text = valid
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(text))
            piece = draw.choice(["", text[place] * 2, *"{}[]:,-#&*!|>'\"%@`?\t\n 09eR~", "\u00e9"])
            text = text[:place] + piece + text[place + 1 :]
        (tmp_path / "case.yaml").write_text(text)
        outcome = check("case.yaml")
        assert outcome.code in (0, 2), text
        agrees(outcome, None if outcome.code == 0 else "", "case.yaml")
