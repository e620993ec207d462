"""The evaluation of a model from its samples: every figure with its protocol, beside what held-out images score."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxgen.core import subsets
from jaxgen.core.config import Section, call
from jaxgen.evaluation import features
from jaxgen.evaluation.features import Classifier, ClassifierSettings
from jaxgen.evaluation.frechet import frechet_between, gaussian
from jaxgen.evaluation.inception import SplitFeatures
from jaxgen.evaluation.inception_score import SPLITS, inception_score
from jaxgen.evaluation.kid import kernel_distance, self_similarity
from jaxgen.evaluation.memorization import memorization
from jaxgen.evaluation.neighbors import kth_neighbor_distances, nearest_distances, precision_recall_density_coverage

Figure = dict[str, Any]
"""`value`, and its protocol: `num_samples`, `seed`, `features`, `reference`, `k`, which way is `better`, a `note`.

`subset_seed` is that of all subsets: of splits of which not all images are taken, and of comparisons at equal sizes.

`held_out`, where it makes sense, says what a perfect model would score: its `value` is that of the held-out images,
evaluated as if they were samples. Since most figures depend on the number of images, `samples_at_same_size` gives the
samples' own with as many of them; the two are comparable.
"""


class LabeledImages(NamedTuple):
    """Images and their classes; for samples, the classes that were asked for. None: no classes."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"] | None = None


class Likelihood(NamedTuple):
    """Log-likelihoods of held-out images, and whether they are exact or lower bounds."""

    nats: Float[np.ndarray, " n"]
    kind: Literal["exact", "lower_bound"]


class EvaluationSettings(NamedTuple):
    """The protocol of an evaluation, which must be the same for all models that are compared.

    Attributes:
      num_samples: images drawn from the model.
      seed: seed of the draws.
      k: neighbours for precision, recall, density and coverage.
      num_likelihood: held-out images whose likelihood is taken, at most, of a model that has one; a drawn subset.
      max_pixel_features: in pixel space, larger images are averaged over blocks down to this many numbers.
      inception: directory of the Inception network, for FID, KID and the Inception score; None to do without.
      classifier: how the classifier that gives features is trained.
    """

    num_samples: int = 1000
    seed: int = 0
    k: int = 3
    num_likelihood: int = 10_000
    max_pixel_features: int = 1024
    inception: str | None = None
    classifier: ClassifierSettings = ClassifierSettings()


def evaluation_settings(config: Section) -> EvaluationSettings:
    """Reads the config's section `evaluate`, whose `num_samples` is 0 where there is to be no evaluation.

    Raises:
      ValueError: names the first setting that is wrong.
    """
    settings = call(EvaluationSettings, config.evaluate, where="evaluate")
    if settings.num_samples:
        check_settings(settings)
    return settings


def check_settings(settings: EvaluationSettings) -> None:
    """Refuses settings that no evaluation can have.

    Raises:
      ValueError: names the first setting that is wrong.
    """
    if settings.k < 1:
        raise ValueError(f"evaluate.k is {settings.k}, but must be at least 1.")
    if settings.num_samples <= settings.k:
        raise ValueError(f"evaluate.num_samples is {settings.num_samples}, but must be above evaluate.k, {settings.k}.")
    if settings.num_likelihood < 2:
        raise ValueError(
            f"evaluate.num_likelihood is {settings.num_likelihood}, but must be at least 2, for a standard error."
        )
    if settings.inception is not None and settings.num_samples < SPLITS:
        raise ValueError(
            f"evaluate.num_samples is {settings.num_samples}, but must be at least {SPLITS} with evaluate.inception."
        )


class Space(NamedTuple):
    """The three sets of images in one feature space."""

    name: str
    description: dict[str, Any]
    samples: Float[np.ndarray, "n d"]
    train: Float[np.ndarray, "m d"]
    held_out: Float[np.ndarray, "l d"]


def evaluate(
    samples: LabeledImages,
    train: LabeledImages,
    held_out: LabeledImages,
    *,
    num_classes: int,
    settings: EvaluationSettings,
    reconstructions: UInt8[np.ndarray, "..."] | None = None,
    likelihood: Likelihood | None = None,
    inception: SplitFeatures | None = None,
    cache_dir: str | Path | None = None,
) -> dict[str, Figure]:
    """Returns the figures of samples compared with the data, each with its protocol; they can be written as JSON.

    Args:
      samples: the model's samples and the labels they were conditioned on; labels None for an unconditional model.
      train: the split that the model was trained on.
      held_out: a split that it was not trained on.
      num_classes: of the data; 0 where it has none, and then only pixels are compared.
      settings: the protocol.
      reconstructions: the held-out images after encoding and decoding, for a model that does both.
      likelihood: log-likelihoods of held-out images, for a model that has a likelihood.
      inception: the Inception network's features of the three sets of images, for its figures.
      cache_dir: where the trained classifier is kept for the next evaluation.

    Raises:
      ValueError: if shapes, or the number of samples and the settings, do not agree, or labels are missing.
    """
    _check(samples, train, held_out, num_classes, settings)
    figures: dict[str, Figure] = {}
    spaces = [_pixel_space(samples, train, held_out, settings.max_pixel_features)]
    if num_classes:
        classifier = features.train_classifier(
            train.images, _labels(train), num_classes, settings=settings.classifier, cache_dir=cache_dir
        )
        outputs = [features.classify(classifier, split.images) for split in (samples, train, held_out)]
        predicted, _, held_out_predicted = (logits.argmax(axis=1) for _, logits in outputs)
        accuracy = float(np.mean(held_out_predicted == _labels(held_out)))
        described = _describe(classifier, settings.classifier, accuracy)
        spaces.insert(0, Space("classifier", described, *(activations for activations, _ in outputs)))
        figures = _class_figures(predicted, samples.labels, num_classes, described)
    for space in spaces:
        figures |= _frechet_figures(space, f"frechet_{space.name}") | _neighbor_figures(space, settings.k)
    figures |= _memorization_figures(spaces[-1])
    if inception is not None:
        figures |= _inception_figures(inception, settings.k)
    protocol = {"num_samples": len(samples.images), "seed": settings.seed}
    figures = {name: figure | protocol for name, figure in figures.items()}
    if reconstructions is not None:
        figures |= _reconstruction_figures(reconstructions, held_out.images)
    if likelihood is not None:
        figures |= _likelihood_figures(likelihood, held_out.images[0].size)
    return {name: figure | {"subset_seed": subsets.SEED} for name, figure in figures.items()}


def format_table(figures: Mapping[str, Figure]) -> str:
    """Returns the figures as aligned lines of text, with a legend below."""
    rows = [("figure", "value", "same size", "held-out", "better", "against")]
    for name, figure in figures.items():
        ideal = figure.get("held_out", {})
        against = figure.get("reference", "") + (f", k = {figure['k']}" if "k" in figure else "")
        values = [_short(value) for value in (figure["value"], ideal.get("samples_at_same_size"), ideal.get("value"))]
        rows.append((name, *values, figure.get("better", ""), against))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{name:<{widths[0]}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:4], strict=True))
        + f"  {better:<{widths[4]}}  {against}"
        for name, *cells, better, against in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), *_legend(figures)])


def _legend(figures: Mapping[str, Figure]) -> list[str]:
    sizes = {figure.get("held_out", {}).get("num_samples") for figure in figures.values()} - {None}
    lines = [f"held-out: {n} held-out images evaluated as if they were samples; same size: {n} samples." for n in sizes]
    described = dict.fromkeys(figure["features"] for figure in figures.values() if "features" in figure)
    classifiers = [figure["classifier"] for figure in figures.values() if "classifier" in figure]
    accuracies = dict.fromkeys(classifier["held_out_accuracy"] for classifier in classifiers)
    lines += [f"features: {description}" for description in described]
    lines += dict.fromkeys(figure["note"] for figure in figures.values() if "note" in figure)
    return lines + [f"classifier: right on {accuracy:.1%} of the held-out images" for accuracy in accuracies]


def _check(
    samples: LabeledImages,
    train: LabeledImages,
    held_out: LabeledImages,
    num_classes: int,
    settings: EvaluationSettings,
) -> None:
    shapes = [split.images.shape[1:] for split in (samples, train, held_out)]
    if len(set(shapes)) > 1:
        raise ValueError(f"Samples, train and held-out images must have one shape, and they have {shapes}.")
    if len(samples.images) != settings.num_samples:
        raise ValueError(
            f"The settings say {settings.num_samples} samples and {len(samples.images)} were given: make them agree, "
            "since the figures depend on the number."
        )
    if num_classes and (train.labels is None or held_out.labels is None):
        raise ValueError(f"The data has {num_classes} classes, so train and held-out splits must come with labels.")
    if samples.labels is not None and not num_classes:
        raise ValueError("The samples have labels but the data has no classes: give num_classes, or labels=None.")


def _labels(split: LabeledImages) -> Int[np.ndarray, " n"]:
    assert split.labels is not None  # `_check` has seen to it
    return split.labels


def _pixel_space(samples: LabeledImages, train: LabeledImages, held_out: LabeledImages, max_features: int) -> Space:
    factor = features.pixel_factor(train.images.shape[1:], max_features)
    sets = [features.pixel_features(split.images, max_features=max_features) for split in (samples, train, held_out)]
    averaged = f" averaged over {factor}x{factor} blocks" if factor > 1 else ""
    return Space("pixels", {"features": f"pixels in [0, 1]{averaged}, {sets[0].shape[1]}-d"}, *sets)


def _describe(classifier: Classifier, settings: ClassifierSettings, accuracy: float) -> dict[str, Any]:
    return {
        "features": f"penultimate layer of a classifier of the train split, {settings.num_features}-d",
        "classifier": {
            "held_out_accuracy": accuracy,
            "seed": settings.seed,
            "fingerprint": classifier.fingerprint,
        },
    }


def _frechet_figures(space: Space, name: str) -> dict[str, Figure]:
    train, samples = gaussian(space.train), gaussian(space.samples)
    everything = np.concatenate([space.train, space.held_out])
    common = space.description | {"better": "lower"}
    return {
        name: common
        | _frechet_reference("train", space.train, space.samples)
        | _beside_held_out(space, lambda rows: {name: frechet_between(gaussian(rows), train)})[name],
        f"{name}_held_out": common
        | _frechet_reference("held-out", space.held_out, space.samples)
        | {"value": frechet_between(samples, gaussian(space.held_out))},
        f"{name}_all": common
        | _frechet_reference("all real", everything, space.samples)
        | {"value": frechet_between(samples, gaussian(everything))},
    }


def _frechet_reference(
    name: str, reference: Float[np.ndarray, "m d"], samples: Float[np.ndarray, "n d"]
) -> dict[str, Any]:
    """Returns the name of the reference, and a note if n images in d dimensions are too few for full rank (n <= d)."""
    few, dimensions = min(len(reference), len(samples)), samples.shape[1]
    note = f"Frechet distance of {few} images in {dimensions} dimensions: biased upwards, compare equal numbers only."
    return {"reference": _split(name, reference)} | ({"note": note} if few <= dimensions else {})


def _neighbor_figures(space: Space, k: int) -> dict[str, Figure]:
    radii = kth_neighbor_distances(space.train, k)
    common = space.description | {"reference": _split("train", space.train), "k": k, "better": "higher"}
    results = _beside_held_out(
        space, lambda rows: precision_recall_density_coverage(space.train, rows, k=k, real_radii=radii)._asdict()
    )
    return {f"{name}_{space.name}": common | figure for name, figure in results.items()}


def _inception_figures(inception: SplitFeatures, k: int) -> dict[str, Figure]:
    described = {"inception": inception.fingerprint}
    pooled = described | {"features": "last pooling of the Inception-v3 of FID, 2048-d"}
    logits = described | {"features": "1008 logits, without bias, of the Inception-v3 of FID"}
    splits = (inception.samples, inception.train, inception.held_out)
    space = Space("inception", pooled, *(split.pooled for split in splits))
    return (
        _frechet_figures(space, "fid")
        | _kid_figures(space)
        | _inception_score_figures(Space("logits", logits, *(split.logits for split in splits)))
        | _neighbor_figures(space, k)
    )


def _kid_figures(space: Space) -> dict[str, Figure]:
    similarity = self_similarity(space.train)
    common = space.description | {"reference": _split("train", space.train), "better": "lower"}
    results = _beside_held_out(space, lambda rows: {"kid": kernel_distance(rows, space.train, b_similarity=similarity)})
    return {"kid": common | {"estimator": "unbiased, of all pairs"} | results["kid"]}


def _inception_score_figures(space: Space) -> dict[str, Figure]:
    results = _beside_held_out(space, lambda rows: {"inception_score": inception_score(rows).mean})["inception_score"]
    spread = {"standard_deviation": inception_score(space.samples).deviation, "splits": SPLITS, "better": "higher"}
    return {"inception_score": space.description | results | spread}


def _memorization_figures(space: Space) -> dict[str, Figure]:
    names = {
        "median_distance": "nearest_train_distance",
        "ratio": "nearest_train_distance_ratio",
        "closer_fraction": "too_close_fraction",
        "duplicate_fraction": "duplicate_fraction",
    }
    common = space.description | {"reference": _split("train", space.train), "better": "as held-out"}
    distances = nearest_distances(space.held_out, space.train)
    results = _beside_held_out(space, lambda rows: memorization(rows, space.train, distances)._asdict())
    results["closer_fraction"]["threshold"] = "the 1% quantile of the held-out images' distances"
    return {new: common | results[old] for old, new in names.items()}


def _beside_held_out(space: Space, measure: Callable[[np.ndarray], Mapping[str, float | None]]) -> dict[str, Figure]:
    """Measures the samples, and as many of the samples as of the held-out images."""
    size = min(len(space.samples), len(space.held_out))
    # Drawn, since both often come ordered by class.
    some_samples, some_held_out = (rows[subsets.draw(len(rows), size)] for rows in (space.samples, space.held_out))
    values, matched, ideal = map(measure, (space.samples, some_samples, some_held_out))
    return {
        name: {
            "value": value,
            "held_out": {"value": ideal[name], "samples_at_same_size": matched[name], "num_samples": size},
        }
        for name, value in values.items()
    }


def _class_figures(
    predicted: Int[np.ndarray, " n"], asked: Int[np.ndarray, " n"] | None, num_classes: int, described: dict[str, Any]
) -> dict[str, Figure]:
    """Returns the classifier's agreement with the labels asked for or, without labels, the classes that it predicts."""
    common = {"features": "classes predicted by the classifier", "classifier": described["classifier"]}
    if asked is not None:
        agreement = {
            "value": float(np.mean(predicted == asked)),
            "reference": "the labels asked for",
            "better": "higher",
        }
        # The classifier's own accuracy is the agreement of held-out images with their labels.
        return {
            "class_accuracy": common | agreement | {"held_out": {"value": described["classifier"]["held_out_accuracy"]}}
        }
    counts = np.bincount(predicted, minlength=num_classes)
    covered = {"value": int(np.sum(counts > 0)), "reference": f"{num_classes} classes", "better": "higher"}
    return {"classes_covered": common | covered, "class_histogram": common | {"value": counts.tolist()}}


def _reconstruction_figures(
    reconstructions: UInt8[np.ndarray, "..."], originals: UInt8[np.ndarray, "l h w c"]
) -> dict[str, Figure]:
    if reconstructions.shape != originals.shape:
        raise ValueError(f"Reconstructions have shape {reconstructions.shape}, the held-out images {originals.shape}.")
    mse = float(np.mean(((reconstructions.astype(np.float64) - originals) / 255) ** 2))
    psnr = -10 * math.log10(mse) if mse > 0 else None  # an exact reconstruction's is infinite, which JSON cannot say
    common = {"reference": _split("held-out", originals)}
    return {
        "reconstruction_mse": common | {"value": mse, "unit": "squared [0, 1] levels a pixel", "better": "lower"},
        "reconstruction_psnr": common | {"value": psnr, "unit": "dB, of the mean over all images", "better": "higher"},
    }


def _likelihood_figures(likelihood: Likelihood, dimensions: int) -> dict[str, Figure]:
    """Returns bits per dimension of the 8-bit images: -log2 p / (h w c)."""
    bits = -likelihood.nats.astype(np.float64) / (math.log(2) * dimensions)
    error = float(bits.std(ddof=1) / math.sqrt(len(bits)))
    protocol = {"likelihood": likelihood.kind, "standard_error": error, "reference": _split("held-out", bits)}
    return {"bits_per_dim": {"value": float(bits.mean()), "better": "lower"} | protocol}


def _split(name: str, images: np.ndarray) -> str:
    return f"{name}, {len(images)} images"


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return f"{min(value)}..{max(value)}"
    return f"{value:.4g}"
