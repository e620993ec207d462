"""Evaluation in batches gives the figures of whole arrays, and keeps what depends on the data alone."""

import shutil
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen
from jaxgen.core import images, keys, subsets
from jaxgen.core.progress import unseen
from jaxgen.data import Dataset, pipeline, read_arrays
from jaxgen.data.dataset import FaultyExampleError, label_of
from jaxgen.data.sources import latents
from jaxgen.evaluation import features
from jaxgen.evaluation.cache import Cache
from jaxgen.evaluation.features import ClassifierSettings
from jaxgen.evaluation.reference import SPACES
from jaxgen.evaluation.report import EvaluationSettings
from jaxgen.parallel import sampling
from jaxgen.parallel.mesh import make_mesh
from jaxgen.runs import evaluation, evaluation_checks, evaluation_features
from jaxgen.runs import experiment as experiments
from jaxgen.runs.config_files import with_settings
from jaxgen.runs.evaluation_features import RealImages, read_reference
from jaxgen.training import workdir

pytestmark = pytest.mark.xdist_group("runs")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of evaluations."""
    monkeypatch.setenv("JAXGEN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluation"


@pytest.fixture
def seen(monkeypatch):
    """The splits that are read, and the classifiers that are trained."""
    seen = []
    read, train = pipeline.read_batches, features.TrainingImages.train

    def read_batches(dataset, **options):
        seen.append(len(dataset.examples))
        return read(dataset, **options)

    monkeypatch.setattr(evaluation_features, "read_batches", read_batches)
    monkeypatch.setattr(features.TrainingImages, "train", lambda self: seen.append("trained") or train(self))
    return seen


def evaluate(run, **options):
    return jaxgen.evaluate(run, num_samples=16, num_likelihood=20, **options)


def test_figures_are_those_of_whole_arrays_whatever_the_batches(run, cache, monkeypatch):
    figures = evaluate(run)
    shutil.rmtree(cache)
    monkeypatch.setattr(pipeline, "_CHUNK", 7)
    assert evaluate(run) == figures
    held_out, mesh = read_arrays(run.data("test")), run.experiment.runner.mesh
    rows = {"image": held_out["image"], "label": held_out["label"]}
    for fn, chosen in (
        (sampling.reconstruction(run.model), np.arange(360)),
        (sampling.likelihood(run.model), np.sort(subsets.draw(360, 20))),
    ):
        some = {key: array[chosen] for key, array in rows.items()}
        row_keys = keys.per_example(sampling.stream_of(fn), jnp.arange(len(chosen)))
        batches = sampling.map_batches(fn, mesh, row_keys, run.variables, some, batch_size=run.batch_size)
        results = np.concatenate(list(batches)).astype(np.float64)
        if results.ndim == 1:
            assert figures["bits_per_dim"]["value"] == pytest.approx(-results.mean() / np.log(2) / 64)
        else:
            errors = (images.to_levels(results.astype(np.float32), 17).astype(np.float64) - some["image"]) / 255
            assert figures["reconstruction_mse"]["value"] == float(np.mean(errors**2))  # to the last bit


def test_a_second_evaluation_reads_only_what_the_run_is_measured_on(run, cache, seen, tmp_path, monkeypatch):
    reports = []
    first = evaluate(run, on_progress=lambda *report: reports.append(report))
    assert seen == [1437, "trained", 360]
    assert {path.name.split("-")[0] for path in cache.iterdir()} == {"pixels", "classifier"}
    names = list(dict.fromkeys(name for name, _, _ in reports))
    assert names[:4] == [
        "drawing samples",
        "reading training images",
        "training the classifier",
        "reading held-out images",
    ]
    for name in names:
        steps = [(done, total) for of, done, total in reports if of == name]
        assert steps[0][0] == 0
        assert steps[-1][0] == steps[-1][1] > 0
    seen.clear()
    assert evaluate(run) == first
    assert seen == [360]  # reconstructed and scored
    seen.clear()
    copied = shutil.copytree(run.directory, tmp_path / "other")
    other = evaluate(jaxgen.open(copied, step=2))
    assert seen == [360]  # another run on the same data
    assert other["frechet_pixels"]["held_out"]["value"] == first["frechet_pixels"]["held_out"]["value"]
    assert other["bits_per_dim"]["value"] != first["bits_per_dim"]["value"]
    seen.clear()
    monkeypatch.setattr(evaluation_features, "_VERSION", 2)
    assert evaluate(run) == first
    assert seen == [1437, "trained", 360]


def test_other_data_than_those_of_training_are_named(run, cache, tmp_path):
    copied, said = shutil.copytree(run.directory, tmp_path / "other"), []
    other = jaxgen.open(copied)
    evaluate(other, say=said.append)
    assert said == []
    workdir.save_spec(copied, run.spec, run.data("train")._replace(fingerprint="another"))
    evaluate(other, say=said.append)
    change = "1,437 examples, but not the same ones"
    assert said == [
        f"The data are not those that the run was trained on ({change}): it is compared with those that are here."
    ]


def test_what_is_damaged_is_computed_again(run, cache, seen, caplog):
    first = evaluate(run)
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    seen.clear()
    assert evaluate(run) == first
    assert seen == [1437, "trained", 360]
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("change", ["pixel", "label", "fingerprint", "source", "settings", "none"])
def test_features_of_other_data_or_protocols_are_not_taken(run, cache, change):
    """`none`: data without a fingerprint."""
    settings = run.settings
    data = {split: run.data(split) for split in ("train", "test")}
    options = {"given": settings, "evaluate": settings.evaluate, "network": None, "say": print}
    prefixes = [
        {space: cache._prefix for space, cache in evaluation_features.open_caches(*data.values(), **options).items()}
    ]

    class Changed:
        def __len__(self):
            return 1437

        def __getitems__(self, indices):
            examples = [dict(example) for example in data["train"].examples.__getitems__(indices)]
            if change == "pixel":
                examples[0]["image"] = examples[0]["image"] ^ np.uint8(1)
            elif change == "label":
                examples[0]["label"] = (examples[0]["label"] + 1) % 10
            return examples

    train = data["train"]._replace(examples=Changed())
    if change in ("fingerprint", "none"):
        train = train._replace(fingerprint="other" if change == "fingerprint" else None)
    elif change == "source":
        options["given"] = settings._replace(data=settings.data._replace(source={"crop": "none"}))
    elif change == "settings":
        options["evaluate"] = settings.evaluate._replace(max_pixel_features=7)
    caches = evaluation_features.open_caches(train, data["test"], **options)
    same = {space for space in SPACES if caches[space]._prefix == prefixes[0][space]}
    assert same == ({"classifier", "inception"} if change == "settings" else set())
    caches["pixels"].store("train", {"a": np.zeros(1)})
    assert cache.exists() == (change != "none")


def test_the_place_of_the_data_is_no_matter(run, cache):
    settings, data = run.settings, [run.data(split) for split in ("train", "test")]

    def prefixes(**source):
        given = settings._replace(data=settings.data._replace(source=source))
        caches = evaluation_features.open_caches(
            *data, given=given, evaluate=settings.evaluate, network=None, say=print
        )
        return [cache._prefix for cache in caches.values()]

    assert prefixes(data_dir="/here", path="a") == prefixes(data_dir="/there", path="b") == prefixes()


class Pictures:
    """Large pictures, each made when it is read."""

    def __init__(self, length, side):
        self.length, self.side = length, side

    def __len__(self):
        return self.length

    def __getitems__(self, indices):
        rows = np.arange(self.side, dtype=np.uint8)[:, None, None]
        return [
            {
                "image": np.broadcast_to(rows + np.uint8(i % 256), (self.side, self.side, 3)).copy(),
                "label": np.int32(i % 2),
            }
            for i in indices
        ]


def peak_bytes(num_train, side):
    """The most memory that reading the reference takes."""
    train, held_out = (
        Dataset(Pictures(length, side), (side, side, 3), label_of(2)) for length in (num_train, num_train // 2)
    )
    classifier = ClassifierSettings(width=2, num_features=2, max_side=4, training_steps=2, batch_size=4)
    settings = EvaluationSettings(max_pixel_features=48, classifier=classifier)
    caches = {space: Cache(None, space) for space in SPACES}
    data = RealImages(train, held_out, settings, None, make_mesh(1), caches)
    tracemalloc.start()
    reference, _ = read_reference(data, [], on_progress=unseen)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reference.train.pixels.shape == (num_train, 48)
    return peak


def test_the_memory_is_that_of_some_batches_whatever_the_number_and_size_of_images(monkeypatch):
    monkeypatch.setattr(pipeline, "_CHUNK_BYTES", 2**19)
    monkeypatch.setattr(features, "_fit", lambda *arguments: {})  # compiling takes long while memory is traced
    monkeypatch.setattr(features, "_apply", lambda *arguments: (np.zeros((256, 2)), np.zeros((256, 2))))
    limit = 10 * 2**20  # some batches
    assert peak_bytes(250, 128) < limit  # of 18 MiB
    assert peak_bytes(100, 256) < limit  # of 28 MiB


def test_a_cache_that_cannot_be_written_is_said_once_for_all_features(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv("JAXGEN_CACHE_DIR", str(tmp_path / "file"))
    said = []
    data = [run.data(split) for split in ("train", "test")]
    caches = evaluation_features.open_caches(
        *data, given=run.settings, evaluate=run.settings.evaluate, network=None, say=said.append
    )
    for space in SPACES:
        caches[space].store("train", {"a": np.zeros(1)})
    (sentence,) = said
    assert "set JAXGEN_CACHE_DIR to a directory that can" in sentence


def test_images_of_another_program_are_evaluated_like_samples(run, cache, monkeypatch):
    """The figures of samples that are handed over are those that the run's own evaluation gives the same samples."""
    seeded = EvaluationSettings()._replace(seed=3)
    monkeypatch.setattr(EvaluationSettings.__new__, "__defaults__", tuple(seeded))
    figures = evaluate(run)
    labels = run.labels(16, evaluation.sample_labels(run.spec, 16))
    drawn = run.sample(16, seed=3, label=labels)
    handed = jaxgen.evaluate_images(run.config, drawn, labels)
    of_the_run = {"reconstruction_mse", "reconstruction_psnr", "bits_per_dim"}
    assert handed == {name: figure for name, figure in figures.items() if name not in of_the_run}
    reports = []
    without = jaxgen.evaluate_images(run.config, drawn, on_progress=lambda *report: reports.append(report))
    assert {name for name, _, _ in reports} >= {"computing figures"}
    assert without["class_histogram"]["classes"] == [str(number) for number in range(10)]
    assert "class_accuracy" in handed
    assert "classes_covered" in without
    assert without["frechet_pixels"] == handed["frechet_pixels"]


@pytest.mark.parametrize(
    ("images_of", "labels_of", "wrong"),
    [
        (
            lambda x: x[:, :4],
            None,
            r"uint8 of shape \(16, 4, 8, 1\), but those of the data are uint8",
        ),
        (lambda x: x / 255, None, "images are float64"),
        (lambda x: x, lambda y: y[:3], r"int64 of shape \(3,\), but must be a whole number from 0 to 9"),
        (lambda x: x, lambda y: y + 1.0, "labels are float64"),
        (lambda x: x, lambda y: y + 1, "from 0 to 9"),
        (lambda x: x, lambda y: y - 1, "from 0 to 9"),
        (lambda x: x[:0], None, r"evaluate\.num_samples is 0, but must be above evaluate\.k, 3"),
    ],
)
def test_images_that_do_not_fit_the_data_are_refused(run, images_of, labels_of, wrong):
    given, labels = np.zeros((16, 8, 8, 1), np.uint8), np.arange(16) % 10
    with pytest.raises(ValueError, match=wrong):
        jaxgen.evaluate_images(run.config, images_of(given), None if labels_of is None else labels_of(labels))


def test_images_cannot_be_compared_with_latents(run, tmp_path):
    for split in ("train", "test"):
        latents.save_values(
            tmp_path / split, [np.zeros((4, 8, 8, 1))], count=4, latent_shape=(8, 8, 1), dtype="float32"
        )
    pixels = Dataset([], (8, 8, 1))
    latents.save_facts(tmp_path, pixels, latent_shape=(8, 8, 1), num_examples={"train": 4, "test": 4}, step=7)
    config = with_settings(run.config, {"data.name": "latents", "data.path": str(tmp_path)})
    with pytest.raises(
        ValueError, match=r"^The config names latents, data\.name='latents', .* give a config of images"
    ):
        jaxgen.evaluate_images(config, np.zeros((4, 8, 8, 1), np.uint8))


def test_an_evaluation_that_cannot_be_had_is_refused_before_images_are_drawn(run, tmp_path, monkeypatch):
    def no_samples(*args, **options):
        raise AssertionError("images were drawn")

    monkeypatch.setattr(sampling, "draw_batches", no_samples)
    with pytest.raises(ValueError, match=r"evaluate\.num_samples is 0, but must be above evaluate\.k, 3"):
        jaxgen.evaluate(run, num_samples=0)
    some = np.zeros((16, 8, 8, 1), np.uint8)
    with pytest.raises(ValueError, match=f"{tmp_path}, which holds no Inception network"):
        jaxgen.evaluate_images(with_settings(run.config, {"evaluate.inception": str(tmp_path)}), some)
    monkeypatch.setattr(evaluation_checks, "available_bytes", lambda: 0)
    for refused in (lambda: evaluate(run), lambda: jaxgen.evaluate_images(run.config, some)):
        with pytest.raises(ValueError, match=r"^The evaluation needs about \d+\.\d GiB of memory"):
            refused()


def test_labels_of_data_without_classes_are_refused():
    data = Dataset(Pictures(4, 8), (8, 8, 3))
    given = np.zeros((4, 8, 8, 3), np.uint8)
    evaluation._check_images(data, given, None)
    with pytest.raises(ValueError, match=r"^The images have labels, but the data has no classes: give no labels\.$"):
        evaluation._check_images(data, given, np.zeros(4, np.int32))


class Torn:
    """Examples of which one cannot be read."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitems__(self, indices):
        if 5 in indices:
            raise FaultyExampleError("Example 5", "is torn")
        return self.examples.__getitems__(indices)


def test_faulty_examples_that_are_skipped_are_said_and_counted(run, cache, tmp_path, monkeypatch):
    load, said = experiments.load, []

    def torn(name, split, **source):
        data = load(name, split, **source)
        return data._replace(examples=Torn(data.examples)) if split == "test" else data

    monkeypatch.setattr(experiments, "load", torn)
    skipping, count = {"data.on_fault": "skip"}, "Faulty examples of the test split, skipped: 1"
    some = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1)).astype(np.uint8)
    jaxgen.evaluate_images(with_settings(run.config, skipping), some, say=said.append)
    assert said == ["Skipped: Example 5 is torn.", f"{count}."]
    said.clear()
    shutil.rmtree(cache)
    monkeypatch.setattr(sampling, "draw_batches", lambda *args, **options: iter([some]))
    for consumer in ("_reconstruction", "_scoring"):  # the features alone are read
        monkeypatch.setattr(evaluation, consumer, lambda *args: None)
    copied = shutil.copytree(run.directory, tmp_path / "other")
    evaluate(jaxgen.open(copied, **skipping), say=said.append)
    assert said == ["Skipped: Example 5 is torn.", f"{count} (named in {copied}/data_faults.jsonl)."]
