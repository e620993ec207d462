"""The evaluation of a model from its samples: every figure with its protocol, beside what held-out images score."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from jaxgen.core import subsets
from jaxgen.core.config import Section, call
from jaxgen.core.progress import OnProgress, unseen
from jaxgen.evaluation import features
from jaxgen.evaluation.features import ClassifierSettings
from jaxgen.evaluation.frechet import frechet_between, gaussian
from jaxgen.evaluation.inception_score import SPLITS, inception_score
from jaxgen.evaluation.kid import kernel_distance
from jaxgen.evaluation.memorization import memorization
from jaxgen.evaluation.neighbors import precision_recall_density_coverage
from jaxgen.evaluation.reference import ImageSet, Reference, Space

T = TypeVar("T")

Figure = dict[str, Any]
"""`value`, and its protocol: `num_samples`, `seed`, `features`, `reference`, `k`, which way is `better`, a `note`.

`subset_seed` is that of all subsets: of splits of which not all images are taken, and of comparisons at equal sizes.

`held_out`, where it makes sense, says what a perfect model would score: its `value` is that of the held-out images,
evaluated as if they were samples. Since most figures depend on the number of images, `samples_at_same_size` gives the
samples' own with as many of them; the two are comparable.
"""


class Likelihood(NamedTuple):
    """Log-likelihoods of held-out images, and whether they are exact or lower bounds."""

    nats: Float[np.ndarray, " n"]
    kind: Literal["exact", "lower_bound"]


class Reconstructions(NamedTuple):
    """The mean squared error of reconstructions in [0, 1], and the number of held-out images that it is over."""

    mse: float
    num_images: int


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


def evaluate(
    samples: ImageSet,
    reference: Reference,
    *,
    image_shape: tuple[int, int, int],
    settings: EvaluationSettings,
    class_names: tuple[str, ...] = (),
    reconstructions: Reconstructions | None = None,
    likelihood: Likelihood | None = None,
    on_progress: OnProgress = unseen,
) -> dict[str, Figure]:
    """Returns the figures of samples compared with the data, each with its protocol; they can be written as JSON.

    Args:
      samples: features of the model's samples, and the labels they were conditioned on, if they were.
      reference: the features of the data.
      image_shape: height, width, channels.
      settings: the protocol.
      class_names: of the data, for figures that list its classes.
      reconstructions: of the held-out images after encoding and decoding, for a model that does both.
      likelihood: log-likelihoods of held-out images, for a model that has a likelihood.
      on_progress: is told of what takes long.

    Raises:
      ValueError: if shapes, or the number of samples and the settings, do not agree, or labels are missing.
    """
    _check(samples, reference, settings)
    figures: dict[str, Figure] = {}
    spaces = [_pixel_space(samples, reference, image_shape, settings.max_pixel_features)]
    if reference.num_classes:
        described = _describe(reference, settings.classifier)
        sets = (samples, reference.train, reference.held_out)
        rows = [_present(images.classifier) for images in sets]
        spaces.insert(0, Space("classifier", described, *_three(rows), keep=reference.keep["classifier"]))
        predicted = _present(samples.predicted)
        figures = _class_figures(predicted, samples.labels, reference.num_classes, described, class_names)
    work: list[Callable[[], dict[str, Figure]]] = []
    for space in spaces:
        work.append(functools.partial(_frechet_figures, space, f"frechet_{space.name}"))
        work.append(functools.partial(_neighbor_figures, space, settings.k, on_progress))
    work.append(functools.partial(_memorization_figures, spaces[-1], on_progress))
    if samples.inception is not None:
        work.append(functools.partial(_inception_figures, samples, reference, settings.k, on_progress))
    for done, compute in enumerate(work):
        on_progress("computing figures", done, len(work))
        figures |= compute()
    on_progress("computing figures", len(work), len(work))
    protocol = {"num_samples": samples.num_images, "seed": settings.seed}
    figures = {name: figure | protocol for name, figure in figures.items()}
    if reconstructions is not None:
        figures |= _reconstruction_figures(reconstructions)
    if likelihood is not None:
        figures |= _likelihood_figures(likelihood, math.prod(image_shape))
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
    for figure in figures.values():
        if "classes" in figure:
            counts = zip(figure["classes"], figure["value"], strict=True)
            lines.append("classes predicted: " + ", ".join(f"{name} {count}" for name, count in counts))
    lines += dict.fromkeys(figure["note"] for figure in figures.values() if "note" in figure)
    return lines + [f"classifier: right on {accuracy:.1%} of the held-out images" for accuracy in accuracies]


def _check(samples: ImageSet, reference: Reference, settings: EvaluationSettings) -> None:
    sets = (samples, reference.train, reference.held_out)
    dimensions = [images.pixels.shape[1] for images in sets]
    if len(set(dimensions)) > 1:
        raise ValueError(f"Samples, train and held-out images must have one shape, and they have {dimensions} numbers.")
    if samples.num_images != settings.num_samples:
        raise ValueError(
            f"The settings say {settings.num_samples} samples and {samples.num_images} were given: make them agree, "
            "since the figures depend on the number."
        )
    if reference.num_classes and (reference.train.labels is None or reference.held_out.labels is None):
        raise ValueError(
            f"The data has {reference.num_classes} classes, so train and held-out splits must come with labels."
        )
    if samples.labels is not None and not reference.num_classes:
        raise ValueError("The samples have labels but the data has no classes: give num_classes, or labels=None.")


def _present(features: T | None) -> T:
    assert features is not None  # all sets of images have the same
    return features


def _three(rows: Sequence[T]) -> tuple[T, T, T]:
    samples, train, held_out = rows
    return samples, train, held_out


def _pixel_space(
    samples: ImageSet, reference: Reference, image_shape: tuple[int, int, int], max_features: int
) -> Space:
    factor = features.pixel_factor(image_shape, max_features)
    averaged = f" averaged over {factor}x{factor} blocks" if factor > 1 else ""
    described = {"features": f"pixels in [0, 1]{averaged}, {samples.pixels.shape[1]}-d"}
    sets = (samples.pixels, reference.train.pixels, reference.held_out.pixels)
    return Space("pixels", described, *sets, keep=reference.keep["pixels"])


def _describe(reference: Reference, settings: ClassifierSettings) -> dict[str, Any]:
    held_out = reference.held_out
    return {
        "features": f"penultimate layer of a classifier of the train split, {settings.num_features}-d",
        "classifier": {
            "held_out_accuracy": float(np.mean(_present(held_out.predicted) == _present(held_out.labels))),
            "seed": settings.seed,
            "fingerprint": reference.classifier,
        },
    }


def _frechet_figures(space: Space, name: str) -> dict[str, Figure]:
    train, samples = space.gaussian("train"), gaussian(space.samples)
    common = space.description | {"better": "lower"}

    def against(reference: str, count: int) -> Figure:
        return common | _frechet_reference(reference, count, space.samples)

    return {
        name: against("train", len(space.train))
        | _beside_held_out(space, "frechet", lambda rows: {name: frechet_between(gaussian(rows), train)})[name],
        f"{name}_held_out": against("held-out", len(space.held_out))
        | {"value": frechet_between(samples, space.gaussian("held_out"))},
        f"{name}_all": against("all real", len(space.train) + len(space.held_out))
        | {"value": frechet_between(samples, space.gaussian("all"))},
    }


def _frechet_reference(name: str, count: int, samples: Float[np.ndarray, "n d"]) -> dict[str, Any]:
    """Returns the name of the reference, and a note if n images in d dimensions are too few for full rank (n <= d)."""
    few, dimensions = min(count, len(samples)), samples.shape[1]
    note = f"Frechet distance of {few} images in {dimensions} dimensions: biased upwards, compare equal numbers only."
    return {"reference": _split(name, count)} | ({"note": note} if few <= dimensions else {})


def _neighbor_figures(space: Space, k: int, on_progress: OnProgress) -> dict[str, Figure]:
    radii = space.radii(k, on_progress)
    common = space.description | {"reference": _split("train", len(space.train)), "k": k, "better": "higher"}
    results = _beside_held_out(
        space,
        f"neighbors-{k}",
        lambda rows: precision_recall_density_coverage(space.train, rows, k=k, real_radii=radii)._asdict(),
    )
    return {f"{name}_{space.name}": common | figure for name, figure in results.items()}


def _inception_figures(samples: ImageSet, reference: Reference, k: int, on_progress: OnProgress) -> dict[str, Figure]:
    described = {"inception": reference.inception}
    pooled = described | {"features": "last pooling of the Inception-v3 of FID, 2048-d"}
    logits = described | {"features": "1008 logits, without bias, of the Inception-v3 of FID"}
    sets = [_present(images.inception) for images in (samples, reference.train, reference.held_out)]
    keep = reference.keep["inception"]
    space = Space("inception", pooled, *_three([each.pooled for each in sets]), keep=keep)
    return (
        _frechet_figures(space, "fid")
        | _kid_figures(space)
        | _inception_score_figures(Space("logits", logits, *_three([each.logits for each in sets]), keep=keep))
        | _neighbor_figures(space, k, on_progress)
    )


def _kid_figures(space: Space) -> dict[str, Figure]:
    similarity = space.train_similarity()
    common = space.description | {"reference": _split("train", len(space.train)), "better": "lower"}
    results = _beside_held_out(
        space, "kid", lambda rows: {"kid": kernel_distance(rows, space.train, b_similarity=similarity)}
    )
    return {"kid": common | {"estimator": "unbiased, of all pairs"} | results["kid"]}


def _inception_score_figures(space: Space) -> dict[str, Figure]:
    results = _beside_held_out(space, "score", lambda rows: {"inception_score": inception_score(rows).mean})
    spread = {"standard_deviation": inception_score(space.samples).deviation, "splits": SPLITS, "better": "higher"}
    return {"inception_score": space.description | results["inception_score"] | spread}


def _memorization_figures(space: Space, on_progress: OnProgress) -> dict[str, Figure]:
    names = {
        "median_distance": "nearest_train_distance",
        "ratio": "nearest_train_distance_ratio",
        "closer_fraction": "too_close_fraction",
        "duplicate_fraction": "duplicate_fraction",
    }
    common = space.description | {"reference": _split("train", len(space.train)), "better": "as held-out"}
    distances = space.held_out_distances(on_progress)
    results = _beside_held_out(space, "memorization", lambda rows: memorization(rows, space.train, distances)._asdict())
    results["closer_fraction"]["threshold"] = "the 1% quantile of the held-out images' distances"
    return {new: common | results[old] for old, new in names.items()}


def _beside_held_out(
    space: Space, name: str, measure: Callable[[np.ndarray], Mapping[str, float | None]]
) -> dict[str, Figure]:
    """Measures the samples, and as many of the samples as of the held-out images; keeps the figures of the latter."""
    size = min(len(space.samples), len(space.held_out))
    # Drawn, since both often come ordered by class.
    some_samples, some_held_out = (rows[subsets.draw(len(rows), size)] for rows in (space.samples, space.held_out))
    values, matched = measure(space.samples), measure(some_samples)
    ideal = space.figures(f"{name}-{size}", lambda: measure(some_held_out))
    return {
        name: {
            "value": value,
            "held_out": {"value": ideal[name], "samples_at_same_size": matched[name], "num_samples": size},
        }
        for name, value in values.items()
    }


def _class_figures(
    predicted: Int[np.ndarray, " n"],
    asked: Int[np.ndarray, " n"] | None,
    num_classes: int,
    described: dict[str, Any],
    class_names: tuple[str, ...] = (),
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
    names = {"classes": list(class_names)} if class_names else {}
    return {"classes_covered": common | covered, "class_histogram": common | names | {"value": counts.tolist()}}


def _reconstruction_figures(reconstructions: Reconstructions) -> dict[str, Figure]:
    mse = reconstructions.mse
    psnr = -10 * math.log10(mse) if mse > 0 else None  # an exact reconstruction's is infinite, which JSON cannot say
    common = {"reference": _split("held-out", reconstructions.num_images)}
    return {
        "reconstruction_mse": common | {"value": mse, "unit": "squared [0, 1] levels a pixel", "better": "lower"},
        "reconstruction_psnr": common | {"value": psnr, "unit": "dB, of the mean over all images", "better": "higher"},
    }


def _likelihood_figures(likelihood: Likelihood, dimensions: int) -> dict[str, Figure]:
    """Returns bits per dimension of the images' levels: -log2 p / (h w c)."""
    bits = -likelihood.nats.astype(np.float64) / (math.log(2) * dimensions)
    error = float(bits.std(ddof=1) / math.sqrt(len(bits)))
    protocol = {"likelihood": likelihood.kind, "standard_error": error, "reference": _split("held-out", len(bits))}
    return {"bits_per_dim": {"value": float(bits.mean()), "better": "lower"} | protocol}


def _split(name: str, count: int) -> str:
    return f"{name}, {count} images"


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return f"{min(value)}..{max(value)}"
    return f"{value:.4g}"
