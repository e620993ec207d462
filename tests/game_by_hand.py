"""An update of an adversarial game of the formula players in float64 NumPy; draws alone are JAX's."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import formula_players as formulas
import jax
import numpy as np
from by_hand import descend, float64, log_sigmoid, slope

from jaxgen.core import keys
from jaxgen.nn.adversarial import Critique

KEY = keys.root_key(5)
PLAYERS = ("discriminator", "generator")


@partial(jax.jit, static_argnames=("stream", "terms"))
def draws(stream: str, index, terms: tuple[str, ...] = ()) -> dict[str, Any]:
    """What is drawn in a turn: latents, noise, factors of the discriminator, augmentations, and what terms draw."""
    context_key = keys.stream(KEY, stream)
    example_keys = keys.per_example(context_key, index)

    def uniform(own, name):
        return jax.vmap(jax.random.uniform)(keys.fold_each(own, name))

    drawn = {
        "z": keys.normal(keys.fold_each(example_keys, "latent"), (formulas.LATENT_DIM,)),
        "noise": jax.vmap(jax.random.uniform)(example_keys),
        **{
            name: uniform(example_keys, name)
            for name in ("discriminate_real", "discriminate_fake", "discriminate", "style")
        },
        **{name: uniform(example_keys, name) for name in ("augment_real", "augment_fake")},
    }
    for name in terms:
        own = keys.fold_each(example_keys, name)
        drawn |= {name: jax.vmap(jax.random.uniform)(own), f"{name}/style": uniform(own, "style")}
        drawn[f"{name}/path"] = keys.normal(keys.fold_each(own, "path"), (formulas.PIXELS,))
        drawn[f"{name}/once"] = jax.random.uniform(keys.stream(context_key, name))
    return drawn


def binary_cross_entropy(real, fake, smoothing=0.0):
    """With one-sided label smoothing."""
    return -(1 - smoothing) * log_sigmoid(real) - smoothing * log_sigmoid(-real) - log_sigmoid(-fake)


class GameByHand:
    """The state of a game, and its turns; a turn is on all its microbatches, a state goes from one to the next.

    Attributes:
      losses: of generator and discriminator, mapping logits of real and of generated images to one number.
      costs: of terms by player: `(turn) -> (loss, new state of the term)`.
      rates: learning rates.
      augment: functions `real`, `fake` and `update`, as in `adversarial.augmentation.piece`, of what is drawn.
    """

    def __init__(self, batch, *, conditional: bool, losses, rates, step: int, costs=None, augment=None, terms=None):
        self.x = np.array(batch["image"], np.float64).reshape(*batch["index"].shape, formulas.PIXELS)
        self.label, self.index, self.step = np.array(batch["label"]), batch["index"], step
        self.conditional, self.losses, self.rates = conditional, losses, rates
        self.costs, self.augment = costs or {}, augment
        self.params = {name: float64(params) for name, params in formulas.PARAMS.items()}
        self.state = {**formulas.STATS, "augment": 0.0, "terms": dict(terms or {})}
        self.metrics: dict[str, Any] = {}

    def of_class(self, table, k):
        return self.conditional * table[self.label[k]]

    def generate(self, g, z, k, drawn, kept):
        """Images of latents in training."""
        level = z.mean() + 0.2 * kept
        return formulas.generate(np, g, z, self.of_class(formulas.G_CLASSES, k), drawn["noise"], level)

    def kept(self, g, k, drawn, old):
        """What the generator keeps after that."""
        return 0.75 * old + 0.25 * drawn["z"].mean()

    def observe(self, player: str, stream: str, k: int, params, state) -> tuple[SimpleNamespace, dict]:
        """What there is in a turn, and what the networks keep after it."""
        drawn = float64(draws(stream, self.index[k], tuple(self.costs)))
        g, d, real = params["generator"], params["discriminator"], self.x[k]

        def judge(stream, old, x) -> Critique:
            shift = self.of_class(formulas.D_CLASSES, k)
            return formulas.judge(np, d, x, shift, drawn[stream], 2.0 * x.mean() + 0.5 * old)

        def shown(kind, x):
            if self.augment is None:
                return x
            return getattr(self.augment, kind)(state["augment"], drawn[f"augment_{kind}"], x, fake, self.step)

        fake, own = self.generate(g, drawn["z"], k, drawn, state["generator"]), state["discriminator"]
        between = 0.75 * own + 0.25 * shown("real", real).mean()
        turn = SimpleNamespace(
            player=player,
            params=params,
            drawn=drawn,
            label=self.label[k],
            real=real,
            fake=fake,
            latents=drawn["z"],
            discriminate_real=lambda x: judge("discriminate_real", own, shown("real", x)),
            discriminate_fake=lambda x: judge("discriminate_fake", between, shown("fake", x)),
            discriminate=lambda x: judge("discriminate", own, x),
            generate=lambda z: self.generate(g, z, k, drawn, state["generator"]),
            state=state["terms"],
            index=np.array(self.index[k]),
            context=SimpleNamespace(step=self.step),
            k=k,
            mean=lambda x: x.mean(0),
        )
        turn.real_critique, turn.fake_critique = turn.discriminate_real(real), turn.discriminate_fake(fake)
        after = {**state, "generator": self.kept(g, k, drawn, state["generator"])}
        if player == "discriminator":
            after["discriminator"] = 0.75 * between + 0.25 * shown("fake", fake).mean()
        return turn, after

    def turn(self, player: str, slices, *, names=(), lazy: int = 0):
        """Descends on the mean over microbatches of the adversarial loss and of the costs of the terms named.

        All states move. A lazy turn is on the terms alone, so many times as large.
        """
        stream = f"{player}_regularizer" if lazy else player
        own_loss = self.losses[PLAYERS[::-1].index(player)]

        def loss(turn):
            costs = sum(self.costs[name][player](turn)[0] for name in names)
            return (
                lazy * costs
                if lazy
                else costs + np.mean(own_loss(turn.real_critique.logits, turn.fake_critique.logits))
            )

        states, state = [], self.state
        for k in slices:
            states.append(state)
            turn, after = self.observe(player, stream, k, self.params, state)
            for name in names:
                after["terms"] = {**after["terms"], name: self.costs[name][player](turn)[1]}
            if stream == "discriminator" and self.augment is not None:
                after["augment"] = self.augment.update(state["augment"], turn.real_critique.logits, step=self.step)
                self.metrics.setdefault("augment/strength", []).append(after["augment"] + self.step)
            state = after

        def objective(own):
            params = {**self.params, player: own}
            turns = [self.observe(player, stream, k, params, state)[0] for k, state in zip(slices, states, strict=True)]
            return np.mean([loss(turn) for turn in turns])

        seen = [self.observe(player, stream, k, self.params, s)[0] for k, s in zip(slices, states, strict=True)]
        own = self.params[player]
        self.metrics.setdefault(f"loss/{stream}", []).append(objective(own))
        if stream == "discriminator":
            for kind in ("real", "fake"):
                logits = [getattr(turn, f"{kind}_critique").logits for turn in seen]
                self.metrics.setdefault(f"logits/{kind}", []).append(np.mean(logits))
                if kind == "real":
                    self.metrics.setdefault("sign/real", []).append(np.mean(np.sign(logits)))
        self.params = {**self.params, player: descend(own, slope(objective, own), self.rates[player])}
        self.state = state

    def averages(self) -> dict[str, float]:
        """The metrics of the update."""
        return {name: np.mean(values) for name, values in self.metrics.items()}


class StyledGameByHand(GameByHand):
    """The same with the generator of styles."""

    def __init__(self, batch, **settings):
        super().__init__(batch, **settings)
        self.params["generator"] = float64(formulas.STYLED)
        self.state["generator"] = formulas.W_AVG

    def styles(self, g, z, k, factor, stride=1):
        """Styles in training."""
        ws = formulas.styles(np, g, z, self.of_class(formulas.G_CLASSES, k)[::stride])
        return formulas.varied(np, ws, factor)

    def generate(self, g, z, k, drawn, kept):
        return formulas.synthesize(np, g, self.styles(g, z, k, drawn["style"]), drawn["noise"])

    def kept(self, g, k, drawn, old):
        mean = formulas.styles(np, g, drawn["z"], self.of_class(formulas.G_CLASSES, k))[:, 0].mean(0)
        return formulas.W_DECAY * old + (1 - formulas.W_DECAY) * mean
