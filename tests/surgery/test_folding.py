"""The same edit as hooks and as weights, on every architecture; what no weights can do is refused with the reason."""

from __future__ import annotations

import warnings

import pytest
import torch

from probekit import surgery
from tests.surgery.worlds import FAMILIES, direction, logits, tiny, tokens, weights

pytestmark = pytest.mark.filterwarnings("ignore:at .* the edit adds a vector")  # tiny embeddings, large steps

POST_NORM = ("gemma2", "gemma3", "opt_350m")
BIASES = ("gpt2", "gpt_neox", "gpt_neox_sequential", "opt", "opt_350m", "phi")


def cannot(family: str, site: str, what: str) -> str | None:
    """Why an architecture cannot hold an edit in its weights."""
    if family in ("gemma2", "gemma3") and site != "hook_embed":
        return "norm stands between"
    needs_bias = what != "ablate" and (site != "hook_embed" or family == "opt_350m")
    if needs_bias and family not in BIASES and not (family == "llama" and site.endswith("mlp_out")):
        return "has no bias"
    return "has no bias" if needs_bias and family == "opt_350m" and site == "hook_embed" else None


@pytest.mark.parametrize("family", FAMILIES)
def test_orthogonalised_weights_and_ablation_while_running_give_the_same_logits(family):
    model = tiny(family)
    d = direction(model)
    if family in POST_NORM:
        with pytest.raises(ValueError, match=r"norm|normalise"):
            surgery.orthogonalize(d, model)
        return
    batch = tokens()
    before, saved, fingerprint = logits(model, batch), weights(model), model.fingerprint
    edit = surgery.orthogonalize(d, model)
    with edit.applied(model):
        in_weights = logits(model, batch)
        streams = model.run(batch, None, model.stream_sites)
        for site, stream in streams.items():
            along = (stream.double() @ d.vector.double()).abs().max()
            assert along < 1e-5 * stream.norm(dim=-1).max(), site
    with surgery.ablate(d, model, layers="writers").applied(model):
        in_passing = logits(model, batch)
    assert (in_weights - before).abs().max() > 1e-2
    torch.testing.assert_close(in_weights, in_passing, atol=1e-4, rtol=1e-4)
    for name, value in model.hf.state_dict().items():
        assert torch.equal(value, saved[name]), name
    assert set(saved) == set(model.hf.state_dict())
    assert model.fingerprint == fingerprint
    assert torch.equal(logits(model, batch), before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", ["blocks.1.hook_mlp_out", "blocks.2.hook_attn_out", "hook_embed"])
@pytest.mark.parametrize("what", ["steer", "fix", "reflect", "ablate"])
def test_every_affine_edit_of_what_a_layer_puts_out_folds_into_it(family, site, what):
    model = tiny(family)
    d = direction(model, site)
    edit = {
        "steer": lambda: surgery.steer(d, model, 2.0),
        "fix": lambda: surgery.fix(d, model, 1.5),
        "reflect": lambda: surgery.reflect(d, model),
        "ablate": lambda: surgery.ablate(d, model),
    }[what]()
    if reason := cannot(family, site, what):
        with pytest.raises(ValueError, match=reason):
            edit.to_weights(model)
        return
    folded = edit.to_weights(model)
    batch = tokens()
    before = logits(model, batch)
    with edit.applied(model):
        in_passing = logits(model, batch)
    with folded.applied(model):
        in_weights = logits(model, batch)
        assert folded.touched(model) > 0
    assert (in_passing - before).abs().max() > 1e-3
    torch.testing.assert_close(in_weights, in_passing, atol=2e-4, rtol=1e-4)
    assert torch.equal(logits(model, batch), before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_steering_the_stream_is_a_bias_of_the_layer_before(family, layer):
    model = tiny(family)
    site = "blocks.0.hook_resid_pre" if layer < 0 else f"blocks.{layer}.hook_resid_post"
    d = direction(model, site)
    edit = surgery.steer(d, model, 3.0)
    reason = cannot(family, "hook_embed" if layer < 0 else "blocks.0.hook_mlp_out", "steer")
    if family == "opt_350m":
        reason = "is no sum of what is written"
    if reason:
        with pytest.raises(ValueError, match=reason):
            edit.to_weights(model)
        return
    folded = edit.to_weights(model)
    batch = tokens()
    before = logits(model, batch)
    with edit.applied(model):
        in_passing = logits(model, batch)
    with folded.applied(model):
        in_weights = logits(model, batch)
    torch.testing.assert_close(in_weights, in_passing, atol=2e-4, rtol=1e-4)
    assert torch.equal(logits(model, batch), before)


def test_what_weights_cannot_do_is_refused_with_what_can():
    model = tiny()
    d = direction(model)
    for edit, reason in (
        (surgery.ablate(d, model), "orthogonalize"),
        (surgery.steer(d, model, 1.0, where="generated"), "every token"),
        (surgery.patch(model, d.site, torch.zeros(9, 32)), "no affine map"),
    ):
        with pytest.raises(ValueError, match=reason):
            edit.to_weights(model)
    with pytest.raises(ValueError, match="added once for each"):
        surgery.ablate(d, model, to_mean=True, layers="writers")
    with pytest.raises(KeyError, match="no layer 7"):
        surgery.orthogonalize(d, model, layers=[7])


def test_layers_by_number_name_and_kind():
    model = tiny()
    d = direction(model)
    assert surgery.ablate(d, model, layers=[0, -1]).sites == ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")
    assert surgery.ablate(d, model, layers="all").sites == model.stream_sites
    assert surgery.orthogonalize(d, model, layers=1).parameters == (
        "model.layers.1.self_attn.o_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
    )


def test_biases_too_long_for_the_stream_are_said_when_they_are_made():
    model = tiny("llama")
    d = direction(model)
    with pytest.warns(UserWarning, match=r"adds a vector \d+\.\d times as long as the activations there"):
        surgery.steer(d, model, 500.0).to_weights(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surgery.steer(d, model, 0.01).to_weights(model)
