"""Facts of a config's data, some of which may be given in their place."""

import pytest

from configs import common
from jaxgen.data import Facts
from jaxgen.data.dataset import label_of
from jaxgen.runs.experiment import facts_of_config
from jaxgen.runs.settings import parse


def config(name, **options):
    made = common.base()
    made.method = "vae.vae"
    made.data.update({"name": name, **options})
    return made


@pytest.mark.parametrize(
    ("data", "given", "expected"),
    [
        (("cifar10", {}), (None, None), Facts((32, 32, 3), label_of(10))),
        (("cifar10", {"image_size": 16}), (None, None), Facts((16, 16, 3), label_of(10))),
        (("cifar10", {}), ((8, 9, 1), None), Facts((8, 9, 1), label_of(10))),
        (("cifar10", {}), (None, 7), Facts((32, 32, 3), label_of(7))),
        (("folder", {}), ((8, 9, 1), 7), Facts((8, 9, 1), label_of(7))),
        (("folder", {}), ((8, 9, 1), 0), Facts((8, 9, 1))),
        (("nowhere", {}), ((8, 9, 1), 7), Facts((8, 9, 1), label_of(7))),
        (("latents", {}), (None, None), Facts((32, 32, 8), label_of(1000), "float32", assumed=True)),
        (("latents", {}), ((8, 9, 4), None), Facts((8, 9, 4), label_of(1000), "float32", assumed=True)),
        (("latents", {}), (None, 7), Facts((32, 32, 8), label_of(7), "float32", assumed=True)),
        (("latents", {}), ((8, 9, 4), 7), Facts((8, 9, 4), label_of(7), "float32")),
        (("latents", {"path": "nowhere"}), ((8, 9, 4), 7), Facts((8, 9, 4), label_of(7), "float32")),
    ],
)
def test_what_is_given_takes_the_place_of_what_the_source_says(data, given, expected):
    assert facts_of_config(parse(config(data[0], **data[1])), *given) == expected


@pytest.mark.parametrize("given", [(None, None), ((8, 9, 1), None), (None, 7)])
def test_what_the_source_cannot_say_is_refused(given):
    with pytest.raises(ValueError, match=r"data lacks path: .* Or give --image_shape=H,W,C and --num_classes=N\."):
        facts_of_config(parse(config("folder")), *given)
