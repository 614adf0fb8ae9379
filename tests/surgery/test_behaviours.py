"""Scores an item agree with a slow reference; what has no score is NaN and never zero; groups are never split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.probes import LogisticProbe, RidgeProbe
from probekit.surgery.edits.linear import steer
from probekit.surgery.evaluating.behaviours import choices, custom, generations, lexicon, next_token, reading, rescored
from probekit.surgery.evaluating.damage import agreement, coherence, next_token_kl, other_probes, perplexity, repetition
from probekit.surgery.evaluating.running import continuations, prompt_ids
from tests.models.lens import make_hooked_transformer
from tests.models.tiny import CONFIGS, make_tokenizer
from tests.surgery.spoken import LAST, PARIS, speaking, texts, to_paris

MIXED = tuple(text for n in (2, 5, 9) for text in texts(3, n, seed=n))


def slow_greedy(model: pk.Model, ids: np.ndarray, most: int) -> list[int]:
    """One sequence, no cache, no padding."""
    out = list(ids)
    for _ in range(most):
        with torch.no_grad():
            out.append(int(model.hf(torch.tensor([out])).logits[0, -1].argmax()))
        if out[-1] == 2:
            break
    return out[len(ids) :]


@pytest.mark.parametrize("family", [f for f in CONFIGS if f != "opt_350m"])
def test_padded_generation_agrees_with_one_token_at_a_time(family):
    model = speaking(family)
    prompts = prompt_ids(model, MIXED[::2])
    made = continuations(model, prompts, 5, batch=3)
    assert [ids.tolist() for ids in made] == [slow_greedy(model, ids, 5) for ids in prompts]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_transformer_lens_without_a_tokenizer_generates_as_hugging_face(family, tmp_path):
    model = speaking(family)
    lens = pk.load_model(make_hooked_transformer(model.hf, tmp_path))
    prompts = prompt_ids(model, MIXED[::2])
    theirs = continuations(lens, prompts, 6, batch=3)
    assert [ids.tolist() for ids in theirs] == [ids[:6].tolist() for ids in continuations(model, prompts, 6, batch=3)]


def test_a_models_own_generation_settings_do_not_matter_and_stay():
    model = speaking()
    prompts = prompt_ids(model, MIXED[:3])
    before = continuations(model, prompts, 6, batch=3)
    model.hf.generation_config.update(do_sample=True, temperature=3.0, repetition_penalty=9.0)
    kept = model.hf.generation_config
    after = continuations(model, prompts, 6, batch=3)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert model.hf.generation_config is kept


def test_prompts_do_not_end_with_what_the_tokenizer_puts_after_a_text():
    from tokenizers.processors import TemplateProcessing

    plain, closing = speaking(), speaking()
    special = [("<s>", 1), ("</s>", 2)]
    closing.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=special
    )
    assert closing.tokenizer("the cat")["input_ids"][-1] == 2
    made = generations(MIXED, lexicon(["paris"]), max_new_tokens=4)
    asked = [
        made,
        coherence(made),
        next_token(MIXED, ["paris"], ["london"]),
        choices(MIXED, [" true", " false"], [0] * len(MIXED)),
    ]
    for behaviour in asked:
        each = [behaviour.measure(model) for model in (plain, closing)]
        each = [behaviour.finish(model, scores) for model, scores in zip((plain, closing), each, strict=True)]
        assert np.array_equal(*each, equal_nan=True)
    assert all(ids[-1] != 2 for ids in made.prompt_pieces(closing))


def test_a_prompt_that_leaves_no_room_is_refused():
    model = speaking()
    with pytest.raises(ValueError, match="do not fit the context of 24"):
        generations(MIXED, lexicon(["paris"])).measure(model)


def test_generations_are_scored_and_kept():
    model = speaking()
    seen = []
    behaviour = generations(MIXED, lambda made: seen.append(made) or [float(len(t)) for t in made], max_new_tokens=4)
    scores = behaviour.measure(model)
    assert seen[0] == list(behaviour.last.texts)
    assert scores.tolist() == [len(t) for t in seen[0]]
    prefixed = behaviour.with_prefix("paris paris ")
    prefixed.measure(model)
    assert [ids.tolist() for ids in prefixed.prompt_pieces(model)] == [
        ids.tolist() for ids in prompt_ids(model, ["paris paris " + text for text in MIXED])
    ]
    assert behaviour.with_prefix("paris paris ") is prefixed
    assert behaviour.last is not prefixed.last


def test_a_scorer_without_a_score_gives_nan():
    model = speaking()
    given = iter([None, float("nan"), 0.0, *[1.0] * 6])
    scores = generations(MIXED, lambda made: [next(given) for _ in made], max_new_tokens=2).measure(model)
    assert np.isnan(scores[:2]).all()
    assert scores[2:].tolist() == [0, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("scorer", "error", "words"),
    [
        (lambda made: [1.0], ValueError, "1 scores for 9 items"),
        (lambda made: ["good"] * len(made), TypeError, "gave 'good'"),
        (lambda made: [float("inf")] * len(made), ValueError, "infinite score"),
    ],
)
def test_wrong_scores_are_refused(scorer, error, words):
    with pytest.raises(error, match=words):
        generations(MIXED, scorer, max_new_tokens=2).measure(speaking())


def test_lexicon_counts_words():
    scorer = lexicon(["Paris", "rome"])
    assert scorer(["paris in ROME", "berlin", "parish rome's", ""]) == [2 / 3, 0.0, 0.0, None]
    assert lexicon(["paris"], any=True)(["a paris b", "a", ""]) == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="single word"):
        lexicon(["new york"])
    with pytest.raises(ValueError, match="no words"):
        lexicon([])


def test_next_token_agrees_with_the_logits():
    model = speaking()
    wanted = [PARIS, 7]
    for unwanted in (None, ["london", 9]):
        scores = next_token(MIXED, ["paris", 7], unwanted).measure(model)
        for text, score in zip(MIXED, scores, strict=True):
            with torch.no_grad():
                p = model.hf(torch.tensor([prompt_ids(model, [text])[0].tolist()])).logits[0, -1].double().softmax(0)
            against = 1 - p[wanted].sum() if unwanted is None else p[[make_tokenizer().convert_tokens_to_ids("london"), 9]].sum()  # fmt: skip
            assert score == pytest.approx(float((p[wanted].sum() / against).log()), abs=1e-4)
    with pytest.raises(ValueError, match="both wanted and unwanted"):
        next_token(MIXED, ["paris"], [PARIS]).measure(model)


def test_choices_agree_with_the_sum_of_log_likelihoods():
    model = speaking()
    options = ["is red", "is not", "of the city of rome"]
    right = [0, 1, 2] * 3
    scores = choices([text + " " for text in MIXED], options, right).measure(model)
    for text, answer, score in zip(MIXED, right, scores, strict=True):
        sums = []
        for option in options:
            ids = prompt_ids(model, [f"{text} {option}"])[0]
            before = len(prompt_ids(model, [text])[0])
            with torch.no_grad():
                p = model.hf(torch.tensor([ids.tolist()])).logits[0].double().log_softmax(-1)
            sums.append(sum(float(p[i - 1, ids[i]]) for i in range(before, len(ids))))
        assert score == float(int(np.argmax(sums)) == answer)
    assert choices(MIXED, [" red", " blue"], [" red"] * 9).right == [0] * 9
    with pytest.raises(ValueError, match="none of the options"):
        choices(MIXED, [" red", " blue"], [" green"] * 9)
    with pytest.raises(ValueError, match="give one a prompt"):
        choices(MIXED, [" red", " blue"], [0])


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_reading_is_what_the_probe_says_of_captured_activations(pool):
    model = speaking()
    acts = pk.capture(model, list(MIXED), [LAST], pool=pool, progress=False)
    X = acts.read(LAST)
    y = np.arange(9) % 3
    probe = LogisticProbe(C=0.1).fit(X, y)
    read = reading(MIXED, probe, LAST, pool=pool, class_=1)
    np.testing.assert_allclose(read.measure(model), probe.predict_proba(X)[:, 1], atol=1e-4)
    values = RidgeProbe(alpha=1.0).fit(X, X[:, 0])
    np.testing.assert_allclose(reading(MIXED, values, LAST, pool=pool).measure(model), values.predict(X), atol=1e-3)
    with pytest.raises(ValueError, match="3 classes"):
        reading(MIXED, probe, LAST)
    with pytest.raises(ValueError, match="no class 7"):
        reading(MIXED, probe, LAST, class_=7)


def test_a_prompt_before_a_text_changes_what_is_read_but_not_which_tokens_are():
    model = speaking()
    acts = pk.capture(model, list(MIXED), [LAST], pool="mean", progress=False)
    probe = LogisticProbe().fit(acts.read(LAST), np.arange(9) % 2)
    read = reading(MIXED, probe, LAST, pool="mean").with_prefix("paris of")
    ids = np.concatenate([prompt_ids(model, ["paris of"])[0], prompt_ids(model, [MIXED[4]])[0][1:]])
    stream = model.run(torch.tensor([ids.tolist()]), None, [LAST])[LAST][0, 3:].mean(0, keepdim=True)
    assert read.measure(model)[4] == pytest.approx(float(probe.predict_proba(stream.numpy())[0, 1]), abs=1e-4)


def test_behaviours_read_the_model_as_it_is():
    model = speaking()
    behaviour = next_token(MIXED, ["paris"])
    before = behaviour.measure(model)
    with steer(to_paris(model), model, 2.0).applied(model):
        assert (behaviour.measure(model) > before).all()
    assert np.array_equal(behaviour.measure(model), before)


def test_groups_and_equal_items_stay_in_one_part():
    groups = np.repeat(np.arange(10), 3)
    behaviour = custom("x", [f"item {i}" for i in range(30)], lambda model: [0.0] * 30, groups=groups, seed=1)
    for group in range(10):
        assert len(set(behaviour.parts[groups == group])) == 1
    assert behaviour.in_select.sum() == 15
    twice = custom("x", ["a", "b", "c", "a"], lambda model: [0.0] * 4)
    assert twice.groups[0] == twice.groups[3]
    seeds = [custom("x", range(30), lambda model: [0.0] * 30, seed=s).in_select.tolist() for s in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    assert not custom("x", ["a", "b"], lambda model: [0.0] * 2, groups=[0, 0]).in_select.any()


def test_what_is_measured_is_in_the_digest():
    digests = {
        generations(MIXED, lexicon(words), max_new_tokens=n, seed=seed).describe()["digest"]
        for words in (["paris"], ["rome"])
        for n in (2, 3)
        for seed in (0, 1)
    }
    assert len(digests) == 8


def test_models_without_a_tokenizer_take_token_ids():
    from tests.surgery.worlds import tiny

    model = tiny()
    scores = next_token([[5, 6, 7], [8, 9]], [PARIS]).measure(model)
    assert np.isfinite(scores).all()
    made = generations([[5, 6, 7], [8, 9]], lambda made: [float(len(t.split())) for t in made], max_new_tokens=3)
    assert (made.measure(model) <= 3).all()
    assert made.with_prefix("x") is None
    with pytest.raises(ValueError, match="no tokenizer"):
        next_token(["a b"], [5]).measure(model)


def test_transformer_lens_models_say_the_same(tmp_path):
    from tests.models.lens import make_hooked_transformer

    model = speaking()
    lens = pk.load_model(make_hooked_transformer(model.hf, tmp_path), tokenizer=make_tokenizer())
    made = generations(MIXED, max_new_tokens=4, batch=2)
    assert all(np.array_equal(a, b) for a, b in zip(made.generate(model).ids, made.generate(lens).ids, strict=True))
    scored = next_token(MIXED, ["paris"])
    np.testing.assert_allclose(scored.measure(lens), scored.measure(model), atol=1e-4)


def every_kind(model):
    """One of each, and the texts that some of them read."""
    acts = pk.capture(model, list(MIXED), [LAST], pool="last", progress=False)
    probe = LogisticProbe().fit(acts.read(LAST), np.arange(9) % 2)
    probe.site_ = LAST
    made = generations(MIXED, lambda texts: [float(len(t)) for t in texts], max_new_tokens=4)
    return [
        made, rescored(made, lexicon(["paris"]), name="again"), next_token(MIXED, ["paris"]), reading(MIXED, probe, LAST),
        choices(MIXED, [[f"red {w}", "blue"] for w in MIXED], [i % 2 for i in range(9)]),
        custom("lengths", MIXED, lambda m: [float(len(t)) for t in MIXED]), perplexity(MIXED), next_token_kl(MIXED, 27),
        repetition(made, 1), coherence(made), agreement(made), other_probes(MIXED, {"p": probe}, {"p": list(range(9))}),
    ]  # fmt: skip


def measured(model, behaviours):
    for behaviour in behaviours:
        behaviour.prepare(model)
    with steer(to_paris(model), model, 2.0).applied(model):
        scores = [behaviour.measure(model) for behaviour in behaviours]
    return [behaviour.finish(model, s) for behaviour, s in zip(behaviours, scores, strict=True)]


def test_one_part_alone_gives_the_scores_of_that_part():
    model = speaking()
    behaviours = every_kind(model)
    whole = measured(model, behaviours)
    for part in ("select", "report"):
        alone = [behaviour.only(part) for behaviour in behaviours]
        for behaviour, one, scores, own in zip(behaviours, alone, whole, measured(model, alone), strict=True):
            rows = behaviour.parts == part
            np.testing.assert_allclose(own, scores[rows], atol=1e-4, err_msg=behaviour.name)
            assert one.parts.tolist() == [part] * rows.sum()
            assert len(one.weights) == len(one) == len(one.groups) == rows.sum()
            assert one.describe()["digest"] != behaviour.describe()["digest"]
        assert alone[1].source is alone[0]
    with pytest.raises(ValueError, match="all are of one group"):
        custom("x", ["a", "b"], lambda m: [0.0] * 2, groups=[0, 0]).only("select")


def test_the_same_texts_can_be_scored_twice():
    model = speaking()
    made = generations(MIXED, lexicon(["paris"]), max_new_tokens=4)
    again = rescored(made, lambda texts: [float(len(t)) for t in texts], name="length")
    with pytest.raises(ValueError, match="nothing was generated yet"):
        again.measure(model)
    made.measure(model)
    assert again.measure(model).tolist() == [len(t) for t in made.last.texts]
