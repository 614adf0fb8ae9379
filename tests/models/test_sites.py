"""Names of sites: which there are, what each means, and what a wrong one is told."""

from __future__ import annotations

import pytest

from probekit.models import load_model
from tests.models.tiny import CONFIGS, make_model


@pytest.fixture(scope="module")
def models():
    return {family: load_model(make_model(family)) for family in CONFIGS}


def test_names_in_forward_order(models):
    before, after = ["hook_resid_pre", "attn.hook_z", "hook_attn_out"], ["hook_resid_mid", "mlp.hook_post"]
    block = [*before, *after, "hook_mlp_out", "hook_resid_post"]
    blocks = [f"blocks.{layer}.{kind}" for layer in range(3) for kind in block]
    assert list(models["gpt2"].sites) == ["hook_embed", "hook_pos_embed", *blocks, "ln_final.hook_normalized"]
    assert list(models["llama"].sites) == ["hook_embed", *blocks, "ln_final.hook_normalized"]


def test_a_site_says_what_it_is(models):
    site = models["llama"].site("blocks.1.mlp.hook_post")
    assert (site.name, site.layer, site.width) == ("blocks.1.mlp.hook_post", 1, 48)
    assert models["gpt2"].site("blocks.2.mlp.hook_post").width == 128
    assert models["llama"].site("hook_embed").layer is None
    assert (models["llama"].d_model, models["llama"].context, models["llama"].vocab) == (32, 24, 64)


def test_stream_sites_begin_where_the_first_block_begins(models):
    posts = tuple(f"blocks.{layer}.hook_resid_post" for layer in range(3))
    assert all(model.stream_sites == ("blocks.0.hook_resid_pre", *posts) for model in models.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.3.hook_resid_post", "3 blocks, numbered 0 to 2"),
        ("blocks.-1.hook_resid_post", "3 blocks, numbered 0 to 2"),
        ("blocks.1.hook_resid_pots", "near it: blocks.1.hook_resid_post"),
        ("blocks.1.hook_z", r"near it: blocks.1.attn\.hook_z"),
        ("resid_post", "near it: blocks.0.hook_resid_post"),
        ("hook_embd", "near it: hook_embed"),
        ("hook_pos_embed", "adds no position embedding"),
        ("xyzzy", "the sites are: hook_embed"),
    ],
)
def test_an_unknown_name_is_told_the_near_ones(models, name, message):
    with pytest.raises(KeyError, match=message):
        models["llama"].site(name)


def test_layer_zero_is_not_a_site(models):
    """Layer 0 is the embedding in one tool and the first block's output in another."""
    with pytest.raises(
        TypeError, match=r"ambiguous.*'blocks.0.hook_resid_pre' enters.*'blocks.0.hook_resid_post' leaves"
    ):
        models["llama"].site(0)


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("gpt_neox", "blocks.0.hook_resid_mid", "in parallel"),
        ("phi", "blocks.0.hook_resid_mid", "in parallel"),
        ("opt_350m", "blocks.0.hook_resid_mid", "normalise after"),
        ("opt_350m", "ln_final.hook_normalized", "no norm after the last block"),
    ],
)
def test_a_site_that_the_architecture_lacks_says_why(models, family, name, message):
    assert name not in models[family].sites
    with pytest.raises(KeyError, match=message):
        models[family].site(name)


def test_a_sequential_neox_has_a_stream_in_the_middle(models):
    assert "blocks.0.hook_resid_mid" in models["gpt_neox_sequential"].sites
