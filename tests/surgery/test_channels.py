"""Channels folded into the weights compute what they computed in passing; fitting lowers the loss and is undone."""

from __future__ import annotations

import pytest
import torch

import probekit as pk
from probekit import surgery
from probekit.surgery.edits.channels import fold_channels, new_channels, next_token_loss, unfolded
from tests.models.tiny import make_model, make_tokenizer
from tests.surgery.worlds import FAMILIES, logits, tiny, tokens, weights


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "opt_350m"])
def test_folded_equals_unfolded(family):
    model = tiny(family)
    channels = new_channels(model)
    assert len(channels) >= 2 * model.n_layers
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in channels:
            one.scale.add_(0.2 * torch.randn(one.scale.shape, generator=generator))
            if one.shift is not None:
                one.shift.add_(0.2 * torch.randn(one.shift.shape, generator=generator))
    plain = logits(model, tokens())
    with unfolded(model, channels):
        wanted = logits(model, tokens())
    with fold_channels(model, channels).applied(model):
        torch.testing.assert_close(logits(model, tokens()), wanted, atol=1e-4, rtol=1e-4)
    assert (wanted - plain).abs().max() > 1e-2
    assert torch.equal(logits(model, tokens()), plain)


def test_fitting_lowers_the_loss_and_leaves_the_model_as_it_was():
    model = pk.load_model(make_model("gpt2"), tokenizer=make_tokenizer())
    texts = ["the cat runs and the dog sleeps", "paris is a city of france", "rome is in italy"]
    saved = weights(model)
    before = float(next_token_loss(model, texts))
    edit = surgery.scale_and_shift(model, texts, steps=60, rate=0.05, progress=False)
    again = surgery.scale_and_shift(model, texts, steps=60, rate=0.05, progress=False)
    assert all(torch.equal(a.values, b.values) for a, b in zip(edit.parts, again.parts, strict=True))
    assert all(torch.equal(value, saved[name]) for name, value in model.hf.state_dict().items())
    assert all(p.requires_grad for p in model.hf.parameters())
    with edit.applied(model):
        assert float(next_token_loss(model, texts)) < 0.9 * before
    assert float(next_token_loss(model, texts)) == before
    with pytest.raises(ValueError, match="lower the rate"):
        surgery.scale_and_shift(model, texts, loss=lambda m, t: next_token_loss(m, t) * float("nan"), progress=False)
