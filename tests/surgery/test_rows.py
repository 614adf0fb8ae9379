"""Single rows: which ones model surgery takes, and that neurons, heads and tokens are what their names say."""

from __future__ import annotations

import pytest
import torch

from probekit import surgery
from probekit.models.editing import changed_at
from tests.surgery.worlds import FAMILIES, direction, logits, tiny, tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_chosen_by_cosine_over_all_layers_and_moved_by_as_much_as_said(family):
    model = tiny(family)
    d = direction(model)
    cosines = surgery.row_cosines(d, model)
    assert cosines.shape[0] == model.n_layers
    edit = surgery.shift_rows(d, model, 0.5, share=0.1)
    chosen = cosines.flatten().argsort()[: round(0.1 * cosines.numel())]
    assert sum(edit.details["rows_by_layer"]) == len(chosen) == edit.details["rows"]
    for layer, count in enumerate(edit.details["rows_by_layer"]):
        assert count == (chosen // cosines.shape[1] == layer).sum()
    before = {name: p.detach().clone() for name, p in model.hf.named_parameters()}
    with edit.applied(model):
        moved = {
            name: p.detach() - before[name]
            for name, p in model.hf.named_parameters()
            if not torch.equal(p, before[name])
        }
        assert set(moved) == set(edit.parameters)
        after = surgery.row_cosines(direction(model), model)
        assert (after.flatten()[chosen] > cosines.flatten()[chosen]).all()
        assert torch.equal(
            torch.isclose(after, cosines, atol=1e-6).flatten().logical_not().nonzero().flatten(), chosen.sort().values
        )
    steps = torch.cat([m.flatten(0, -1)[m.flatten() != 0] for m in moved.values()])
    lengths = surgery.shift_rows(d, model, 1.0, share=0.1).parts[0].vector.norm()
    assert steps.square().sum().sqrt() == pytest.approx(float(lengths) * 0.5 * len(chosen) ** 0.5, rel=1e-3)
    assert edit.touched(model) == len(chosen) * model.d_model


def test_the_name_says_where_there_is_no_gate_and_controls_go_through_the_same_edit():
    model = tiny("gpt2")
    edit = surgery.shift_rows(direction(model), model, 0.5)
    assert "c_fc (the MLP's input; there is no gate)" in edit.name
    control = edit.remade(direction=direction(model, seed=7))
    assert control.details["rows"] == edit.details["rows"]
    assert edit.remade(strength=-1.0).strength == -1.0
    assert "gate_proj" in surgery.shift_rows(direction(tiny()), tiny(), 0.5).name
    opposed = surgery.shift_rows(direction(model), model, 0.5, layers=[1])
    assert [n > 0 for n in opposed.details["rows_by_layer"]] == [False, True, False]


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_a_neuron_scaled_is_its_activation_scaled(family):
    model = tiny(family)
    batch = tokens()

    def scaled(h):
        h = h.clone()
        h[..., [3, 8]] *= 0.25
        return h

    with changed_at(model, "blocks.1.mlp.hook_post", scaled):
        wanted = logits(model, batch)
    with surgery.scale_neurons(model, 1, [3, 8], 0.25).applied(model):
        torch.testing.assert_close(logits(model, batch), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_a_head_taken_out_is_its_z_at_zero(family):
    model = tiny(family)
    batch = tokens()
    size = model.site("blocks.0.attn.hook_z").width // 4

    def without(h):
        h = h.clone()
        h[..., 2 * size : 3 * size] = 0
        return h

    with changed_at(model, "blocks.0.attn.hook_z", without):
        wanted = logits(model, batch)
    with surgery.scale_heads(model, 0, [2]).applied(model):
        torch.testing.assert_close(logits(model, batch), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_an_embedding_shifted_moves_its_token_and_no_logit_otherwise(family):
    model = tiny(family)
    d = direction(model, "hook_embed")
    batch = tokens()
    edit = surgery.shift_embeddings(d, model, [int(batch[0, 3])], 2.0)
    plain = model.run(batch, None, ["hook_embed"])["hook_embed"]
    others = tokens(2, 5, seed=9) * 0 + 4
    untouched = logits(model, others)
    with edit.applied(model):
        got = model.run(batch, None, ["hook_embed"])["hook_embed"]
        if int(batch[0, 3]) != 4:
            assert torch.equal(logits(model, others), untouched)  # the unembedding is as it was
    moved = got - plain
    here = batch == batch[0, 3]
    assert moved[~here].abs().max() == 0
    torch.testing.assert_close(
        moved[here] @ d.vector, torch.full((int(here.sum()),), 2.0 * d.scale), atol=1e-4, rtol=1e-4
    )


def test_bad_rows_are_refused():
    model = tiny()
    with pytest.raises(ValueError, match="there are 4, 0 to 3"):
        surgery.scale_heads(model, 0, [4])
    with pytest.raises(ValueError, match="named twice"):
        surgery.scale_neurons(model, 0, [1, 1])
    with pytest.raises(KeyError, match=r"near it: model\.layers"):
        surgery.replace_rows(model, "model.layers.0.mlp.gate_prj.weight", [0], torch.zeros(1, 32))
    with pytest.raises(ValueError, match="share is a part"):
        surgery.shift_rows(direction(model), model, 1.0, share=4.65)
