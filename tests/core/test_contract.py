import pytest

from jaxgen.core.contract import Env, GenerativeModel, ModelSpec, Trained, TrainState, for_classes, require


def test_require_names_what_a_model_lacks_and_who_needs_it():
    model = GenerativeModel(ModelSpec((8, 8, 1)), *[lambda: None] * 4, encode=lambda: None)
    require(model, "sample", "encode", by="interpolate")
    with pytest.raises(ValueError, match="interpolate needs a model with decode, denoise, which"):
        require(model, "encode", "decode", "denoise", by="interpolate")


def test_a_model_of_a_data_set_sees_its_classes_or_none():
    spec = ModelSpec((8, 8, 1), num_classes=10, likelihood="exact")
    assert for_classes(spec, True, where="vae") == spec
    assert for_classes(spec, False, where="vae") == spec._replace(num_classes=0)
    plain = ModelSpec((8, 8, 1))
    assert for_classes(plain, False, where="vae") == plain
    sentence = r"^vae\.class_conditional is True, but the data has no classes: set it to False\.$"
    with pytest.raises(ValueError, match=sentence):
        for_classes(plain, True, where="vae")


def test_what_a_model_does_not_say_is_the_plain_case():
    model = GenerativeModel(ModelSpec((8, 8, 1)), *[lambda: None] * 4)
    assert (model.log_prob, model.encode, model.decode, model.denoise) == (None,) * 4
    assert (model.microbatches, model.phase(0), model.phase(7)) == (1, None, None)
    assert model.spec == ((8, 8, 1), 0, None, None, None)
    assert TrainState(0, (), (), ()).ema == ()
    assert Env() == (None, None, None, None, 0)
    assert Trained(None, None).num_classes == 0
