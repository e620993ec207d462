import contextlib
import os
import signal

import pytest

from jaxgen.training.interruption import Interruption


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
