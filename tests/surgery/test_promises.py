"""What an edit and its evaluation promise: whose space a direction is of, what is on a model, what a choice was made on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probekit as pk
from probekit import surgery
from probekit.surgery import behaviours, damage
from probekit.surgery.evaluating.searching import _change
from tests.models.tiny import make_model, make_tokenizer
from tests.surgery.worlds import direction, tiny


@pytest.fixture
def model():
    return pk.load_model(make_model("llama"), tokenizer=make_tokenizer())


def test_a_direction_of_another_space_is_refused_although_as_wide(model):
    heads = direction(model, "blocks.1.attn.hook_z")
    assert len(heads) == model.d_model
    for make in (
        lambda: surgery.orthogonalize(heads, model),
        lambda: surgery.steer(heads, model, 1.0, layers=["blocks.2.hook_resid_post"]),
        lambda: surgery.steer(direction(model), model, 1.0, layers=["blocks.1.attn.hook_z"]),
        lambda: surgery.shift_rows(heads, model, 0.5),
        lambda: surgery.shift_embeddings(heads, model, [5], 1.0),
    ):
        with pytest.raises(ValueError, match="the same numbers mean something else"):
            make()
    surgery.steer(heads, model, 1.0, layers="all")  # the same kind of site at every layer
    surgery.steer(
        direction(model), model, 1.0, layers=["blocks.1.hook_mlp_out"]
    )  # what is added to the stream is of its space


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": "oposed"}, "rows is 'opposed' or 'aligned'"),
        ({"layers": []}, "layers is a list of numbers"),
        ({"layers": 0}, "layers is a list of numbers"),
        ({"layers": "all"}, "layers is a list of numbers"),
    ],
)
def test_rows_and_layers_that_are_none_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        surgery.shift_rows(direction(model), model, 0.5, **options)


def test_a_row_that_someone_else_writes_to_meanwhile_is_noticed(model):
    before = model.fingerprint
    weight = model.hf.model.layers[1].mlp.down_proj.weight
    old = weight[0, 10].clone()
    with surgery.scale_neurons(model, 1, [0]).applied(model), torch.no_grad():
        weight[0, 10] = old + 1
    assert model.fingerprint != before
    with torch.no_grad():
        weight[0, 10] = old
    model._fingerprint = None
    assert model.fingerprint == before
    with surgery.scale_neurons(model, 1, [0]).applied(model):
        with surgery.scale_neurons(model, 2, [1]).applied(model):
            pass
        with surgery.steer(direction(model), model, 1.0).applied(model):
            pass
    assert model._fingerprint[1] == before  # known, and not computed again


def test_what_a_search_chose_stays_known(model):
    edit = surgery.steer(direction(model), model, 1.0)
    edit.searched = True
    assert edit.to_weights(model).searched
    assert edit.remade(strength=2.0).searched
    assert surgery.together(
        edit, surgery.steer(direction(model, seed=1), model, 1.0, layers=["blocks.2.hook_resid_post"])
    ).searched
    assert not surgery.steer(direction(model), model, 1.0).to_weights(model).searched


def test_what_an_edit_of_generated_tokens_cannot_reach_is_said_or_refused(model):
    edit = surgery.steer(direction(model), model, 5.0, where="generated")
    prompts = [f"the cat {word}" for word in ("runs", "sleeps", "is", "and", "of", "dog")]
    with pytest.raises(ValueError, match="generates nothing"):
        surgery.evaluate(model, edit, behaviour=behaviours.next_token(prompts, [" red"]), controls=0, progress=False)
    said = behaviours.generations(prompts, behaviours.lexicon(["red"]), max_new_tokens=3)
    report = surgery.evaluate(
        model, edit, behaviour=said, side_effects=[damage.perplexity(prompts)], controls=0, progress=False, n_boot=100
    )
    assert any("perplexity generate nothing" in note for note in report.notes)
    last = surgery.steer(direction(model), model, 5.0, where=[-1])
    report = surgery.evaluate(
        model, last, behaviour=said, side_effects=[damage.perplexity(prompts)], controls=0, progress=False, n_boot=100
    )
    assert any("see it at few tokens or none" in note for note in report.notes)


def test_it_is_said_that_controls_had_no_choice(model):
    prompts = [f"the cat {word}" for word in ("runs", "sleeps", "is", "and", "of", "dog")]
    behaviour = behaviours.next_token(prompts, [" red"])
    options = {"behaviour": behaviour, "controls": 2, "progress": False, "n_boot": 100, "cloud": 0}
    edit = surgery.steer(direction(model), model, 1.0)
    words = "(random) is measured as the edit came out"
    assert any(words in note for note in surgery.evaluate(model, edit, strengths=[-1, 1], **options).notes)
    assert not any(words in note for note in surgery.evaluate(model, edit, **options).notes)


def test_a_search_compares_items_with_themselves():
    measure = behaviours.custom("score", list(range(16)), lambda model: np.zeros(16))
    plain = np.arange(16.0)
    after = plain.copy()
    after[15] = np.nan  # the scorer has none: the others are unchanged
    assert _change(measure, after, plain) == 0
    after[8:] = np.nan
    assert np.isnan(_change(measure, after, plain))
    assert _change(measure, plain + 2, plain) == 2


def test_a_parameter_of_two_names_is_said_to_be_both():
    model = tiny("gpt2")
    edit = surgery.replace_rows(model, "transformer.wte.weight", [3], torch.zeros(1, model.d_model))
    assert "lm_head.weight" in edit.name


class Scored:
    """A scorer that holds what it learned."""

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, texts):
        return [float(len(text)) for text in texts]


def test_scorers_that_learned_other_numbers_are_told_apart():
    def digest(weights):
        return behaviours.generations(["the cat"] * 2, Scored(weights)).describe()["digest"]

    assert digest(np.ones(3)) == digest(np.ones(3))
    assert (
        len({digest(w) for w in (np.ones(3), np.zeros(3), np.ones((3, 1)), torch.full((3,), 2.0), (np.ones(3), 1))})
        == 5
    )


def test_a_damaged_journal_is_said_to_be_one(model, tmp_path):
    journal = tmp_path / "search.journal"
    journal.write_text('{"op_code": 0, "study_name": "probekit", "directions": [1, 1]}\n{"op_co\n{"more": 1}\n')
    prompts = [f"the cat {word}" for word in ("runs", "sleeps", "is", "and", "of", "dog")]
    with pytest.raises(ValueError, match="damaged one"):
        surgery.search(
            model, [direction(model)], behaviour=behaviours.next_token(prompts, [" red"]), side_effect=damage.perplexity(prompts),
            trials=2, out=journal, progress=False,
        )  # fmt: skip
