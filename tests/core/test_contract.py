import pytest

from jaxgen.core.contract import GenerativeModel, ModelSpec, require


def test_require_names_what_a_model_lacks_and_who_needs_it():
    model = GenerativeModel(ModelSpec((8, 8, 1)), *[lambda: None] * 4, encode=lambda: None)
    require(model, "sample", "encode", by="interpolate")
    with pytest.raises(ValueError, match="interpolate needs a model with decode, denoise, which"):
        require(model, "encode", "decode", "denoise", by="interpolate")
