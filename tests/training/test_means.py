import numpy as np
import pytest

from jaxgen.training.means import Means, UnknownMetricError


def test_means_are_over_all_steps_since_the_last_ones_were_taken():
    means = Means()
    assert means.take() == {}
    means.add({"loss": np.float32([1, 2, 3])})
    means.add({"loss": np.float32([6])})
    assert means.take() == {"loss": 3.0}
    means.add({"loss": np.float32([8, 4])})
    assert means.take() == {"loss": 6.0}


def test_every_metric_has_a_mean_of_its_own_in_double_precision():
    means = Means("loss")
    means.add({"loss": np.float32([2**24, 1, 1, 1]), "accuracy": np.float32([1, 0, 0, 0])})
    means.add({"loss": np.float32([1]), "accuracy": np.float32([1])})
    assert means.take() == {"loss": (2**24 + 4) / 5, "accuracy": 2 / 5}


def test_the_mean_of_a_metric_that_some_steps_do_not_have_is_over_the_others():
    means = Means("loss/discriminator")
    for penalty in ({"loss/penalty": np.float32([3, 5])}, {}, {"loss/penalty": np.float32([4])}, {}):
        means.add({"loss/discriminator": np.float32([1, 3]), **penalty})
    assert means.take() == {"loss/discriminator": 2.0, "loss/penalty": 4.0}


def test_a_metric_that_does_not_exist_is_refused_at_the_first_step():
    with pytest.raises(UnknownMetricError, match=r"train\.keep_best is 'fid', but must be one of the metrics, a, loss"):
        Means("fid").add({"loss": np.ones(1), "a": np.ones(1)})
    Means("loss").add({"loss": np.ones(1)})
