"""Types of the library's signatures are checked in the tests, of functions inside others as well."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from beartype.roar import BeartypeCallHintViolation

from jaxgen.core.images import to_float
from jaxgen.nn.attention import attend
from jaxgen.optim.schedules import scale_by_schedule_of_step


def test_an_argument_of_another_type_is_refused():
    with pytest.raises(BeartypeCallHintViolation, match="images"):
        to_float(np.zeros((2, 2), np.float32))


def test_axes_of_one_name_have_one_length():
    q, k, v = (jnp.zeros((1, length, 1, 4)) for length in (2, 3, 2))
    with pytest.raises(BeartypeCallHintViolation, match="size of dimension m is 2"):
        attend(q, k, v)


def test_each_function_inside_another_is_checked_and_has_its_own_values():
    once, twice = (scale_by_schedule_of_step(lambda step, rate=rate: rate).update for rate in (1.0, 2.0))
    step, state = jnp.int32(0), optax.EmptyState()
    for update, scaled in ((once, -3.0), (twice, -6.0), (once, -3.0)):
        assert update(jnp.float32(3.0), state, step=step)[0] == scaled
        with pytest.raises(BeartypeCallHintViolation, match="step"):
            update(jnp.float32(3.0), state, step=jnp.zeros(2, jnp.int32))
