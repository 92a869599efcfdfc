"""Arithmetic on scan parameters, as in `N 0 0 -R/2` and `where: R > 4`.

`ast` parses the text. Each node is checked against a short list and evaluated by hand, so nothing
is ever compiled or run. All numbers are floats, so no power can fill the memory.
"""

import ast
import itertools
import math
import operator
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ferminet_core.errors import InputError
from ferminet_core.inputs.messages import did_you_mean, show

T = TypeVar("T")

MAX_LENGTH = 200  # characters
MAX_EXPONENT = 100.0
# Numbers whose relative difference is smaller count as equal in conditions: 0.1 * 3 == 0.3.
EQUAL = 1e-9

CONSTANTS: Mapping[str, float] = {"pi": math.pi}
FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "radians": math.radians,
    "abs": abs,
}
RESERVED = frozenset({*CONSTANTS, *FUNCTIONS, "and", "or", "not"})
_ALLOWED = "+ - * / **, parentheses, numbers, parameters, pi, " + ", ".join(FUNCTIONS)


def _power(base: float, exponent: float) -> float:
    if abs(exponent) > MAX_EXPONENT:
        raise InputError(f"exponent {exponent:g} is too large; allowed: at most {MAX_EXPONENT:g}")
    value = base**exponent
    if isinstance(value, complex):
        raise InputError(f"{base:g} to the power {exponent:g} is not a real number")
    return value


_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: _power,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=EQUAL)


_COMPARE: Mapping[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Eq: _close,
    ast.NotEq: lambda a, b: not _close(a, b),
    ast.Lt: lambda a, b: a < b and not _close(a, b),
    ast.LtE: lambda a, b: a < b or _close(a, b),
    ast.Gt: lambda a, b: a > b and not _close(a, b),
    ast.GtE: lambda a, b: a > b or _close(a, b),
}

_PLAIN_NUMBER = re.compile(r"-?[0-9]+\.?[0-9]*")  # not the only form, but nearly all are of it
# Python reads on after a backslash, drops what follows #, takes other scripts' letters for Latin
# ones, and reads 1_0 and 0x10 as numbers. A user who writes these means something else.
_NOT_ARITHMETIC = re.compile(r"[^ -~]|[\\#;]|(?<![A-Za-z0-9_])[0-9][0-9.]*(?:_|[xXoObB][0-9])")

# Constructs that users write out of habit, with an explanation in place of "not allowed".
_FORBIDDEN: Mapping[type[ast.AST], str] = {
    ast.Attribute: "attribute access is not allowed",
    ast.Subscript: "indexing is not allowed",
    ast.Lambda: "functions cannot be defined",
    ast.ListComp: "comprehensions are not allowed",
    ast.SetComp: "comprehensions are not allowed",
    ast.DictComp: "comprehensions are not allowed",
    ast.GeneratorExp: "comprehensions are not allowed",
    ast.NamedExpr: "assignments are not allowed",
    ast.IfExp: "if/else is not allowed; use `cases` with `where`",
    ast.JoinedStr: "text is not allowed",
    ast.BitXor: "^ is not allowed; write ** for a power",
}


@dataclass(frozen=True)
class Expression:
    """A checked expression; `names` are the parameters it uses."""

    text: str
    names: frozenset[str]
    _tree: ast.expr

    def number(self, parameters: Mapping[str, float]) -> float:
        """Value for these parameters, which include all of `names`.

        Raises:
            InputError: The value is not a finite real number.
        """
        return _with_text(self.text, lambda: _number(self._tree, parameters))

    def holds(self, parameters: Mapping[str, float]) -> bool:
        """Truth of a condition for these parameters; raises InputError as `number` does."""
        return _with_text(self.text, lambda: _condition(self._tree, parameters))


def parse_number(text: str, parameters: Collection[str]) -> Expression:
    """Parse an arithmetic expression such as `-R/2` or `1.4`.

    Args:
        text: The expression.
        parameters: Names that it may use.

    Raises:
        InputError: It is not arithmetic, or a parameter is unknown. The line says what is wrong and
            what is allowed.
    """
    if _PLAIN_NUMBER.fullmatch(text):
        return Expression(text, frozenset(), ast.Constant(float(text)))
    return _parse(text, parameters, _check_number)


def parse_condition(text: str, parameters: Collection[str]) -> Expression:
    """Parse a condition such as `R > 4 and theta < 90`; arguments and errors as `parse_number`."""
    return _parse(text, parameters, _check_condition)


def _parse(text: str, parameters: Collection[str], check: Callable[[ast.expr], None]) -> Expression:
    text = text.strip()
    if not text:
        raise InputError("empty expression; write a number or arithmetic on the parameters")
    if len(text) > MAX_LENGTH:
        raise InputError(
            f"{text[:20]!r}...: expression of {len(text)} characters; allowed: {MAX_LENGTH}"
        )
    if odd := _NOT_ARITHMETIC.search(text):
        raise InputError(f"{show(text)}: {odd[0]!r} is not arithmetic; allowed: {_ALLOWED}")
    try:
        with warnings.catch_warnings():
            # Python warns of `1or R`, as a DeprecationWarning before 3.12. The checks decide.
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        # ValueError: null bytes; MemoryError: CPython's answer to deep nesting.
        raise InputError(f"{text!r}: not arithmetic{_habit(text)}; allowed: {_ALLOWED}") from None
    _with_text(text, lambda: check(tree))
    calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = frozenset(
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and id(node) not in calls and node.id not in CONSTANTS
    )
    for name in sorted(names - set(parameters)):
        known = {*parameters, *CONSTANTS, *FUNCTIONS}
        raise InputError(f"{text!r}: unknown parameter {name!r}{did_you_mean(name, known)}")
    return Expression(text, names, tree)


def _habit(text: str) -> str:
    """A hint at the commonest slips that are not Python."""
    if any(a.isdigit() and b.isalpha() for a, b in itertools.pairwise(text)):
        return " (write 2*R for a product)"
    if "=" in text.replace("==", "").replace("<=", "").replace(">=", "").replace("!=", ""):
        return " (write == to compare)"
    return ""


def _with_text(text: str, action: Callable[[], T]) -> T:
    """Run `action` and name the expression in its errors."""
    try:
        return action()
    except InputError as error:
        raise InputError(f"{text!r}: {error}") from None
    except RecursionError:
        raise InputError(f"{text!r}: nested too deeply") from None


def _refuse(node: ast.AST) -> InputError:
    kind: type[ast.AST] = type(node.op) if isinstance(node, ast.BinOp) else type(node)
    if kind in _FORBIDDEN:
        return InputError(f"{_FORBIDDEN[kind]}; allowed: {_ALLOWED}")
    if isinstance(node, ast.Constant):
        return InputError(f"{node.value!r} is not a real number; allowed: {_ALLOWED}")
    return InputError(f"{kind.__name__} is not supported; allowed: {_ALLOWED}")


def _check_number(node: ast.expr) -> None:
    """Accept numbers, names and arithmetic; anything else raises InputError."""
    match node:
        case ast.Constant(value=bool()):
            raise _refuse(node)
        case ast.Constant(value=int() | float()) | ast.Name():
            if isinstance(node, ast.Name) and node.id in FUNCTIONS:
                raise InputError(f"{node.id} needs an argument, as in {node.id}(R)")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            _check_number(left)
            _check_number(right)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            _check_number(operand)
        case ast.Call():
            _check_call(node)
        case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
            raise InputError("is a condition where a number is needed")
        case _:
            raise _refuse(node)


def _check_call(node: ast.Call) -> None:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in FUNCTIONS:
        found = f"unknown function {name!r}" if name else "this call is not allowed"
        raise InputError(f"{found}{did_you_mean(name, FUNCTIONS, 'functions')}")
    if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
        raise InputError(f"{name} takes one argument, as in {name}(R)")
    _check_number(node.args[0])


def _check_condition(node: ast.expr) -> None:
    """Accept comparisons of numbers, joined by and, or, not."""
    match node:
        case ast.BoolOp(values=values):
            for value in values:
                _check_condition(value)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            _check_condition(operand)
        case ast.Compare(left=left, ops=ops, comparators=others):
            if any(type(op) not in _COMPARE for op in ops):
                raise InputError("allowed comparisons: < <= > >= == !=")
            for number in (left, *others):
                _check_number(number)
        case _:
            _check_number(node)
            raise InputError("is a number where a condition is needed, such as R > 4")


def _number(node: ast.expr, parameters: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return _finite(lambda: float(value))
        case ast.Name(id=name):
            return CONSTANTS[name] if name in CONSTANTS else float(parameters[name])
        case ast.BinOp(left=left, op=binary, right=right):
            a, b = _number(left, parameters), _number(right, parameters)
            return _finite(lambda: _BINARY[type(binary)](a, b))
        case ast.UnaryOp(op=unary, operand=operand):
            return _UNARY[type(unary)](_number(operand, parameters))
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            x = _number(argument, parameters)
            return _finite(lambda: FUNCTIONS[name](x))
    raise _refuse(node)


def _finite(value: Callable[[], float]) -> float:
    try:
        result = value()
    except (ZeroDivisionError, OverflowError, ValueError) as error:
        raise InputError(f"has no finite real value ({error})") from None
    if not math.isfinite(result):
        raise InputError("has no finite real value")
    return result


def _condition(node: ast.expr, parameters: Mapping[str, float]) -> bool:
    match node:
        case ast.BoolOp(op=op, values=parts):
            truths = [_condition(part, parameters) for part in parts]
            return all(truths) if isinstance(op, ast.And) else any(truths)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _condition(operand, parameters)
        case ast.Compare(left=left, ops=ops, comparators=others):
            numbers = [_number(side, parameters) for side in (left, *others)]
            pairs = zip(ops, itertools.pairwise(numbers), strict=True)
            return all(_COMPARE[type(op)](a, b) for op, (a, b) in pairs)
    raise _refuse(node)
