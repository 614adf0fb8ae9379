"""An evaluation finds what was planted and nothing else, leaves the model as it was, goes on after a kill, and says its doubts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from probekit.activations import ArrayActivations, capture
from probekit.models import load_model
from probekit.probes import LogisticProbe
from probekit.probes.direction import Direction
from probekit.surgery.directions.random_directions import spectrum_directions
from probekit.surgery.edits.edit import edits_on
from probekit.surgery.edits.linear import ablate, steer
from probekit.surgery.edits.weight_edits import Replacement, WeightEdit
from probekit.surgery.evaluating.behaviours import custom, next_token
from probekit.surgery.evaluating.conditions import digest_of
from probekit.surgery.evaluating.damage import agreement, coherence, next_token_kl, perplexity, repetition
from probekit.surgery.evaluating.edit_notes import loudness_notes
from probekit.surgery.evaluating.edit_report import COLUMNS, EditReport, number, numbers, shown
from probekit.surgery.evaluating.effects import Comparing, Figure, p_value
from probekit.surgery.evaluating.evaluation import _spectrum, evaluate
from probekit.surgery.evaluating.generations import generations, lexicon
from probekit.surgery.evaluating.readings import reading
from probekit.surgery.shipping.files import load_edit, save_edit
from tests.surgery.spoken import LAST, speaking, texts, to_paris, unchanged, weights

pytestmark = pytest.mark.filterwarnings("ignore:.*expect nonsense")
PROMPTS = texts(24, 5, seed=1)
OTHER = texts(20, 12, seed=2)


def paris(**options):
    return next_token(PROMPTS, ["paris"], name="paris", **options)


@pytest.fixture(scope="module")
def model():
    return speaking()


@pytest.fixture(scope="module")
def planted(model) -> EditReport:
    side = [perplexity(OTHER), next_token_kl(OTHER, 100)]
    return evaluate(
        model, steer(to_paris(model), model, 1.0), behaviour=paris(), side_effects=side, strengths=(0, 1, 3, 9), damage_limit=1.2,
        prompt="paris paris ", progress=False,
    )  # fmt: skip


def test_a_planted_direction_steers_and_controls_do_not(planted):
    verdict = planted.verdict
    assert verdict.works
    assert verdict.chosen == 3
    assert verdict.worth == (1, 3)
    assert planted.p() == pytest.approx(1 / 21)
    assert planted.figure("paris").low > 1
    controls = planted.rows(measure="paris", kind="control", strength=3.0, part="report")
    assert len(controls) == 20
    assert max(row["effect"] for row in controls) < planted.figure("paris").value
    assert planted.figure("perplexity", "strength 9", part="select").value > 1.2  # why 9 was not chosen
    assert planted.figure("paris", "strength 9", part="select").value > planted.figure("paris", part="select").value


def test_a_random_direction_does_not_steer(model):
    vector = torch.randn(32, generator=torch.Generator().manual_seed(6))
    edit = steer(Direction(vector / vector.norm(), LAST, 1.0, model=model.fingerprint), model, 2.0)
    report = evaluate(model, edit, behaviour=paris(), strengths=(1, 3), progress=False)
    assert not report.verdict.works
    assert report.p() > 0.05
    assert report.verdict.words.startswith("This direction does not steer this at strength")


def test_an_effect_the_other_way_does_not_count(model):
    edit = steer(-to_paris(model), model, 2.0)
    report = evaluate(model, edit, behaviour=paris(), controls=0, progress=False)
    assert "moves the other way" in report.verdict.words
    less = evaluate(model, edit, behaviour=paris(less_is_wanted=True), controls=19, progress=False)
    assert less.verdict.works
    assert less.p() == pytest.approx(1 / 20)


def test_every_number_is_of_the_part_it_says(model, planted):
    measure = paris()
    edit = steer(to_paris(model), model, 3.0)
    plain = measure.measure(model)
    with edit.applied(model):
        edited = measure.measure(model)
    for part in ("select", "report"):
        rows = measure.parts == part
        assert planted.figure("paris", part=part).value == pytest.approx((edited - plain)[rows].mean())
        assert planted.figure("paris", part=part, of="value").value == pytest.approx(edited[rows].mean())
    ratio = perplexity(OTHER)
    ratio.measure(model)
    lost, rows = planted.scores, ~ratio.in_select
    by_hand = np.exp(np.average((lost["strength 3"]["perplexity"] - lost["plain"]["perplexity"])[rows], weights=ratio.weights[rows]))  # fmt: skip
    assert planted.figure("perplexity").value == pytest.approx(by_hand)


def test_the_interval_is_that_of_resampled_groups():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 4)
    behaviour = custom("x", range(120), lambda model: [], groups=groups)
    plain = rng.standard_normal(120)
    edited = plain + 0.3 + rng.standard_normal(30)[groups] + 0.1 * rng.standard_normal(120)
    weights = rng.integers(1, 9, 120).astype(float)
    found = Comparing(behaviour, plain, weights, np.ones(120, bool), 4000, 0).compare(edited)
    draws = []
    for _ in range(4000):  # the slow way
        rows = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 30, 30)])
        draws.append(np.average((edited - plain)[rows], weights=weights[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found.effect.value == pytest.approx(np.average(edited - plain, weights=weights))
    assert found.effect.low == pytest.approx(low, abs=0.04)
    assert found.effect.high == pytest.approx(high, abs=0.04)
    assert found.groups == 30


def test_answers_that_all_stay_the_same_are_not_known_for_certain():
    behaviour = custom("x", range(20), lambda model: [])
    behaviour.unit_range = True
    same = Comparing(behaviour, np.ones(20), np.ones(20), np.ones(20, bool), 500, 0).compare(np.ones(20))
    slack = 1 - 0.025 ** (1 / 20)
    assert (same.level.low, same.level.high) == (pytest.approx(1 - slack), 1)
    assert (same.effect.low, same.effect.high) == (pytest.approx(-slack), pytest.approx(slack))


def test_p_values_are_never_zero():
    assert p_value(1.0, [0.0] * 20) == pytest.approx(1 / 21)
    assert p_value(1.0, [1.0, 2.0, 0.0]) == pytest.approx(3 / 4)
    assert p_value(1.0, [0.0, float("nan")]) == pytest.approx(2 / 3)
    assert np.isnan(p_value(1.0, []))


def test_a_failed_scorer_gives_null_and_is_counted(model):
    calls = []

    def scorer(made):
        calls.append(made)
        return [None if i % 4 == 0 else float("paris" in text) for i, text in enumerate(made)]

    measure = generations(PROMPTS, scorer, max_new_tokens=3, name="paris")
    edit = steer(to_paris(model), model, 4.0)
    report = evaluate(model, edit, behaviour=measure, controls=19, progress=False)
    row = report.rows(measure="paris", kind="edit")[0]
    assert (row["failed"], row["n"]) == (6, 18)
    assert np.isnan(report.scores["plain"]["paris"][::4]).all()
    assert any("6 of 24 items have no score in the plain model and 6 in the edited" in note for note in report.notes)
    assert len(calls) == 1 + 1 + 19


def test_a_side_effect_that_cannot_be_measured_rules_a_strength_out(model):
    def breaks(m):
        return [1.0] * 8 if not edits_on(m) or edits_on(m)[0].strength < 2 else [1.0] * 7 + [None]

    report = evaluate(
        model, steer(to_paris(model), model, 1.0), behaviour=paris(), side_effects=[custom("fragile", range(8), breaks)],
        strengths=(1, 3), progress=False,
    )  # fmt: skip
    assert report.verdict.chosen == 1


@pytest.mark.parametrize("when", [1, 2, 5])
def test_the_edit_is_off_after_an_exception_in_a_scorer(model, when):
    before, fingerprint, calls = weights(model), model.fingerprint, []

    def scorer(made):
        calls.append(made)
        if len(calls) == when:
            raise RuntimeError("the judge is gone")
        return [0.0] * len(made)

    measure = generations(PROMPTS, scorer, max_new_tokens=2)
    for edit in (steer(to_paris(model), model, 1.0), steer(to_paris(model), model, 1.0, layers="all")):
        calls.clear()
        with pytest.raises(RuntimeError, match="the judge is gone"):
            evaluate(model, edit, behaviour=measure, progress=False)
        assert not edits_on(model)
        assert unchanged(model, before)
        assert model.fingerprint == fingerprint


def test_an_evaluation_goes_on_after_a_kill(model, tmp_path):
    calls = []

    def evaluated(folder, stop=None):
        limit = [stop]  # not a number that the scorer closes over: that would make it another scorer

        def scorer(made):
            calls.append(made)
            if len(calls) == limit[0]:
                raise KeyboardInterrupt
            return [float("paris" in text) for text in made]

        measure = generations(PROMPTS, scorer, max_new_tokens=3, name="paris")
        side = [
            perplexity(OTHER),
            next_token_kl(OTHER, 60),
            repetition(measure),
            coherence(measure),
            agreement(measure),
        ]
        return evaluate(
            model, steer(to_paris(model), model, 1.0), behaviour=measure, side_effects=side, strengths=(1, 4), controls=3, cloud=1,
            prompt="paris ", out=folder, progress=False,
        )  # fmt: skip

    whole = evaluated(None)
    total = len(calls)
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, stop=5)
    calls.clear()
    resumed = evaluated(tmp_path)
    assert len(calls) == total - 4
    calls.clear()
    again = evaluated(tmp_path)
    assert not calls
    for report in (resumed, again):
        assert report.summary() == whole.summary()
        assert report.figures == whole.figures
        assert report.examples == whole.examples
    damaged = sorted(tmp_path.glob("plain-*.json"))[0]
    damaged.write_text(damaged.read_text()[:-20])
    with pytest.raises(ValueError, match="is damaged"):
        evaluated(tmp_path)


def test_what_was_kept_is_not_taken_for_another_edit_or_behaviour(model, tmp_path):
    options = {"controls": 0, "out": tmp_path, "progress": False}
    one = evaluate(model, steer(to_paris(model), model, 1.0), behaviour=paris(), **options)
    files = set(tmp_path.iterdir())
    assert evaluate(model, steer(to_paris(model), model, 1.0), behaviour=paris(), **options).figures == one.figures
    assert set(tmp_path.iterdir()) == files
    assert evaluate(model, steer(-to_paris(model), model, 1.0), behaviour=paris(), **options).figures != one.figures
    assert len(list(tmp_path.iterdir())) == len(files) + 1  # the plain model is known
    evaluate(
        model, steer(to_paris(model), model, 1.0), behaviour=next_token(PROMPTS, ["rome"], name="paris"), **options
    )
    assert len(list(tmp_path.iterdir())) == len(files) + 3


def test_edits_that_are_not_numbers_are_not_kept(model, tmp_path):
    from probekit.surgery.edits.activation_edit import ActivationEdit

    edit = ActivationEdit("double", model, {LAST: lambda h: 2 * h})
    with pytest.raises(TypeError, match="without out="):
        evaluate(model, edit, behaviour=paris(), out=tmp_path, progress=False)
    report = evaluate(model, edit, behaviour=paris(), progress=False)
    assert any("follows no direction" in note for note in report.notes)
    assert report.verdict.words.startswith(("This edit", "It steers"))


def test_digests_tell_edits_apart(model):
    d = to_paris(model)
    each = [steer(d, model, 1.0), steer(d, model, 2.0), steer(-d, model, 1.0), ablate(d, model), steer(d, model, 1.0, where="prompt"), steer(d, model, 1.0, where=[0, 1])]  # fmt: skip
    zero, one = (WeightEdit("same name", model, [Replacement("lm_head.weight", 0, torch.tensor([5]), torch.full((1, 32), v))]) for v in (0.0, 1.0))  # fmt: skip
    assert len({digest_of(edit) for edit in (*each, zero, one)}) == 8
    assert digest_of(steer(d, model, 1.0)) == digest_of(each[0])


def test_the_same_seed_gives_the_same_report(model, planted):
    def evaluated(seed):
        return evaluate(model, steer(to_paris(model), model, 2.0), behaviour=paris(), controls=4, seed=seed, n_boot=200, progress=False)  # fmt: skip

    one, two, other = evaluated(0), evaluated(0), evaluated(1)
    assert one.figures == two.figures
    assert one.tests == two.tests
    assert one.figures != other.figures


def test_controls_of_other_kinds_and_baselines_stand_beside(model):
    d = to_paris(model)
    given = {
        "random": [-d, Direction(torch.ones(32) / 32**0.5, LAST, 99.0)],
        "as edits": [steer(-d, model, 1.0), ablate(d, model)],
    }
    weight = model.hf.lm_head.weight.detach()
    baseline = WeightEdit("louder", model, [Replacement("lm_head.weight", 0, None, 1.1 * weight)])
    report = evaluate(
        model, steer(d, model, 2.0), behaviour=paris(), control_directions=given, baselines={"louder": baseline}, progress=False
    )  # fmt: skip
    frame = report.tests_frame()
    assert frame.control.tolist() == ["random", "as edits"]
    assert frame.controls.tolist() == [2, 2]
    assert frame.p.tolist() == pytest.approx([1 / 3, 1 / 3])
    assert any("too few for p" in note for note in report.notes)
    assert "so few cannot tell" in report.verdict.words
    assert np.isfinite(report.figure("paris", "louder").value)
    longest = report.scores["random 1"]["paris"] - report.scores["plain"]["paris"]
    with steer(Direction(torch.ones(32) / 32**0.5, LAST, 1.0), model, 2.0).applied(model):
        assert np.allclose(longest, paris().measure(model) - report.scores["plain"]["paris"])


def test_controls_with_the_spectrum_of_texts_stand_beside_the_random_ones(model):
    d = to_paris(model)
    options = {"behaviour": paris(), "controls": 4, "progress": False, "seed": 3}
    report = evaluate(model, steer(d, model, 2.0), spectrum=OTHER, **options)
    assert report.tests_frame().control.tolist() == ["random", "spectrum"]
    store = capture(model, OTHER, LAST, progress=False)
    by_hand = {"spectrum": spectrum_directions(d, store, 4, seed=3, rows=store.position > 0)}
    for given in ({"spectrum": store}, {"control_directions": by_hand}):
        again = evaluate(model, steer(d, model, 2.0), **given, **options)
        for name in (f"spectrum {i}" for i in range(4)):
            np.testing.assert_allclose(again.scores[name]["paris"], report.scores[name]["paris"])
    many = evaluate(model, steer(d, model, 2.0), spectrum=texts(400, 5, seed=4), **options)  # 200 of them are read
    assert many.tests_frame().controls.tolist() == [4, 4]


def test_the_first_tokens_do_not_make_the_spectrum(model):
    """In many models they are a hundred times as long as others, all alike: every control would be the same vector."""
    rng = np.random.default_rng(0)
    rows, position = rng.normal(size=(600, 32)).astype(np.float32), np.arange(600) % 20
    rows[position == 0] += 300 * np.eye(32, dtype=np.float32)[3]
    sunk = ArrayActivations({LAST: rows}, sequence=np.arange(600) // 20, position=position)
    made = _spectrum(model, steer(to_paris(model), model, 1.0), sunk, 20, 0)["spectrum"]
    vectors = np.stack([one.vector.numpy() for one in made])
    assert np.abs((vectors @ vectors.T)[np.triu_indices(20, 1)]).mean() < 0.3
    assert np.abs(vectors[:, 3]).mean() < 0.4


def test_a_reading_the_edit_cannot_reach_is_refused(model):
    probe = LogisticProbe().fit(np.random.default_rng(0).standard_normal((20, 32)), np.arange(20) % 2)
    d = Direction(torch.ones(32) / 32**0.5, "blocks.1.hook_resid_post", 1.0)
    early = reading(OTHER, probe, "blocks.0.hook_resid_post")
    with pytest.raises(ValueError, match="before the edit"):
        evaluate(model, steer(d, model, 1.0), behaviour=early, controls=0, progress=False)
    same = reading(OTHER, probe, "blocks.1.hook_resid_post")
    report = evaluate(model, steer(d, model, 1.0), behaviour=same, controls=0, progress=False)
    assert any("where the edit itself writes" in note for note in report.notes)


def test_what_makes_no_sense_is_refused(model):
    edit = steer(to_paris(model), model, 1.0)
    refused = [
        ({"side_effects": [paris()]}, ValueError, "two measures are called 'paris'"),
        ({"damage_limit": 1.1}, ValueError, "no perplexity is among"),
        ({"damage_limit": {"x": 1}}, ValueError, "none of the side effects"),
        ({"strengths": ()}, ValueError, "one or more"),
        ({"strengths": (1, float("nan"))}, ValueError, "finite"),
        ({"strengths": (1,), "behaviour": paris(groups=[0] * 24)}, ValueError, "one group only"),
        ({"baselines": {"plain": edit}}, ValueError, "two conditions are called 'plain'"),
        ({"found_on": paris().items[:2]}, ValueError, "items are among the 2 texts that the edit was found on"),
    ]
    for options, error, words in refused:
        with pytest.raises(error, match=words):
            evaluate(model, edit, **{"behaviour": paris(), "controls": 0, "progress": False, **options})
    with pytest.raises(TypeError, match="no one strength to choose"):
        evaluate(model, ablate(to_paris(model), model), behaviour=paris(), strengths=(1, 2), progress=False)
    with pytest.raises(ValueError, match="made for the model"):
        evaluate(speaking(seed=4), edit, behaviour=paris(), progress=False)


def test_damage_beyond_its_limit_is_said(model):
    side = [perplexity(OTHER)]
    report = evaluate(
        model, steer(to_paris(model), model, 1.0), behaviour=paris(), side_effects=side, strengths=(9,), damage_limit=1.0, progress=False
    )  # fmt: skip
    assert not report.verdict.works
    assert report.verdict.steers
    assert "not within the damage allowed" in report.verdict.words
    assert report.verdict.worth == ()


def test_a_report_survives_the_disk(planted, tmp_path):
    planted.save(tmp_path / "report")
    back = EditReport.load(tmp_path / "report")
    assert back.summary() == planted.summary()
    assert back.to_frame().equals(planted.to_frame())
    assert back.tests_frame().equals(planted.tests_frame())
    assert (back.verdict, back.measures, back.examples, back.notes) == (planted.verdict, planted.measures, planted.examples, planted.notes)  # fmt: skip
    for name, scores in planted.scores.items():
        assert all(np.array_equal(scores[m], back.scores[name][m], equal_nan=True) for m in scores)
    assert back.rows(kind="edit") == planted.rows(kind="edit")
    (tmp_path / "report" / "scores.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="another report"):
        EditReport.load(tmp_path / "report")
    (tmp_path / "report" / "report.json").write_text(json.dumps({"format": "x"}))
    with pytest.raises(ValueError, match="not a report"):
        EditReport.load(tmp_path / "report")
    with pytest.raises(FileNotFoundError, match=r"no report\.json"):
        EditReport.load(tmp_path / "nowhere")


def test_the_frame_has_every_condition(planted):
    frame = planted.to_frame()
    assert tuple(frame.columns) == COLUMNS
    assert set(frame.kind) == {"plain", "edit", "control", "prompt"}
    at_chosen = frame[(frame.kind == "control") & (frame.strength == 3)]
    elsewhere = frame[(frame.kind == "control") & (frame.strength == 9)]
    assert at_chosen.condition.nunique() == 20
    assert elsewhere.condition.nunique() == 5
    assert (frame[frame.condition == "plain"].effect == frame[frame.condition == "plain"].measure.map({"paris": 0, "perplexity": 1, "next-token KL": 0})).all()  # fmt: skip
    with pytest.raises(KeyError, match="no measure"):
        planted.figure("x")
    with pytest.raises(KeyError, match="no condition"):
        planted.figure("paris", "x")


def test_what_is_said_has_intervals_controls_and_parts(planted):
    words = planted.summary()
    for part in ("Worth shipping at strength 3.", "strength 1 would do, too", "20 controls (random)", "p = 0.048", "held back", "prompt: change", "note: Strength 3 was chosen on one half of the items"):  # fmt: skip
        assert part in words


def test_texts_before_and_after_are_of_the_reported_part(model):
    measure = generations(PROMPTS, lexicon(["paris"]), max_new_tokens=3)
    report = evaluate(
        model, steer(to_paris(model), model, 1.0), behaviour=measure, strengths=(4,), controls=0, progress=False
    )
    shown = [example["prompt"] for example in report.examples]
    assert shown == [p for p, part in zip(PROMPTS, measure.parts, strict=True) if part == "report"]
    plain = measure.generate(model).texts
    with steer(to_paris(model), model, 4.0).applied(model):
        edited = measure.generate(model).texts
    rows = np.flatnonzero(~measure.in_select)
    assert [example["before"] for example in report.examples] == [plain[i] for i in rows]
    assert [example["after"] for example in report.examples] == [edited[i] for i in rows]
    assert plain != edited


def test_the_prompt_is_measured_where_there_is_one(model):
    scored = custom("scored", range(24), lambda m: [1.0] * 24)
    report = evaluate(model, steer(to_paris(model), model, 1.0), behaviour=paris(), side_effects=[scored], prompt="paris ", controls=0, progress=False)  # fmt: skip
    by_hand = next_token(["paris " + prompt for prompt in PROMPTS], ["paris"]).measure(model)
    np.testing.assert_allclose(report.scores["prompt"]["paris"], by_hand)
    assert np.isnan(report.scores["prompt"]["scored"]).all()
    assert any("scored was not measured with the prompt" in note for note in report.notes)


def test_what_was_kept_is_not_taken_for_another_scorer_or_another_edit_below(model, tmp_path):
    def evaluated(value, **below):
        measure = generations(PROMPTS, lambda made: [value] * len(made), max_new_tokens=2, name="made up")
        edit = steer(to_paris(model), model, 1.0)
        return evaluate(model, edit, behaviour=measure, controls=0, out=tmp_path, progress=False)

    assert evaluated(1.0).figure("made up", "plain", of="value").value == 1
    assert evaluated(2.0).figure("made up", "plain", of="value").value == 2
    measure = next_token(PROMPTS, ["paris"], name="paris")
    ask = {"behaviour": measure, "controls": 0, "out": tmp_path, "progress": False}
    before = evaluate(model, steer(to_paris(model), model, 1.0), **ask).figure("paris", "plain", of="value")
    with steer(to_paris(model), model, 3.0).applied(model):
        below = evaluate(model, steer(to_paris(model), model, 1.0), **ask).figure("paris", "plain", of="value")
    assert below.value > before.value


def test_numbers_that_are_read_together_end_at_the_same_place():
    assert numbers([-0.024, 9.65e-6, 0.0114], "+") == ["-0.0240", "0.0000", "+0.0114"]
    assert numbers([0.0, float("nan"), -1.0]) == ["0", "–", "-1.00"]
    assert numbers([118.0, 97.3]) == ["118", "97"]
    assert numbers([12345.6, 2.0]) == ["12,346", "2"]
    assert numbers([3e-5]) == ["3e-05"]
    assert number(1013245.0) == "1.01e+06"
    assert number(1013.2) == "1,013"
    assert shown(Figure(0.31, 0.22, 0.4), False) == "+0.310 (+0.220 to +0.400)"
    assert shown(Figure(1.02, float("nan"), float("nan")), True) == "1.02"
    assert shown(Figure(*[float("nan")] * 3), True) == "not defined"


def test_loud_activations_are_said_of_hooks_and_of_weights_alike(model):
    lines = {}
    for strength in (0.5, 200.0):
        hook = steer(to_paris(model), model, strength, layers="blocks.1.hook_mlp_out")
        for name, edit in (("hook", hook), ("weights", hook.to_weights(model))):
            before = model.fingerprint
            lines[name, strength] = loudness_notes(model, edit, [custom("not texts", range(3), lambda m: []), paris()])
            assert model.fingerprint == before
    assert lines["hook", 0.5] == lines["weights", 0.5] == []
    (said,) = lines["hook", 200.0]
    assert lines["weights", 200.0] == [said]
    assert "times as long as in the plain model" in said
    assert said.endswith("or lower the strength.")
    loud = WeightEdit("louder", model, [Replacement("model.embed_tokens.weight", 0, None, 9 * model.hf.model.embed_tokens.weight.detach())])  # fmt: skip
    (said,) = loudness_notes(model, loud, [paris()])
    assert said.startswith("The edit makes activations at blocks.0.hook_resid_pre 9.0 times as long")
    assert said.endswith("expect nonsense.")
    assert loudness_notes(load_model(model.hf), loud, [custom("names", ["a", "b"], lambda m: [])]) == []  # no tokenizer


def test_what_a_search_chose_is_reported_on_the_half_it_did_not_see(model, tmp_path):
    edit = steer(to_paris(model), model, 1.0)
    edit.searched = True
    save_edit(edit, tmp_path / "edit", model)
    for one in (edit, load_edit(tmp_path / "edit", model)):
        measure = paris()
        report = evaluate(model, one, behaviour=measure, side_effects=[perplexity(OTHER)], controls=0, progress=False)
        assert [row["part"] for row in report.rows(measure="paris", condition="edited")] == ["report"]
        assert report.rows(measure="paris", condition="edited")[0]["n"] == int((~measure.in_select).sum())
        assert any("came out of a search on one half of the items" in note for note in report.notes)
    with pytest.raises(ValueError, match="one group only"):
        evaluate(model, edit, behaviour=paris(groups=[0] * 24), controls=0, progress=False)


def test_nothing_is_worth_shipping_whose_damage_is_not_known(model):
    edit = steer(to_paris(model), model, 1.0)
    for side_effects in ([], [next_token_kl(OTHER, 100)]):
        report = evaluate(
            model, edit, behaviour=paris(), side_effects=side_effects, strengths=(1, 400), controls=19, progress=False
        )
        assert not report.verdict.words.startswith("Worth shipping")
        assert "whether it is worth shipping is not known" in report.verdict.words
        assert any("No limit of damage" in note for note in report.notes)


def test_prompting_must_be_beaten(model, planted):
    assert planted.verdict.words.startswith("Worth shipping")
    assert "That is further than prompting" in planted.verdict.words
    weak = evaluate(
        model, steer(to_paris(model), model, 0.1), behaviour=paris(), side_effects=[perplexity(OTHER)], strengths=(0.1, 0.2), damage_limit=2.0,
        prompt="paris " * 3, controls=19, progress=False,
    )  # fmt: skip
    assert weak.verdict.steers
    assert weak.figure("paris", "prompt").value > weak.figure("paris").value  # what the prompt does is more
    assert "no further than prompting for certain" in weak.verdict.words
    assert not weak.verdict.words.startswith("Worth shipping")


def test_how_reliable_the_direction_is_stands_first(model):
    direction = to_paris(model)
    told = replace(direction, provenance={**direction.provenance, "reliability": "halves agree (cosine 0.95)"})
    for one, first in ((direction, "Whether two halves"), (told, "Reliability of the direction: halves agree")):
        report = evaluate(model, steer(one, model, 1.0), behaviour=paris(), controls=0, progress=False)
        notes = [note for note in report.notes if note.startswith(("Whether two halves", "Reliability"))]
        assert len(notes) == 1
        assert notes[0].startswith(first)


def test_controls_that_were_tried_at_every_strength_choose_for_themselves(model):
    """The planted direction the wrong way round: the edit takes a negative strength, and a control that is the same line
    pointing the right way takes a positive one. Held at the edit's strength it would do nothing of the kind."""
    away = -to_paris(model)
    options = {
        "behaviour": paris(),
        "side_effects": [perplexity(OTHER)],
        "controls": 0,
        "damage_limit": 1.5,
        "progress": False,
    }
    options |= {"strengths": (-3, 3), "control_directions": {"given": [to_paris(model), away]}}
    free = evaluate(model, steer(away, model, 1.0), cloud=2, **options)
    bound = evaluate(model, steer(away, model, 1.0), cloud=1, **options)
    assert free.verdict.chosen == bound.verdict.chosen == -3
    edit = free.figure("paris").value
    tests = {
        name: one.tests_frame().query("measure == 'paris'").iloc[0] for name, one in (("free", free), ("bound", bound))
    }
    assert [tests["free"].low, tests["free"].high] == pytest.approx([edit, edit])
    assert free.p() == 1
    assert tests["bound"].low < 0
    assert bound.p() == pytest.approx(2 / 3)
    assert any("chose its own strength" in note for note in free.notes)
    assert any("With cloud=2 each control chooses" in note for note in bound.notes)
