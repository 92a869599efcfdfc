"""The counting of `benchmarks.gpu_program`, on a program that is short enough to count by hand."""

from benchmarks.gpu_program import count, size

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
  %g = f32[10,4]{1,0} custom-call(%b, %b), custom_call_target="__cublas$gemm"
  ROOT %out = f32[4]{0} fusion(%g), kind=kInput, calls=%taken
}
""".replace("N3", 'backend_config={"known_trip_count":{"n":"3"}}')


def test_a_program_counted_by_hand() -> None:
    found = count(PROGRAM)
    # Three passes of one loop, one of that of unknown length.
    assert found.kernels == {"loop fusion": 4, "cublas$gemm": 1, "input fusion": 1}
    assert found.unknown_loops == 1
    # 160 bytes are the array: read and written by four passes, three times by the product; the last
    # kernel reads four numbers of it and writes them.
    assert found.bytes == 4 * 320 + 3 * 160 + 32


def test_sizes_of_shapes() -> None:
    assert size("f32[256,4,3]{2,1,0}") == 256 * 4 * 3 * 4
    assert size("(bf16[10]{0}, pred[3]{0}, s8[65]{0}, f64[])") == 20 + 3 + 65 + 8
    assert size("u32[0]{0}") == 0
