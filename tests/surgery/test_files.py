"""A saved edit applies to the original elsewhere and to nothing else; an exported folder is read by transformers alone."""

from __future__ import annotations

import json

import pytest
import torch

import probekit as pk
from probekit import surgery
from tests.models.lens import make_hooked_transformer
from tests.models.tiny import make_model, make_tokenizer
from tests.surgery.test_undo import MAKERS
from tests.surgery.worlds import direction, logits, tiny, tokens

pytestmark = pytest.mark.filterwarnings("ignore:at .* the edit adds a vector")


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("patch", "set a feature")])
def test_a_saved_edit_does_the_same_to_another_copy_of_the_model(tmp_path, name):
    model, copy = tiny(), tiny()
    edit = MAKERS[name](model, direction(model))
    surgery.save_edit(edit, tmp_path / "edit", model)
    loaded = surgery.load_edit(tmp_path / "edit")
    with edit.applied(model):
        wanted = logits(model, tokens())
    with loaded.applied(copy):
        assert torch.equal(logits(copy, tokens()), wanted)
    assert loaded.name == edit.name
    if edit.direction is not None:
        assert torch.equal(loaded.direction.vector, edit.direction.vector)
        assert repr(loaded.direction) == repr(edit.direction)
    facts = json.loads((tmp_path / "edit" / "edit.json").read_text())
    assert facts.get("touched") == (edit.touched(model) if edit.changes_weights else None)
    with pytest.raises(ValueError, match="made for the model"), loaded.applied(tiny("gpt2")):
        pass


@pytest.mark.parametrize(
    "name", ["steer", "steer in weights", "ablate", "reflect", "orthogonalize", "shift rows", "embeddings"]
)
def test_a_loaded_edit_can_be_made_again_with_another_strength_or_direction(tmp_path, name):
    model = tiny()
    edit = MAKERS[name](model, direction(model))
    surgery.save_edit(edit, tmp_path / "edit")
    loaded = surgery.load_edit(tmp_path / "edit", model)
    other = direction(model, seed=5)
    same = [edit.remade(direction=other), loaded.remade(direction=other)]
    if edit.strength is not None:
        same = [one.remade(strength=0.3) for one in same]
    wanted = []
    for one in same:
        with one.applied(model):
            wanted.append(logits(model, tokens()))
    assert torch.equal(*wanted)
    assert type(same[0]) is type(same[1])
    assert same[0].name == same[1].name
    with pytest.raises(TypeError, match="no direction"):
        surgery.load_edit(tmp_path / "edit").remade(direction=other)


@pytest.mark.parametrize("name", ["neurons", "heads"])
def test_a_loaded_edit_that_follows_no_direction_can_be_made_again_with_another_factor(tmp_path, name):
    model = tiny()
    edit = MAKERS[name](model, None)
    loaded = surgery.load_edit(surgery.save_edit(edit, tmp_path / "edit"), model)
    again = surgery.load_edit(surgery.save_edit(loaded.remade(strength=0.3), tmp_path / "again"), model)
    wanted = []
    for one in (edit.remade(strength=0.3), loaded.remade(strength=0.3), again, again.remade(strength=0.3)):
        assert one.strength == 0.3
        with one.applied(model):
            wanted.append(logits(model, tokens()))
    assert all(torch.equal(one, wanted[0]) for one in wanted)
    for one in (edit, loaded):
        with pytest.raises(TypeError, match="no direction"):
            one.remade(direction=direction(model))


@pytest.mark.parametrize("how", [surgery.steer, surgery.fix, surgery.reflect])
def test_a_loaded_edit_that_acts_where_a_probe_fires_can_be_made_again_at_another_strength(tmp_path, how):
    model = tiny()
    d, probe = direction(model), direction(model, seed=3)
    limit = float((model.run(tokens(), None, [probe.site])[probe.site] @ probe.vector).median())
    edit = how(d, model, 2.0, where=surgery.Where().where_probe_fires(probe, limit))
    loaded = surgery.load_edit(surgery.save_edit(edit, tmp_path / "edit"), model).remade(strength=0.7)
    wanted = edit.remade(strength=0.7)
    assert (loaded.name, loaded.where.threshold) == (wanted.name, limit)
    plain = model.run(tokens(), None, [d.site])[d.site]
    with wanted.applied(model):
        edited = model.run(tokens(), None, [d.site])[d.site]
    with loaded.applied(model):
        assert torch.equal(model.run(tokens(), None, [d.site])[d.site], edited)
    assert 0.2 < (edited != plain).any(-1).float().mean() < 0.8


def test_what_is_no_edit_or_was_damaged_is_refused(tmp_path):
    model = tiny()
    edit = surgery.orthogonalize(direction(model), model)
    folder = surgery.save_edit(edit, tmp_path / "edit", model)
    with pytest.raises(FileExistsError, match="not empty"):
        surgery.save_edit(edit, folder)
    with pytest.raises(FileNotFoundError, match=r"no edit\.json"):
        surgery.load_edit(tmp_path)
    data = bytearray((folder / "edit.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "edit.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="was changed or cut"):
        surgery.load_edit(folder)
    (folder / "edit.json").write_text("{}")
    with pytest.raises(ValueError, match="is no saved edit"):
        surgery.load_edit(folder)
    with pytest.raises(TypeError, match="more than numbers"):
        surgery.save_edit(surgery.patch(model, "hook_embed", torch.zeros(3, 32)), tmp_path / "patch")
    assert not (tmp_path / "patch").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["edit"]


EXPORTS = [
    ("llama", lambda m: surgery.steer(direction(m), m, 2.0), torch.float32),  # gets biases
    ("gpt2", lambda m: surgery.orthogonalize(direction(m), m), torch.float32),  # tied, with biases,
    ("llama", lambda m: surgery.orthogonalize(direction(m), m), torch.float32),
    ("llama", lambda m: surgery.orthogonalize(direction(m), m), torch.bfloat16),
]


@pytest.mark.parametrize(("family", "make", "dtype"), EXPORTS)
def test_the_exported_folder_gives_the_same_logits_in_plain_transformers(tmp_path, family, make, dtype):
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = pk.load_model(make_model(family).to(dtype), tokenizer=make_tokenizer())
    edit = make(model)
    plain = logits(model, tokens())
    found = surgery.export(
        model, edit, tmp_path / "edited", texts=["the cat runs and the dog sleeps", "paris is a city of france"]
    )
    assert torch.equal(logits(model, tokens()), plain)
    exact = 1e-4 if dtype == torch.float32 else 0.05
    assert found.logit_difference < exact
    assert found.unedited_difference > 1e-2
    assert found.perplexity > 1
    weights = edit if edit.changes_weights else edit.to_weights(model)
    with weights.applied(model):
        wanted = logits(model, tokens())
        assert found.fingerprint == model.fingerprint
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "edited", dtype=dtype).eval()
    torch.testing.assert_close(loaded(tokens()).logits, wanted, atol=exact, rtol=exact)
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "edited")("the cat")["input_ids"]
        == make_tokenizer()("the cat")["input_ids"]
    )
    ours = pk.load_model(tmp_path / "edited", dtype=str(dtype).removeprefix("torch."))
    torch.testing.assert_close(logits(ours, tokens()), wanted, atol=exact, rtol=exact)
    card = (tmp_path / "edited" / "README.md").read_text()
    assert edit.direction.site in card
    assert f"{weights.touched(model):,}" in card
    with surgery.load_edit(tmp_path / "edited" / "edit").applied(model):
        torch.testing.assert_close(logits(model, tokens()), wanted, atol=exact, rtol=exact)
    surgery.undo_export(tmp_path / "edited", tmp_path / "original")
    original = pk.load_model(tmp_path / "original", dtype=str(dtype).removeprefix("torch."))
    assert original.fingerprint == model.fingerprint
    assert set(original.hf.state_dict()) == set(model.hf.state_dict())
    assert ("TransformerBridge" in card) == bool(weights.config)
    if dtype == torch.float32:
        bridge = TransformerBridge.boot_transformers(str(tmp_path / "edited"), device="cpu")
        torch.testing.assert_close(bridge(tokens()), wanted, atol=1e-4, rtol=1e-4)
    if dtype == torch.float32 and not weights.config:  # it has no biases where the architecture has none
        lens = make_hooked_transformer(loaded, tmp_path / "lens")
        torch.testing.assert_close(lens(tokens()), wanted, atol=1e-4, rtol=1e-4)


def test_an_exported_folder_that_was_changed_is_not_undone(tmp_path):
    model = tiny("gpt2")
    surgery.export(model, surgery.scale_neurons(model, 1, [0]), tmp_path / "edited")
    other = pk.load_model(tmp_path / "edited")
    with torch.no_grad():
        other.hf.transformer.wpe.weight[0, 0] += 1
    other.hf.save_pretrained(tmp_path / "edited")
    with pytest.raises(ValueError, match="changed after the export"):
        surgery.undo_export(tmp_path / "edited", tmp_path / "original")
    (tmp_path / "edited" / "edit" / "originals.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="originals=False"):
        surgery.undo_export(tmp_path / "edited", tmp_path / "original")
    assert [p.name for p in tmp_path.iterdir()] == ["edited"]


def test_what_is_no_exported_folder_is_named_as_it_is(tmp_path):
    model = tiny("gpt2")
    surgery.export(model, surgery.scale_neurons(model, 1, [0]), tmp_path / "edited")
    surgery.undo_export(tmp_path / "edited", tmp_path / "original")
    with pytest.raises(FileNotFoundError, match="an original that was brought back already"):
        surgery.undo_export(tmp_path / "original", tmp_path / "again")
    (tmp_path / "a_file").touch()
    with pytest.raises(FileExistsError, match="a_file is a file: give another folder"):
        surgery.undo_export(tmp_path / "edited", tmp_path / "a_file")


def test_nothing_is_left_of_an_export_that_fails(tmp_path, monkeypatch):
    model = tiny()
    edit = surgery.orthogonalize(direction(model), model)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="nothing was written"):
        surgery.export(model, edit, tmp_path / "there")
    with pytest.raises(ValueError, match="orthogonalize"):
        surgery.export(model, surgery.ablate(direction(model), model), tmp_path / "new")
    before = model.fingerprint

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(model.hf), "save_pretrained", killed)
    with pytest.raises(KeyboardInterrupt):
        surgery.export(model, edit, tmp_path / "new")
    assert model.fingerprint == before
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    assert surgery.edits_on(model) == ()
