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


def test_a_metric_that_does_not_exist_is_refused_at_the_first_step():
    with pytest.raises(UnknownMetricError, match=r"train\.keep_best is 'fid', but must be one of the metrics, a, loss"):
        Means("fid").add({"loss": np.ones(1), "a": np.ones(1)})
    Means("loss").add({"loss": np.ones(1)})
