"""Configs as the library reads them."""

import copy
import pickle

import pytest

from jaxgen.core.config import Section

PLAIN = {"seed": 1, "model": {"widths": (1, 2), "inner": {"rate": 0.5}}, "unset": None}


def test_settings_are_attributes_and_items():
    section = Section(PLAIN)
    assert section.seed == section["seed"] == 1
    assert section.model.inner.rate == section["model"]["inner"]["rate"] == 0.5
    assert section.unset is None
    assert list(section) == ["seed", "model", "unset"]
    assert dict(section.model.inner) == {"rate": 0.5}
    assert section.get("unset", 3) is None
    assert section.get("none", 3) == 3
    assert len(section) == 3
    assert "model" in section
    assert "rate" not in section


def test_a_section_cannot_be_changed():
    section = Section(PLAIN)
    with pytest.raises(AttributeError, match=r"immutable.* seed cannot be set to 2"):
        section.seed = 2
    with pytest.raises(AttributeError, match="immutable"):
        section.model.other = 2
    with pytest.raises(TypeError):
        section["seed"] = 2
    with pytest.raises(AttributeError):
        del section.seed
    assert section == Section(PLAIN)


def test_nor_through_what_it_is_made_of_or_gives():
    plain = copy.deepcopy(PLAIN)
    section = Section(plain)
    plain["model"]["inner"]["rate"] = 3
    section.to_dict()["model"]["inner"]["rate"] = 3
    assert section.to_dict() == PLAIN


def test_what_is_not_there_is_no_attribute():
    with pytest.raises(AttributeError, match="There is no setting 'sed'"):
        Section(PLAIN).sed  # noqa: B018
    assert not hasattr(Section(PLAIN), "_private")


def test_sections_are_equal_if_their_settings_are():
    assert Section(PLAIN) == Section(copy.deepcopy(PLAIN))
    assert Section(PLAIN) != Section(PLAIN).replaced({"model.inner.rate": 0.25})


def test_copies_have_the_same_settings():
    section = Section(PLAIN)
    for other in (copy.deepcopy(section), copy.copy(section), pickle.loads(pickle.dumps(section))):
        assert other == section
        assert type(other.model) is Section
    assert repr(section) == f"Section({PLAIN!r})"


def test_replaced_settings_are_those_of_a_copy():
    section = Section(PLAIN)
    other = section.replaced({"seed": 2, "model.inner.rate": 3.0, "model.new": {"a": 1}})
    assert other.to_dict() == {
        "seed": 2,
        "model": {"widths": (1, 2), "inner": {"rate": 3.0}, "new": {"a": 1}},
        "unset": None,
    }
    assert type(other.model.new) is Section
    assert section.to_dict() == PLAIN
    with pytest.raises(KeyError):
        section.replaced({"none.such": 1})
