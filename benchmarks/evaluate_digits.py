"""Evaluates samples of the built-in digits with NumPy and scikit-learn only, independently of the library.

    python benchmarks/evaluate_digits.py SAMPLES.npz [MORE.npz ...] [--json]

Each file holds `images`, uint8 [N, 8, 8, 1], and, for class-conditional models, `labels`, int [N]. Two rows say what
real digits score: the held-out split, and a random 1,000 of all digits. All figures depend on N, which is
1,000 in docs/results.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

HELD_OUT = 360
K = 3

COLUMNS = {
    "samples": "N",
    "frechet": "Fréchet",
    "class_agreement": "classes agree",
    "recall": "recall",
    "precision": "precision",
    "distance_ratio": "distance ratio",
    "classes_seen": "classes seen",
}

LEGEND = f"""
Fréchet: distance of Gaussians in raw pixels ([0, 1], 64-d) to all 1,797 real digits; lower is better.
classes agree: with the labels asked for, by a support-vector classifier trained on all real digits ({{accuracy:.1%}}
  right on the {HELD_OUT} held-out digits when it is trained on the other 1,437).
recall, precision: against all real digits in raw pixels, k = {K} (Kynkäänniemi et al. 2019); rows of real digits are
  contained in the reference, which flatters their precision.
distance ratio: median distance to the nearest of the 1,437 training digits, over that of held-out digits
  ({{distance:.3f}}); about 1 for new digits, 0 for copies.
classes seen: how many of the 10 the classifier finds among the samples."""


class Digits(NamedTuple):
    """All real digits as rows of 64 pixels in [0, 1], and the indices of the two splits."""

    pixels: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    held_out: np.ndarray


class Reference(NamedTuple):
    """The reference of all figures: the real digits, and the classifier and distances that are computed from them."""

    digits: Digits
    classifier: SVC
    classifier_accuracy: float
    radii: np.ndarray
    held_out_distance: float


def load() -> Digits:
    """Loads the digits, rounded to the levels of uint8 images, with a stratified split."""
    values, labels = load_digits(return_X_y=True)
    pixels = np.round(values * 255 / 16) / 255
    train, held_out = train_test_split(np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=0)
    return Digits(pixels, labels, train, held_out)


def make_reference(digits: Digits) -> Reference:
    """Trains the classifier, twice: on the train split to learn its accuracy, then on all digits."""
    pixels, labels, train, held_out = digits
    accuracy = _classifier().fit(pixels[train], labels[train]).score(pixels[held_out], labels[held_out])
    distance = float(np.median(_nearest(pixels[held_out], pixels[train])))
    return Reference(digits, _classifier().fit(pixels, labels), accuracy, _radii(pixels), distance)


def evaluate_samples(reference: Reference, pixels: np.ndarray, labels: np.ndarray | None) -> dict[str, Any]:
    """Returns all figures of one set of samples."""
    real = reference.digits.pixels
    distances = pairwise_distances(pixels, real)
    predicted = reference.classifier.predict(pixels)
    nearest = np.median(_nearest(pixels, real[reference.digits.train]))
    return {
        "samples": len(pixels),
        "frechet": _frechet(pixels, real),
        "class_agreement": None if labels is None else float(np.mean(predicted == labels)),
        "recall": float(np.mean((distances <= _radii(pixels)[:, None]).any(axis=0))),
        "precision": float(np.mean((distances <= reference.radii).any(axis=1))),
        "distance_ratio": float(nearest / reference.held_out_distance),
        "classes_seen": len(np.unique(predicted)),
    }


def read_samples(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads rows of pixels in [0, 1], and labels if there are any.

    Raises:
      ValueError: if the file does not hold uint8 images of 8x8x1.
    """
    with np.load(path) as file:
        if "images" not in file or file["images"].dtype != np.uint8 or file["images"].shape[1:] != (8, 8, 1):
            raise ValueError(f"{path} must hold `images`, uint8 of shape [N, 8, 8, 1].")
        return file["images"].reshape(-1, 64) / 255, file.get("labels")


def real_rows(digits: Digits) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns sets of real digits, to be evaluated like samples."""
    chosen = np.random.default_rng(0).choice(len(digits.pixels), 1000, replace=False)
    rows = {"held-out digits": digits.held_out, "1,000 real digits": chosen}
    return {name: (digits.pixels[index], digits.labels[index]) for name, index in rows.items()}


def print_table(rows: dict[str, dict[str, Any]], reference: Reference) -> None:
    """Prints one line for each set of samples, and a legend of the columns."""
    width = max(map(len, rows))
    print(" " * width, *COLUMNS.values(), sep="  ")
    for name, figures in rows.items():
        cells = (f"{_short(figures[key]):>{len(title)}}" for key, title in COLUMNS.items())
        print(f"{name:<{width}}", *cells, sep="  ")
    print(LEGEND.format(accuracy=reference.classifier_accuracy, distance=reference.held_out_distance))


def main() -> None:
    """Evaluates the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="SAMPLES.npz")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    reference = make_reference(load())
    try:
        sets = real_rows(reference.digits) | {str(path): read_samples(path) for path in arguments.files}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    rows = {name: evaluate_samples(reference, pixels, labels) for name, (pixels, labels) in sets.items()}
    if arguments.json:
        print(json.dumps({"classifier_accuracy": reference.classifier_accuracy, "figures": rows}, indent=2))
    else:
        print_table(rows, reference)


def _classifier() -> SVC:
    return SVC(kernel="rbf", C=10.0, gamma=0.1)


def _nearest(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    return pairwise_distances(queries, references).min(axis=1)


def _radii(rows: np.ndarray) -> np.ndarray:
    """Distance of each row to its K-th nearest other row; the nearest of all is the row itself."""
    return np.partition(pairwise_distances(rows), K, axis=1)[:, K]


def _frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared 2-Wasserstein distance of the Gaussians fitted to two sets of rows (Heusel et al. 2017, eq. 6)."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    overlap = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b) - 2 * overlap)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
