"""Error lines that say where a problem is, what was found and what is allowed."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

Location = tuple[str | int, ...]

# Tags that distinguish the forms of a key. They appear only in pydantic's locations.
TAGS = ("<number>", "<list>", "<range>", "<grid>", "<word>", "<anchors>")

_MAX_LISTED = 12
# Control characters, halves of surrogate pairs and what else XML cannot hold. A tab and a line feed
# are text.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def did_you_mean(found: object, allowed: Iterable[object], what: str = "allowed") -> str:
    """`; did you mean 'layers'? allowed: ...`, or only what is allowed if nothing is close."""
    names = sorted({str(name) for name in allowed})
    close = difflib.get_close_matches(str(found), names, n=1, cutoff=0.6)
    if not close:  # H for h, KFAC for kfac
        close = [name for name in names if name.lower() == str(found).lower()][:1]
    hint = f"; did you mean {close[0]!r}?" if close else ""
    if not names:
        return f"{hint}; {what}: none"
    if len(names) > _MAX_LISTED and close:
        return hint
    listed = ", ".join(names[:_MAX_LISTED]) + ", ..." * (len(names) > _MAX_LISTED)
    return f"{hint}{'' if hint else ';'} {what}: {listed}"


def show(value: object) -> str:
    """A value as an error line quotes it; long values are cut."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: str) -> str:
    """Text that every file and terminal can hold: U+FFFD stands for what is not printable."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def dotted(location: Sequence[str | int]) -> str:
    """`('atoms', 1)` as `atoms[1]`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' * bool(text)}{part}"
    return text


def plain_location(location: Sequence[str | int]) -> Location:
    """A pydantic location without the tags of unions (see `TAGS`)."""
    return tuple(part for part in location if part not in TAGS)


def error_lines(
    error: ValidationError,
    allowed_keys: Callable[[Location], Iterable[str]],
    where: Callable[[Location], str],
) -> list[tuple[Location, str]]:
    """Location and line of each problem that pydantic found.

    Args:
        error: The error that pydantic raised.
        allowed_keys: Returns the keys of the mapping at a location, for suggestions.
        where: Returns the beginning of the line: file, line and key of a location.
    """
    lines = {}
    found = error.errors(include_url=False)
    # A misspelt key is also a missing one. The line with the suggestion comes first.
    for details in sorted(found, key=lambda details: details["type"] != "extra_forbidden"):
        location = plain_location(details["loc"])
        lines[f"{where(location)}: {_problem(details, location, allowed_keys)}"] = location
    return [(location, line) for line, location in lines.items()]


def _problem(
    details: ErrorDetails, location: Location, allowed_keys: Callable[[Location], Iterable[str]]
) -> str:
    """What is wrong, what was found, and what is allowed."""
    context: dict[str, Any] = details.get("ctx", {})
    found = show(details["input"])
    bounds = {
        "greater_than": ("gt", "more than"),
        "greater_than_equal": ("ge", "at least"),
        "less_than": ("lt", "less than"),
        "less_than_equal": ("le", "at most"),
    }
    match details["type"]:
        case "extra_forbidden":
            return f"unknown key{did_you_mean(details['loc'][-1], allowed_keys(location[:-1]))}"
        case "missing":
            return "is missing"
        case "value_error":
            return str(context["error"])
        case "literal_error":
            options = [o.strip("' ") for o in context["expected"].replace(" or ", ",").split(",")]
            return f"found {found}{did_you_mean(details['input'], options)}"
        case kind if kind in bounds:
            key, words = bounds[kind]
            return f"found {found}; allowed: {words} {context[key]:g}"
        case "finite_number":
            return f"found {found}; allowed: a finite number"
        case "string_pattern_mismatch":
            return f"found {found}; allowed: names of the form {context['pattern']}"
        case _:
            wanted = details["msg"].removeprefix("Input should be ").removeprefix("Input should ")
            return f"found {found}; allowed: {wanted.replace('valid tuple', 'list')}"
