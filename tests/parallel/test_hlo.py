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
    assert hlo.num_bytes("(f8e4m3fn[5], s4[3], token[], f64[2], c64[2])") == 5 + 3 + 0 + 16 + 16


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


LOOP = """%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %plus = f32[] add(%a, %b)
}

%body (x: f32[4,4]) -> f32[4,4] {
  %x = f32[4,4] parameter(0)
  %y = f32[4,4] dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %z = f32[4,4] all-reduce(%y), replica_groups={{0,1}}, to_apply=%add
  ROOT %w = f32[4,4] all-reduce(%z), replica_groups={{0,1}}, to_apply=%add
}

%condition (x: f32[4,4]) -> pred[] {
  %x = f32[4,4] parameter(0)
  ROOT %more = pred[] constant(true)
}

ENTRY %main (x: f32[4,4]) -> f32[4,4] {
  %x = f32[4,4] parameter(0)
  %alone = f32[4,4] all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add
  ROOT %l = f32[4,4] while(%alone), condition=%condition, body=%body, TRIPS
}"""


@pytest.mark.parametrize(("trips", "times"), [('backend_config={"known_trip_count":{"n":"5"}}', 5), ("metadata={}", 1)])
def test_a_loop_moves_and_sends_as_much_in_each_iteration(trips, times):
    """Messages of one kind add up; a group of one sends none; what a sum applies to two numbers costs nothing."""
    program = hlo.read(LOOP.replace("TRIPS", trips))
    assert program.flops == times * 2 * 4 * 4 * 4
    assert program.collectives == {Collective("all-reduce", 2, 2): times * 2 * 64.0}
    assert program.bytes == 2 * 64 + times * (3 * 64 + 2 * 64 + 2 * 64)


def test_a_fusion_computes_what_is_in_it_and_moves_its_operands_and_result_alone():
    """A call of the same computation moves all that is in it."""
    text = """%inner (a: f32[3,5], b: f32[5,7]) -> f32[3,7] {
  %a = f32[3,5] parameter(0)
  %b = f32[5,7] parameter(1)
  %doubled = f32[3,5] add(%a, %a)
  ROOT %y = f32[3,7] dot(%doubled, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[3,5], b: f32[5,7]) -> f32[3,7] {
  %a = f32[3,5] parameter(0)
  %b = f32[5,7] parameter(1)
  ROOT %y = f32[3,7] OPCODE(%a, %b), ROLE=%inner
}"""
    fused = hlo.read(text.replace("OPCODE", "fusion").replace("ROLE", "kind=kOutput, calls"))
    called = hlo.read(text.replace("OPCODE", "call").replace("ROLE", "to_apply"))
    assert fused.flops == called.flops == 2 * 3 * 5 * 7
    assert fused.bytes == 4 * (3 * 5 + 5 * 7 + 3 * 7)
    assert called.bytes == fused.bytes + 4 * 3 * (3 * 5)


def test_a_choice_of_two_counts_as_the_longer_one_whichever_it_is():
    text = """%short (a: f32[3,3]) -> f32[3,3] {
  ROOT %a = f32[3,3] parameter(0)
}

%long (a: f32[3,3]) -> f32[3,3] {
  %a = f32[3,3] parameter(0)
  ROOT %y = f32[3,3] dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (p: pred[], a: f32[3,3]) -> f32[3,3] {
  %p = pred[] parameter(0)
  %a = f32[3,3] parameter(1)
  ROOT %y = f32[3,3] conditional(%p, %a, %a), true_computation=%FIRST, false_computation=%SECOND
}"""
    for first, second in (("long", "short"), ("short", "long")):
        assert hlo.read(text.replace("FIRST", first).replace("SECOND", second)).flops == 2 * 3 * 3 * 3


def test_a_product_of_batches_sums_over_the_dimensions_that_are_contracted():
    text = """ENTRY %main (a: f32[2,5,3], b: f32[2,5,7]) -> f32[2,3,7] {
  %a = f32[2,5,3] parameter(0)
  %b = f32[2,5,7] parameter(1)
  ROOT %y = f32[2,3,7] dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={1}, rhs_batch_dims={0}
}"""
    assert hlo.read(text).flops == 2 * (2 * 3 * 7) * 5


def test_outputs_of_a_convolution_are_counted_once_wherever_the_kernel_has_them():
    text = """ENTRY %main (x: f32[1,4,4,3], w: f32[5,2,2,3]) -> f32[1,4,4,5] {
  %x = f32[1,4,4,3] parameter(0)
  %w = f32[5,2,2,3] parameter(1)
  ROOT %y = f32[1,4,4,5] convolution(%x, %w), window={size=2x2 pad=0_1x0_1}, dim_labels=b01f_o01i->b01f
}"""
    assert hlo.read(text).flops == 2 * (4 * 4 * 5) * (2 * 2 * 3)


@pytest.mark.parametrize(("dilation", "summed"), [("", 2 * 2 * 3), (" lhs_dilate=2x2", 3)])
def test_zeros_between_dilated_inputs_are_not_counted(dilation, summed):
    text = f"""ENTRY %main (x: f32[1,4,4,3], w: f32[2,2,3,5]) -> f32[1,8,8,5] {{
  %x = f32[1,4,4,3] parameter(0)
  %w = f32[2,2,3,5] parameter(1)
  ROOT %y = f32[1,8,8,5] convolution(%x, %w), window={{size=2x2 pad=1_1x1_1{dilation}}}, dim_labels=b01f_01io->b01f
}}"""
    assert hlo.read(text).flops == 2 * (8 * 8 * 5) * summed
