"""YAML files without surprises, with the line of every key for error messages.

`yaml.SafeLoader` builds plain data only, so a file cannot run code. Scalars follow YAML 1.2: `1e-3`
is a number, `no` (nitric oxide) is text, and `1:30` is not an angle. A key that is given twice or
is not text is an error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import UNPRINTABLE, did_you_mean, dotted, printable, show
from ferminet_core.inputs.text_files import read_text

# Mappings and lists inside each other. The deepest place of a system file has six levels.
MAX_DEPTH = 20
# libyaml is ten times faster. A PyYAML that was built without it has the other one.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """SafeLoader with YAML 1.2 scalars that refuses duplicate or odd keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            problem = ""
            if key_node.tag != "tag:yaml.org,2002:str":
                problem = f"key {show(key)} is not text; put it in quotes"
            elif key in seen:
                problem = f"key {show(key)} is given twice; keep one"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first)
    )


@dataclass(frozen=True)
class YamlFile:
    """A file's content with the line of each part."""

    path: Path
    data: dict[Any, Any]
    root: yaml.Node

    def where(self, location: Sequence[str | int] = ()) -> str:
        """`systems/h2.yaml:12: overrides.network.layers`, the beginning of an error line."""
        line = _line(self.root, list(location))
        return f"{self.path}:{line}" + (f": {dotted(location)}" if location else "")


def read_yaml(path: Path) -> YamlFile:
    """Read a YAML file that holds a mapping.

    Raises:
        InputError: The file is unreadable, is not YAML, gives a key twice, or is not a mapping.
    """
    if not str(path).isprintable():
        raise InputError(f"{str(path)!r}: has characters that cannot be printed; rename the file")
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file{_neighbours(path)}") from None
    except IsADirectoryError:
        raise InputError(
            f"{path}: is a folder; give the system file, such as systems/h2.yaml"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    root, data = _load(text, str(path))
    if root is None:
        raise InputError(f"{path}: is empty; see the other files in systems/ for examples")
    if not isinstance(data, dict):
        raise InputError(f"{path}:1: found a {type(data).__name__}; allowed: a mapping of keys")
    return YamlFile(path, data, root)


def parse_value(text: str, where: str) -> Any:
    """The value of a YAML scalar or flow list, as given on the command line.

    Raises:
        InputError: The text is not YAML; the line begins with `where`.
    """
    return _load(text, where)[1]


def _load(text: str, where: str) -> tuple[yaml.Node | None, Any]:
    try:
        _check_events(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # libyaml finds what is missing at the end on the line after it.
        last = text.rstrip().count("\n")
        line = f":{min(mark.line, last) + 1}" if mark else ""
        column = f" (column {mark.column + 1})" if mark else ""
        raise InputError(f"{where}{line}: {_problem(error, text)}{column}") from None
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise InputError(f"{where}: {printable(str(error).splitlines()[0])}") from None
    except ValueError:
        raise InputError(f"{where}: has an integer of thousands of digits") from None
    return node, data


def _check_events(text: str) -> None:
    """Refuse tags, aliases, deep nesting and control characters before anything is built.

    A few lines of nested aliases expand to gigabytes. A system file needs no tags.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Base):
        tag = getattr(event, "tag", None)
        problem = ""
        if tag or isinstance(event, yaml.AliasEvent):
            found = f"tags ({show(tag)[1:-1]})" if tag else "aliases (*name)"
            problem = f"{found} are not supported"
        if odd := UNPRINTABLE.search(getattr(event, "value", None) or ""):
            code = f"U+{ord(odd[0]):04X}"
            problem = f"found the character {code}, which is not printable; leave it out"
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            problem = f"nested too deeply; allowed: {MAX_DEPTH} levels"
        if problem:
            mark: Any = event.start_mark
            raise yaml.constructor.ConstructorError(None, None, problem, mark)


def _problem(error: yaml.MarkedYAMLError, text: str) -> str:
    """What YAML says is wrong, and what to do about the commonest slip, a tab."""
    mark = error.problem_mark
    lines = text.splitlines()
    tab = mark is not None and mark.line < len(lines) and "\t" in lines[mark.line]
    return f"{error.problem or error.context}{'; use spaces in place of tabs' if tab else ''}"


def _neighbours(path: Path) -> str:
    try:
        names = [file.stem for file in path.parent.glob("[!.]*.yaml")]
    except OSError:
        return ""
    return did_you_mean(path.stem, names, "system files there") if names else ""


def _line(node: yaml.Node, location: list[str | int]) -> int:
    """Line (from 1) of the key at `location`, or of its nearest parent in the file.

    A part of the location may be dotted in the file: `network.layers: 3`.
    """
    line: int = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        parts: list[str | int] = []
        for part in location:
            parts.extend(part.split(".") if isinstance(part, str) else [part])
        for key, value in node.value:
            names = str(key.value).split(".")
            if parts[: len(names)] == names:
                below = _line(value, parts[len(names) :]) if parts[len(names) :] else 0
                return max(key.start_mark.line + 1, below)
    elif isinstance(node, yaml.SequenceNode) and location:
        index = location[0]
        if isinstance(index, int) and index < len(node.value):
            return _line(node.value[index], location[1:])
    return line
