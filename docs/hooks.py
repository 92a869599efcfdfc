"""Parts of the documentation that are generated from the code, and its equations.

A line `<!-- generated: NAME -->` on a page is replaced by the table of that name. So settings, keys
and commands are those of the code that the site is built with. Equations are written in TeX and
converted to MathML, which browsers draw without a library.
"""

import ast
import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from docutils.utils.math.latex2mathml import tex2mathml
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from ferminet_core.analysis import scan_table
from ferminet_core.cli.commands import app
from ferminet_core.errors import ExitCode
from ferminet_core.inputs import config, overrides, setting_fields, system_keys

ROOT = Path(__file__).parents[1]
_MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
# The output of `pymdownx.arithmatex` for $...$ and $$...$$.
_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
# The mappings of a system file, by their place in it.
_MODELS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("At the top", system_keys.SystemFile),
    ("`geometries`", system_keys.Geometry),
    ("`cases`", system_keys.Case),
    ("`variants`", system_keys.Variant),
    ("`warm_start`", system_keys.WarmStart),
    ("`sharing`", system_keys.Sharing),
    ("Ranges, in `parameters` and `grids`", system_keys.ValueRange),
    ("`{grid: ...}`, in `parameters`", system_keys.NamedGrid),
    ("`literature`", system_keys.LiteratureSpec),
    ("`quantities`", system_keys.QuantitySpec),
    ("`correlation`", system_keys.CorrelationSpec),
)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put the generated parts into a page."""

    def part(match: re.Match[str]) -> str:
        if match[1] not in GENERATED:
            raise PluginError(f"{page.file.src_uri}: no generated part is called {match[1]!r}")
        return "\n".join(GENERATED[match[1]]())

    return _MARK.sub(part, markdown)


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Turn the equations of a page into MathML."""

    def equation(match: re.Match[str]) -> str:
        tex, block = html.unescape(match[2]).strip(), match[1] == "div"
        try:
            mathml = tex2mathml(tex, as_block=block)
        except Exception as error:  # docutils raises many kinds of errors
            raise PluginError(f"{page.file.src_uri}: {tex}: {error}") from error
        return f'<div class="equation">{mathml}</div>' if block else mathml

    return _EQUATION.sub(equation, content)


def _section(heading: str, model: type[BaseModel]) -> Iterator[str]:
    yield from (heading, "", _text(str(model.__doc__)), "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    yield line(head)
    yield line(["---"] * len(head))
    yield from map(line, rows)
    yield ""


def _text(text: str) -> str:
    """A sentence of the code as Markdown, with `<` outside of code escaped."""
    pieces = " ".join(text.split()).split("`")
    pieces[::2] = [piece.replace("<", "&lt;") for piece in pieces[::2]]
    return "`".join(pieces)


def _code(value: Any) -> str:
    """A value in the notation of YAML."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (list, tuple)):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _allowed(schema: Mapping[str, Any]) -> str:
    """The values allowed for a setting, from its JSON schema."""
    for option in schema.get("anyOf", []):
        if option["type"] != "null":
            return _allowed(option)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_allowed(schema['items'])}"
    signs = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
        "multipleOf": "a multiple of",
    }
    kind = {"boolean": "`true`, `false`", "string": "text", "integer": "whole", "number": ""}
    bounds = [f"{words} {schema[key]:.10g}" for key, words in signs.items() if key in schema]
    return ", ".join(filter(None, [kind[schema["type"]], *bounds]))


def settings() -> Iterator[str]:
    """One table of settings per section."""
    definitions = config.Config.model_json_schema()
    rules, presets = config.resume_rules(), overrides.presets()
    reasons = config.bound_reasons()
    for name, value in config.Config():
        if not isinstance(value, setting_fields.Section):
            description = definitions["properties"][name]["description"]
            yield f"`{name}` (default {_code(value)}): {description} At most {reasons[name]}."
            yield ""
            continue
        model = type(value)
        yield from _section(f"## `{name}`", model)
        rows = []
        for field, details in model.model_fields.items():
            key = f"{name}.{field}"
            schema = model.model_json_schema()["properties"][field]
            others = [f"{p}: {_code(v[key])}" for p, v in presets.items() if key in v]
            if name == "optimise":
                others = [*_by_optimiser(field), *others]
            others = [*_by_network(key), *others]
            description = _text(str(details.description))
            if key in reasons:
                description += f" Bounds: {reasons[key]}."
            if rules[key] not in setting_fields.UNCHANGEABLE:
                description += f" A resume may change it: {rules[key].value}."
            default = ", ".join([_code(getattr(value, field)), *others])
            rows.append([f"`{key}`", default, _allowed(schema), description])
        yield from _table(
            ["setting", "default, by network, optimiser and preset", "allowed", "meaning"], rows
        )


def _by_network(key: str) -> Iterator[str]:
    """The defaults of a setting with other networks than the default one."""
    for kind, values in config.NETWORK_DEFAULTS.items():
        if key in values:
            yield f"{kind}: {_code(values[key])}"


def _by_optimiser(field: str) -> Iterator[str]:
    """The defaults of a setting with other optimisers than the default one, where they differ."""
    default = config.OptimiseConfig()
    for optimiser, values in config.OPTIMISER_DEFAULTS.items():
        if values.get(field, getattr(default, field)) != getattr(default, field):
            yield f"{optimiser}: {_code(values[field])}"


def keys() -> Iterator[str]:
    """One table of keys per mapping of a system file."""
    for place, model in _MODELS:
        yield from _section(f"### {place}", model)
        rows = []
        for key, field in model.model_fields.items():
            default = "required" if field.is_required() else _code(field.get_default())
            if default in ("`[]`", "`{}`", "``"):
                default = "none"
            rows.append([f"`{key}`", default, _text(str(field.description))])
        yield from _table(["key", "default", "meaning"], rows)


def resume() -> Iterator[str]:
    """The settings that a resume may change."""
    rules = config.resume_rules().items()
    rows = [
        [f"`{key}`", rule.value] for key, rule in rules if rule not in setting_fields.UNCHANGEABLE
    ]
    yield from _table(["setting", "a resume may change it"], rows)


def commands() -> Iterator[str]:
    """Each command with its arguments and options."""
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        yield f"## `{name}`"
        yield ""
        yield _text(str(command.help))
        yield ""
        rows = []
        for parameter in command.params:
            is_option = parameter.opts[0].startswith("-")
            words = [*parameter.opts, *parameter.secondary_opts]
            spelling = ", ".join(f"`{word if is_option else word.upper()}`" for word in words)
            default = "required" if parameter.required else _code(parameter.default)
            rows.append([spelling, default, _text(str(parameter.help))])
        yield from _table(["argument or option", "default", "meaning"], rows)


def exit_codes() -> Iterator[str]:
    """The exit codes of all commands."""
    yield from _table(["exit code", "meaning"], [[str(int(c)), c.meaning] for c in ExitCode])


def rooms() -> Iterator[str]:
    """The modules of each room with the first sentence of their docstrings."""
    tree = ast.parse((ROOT / "tests/helpers/rooms.py").read_text(encoding="utf-8"))
    (names,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROOMS"
    ]
    package = ROOT / "ferminet_core"
    for name in names:
        folder = package / name
        if not folder.is_dir():
            yield from (f"### `{name}`", "", _docstring(folder.with_suffix(".py")), "")
            continue
        yield from (f"### `{name}/`", "", _docstring(folder / "__init__.py"), "")
        files = sorted(p for p in folder.rglob("*.py") if p.name != "__init__.py")
        rows = [[f"`{p.relative_to(folder).with_suffix('')}`", _docstring(p)] for p in files]
        yield from _table(["module", "content"], rows)


def _docstring(path: Path) -> str:
    """The first paragraph of a module's docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return _text(str(ast.get_docstring(tree)).split("\n\n")[0])


def columns() -> Iterator[str]:
    """The columns of scan.csv in their order, and the further variables of scan.zarr.zip."""
    declared = scan_table.columns(["<parameter>"], [])
    rows = {
        in_table: [
            [f"`{c.name}`", c.kind.value, _text(c.unit), _text(c.meaning)]
            for c in declared
            if c.in_table is in_table
        ]
        for in_table in (True, False)
    }
    place = [column.name for column in declared].index("<parameter>")
    rows[True][place] = ["parameters", "number", "", "one column for each parameter of the scan"]
    published = "energies of `literature` that match this run, one column for each entry"
    rows[True].append(["`ref_<name>_Eh`", "number", "hartree", published])
    head = ["column", "type", "unit", "meaning"]
    yield from _table(head, rows[True])
    yield "`scan.zarr.zip` has these variables, except `wall_s` and `node_h`, and also:"
    yield ""
    yield from _table(["variable", *head[1:]], rows[False])


GENERATED: Mapping[str, Callable[[], Iterator[str]]] = {
    "settings": settings,
    "keys": keys,
    "resume": resume,
    "commands": commands,
    "exit_codes": exit_codes,
    "rooms": rooms,
    "columns": columns,
}
