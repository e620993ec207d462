"""MAR with weights under official names against a NumPy forward pass of the official layers, which drops tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from torch_files import Build, Global, Reduce, of_arrays, write_zip

from jaxgen.core import keys, trees
from jaxgen.interop import state_dict
from jaxgen.interop.files import read_state_dict
from jaxgen.interop.format import Target
from jaxgen.interop.formats.mar import FORMAT
from jaxgen.nn.masked_autoencoder import MaskedAutoencoder
from jaxgen.nn.token_denoiser import TokenDenoiser

WIDTH, HEADS, DEPTH, BUFFER, TOKENS, DIM, CLASSES = 12, 3, 2, 3, 5, 2, 4
MLP_WIDTH, MLP_DEPTH = 8, 2
NETWORK = MaskedAutoencoder(CLASSES, BUFFER, WIDTH, DEPTH, HEADS, mlp_ratio=2.0)
DENOISER = TokenDenoiser(2 * DIM, MLP_WIDTH, MLP_DEPTH)
TARGET = Target("autoregressive.masked_diffusion", None, {})


def official_shapes() -> dict[str, tuple[int, ...]]:
    """The shapes of the official state dict, in PyTorch's layout."""
    positions = (1, TOKENS + BUFFER, WIDTH)
    shapes = {"class_emb.weight": (CLASSES, WIDTH), "fake_latent": (1, WIDTH), "mask_token": (1, 1, WIDTH)}
    shapes |= {"encoder_pos_embed_learned": positions, "decoder_pos_embed_learned": positions}
    shapes["diffusion_pos_embed_learned"] = (1, TOKENS, WIDTH)
    linear = {"z_proj": (WIDTH, DIM), "decoder_embed": (WIDTH, WIDTH)}
    norms = {"z_proj_ln": WIDTH, "encoder_norm": WIDTH, "decoder_norm": WIDTH}
    for block in (f"{part}_blocks.{i}." for part in ("encoder", "decoder") for i in range(DEPTH)):
        linear |= {f"{block}attn.qkv": (3 * WIDTH, WIDTH), f"{block}attn.proj": (WIDTH, WIDTH)}
        linear |= {f"{block}mlp.fc1": (2 * WIDTH, WIDTH), f"{block}mlp.fc2": (WIDTH, 2 * WIDTH)}
        norms |= {f"{block}norm1": WIDTH, f"{block}norm2": WIDTH}
    net, w = "diffloss.net.", MLP_WIDTH
    linear |= {f"{net}time_embed.mlp.0": (w, 256), f"{net}time_embed.mlp.2": (w, w), f"{net}cond_embed": (w, WIDTH)}
    linear |= {f"{net}input_proj": (w, DIM), f"{net}final_layer.linear": (2 * DIM, w)}
    linear[f"{net}final_layer.adaLN_modulation.1"] = (2 * w, w)
    for block in (f"{net}res_blocks.{i}." for i in range(MLP_DEPTH)):
        linear |= {f"{block}mlp.0": (w, w), f"{block}mlp.2": (w, w), f"{block}adaLN_modulation.1": (3 * w, w)}
        norms[f"{block}in_ln"] = w
    shapes |= {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    return shapes | {f"{name}.{kind}": (size,) for name, size in norms.items() for kind in ("weight", "bias")}


@pytest.fixture(scope="module")
def official():
    rng = np.random.default_rng(0)
    return {name: rng.normal(0.0, 0.4, shape).astype(np.float32) for name, shape in official_shapes().items()}


def params_of(weights):
    tokens, mask = jnp.zeros((1, TOKENS, DIM)), jnp.ones((1, TOKENS), bool)
    targets = {
        "params/network": jax.eval_shape(lambda: NETWORK.init(keys.root_key(0), tokens, mask, train=False)),
        "params/denoiser": jax.eval_shape(
            lambda: DENOISER.init(keys.root_key(0), tokens[0], jnp.zeros(TOKENS), jnp.zeros((TOKENS, WIDTH)))
        ),
    }
    return {
        part.place: state_dict.to_params(weights, targets[part.place]["params"], part.official, ignore=part.ignored)
        for part in FORMAT.parts(TARGET, weights)
    }


class Official:
    """The official layers on float64 arrays; one image at a time, so that masked tokens can be left out."""

    def __init__(self, weights):
        self.weights = {name: np.float64(value) for name, value in weights.items()}

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"] if name else x

    def block(self, name, x):
        qkv = self.linear(f"{name}.attn.qkv", self.norm(f"{name}.norm1", x))
        q, k, v = qkv.reshape(len(x), 3, HEADS, -1).transpose(1, 2, 0, 3)
        weights = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        x = x + self.linear(f"{name}.attn.proj", mixed.swapaxes(0, 1).reshape(len(x), -1))
        h = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", x))
        return x + self.linear(f"{name}.mlp.fc2", 0.5 * h * (1.0 + erf(h / np.sqrt(2.0))))

    def blocks(self, part, x):
        for i in range(DEPTH):
            x = self.block(f"{part}_blocks.{i}", x)
        return self.norm(f"{part}_norm", x)

    def vectors(self, tokens, mask, label):
        w = self.weights
        of_class = w["fake_latent"][0] if label is None else w["class_emb.weight"][label]
        x = np.concatenate([np.tile(of_class, (BUFFER, 1)), self.linear("z_proj", tokens)])
        x = self.norm("z_proj_ln", x + w["encoder_pos_embed_learned"][0])
        whole_mask = np.concatenate([np.zeros(BUFFER, bool), mask])
        x = self.linear("decoder_embed", self.blocks("encoder", x[~whole_mask]))
        padded = np.tile(w["mask_token"][0], (BUFFER + TOKENS, 1))
        padded[~whole_mask] = x
        x = self.blocks("decoder", padded + w["decoder_pos_embed_learned"][0])
        return x[BUFFER:] + w["diffusion_pos_embed_learned"][0]

    def denoise(self, x, t, z):
        net = "diffloss.net."
        angles = t[:, None] * np.exp(-np.log(10_000.0) * np.arange(128) / 128)
        emb = self.linear(f"{net}time_embed.mlp.0", np.concatenate([np.cos(angles), np.sin(angles)], axis=1))
        y = self.linear(f"{net}time_embed.mlp.2", silu(emb)) + self.linear(f"{net}cond_embed", z)
        h = self.linear(f"{net}input_proj", x)
        for i in range(MLP_DEPTH):
            block = f"{net}res_blocks.{i}."
            shift, scale, gate = np.split(self.linear(f"{block}adaLN_modulation.1", silu(y)), 3, axis=1)
            inner = self.linear(f"{block}mlp.0", self.norm(f"{block}in_ln", h) * (1.0 + scale) + shift)
            h = h + gate * self.linear(f"{block}mlp.2", silu(inner))
        shift, scale = np.split(self.linear(f"{net}final_layer.adaLN_modulation.1", silu(y)), 2, axis=1)
        return self.linear(f"{net}final_layer.linear", self.norm("", h) * (1.0 + scale) + shift)


def silu(x):
    return x / (1.0 + np.exp(-x))


def test_outputs_are_those_of_the_official_layers(official):
    rng = np.random.default_rng(1)
    tokens, label = rng.normal(size=(4, TOKENS, DIM)), np.array([2, 0, CLASSES, 3])
    mask = np.array([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [1, 1, 0, 1, 1]], bool)
    t, noisy = np.array([0.0, 7.0, 420.0, 999.0]), rng.normal(size=(4, DIM))

    @jax.jit
    def compute(params, tokens, mask, label, t, noisy):
        def vectors(label, max_visible):
            given = {"params": params["params/network"]}
            return NETWORK.apply(given, tokens, mask, label, max_visible=max_visible, train=False)

        whole, short, null = vectors(label, None), vectors(label, 2), vectors(None, 3)
        return whole, short, null, DENOISER.apply({"params": params["params/denoiser"]}, noisy, t, whole[:, 1])

    whole, short, null, denoised = map(np.asarray, compute(params_of(official), tokens, mask, label, t, noisy))
    by_hand = Official(official)
    classes = [None if own == CLASSES else own for own in label]
    expected = np.stack([by_hand.vectors(*own) for own in zip(tokens, mask, classes, strict=True)])
    expected_null = np.stack([by_hand.vectors(*own, None) for own in zip(tokens, mask, strict=True)])
    for found, wanted in ((whole, expected), (short, expected), (null, expected_null)):
        assert np.abs(found - wanted).max() <= 2e-4 * wanted.std()
    wanted = by_hand.denoise(noisy, t, expected[:, 1])
    assert denoised.dtype == np.float32
    assert np.abs(denoised - wanted).max() <= 2e-4 * wanted.std()


def test_every_entry_is_taken_once_and_comes_back(official):
    """From official names to ours and back: no entry is left over, and none is used for two parameters."""
    params = params_of(official)
    back = {}
    for part in FORMAT.parts(TARGET, official):
        for name, leaf in trees.named_leaves(params[part.place]).items():
            source = part.official(name)
            entries = (source,) if isinstance(source, str) else source.name
            arrays = np.split(np.asarray(leaf), [CLASSES]) if len(entries) == 2 else [np.asarray(leaf)]
            for entry, array in zip(entries, arrays, strict=True):
                assert entry not in back
                rows = array.reshape(len(array), -1).T if name.endswith("kernel") else array
                back[entry] = rows.reshape(official[entry].shape)
    assert back.keys() == official.keys()
    for entry, array in back.items():
        np.testing.assert_array_equal(array, official[entry], err_msg=entry)


def test_what_does_not_fit_is_named(official):
    missing = {name: value for name, value in official.items() if name != "fake_latent"}
    with pytest.raises(ValueError, match=r"fake_latent is missing \(our label/embedding"):
        params_of(missing)
    with pytest.raises(ValueError, match=r"diffloss\.net\.odd .* is unknown"):
        params_of({**official, "diffloss.net.odd": np.zeros(2)})
    with pytest.raises(ValueError, match=r"odd .* is unknown"):
        params_of({**official, "odd": np.zeros(2)})


def test_averages_are_an_entry_of_the_official_checkpoint(official, tmp_path):
    tree, storages = of_arrays({name: 2.0 * value for name, value in official.items()})
    other, _ = of_arrays(official)
    settings = Build(Reduce(Global("argparse", "Namespace"), ()), {"model": "mar_base"})
    checkpoint = {"model": other, "model_ema": tree, "optimizer": {"lr": 1}, "epoch": 3, "args": settings}
    path = write_zip(tmp_path / "checkpoint-last.pth", checkpoint, storages)
    params = params_of(read_state_dict(path, entry="model_ema"))
    np.testing.assert_array_equal(params["params/network"]["mask_token"], 2.0 * official["mask_token"][0, 0])
    with pytest.raises(ValueError, match="choose one of model, model_ema by --entry"):
        read_state_dict(path)
