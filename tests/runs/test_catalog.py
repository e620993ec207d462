"""Lists of names, which are read from the source."""

import pytest

from jaxgen.cli import listing
from jaxgen.core.shared_settings import path_settings
from jaxgen.runs import catalog, config_files
from jaxgen.runs.config_files import read_only


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One sentence. Another one.", "One sentence."),
        ("Lines\n are  joined. X\n\nAnother paragraph.", "Lines are joined."),
        ("No end\n\nAnother paragraph.", "No end"),
        ("As of Ho et al. Sampling is ancestral. More.", "As of Ho et al. Sampling is ancestral."),
        ("See app. B, eq. A and eqs. C. `More`.", "See app. B, eq. A and eqs. C."),
        ("A version 2.5 of a goal. Then.", "A version 2.5 of a goal."),
        ("A map. `f` of it.", "A map."),
        ("", ""),
    ],
)
def test_the_first_sentence_of_a_docstring(text, sentence):
    assert catalog._sentence(text) == sentence


def names(kind):
    return [item.name for item in catalog.KINDS[kind].find()]


def test_a_kind_has_its_own_and_nothing_else():
    assert names("energies") == ["conv_energy.ConvEnergy", "residual_energy.ResidualEnergy"]
    assert {"digits", "folder", "tfds"} - set(names("datasets")) == {"tfds"}
    assert names("datasets")[-1] == "any other"
    assert all(name.endswith(".Discriminator") for name in names("discriminators"))
    assert all(name.endswith(".Generator") for name in names("generators"))
    assert len(names("discriminators")) >= len(names("generators")) - 1  # one is of two generators
    assert not {"unet.UNet", "mlp.Generator"} & set(names("tokenizers"))
    assert not [name for kind in catalog.KINDS for name in names(kind) if name.startswith("_")]
    assert not [name for name in names("formats") if "_" in name]


def test_descriptions_stand_in_a_column_and_those_of_variants_only_where_configs_are_listed_alone():
    title, *lines = listing.text("samplers").splitlines()
    assert title == f"samplers: {catalog.KINDS['samplers'].title}"
    found = {item.name: item.about for item in catalog.KINDS["samplers"].find()}
    width = max(map(len, found))
    assert lines == [f"  {name:<{width}}  {about}" for name, about in found.items()]
    whole, alone = listing.text(), listing.text("configs")
    assert "    vae:tiny " in alone
    assert "Variants:" not in alone
    assert "vae:tiny" not in whole
    assert [line.partition(":")[0] for line in whole.splitlines() if line[:1] not in (" ", "", "O")] == [*catalog.KINDS]


@pytest.mark.parametrize("name", ["vae:celeba", "ddpm:digits", "gan:mnist"])
def test_alternatives_are_other_models_of_the_same_data_that_need_no_path(name):
    """Of the data celeb_a, too, whose variants are named without the underscore."""
    own = read_only(config_files.load_config_file(name))
    found = catalog.alternatives(own)
    assert 1 <= len(found) <= 3
    others = [config_files.load_config_file(other) for other in found]
    assert {other.data.name for other in others} == {own.data.name}
    families = [other.method.partition(".")[0] for other in others]
    assert len(set(families)) == len(families)
    for other in others:
        assert path_settings(read_only(other)) == {}
        assert (other.method, other.get("model", {}).get("name")) != (own.method, own.get("model", {}).get("name"))
