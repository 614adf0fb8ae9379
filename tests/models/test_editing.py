"""Changing a site changes what comes after it, and nothing once the context is left."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import probekit as pk
from probekit.models.editing import changed_at


def gpt2() -> torch.nn.Module:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0)
    )


def llama() -> torch.nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    )


def hooked() -> torch.nn.Module:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    return HookedTransformer(
        HookedTransformerConfig(n_layers=3, d_model=32, n_ctx=16, d_head=8, d_vocab=50, act_fn="relu", seed=0)
    )


@pytest.mark.parametrize("make", [gpt2, llama, hooked])
@pytest.mark.parametrize(
    "kind", ["hook_resid_pre", "attn.hook_z", "hook_attn_out", "mlp.hook_post", "hook_mlp_out", "hook_resid_post"]
)
def test_what_is_put_there_is_what_is_read_there_and_what_follows_changes(make, kind):
    model = pk.load_model(make())
    tokens = torch.randint(1, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    site, after = f"blocks.1.{kind}", "blocks.2.hook_resid_post"
    plain = model.run(tokens, None, [site, "blocks.0.hook_resid_post", after])
    with changed_at(model, site, lambda x: x.clone()):
        same = model.run(tokens, None, [after])
    torch.testing.assert_close(same[after], plain[after])
    with changed_at(model, site, lambda x: x + 1):
        changed = model.run(tokens, None, ["blocks.0.hook_resid_post", after])
    assert (changed[after] - plain[after]).abs().max() > 1e-3
    torch.testing.assert_close(changed["blocks.0.hook_resid_post"], plain["blocks.0.hook_resid_post"])
    torch.testing.assert_close(model.run(tokens, None, [after])[after], plain[after])


@pytest.mark.parametrize("make", [gpt2, llama, hooked])
def test_the_stream_of_another_run_makes_the_rest_of_that_run(make):
    model = pk.load_model(make())
    one, other = torch.randint(1, 50, (2, 1, 7), generator=torch.Generator().manual_seed(2))
    site, after = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
    there = model.run(other, None, [site, after])
    with changed_at(model, site, lambda x: there[site].view_as(x)):
        got = model.run(one, None, [after])
    torch.testing.assert_close(got[after], there[after])


def test_an_exception_inside_leaves_the_model_as_it_was_and_views_are_refused():
    model = pk.load_model(gpt2())
    tokens = torch.randint(1, 50, (1, 5), generator=torch.Generator().manual_seed(3))
    before = model.hf.eval()(tokens).logits
    with pytest.raises(RuntimeError, match="inside"), changed_at(model, "blocks.0.hook_resid_post", torch.zeros_like):
        raise RuntimeError("inside")
    torch.testing.assert_close(model.hf(tokens).logits, before)
    for site in ("blocks.0.hook_resid_mid", "ln_final.hook_normalized"):
        with pytest.raises(ValueError, match="can be read but not changed"), changed_at(model, site, torch.zeros_like):
            pass
