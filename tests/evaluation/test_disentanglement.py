"""Disentanglement of representations made by hand: one code a factor, rotated codes, noise."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from jaxgen.evaluation import disentanglement as scores

RNG = np.random.default_rng(0)
N, TRAIN = 600, 400
FACTORS = np.stack([RNG.integers(0, 4, N), RNG.integers(0, 3, N), RNG.integers(0, 2, N)], axis=1)
NOISE = RNG.normal(size=(N, 3))
ROTATION = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
STANDARDIZED = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0)
REPRESENTATIONS = {"perfect": 2.0 * FACTORS + 1.0, "rotated": STANDARDIZED @ ROTATION, "noise": NOISE}


@pytest.fixture(scope="module")
def found():
    return {k: scores.disentanglement(np.float64(v), FACTORS, num_train=TRAIN) for k, v in REPRESENTATIONS.items()}


def test_a_code_for_each_factor_is_perfect(found):
    assert found["perfect"]["mig"] == pytest.approx(1.0, abs=0.02)  # less what chance tells of independent factors
    for name in ("dci_disentanglement", "dci_completeness", "dci_informativeness"):
        assert found["perfect"][name] == pytest.approx(1.0, abs=0.05)


def test_rotated_codes_tell_all_but_are_entangled(found):
    assert found["rotated"]["dci_informativeness"] > 0.95
    for name in ("mig", "dci_disentanglement", "dci_completeness", "sap"):
        assert found["rotated"][name] < 0.65 * found["perfect"][name]


def test_noise_scores_near_zero(found):
    chance = np.mean([1 / 4, 1 / 3, 1 / 2])
    assert found["noise"]["dci_informativeness"] == pytest.approx(chance, abs=0.08)
    assert max(found["noise"][name] for name in ("mig", "dci_disentanglement", "dci_completeness", "sap")) < 0.1


def test_mutual_information_gap_by_hand():
    """Of a factor with two equal halves: one code has it all, the other tells a part, the third nothing."""
    factor = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    codes = np.stack([factor, [0, 0, 0, 1, 1, 1, 1, 0], [0, 1, 0, 1, 0, 1, 0, 1]], axis=1).astype(float)
    second = np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25)  # of a channel with 1/4 errors
    expected = (np.log(2) - second) / np.log(2)
    assert scores.mutual_information_gap(codes, factor[:, None]) == pytest.approx(expected)
    both = np.stack([factor, codes[:, 2].astype(int)], axis=1)  # of the second factor, one code alone tells anything
    assert scores.mutual_information_gap(codes, both) == pytest.approx((expected + 1.0) / 2)


def test_numbers_are_discretized_between_their_ends():
    values = np.array([[0.0, 5.0], [0.49, 5.0], [0.51, 5.0], [1.0, 5.0]])
    np.testing.assert_array_equal(scores.discretized(values, 2), [[0, 0], [0, 0], [1, 0], [1, 0]])
    np.testing.assert_array_equal(np.unique(scores.discretized(np.linspace(-3, 3, 100)[:, None])), np.arange(20))


FORESTS = []
"""The settings of each."""


class Forest:
    """Importances of the least and greatest code and factor; its score tells what it was scored on."""

    def __init__(self, trees, **more):
        FORESTS.append((trees, more))

    def fit(self, codes, factor):
        self.feature_importances_ = np.array([codes.min(), codes.max(), factor.sum()])
        return self

    def score(self, codes, factor):
        return 100.0 * codes.sum() + factor.sum()


def test_forests_learn_from_some_images_and_are_scored_by_others(monkeypatch):
    """One for each factor: their importances are the columns, accuracies a mean."""
    monkeypatch.setattr("sklearn.ensemble.RandomForestClassifier", Forest)
    codes, factors = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]]), np.array([[1, 0], [2, 5]])
    found = scores.dci(codes, factors, codes[:1] + 0.5, np.array([[7, 4]]))
    assert FORESTS == 2 * [(10, {"max_features": None, "random_state": 0})]
    importance = np.array([[1.0, 1.0], [9.0, 9.0], [3.0, 5.0]])
    np.testing.assert_allclose(found[:2], scores.scores_of_importance(importance))
    assert found.informativeness == pytest.approx(100.0 * 7.5 + 5.5)
    assert found.disentanglement != pytest.approx(found.completeness)
    FORESTS.clear()
    scores.dci(codes, factors, codes, factors, trees=3, seed=5)
    assert FORESTS == 2 * [(3, {"max_features": None, "random_state": 5})]


def test_scores_of_importance_by_hand():
    importance = np.array([[0.8, 0.0], [0.1, 0.3], [0.0, 0.0], [0.1, 0.7]])

    def entropy(*p):
        return -sum(x * np.log(x) for x in p if x)

    rows = [1.0, 1 - entropy(0.25, 0.75) / np.log(2), 1 - entropy(0.125, 0.875) / np.log(2)]
    disentangled = np.average(rows, weights=[0.8, 0.4, 0.8])
    columns = [1 - entropy(0.8, 0.1, 0.1) / np.log(4), 1 - entropy(0.3, 0.7) / np.log(4)]
    np.testing.assert_allclose(scores.scores_of_importance(importance), [disentangled, np.mean(columns)], rtol=1e-6)


def test_separated_attribute_predictability_by_hand():
    factor = np.repeat([0, 1], 50)
    rng = np.random.default_rng(1)
    codes = np.stack([factor * 10.0, factor + rng.normal(size=100), rng.normal(size=100)], axis=1)
    order = rng.permutation(100)
    codes, factor = codes[order], factor[order]
    parts = codes[:60], factor[:60, None], codes[60:], factor[60:, None]
    scaled = (codes - codes[:60].mean(0)) / codes[:60].std(0)
    accuracy = [
        LinearSVC(C=0.01, class_weight="balanced", random_state=0)
        .fit(scaled[:60, [j]], factor[:60])
        .score(scaled[60:, [j]], factor[60:])
        for j in range(3)
    ]
    best, second = sorted(accuracy)[:0:-1]
    assert best == 1.0
    assert scores.separated_attribute_predictability(*parts) == pytest.approx(best - second)


def test_a_machine_sees_one_code_scaled_as_those_that_it_learns_from(monkeypatch):
    """Also one that is always the same, which has no scale."""
    machines = []

    class Machine:
        def __init__(self, **more):
            machines.append(more)

        def fit(self, codes, factor):
            self.learned = codes.tolist()
            return self

        def score(self, codes, factor):
            assert self.learned in ([[-1.0], [1.0]], [[0.0], [0.0]])
            return codes.sum() / 10 + factor.sum()

    monkeypatch.setattr("sklearn.svm.LinearSVC", Machine)
    codes, held_out = np.array([[1.0, 5.0], [5.0, 5.0]]), np.array([[4.0, 5.0], [9.0, 5.0]])
    found = scores.separated_attribute_predictability(codes, np.eye(2, dtype=int), held_out, np.zeros((2, 2), int))
    assert found == pytest.approx((0.5 + 3.0) / 10)  # the second code tells nothing
    assert machines == 4 * [{"C": 0.01, "class_weight": "balanced", "random_state": 0}]


@pytest.mark.parametrize(("codes", "num_train"), [(1, 5), (2, 0), (2, 10)])
def test_refusals(codes, num_train):
    with pytest.raises(ValueError, match=f"There are {codes} codes of 10 images, {num_train} of them"):
        scores.disentanglement(np.zeros((10, codes)), np.zeros((10, 1), int), num_train=num_train)
