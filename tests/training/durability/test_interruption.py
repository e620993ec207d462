import contextlib
import os
import signal

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from jaxgen.core.contract import TrainState
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.durability.interruption import Interruption


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_becomes_a_flag_and_the_exit_code_of_the_shell(number, code):
    with Interruption() as interruption:
        assert not interruption()
        assert interruption.exit_code == 0
        os.kill(os.getpid(), number)
        assert interruption()
        assert interruption.exit_code == code


def test_a_second_ctrl_c_dies_at_once():
    with Interruption():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_cluster_may_say_it_twice():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.exit_code == 130


def test_afterwards_signals_do_what_they_did_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with contextlib.suppress(RuntimeError), Interruption():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
        raise RuntimeError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_saving_is_no_look_at_the_flag(tmp_path, monkeypatch):
    """Orbax would look by itself at each save, and by the step: processes then would not stop at one look."""
    looks = []
    monkeypatch.setattr("jax.experimental.multihost_utils.reached_preemption_sync_point", looks.append)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, TrainState(jnp.int32(2), {}, {}, {}), ConfigDict())
    assert checkpoints.latest_step() == 2
    assert looks == []
