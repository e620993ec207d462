"""Bits back on a model of two channels whose latents depend on each other, all distributions of it by hand."""

import numpy as np
import pytest
from scipy import stats

from jaxgen.applications import bits_back
from jaxgen.applications.bits_back import BUCKETS, MEDIANS, Predictions

PIXELS, LEVELS, COUNT = 10, 5, 300
GROUPS = (2, 1)
WEIGHTS = np.random.default_rng(3).normal(size=(3, PIXELS, 2))
DEVIATIONS = np.float32([0.3, 0.05, 0.02])
IMAGES = np.random.default_rng(4).integers(0, LEVELS, (COUNT, PIXELS, 2)).astype(np.int32)


def posterior(i, image, latents):
    """Of the third latent, given the two before it; what is not known yet must have no effect."""
    assert np.count_nonzero(latents) in (0, 2)
    third = 0.7 * latents[0] - 0.3 * latents[1] if latents.any() else np.nan
    return np.float32([0.5 * image.mean() - 1.0 + 0.01 * (i % 3), 0.05 * image[:, 0].sum() - 1.0, third]), DEVIATIONS


def likelihood(i, latents, image, channel):
    """The second channel is near the first."""
    center = latents @ WEIGHTS[..., channel] + (0.3 * image[:, 0] if channel else 0.0) + 0.01 * (i % 3)
    scores = -0.5 * (np.arange(LEVELS) - 2.0 - center[:, None]) ** 2
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


class Seen:
    """The predictions, which write down the latents that images are coded by."""

    def __init__(self):
        self.latents = {}
        self.predictions = Predictions(GROUPS, posterior, self.likelihood)

    def likelihood(self, i, latents, image, channel):
        self.latents[i] = latents.astype(np.float64)
        return likelihood(i, latents, image, channel)


@pytest.fixture(scope="module")
def coded():
    seen, reports = Seen(), []
    code = bits_back.encode(IMAGES, seen.predictions, on_image=reports.append)
    return code, np.stack([seen.latents[i] for i in range(COUNT)]), reports


def information_of(latents):
    """log2 q(z | x) - log2 p(x, z) of intervals, by their edges."""
    bits = 0.0
    for i, (image, z) in enumerate(zip(IMAGES, latents, strict=True)):
        for channel in range(2):
            bits -= likelihood(i, z, image, channel)[np.arange(PIXELS), image[:, channel]].sum() / np.log(2)
        mean, deviation = posterior(i, image, np.array([z[0], z[1], 0.0]))
        bucket = np.rint(stats.norm.cdf(z) * BUCKETS - 0.5)
        low, high = (stats.norm.cdf(stats.norm.ppf((bucket + b) / BUCKETS), mean, deviation) for b in (0, 1))
        bits += np.sum(np.log2(high - low) + np.log2(BUCKETS))
    return bits


def test_images_come_back_and_so_do_the_bits_of_the_start(coded):
    code, _, reports = coded
    seen = Seen()
    images, rest = bits_back.decode(code.words, seen.predictions, shape=IMAGES.shape, on_image=reports.append)
    np.testing.assert_array_equal(images, IMAGES)
    start = bits_back.initial_words(3)
    assert code.initial_bits == 32 * len(rest) > 0
    np.testing.assert_array_equal(rest, start[len(start) - len(rest) :])
    assert reports == 2 * list(range(1, COUNT + 1))


def test_latents_of_the_code_are_drawn_from_their_posteriors(coded):
    latents = coded[1]
    parameters = [posterior(i, IMAGES[i], z * [1, 1, 0]) for i, z in enumerate(latents)]
    standardized = (latents - [mean for mean, _ in parameters]) / DEVIATIONS
    for column in standardized.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(standardized.T) - np.eye(3)).max() < 5 / np.sqrt(COUNT)


def test_the_code_is_as_long_as_the_information_says(coded):
    code, latents, _ = coded
    expected = information_of(latents)
    np.testing.assert_allclose(code.bits, expected, rtol=1e-5)
    assert abs(32 * len(code.words) - code.initial_bits - expected) <= 2e-3 * expected + 64


def test_the_code_is_as_long_as_the_negative_evidence_lower_bound(coded):
    """By other latents of the posteriors, which are densities here, with the closed form of their divergences."""
    rng, nats = np.random.default_rng(5), 0.0
    for i, image in enumerate(IMAGES):
        mean, deviation = posterior(i, image, np.ones(3) * [1, 1, 0])
        z = mean + deviation * rng.normal(size=(8, 3))
        z[:, 2] = z[:, :2] @ [0.7, -0.3] + deviation[2] * rng.normal(size=8)
        for draw in z:
            third = posterior(i, image, draw * [1, 1, 0])[0][2]
            means = np.array([mean[0], mean[1], third])
            nats += 0.5 * np.sum(means**2 + deviation**2 - 1.0 - 2.0 * np.log(deviation)) / 8
            for channel in range(2):
                nats -= likelihood(i, draw, image, channel)[np.arange(PIXELS), image[:, channel]].sum() / 8
    np.testing.assert_allclose(32 * len(coded[0].words) - coded[0].initial_bits, nats / np.log(2), rtol=0.01)


def test_intervals_have_equal_mass_under_the_prior():
    np.testing.assert_allclose(MEDIANS, stats.norm.ppf((np.arange(BUCKETS) + 0.5) / BUCKETS), rtol=1e-5)


def test_no_latent_is_far_from_its_posterior():
    """An interval that has next to no probability is never chosen, however many latents there are."""
    count, seen = 1_000, []

    def narrow(i, image, latents):
        return np.linspace(-1.0, 1.0, count, dtype=np.float32), np.full(count, 0.02, np.float32)

    def unseen(i, latents, image, channel):
        seen.append(latents)
        return np.full((PIXELS, 2), np.log(0.5), np.float32)

    images = np.zeros((30, PIXELS, 1), np.int32)
    code = bits_back.encode(images, Predictions((count,), narrow, unseen))
    far = np.abs(np.stack(seen) - np.linspace(-1.0, 1.0, count)) / 0.02
    assert far.max() < 5.5
    divergences = 0.5 * (np.linspace(-1.0, 1.0, count) ** 2 + 0.02**2 - 1.0 - 2.0 * np.log(0.02))
    np.testing.assert_allclose(code.bits, 30 * (PIXELS + divergences.sum() / np.log(2)), rtol=0.003)


def test_posteriors_far_from_the_prior_or_without_spread_come_back():
    def far(i, image, latents):
        return np.float32([9.0, -9.0, 0.0]), np.float32([1e-3, 0.0, 1e-30])

    predictions = Predictions((3,), far, likelihood)
    code = bits_back.encode(IMAGES[:20], predictions)
    np.testing.assert_array_equal(bits_back.decode(code.words, predictions, shape=(20, PIXELS, 2))[0], IMAGES[:20])
