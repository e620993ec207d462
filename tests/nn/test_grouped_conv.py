"""Grouped convolutions as several and as matrix products, against XLA's own, with gradients of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.grouped_conv import GroupedConv, grouped_conv


@pytest.mark.parametrize(("groups", "channels", "features"), [(1, 3, 4), (2, 6, 4), (5, 5, 10)])
def test_all_forms_are_the_convolution_and_so_are_their_gradients(groups, channels, features):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 4, 5, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels // groups, features))
    weights = jax.random.normal(keys[2], (2, 4, 5, features))

    def everything(form):
        def out(x, kernel):
            return grouped_conv(x, kernel, groups, form=form)

        def penalty(kernel):
            return jnp.sum(jax.grad(lambda x: jnp.sum(weights * jnp.sin(out(x, kernel))))(x) ** 2)

        return out(x, kernel), jax.grad(penalty)(kernel)

    forms = ("one convolution", "convolutions", "products")
    xlas, *ours = jax.jit(lambda: [everything(form) for form in forms])()
    for found in ours:
        for a, b in zip(found, xlas, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.std(b)), rtol=1e-4)


@pytest.mark.parametrize(("groups", "convolutions", "products"), [(2, 2, 0), (8, 8, 0), (9, 0, 1)])
def test_on_a_cpu_few_groups_are_convolutions_and_many_are_products(groups, convolutions, products):
    traced = jax.make_jaxpr(lambda x, kernel: grouped_conv(x, kernel, groups))(
        jnp.zeros((1, 4, 4, 2 * groups)), jnp.zeros((3, 3, 2, groups))
    )
    used = [equation.primitive.name for equation in traced.eqns]
    assert (used.count("conv_general_dilated"), used.count("dot_general")) == (convolutions, products)


def test_a_group_sees_its_own_channels_alone():
    layer = GroupedConv(6, 3, jax.nn.initializers.normal(1.0))
    x = jax.random.normal(jax.random.key(0), (1, 3, 3, 6))
    variables = layer.init(jax.random.key(1), x)
    assert variables["params"]["kernel"].shape == (3, 3, 2, 6)
    moved = layer.apply(variables, x.at[..., 2].add(1.0)) - layer.apply(variables, x)
    assert np.abs(moved[..., 2:4]).min() > 0
    np.testing.assert_array_equal(moved[..., [0, 1, 4, 5]], 0.0)
