"""The push of a direction on the logits is what the model itself makes of it after the last block."""

from __future__ import annotations

import pytest
import torch

from probekit.models import load_model
from probekit.models.editing import changed_at
from probekit.models.unembedding import logit_effects
from tests.models.lens import make_hooked_transformer
from tests.models.tiny import CONFIGS, VOCAB, make_model

FAMILIES = [family for family in CONFIGS if family not in ("gemma2", "opt_350m")]  # Gemma 2 caps its logits


def logits_of_stream(model, vectors):
    """`[vector, vocabulary]` logits with each vector as the stream after the last block."""
    tokens = torch.zeros(len(vectors), 1, dtype=torch.long)
    with torch.no_grad(), changed_at(model, model.stream_sites[-1], lambda x: vectors[:, None]):
        output = model.hf(tokens)
    return (output if isinstance(output, torch.Tensor) else output.logits)[:, 0]


def agree(model):
    vectors = torch.randn(5, model.d_model, generator=torch.Generator().manual_seed(0)) * 3
    pushed = (logits_of_stream(model, vectors) - logits_of_stream(model, -vectors)) / 2  # constants fall out
    effects = logit_effects(model, vectors)
    assert effects.shape == pushed.shape
    ratio = (pushed * effects).sum(1, keepdim=True) / effects.square().sum(1, keepdim=True)  # the norm's division
    assert (ratio > 0).all()
    torch.testing.assert_close(ratio * effects, pushed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_are_the_models_own(family):
    agree(load_model(make_model(family)))


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_effects_of_a_transformer_lens_model(family, tmp_path):
    hf = make_model(family)
    vectors = torch.randn(4, 32)
    ours = logit_effects(load_model(hf), vectors)
    theirs = logit_effects(load_model(make_hooked_transformer(hf, tmp_path)), vectors)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused():
    model = load_model(make_model("llama"))
    with pytest.raises(ValueError, match="32 dimensions"):
        logit_effects(model, torch.zeros(2, 31))
    with pytest.raises(TypeError, match="no unembedding"):
        logit_effects(load_model(make_model("llama").base_model), torch.zeros(2, 32))
    assert logit_effects(model, torch.zeros(1, 32)).shape == (1, VOCAB)
