"""A search finds what steers, keeps to the select part, goes on where it stopped, and refuses another question's file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probekit import surgery
from probekit.surgery.evaluating.behaviours import next_token
from probekit.surgery.evaluating.damage import next_token_kl
from probekit.surgery.evaluating.searching import bell
from tests.surgery.worlds import direction, tiny, tokens, weights

pytestmark = pytest.mark.filterwarnings("ignore:at .* the edit adds a vector", "ignore:.*experimental:Warning")


def setting():
    """A model, a direction a layer that writes one token, and what to measure."""
    model = tiny("gpt2")
    row = model.hf.lm_head.weight.detach()[9]
    layers = [f"blocks.{i}.hook_resid_post" for i in range(3)]
    directions = [direction(model, site, seed=i) for i, site in enumerate(layers[:2])]
    directions.append(type(directions[0])(row / row.norm(), layers[2], scale=4.0, model=model.fingerprint))
    prompts = [t.tolist() for t in tokens(16, 5)]
    behaviour = next_token(prompts, [9], name="token 9", less_is_wanted=True)
    return model, directions, behaviour, next_token_kl([t.tolist() for t in tokens(6, 8, seed=3)], 64)


def test_it_finds_the_layer_that_writes_the_token_and_its_menu_is_a_frontier():
    model, directions, behaviour, kl = setting()
    saved = weights(model)
    found = surgery.search(
        model, directions, behaviour=behaviour, side_effect=kl, kinds=["steer", "ablate"], trials=16, progress=False
    )
    assert all(torch.equal(v, saved[k]) for k, v in model.hf.state_dict().items())
    menu = found.frontier
    effects, harm = [t["effect"] for t in menu], [t["damage"] for t in menu]
    assert effects == sorted(effects, reverse=True)
    assert harm == sorted(harm)
    strongest = menu[-1]
    assert strongest["effect"] < -0.3
    assert strongest["kind"] == "steer"
    assert strongest["strength"] < 0
    assert strongest["peak"] > 1
    edit = found.edit(strongest["number"])
    plain = behaviour.measure(model)
    with edit.applied(model):
        change = (behaviour.measure(model) - plain)[behaviour.in_select].mean()
    assert change == pytest.approx(strongest["effect"], rel=1e-4)
    assert set(found.to_frame().frontier) == {True, False}
    drawn = found.plot().data
    assert len(drawn) == 3
    assert [text for text in drawn[0].text if text]  # the frontier tells the numbers that `edit` takes
    assert {text for text in drawn[0].text if text} <= {str(trial["number"]) for trial in found.frontier}
    assert sum(len(trace.x) for trace in drawn[1:]) == len(found.trials)
    assert all(text.startswith("<b>trial ") for trace in drawn[1:] for text in trace.text)
    with pytest.raises(KeyError, match="no trial 99"):
        found.edit(99)


def test_a_search_that_was_killed_goes_on_to_the_same_trials(tmp_path, monkeypatch):
    model, directions, behaviour, kl = setting()
    ask = {"behaviour": behaviour, "side_effect": kl, "trials": 14, "progress": False}
    whole = surgery.search(model, directions, **ask)
    plain = type(behaviour).measure
    calls = iter(range(7))

    def killed(self, model):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return plain(self, model)

    monkeypatch.setattr(type(behaviour), "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        surgery.search(model, directions, **ask, out=tmp_path / "study.journal")
    assert surgery.edits_on(model) == ()
    monkeypatch.setattr(type(behaviour), "measure", plain)
    again = surgery.search(model, directions, **ask, out=tmp_path / "study.journal")
    assert again.to_frame().equals(whole.to_frame())
    with pytest.raises(ValueError, match="another seed"):
        surgery.search(model, directions, **ask, out=tmp_path / "study.journal", seed=1)


def test_bad_questions_are_refused():
    model, directions, behaviour, kl = setting()
    for changed, message in (
        ({"directions": []}, "needs directions"),
        ({"directions": [directions[0], directions[0]]}, "two directions at one site"),
        ({"directions": [direction(model, "blocks.0.hook_mlp_out")]}, "not a site of the stream"),
        ({"kinds": ["prompt"]}, "kinds are some of"),
        ({"trials": 0}, "1 or more"),
    ):
        given = {"directions": directions, "behaviour": behaviour, "side_effect": kl} | changed
        with pytest.raises(ValueError, match=message):
            surgery.search(model, given.pop("directions"), **given, progress=False)


def test_a_bell_has_height_one_at_its_nearest_layer():
    heights = bell(6, 2.4, 0.5)
    assert heights.max() == 1
    assert heights.argmax() == 2
    assert (np.diff(heights[2:]) < 0).all()
