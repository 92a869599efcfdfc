"""The documentation site builds without warnings or a network, and is true of the code."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pandas as pd
import pytest
import typer
import yaml
from helpers.paths import ROOT
from helpers.rooms import ROOMS

from ferminet_core.cli import tables
from ferminet_core.cli.commands import app
from ferminet_core.errors import ExitCode, InputError
from ferminet_core.inputs import config, setting_fields
from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.system_keys import SystemFile

PAGES = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
# Not part of the site, so that nothing else checks their links.
OUTSIDE = (README, CONTRIBUTING, ROOT / "CHANGELOG.md", ROOT / "benchmarks/NOTES.md")
SECTIONS = "|".join({key.split(".")[0] for key in config.setting_keys() if "." in key})


class Page(HTMLParser):
    """What a page links to, what it loads, which anchors it has, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.anchors.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.loads += [values[name] for name in ("src", "srcset") if name in values]
        if tag == "link" and values.get("rel") != "canonical":
            self.loads.append(values["href"])

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """All pages of the site, built strictly."""
    folder = tmp_path_factory.mktemp("site")
    # Not with --quiet: what is not logged is no error either.
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in folder.rglob("*.html")}


def page(site: dict[Path, Page], name: str) -> Page:
    return next(found for path, found in site.items() if path.name == name)


def test_every_page_is_there(site: dict[Path, Page]) -> None:
    built = {path.stem for path in site}
    assert {path.stem for path in PAGES} <= built
    assert not [path for path in site if "generated:" in path.read_text()]


def test_internal_links_lead_somewhere(site: dict[Path, Page]) -> None:
    count = 0
    for path, found in site.items():
        if path.name == "404.html":  # its links are those of the server's root
            continue
        for link in found.links:
            target, anchor = urldefrag(unquote(link))
            if re.match(r"[a-z]+:", target):
                continue
            file = (path.parent / target).resolve() if target else path
            assert file.is_file(), (path.name, link)
            if anchor and file in site:
                assert anchor in site[file].anchors | {"__comments"}, (path.name, link)
                count += 1
    assert count > 100  # or the reader of links finds nothing


def test_nothing_is_loaded_from_outside(site: dict[Path, Page]) -> None:
    loads = [load for found in site.values() for load in found.loads]
    assert len(loads) > 20
    assert [load for load in loads if re.match(r"(https?:)?//", load)] == []
    styles = [path.read_text() for path in next(iter(site)).parent.rglob("*.css")]
    assert styles
    assert [text for text in styles if re.search(r"url\(['\"]?(https?:)?//|@import", text)] == []


def test_equations_are_mathml(site: dict[Path, Page]) -> None:
    theory = next(path for path in site if path.name == "theory.html").read_text()
    written = len(re.findall(r"\$\$.*?\$\$", (ROOT / "docs/theory.md").read_text(), re.DOTALL))
    assert theory.count('<div class="equation"><math') == written > 10
    for path in site:
        assert not re.search(r'class="arithmatex"|\\\(|\\\[', path.read_text()), path.name


def test_reference_pages_name_everything(site: dict[Path, Page]) -> None:
    settings, keys = page(site, "settings.html").text, page(site, "system_files.html").text
    assert [key for key in config.setting_keys() if key not in settings] == []
    assert [key for key in SystemFile.model_fields if key not in keys] == []
    commands = page(site, "commands.html")
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert name in commands.anchors
        for parameter in command.params:
            assert parameter.opts[0].lower() in commands.text.lower(), (name, parameter.opts)
    architecture = page(site, "architecture.html").text
    assert [name for name in ROOMS if name not in architecture] == []
    for reference in (settings, keys, commands.text, architecture):
        assert "None" not in reference  # as of a missing description


def test_settings_that_a_resume_may_change_are_listed(site: dict[Path, Page]) -> None:
    text = page(site, "resuming.html").text
    for key, rule in config.resume_rules().items():
        row = re.search(rf"{re.escape(key)}\s+(yes[^\n]*|may grow)", text)
        assert (row is not None) == (rule not in setting_fields.UNCHANGEABLE), key
        if row is not None:
            assert row[1].strip() == rule.value, key


def sources() -> Iterator[tuple[str, str]]:
    """Pages, README and contributing guide by name; lines that end in a backslash are joined."""
    for path in (*PAGES, README, CONTRIBUTING):
        yield path.name, path.read_text(encoding="utf-8").replace("\\\n", " ")


def test_commands_named_exist() -> None:
    group: Any = typer.main.get_command(app)
    named = set()
    for name, text in sources():
        for line in re.findall(r"-m ferminet_core +([^\n`#]+)", text):
            words = line.split()
            for command in words[0].strip("{}").split(","):
                if command.isupper():
                    continue  # a placeholder
                named.add(command)
                assert command in group.commands, (name, line)
                options = {o for p in group.commands[command].params for o in p.opts} | {"--help"}
                found = {word for word in words[1:] if word.startswith("--")}
                assert found <= options, (name, line)
    assert {"check", "status", "cite", "summary"} <= named


def test_make_targets_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE)) | {".venv/ready"}
    for name, text in sources():
        found = set(re.findall(r"(?:^ {4}|`)make ([a-z][a-z-]*|\.venv/\w+)", text, re.MULTILINE))
        assert found <= targets, name


def test_settings_named_exist() -> None:
    pattern = re.compile(rf"(?<![\w./<])({SECTIONS})\.([a-z][a-z_]*)(?![\w(])")
    known, count = set(config.setting_keys()), 0
    for name, text in sources():
        for section, setting in pattern.findall(text):
            if setting in ("zarr", "work", "provenance", "smk"):  # files of a stage
                continue
            assert f"{section}.{setting}" in known, name
            count += 1
    assert count > 50


def test_exit_codes_are_those_of_the_program(site: dict[Path, Page]) -> None:
    shown = page(site, "commands.html").text.split("\nexit code\n")[1].split("\ncheck")[0]
    assert [int(code) for code in re.findall(r"^(\d+)$", shown, re.MULTILINE)] == list(ExitCode)


@pytest.mark.parametrize(("name", "least"), [("theory.md", 15), ("architecture.md", 20)])
def test_modules_named_exist(name: str, least: int) -> None:
    """`room/module` or `room/package` in code."""
    text = (ROOT / "docs" / name).read_text()
    named = set(re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w/]+)`", text))
    assert len(named) > least
    package = ROOT / "ferminet_core"
    assert [
        m for m in named if not ((package / f"{m}.py").exists() or (package / m).is_dir())
    ] == []


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring."""
    paragraph = str(ast.get_docstring(ast.parse(path.read_text()))).split("\n\n")[0]
    return re.split(r"(?<=\.)\s", " ".join(paragraph.split()))[0]


def test_map_of_the_readme_is_that_of_the_package() -> None:
    shown = re.findall(r"^  (\w+)(/|\.py) +(.*)$", README.read_text(), re.M)
    package = ROOT / "ferminet_core"
    files = {"/": "{}/__init__.py", ".py": "{}.py"}
    assert [name for name, _, _ in shown] == list(ROOMS)
    for name, kind, line in shown:
        assert line == first_sentence(package / files[kind].format(name)), name


def test_links_outside_of_the_site_lead_somewhere() -> None:
    count = 0
    for path in OUTSIDE:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            if not re.match(r"[a-z]+:", link):
                assert (path.parent / link).exists(), (path.name, link)
                count += 1
    assert count > 20  # or the pattern finds nothing


def test_one_version_and_one_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert f"## {project['version']} - " in (ROOT / "CHANGELOG.md").read_text()
    assert citation["license"] == "Apache-2.0"
    licence = (ROOT / "LICENSE").read_text()
    assert licence.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert citation["authors"][0]["name"] in licence


def test_hooks_run_the_linters_of_make_lint() -> None:
    """By program and subcommand; `snakemake --lint` is left to make."""
    recipe = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    linted = re.findall(r"^\t\$\(BIN\)/(.*)$", recipe, re.MULTILINE)
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook["entry"].removeprefix(".venv/bin/") for hook in local["hooks"]]
    expected = [line for line in linted if not line.startswith("snakemake")]
    assert len(hooks) == len(expected) == 4
    for hook, line in zip(hooks, expected, strict=True):
        assert line.startswith(hook.removesuffix(" --check"))
        assert ("--check" in hook) == ("--check" in line)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}.*?\n(.*?)^```", path.read_text(), re.M | re.S)


def yaml_blocks(name: str) -> list[str]:
    return blocks(ROOT / "docs" / name, "yaml")


def test_examples_of_system_files_are_valid(tmp_path: Path) -> None:
    """Each as it stands, or after one that is complete."""
    blocks = yaml_blocks("system_files.md")
    complete = [block for block in blocks if {"atoms", "geometries"} & set(yaml.safe_load(block))]
    assert len(complete) >= 3
    for block in blocks:
        problems = []
        for base in ("",) if block in complete else complete:
            path = tmp_path / "example.yaml"
            path.write_text(base + block)
            try:
                load_scan(path)
                break
            except InputError as error:
                problems.append(str(error))
        else:
            pytest.fail(f"{block}\n{problems}")


def test_tables_in_the_tutorial_are_those_of_the_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs/tutorial.md").read_text()
    shown = dict(re.findall(r'^```text title="check (.*?)"\n(.*?)^```', text, re.M | re.S))
    (example,) = yaml_blocks("tutorial.md")
    (tmp_path / "heh+.yaml").write_text(example)
    (tmp_path / "systems").symlink_to(ROOT / "systems")
    monkeypatch.chdir(tmp_path)
    assert set(shown) == {"systems/h2.yaml", "heh+.yaml"}
    for name, table in shown.items():
        tables.print_runs(load_scan(name))
        printed = capsys.readouterr().out
        assert [line.rstrip() for line in printed.splitlines()] == table.splitlines()


def test_table_in_the_readme_is_that_of_the_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = blocks(README, "yaml")
    (tmp_path / "h2.yaml").write_text(example)
    tables.print_runs(load_scan(tmp_path / "h2.yaml"))
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed[1:] == blocks(README, "text")[0].splitlines()  # the first line names the file


def test_python_in_the_readme_is_the_example_that_is_run() -> None:
    (block,) = blocks(README, "python")
    assert block == (ROOT / "docs/examples/readme_example.py").read_text()


def brief(value: float, error: float) -> str:
    """A number with its standard error in brackets, with two digits of it at most.

    Energies in hartree have five decimals at most.
    """
    decimals = next((d for d in (5, 4) if round(error * 10**d) < 100), 3)
    return f"{value:.{decimals}f}({round(error * 10**decimals)})"


@pytest.mark.parametrize(
    ("page", "table"),
    [
        ("docs/benchmarks.md", "heh+"),
        ("docs/benchmarks.md", "ionization"),
        ("docs/benchmarks.md", "atoms_h100"),
        ("docs/benchmarks.md", "h10_h100"),
        ("docs/benchmarks.md", "n2_h100"),
        ("benchmarks/NOTES.md", "h10"),
        ("benchmarks/NOTES.md", "n2"),
    ],
)
def test_energies_shown_are_those_of_the_tables(page: str, table: str) -> None:
    text = (ROOT / page).read_text()
    done = pd.read_csv(ROOT / f"docs/results/{table}.csv").dropna(subset="energy_Eh")
    shown = {brief(e, s) for e, s in zip(done["energy_Eh"], done["error_Eh"], strict=True)}
    assert len(shown) >= 5
    # With a bracket or a space in front, or the tail of another number would do.
    assert [number for number in shown if f" {number}" not in text] == []


def test_figures_of_h2_are_those_of_its_tables() -> None:
    for name in ("h2", "h2_shared"):
        table = pd.read_csv(ROOT / f"docs/results/{name}.csv").set_index("R")
        excess = 1e3 * (table["energy_Eh"] - table["ref_exact_Eh"])
        error = 1e3 * table["error_Eh"]
        row = " | ".join(f"{e:.2f}({round(100 * s)})" for e, s in zip(excess, error, strict=True))
        assert f"| E - exact (mEh) | {row} |" in (ROOT / "docs/benchmarks.md").read_text()
    text = " ".join(README.read_text().split())
    assert f"within {excess.abs().max():.2f} mEh of the exact one" in text
    assert f"errors of {error.min():.2f} to {error.max():.2f} mEh" in text


def texts_of_the_code() -> str:
    """All texts of the package, f-strings joined, with a NUL for each value; rules and Makefile."""
    found = []
    for path in (ROOT / "ferminet_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "\0" for v in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    found += [path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk")]
    return "\n".join([*found, (ROOT / "Makefile").read_text()])


def test_messages_named_exist() -> None:
    """What stands as code in the first column of troubleshooting and flags is in the code."""
    code, messages = texts_of_the_code(), []
    for name in ("troubleshooting.md", "results.md"):
        text = (ROOT / "docs" / name).read_text()
        for cell in re.findall(r"^\| ([^|]*`[^|]*) \|", text, re.MULTILINE):
            messages += re.findall(r"`([^`]+ [^`]+)`", cell)
    assert len(messages) > 40
    missing = []
    for message in messages:
        pieces = [re.escape(piece) for piece in re.split(r" ?\.\.\. ?", message)]
        if not re.search("[^\n]*".join(pieces), code):
            missing.append(message)
    assert missing == []
