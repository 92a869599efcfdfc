"""The counting of `benchmarks.programs`, on a program that is short enough to count by hand."""

import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT

from benchmarks.programs import count, size

PROGRAM = """
HloModule m

%taken (p.0: f32[10,4]) -> f32[4] {
  %p.0 = f32[10,4]{1,0} parameter(0)
  %view = f32[40]{0} bitcast(%p.0)
  ROOT %s = f32[4]{0} slice(%view), slice={[0:4]}
}

%whole (p.1: f32[10,4]) -> f32[10,4] {
  %p.1 = f32[10,4]{1,0} parameter(0)
  ROOT %t = f32[10,4]{1,0} tanh(%p.1)
}

%body (c: (s32[], f32[10,4])) -> (s32[], f32[10,4]) {
  %c = (s32[], f32[10,4]{1,0}) parameter(0)
  %x = f32[10,4]{1,0} get-tuple-element(%c), index=1
  %i = s32[] get-tuple-element(%c), index=0
  %y = f32[10,4]{1,0} fusion(%x), kind=kLoop, calls=%whole
  ROOT %r = (s32[], f32[10,4]{1,0}) tuple(%i, %y)
}

%condition (c.1: (s32[], f32[10,4])) -> pred[] {
  %c.1 = (s32[], f32[10,4]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (a: f32[10,4]) -> f32[4] {
  %a = f32[10,4]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[10,4]{1,0}) tuple(%zero, %a)
  %loop = (s32[], f32[10,4]{1,0}) while(%start), condition=%condition, body=%body, N3
  %other = (s32[], f32[10,4]{1,0}) while(%loop), condition=%condition, body=%body
  %b = f32[10,4]{1,0} get-tuple-element(%other), index=1
  %w = f32[4,4]{1,0} constant({...})
  %g = f32[10,4]{1,0} custom-call(%b, %w), custom_call_target="__cublas$gemm", GEMM
  ROOT %out = f32[4]{0} fusion(%g), kind=kInput, calls=%taken
}
""".replace("N3", 'backend_config={"known_trip_count":{"n":"3"}}').replace(
    "GEMM",
    'backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]},"precision_config":'
    '{"operand_precision":["HIGHEST","HIGHEST"],"algorithm":"ALG_UNSET"}}',
)


def test_a_program_counted_by_hand() -> None:
    found = count(PROGRAM)
    # Three passes of one loop, one of that of unknown length.
    assert found.kernels == {"loop fusion": 4, "cublas$gemm": 1, "input fusion": 1}
    assert found.unknown_loops == 1
    # 160 bytes are the array: read and written by four passes and by the product with 64 bytes; the
    # last kernel reads four numbers of it and writes them.
    assert found.bytes == 4 * 320 + 2 * 160 + 64 + 32
    # Of forty numbers, each a sum of four products.
    assert found.products == {"highest": 2 * 40 * 4}


MESSAGES = """
ENTRY %main (a: f32[10,4], b: f32[6]) -> f32[4] {
  %a = f32[10,4]{1,0} parameter(0)
  %b = f32[6]{0} parameter(1)
  %r = (f32[10,4]{1,0}, f32[6]{0}) all-reduce(%a, %b), replica_groups={{0,1}}, to_apply=%add
  %g = (f32[6]{0}, f32[12]{0}) all-gather-start(%b), replica_groups={{0,1}}, dimensions={0}
  %whole = f32[12]{0} all-gather-done(%g)
  %e = f32[10,4]{1,0} all-to-all(%a), replica_groups={{0,1}}, dimensions={0}
  %d = f32[10]{0} dot(%a, %c), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %three = f32[10]{0} dot(%a, %c), lhs_contracting_dims={1}, algorithm=dot_tf32_tf32_f32_x3
  ROOT %exact = f32[10] dot(%a, %c), lhs_contracting_dims={1}, operand_precision={highest,highest}
  %c = f32[4]{0} parameter(2)
}
"""


def test_messages_and_precisions_counted_by_hand() -> None:
    found = count(MESSAGES)
    assert found.messages == {
        ("all-reduce", 4 * 46): 1,
        ("all-gather", 4 * 12): 1,
        ("all-to-all", 4 * 40): 1,
    }
    each = 2 * 10 * 4
    assert found.products == {"default": each, "dot_tf32_tf32_f32_x3": each, "highest": each}


def test_sizes_of_shapes() -> None:
    assert size("f32[256,4,3]{2,1,0}") == 256 * 4 * 3 * 4
    assert size("(bf16[10]{0}, pred[3]{0}, s8[65]{0}, f64[])") == 20 + 3 + 65 + 8
    assert size("u32[0]{0}") == 0


COMPILER = ROOT / ".gpu-compiler"
needs_compiler = pytest.mark.skipif(
    not (COMPILER / "ready").exists(), reason="`make gpu-program` installs XLA's"
)


def table(*arguments: str) -> list[dict[str, str]]:
    """The rows that `gpu_program` prints."""
    command = [sys.executable, "-m", "benchmarks.gpu_program", *arguments]
    # Neither the host devices of the tests nor XLA's options for them.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(COMPILER)
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()
    )
    return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.mark.slow
@needs_compiler
def test_products_of_an_h100_s_program_have_full_precision() -> None:
    rows = table("LiH:4", "--part", "local energy", "--part", "iteration by spring")
    found = [row["Gflop of products by precision"] for row in rows]
    assert len(found) == 2
    assert all(cell.startswith("highest ") and "," not in cell for cell in found)


@pytest.mark.slow
@needs_compiler
def test_programs_for_an_h100_have_no_more_kernels() -> None:
    """The counts of this version: the locked compiler always makes the same program."""
    most = {"log psi": 20, "local energy": 62, "iteration by kfac": 586}
    rows = table("LiH:256", *(word for part in most for word in ("--part", part)))
    for row, (part, kernels) in zip(rows, most.items(), strict=True):
        assert row["case, part"] == f"LiH:256, {part}"
        assert int(row["kernels"]) <= kernels
        assert row["loops of unknown length"] == "0"
