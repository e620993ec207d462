"""Every figure of a report and its whole protocol, by functions that have tests of their own."""

import json

import numpy as np
import pytest
from halves import TINY, LabeledImages, figures_of, halves

from jaxgen.core import subsets
from jaxgen.core.progress import unseen
from jaxgen.evaluation import report
from jaxgen.evaluation.features import pixel_features
from jaxgen.evaluation.frechet import frechet_distance
from jaxgen.evaluation.inception import Features
from jaxgen.evaluation.inception_score import inception_score
from jaxgen.evaluation.kid import kernel_distance
from jaxgen.evaluation.memorization import memorization
from jaxgen.evaluation.neighbors import nearest_distances, precision_recall_density_coverage
from jaxgen.evaluation.reference import ImageSet, Reference
from jaxgen.evaluation.report import EvaluationSettings, Likelihood, Reconstructions, evaluate

TRAIN, HELD_OUT, SAMPLES = (LabeledImages(*halves(seed, count)) for seed, count in enumerate((60, 20, 50)))


def judge(samples, **options):
    settings = EvaluationSettings(num_samples=len(samples.images), seed=7, k=2, classifier=TINY)
    return figures_of(samples, TRAIN, HELD_OUT, settings=settings, **options)


def flat(nested, prefix=""):
    """Leaves by their paths, for pytest.approx."""
    leaves = {}
    for name, value in nested.items():
        leaves |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def assert_same(figures, expected):
    ours, expected = flat(figures), flat(expected)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        is_number = isinstance(value, float)
        assert ours[name] == (pytest.approx(value, rel=1e-6, abs=1e-9) if is_number else value), name


def classify(images):
    """Three features and two logits by a formula; the first class where the left half is the brighter."""
    pixels = images.reshape(len(images), 8, 8).astype(np.float64)
    left, right = pixels[:, :, :4].mean((1, 2)), pixels[:, :, 4:].mean((1, 2))
    features = np.stack([left / 100, (left - right) / 50, pixels[:, 0, 0] / 200], axis=1)
    return features, np.stack([left, right + 150], axis=1)  # wrong for some


def by_formula(split, max_features=1024):
    """The features of images, those of the classifier by the formula."""
    activations, logits = classify(split.images)
    pixels = pixel_features(split.images, max_features=max_features)
    return ImageSet(pixels, split.labels, activations, logits.argmax(axis=1))


def beside(measure, samples, held_out):
    """`value` and `held_out` of a figure, of drawn subsets of the smaller size."""
    size = min(len(samples), len(held_out))
    some_samples, some_held_out = (rows[subsets.draw(len(rows), size)] for rows in (samples, held_out))
    return {
        "value": measure(samples),
        "held_out": {
            "value": measure(some_held_out),
            "samples_at_same_size": measure(some_samples),
            "num_samples": size,
        },
    }


def expected_frechet(name, samples, train, held_out, described, notes=(None, None, None)):
    everything = np.concatenate([train, held_out])
    figures = {
        name: {"reference": "train, 60 images"} | beside(lambda rows: frechet_distance(rows, train), samples, held_out),
        f"{name}_held_out": {"reference": "held-out, 20 images", "value": frechet_distance(samples, held_out)},
        f"{name}_all": {"reference": "all real, 80 images", "value": frechet_distance(samples, everything)},
    }
    for figure, note in zip(figures.values(), notes, strict=True):
        figure |= described | {"better": "lower"} | ({"note": note} if note else {})
    return figures


def expected_neighbors(name, samples, train, held_out, described, k):
    figures = {}
    for i, figure in enumerate(("precision", "recall", "density", "coverage")):
        judged = beside(lambda rows, i=i: precision_recall_density_coverage(train, rows, k=k)[i], samples, held_out)
        protocol = {"reference": "train, 60 images", "k": k, "better": "higher"}
        figures[f"{figure}_{name}"] = described | protocol | judged
    return figures


def expected_memorization(samples, train, held_out, described):
    distances = nearest_distances(held_out, train)
    figures = {}
    for field, name in {
        "median_distance": "nearest_train_distance",
        "ratio": "nearest_train_distance_ratio",
        "closer_fraction": "too_close_fraction",
        "duplicate_fraction": "duplicate_fraction",
    }.items():
        judged = beside(
            lambda rows, field=field: float(getattr(memorization(rows, train, distances), field)), samples, held_out
        )
        figures[name] = described | {"reference": "train, 60 images", "better": "as held-out"} | judged
    figures["too_close_fraction"]["threshold"] = "the 1% quantile of the held-out images' distances"
    return figures


def test_every_figure_and_its_whole_protocol_by_its_definition():
    samples = LabeledImages(SAMPLES.images, np.where(np.arange(50) < 15, 1 - SAMPLES.labels, SAMPLES.labels))
    settings = EvaluationSettings(50, seed=9, k=3, max_pixel_features=16, classifier=TINY)
    features = [by_formula(split, 16) for split in (samples, TRAIN, HELD_OUT)]
    reference = Reference(*features[1:], num_classes=2, classifier="abc")
    figures = evaluate(features[0], reference, image_shape=(8, 8, 1), settings=settings)

    sets = [classify(split.images)[0] for split in (samples, TRAIN, HELD_OUT)]
    predicted, held_out_predicted = (classify(split.images)[1].argmax(1) for split in (samples, HELD_OUT))
    accuracy = float(np.mean(held_out_predicted == HELD_OUT.labels))
    assert 0.5 < accuracy < 1.0
    described = {
        "features": "penultimate layer of a classifier of the train split, 8-d",
        "classifier": {"held_out_accuracy": accuracy, "seed": 0, "fingerprint": "abc"},
    }
    asked = float(np.mean(predicted == samples.labels))
    assert asked != accuracy
    expected = {
        "class_accuracy": {
            "features": "classes predicted by the classifier",
            "classifier": described["classifier"],
            "value": asked,
            "reference": "the labels asked for",
            "better": "higher",
            "held_out": {"value": accuracy},
        }
    }
    expected |= expected_frechet("frechet_classifier", *sets, described)
    expected |= expected_neighbors("classifier", *sets, described, 3)
    pixels = [pixel_features(split.images, max_features=16) for split in (samples, TRAIN, HELD_OUT)]
    described = {"features": "pixels in [0, 1] averaged over 2x2 blocks, 16-d"}
    expected |= expected_frechet("frechet_pixels", *pixels, described)
    expected |= expected_neighbors("pixels", *pixels, described, 3)
    expected |= expected_memorization(*pixels, described)
    protocol = {"num_samples": 50, "seed": 9, "subset_seed": subsets.SEED}
    assert_same(figures, {name: figure | protocol for name, figure in expected.items()})
    assert list(figures) == list(expected)
    json.dumps(figures, allow_nan=False)


def test_fewer_samples_than_held_out_images_are_judged_beside_as_few_of_these():
    some = LabeledImages(SAMPLES.images[:12])
    figures = judge(some, num_classes=0)
    rows = [pixel_features(split.images) for split in (some, TRAIN, HELD_OUT)]
    chosen = rows[2][subsets.draw(20, 12)]
    assert figures["frechet_pixels"]["held_out"] == {
        "value": pytest.approx(frechet_distance(chosen, rows[1])),
        "samples_at_same_size": pytest.approx(figures["frechet_pixels"]["value"]),
        "num_samples": 12,
    }


def test_subsets_of_two_models_are_of_the_same_images():
    """Their samples differ; the held-out images beside them do not, whatever the order of the classes."""
    by_class = np.argsort(HELD_OUT.labels, kind="stable")
    held_out = LabeledImages(HELD_OUT.images[by_class], HELD_OUT.labels[by_class])
    models = [LabeledImages(SAMPLES.images[:8]), LabeledImages(SAMPLES.images[20:28] // 2)]
    settings = EvaluationSettings(num_samples=8)
    judged = [figures_of(model, TRAIN, held_out, num_classes=0, settings=settings) for model in models]
    for name in ("frechet_pixels", "recall_pixels", "nearest_train_distance"):
        first, second = (figures[name] for figures in judged)
        assert first["held_out"]["value"] == second["held_out"]["value"]
        assert first["value"] != second["value"]
    assert set(held_out.labels[subsets.draw(20, 8)]) == {0, 1}


@pytest.mark.parametrize(
    ("reference", "samples", "dimensions", "few"),
    [(31, 40, 30, None), (30, 40, 30, 30), (40, 31, 30, None), (40, 30, 30, 30), (9, 5, 30, 5)],
)
def test_too_few_images_for_the_dimensions_are_noted(reference, samples, dimensions, few):
    figure = report._frechet_reference("train", reference, np.zeros((samples, dimensions)))
    assert figure["reference"] == f"train, {reference} images"
    note = f"Frechet distance of {few} images in 30 dimensions: biased upwards, compare equal numbers only."
    assert figure.get("note") == (None if few is None else note)


def test_classes_that_are_counted_by_the_formula():
    some = LabeledImages(SAMPLES.images[1:8])
    reference = Reference(by_formula(TRAIN), by_formula(HELD_OUT), num_classes=2, classifier="abc")
    settings = EvaluationSettings(7, classifier=TINY)
    figures = evaluate(by_formula(some), reference, image_shape=(8, 8, 1), settings=settings)
    predicted = classify(SAMPLES.images[1:8])[1].argmax(1)
    counts = [int(np.sum(predicted == 0)), int(np.sum(predicted == 1))]
    assert counts[0] != counts[1]
    assert figures["class_histogram"]["value"] == counts
    covered = figures["classes_covered"]
    assert (covered["value"], covered["reference"], covered["better"]) == (2, "2 classes", "higher")
    assert covered["features"] == "classes predicted by the classifier"
    assert covered["classifier"]["fingerprint"] == "abc"
    wide = report._class_figures(np.array([3, 3, 1]), None, 6, {"classifier": "c"})
    assert wide["class_histogram"]["value"] == [0, 1, 0, 2, 0, 0]
    assert (wide["classes_covered"]["value"], wide["classes_covered"]["reference"]) == (2, "6 classes")


def test_figures_of_reconstructions_and_likelihoods_state_their_units_references_and_seed():
    mse = (1 + 0.04) / 12
    assert_same(
        report._reconstruction_figures(Reconstructions(mse, 3)),
        {
            "reconstruction_mse": {
                "value": mse,
                "unit": "squared [0, 1] levels a pixel",
                "better": "lower",
                "reference": "held-out, 3 images",
            },
            "reconstruction_psnr": {
                "value": float(10 * np.log10(1 / mse)),
                "unit": "dB, of the mean over all images",
                "better": "higher",
                "reference": "held-out, 3 images",
            },
        },
    )
    nats = np.array([-10.0, -20.0, -60.0], np.float32)
    assert_same(
        report._likelihood_figures(Likelihood(nats, "exact"), 12),
        {
            "bits_per_dim": {
                "value": 30 / (12 * np.log(2)),
                "better": "lower",
                "likelihood": "exact",
                "standard_error": np.sqrt((20**2 + 10**2 + 30**2) / 2 / 3) / (12 * np.log(2)),
                "reference": "held-out, 3 images",
            }
        },
    )
    figures = judge(
        LabeledImages(SAMPLES.images),
        num_classes=0,
        likelihood=Likelihood(nats, "exact"),
        reconstructions=Reconstructions(0.0, 20),
    )
    assert figures["bits_per_dim"]["value"] == pytest.approx(30 / (64 * np.log(2)))
    assert {figure["subset_seed"] for figure in figures.values()} == {subsets.SEED}
    assert "seed" not in figures["bits_per_dim"]


def test_the_protocol_of_the_inception_figures(monkeypatch):
    rng = np.random.default_rng(2)
    sets = [Features(rng.gamma(1.0, size=(n, 30)), 2 * rng.normal(size=(n, 7))) for n in (50, 60, 20)]
    images = [ImageSet(np.zeros((len(each.pooled), 4), np.float32), inception=each) for each in sets]
    figures = report._inception_figures(images[0], Reference(*images[1:], inception="hash"), 4, unseen)
    pooled = {"inception": "hash", "features": "last pooling of the Inception-v3 of FID, 2048-d"}
    rows = [features.pooled for features in sets]
    note = "Frechet distance of 20 images in 30 dimensions: biased upwards, compare equal numbers only."
    expected = expected_frechet("fid", *rows, pooled, (None, note, None))
    kid = beside(lambda each: kernel_distance(each, rows[1]), rows[0], rows[2])
    expected["kid"] = pooled | {"reference": "train, 60 images", "better": "lower"} | kid
    expected["kid"]["estimator"] = "unbiased, of all pairs"
    score = beside(lambda each: inception_score(each).mean, sets[0].logits, sets[2].logits)
    expected["inception_score"] = score | {
        "inception": "hash",
        "features": "1008 logits, without bias, of the Inception-v3 of FID",
        "standard_deviation": inception_score(sets[0].logits).deviation,
        "splits": 10,
        "better": "higher",
    }
    expected |= expected_neighbors("inception", *rows, pooled, 4)
    assert_same(figures, expected)
