import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import plan
from jaxgen.parallel.hardware import ACCELERATORS, Accelerator
from jaxgen.parallel.hlo import Collective, Program

DEVICE = Accelerator(100.0, 50.0, 1e3, 10.0, near_rate=4.0, near_devices=8, far_rate=1.0)


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("all-reduce", 2 * 3 / 4 * 16 / 4),
        ("all-gather", 3 / 4 * 16 / 4),
        ("reduce-scatter", 3 * 16 / 4),
        ("all-to-all", 3 / 4 * 16 / 4),
        ("collective-permute", 16 / 4),
    ],
)
def test_messages_go_round_a_ring(kind, seconds):
    program = Program(0.0, 0.0, {Collective(kind, 4, 8): 16.0})
    assert plan.estimate(program, DEVICE, float32=False).messages == pytest.approx(seconds)
    far = Program(0.0, 0.0, {Collective(kind, 4, 9): 16.0})
    assert plan.estimate(far, DEVICE, float32=False).messages == pytest.approx(4 * seconds)


def test_products_take_half_of_the_peak_of_their_type():
    program = Program(200.0, 0.0, {})
    assert plan.estimate(program, DEVICE, float32=False) == plan.Time(4.0, 0.0)
    assert plan.estimate(program, DEVICE, float32=True) == plan.Time(8.0, 0.0)
    assert (plan.Time(4.0, 3.0).best, plan.Time(4.0, 3.0).worst) == (4.0, 7.0)


def test_more_devices_along_data_have_larger_groups_along_it_alone():
    program = Program(
        1.0,
        2.0,
        {
            Collective("all-reduce", 8, 15): 10.0,  # over data and fsdp
            Collective("all-gather", 2, 9): 10.0,  # over data
            Collective("all-gather", 4, 7): 10.0,  # over fsdp
            Collective("all-reduce", 8, 8): 6.0,  # over fsdp and tensor
            Collective("collective-permute", 2, 2): 10.0,
            Collective("collective-permute", 2, 9): 5.0,
            Collective("all-to-all", 2, 9): 3.0,
            Collective("reduce-scatter", 2, 9): 7.0,
        },
    )
    grown = plan.grown(program, factor=4, data=8)
    assert grown.collectives == {
        Collective("all-reduce", 32, 63): 10.0,
        Collective("all-gather", 8, 57): 40.0,
        Collective("all-gather", 4, 7): 10.0,
        Collective("all-reduce", 8, 8): 6.0,
        Collective("collective-permute", 2, 2): 10.0,
        Collective("collective-permute", 2, 57): 5.0,
        Collective("all-to-all", 8, 57): 12.0,
        Collective("reduce-scatter", 8, 57): 7.0,
    }
    assert (grown.flops, grown.bytes) == (1.0, 2.0)


def test_splits_say_what_lies_on_a_device():
    mesh = meshes.make_mesh(fsdp=4, tensor=2)

    def leaf(shape, spec, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    tree = {
        "a": leaf((3, 8), P(None, ("tensor", "fsdp"))),
        "b": leaf((8, 8), P("fsdp", None)),
        "d": leaf((2,), P(), jnp.bfloat16),
        "c": leaf((2,), P()),
        "e": leaf((2, 2), P(None, None)),
    }
    assert plan.splits(tree) == [
        plan.Split("b", (8, 8), "fsdp, -", 64),
        plan.Split("a", (3, 8), "-, tensorxfsdp", 12),
        plan.Split("e", (2, 2), "whole", 16),
        plan.Split("c", (2,), "whole", 8),
        plan.Split("d", (2,), "whole", 4),
    ]


def test_memory_counts_a_donated_state_once():
    compiled = jax.jit(lambda x: x + 1, donate_argnums=0).lower(jnp.zeros(256)).compile()
    memory = plan.memory(compiled)
    assert memory.arguments == 1024
    assert memory.peak == 1024 + memory.temporaries
    kept = plan.memory(jax.jit(lambda x: x + 1).lower(jnp.zeros(256)).compile())
    assert kept.peak == 2048 + kept.temporaries


def test_a_backend_without_figures_of_memory_is_refused(monkeypatch):
    compiled = jax.jit(lambda x: x + 1).lower(jnp.zeros(256)).compile()
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    with pytest.raises(ValueError, match="does not say how much memory a program takes"):
        plan.memory(compiled)


def test_bytes_of_a_kind_are_those_of_all_groups():
    sizes = {
        Collective("all-reduce", 8, 15): 1.0,
        Collective("all-gather", 2, 9): 2.0,
        Collective("all-reduce", 2, 2): 4.0,
    }
    assert plan.by_kind(sizes) == {"all-reduce": 5.0, "all-gather": 2.0}
    messages = [
        plan.estimate(Program(0.0, 0.0, {c: size}), DEVICE, float32=False).messages for c, size in sizes.items()
    ]
    assert plan.estimate(Program(0.0, 0.0, sizes), DEVICE, float32=False).messages == pytest.approx(sum(messages))


# NVLink in both directions, GPUs of a host, Gbit/s of a network card.
SHEETS = {
    "a100": (312, 156, 80, 2039, 600, 8, 200),
    "h100": (1979 / 2, 989 / 2, 80, 3350, 900, 8, 400),
    "h200": (1979 / 2, 989 / 2, 141, 4800, 900, 8, 400),
}


@pytest.mark.parametrize("name", SHEETS)
def test_gpus_are_those_of_the_data_sheets(name):
    flops, tf32, memory, rate, link, devices, network = SHEETS[name]
    gpu = ACCELERATORS[name]
    assert (gpu.flops, gpu.flops_float32) == (
        pytest.approx(flops * 1e12, rel=0.002),
        pytest.approx(tf32 * 1e12, rel=0.002),
    )
    assert (gpu.memory, gpu.memory_rate, gpu.near_devices) == (memory * 1e9, rate * 1e9, devices)
    assert (gpu.near_rate, gpu.far_rate) == (link * 1e9 / 2, network * 1e9 / 8)


@pytest.mark.parametrize(
    ("name", "sheet"),
    [
        ("tpu-v4", (275, 32, 1228, 4096, 2400, 6, 25 / 4)),
        ("tpu-v5e", (197, 16, 819, 256, 1600, 4, 25 / 8)),
        ("tpu-v5p", (459, 95, 2765, 8960, 4800, 6, 25 / 4)),
    ],
)
def test_tpus_are_those_of_the_documentation(name, sheet):
    """The last three: Gbit/s of all links of a chip, their number, and a chip's share of its pod's network in GB/s."""
    tpu = ACCELERATORS[name]
    assert (tpu.flops, tpu.flops_float32) == (sheet[0] * 1e12,) * 2
    assert (tpu.memory, tpu.memory_rate, tpu.near_devices) == (sheet[1] * 2**30, sheet[2] * 1e9, sheet[3])
    gbits, links, network = sheet[4:]
    assert tpu.near_rate == pytest.approx(2 * gbits / links / 8 * 1e9)  # along an axis of the torus are two links
    assert tpu.far_rate == pytest.approx(network * 1e9, rel=0.01)


def test_accelerators_are_as_their_makers_say():
    """The ratio of operations to bytes is what separates them; a slip of a unit would show."""
    for device in ACCELERATORS.values():
        assert 100 < device.flops / device.memory_rate < 400
        assert device.far_rate < device.near_rate < device.memory_rate
        assert device.flops_float32 in (device.flops, pytest.approx(device.flops / 2, rel=0.01))
