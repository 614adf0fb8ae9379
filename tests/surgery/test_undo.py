"""An edit leaves the model as it was, bit for bit, in whatever order edits come; disorder is refused."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit import surgery
from probekit.surgery import edits_on
from probekit.surgery.edits.affine import AffineMap
from probekit.surgery.edits.weight_edits import Shift
from tests.surgery.worlds import SITE, direction, logits, tiny, tokens, weights

pytestmark = pytest.mark.filterwarnings("ignore:at .* the edit adds a vector")


def few_tokens(model):
    batch = torch.tensor([[5, 6, 7, 8]])
    return model.hf(batch, labels=batch).loss.float()


MAKERS = {
    "steer": lambda m, d: surgery.steer(d, m, 1.0),
    "steer in weights": lambda m, d: surgery.steer(d, m, 1.0).to_weights(m),
    "ablate": lambda m, d: surgery.ablate(d, m, layers="all"),
    "fix": lambda m, d: surgery.fix(d, m, 0.5),
    "together": lambda m, d: surgery.together(surgery.steer(d, m, 1.0), surgery.ablate(-d, m)),
    "reflect": lambda m, d: surgery.reflect(d, m, where=[0, -1]),
    "orthogonalize": lambda m, d: surgery.orthogonalize(d, m),
    "shift rows": lambda m, d: surgery.shift_rows(d, m, 0.5),
    "neurons": lambda m, d: surgery.scale_neurons(m, 1, [0, 5]),
    "heads": lambda m, d: surgery.scale_heads(m, 0, [3], 2.0),
    "embeddings": lambda m, d: surgery.shift_embeddings(d, m, [5, 7], 2.0),
    "rows": lambda m, d: surgery.replace_rows(m, next(iter(dict(m.hf.named_parameters()))), [2], torch.ones(1, 32)),
}
MAKERS |= {
    "erase": lambda m, d: surgery.erase(
        surgery.Eraser(AffineMap(-d.vector[:, None], d.vector[:, None], 0.1 * d.vector), SITE), m
    ),
    "patch": lambda m, d: surgery.patch(m, SITE, d.vector.expand(9, -1)),
    "set a feature": lambda m, d: surgery.set_feature(
        SimpleNamespace(encode=lambda h: torch.relu(h @ d.vector[:, None].to(h.dtype)), W_dec=d.vector[None]), 0, m,
        value=0.5, site=SITE,
    ),
    "scale and shift": lambda m, d: surgery.scale_and_shift(
        m, [[5, 6, 7, 8]], loss=lambda model, items: few_tokens(model), steps=1, rate=0.05, progress=False
    ),
    "LoRA": lambda m, d: surgery.lora(m, few_tokens, rank=1, steps=1, learning_rate=0.05),
    "MeZO": lambda m, d: surgery.mezo(m, few_tokens, steps=1, learning_rate=1e-2),
}  # fmt: skip
TUNED = ("scale and shift", "LoRA", "MeZO")
IN_PASSING = ("steer", "ablate", "fix", "together", "reflect", "erase", "patch", "set a feature")
MODELS = {
    (family, dtype): tiny(family, dtype) for family in ("llama", "gpt2") for dtype in (torch.float32, torch.bfloat16)
}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(MODELS, key=str)),
    st.lists(st.sampled_from(sorted(MAKERS)), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_any_edits_in_any_order_leave_every_bit_as_it_was(which, names, seed):
    model = MODELS[which]
    batch, saved, fingerprint, settings_before = tokens(), weights(model), model.fingerprint, model.hf.config.to_dict()
    before = logits(model, batch)
    edits = []
    names = [name for i, name in enumerate(names) if i == 0 or name not in TUNED]  # these want the plain model
    for i, name in enumerate(names):
        d = direction(model, seed=seed + i, model=None)
        edits.append(MAKERS[name](model, d).apply_(model))  # each made for the model as the ones before left it
    assert edits_on(model) == tuple(edits)
    for edit in reversed(edits):
        edit.undo_(model)
    assert edits_on(model) == ()
    now = model.hf.state_dict()
    assert set(now) == set(saved)
    assert all(torch.equal(now[name], saved[name]) for name in saved)
    assert model.fingerprint == fingerprint
    assert model.hf.config.to_dict() == settings_before
    assert torch.equal(logits(model, batch), before)
    tied = dict(model.hf.named_parameters(remove_duplicate=False))
    if model.hf.config.tie_word_embeddings:
        assert model.hf.get_output_embeddings().weight is model.hf.get_input_embeddings().weight, list(tied)


def test_the_fingerprint_remembered_after_undoing_is_the_true_one():
    model = tiny()
    edit = surgery.orthogonalize(direction(model), model)
    before = model.fingerprint
    with edit.applied(model):
        assert model.fingerprint != before
    model._fingerprint = None
    assert model.fingerprint == before


@pytest.mark.parametrize("name", MAKERS)
def test_an_exception_inside_undoes(name):
    model = tiny()
    saved = weights(model)
    edit = MAKERS[name](model, direction(model))
    with pytest.raises(RuntimeError, match="inside"), edit.applied(model):
        raise RuntimeError("inside")
    assert edits_on(model) == ()
    assert all(torch.equal(value, saved[key]) for key, value in model.hf.state_dict().items())
    with edit.applied(model):  # and it can be used again
        pass


def test_twice_out_of_order_and_never_applied_are_refused_and_change_nothing():
    model = tiny()
    batch = tokens()
    plain = logits(model, batch)
    one = surgery.orthogonalize(direction(model), model)
    other = surgery.steer(direction(model, seed=1), model, 1.0)
    one.apply_(model)
    with pytest.raises(ValueError, match=r"on .* already"):
        one.apply_(model)
    other.apply_(model)
    edited = logits(model, batch)
    with pytest.raises(ValueError, match="reverse of their order: first undo steer"):
        one.undo_(model)
    assert torch.equal(logits(model, batch), edited)
    other.undo_(model)
    one.undo_(model)
    with pytest.raises(ValueError, match="not applied, or undone already"):
        one.undo_(model)
    assert torch.equal(logits(model, batch), plain)


def test_an_equal_edit_made_a_second_time_is_said_and_another_is_not():
    model = tiny()
    make = lambda seed, strength: surgery.steer(direction(model, seed=seed), model, strength)  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with make(0, 1.0).applied(model), make(0, 2.0).applied(model), make(1, 1.0).applied(model):
            pass
        fires = [
            surgery.steer(
                direction(model),
                model,
                1.0,
                where=surgery.Where().where_probe_fires(direction(model, seed=seed), limit),
            )
            for seed, limit in ((0, 0.0), (1, 0.0), (0, 1.0))
        ]
        with fires[0].applied(model), fires[1].applied(model), fires[2].applied(model):
            pass
    with (
        make(0, 1.0).applied(model),
        pytest.warns(UserWarning, match=r"an equal edit is on .* already .* both act"),
        make(0, 1.0).applied(model),
    ):
        pass


def test_an_edit_left_on_inside_a_context_is_taken_off_with_it():
    model = tiny()
    plain = logits(model, tokens())
    with surgery.orthogonalize(direction(model), model).applied(model):
        surgery.steer(direction(model), model, 1.0).apply_(model)
    assert edits_on(model) == ()
    assert torch.equal(logits(model, tokens()), plain)


def test_another_model_and_its_directions_are_refused():
    model, other = tiny(), tiny("gpt2")
    d = direction(model)
    edit = surgery.orthogonalize(d, model)
    with pytest.raises(ValueError, match="made for the model"), edit.applied(other):
        pass
    with pytest.raises(ValueError, match="was found in the model"):
        surgery.steer(d, other, 1.0)
    with pytest.raises(TypeError, match="needs a Direction, not a Tensor"):
        surgery.steer(d.vector, model, 1.0)
    with torch.no_grad():
        next(model.hf.parameters())[0, 0] += 1
    with pytest.raises(ValueError, match="weights or configuration differ"), edit.applied(model):
        pass


def test_a_model_that_is_dropped_with_an_edit_on_it_is_freed():
    left = {}
    for name, make in MAKERS.items():
        model = tiny()
        make(model, direction(model)).apply_(model)
        left[name] = weakref.ref(model.hf)
    model = None
    gc.collect()
    assert [name for name, one in left.items() if one() is not None] == []


@pytest.mark.parametrize("where", ["all", [0, -1], "generated"])
def test_a_copy_of_a_model_whose_activations_are_edited_is_refused_until_the_edit_is_off(where):
    model = tiny()
    edit = surgery.steer(direction(model), model, 4.0, where=where)
    with edit.applied(model):
        edited = logits(model, tokens())
        for given in (model, model.hf, model.hf.model):
            with pytest.raises(ValueError, match=r"cannot be copied .* take the edit off"):
                copy.deepcopy(given)
        with pytest.raises(ValueError, match="cannot be copied or pickled"):
            pickle.dumps(model.hf.model.layers[1])
        assert torch.equal(logits(model, tokens()), edited)
    other = copy.deepcopy(model)
    with edit.applied(other):
        assert torch.equal(logits(other, tokens()), edited)
        assert edits_on(model) == ()
    assert torch.equal(logits(other, tokens()), logits(model, tokens()))


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in IN_PASSING])
def test_a_copy_of_a_model_whose_weights_are_edited_has_them_for_its_own(name):
    model = tiny()
    plain = logits(model, tokens())
    edit = MAKERS[name](model, direction(model))
    with edit.applied(model):
        edited = logits(model, tokens())
        other = copy.deepcopy(model)
    assert edits_on(other) == ()
    assert torch.equal(logits(other, tokens()), edited)
    assert torch.equal(logits(model, tokens()), plain)
    with pytest.raises(ValueError, match="not applied"):
        edit.undo_(other)
    with surgery.steer(direction(other), other, 1.0).applied(other):
        assert edits_on(model) == ()


def test_steps_that_half_precision_loses_are_said_with_their_share():
    half = tiny(dtype=torch.bfloat16)
    weight = half.hf.model.layers[0].mlp.up_proj.weight
    weight.data.fill_(1)
    step = torch.zeros(weight.shape[1])
    step[:8], step[8:12] = 1e-3, 8e-3  # beside 1, bfloat16 knows no smaller step than 1 / 128
    edit = surgery.WeightEdit("shift", half, [Shift("model.layers.0.mlp.up_proj.weight", 0, None, step)])
    with pytest.warns(UserWarning, match=r"20% of what .* rounding of bfloat16: 67% of its numbers stay"):
        edit.apply_(half)
    edit.undo_(half)
    with (
        pytest.warns(UserWarning, match="100% of its numbers"),
        surgery.scale_neurons(half, 1, [0, 5], 1.0005).applied(half),
    ):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="stay as they are"):
            edit.apply_(half)
        assert edits_on(half) == ()
        assert bool((weight == 1).all())
        with surgery.orthogonalize(direction(half), half).applied(half):  # its smallest steps carry little
            pass
        with surgery.scale_neurons(half, 1, [0, 5], 0.5).applied(half):
            pass
        whole = tiny()
        with surgery.shift_rows(direction(whole), whole, 1e-6).applied(whole):
            pass


def test_two_edits_from_the_same_original_go_together_unless_they_touch_the_same_weights():
    model = tiny()
    d = direction(model)
    neurons, rows, whole = (
        surgery.scale_neurons(model, 1, [0]),
        surgery.shift_rows(d, model, 0.5),
        surgery.orthogonalize(d, model),
    )
    with rows.applied(model), neurons.applied(model):
        pass
    with (
        rows.applied(model),
        whole.applied(model),
        pytest.raises(ValueError, match="make it again"),
        neurons.applied(model),
    ):
        pass


def test_bad_strengths_vectors_and_sites_are_refused():
    model = tiny()
    d = direction(model)
    with pytest.raises(ValueError, match="finite"):
        surgery.steer(d, model, float("nan"))
    with pytest.raises(ValueError, match="measured"):
        surgery.steer(direction(model, scale=None), model, 1.0)
    with pytest.raises(KeyError, match="numbered 0 to 2"):
        surgery.ablate(direction(model), model, layers=["blocks.9.hook_resid_post"])
    with pytest.raises(ValueError, match="wide"):
        surgery.orthogonalize(direction(model, "blocks.1.mlp.hook_post"), model)
    with pytest.raises(ValueError, match="center"):
        surgery.reflect(direction(model, center=None), model)
    half = tiny(dtype=torch.float16)
    with (
        pytest.raises(ValueError, match="NaN or infinite"),
        surgery.shift_rows(direction(half), half, 1e6).applied(half),
    ):
        pass
    assert edits_on(half) == ()


def test_a_step_longer_than_the_activations_is_said_with_its_ratio():
    model = tiny()
    with (
        pytest.warns(UserWarning, match=r"\d+\.\d times as long as the activations"),
        surgery.steer(direction(model), model, 1e4).applied(model),
    ):
        logits(model, tokens())


def test_quantised_and_transformer_lens_weights_are_refused_with_the_reason():
    import probekit as pk
    from tests.models.test_editing import hooked

    lens = pk.load_model(hooked())
    with pytest.raises(ValueError, match="Hugging Face model"):
        surgery.orthogonalize(direction(lens), lens)
    model = tiny()
    linear = model.hf.model.layers[0].mlp.gate_proj
    quantised = torch.nn.Module()
    quantised.register_buffer("weight", linear.weight.detach().to(torch.int8))
    model.hf.model.layers[0].mlp.gate_proj = quantised
    with pytest.raises(ValueError, match="quantised"):
        surgery.orthogonalize(direction(model), model)


def test_a_weight_changed_by_hand_under_an_edit_is_not_forgotten():
    model = tiny()
    before = model.fingerprint
    with surgery.scale_neurons(model, 1, [0]).applied(model), torch.no_grad():
        model.hf.model.layers[0].self_attn.q_proj.weight[0, 0] += 1
    assert model.fingerprint != before


@pytest.mark.parametrize("far", ["reflect", "rows", "neurons", "where a probe fires"])
def test_whatever_blows_the_activations_up_is_said(far: str) -> None:
    model = tiny("llama", torch.float32)
    d = direction(model)
    make = {
        "reflect": lambda: surgery.reflect(replace(d, center=0.0), model, strength=1e4),
        "rows": lambda: surgery.shift_rows(d, model, 1e4),
        "neurons": lambda: surgery.scale_neurons(model, 0, [1, 2], 1e6),
        "where a probe fires": lambda: surgery.steer(
            d, model, 1e5, where=surgery.Where().where_probe_fires(replace(d, center=-1e9))
        ),
    }[far]
    with pytest.warns(UserWarning, match="expect nonsense"), make().applied(model):
        model.hf(tokens())


def test_eight_bit_floats_are_quantised_weights_too() -> None:
    model = tiny("llama", torch.float32)
    layer = model.hf.model.layers[0].mlp.down_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ValueError, match=r"quantised \(torch.float8_e4m3fn\)"):
        surgery.orthogonalize(replace(direction(model), model=None), model)
