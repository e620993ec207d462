import json

import numpy as np
import pytest
from halves import TINY, LabeledImages, features_of, figures_of, halves
from ml_collections import ConfigDict

from jaxgen.evaluation.features import ClassifierSettings
from jaxgen.evaluation.frechet import frechet_distance
from jaxgen.evaluation.inception import Features
from jaxgen.evaluation.inception_score import inception_score
from jaxgen.evaluation.kid import kernel_distance
from jaxgen.evaluation.neighbors import precision_recall_density_coverage
from jaxgen.evaluation.reference import SPACES, ImageSet, Reference
from jaxgen.evaluation.report import (
    EvaluationSettings,
    Likelihood,
    Reconstructions,
    evaluate,
    evaluation_settings,
    format_table,
)

SETTINGS = EvaluationSettings(num_samples=50, seed=7, k=2, classifier=TINY)
SPACE_FIGURES = ["frechet", "precision", "recall", "density", "coverage"]


TRAIN, HELD_OUT, SAMPLES = (LabeledImages(*halves(seed, count)) for seed, count in enumerate((60, 20, 50)))


def judge(samples, *, num_classes=2, **options):
    settings = SETTINGS._replace(num_samples=len(samples.images))
    return figures_of(samples, TRAIN, HELD_OUT, num_classes=num_classes, settings=settings, **options)


def test_every_figure_stands_with_its_protocol():
    figures = judge(SAMPLES)
    expected = {f"{name}_{space}" for name in SPACE_FIGURES for space in ("classifier", "pixels")}
    assert expected | {"class_accuracy", "nearest_train_distance_ratio", "duplicate_fraction"} <= set(figures)
    assert all(figure.keys() >= {"value", "num_samples", "seed", "features", "better"} for figure in figures.values())
    assert {figure["num_samples"] for figure in figures.values()} == {50}
    assert {figure["seed"] for figure in figures.values()} == {7}
    assert figures["recall_pixels"]["k"] == 2
    assert figures["frechet_pixels"]["reference"] == "train, 60 images"
    assert figures["frechet_pixels_all"]["reference"] == "all real, 80 images"
    assert figures["frechet_classifier"]["classifier"]["held_out_accuracy"] == 1.0
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_new_images_of_the_data_score_like_held_out_ones():
    figures = judge(SAMPLES)
    assert figures["class_accuracy"]["value"] == 1.0
    assert figures["nearest_train_distance_ratio"]["value"] == pytest.approx(1.0, abs=0.05)
    for name in ("precision_pixels", "density_pixels", "coverage_classifier"):
        held_out = figures[name]["held_out"]
        assert held_out["num_samples"] == 20
        assert held_out["samples_at_same_size"] == pytest.approx(held_out["value"], abs=0.25)


def test_held_out_images_as_samples_score_exactly_like_held_out_images():
    figures = judge(HELD_OUT)
    judged = [figure for figure in figures.values() if "held_out" in figure]
    assert len(judged) == 1 + 2 * len(SPACE_FIGURES) + 4
    for figure in judged:
        assert figure["value"] == pytest.approx(figure["held_out"]["value"], rel=1e-9, abs=1e-9)
    assert figures["frechet_pixels_held_out"]["value"] == pytest.approx(0.0, abs=1e-9)
    flat = [split.images.reshape(-1, 64) / 255 for split in (HELD_OUT, TRAIN)]
    everything = frechet_distance(flat[0], np.concatenate(flat))
    assert figures["frechet_pixels_all"]["value"] == pytest.approx(everything, rel=1e-4)


def test_failures_of_a_model_show():
    wrong_labels = judge(LabeledImages(SAMPLES.images, 1 - SAMPLES.labels))
    assert wrong_labels["class_accuracy"]["value"] == 0.0
    copies = judge(LabeledImages(TRAIN.images[[0, 1] * 25], SAMPLES.labels))
    assert copies["nearest_train_distance_ratio"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert copies["duplicate_fraction"]["value"] == pytest.approx(48 / 50)
    assert copies["too_close_fraction"]["value"] == 1.0
    dark = judge(LabeledImages(SAMPLES.images // 2, SAMPLES.labels))
    assert dark["frechet_pixels"]["value"] > 3 * dark["frechet_pixels"]["held_out"]["value"]
    assert dark["precision_pixels"]["value"] < 0.5


def test_unconditional_samples_are_counted_by_class():
    one_class = LabeledImages(SAMPLES.images[::2])
    figures = judge(one_class)
    assert "class_accuracy" not in figures
    assert figures["classes_covered"]["value"] == 1
    assert figures["class_histogram"]["value"] == [25, 0]
    assert "25..0" not in format_table(figures)
    assert "0..25" in format_table(figures)


def test_data_without_classes_is_judged_by_pixels_alone():
    figures = judge(LabeledImages(SAMPLES.images), num_classes=0)
    assert {figure["features"] for figure in figures.values()} == {"pixels in [0, 1], 64-d"}
    assert {f"{name}_pixels" for name in SPACE_FIGURES} <= set(figures)


def test_reconstructions_against_the_formula():
    figures = judge(LabeledImages(SAMPLES.images), num_classes=0, reconstructions=Reconstructions(0.04, 20))
    assert figures["reconstruction_mse"]["reference"] == "held-out, 20 images"
    assert figures["reconstruction_mse"]["value"] == pytest.approx(0.04)
    assert figures["reconstruction_psnr"]["value"] == pytest.approx(-10 * np.log10(0.04))
    exact = judge(LabeledImages(SAMPLES.images), num_classes=0, reconstructions=Reconstructions(0.0, 20))
    assert exact["reconstruction_mse"]["value"] == 0
    assert exact["reconstruction_psnr"]["value"] is None


def test_bits_per_dim_against_the_formula():
    nats = np.full(len(HELD_OUT.images), -64 * 3 * np.log(2.0)) + np.linspace(-1.0, 1.0, len(HELD_OUT.images))
    figures = judge(LabeledImages(SAMPLES.images), num_classes=0, likelihood=Likelihood(nats, "lower_bound"))
    figure = figures["bits_per_dim"]
    assert figure["value"] == pytest.approx(3.0)
    assert figure["likelihood"] == "lower_bound"
    assert figure["standard_error"] == pytest.approx(nats.std(ddof=1) / np.sqrt(len(nats)) / (64 * np.log(2)))


def test_inception_figures_against_their_definitions():
    rng = np.random.default_rng(0)
    sets = [
        Features(rng.gamma(shape, size=(n, 30)), 3 * rng.normal(size=(n, 7)))
        for n, shape in ((50, 0.5), (60, 0.6), (20, 0.6))
    ]
    sets[0].logits[:, 0] += np.arange(50) / 5  # the order counts
    samples, train, held_out = sets
    figures = judge(LabeledImages(SAMPLES.images), inception=sets, num_classes=0)
    values = {name: figure["value"] for name, figure in figures.items() if figure.get("inception") == "hash"}
    assert values["fid"] == pytest.approx(frechet_distance(samples.pooled, train.pooled))
    assert values["fid_held_out"] == pytest.approx(frechet_distance(samples.pooled, held_out.pooled))
    everything = np.concatenate([train.pooled, held_out.pooled])
    assert values["fid_all"] == pytest.approx(frechet_distance(samples.pooled, everything))
    assert values["kid"] == pytest.approx(kernel_distance(samples.pooled, train.pooled))
    score = inception_score(samples.logits)
    assert (values["inception_score"], figures["inception_score"]["standard_deviation"]) == pytest.approx(score)
    prdc = precision_recall_density_coverage(train.pooled, samples.pooled, k=2)
    assert [values[f"{name}_inception"] for name in prdc._fields] == pytest.approx(prdc)
    assert figures["kid"]["held_out"]["value"] == pytest.approx(kernel_distance(held_out.pooled, train.pooled))
    assert "of 20 images in 30 dimensions" in figures["fid_held_out"]["note"]
    assert "note" not in figures["fid"]
    assert figures["kid"] | {"num_samples": 50, "seed": 7, "reference": "train, 60 images"} == figures["kid"]
    assert len(values) == 9


def test_too_few_samples_for_the_inception_score_are_refused():
    config = ConfigDict({"evaluate": {"num_samples": 9, "inception": "directory"}})
    with pytest.raises(ValueError, match=r"num_samples is 9, but must be at least 10 with evaluate.inception"):
        evaluation_settings(config)
    config.evaluate.num_samples = 10
    assert evaluation_settings(config).inception == "directory"


def test_table_has_a_line_for_each_figure_and_fits_a_terminal():
    figures = judge(SAMPLES)
    lines = format_table(figures).splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(figures)]] == list(figures)
    assert max(map(len, lines)) <= 100
    assert sum(line.endswith("train, 60 images, k = 2") for line in lines) == 8
    assert "classifier: right on 100.0% of the held-out images" in lines


@pytest.mark.parametrize(
    ("samples", "num_classes", "message"),
    [
        (LabeledImages(SAMPLES.images[:, :4]), 0, "must have one shape"),
        (LabeledImages(SAMPLES.images[:9]), 2, "say 50 samples and 9 were given"),
        (SAMPLES, 0, "the data has no classes"),
    ],
)
def test_what_does_not_agree_is_refused(samples, num_classes, message):
    with pytest.raises(ValueError, match=message):
        figures_of(samples, TRAIN, HELD_OUT, num_classes=num_classes, settings=SETTINGS)


def test_the_table_to_the_letter():
    classifier = {"held_out_accuracy": 0.987654}
    figures = {
        "a": {"value": 0.123456, "better": "lower", "reference": "train, 9 images", "features": "f", "note": "few."},
        "longer": {
            "value": 12345.678,
            "better": "higher",
            "reference": "train, 9 images",
            "k": 3,
            "features": "f",
            "held_out": {"value": 2.0, "samples_at_same_size": 0.5, "num_samples": 7},
            "classifier": classifier,
        },
        "histogram": {"value": [4, 0, 2], "features": "g", "classifier": classifier},
        "nothing": {"value": None, "note": "few."},
    }
    assert format_table(figures).splitlines() == [
        "figure         value  same size  held-out  better  against",
        "a             0.1235                       lower   train, 9 images",
        "longer     1.235e+04        0.5         2  higher  train, 9 images, k = 3",
        "histogram       0..4",
        "nothing",
        "held-out: 7 held-out images evaluated as if they were samples; same size: 7 samples.",
        "features: f",
        "features: g",
        "few.",
        "classifier: right on 98.8% of the held-out images",
    ]


def settings_of(**evaluate):
    return evaluation_settings(ConfigDict({"evaluate": evaluate}))


def test_the_protocol_does_not_change_unnoticed():
    expected = (1000, 0, 3, 10_000, 1024, None, ClassifierSettings(*ClassifierSettings._field_defaults.values()))
    assert tuple(EvaluationSettings._field_defaults.values()) == expected  # tests of the commands patch the others
    assert settings_of(num_samples=4, k=3, num_likelihood=2).num_samples == 4
    assert settings_of(num_samples=2, k=1).k == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"k": 0}, r"^evaluate\.k is 0, but must be at least 1\.$"),
        ({"k": 5, "num_samples": 5}, r"^evaluate\.num_samples is 5, but must be above evaluate\.k, 5\.$"),
        ({"num_likelihood": 1}, r"^evaluate\.num_likelihood is 1, but must be at least 2, for a standard error\.$"),
        (
            {"num_samples": 9, "inception": "d"},
            r"^evaluate\.num_samples is 9, but must be at least 10 with evaluate\.inc",
        ),
        ({"num_sample": 9}, r"^evaluate\.num_sample is not a setting; .*Did you mean num_samples\?$"),
        ({"num_samples": True}, r"^evaluate\.num_samples is True, but must be of type int\.$"),
    ],
)
def test_wrong_settings_are_refused_by_name_and_value(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings_of(**settings)


@pytest.mark.parametrize("missing", [0, 1])
def test_both_splits_need_their_labels_where_there_are_classes(missing):
    features = ImageSet(np.zeros((50, 4), np.float32), np.zeros(50, np.int32))
    splits = [features, features]
    splits[missing] = features._replace(labels=None)
    with pytest.raises(ValueError, match="The data has 2 classes, so train and held-out splits must come with labels"):
        evaluate(features, Reference(*splits, num_classes=2), image_shape=(2, 2, 1), settings=SETTINGS)


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_all_three_sets_have_one_shape(wrong):
    sets = [LabeledImages(split.images) for split in (SAMPLES, TRAIN, HELD_OUT)]
    sets[wrong] = LabeledImages(sets[wrong].images[:, 1:])
    with pytest.raises(ValueError, match=r"must have one shape, and they have \[.*56.*\] numbers"):
        figures_of(*sets, num_classes=0, settings=SETTINGS)


def test_classes_are_listed_by_their_names():
    figures = judge(LabeledImages(SAMPLES.images[1::2]), class_names=("left", "right"))
    assert figures["class_histogram"]["classes"] == ["left", "right"]
    assert "classes predicted: left 0, right 25" in format_table(figures).splitlines()
    assert "classes" not in judge(LabeledImages(SAMPLES.images))["class_histogram"]


def test_figures_that_are_kept_are_those_that_were_computed():
    """And whatever depends on the data alone is kept: a second evaluation computes none of it."""
    kept, computed = {}, []

    def keeping(space):
        def keep(name, compute):
            if (space, name) not in kept:
                computed.append((space, name))
                kept[space, name] = dict(compute())
            return kept[space, name]

        return keep

    rng = np.random.default_rng(0)
    sets = [
        features_of(LabeledImages(split.images), SETTINGS, inception=Features(rng.random((n, 6)), rng.random((n, 5))))
        for split, n in ((SAMPLES, 50), (TRAIN, 60), (HELD_OUT, 20))
    ]
    plain = Reference(*sets[1:], inception="hash")
    keeper = plain._replace(keep={space: keeping(space) for space in SPACES})
    options = {"image_shape": (8, 8, 1), "settings": SETTINGS}
    expected = evaluate(sets[0], plain, **options)
    assert evaluate(sets[0], keeper, **options) == expected
    assert {f"{space}/{name}" for space, name in computed} == {
        *(f"{space}/gaussian-{split}" for space in ("pixels", "inception") for split in ("train", "held_out", "all")),
        *(
            f"{space}/{name}"
            for space in ("pixels", "inception")
            for name in ("radii-2", "frechet-20", "neighbors-2-20")
        ),
        *("pixels/nearest", "pixels/memorization-20", "inception/similarity", "inception/kid-20", "inception/score-20"),
    }
    done = len(computed)
    assert evaluate(sets[0], keeper, **options) == expected
    assert len(computed) == done
    other = evaluate(sets[0], keeper, **{**options, "settings": SETTINGS._replace(k=3)})
    assert other == evaluate(sets[0], plain, **{**options, "settings": SETTINGS._replace(k=3)})


def test_long_work_is_reported():
    seen = []
    judge(SAMPLES, on_progress=lambda *report: seen.append(report))
    assert seen[0] == ("computing figures", 0, 5)
    assert seen[-1] == ("computing figures", 5, 5)
    assert ("neighbors among 60 images", 60, 60) in seen
    assert ("nearest of 60 images", 20, 20) in seen
