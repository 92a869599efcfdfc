"""Read a compiled program as XLA prints it: kernels, bytes, operations of products, messages.

Counting rules: the body of a loop counts as often as it runs, or once if its length is unknown. Of
a branch the longer side counts. What a kernel reads and writes counts in full, as if no cache held
it, but of an operand of which it takes slices, these. Of products the multiplications and additions
count, those inside fusions too, but not those of factorisations and triangular systems.
"""

import functools
import math
import re
from collections import Counter
from dataclasses import dataclass, field

# Instructions without a kernel: names of data, and views of it.
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
    "add-dependency",
}
BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}


@dataclass(frozen=True)
class Instruction:
    """One line of a program: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    number: int  # of a parameter

    def called(self, *attributes: str) -> list[str]:
        """Computations that these attributes name."""
        found = []
        for attribute in attributes:
            for text in re.findall(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes):
                found += re.findall(r"[\w.\-]+", text)
        return found


@dataclass
class Count:
    """What a program or a part of it asks for.

    Attributes:
        kernels: Launches by kind.
        bytes: Read and written by the kernels.
        unknown_loops: Loops whose number of passes the compiler does not know.
        transfers: Between host and device.
        products: Operations of matrix products by their precision: "highest", "default", or the
            name of an algorithm. A GPU takes "default" in TF32.
        messages: Between devices: how many of an operation and a size, in bytes, see `_message`.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    bytes: float = 0.0
    unknown_loops: int = 0
    transfers: int = 0
    products: Counter[str] = field(default_factory=Counter)
    messages: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, other: "Count", times: int = 1) -> None:
        """Add a part that runs so many times."""
        self.kernels.update({kind: times * n for kind, n in other.kernels.items()})
        self.products.update({precision: times * n for precision, n in other.products.items()})
        self.messages.update({message: times * n for message, n in other.messages.items()})
        self.bytes += times * other.bytes
        self.unknown_loops += other.unknown_loops
        self.transfers += times * other.transfers


def arrays(shape: str) -> list[tuple[str, list[int]]]:
    """Types and lengths of an array or of a tuple of arrays, such as `(f32[4,3]{1,0}, s32[])`."""
    found = re.findall(r"\b(pred|bf16|c64|c128|[suf]\d+)\[([\d,]*)\]", shape)
    return [(kind, [int(n) for n in filter(None, lengths.split(","))]) for kind, lengths in found]


def size(shape: str) -> int:
    """Bytes of an array or of a tuple of arrays."""
    return sum(
        math.prod(lengths) * (BITS.get(kind) or int(kind[1:])) // 8
        for kind, lengths in arrays(shape)
    )


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations of a program by name, and the name of the one that it starts with."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$", line):
            operands, _, attributes = found[4].partition(")")
            names = tuple(re.findall(r"%([\w.\-]+)", operands))
            number = int(operands) if found[3] == "parameter" else -1
            instruction = Instruction(found[1], found[2], found[3], names, attributes, number)
            computations[current].append(instruction)
    return computations, entry


def count(text: str) -> Count:
    """What the program asks for that XLA prints like this."""
    computations, entry = parse(text)

    @functools.cache
    def of(name: str) -> Count:
        found, shapes = Count(), {i.name: i.shape for i in computations[name]}
        for i in computations[name]:
            if i.opcode in FREE or i.opcode.endswith("-done"):
                continue
            if i.opcode == "while":
                length = re.search(r'"known_trip_count":\{"n":"(\d+)"', i.attributes)
                # A loop of known length runs without asking its condition.
                for part in i.called("body", *([] if length else ["condition"])):
                    found.add(of(part), int(length[1]) if length else 1)
                found.unknown_loops += int(length is None)
            elif i.opcode == "conditional":
                names = i.called("branch_computations", "true_computation", "false_computation")
                found.add(max(map(of, names), key=lambda c: c.kernels.total()))
            elif i.opcode in ("call", "async-start") and i.called("to_apply", "calls"):
                found.add(of(*i.called("to_apply", "calls")))
            else:
                found.kernels[_kind(i)] += 1
                found.products.update(_products(i, shapes, computations))
                found.messages.update(_message(i, shapes))
                found.bytes += size(i.shape) + sum(
                    min(size(shapes[x]), read)
                    for x, read in zip(i.operands, _reads(i, computations), strict=True)
                )
                # S(5) marks memory of the host.
                found.transfers += int("S(5)" in i.shape or i.opcode in ("infeed", "outfeed"))
        return found

    return of(entry)


def _reads(i: Instruction, computations: dict[str, list[Instruction]]) -> list[float]:
    """Bytes that a kernel reads of each operand at most: a fusion may take slices only."""
    body = [x for name in i.called("calls") for x in computations.get(name, ())]
    read = [float("inf")] * len(i.operands)
    if i.opcode == "fusion":
        for parameter in (x for x in body if x.opcode == "parameter"):
            names: list[str] = [parameter.name]
            users: list[Instruction] = []
            for name in names:  # which grows by the views of the parameter
                users += (x for x in body if name in x.operands and x.opcode != "bitcast")
                names += (x.name for x in body if name in x.operands and x.opcode == "bitcast")
            if all(x.opcode == "slice" for x in users):
                read[parameter.number] = sum(size(x.shape) for x in users)
    return read


def _products(
    i: Instruction, shapes: dict[str, str], computations: dict[str, list[Instruction]]
) -> Counter[str]:
    """Operations of the products of a kernel, by precision."""
    found: Counter[str] = Counter()
    if i.opcode == "fusion":
        for name in i.called("calls"):
            own = {x.name: x.shape for x in computations[name]}
            for x in computations[name]:
                found += _products(x, own, computations)
    elif i.opcode == "dot" or (i.opcode == "custom-call" and "$gemm" in _kind(i)):
        # A product of a library describes itself in JSON, and XLA's own in its text.
        summed = re.search(
            r'lhs_contracting_dim(?:ension)?s"?[=:][\[{]([\d",]*)[\]}]', i.attributes
        )
        lengths = arrays(shapes[i.operands[0]])[0][1]
        axes = [int(x) for x in re.findall(r"\d+", summed[1])] if summed else []
        result = math.prod(arrays(i.shape)[0][1])
        found[_precision(i)] = 2 * result * math.prod(lengths[axis] for axis in axes)
    return found


def _precision(i: Instruction) -> str:
    """Of a product: an algorithm by name, or how exactly its operands are taken."""
    algorithm = re.search(r'algorithm"?[=:]"?(?!ALG_UNSET)(?:ALG_)?(\w+)', i.attributes)
    asked = re.search(r'operand_precision"?[=:][\[{]"?(\w+)', i.attributes)
    return (algorithm or asked or ["", "default"])[1].lower()


MESSAGES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")


def _message(i: Instruction, shapes: dict[str, str]) -> Counter[tuple[str, int]]:
    """A message between devices with its bytes on one device.

    They are those of the array that is reduced or exchanged, and of the whole that is gathered.
    """
    kind = i.opcode.removesuffix("-start")
    if kind not in MESSAGES:
        return Counter()
    operands = sum(size(shapes[x]) for x in i.operands)
    # What starts a message in the background names its operands in its result as well.
    whole = size(i.shape) - (operands if i.opcode.endswith("-start") else 0)
    return Counter({(kind, whole if kind == "all-gather" else operands): 1})


def _kind(i: Instruction) -> str:
    """The kernel's kind: a library's name, a fusion's kind, or the operation."""
    if i.opcode == "custom-call" and (
        target := re.search(r'custom_call_target="([^"]+)"', i.attributes)
    ):
        return target[1].removeprefix("__")
    if i.opcode == "fusion" and (kind := re.search(r"\bkind=k(\w+)", i.attributes)):
        return f"{kind[1].lower()} fusion"
    return i.opcode
