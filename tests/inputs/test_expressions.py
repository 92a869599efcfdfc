"""Arithmetic in system files: right values, one clear line for anything else, and nothing run."""

import math

import pytest

from ferminet_core.errors import InputError
from ferminet_core.inputs.expressions import parse_condition, parse_number

VALUES = {"R": 1.5, "theta": 30.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0.0),
        ("-R/2", -0.75),
        ("+R", 1.5),
        ("(R + 1) * 2", 5.0),
        ("R**2 - 1", 1.25),
        ("-R**2", -2.25),
        ("2**3**2", 512.0),
        ("7 - 2 - 1", 4.0),
        ("1e-3", 1e-3),
        (" .5 ", 0.5),
        ("sqrt(2*8)", 4.0),
        ("abs(-R)", 1.5),
        ("R*sin(radians(theta))", 0.75),
        ("R*cos(radians(2*theta))", 0.75),
        ("tan(pi/4)", 1.0),
        ("2*pi", 2 * math.pi),
    ],
)
def test_values(text: str, expected: float) -> None:
    # A few roundings of doubles.
    assert parse_number(text, VALUES).number(VALUES) == pytest.approx(
        expected, rel=1e-15, abs=1e-15
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("R > 1.4", True),
        ("R > 1.5", False),
        ("R >= 1.5", True),
        ("R < 1.5", False),
        ("R <= 1.5", True),
        ("R == 1.5", True),
        ("R != 1.5", False),
        ("1 < R < 2", True),
        ("1 < R < 1.2", False),
        ("R > 1 and theta < 20", False),
        ("R > 1 or theta < 20", True),
        ("not R > 1", False),
        ("not (R > 1 and theta < 20)", True),
        ("R - 1 == theta/60", True),
        ("R > 1or R > 2", True),
        # 0.1 + 0.2 is another double than 0.3.
        ("R/5 == 0.1 + 0.2", True),
        ("R/5 >= 0.1 + 0.2", True),
        ("R/5 < 0.1 + 0.2", False),
    ],
)
def test_conditions(text: str, expected: bool) -> None:
    assert parse_condition(text, VALUES).holds(VALUES) is expected


def test_names_are_those_of_parameters() -> None:
    assert parse_number("R*sin(theta) + pi", VALUES).names == {"R", "theta"}
    assert parse_condition("R > 1 and sqrt(x) < 2", {"R", "x", "y"}).names == {"R", "x"}
    assert parse_number("3", ()).names == frozenset()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "call"),
        ("__import__", "unknown parameter"),
        ("open(R)", "unknown function 'open'"),
        ("eval(R)", "unknown function 'eval'"),
        ("R.real", "attribute access"),
        ("().__class__", "attribute access"),
        ("R[0]", "indexing"),
        ("[R for R in R]", "comprehensions"),
        ("{R for R in R}", "comprehensions"),
        ("sum(x for x in R)", "unknown function 'sum'"),
        ("lambda: 1", "functions cannot be defined"),
        ("(x := 1)", "assignments"),
        ("1 if R > 1 else 2", "if/else"),
        ("'text'", "not a real number"),
        ("f'{R}'", "text is not allowed"),
        ("True", "not a real number"),
        ("None", "not a real number"),
        ("1j", "not a real number"),
        ("...", "not a real number"),
        ("R % 2", "allowed:"),
        ("R // 2", "allowed:"),
        ("R << 2", "allowed:"),
        ("~R", "allowed:"),
        ("R @ R", "allowed:"),
        ("R, R", "allowed:"),
        ("[R]", "allowed:"),
        ("*R", "not arithmetic"),
        ("R^2", "write \\*\\* for a power"),
        ("2R", "write 2\\*R"),
        ("R = 2", "write == to compare"),
        ("R +", "not arithmetic"),
        ("import os", "not arithmetic"),
        ("R\0", "not arithmetic"),
        ("", "empty"),
        ("R > 1", "condition where a number"),
        ("not R", "condition where a number"),
        ("sqrt", "needs an argument"),
        ("sqrt()", "one argument"),
        ("sqrt(R, 2)", "one argument"),
        ("sqrt(x=R)", "one argument"),
        ("sqrt(*R)", "one argument"),
        ("sqr(R)", "did you mean 'sqrt'"),
        ("R*" * 150 + "R", "characters; allowed: 200"),
    ],
)
def test_refused_when_parsed_or_evaluated(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_number(text, VALUES).number(VALUES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["(" * 99 + "R" + ")" * 99, "-" * 198 + "R", "R" + "*1" * 99])
def test_deep_nesting_within_the_length_is_no_trouble(text: str) -> None:
    assert parse_number(text, VALUES).number(VALUES) == 1.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("R", "number where a condition"),
        ("R + 1", "number where a condition"),
        ("R in R", "allowed comparisons"),
        ("R is R", "allowed comparisons"),
        ("R and R", "number where a condition"),
        ("R > 1 and R.real", "attribute access"),
        ("(R > 1) + 1", "condition where a number"),
        ("(R > 1) == (R > 2)", "condition where a number"),
        ("R > __import__('os')", "unknown function '__import__'"),
        ("R = 1", "write =="),
    ],
)
def test_refused_conditions(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_condition(text, VALUES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9**9**9", "exponent 3.8742e\\+08 is too large; allowed: at most 100"),
        ("9**-101", "too large"),
        ("9**99 * 9**99 * 9**99 * 9**99", "no finite real value"),
        ("9e99**9", "no finite real value"),
        ("1e999", "no finite real value"),
        ("1" * 190, None),
        ("(-R)**0.5", "not a real number"),
        ("sqrt(-R)", "no finite real value"),
        ("R/0", "no finite real value"),
        ("0**-1", "no finite real value"),
    ],
)
def test_values_that_do_not_exist(text: str, message: str | None) -> None:
    expression = parse_number(text, VALUES)
    if message is None:
        # A long integer is a float at once; nothing of its size is ever computed with.
        assert expression.number(VALUES) == float(text)
        return
    with pytest.raises(InputError, match=message):
        expression.number(VALUES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("R*sin(thetta)", "unknown parameter 'thetta'; did you mean 'theta'"),
        ("R + S", "unknown parameter 'S'; allowed: R, abs, cos, pi"),
        ("r", "did you mean 'R'"),
    ],
)
def test_unknown_parameters_are_found_before_evaluation(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_number(text, VALUES)


def test_division_by_zero_in_a_condition_names_it() -> None:
    with pytest.raises(InputError, match="'1/R > 1': has no finite real value"):
        parse_condition("1/R > 1", {"R"}).holds({"R": 0.0})
