"""The manifest of a checkpoint by itself; `test_checkpoint.py` damages whole checkpoints."""

import pytest

from jaxgen.training.durability import manifest


@pytest.fixture
def sealed(tmp_path):
    """A checkpoint of step 4 with two files."""
    directory = tmp_path / "4"
    (directory / "state").mkdir(parents=True)
    (directory / "state" / "array").write_bytes(b"\x00\x01")
    (directory / "state" / "metadata").write_text("{}")
    manifest.seal(directory, 4, {"loss": 0.5, "grad_norm": None}, b'{"step": 4}\n')
    return directory


def test_a_quick_look_compares_the_names_of_files_and_does_not_read_them(sealed):
    assert manifest.find_damage(sealed) is None
    assert manifest.find_damage(sealed, quick=True) is None
    (sealed / "state" / "array").write_bytes(b"\x00\x02")
    assert manifest.find_damage(sealed) == "state/array has changed"
    assert manifest.find_damage(sealed, quick=True) is None
    (sealed / "state" / "more").write_text("")
    assert manifest.find_damage(sealed, quick=True) == "state/more has changed"
    (sealed / "state" / "metadata").unlink()
    assert manifest.find_damage(sealed, quick=True) == "state/metadata is missing"
    (sealed / "sha256.json").write_text((sealed / "sha256.json").read_text().replace("array", "brray"))
    assert manifest.find_damage(sealed, quick=True) == "its manifest has changed"


def test_the_digest_of_a_checkpoint_is_that_of_all_its_files(sealed):
    before = manifest.digest(sealed)
    assert len(before) == 64
    assert (sealed / "sha256.json").read_text().splitlines()[-1] == before
    manifest.seal(sealed, 4, {"loss": 0.5, "grad_norm": None}, b'{"step": 4}\n')
    assert manifest.digest(sealed) == before
    for change in ({"loss": 0.25, "grad_norm": None}, {"loss": 0.5}):
        manifest.seal(sealed, 4, change, b'{"step": 4}\n')
        assert manifest.digest(sealed) != before


def test_metrics_and_history_come_back_and_nothing_is_said_of_what_was_not_kept(sealed):
    assert manifest.read_metrics(sealed) == {"loss": 0.5, "grad_norm": None}
    assert manifest.read_history(sealed) == b'{"step": 4}\n'
    (sealed / "metrics.json").write_text('{"step": 4, "loss": 3, "name": "x"}')
    assert manifest.read_metrics(sealed) == {"loss": 3.0, "name": None}
    for text in ("{", "[4]"):
        (sealed / "metrics.json").write_text(text)
        assert manifest.read_metrics(sealed) is None
    (sealed / "metrics.json").unlink()
    (sealed / "history.jsonl").unlink()
    assert manifest.read_metrics(sealed) == {}  # of a version that kept none
    assert manifest.read_history(sealed) is None


def test_facts_are_sealed_in_any_order_and_a_text_without_a_seal_is_taken_as_it_is():
    text = manifest.sealed({"b": 1, "a": [2]})
    assert manifest.unsealed(text) == {"a": [2], "b": 1}
    assert text == manifest.sealed({"a": [2], "b": 1})
    assert manifest.unsealed('{"a": 3}') == {"a": 3}
    with pytest.raises(ValueError, match="its checksum, sha256, is of something else"):
        manifest.unsealed(text.replace('"b": 1', '"b": 2'))
    with pytest.raises(ValueError, match=r"^it is no JSON object$"):
        manifest.unsealed("[3]")
