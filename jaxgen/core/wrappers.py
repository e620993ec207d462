"""Wrappers: functions from a model to a model with one property more."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from jaxgen.core import ema, images, keys, trees
from jaxgen.core.config import Need
from jaxgen.core.contract import CONSTANT, Batch, GenerativeModel, Metrics, Phase, TrainState, Variables


def with_preprocessing(model: GenerativeModel, *, flip: bool = False) -> GenerativeModel:
    """Returns the model with training images of levels, which it maps to [-1, 1]; mirrors half of them if `flip`."""

    def prepare(key: Key[Array, ""], batch: Batch) -> Batch:
        image = images.to_float(batch["image"], model.spec.levels)
        if flip:
            example_keys = keys.per_example(keys.stream(key, "flip"), batch["index"])
            mirrored = jax.vmap(jax.random.bernoulli)(example_keys.reshape(-1)).reshape(batch["index"].shape)
            image = jnp.where(mirrored[..., None, None, None], jnp.flip(image, axis=-2), image)
        return {**batch, "image": image}

    def init(key: Key[Array, ""], batch: Batch, frozen: PyTree = ()) -> TrainState:
        return model.init(key, prepare(key, batch), frozen)

    def update(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Phase = CONSTANT
    ) -> tuple[TrainState, Metrics]:
        return model.update(key, state, prepare(key, batch), phase=phase)

    return model._replace(init=init, update=update)


EMA_NEEDS = {
    "decay": Need("ema.kind=constant", lambda average: average.kind == "constant"),
    "sigma_rel": Need("ema.kind=power", lambda average: average.kind == "power"),
}
"""Settings of the section `ema` that have an effect only beside others, with the condition of each."""


def with_ema(
    model: GenerativeModel,
    *,
    decay: float | str = 0.9999,
    warmup: bool = True,
    include: str = ".*",
    kind: Literal["constant", "power"] = "constant",
    sigma_rel: tuple[float, ...] = (0.05, 0.10),
) -> GenerativeModel:
    """Returns the model with an exponential moving average of its state, which evaluation uses instead of the state.

    Args:
      model: the model to wrap.
      decay: of a constant average, the weight of the old average, in [0, 1), or a schedule of it by the step (see
        `core.schedules`), such as `half_life(steps=1_000, ramp=0.05)`.
      warmup: of a constant average, caps the decay at (1 + n) / (10 + n) after n updates, so that the first steps are
        forgotten soon.
      include: regular expression over the names `params/...` and `model_state/...` of the averaged leaves. Batch
        statistics are averaged with the parameters that they belong to.
      kind: `constant`, or `power` for averages that widen with training (Karras et al. 2024).
      sigma_rel: of power averages, one for each width relative to the length of training; evaluation sees the first.
    """
    average = _average(kind, decay=decay, warmup=warmup, sigma_rel=sigma_rel)

    def tracked(state: TrainState) -> dict[str, Array]:
        tree = _averageable(state)
        chosen = trees.named_leaves(trees.matches(include, tree))
        return {name: leaf for name, leaf in trees.named_leaves(tree).items() if chosen[name]}

    def init(key: Key[Array, ""], batch: Batch, frozen: PyTree = ()) -> TrainState:
        state = model.init(key, batch, frozen)
        return state._replace(ema=average.init(tracked(state)))

    def update(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Phase = CONSTANT
    ) -> tuple[TrainState, Metrics]:
        new_state, metrics = model.update(key, state, batch, phase=phase)
        return new_state._replace(ema=average.update(state.ema, tracked(new_state), state.step)), metrics

    def eval_variables(state: TrainState) -> Variables:
        averaged = average.value(state.ema)
        seen = trees.map_named(lambda name, leaf: averaged.get(name, leaf), _averageable(state))
        return model.eval_variables(state._replace(**seen))

    return model._replace(init=init, update=update, eval_variables=eval_variables)


def _average(kind: str, *, decay: float | str, warmup: bool, sigma_rel: tuple[float, ...]) -> ema.Average:
    if kind == "constant":
        if isinstance(decay, str):
            return ema.single(ema.scheduled(decay=decay, warmup=warmup))
        return ema.single(ema.constant(decay=decay, warmup=warmup))
    if not sigma_rel:
        raise ValueError("ema.sigma_rel is empty, but ema.kind=power needs at least one width, such as 0.05.")
    return ema.several([ema.power(sigma_rel=width) for width in sigma_rel])


def skip_nonfinite(model: GenerativeModel) -> GenerativeModel:
    """Returns the model whose updates keep the old state, but count the step, if metrics or new state are not finite.

    The metric `skipped` is 1 for such a step, and 0 for the others.
    """

    def update(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Phase = CONSTANT
    ) -> tuple[TrainState, Metrics]:
        new_state, metrics = model.update(key, state, batch, phase=phase)
        learned, before = (s._replace(frozen=()) for s in (new_state, state))
        finite = _all_finite((metrics, learned))
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), learned, before)
        skipped = 1.0 - finite.astype(jnp.float32)
        return kept._replace(step=new_state.step, frozen=state.frozen), {**metrics, "skipped": skipped}

    return model._replace(update=update)


def _averageable(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "model_state": state.model_state}


def _all_finite(tree: PyTree) -> Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()
