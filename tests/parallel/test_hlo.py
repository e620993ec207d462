"""Programs whose operations, loops and messages are known, read from what XLA makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.parallel import hlo
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.hlo import Collective

MESH = meshes.make_mesh(data=2, fsdp=2, tensor=2)


WHOLE = P()


def shape(*sizes, spec=WHOLE):
    return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=NamedSharding(MESH, spec))


def read(fn, *arguments, out=WHOLE):
    compiled = jax.jit(fn, out_shardings=NamedSharding(MESH, out)).lower(*arguments).compile()
    return hlo.read(compiled.as_text())


def test_a_product_has_two_operations_for_each_pair():
    assert read(jnp.dot, shape(3, 5), shape(5, 7)).flops == 2 * 3 * 5 * 7


def test_a_loop_counts_as_often_as_it_runs():
    def looped(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=11)[0]

    assert read(looped, shape(3, 5), shape(5, 5)).flops == 11 * 2 * 3 * 5 * 5


def test_a_convolution_sums_over_its_kernel():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert read(convolve, shape(2, 8, 8, 3), shape(3, 3, 3, 4)).flops == 2 * (2 * 8 * 8 * 4) * (3 * 3 * 3)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ("data", Collective("all-reduce", 2, 5)),
        ("fsdp", Collective("all-reduce", 2, 3)),
        ("tensor", Collective("all-reduce", 2, 2)),
        (("data", "tensor"), Collective("all-reduce", 4, 6)),
    ],
)
def test_a_sum_over_devices_is_a_message_of_its_result(axes, expected):
    program = read(jnp.dot, shape(4, 32, spec=P(None, axes)), shape(32, 6, spec=P(axes)))
    assert program.collectives == {expected: 4 * 6 * 4}


def test_a_gather_is_a_message_of_the_whole():
    program = read(lambda x: x * 2, shape(8, 6, spec=P("fsdp")))
    assert program.collectives == {Collective("all-gather", 2, 3): 8 * 6 * 4}


def test_nothing_is_sent_where_all_is_there():
    program = read(lambda x: x * 2, shape(8, 6, spec=P("fsdp")), out=P("fsdp"))
    assert program.collectives == {}
    assert program.bytes == 2 * 4 * 6 * 4


@pytest.mark.parametrize(
    ("groups", "members"),
    [
        ("{{0,2},{1,3}}", [0, 2]),
        ("[4,2]<=[8]", [0, 1]),
        ("[2,4]<=[4,2]T(1,0)", [0, 2, 4, 6]),
        ("[2,4]<=[2,2,2]T(1,0,2)", [0, 1, 4, 5]),
        ("mesh['a'=2,'b'=4] {'a'}", [0, 4]),
        ("mesh['a'=2,'b'=4] {'b'}", [0, 1, 2, 3]),
        ("mesh['a'=8] {'a':(2)2}", [0, 2]),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", [0, 2, 4, 6]),
    ],
)
def test_groups_are_read_in_every_form(groups, members):
    text = f"""ENTRY %main (x: f32[4]) -> f32[4] {{
  %x = f32[4]{{0}} parameter(0)
  ROOT %sum = f32[4]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%add
}}"""
    found = hlo.read(text).collectives
    assert found == {Collective("all-reduce", len(members), max(members) - min(members) + 1): 16.0}


def test_groups_in_another_form_are_no_silence():
    text = "ENTRY %main () -> f32[4] {\n  ROOT %s = f32[4]{0} all-reduce(%x), replica_groups=new, to_apply=%add\n}"
    with pytest.raises(ValueError, match="The devices of a collective cannot be read"):
        hlo.read(text)


def test_sizes_of_types():
    assert hlo.num_bytes("(f32[8,128]{1,0}, bf16[3], pred[], u8[2,2], s64[2])") == 8 * 128 * 4 + 6 + 1 + 4 + 16


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.read("nothing")


def test_a_branch_counts_as_the_longest():
    def choose(i, x, w):
        return jax.lax.cond(i > 0, lambda x: jnp.tanh(x @ w) @ w, lambda x: x, x)

    index = jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(MESH, P()))
    assert read(choose, index, shape(3, 5), shape(5, 5)).flops == 2 * 2 * 3 * 5 * 5


@pytest.mark.parametrize(("pairs", "span"), [("{{0,1},{1,0}}", 2), ("{{0,3},{3,6},{6,0}}", 7)])
def test_a_permutation_is_between_pairs_and_spans_the_farthest(pairs, span):
    text = f"""ENTRY %main (x: f32[4]) -> f32[4] {{
  %x = f32[4]{{0}} parameter(0)
  %begun = f32[4]{{0}} collective-permute-start(%x), channel_id=1, source_target_pairs={pairs}
  ROOT %moved = f32[4]{{0}} collective-permute-done(%begun)
}}"""
    program = hlo.read(text)
    assert program.collectives == {Collective("collective-permute", 2, span): 16.0}
    assert program.bytes == 2 * 16


@pytest.mark.parametrize(("dilation", "summed"), [("", 2 * 2 * 3), (" lhs_dilate=2x2", 3)])
def test_zeros_between_dilated_inputs_are_not_counted(dilation, summed):
    text = f"""ENTRY %main (x: f32[1,4,4,3], w: f32[2,2,3,5]) -> f32[1,8,8,5] {{
  %x = f32[1,4,4,3] parameter(0)
  %w = f32[2,2,3,5] parameter(1)
  ROOT %y = f32[1,8,8,5] convolution(%x, %w), window={{size=2x2 pad=1_1x1_1{dilation}}}, dim_labels=b01f_01io->b01f
}}"""
    assert hlo.read(text).flops == 2 * (8 * 8 * 5) * summed
