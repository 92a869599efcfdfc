"""Error lines that say where a problem is, what was found and what is allowed."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

Location = tuple[str | int, ...]

# Tags that distinguish the forms of a key. They appear only in pydantic's locations.
TAGS = ("<number>", "<list>", "<range>", "<grid>", "<word>", "<anchors>", "<sharing>", "<elements>")

_MAX_LISTED = 12
# Lines of one error. A file with sixty thousand unknown keys has one mistake.
MAX_LINES = 20
# Characters of a quoted value or key. A longer word has no near neighbour among the allowed ones.
_MAX_SHOWN = 60
# Control characters, halves of surrogate pairs and what else XML cannot hold. A tab and a line feed
# are text.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """The text with control characters escaped, which could write over a terminal's other lines."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def did_you_mean(found: object, allowed: Iterable[object], what: str = "allowed") -> str:
    """`; did you mean 'layers'? allowed: ...`, or only what is allowed if nothing is close."""
    names = sorted({str(name) for name in allowed})
    word = found if isinstance(found, str) and len(found) <= _MAX_SHOWN else ""
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not close:  # H for h, KFAC for kfac
        close = [name for name in names if name.lower() == word.lower()][:1]
    hint = f"; did you mean {show(close[0])}?" if close else ""
    if not names:
        return f"{hint}; {what}: none"
    if len(names) > _MAX_LISTED and close:
        return hint
    listed = ", ".join(_cut(printable(name)) for name in names[:_MAX_LISTED])
    listed += ", ..." * (len(names) > _MAX_LISTED)
    return f"{hint}{'' if hint else ';'} {what}: {listed}"


def listing(names: Sequence[str]) -> str:
    """The names as a line lists them; of many, the first ones and their number."""
    more = len(names) - _MAX_LISTED
    shown = [*map(printable, names[:_MAX_LISTED]), *([f"{more} more"] if more > 0 else [])]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def show(value: object) -> str:
    """A value as an error line quotes it; long values are cut."""
    try:
        return _cut(repr(value))
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"


def replace_unprintable(text: str) -> str:
    """Text that every file and terminal can hold: U+FFFD stands for what is not printable."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def dotted(location: Sequence[str | int]) -> str:
    """`('atoms', 1)` as `atoms[1]`; long names are cut."""
    text = ""
    for part in location:
        name = part if isinstance(part, int) else _cut(printable(part))
        text += f"[{name}]" if isinstance(part, int) else f"{'.' * bool(text)}{name}"
    return text


def plain_location(location: Sequence[str | int]) -> Location:
    """A pydantic location without the tags of unions (see `TAGS`)."""
    return tuple(part for part in location if part not in TAGS)


def nothing(location: Location) -> str:
    """The reason for a bound that needs none, and the hint for a key without one."""
    return ""


def error_lines(
    error: ValidationError,
    allowed_keys: Callable[[Location], Iterable[str]],
    where: Callable[[Location], str],
    reason: Callable[[Location], str] = nothing,
    hint: Callable[[Location], str] = nothing,
) -> list[tuple[Location, str]]:
    """Location and line of each problem that pydantic found, of the first `MAX_LINES`.

    Args:
        error: The error that pydantic raised.
        allowed_keys: Returns the keys of the mapping at a location, for suggestions.
        where: Returns the beginning of the line: file, line and key of a location.
        reason: Returns the reason for the bounds of the value at a location.
        hint: Returns what to write in place of a key that does not exist, if that is known.
    """
    lines: dict[str, Location] = {}
    found = error.errors(include_url=False)
    # A misspelt key is also a missing one. The line with the suggestion comes first.
    found.sort(key=lambda details: details["type"] != "extra_forbidden")
    for number, details in enumerate(found):
        if len(lines) == MAX_LINES:
            lines[f"{where(())}: {len(found) - number} more problems"] = ()
            break
        location = plain_location(details["loc"])
        if details["type"] == "extra_forbidden":
            suggested = did_you_mean(str(location[-1]), allowed_keys(location[:-1]))
            problem = f"unknown key{f'; {known}' if (known := hint(location)) else suggested}"
        else:
            problem = _problem(details, reason(location))
        lines[f"{where(location)}: {problem}"] = location
    return [(location, line) for line, location in lines.items()]


# What is allowed, by the type of pydantic's error and from its context.
_ALLOWED = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "at least {min_length} in the list",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "names of the form {pattern}",
}


def _problem(details: ErrorDetails, reason: str) -> str:
    """What is wrong, what was found, and what is allowed."""
    context: dict[str, Any] = details.get("ctx", {})
    found = show(details["input"])
    because = f" ({reason})" if reason else ""
    match details["type"]:
        case "missing":
            return "is missing"
        case "value_error":
            return str(context["error"])
        case "literal_error":
            options = [o.strip("' ") for o in context["expected"].replace(" or ", ",").split(",")]
            return f"found {found}{did_you_mean(details['input'], options)}"
        case "too_long" | "string_too_long":
            count = len(details["input"])
            what = "characters" if isinstance(details["input"], str) else "entries"
            return f"found {count} {what}; allowed: at most {context['max_length']}{because}"
        case kind if kind in _ALLOWED:
            numbers = {k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()}
            return f"found {found}; allowed: {_ALLOWED[kind].format(**numbers)}{because}"
        case _:
            wanted = details["msg"].removeprefix("Input should be ").replace("valid tuple", "list")
            return f"found {found}; allowed: {wanted}"
