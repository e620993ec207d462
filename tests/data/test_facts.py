"""Shape and classes of datasets, most of which need not be there."""

import pytest

from jaxgen.data import facts


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("shapes", {"image_size": 16}, ((16, 16, 3), 6)),
        ("cifar10", {}, ((32, 32, 3), 10)),
        ("cifar10", {"image_size": 16, "path": None}, ((16, 16, 3), 10)),
        ("mnist", {}, ((28, 28, 1), 10)),
        ("imagenet2012", {"image_size": 64}, ((64, 64, 3), 1000)),
        ("celeb_a", {"image_size": 64}, ((64, 64, 3), 0)),
    ],
)
def test_shape_and_classes_are_known_without_the_data(name, options, expected, tmp_path):
    data_dir = {} if name == "shapes" else {"data_dir": str(tmp_path)}
    assert facts(name, **options, **data_dir) == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("imagenet2012", {}, r"The images of imagenet2012 differ in size: set data\.image_size"),
        ("cifar11", {}, "Did you mean cifar10"),
        ("cifar10", {"radius": 3}, r"data\.radius is not a setting"),
        ("folder", {}, "data lacks path"),
    ],
)
def test_what_cannot_be_known_is_refused(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        facts(name, **options)
