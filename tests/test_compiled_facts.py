"""Facts of compiled programs: bytes, least times, and the search for the largest batch.

The programs here are texts; tests/aot compiles real ones.
"""

import pytest

from benchmarks.compiled import hlo, roofline, search, traffic

# A loop of 3 trips updates a row of an array in place and reads one row of another.
TEXT = """HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (r: f32[8,100], j: s32[]) -> f32[1,100] {
  %r = f32[8,100]{1,0} parameter(0)
  %j = s32[] parameter(1)
  ROOT %part = f32[1,100]{1,0} dynamic-slice(%r, %j, %j), dynamic_slice_sizes={1,100}
}

%fused (p: f32[8,100], q: f32[8,100], i: s32[]) -> f32[8,100] {
  %p = f32[8,100]{1,0} parameter(0)
  %q = f32[8,100]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %row = f32[1,100]{1,0} fusion(%q, %i), kind=kLoop, calls=%inner
  ROOT %new = f32[8,100]{1,0} dynamic-update-slice(%p, %row, %i, %i)
}

%body (t: (f32[8,100], f32[8,100], s32[])) -> (f32[8,100], f32[8,100], s32[]) {
  %t = (f32[8,100]{1,0}, f32[8,100]{1,0}, s32[]) parameter(0)
  %x = f32[8,100]{1,0} get-tuple-element(%t), index=0
  %y = f32[8,100]{1,0} get-tuple-element(%t), index=1
  %n = s32[] get-tuple-element(%t), index=2
  %z = f32[8,100]{1,0} fusion(%x, %y, %n), kind=kLoop, calls=%fused
  %held = f32[8,100]{1,0:T(8,128)S(1)} copy(%y)
  ROOT %u = (f32[8,100]{1,0}, f32[8,100]{1,0}, s32[]) tuple(%z, %held, %n)
}

%condition (t: (f32[8,100], f32[8,100], s32[])) -> pred[] {
  %s = (f32[8,100]{1,0}, f32[8,100]{1,0}, s32[]) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (a: f32[8,100], b: f32[8,100]) -> f32[] {
  %c = f32[8,100]{1,0} parameter(0)
  %d = f32[8,100]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %e = (f32[8,100]{1,0}, f32[8,100]{1,0}, s32[]) tuple(%c, %d, %zero)
  %loop = (f32[8,100]{1,0}, f32[8,100]{1,0}, s32[]) while(%e), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %f = f32[8,100]{1,0} get-tuple-element(%loop), index=0
  ROOT %total = f32[] reduce(%f, %zero), dimensions={0,1}, to_apply=%add
}
"""  # noqa: E501


def test_rows_of_an_array_count_alone_and_loops_are_multiplied_out():
  row, array, number = 4 * 100, 4 * 800, 4
  fused = row + row + number  # reads a row and its index, writes a row
  held = array  # reads the array, and keeps the copy on the chip
  reduced = array + number + number
  assert traffic.moved(hlo.Program(TEXT)) == 3 * (fused + held) + reduced


def test_the_longest_of_three_times_bounds_the_share_of_peak():
  rates = roofline.rates("TPU v5 lite")
  assert rates is not None and roofline.rates("abacus") is None
  slow = roofline.Bound(compute=10.0, memory=40.0, links=5.0)
  assert roofline.share(rates, slow, 0.01 * rates.flops) == pytest.approx(0.25)


@pytest.mark.parametrize("slope, limit, first", [(0.2, 16, 8), (0.2, 16, 200), (1.5, 16, 1)])
def test_a_few_tries_find_how_many_rows_fit(slope, limit, first):
  tries = []

  def attempt(count: int) -> search.Try:
    tries.append(count)
    gib = 8 + slope * count + 0.1 * (count % 3)  # not quite a line
    return search.Try(count, gib < limit, {"sft": gib, "score": None})

  most = search.largest(attempt, first, limit)
  want = max(n for n in range(1, 100) if 8 + slope * n + 0.1 * (n % 3) < limit)
  assert want - max(want // 8, 1) <= most <= want and len(tries) <= 6
  assert len(set(tries)) == len(tries)


def test_a_search_without_numbers_doubles_and_halves():
  attempt = lambda count: search.Try(count, count <= 37, {"sft": None})
  assert 33 <= search.largest(attempt, 4, 16.0) <= 37
  assert search.largest(lambda count: search.Try(count, False, {}), 4, 16.0) == 0
