"""Images come back from their codes exactly, and the codes are as long as the likelihood says."""

import jax.numpy as jnp
import numpy as np
import pytest
import untrained_runs
from launching import contents, launch

import jaxgen
from jaxgen.applications import bits_back, compression
from jaxgen.core import images as image_tools
from jaxgen.runs import codecs, compressing

MODELS = {
    "pixel_transformer": {"autoregressive.class_conditional": True, "sample.batch_size": 8},
    "vae": {
        "vae.class_conditional": True,
        "vae.likelihood": "logistic_mixture",
        "vae.sigma": 0.2,
        "vae.learn_sigma": True,
    },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    made = {name: untrained_runs.make(directory / name, f"{name}:tiny", **own) for name, own in MODELS.items()}
    return {name: jaxgen.open(path) for name, path in made.items()}


@pytest.fixture(scope="module", params=list(MODELS))
def run(request, runs):
    return runs[request.param]


@pytest.fixture(scope="module")
def drawn():
    """Images of the model's levels, most of whose pixels are dark."""
    rng = np.random.default_rng(0)
    images = np.where(rng.random((11, 8, 8, 1)) < 0.7, 0, rng.integers(0, 256, (11, 8, 8, 1))).astype(np.uint8)
    return images, rng.integers(0, 3, 11)


@pytest.fixture(scope="module")
def compressed(run, drawn):
    return compressing.compress(run, drawn[0], labels=drawn[1])


def test_images_and_classes_come_back_from_a_file(run, drawn, compressed, tmp_path):
    compressing.write(tmp_path / "some" / "file.jxg", compressed)
    assert (tmp_path / "some" / "file.jxg").stat().st_size == compressed.num_bytes
    reports = []
    images, labels = compressing.decompress(
        run, compressing.read(tmp_path / "some" / "file.jxg"), on_progress=lambda *report: reports.append(report)
    )
    np.testing.assert_array_equal(images, drawn[0])
    np.testing.assert_array_equal(labels, drawn[1])
    total = {"autoregressive.autoregressive": 64, "vae.vae": 11}[run.config.method]
    assert reports == [(i, total) for i in range(1, total + 1)]


def test_the_code_is_as_long_as_the_likelihood_says(run, drawn, compressed):
    bits = -run.log_prob(drawn[0], labels=drawn[1]).sum() / np.log(2)  # of a VAE, by other latents
    assert 0.99 * bits <= 8 * compressed.code.nbytes - compressed.initial_bits <= 1.01 * bits + 64
    np.testing.assert_allclose(compressed.bits, bits, rtol=0.01)
    assert (compressed.initial_bits > 0) == (run.model.latent_coding is not None)
    assert 11 * np.log2(4) <= 8 * compressed.labels.nbytes <= 11 * np.log2(4) + 64


def test_symbols_of_any_predictions_come_back_in_their_information():
    rng = np.random.default_rng(1)
    symbols = rng.integers(0, 5, (400, 6)) * (rng.random((400, 6)) < 0.3)
    share = np.array([0.76, 0.06, 0.06, 0.06, 0.06])

    def predict(known, position):
        same = known[:, position - 1, None] == np.arange(5) if position else np.zeros((len(known), 5))
        weights = share + same
        return np.log(weights / weights.sum(1, keepdims=True))

    code, bits, initial_bits = compression.encode(symbols, predict)
    np.testing.assert_array_equal(compression.decode(code, predict, count=400, length=6), symbols)
    nats = sum(predict(symbols, i)[np.arange(400), symbols[:, i]].sum() for i in range(6))
    np.testing.assert_allclose(bits, -nats / np.log(2), rtol=1e-6)
    assert initial_bits == 0
    assert bits <= 32 * len(code) <= 1.002 * bits + 64


def test_what_cannot_come_back_is_refused(run, drawn, compressed, tmp_path):
    images, labels = drawn
    with pytest.raises(ValueError, match="images are uint8 of shape"):
        compressing.compress(run, images[:, :4], labels=labels)
    with pytest.raises(ValueError, match="conditional: give labels"):
        compressing.compress(run, images)
    with pytest.raises(ValueError, match="compressed by another model"):
        compressing.decompress(run, compressed._replace(model=compressed.model ^ 1))
    with pytest.raises(ValueError, match="does not predict here what it did"):
        compressing.decompress(run, compressed._replace(predictions=compressed.predictions ^ 1))
    broken = compressed.code[::-1] ^ np.uint32(0x0F0F0F0F)
    flips = np.random.default_rng(6).integers(1, 1 << 32, (5, len(compressed.code)), np.uint32)
    codes = [broken, compressed.code[:-3], *(compressed.code ^ flip for flip in flips)]
    for damage in ({"images": compressed.images ^ 1}, *({"code": code} for code in codes)):
        with pytest.raises(ValueError, match="do not come back as they were"):
            compressing.decompress(run, compressed._replace(**damage))
    (tmp_path / "short.jxg").write_bytes(b"jxg1 and more")
    for name, words in (("short.jxg", "no whole file"), ("none.jxg", "cannot be read")):
        with pytest.raises(ValueError, match=words):
            compressing.read(tmp_path / name)
    compressing.write(tmp_path / "file.jxg", compressed)
    with pytest.raises(ValueError, match="is there already"):
        compressing.write(tmp_path / "file.jxg", compressed)
    for at, number in ((4, 0), (20, len(compressed.labels) + len(compressed.code) + 1)):  # of images, and of words
        content = bytearray((tmp_path / "file.jxg").read_bytes())
        content[at : at + 4] = number.to_bytes(4, "little")
        (tmp_path / "damaged.jxg").write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.jxg is damaged: it says that it holds"):
            compressing.read(tmp_path / "damaged.jxg")


def test_the_commands_refuse_other_files_before_they_begin(runs, tmp_path):
    here = f"--workdir={runs['vae'].directory}"
    np.save(tmp_path / "array.npy", np.zeros((2, 8, 8, 1), np.uint8))
    for name, content in (("empty.npz", b""), ("zip.npz", b"PK\3\4 and more"), ("text.npz", b"text"), ("file", b"")):
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "other.npz", labels=np.zeros(2))
    before = contents(tmp_path)
    for name in ("array.npy", "empty.npz", "zip.npz", "text.npz", "other.npz", "none.npz"):
        done = launch("compress", here, f"--input={tmp_path / name}", f"--output={tmp_path}/x.jxg")
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert f"{tmp_path / name} is no .npz with an array `images`, such as sample writes: " in done.err
    for command, output, sentence in (
        ("compress", "file/x.jxg", "file cannot be written (Not a directory): choose another --output."),
        ("decompress", "file/new/x.npz", "file cannot be written (Not a directory): choose another --output."),
        ("decompress", "x.jxg", "x.jxg, but what decompress writes is a file that ends in .npz."),
    ):
        done = launch(command, here, f"--input={tmp_path}/none", f"--output={tmp_path / output}")
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert sentence in done.err
    assert contents(tmp_path) == before


def test_an_unknown_class_is_stored_beside_the_classes(runs, drawn, monkeypatch):
    run, label, told = runs["vae"], np.array([3, 0, 3], np.int32), []
    raw = codecs.Codec(
        256,
        lambda symbols, on_done: compression.Coded(symbols.astype(np.uint32).ravel(), 0.0, 0),
        lambda words, count, on_done: words.reshape(count, 64, 1).astype(int),
        lambda count: count,
    )

    def raw_codec_of(run, label):
        told.append(label.tolist())
        return raw

    monkeypatch.setattr(compressing, "codec_of", raw_codec_of)
    monkeypatch.setattr(type(run), "checked", lambda self, images, labels: (images, label))
    images, labels = compressing.decompress(run, compressing.compress(run, drawn[0][:3]))
    np.testing.assert_array_equal(images, drawn[0][:3])
    assert [labels.tolist(), *told] == [[3, 0, 3]] * 3


def test_every_prediction_that_rounds_otherwise_is_noticed(runs, drawn, monkeypatch):
    run = runs["vae"]
    own = codecs._predictions(run, run.model.latent_coding, drawn[1])

    def up(x):
        return np.nextafter(x, np.float32(np.inf))

    def probe(**changed):
        monkeypatch.setattr(codecs, "_predictions", lambda *_: own._replace(**changed))
        return codecs.codec_of(run, drawn[1]).probe(11)

    def raised(mean=lambda x: x, deviation=lambda x: x):
        def posterior(i, symbols, latents):
            found = own.posterior(i, symbols, latents)
            return mean(found[0]), deviation(found[1])

        return posterior

    sums = [
        probe(),
        probe(likelihood=lambda *at: up(own.likelihood(*at))),
        probe(posterior=raised(mean=up)),
        probe(posterior=raised(deviation=up)),
    ]
    medians = bits_back.MEDIANS.copy()
    medians[1] = up(medians[1])
    monkeypatch.setattr(bits_back, "MEDIANS", medians)
    assert len({*sums, probe()}) == 5


def test_a_probe_is_of_the_last_element_that_sees_all_others(runs, drawn, monkeypatch):
    run = runs["pixel_transformer"]
    own, plain = run.model.level_log_probs, codecs.codec_of(run, drawn[1]).probe(11)

    def raised(variables, images, position, cond):
        found = own(variables, images, position, cond)
        return jnp.where(position == 63, found * (1.0 + 1e-6), found)

    monkeypatch.setattr(type(run), "model", run.model._replace(level_log_probs=raised))
    assert codecs.codec_of(run, drawn[1]).probe(11) != plain


def test_pixels_between_levels_are_refused(drawn, tmp_path):
    few = image_tools.to_levels(np.float32(drawn[0] / 127.5 - 1), 17)
    run = jaxgen.open(
        untrained_runs.make(tmp_path / "vae", "vae:tiny", **{"vae.levels": 17, "vae.class_conditional": False})
    )
    with pytest.raises(ValueError, match="between the model's 17 levels"):
        compressing.compress(run, drawn[0])
    images, labels = compressing.decompress(run, compressing.compress(run, few))
    np.testing.assert_array_equal(images, few)
    assert labels is None


def test_the_commands_compress_and_bring_back(run, drawn, tmp_path):
    np.savez(tmp_path / "in.npz", images=drawn[0], labels=drawn[1])
    file, output = tmp_path / "file.jxg", tmp_path / "out.npz"
    done = launch("compress", f"--workdir={run.directory}", f"--input={tmp_path / 'in.npz'}", f"--output={file}")
    assert done.code == 0, done.err
    assert f"11 images in {file.stat().st_size} bytes: {8 * file.stat().st_size / 704:.4f} bits" in done.out
    bits = -run.log_prob(drawn[0], labels=drawn[1]).sum() / np.log(2) / 704
    assert f"the model's log-likelihood {bits:.4f}." in done.out
    assert ("to draw the first latents by" in done.out) == (run.model.latent_coding is not None)
    done = launch("decompress", f"--workdir={run.directory}", f"--input={file}", f"--output={output}")
    assert done.code == 0, done.err
    with np.load(output) as arrays:
        np.testing.assert_array_equal(arrays["images"], drawn[0])
        np.testing.assert_array_equal(arrays["labels"], drawn[1])
    again = launch("decompress", f"--workdir={run.directory}", f"--input={file}", f"--output={output}")
    assert again.code != 0
    assert "is there already" in again.err


def test_a_model_without_a_coder_is_refused(tmp_path):
    for name, settings in {
        "dcgan": {},
        "vae": {"vae.class_conditional": False, "vae.prior": "vamp(components=2)"},
    }.items():
        directory = untrained_runs.make(tmp_path / name, f"{name}:tiny", **settings)
        done = launch("compress", f"--workdir={directory}", f"--output={tmp_path / 'file.jxg'}")
        assert done.code != 0
        assert "Compression needs a model with level_log_probs" in done.err
