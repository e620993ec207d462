import pytest
from specs import data_spec

from jaxgen.core.conditioning import classes, tokens
from jaxgen.core.contract import CONSTANT, Env, GenerativeModel, ModelSpec, Phase, TrainState, for_classes, require


def test_require_names_what_a_model_lacks_and_who_needs_it():
    model = GenerativeModel(ModelSpec((8, 8, 1)), *[lambda: None] * 4, encode=lambda: None)
    require(model, "sample", "encode", by="interpolate")
    with pytest.raises(ValueError, match="interpolate needs a model with decode, denoise, which"):
        require(model, "encode", "decode", "denoise", by="interpolate")


def test_a_model_of_a_data_set_sees_its_classes_or_none():
    spec = data_spec((8, 8, 1), 10, likelihood="exact")
    assert for_classes(spec, True, where="vae") == spec
    hidden = for_classes(spec, True, where="vae", dropout=0.1)
    assert hidden == spec._replace(conditioning={"label": classes(10, null=True)})
    assert (hidden.num_classes, spec._replace(conditioning={}).num_classes) == (10, 0)
    told_more = spec._replace(conditioning={**spec.conditioning, "caption": tokens(4, 9)})
    assert for_classes(told_more, True, where="vae") == spec
    assert for_classes(spec, False, where="vae") == spec._replace(conditioning={})
    plain = ModelSpec((8, 8, 1))
    assert for_classes(plain, False, where="vae") == plain
    sentence = r"^vae\.class_conditional is True, but the data has no classes: set it to False\.$"
    with pytest.raises(ValueError, match=sentence):
        for_classes(plain, True, where="vae")


def test_what_a_model_does_not_say_is_the_plain_case():
    model = GenerativeModel(ModelSpec((8, 8, 1)), *[lambda: None] * 4)
    assert (model.log_prob, model.encode, model.decode, model.denoise) == (None,) * 4
    assert (model.microbatches, model.phase(0), model.phase(7)) == (1, CONSTANT, CONSTANT)
    assert model.spec == ((8, 8, 1), {}, None, None, None, 256, False, None, None)
    assert (model.posterior, model.styles, model.synthesize, model.objective) == (None,) * 4
    assert model.frozen == ()
    assert Phase() == CONSTANT == ((), None, None)
    assert (TrainState(0, (), (), ()).ema, TrainState(0, (), (), ()).frozen) == ((), ())
    assert Env() == (None, {}, 0)
