"""The variational autoencoder (Kingma & Welling 2014; Rezende et al. 2014), put together from pieces.

See `jaxgen.variational`: likelihoods, priors, the importance-weighted bound, beta (Higgins et al. 2017), free bits,
capacity, and terms such as those of InfoVAE and beta-TCVAE.
"""

from jaxtyping import PyTree

from jaxgen.core.builders import Player, one_player
from jaxgen.core.config import Section, call
from jaxgen.core.contract import Env, GenerativeModel, ModelSpec, TrainState
from jaxgen.optim.optimizers import make_optimizer
from jaxgen.variational.autoencoder import make_autoencoder, variables_of
from jaxgen.variational.capabilities import capabilities
from jaxgen.variational.objective import make_objective, make_terms


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a VAE; reads the sections vae, model (of both networks) and optimizer.

    The functions beside training are those of `variational.capabilities`; variables are the parameters.
    """
    autoencoder = make_autoencoder(config, spec)
    terms = make_terms(autoencoder.settings.terms)
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    init, update = one_player(
        autoencoder.init,
        Player(make_objective(autoencoder, terms, env.axis_name), optimizer),
        microbatches=config.train.microbatches,
        env=env,
    )

    def eval_variables(state: TrainState) -> PyTree:
        return variables_of(state.params, state)

    return GenerativeModel(
        autoencoder.spec,
        init,
        update,
        eval_variables=eval_variables,
        microbatches=config.train.microbatches,
        **capabilities(autoencoder)._asdict(),
    )
