"""No setting is accepted and ignored: each is refused where it has no effect, and taken where it has one."""

import pytest
from ml_collections import ConfigDict
from specs import data_spec, finished

from configs import adm, autoencoder_kl, consistency, dcgan, ddpm, dit, edm, edm2, meanflow, sit, stylegan2, vae
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env
from jaxgen.runs import experiment as experiments
from jaxgen.runs import frozen
from jaxgen.runs.settings import parse

DIGITS = data_spec((8, 8, 1), 10)
PLAIN = {"diffusion.class_conditional": False, "diffusion.label_dropout": 0.0, "sampler.guidance_scale": 1.0}
RK45 = {"sampler.name": "rk45", "sampler.num_steps": 3}
EDM = {"diffusion.likelihood": "none", "diffusion.likelihood_steps": 100}
NO_GAN = {"gan.weight": 0.0, "gan.feature_weight": 0.0}
GAUSSIAN = {"vae.likelihood": "gaussian"}
UNTOLD = {"consistency.class_conditional": False, "consistency.label_dropout": 0.0}
UNSEEN = {"meanflow.class_conditional": False, "meanflow.label_dropout": 0.0}
TOLD = {"diffusion.class_conditional": True, "diffusion.label_dropout": 0.1}
SEEN = {"meanflow.class_conditional": True, "meanflow.label_dropout": 0.1}


def echo(variables, x, sigma, cond=None):
    """Estimates that nothing was added."""
    return x


FINISHED = {"guide": finished(echo, (8, 8, 1)), "teacher": finished(echo, (8, 8, 1), 10)}
"""Of a run that `config.frozen` names."""


def build(config: ConfigDict) -> None:
    """Reads every section that a run reads."""
    latents = config.data.name == "latents"
    spec = data_spec((8, 8, 8), 10) if latents else DIGITS
    models = {role: FINISHED[role] for role in frozen.named(config)}
    build_model(config, spec, Env(frozen=models | ({"autoencoder": frozen.stand_in(spec).model} if latents else {})))
    parse(config)


def changed(config: ConfigDict, changes: dict) -> ConfigDict:
    with config.ignore_type():
        for name, value in changes.items():
            *sections, key = name.split(".")
            (config[sections[0]] if sections else config)[key] = value
    return config


CASES = {
    # The config, what has no effect in it, what gives it one, and a part of the sentence.
    "label_dropout": (ddpm, {**PLAIN, "diffusion.label_dropout": 0.2}, {"diffusion.class_conditional": True}),
    "likelihood_steps": (ddpm, {"diffusion.likelihood_steps": 50}, {"diffusion.likelihood": "ode"}),
    "guidance_scale": (ddpm, {**PLAIN, "sampler.guidance_scale": 2.0}, TOLD),
    "guidance_scale of a guide": (ddpm, {**PLAIN, "sampler.guidance_scale": 2.0}, {"frozen.guide": "runs/a"}),
    "guidance_rescale": (
        ddpm, {"sampler.guidance_scale": 1.0, "sampler.guidance_rescale": 0.5}, {"sampler.guidance_scale": 2.0},
    ),
    "guidance_interval": (
        ddpm, {"sampler.guidance_scale": 1.0, "sampler.guidance_interval": (0.1, 1.0)}, {"sampler.guidance_scale": 0.0},
    ),
    "guide": (ddpm, {"sampler.guidance_scale": 1.0, "frozen.guide": "runs/a"}, {"sampler.guidance_scale": 2.0}),
    "num_steps": (
        edm, {**EDM, **RK45, "sampler.levels": "karras"}, {"sampler.levels": "uniform_time"},
    ),
    "schedule": (edm, {**EDM, "diffusion.schedule": "karras(sigma_max=90.0)"}, {"sampler.levels": "uniform_time"}),
    "shift": (edm, {**EDM, "diffusion.shift": 2.0}, {"diffusion.times": "uniform"}),
    "shift of labels": (edm, {**EDM, "diffusion.shift": 2.0}, {"diffusion.noise_label": "time"}),
    "shift of the ode": (edm, {**EDM, "diffusion.shift": 2.0}, {"diffusion.likelihood": "ode"}),
    "consistency.label_dropout": (
        consistency, {**UNTOLD, "consistency.label_dropout": 0.1}, {"consistency.class_conditional": True},
    ),
    "teacher_guidance": (
        consistency, {"consistency.teacher_guidance": 2.0, "frozen.teacher": None},
        {"frozen.teacher": "runs/a"},
    ),
    "teacher_guidance of classes": (
        consistency, {**UNTOLD, "consistency.teacher_guidance": 2.0, "frozen.teacher": "runs/a"},
        {"consistency.class_conditional": True},
    ),
    "meanflow.label_dropout": (
        meanflow, {**UNSEEN, "meanflow.label_dropout": 0.2}, {"meanflow.class_conditional": True},
    ),
    "meanflow.guidance_scale": (
        meanflow, {**UNSEEN, "meanflow.guidance_scale": 2.0}, SEEN,
    ),
    "guidance_mix": (meanflow, {**UNSEEN, "meanflow.guidance_mix": 0.5}, SEEN),
    "ema.decay": (edm2, {"ema.decay": 0.9}, {"ema.kind": "constant"}),
    "ema.sigma_rel": (ddpm, {"ema.sigma_rel": (0.1,), "ema.decay": 0.9999}, {"ema.kind": "power"}),
    "keep_best_count": (ddpm, {"train.keep_best_count": 2}, {"train.keep_best": "loss"}),
    "keep_best_mode": (ddpm, {"train.keep_best_mode": "higher"}, {"train.keep_best": "loss"}),
    "init_include": (ddpm, {"train.init_include": "params/.*"}, {"train.init_from": "runs/a"}),
    "weight_decay_multipliers": (
        ddpm, {"optimizer.weight_decay_multipliers": ((".*", 2.0),)}, {"optimizer.weight_decay": 0.1},
    ),
    "spike_policy": (
        ddpm, {"health.spike_policy": "stop", "health.spike_sigmas": None}, {"health.spike_sigmas": 5.0},
    ),
    "max_rollbacks": (ddpm, {"health.max_rollbacks": 5}, {"train.nonfinite": "rollback"}),
    "max_rollbacks of spikes": (ddpm, {"health.max_rollbacks": 5}, {"health.spike_policy": "rollback"}),
    "hang_exit": (ddpm, {"health.hang_exit": True, "health.hang_seconds": None}, {"health.hang_seconds": 9.0}),
    "max_faults": (ddpm, {"data.max_faults": 5}, {"data.on_fault": "skip"}),
    "sigma": (vae, {"vae.likelihood": "bernoulli", "vae.learn_sigma": False, "vae.sigma": 0.3}, GAUSSIAN),
    "start_steps": (
        autoencoder_kl,
        {**NO_GAN, "gan.start_steps": 3, "optimizer": autoencoder_kl.digits().optimizer},
        {"gan.weight": 0.5, "optimizer": autoencoder_kl.tiny().optimizer},
    ),
    "truncation_cutoff": (
        stylegan2, {"sampler.truncation_psi": 1.0, "sampler.truncation_cutoff": 2}, {"sampler.truncation_psi": 0.7},
    ),
    "standing_batch_size": (
        dcgan, {"sampler.standing_batches": 0, "sampler.standing_batch_size": 5}, {"sampler.standing_batches": 2},
    ),
    "momentum": (
        dcgan, {"discriminator.batch_norm": False, "discriminator.momentum": 0.5}, {"discriminator.batch_norm": True},
    ),
    "conditioning": (
        dcgan,
        {"gan.class_conditional": False, "discriminator.conditioning": "cosine"},
        {"gan.class_conditional": True},
    ),
    "num_heads": (adm, {"model.num_heads": 2}, {"model.head_channels": 0}),
    "frequencies": (edm, {"model.frequencies": (1.0,)}, {"model.embedding": "fourier"}),
    "frequency_std": (edm, {"model.frequency_std": 0.02}, {"model.embedding": "fourier"}),
    "frequency_std of given frequencies": (
        edm,
        {"model.embedding": "fourier", "model.frequencies": (1.0,), "model.frequency_std": 0.02},
        {"model.frequencies": ()},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_setting_is_refused_where_it_has_no_effect(name):
    module, changes, cure = CASES[name]
    config = changed(module.get_config("tiny"), changes)
    setting = name.split()[0].split(".")[-1]
    with pytest.raises(ValueError, match=rf"\.{setting} (is|names) .* no effect|\.{setting} is .* finds its own steps"):
        build(config)
    build(changed(config, cure))


@pytest.mark.parametrize(
    ("section", "setting", "value", "needs"),
    [
        ("parallel", "rules", ((".*", ()),), {"tensor": 2}),
        ("parallel", "rules", ((".*", ()),), {"fsdp": 2}),
        ("parallel", "min_shard_elements", 1, {"fsdp": 2}),
    ],
)
def test_nothing_is_said_of_sharding_where_nothing_is_shared(section, setting, value, needs):
    config = changed(ddpm.get_config("tiny"), {f"{section}.{setting}": value, "parallel.tensor": 1})
    with pytest.raises(ValueError, match=rf"parallel\.{setting} is .* no effect"):
        experiments.build(parse(config), DIGITS)
    experiments.build(parse(changed(config, {f"{section}.{name}": size for name, size in needs.items()})), DIGITS)


@pytest.mark.parametrize(
    ("module", "setting", "right", "sentence"),
    [
        (ddpm, "diffusion.self_conditioning", False, "is 2, but self-conditioning evaluates the network twice"),
        (dit, "model.scan_layers", False, r"cache_interval above 1 needs model\.scan_layers=False"),
    ],
)
def test_caches_are_refused_where_the_network_cannot_keep_features(module, setting, right, sentence):
    config = changed(
        module.get_config("tiny"),
        {"sampler.cache_interval": 2, "diffusion.self_conditioning": False, setting: not right},
    )
    with pytest.raises(ValueError, match=sentence):
        build(config)
    build(changed(config, {setting: right}))


def test_caches_are_refused_for_networks_without_deep_features():
    config = changed(sit.jit("b"), {"sampler.cache_interval": 2, "sampler.name": "ddim"})
    with pytest.raises(ValueError, match="cache_interval is 2, but JiT has no deep features to reuse: set it to 1, or"):
        build(config)


def test_fields_of_networks_that_need_classes():
    config = sit.jit("b")
    config.model.context_start = 3
    build_model(config, DIGITS)
    config.diffusion.class_conditional, config.diffusion.label_dropout = False, 0.0
    with pytest.raises(ValueError, match=r"model\.context_start is 3, but has no effect without classes"):
        build_model(config, DIGITS)
    config.model.context_start, config.model.context_tokens = 4, 16
    with pytest.raises(ValueError, match=r"model\.context_tokens is 16, but has no effect without classes"):
        build_model(config, DIGITS)
    config.model.context_tokens = 0
    build_model(config, DIGITS)
    config = changed(edm2.get_config("tiny"), {**PLAIN, "model.label_balance": 0.3})
    with pytest.raises(ValueError, match=r"model\.label_balance is 0.3, but has no effect without classes"):
        build_model(config, DIGITS)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sampler.num_steps": 0}, r"sampler\.num_steps is 0, but must be at least 1"),
        ({"sampler.guidance_rescale": 1.5}, r"sampler\.guidance_rescale is 1\.5, but must lie in \[0, 1\]"),
        ({"sampler.guidance_rescale": -0.5}, r"sampler\.guidance_rescale is -0\.5, but must lie in \[0, 1\]"),
        ({"sampler.guidance_interval": (0.5, 0.5)}, r"0 <= low < high, not \(0\.5, 0\.5\)"),
        ({"sampler.guidance_interval": (-1.0, 0.5)}, r"0 <= low < high"),
        (
            {"sampler.guidance_interval": (8.0, 90.0)},
            r"guidance_interval is \(8\.0, 90\.0\), but must share .* 8 to 0\.5",
        ),
        ({"sampler.guidance_interval": (0.1, 0.4)}, r"guidance_interval is \(0\.1, 0\.4\), but must share"),
        ({"sampler.name": "heun(s_noise=1.1)"}, "no effect at churn 0"),
        ({"sampler.name": "heun(s_min=0.1)"}, "no effect at churn 0"),
        ({"sampler.name": "heun(s_max=0.1)"}, "no effect at churn 0"),
        ({"sampler.name": "heun(churn=-1.0)"}, "must be at least 0, not -1.0 and 1.0"),
        ({"sampler.name": "heun(churn=1.0, s_noise=-1.0)"}, "must be at least 0, not 1.0 and -1.0"),
        ({"sampler.name": "heun(churn=1.0, s_min=2.0, s_max=1.0)"}, "s_min must be at most its s_max"),
        ({"sampler.name": "ddim(eta=1.1)"}, r"eta must lie in \[0, 1\]"),
        ({"sampler.name": "dpmpp_2m_sde(eta=-0.1)"}, "eta must be at least 0"),
        ({"sampler.name": "dpmpp_3m_sde(eta=-0.1)"}, "eta must be at least 0"),
        ({"sampler.name": "rk45(rtol=-0.1)"}, "rtol and atol of at least 0"),
        ({"sampler.name": "rk45(rtol=0.0, atol=0.0)"}, "one of them positive"),
        ({"sampler.name": "rk45(max_tries=0)"}, "max_tries of at least 1"),
        ({"sampler.cache_interval": 0}, r"cache_interval is 0, but must be from 1, for no cache, to 2, the number"),
        ({"sampler.cache_interval": 3, "sampler.name": "ddim"}, r"cache_interval is 3, but must be from 1, .* to 2"),
        ({"sampler.cache_interval": 2, "sampler.name": "heun"}, "cache_interval is 2, but sampler.name calls the net"),
        ({"sampler.cache_interval": 2, "sampler.name": "dpmpp_2s"}, "cache_interval is 2, but sampler.name calls the"),
        ({"sampler.cache_interval": 2, "sampler.name": "rk45"}, "cache_interval is 2, but sampler.name calls the net"),
    ],
)
def test_samplers_are_refused_before_any_training(changes, sentence):
    config = changed(edm.get_config("tiny"), {"sampler.guidance_scale": 2.0, **changes})
    with pytest.raises(ValueError, match=sentence):
        build_model(config, DIGITS)


def test_values_at_the_ends_of_what_is_allowed_are_taken():
    for changes in (
        {"sampler.guidance_rescale": 1.0, "sampler.guidance_interval": (0.0, 0.5)},
        {
            "sampler.guidance_interval": (7.9, 80.0),
            "sampler.name": "heun(churn=1.0, s_min=2.0, s_max=2.0, s_noise=0.0)",
        },
        {"sampler.name": "ddim(eta=1.0)"},
        {"sampler.name": "dpmpp_2m_sde(eta=0.0)"},
        {"sampler.name": "rk45(rtol=0.0, max_tries=1)"},
        {"sampler.name": "rk45(atol=0.0)"},
    ):
        build(changed(edm.get_config("tiny"), {"sampler.guidance_scale": 2.0, **changes}))


@pytest.mark.parametrize(("module", "role"), [(ddpm, "teacher"), (consistency, "guide"), (vae, "guide")])
def test_runs_that_a_method_has_no_use_for_are_refused(module, role):
    config = changed(module.get_config("tiny"), {f"frozen.{role}": "runs/a"})
    with pytest.raises(ValueError, match=rf"frozen\.{role} names a run, but this method has no use for one: .* None"):
        build(config)
    build(changed(config, {f"frozen.{role}": None}))


def test_latents_are_not_clipped():
    config = changed(sit.get_config("tiny"), {"data.name": "latents"})
    config.model.patch_size = 1
    with pytest.raises(ValueError, match=r"sampler\.clip is True, but latents do not lie in \[-1, 1\]"):
        build(config)
    config.sampler.clip = False
    build(config)
