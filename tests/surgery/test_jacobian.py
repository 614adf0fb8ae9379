"""Jacobian directions against the Jacobian itself, written down on tiny models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import probekit as pk
from probekit.activations import ArrayActivations
from probekit.models.editing import changed_at
from probekit.surgery.directions.jacobian import jacobian_directions
from tests.models.tiny import make_model

SITE, LATER = "blocks.0.hook_resid_post", "blocks.2.hook_resid_post"
IDS = torch.tensor([7, 23, 41, 5, 60, 12, 33])


def lens() -> torch.nn.Module:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(n_layers=3, d_model=32, n_ctx=16, d_head=8, d_vocab=64, act_fn="gelu", seed=0)
    model = HookedTransformer(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6)
    return model


def explicit(model: pk.Model, site: str, later: str, position: int, ids: Tensor = IDS) -> Tensor:
    """`[later, site]` float64, by one pass back a row."""

    def run(step: Tensor) -> Tensor:
        def change(h: Tensor) -> Tensor:
            at = torch.zeros(len(ids), 1)
            at[position] = 1
            return h + (at * step).view(h.shape)

        read: list[Tensor] = []
        with changed_at(model, site, change):
            if later == "logits":
                output = model.hf(ids[None])
                return (output if isinstance(output, Tensor) else output.logits)[0, -1]
            with changed_at(model, later, lambda h: read.append(h) or h):
                model.hf(ids[None])
        return read[0].reshape(len(ids), -1)[-1]

    return torch.autograd.functional.jacobian(run, torch.zeros(model.site(site).width)).double()


@pytest.mark.parametrize(
    ("family", "site", "later", "position"),
    [
        ("gpt2", SITE, "logits", -1),
        ("llama", SITE, LATER, 2),
        ("gemma2", "blocks.1.hook_resid_pre", "logits", -3),
        ("gpt_neox", "blocks.0.hook_mlp_out", LATER, -1),
        ("opt", "blocks.0.hook_mlp_out", "blocks.1.attn.hook_z", 1),
        ("llama", "blocks.0.attn.hook_z", "blocks.1.mlp.hook_post", -1),
        ("lens", "blocks.1.hook_resid_pre", "logits", 2),
        ("lens", "blocks.0.attn.hook_z", "blocks.2.hook_resid_post", -1),
    ],
)
def test_against_the_jacobian_written_down(family, site, later, position):
    model = pk.load_model(lens() if family == "lens" else make_model(family))
    found = jacobian_directions(model, IDS, site=site, later=later, count=3, position=position, iterations=20)
    _, sizes, vectors = torch.linalg.svd(explicit(model, site, later, position))
    for k, direction in enumerate(found):
        assert direction.provenance["gain"] == pytest.approx(float(sizes[k]), rel=2e-3)
        assert abs(float(direction.vector.double() @ vectors[k])) > 0.999
        assert float(direction.vector[direction.vector.abs().argmax()]) > 0
        assert direction.provenance["residual"] < 1e-2
        assert (direction.site, direction.model, direction.scale) == (site, model.fingerprint, None)


def test_several_sequences_are_averaged():
    model = pk.load_model(make_model("llama"))
    other = torch.tensor([9, 50, 18, 3])
    found = jacobian_directions(model, [IDS, other.numpy()], site=SITE, later="logits", count=2, iterations=20)
    each = [explicit(model, SITE, "logits", -1, ids) for ids in (IDS, other)]
    values, vectors = torch.linalg.eigh(sum(J.T @ J for J in each) / 2)
    for k, direction in enumerate(found):
        assert direction.provenance["gain"] == pytest.approx(float(values[-1 - k].sqrt()), rel=2e-3)
        assert abs(float(direction.vector.double() @ vectors[:, -1 - k])) > 0.999
    assert found[0].provenance["rows"] == 2
    batch = torch.stack([IDS[:4], other])
    one = jacobian_directions(model, batch, site=SITE, later="logits", count=1)
    assert one[0].provenance["data"] != found[0].provenance["data"]


def test_a_step_along_the_first_changes_the_logits_by_its_gain():
    model = pk.load_model(make_model("gpt2"))
    (direction,) = jacobian_directions(model, IDS, site=SITE, later="logits", count=1)

    def logits(vector: Tensor) -> Tensor:
        def change(h: Tensor) -> Tensor:
            h = h.clone()
            h[:, -1] += vector.to(h)
            return h

        with torch.no_grad(), changed_at(model, SITE, change):
            return model.hf(IDS[None]).logits[0, -1].double()

    model.hf.double()
    step = 1e-4
    random = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(0)), dim=0)
    moved, by_chance = (
        ((logits(step * v) - logits(-step * v)) / (2 * step)).norm() for v in (direction.vector, random)
    )
    assert float(moved) == pytest.approx(direction.provenance["gain"], rel=1e-2)
    assert moved > 1.5 * by_chance


def test_the_model_is_left_as_it_was_and_the_seed_decides():
    model = pk.load_model(make_model("gpt2"))
    model.hf.train()
    frozen = next(model.hf.parameters())
    frozen.requires_grad_(False)
    before = model.fingerprint
    with torch.inference_mode():
        one, same, other = (
            jacobian_directions(model, IDS, site=SITE, later=LATER, count=2, iterations=2, seed=s) for s in (0, 0, 1)
        )
    assert torch.equal(one[0].vector, same[0].vector)
    assert not torch.equal(one[1].vector, other[1].vector)
    assert all(module.training for module in model.hf.modules())
    assert [p.requires_grad for p in model.hf.parameters()] == [False] + [True] * (len(list(model.hf.parameters())) - 1)
    assert all(p.grad is None for p in model.hf.parameters())
    assert model.fingerprint == before


def test_scale_is_measured_on_activations():
    model = pk.load_model(make_model("llama"))
    X = np.random.default_rng(0).normal(size=(40, 32)).astype("float32")
    (direction,) = jacobian_directions(model, IDS, site=SITE, later="logits", count=1, activations=ArrayActivations({SITE: X}))  # fmt: skip
    assert direction.scale == pytest.approx((X @ direction.vector.numpy()).std(), rel=1e-5)


def test_what_makes_no_sense_is_refused():
    model = pk.load_model(make_model("llama"))
    good = {"site": SITE, "later": "logits", "count": 1}
    for change, error, words in (
        ({"later": "blocks.0.hook_mlp_out"}, ValueError, "does not come after"),
        ({"later": SITE}, ValueError, "does not come after"),
        ({"later": "blocks.1.hook_resid_mid"}, ValueError, "is read beside the stream"),
        ({"later": "ln_final.hook_normalized"}, ValueError, "is read beside the stream"),
        ({"later": "blocks.7.hook_resid_post"}, KeyError, "numbered 0 to 2"),
        ({"site": "blocks.0.hook_resid_mid"}, ValueError, "can be read but not changed"),
        ({"count": 33}, ValueError, "count must lie in 1..32"),
        ({"position": 7}, ValueError, "position 7 lies outside sequence 0, which has 7 tokens"),
    ):
        with pytest.raises(error, match=words):
            jacobian_directions(model, IDS, **{**good, **change})
    for tokens, error, words in (
        ("the city", TypeError, "not text"),
        (["the city"], TypeError, "not text"),
        ([], ValueError, r"integers \[pos\]"),
        (torch.ones(3), ValueError, r"integers \[pos\]"),
    ):
        with pytest.raises(error, match=words):
            jacobian_directions(model, tokens, **good)
    # Two things that are added to the stream side by side do not feel each other.
    parallel = pk.load_model(make_model("gpt_neox"))
    with pytest.raises(ValueError, match=r"reaches 'blocks\.0\.hook_mlp_out'"):
        jacobian_directions(parallel, IDS, site="blocks.0.hook_attn_out", later="blocks.0.hook_mlp_out", count=1)
