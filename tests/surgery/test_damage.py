"""Damage agrees with slow references by hand, is nothing for the plain model, and shows what an edit breaks."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.models.editing import changed_at
from probekit.probes import LogisticProbe
from probekit.surgery.edits.linear import ablate, steer
from probekit.surgery.evaluating.behaviour import Behaviour
from probekit.surgery.evaluating.damage import agreement, coherence, next_token_kl, perplexity, repetition
from probekit.surgery.evaluating.generations import generations
from probekit.surgery.evaluating.harness import lm_eval_tasks
from probekit.surgery.evaluating.readings import other_probes
from probekit.surgery.evaluating.running import prompt_ids
from tests.surgery.spoken import LAST, speaking, texts, to_paris

MIXED = tuple(text for n in (3, 8, 20) for text in texts(3, n, seed=n))


def logits_of(model: pk.Model, ids: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(torch.tensor([ids.tolist()])).logits[0].double()


def slow_losses(model: pk.Model, text: str, window: int) -> tuple[float, int]:
    """One window at a time, one token at a time."""
    own = prompt_ids(model, [text])[0][1:]
    total, count = 0.0, 0
    for first in range(0, len(own), window):
        ids = np.concatenate([[1], own[first : first + window]])
        p = logits_of(model, ids).log_softmax(-1)
        for i in range(1, len(ids)):
            total, count = total - float(p[i - 1, ids[i]]), count + 1
    return total, count


@pytest.mark.parametrize("window", [256, 6])
def test_perplexity_agrees_with_the_sum_by_hand(window):
    model = speaking()
    measure = perplexity(MIXED, window)
    scores = measure.measure(model)
    by_hand = [slow_losses(model, text, min(window, 22)) for text in MIXED]
    np.testing.assert_allclose(scores, [total / count for total, count in by_hand], rtol=1e-5)
    assert measure.weights.tolist() == [count for _, count in by_hand]


def test_perplexity_with_a_prompt_is_of_the_same_tokens():
    model = speaking()
    measure = perplexity(MIXED[:3]).with_prefix("paris of")
    scores = measure.measure(model)
    ids = np.concatenate([prompt_ids(model, ["paris of"])[0], prompt_ids(model, [MIXED[1]])[0][1:]])
    p = logits_of(model, ids).log_softmax(-1)
    assert scores[1] == pytest.approx(-np.mean([float(p[i - 1, ids[i]]) for i in range(3, len(ids))]), rel=1e-5)
    assert measure.weights.tolist() == [3, 3, 3]


def test_tokens_that_nothing_stands_before_count_neither_way():
    model = speaking()
    plain, prefixed = (perplexity([[5, 6, 7], [8, 9]]) for _ in range(2))
    assert np.isfinite(plain.measure(model)).all()
    assert plain.weights.tolist() == [2, 1]
    assert prefixed.with_prefix("x") is None


def test_kl_agrees_with_the_sum_by_hand():
    model = speaking()
    measure = next_token_kl(MIXED, most_tokens=10_000)
    measure.prepare(model)
    assert measure.measure(model).tolist() == [0.0] * 9
    edit = steer(to_paris(model), model, 3.0)
    plain = [logits_of(model, ids).log_softmax(-1) for ids in prompt_ids(model, MIXED)]
    with edit.applied(model):
        edited = [logits_of(model, ids).log_softmax(-1) for ids in prompt_ids(model, MIXED)]
        scores = measure.measure(model)
    by_hand = [float((p.exp() * (p - q)).sum(-1)[:-1].mean()) for p, q in zip(plain, edited, strict=True)]
    np.testing.assert_allclose(scores, by_hand, rtol=1e-4)
    assert (scores > 0.01).all()
    assert measure.weights.tolist() == [len(p) - 1 for p in plain]


def test_kl_looks_at_so_many_tokens_of_each_text():
    model = speaking()
    measure = next_token_kl(MIXED, most_tokens=36)
    measure.prepare(model)
    assert measure.weights.tolist() == [3] * 3 + [4] * 6
    with pytest.raises(ValueError, match="prepare"):
        next_token_kl(MIXED).measure(model)


@pytest.mark.filterwarnings("ignore:.*expect nonsense")
def test_what_an_edited_model_generates():
    model = speaking()
    source = generations(texts(6, 4), max_new_tokens=8)
    panels = [repetition(source), coherence(source), agreement(source)]
    with pytest.raises(ValueError, match="nothing was generated yet"):
        panels[0].measure(model)
    for panel in panels:
        panel.prepare(model)
    source.measure(model)
    plain = source.last
    assert panels[2].measure(model).tolist() == [1.0] * 6
    with steer(to_paris(model), model, 30.0).applied(model):
        source.measure(model)
        scores = [panel.measure(model) for panel in panels]
    assert set(source.last.texts) == {"paris paris paris paris paris paris paris paris"}
    assert scores[0].tolist() == [1 - 1 / 5] * 6
    same = [next((i for i, (a, b) in enumerate(zip(p, e, strict=False)) if a != b), 8) for p, e in zip(plain.ids, source.last.ids, strict=True)]  # fmt: skip
    assert scores[2].tolist() == [s / len(p) for s, p in zip(same, plain.ids, strict=True)]
    assert np.isnan(scores[1]).all()
    judged = panels[1].finish(model, scores[1])
    for prompt, new, found in zip(prompt_ids(model, source.items), source.last.ids, judged, strict=True):
        ids = np.concatenate([prompt, new])
        p = logits_of(model, ids).log_softmax(-1)
        assert found == pytest.approx(-np.mean([float(p[i - 1, ids[i]]) for i in range(len(prompt), len(ids))]), rel=1e-5)  # fmt: skip
    assert [len(panel) for panel in panels] == [6] * 3
    assert all(np.array_equal(panel.in_select, source.in_select) for panel in panels)


def test_repetition_counts_grams_that_were_there_before():
    source = generations(["a", "b", "c"])
    source.last = SimpleNamespace(ids=(np.arange(9), np.array([1, 2] * 5), np.array([1, 1])))
    assert repetition(source, 2).measure(None).tolist() == [0.0, 1 - 2 / 9, 0.0]
    scores = repetition(source, 4).measure(None).tolist()
    assert scores[:2] == [0.0, 1 - 2 / 7]
    assert np.isnan(scores[2])  # too short to have one: no score, not "nothing repeats"


def test_other_probes_are_right_or_wrong():
    model = speaking()
    given = texts(30, 6, seed=2)
    acts = pk.capture(model, list(given), [LAST], pool="last", progress=False)
    X, y = acts.read(LAST), np.arange(30) % 2
    probe = LogisticProbe(C=100.0).fit(X, y)
    probe.site_ = LAST
    labels = {"one": y.tolist(), "two": [None if i < 5 else "never" for i in range(30)]}
    measure = other_probes(given, {"one": probe, "two": probe}, labels)
    right = probe.predict(X) == y
    assert measure.measure(model).tolist() == [r / (1 if i < 5 else 2) for i, r in enumerate(right.tolist())]
    alone = other_probes(given, {"one": probe}, labels)
    with ablate(probe.direction(), model).applied(model):
        assert alone.measure(model).mean() < right.mean()
    with pytest.raises(KeyError, match="no labels"):
        other_probes(given, {"three": probe}, labels)
    with pytest.raises(ValueError, match="30 texts"):
        other_probes(given, {"one": probe}, {"one": [1]})


def test_a_model_that_breaks_gives_no_score_rather_than_a_number():
    model = speaking()
    measures: list[Behaviour] = [perplexity(MIXED), next_token_kl(MIXED)]
    for measure in measures:
        measure.prepare(model)
    with changed_at(model, LAST, lambda h: h * float("nan")):
        assert all(np.isnan(measure.measure(model)).all() for measure in measures)


def test_harness_tasks_need_the_harness(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match="pip install lm_eval"):
        lm_eval_tasks(["arc_easy"])


def test_harness_tasks_are_scored_document_by_document(monkeypatch):
    asked = {}

    def simple_evaluate(**given):
        asked.update(given)
        samples = [{"doc_id": i, "acc": float(i % 2), "filter": f} for f in ("first", "second") for i in (2, 0, 1)]
        return {"samples": {"arc_easy": samples}}

    for name in ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lm_eval"].simple_evaluate = simple_evaluate
    sys.modules["lm_eval.models.huggingface"].HFLM = lambda **given: given
    model = speaking()
    (task,) = lm_eval_tasks(["arc_easy"], limit=3)
    assert task.measure(model).tolist() == [0.0, 1.0, 0.0]
    assert asked["tasks"] == ["arc_easy"]
    assert asked["limit"] == 3
    assert asked["model"]["pretrained"] is model.hf
    with pytest.raises(ValueError, match="has 3 documents"):
        lm_eval_tasks(["arc_easy"], limit=4)[0].measure(model)
    with pytest.raises(KeyError, match="no metric 'f1'"):
        lm_eval_tasks(["arc_easy"], limit=3, metric="f1")[0].measure(model)
