"""`Model.run`: what it reads, where it stops, and that it leaves the model as it was."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.models import load_model
from tests.models.tiny import CONFIGS, VOCAB, make_model


@pytest.fixture(scope="module")
def llama():
    return load_model(make_model("llama"))


def some_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", CONFIGS)
def test_stream_sites_are_the_hidden_states_of_transformers(family):
    hf = make_model(family)
    model = load_model(hf)
    tokens = some_tokens(2, 9)
    read = model.run(tokens, None, model.stream_sites)
    states = hf(tokens, output_hidden_states=True).hidden_states
    assert len(model.stream_sites) == model.n_layers + 1 == len(states)
    for name, state in zip(model.stream_sites[:-1], states, strict=False):  # the last state has the final norm in it
        torch.testing.assert_close(read[name], state, rtol=0, atol=0)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_site_has_the_width_it_says_and_the_stream_adds_up(family):
    model = load_model(make_model(family))
    read = model.run(some_tokens(2, 9), None, model.sites)
    assert list(read) == list(model.sites)
    for name, value in read.items():
        assert value.shape == (2, 9, model.site(name).width), name
    if "hook_pos_embed" in read and "hook_embed" in read:
        torch.testing.assert_close(read["blocks.0.hook_resid_pre"], read["hook_embed"] + read["hook_pos_embed"])
    for layer in range(model.n_layers):
        if family != "opt_350m":  # normalises what it adds up
            parts = [read[f"blocks.{layer}.hook_{kind}"] for kind in ("resid_pre", "attn_out", "mlp_out")]
            torch.testing.assert_close(read[f"blocks.{layer}.hook_resid_post"], sum(parts), rtol=1e-5, atol=1e-5)


def test_padding_brings_no_warning_from_transformers(monkeypatch):
    """Padding, and texts that themselves begin with the padding token."""
    from transformers import modeling_utils

    said = []
    monkeypatch.setattr(modeling_utils.logger, "warning_once", said.append)
    for family in ("gpt2", "llama"):
        hf = make_model(family)
        hf.config.pad_token_id = 0
        tokens = some_tokens(2, 9)
        tokens[0, 0] = tokens[1, 5:] = 0
        for mask in (None, torch.arange(9)[None] < torch.tensor([9, 5])[:, None]):
            load_model(hf).run(tokens, mask, ["blocks.0.hook_resid_post"])
    assert not said
    hf = make_model("gpt2")
    hf.config.pad_token_id = 0
    hf(tokens)
    assert said  # transformers does warn of these tokens


@pytest.mark.parametrize("family", CONFIGS)
def test_padding_on_the_right_changes_nothing_on_tokens(family):
    model = load_model(make_model(family))
    lengths = (9, 4, 1)
    tokens = some_tokens(3, 9)
    mask = torch.arange(9)[None] < torch.tensor(lengths)[:, None]
    together = model.run(tokens, mask, model.sites)
    for i, length in enumerate(lengths):
        alone = model.run(tokens[i : i + 1, :length], None, model.sites)
        for name in model.sites:
            torch.testing.assert_close(together[name][i, :length], alone[name][0], rtol=1e-5, atol=1e-5)


def test_padding_may_hold_any_id(llama):
    tokens, mask = some_tokens(1, 5), torch.tensor([[1, 1, 1, 0, 0]])
    site = llama.stream_sites[-1]
    expected = llama.run(tokens[:, :3], None, [site])[site]
    read = llama.run(tokens.masked_fill(mask == 0, -100), mask, [site])[site]
    torch.testing.assert_close(read[:, :3], expected)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_reading_some_sites_equals_reading_all(llama, data):
    names = data.draw(st.lists(st.sampled_from(llama.sites), min_size=1, max_size=6))
    tokens = some_tokens(2, 6)
    everything = llama.run(tokens, None, llama.sites)
    some = llama.run(tokens, None, names)
    assert list(some) == list(dict.fromkeys(names))
    assert all(torch.equal(some[name], everything[name]) for name in names)


def test_visited_sites_come_once_in_forward_order_with_what_run_reads(llama):
    tokens, mask = some_tokens(2, 6), torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    names = [*reversed(llama.sites), llama.sites[3]]
    read, visited = llama.run(tokens, mask, names), {}

    def receive(name, value):
        assert name not in visited
        visited[name] = value.clone()

    llama.visit(tokens, mask, names, receive)
    assert sorted(visited, key=llama.sites.index) == list(llama.sites)
    streamed = [name for name in visited if name in llama.stream_sites]
    assert streamed == list(llama.stream_sites)
    assert all(torch.equal(visited[name], read[name]) for name in names)
    shapes = []
    llama.visit(tokens[:0], None, names, lambda name, value: shapes.append(value.shape))
    assert set(shapes) == {(0, 6, llama.site(name).width) for name in names}


def test_an_error_of_the_receiver_ends_the_pass_and_leaves_no_hook(llama):
    def receive(name, value):
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        llama.visit(some_tokens(1, 4), None, llama.sites, receive)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in llama.hf.modules())


def test_the_forward_pass_stops_after_the_last_site(llama):
    calls = []
    watched = [llama.hf.lm_head, *llama.hf.model.layers, llama.hf.model.norm]
    handles = [module.register_forward_pre_hook(lambda module, args: calls.append(module)) for module in watched]
    try:
        llama.run(some_tokens(1, 4), None, ["blocks.1.hook_resid_pre", "blocks.0.hook_mlp_out"])
        assert llama.hf.model.layers[2] not in calls
        calls.clear()
        mlp_called = []
        handles.append(llama.hf.model.layers[1].mlp.register_forward_hook(lambda *args: mlp_called.append(1)))
        llama.run(some_tokens(1, 4), None, ["blocks.1.hook_attn_out"])
        assert not mlp_called
        calls.clear()
        llama.run(some_tokens(1, 4), None, llama.sites)
        assert llama.hf.lm_head not in calls
    finally:
        for handle in handles:
            handle.remove()


def test_dropout_is_off_and_the_training_mode_is_given_back():
    from transformers import GPT2Config, GPT2LMHeadModel

    hf = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=16, resid_pdrop=0.5))
    hf.train()
    hf.transformer.h[1].eval()
    before = {name: module.training for name, module in hf.named_modules()}
    model = load_model(hf)
    first, second = (model.run(some_tokens(1, 8), None, model.stream_sites) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert before == {name: module.training for name, module in hf.named_modules()}


def test_no_hook_and_no_gradient_is_left_behind(llama):
    llama.run(some_tokens(1, 4), None, llama.sites)
    with pytest.raises(ValueError, match="token ids"):
        llama.run(torch.full((1, 4), VOCAB), None, llama.sites)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in llama.hf.modules())
    loss = llama.hf(some_tokens(1, 4), labels=some_tokens(1, 4)).loss  # the model still trains
    loss.backward()
    assert llama.hf.model.embed_tokens.weight.grad is not None
    llama.hf.zero_grad(set_to_none=True)


def test_a_hook_that_someone_else_put_on_the_model_acts(llama):
    tokens = some_tokens(1, 4)
    plain = llama.run(tokens, None, ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"])
    block = llama.hf.get_submodule(llama.site("blocks.0.hook_resid_post").module)
    handle = block.register_forward_hook(lambda module, args, output: output + 1)
    try:
        edited = llama.run(tokens, None, list(plain))
    finally:
        handle.remove()
    torch.testing.assert_close(edited["blocks.0.hook_resid_post"], plain["blocks.0.hook_resid_post"] + 1)
    assert not torch.allclose(edited["blocks.1.hook_resid_post"], plain["blocks.1.hook_resid_post"])


def test_fast_attention_stays_on():
    """A padded batch must not push attention off its causal path: no mask reaches the kernel."""
    seen = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, **kwargs):
        seen.append((kwargs.get("attn_mask"), kwargs.get("is_causal")))
        return original(*args, **kwargs)

    model = load_model(make_model("llama"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        model.run(some_tokens(2, 6), torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]]), ["blocks.1.hook_resid_post"])
    assert seen
    assert all(mask is None and causal for mask, causal in seen)


@pytest.mark.parametrize(
    ("tokens", "mask", "message"),
    [
        (torch.zeros(1, 25, dtype=torch.long), None, "25 positions, but the context of .* is 24"),
        (torch.full((1, 3), -1), None, r"must lie in 0\.\.63 .* found -1"),
        (torch.zeros(1, 3, dtype=torch.long), torch.tensor([[0, 1, 1]]), "padding must stand on the right"),
        (torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 4), "mask has shape"),
        (torch.zeros(1, 3), None, "must be integers"),
        (torch.zeros(3, dtype=torch.long), None, r"\[batch, pos\]"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(llama, tokens, mask, message):
    with pytest.raises(ValueError, match=message):
        llama.run(tokens, mask, llama.stream_sites)


def test_nothing_asked_and_nothing_given(llama):
    assert llama.run(some_tokens(1, 3), None, []) == {}
    assert llama.run(torch.zeros(0, 3, dtype=torch.long), None, ["hook_embed"])["hook_embed"].shape == (0, 3, 32)


def test_bfloat16_reads_bfloat16():
    model = load_model(make_model("llama").to(torch.bfloat16))
    read = model.run(some_tokens(1, 3), None, model.sites)
    assert {value.dtype for value in read.values()} == {torch.bfloat16}


def test_two_threads_read_their_own_pass(llama):
    batches = [some_tokens(2, 9), some_tokens(3, 5, seed=1)]
    wanted = [llama.run(batch, None, llama.stream_sites) for batch in batches]
    together = threading.Barrier(2)

    def run(batch):
        return llama.run(batch, None, llama.stream_sites)

    def wait(module, args):
        together.wait(60)

    hook = llama.hf.model.layers[1].register_forward_pre_hook(wait)
    try:
        with ThreadPoolExecutor(2) as pool:
            got = list(pool.map(run, batches))
    finally:
        hook.remove()
    for one, other in zip(got, wanted, strict=True):
        assert all(torch.equal(one[site], other[site]) for site in llama.stream_sites)
