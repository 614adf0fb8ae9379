"""A monitor says what its probe says, keeps what it promises, and refuses what it cannot read."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

import probekit as pk
from probekit.monitoring import Monitor, fit
from probekit.probes import LogisticProbe, RidgeProbe
from tests.models.tiny import make_model, make_tokenizer
from tests.monitoring.worlds import COLD, SITE, WARM, probe_of, texts_of, tiny


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def probe(model):
    return probe_of(model)


@pytest.fixture(scope="module")
def held_out():
    return texts_of(300, 1)


@pytest.fixture(scope="module")
def monitor(model, probe, held_out):
    return fit(probe, model, *held_out, false_alarms=0.05)


def of_pool(pool, model, probe, held_out, **options):
    return fit(probe, model, *held_out, pool=pool, false_alarms=0.05, **options)


# What it says


def test_scores_are_the_probes_own(model, probe, monitor, held_out):
    texts = held_out[0][:40]
    store = pk.capture(model, texts, [SITE], pool="all", progress=False)
    wanted = probe.decision_function(store.read(SITE))
    scored = monitor.score(model, texts)
    np.testing.assert_allclose([t.score for each in scored for t in each.tokens], wanted, atol=1e-4)
    assert [each.score for each in scored] == [each.tokens[-1].score for each in scored]
    assert [each.index for each in scored] == list(range(40))
    for each in scored:
        assert "".join(t.text for t in each.tokens[1:]) == each.text
        assert np.isnan(each.tokens[0].so_far)  # the special token before the text
        assert each.alarm == (each.score > monitor.threshold)
        assert each.first_alarm == next(
            (t.position for t in each.tokens[1:] if t.so_far > monitor.running_threshold), None
        )


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_pools_are_over_the_texts_own_tokens(pool, model, probe, held_out):
    scored = of_pool(pool, model, probe, held_out).score(model, held_out[0][:10])
    for each in scored:
        own = [t.score for t in each.tokens[1:]]
        assert each.score == pytest.approx(np.mean(own) if pool == "mean" else max(own))


def test_the_planted_label_is_recovered(model, held_out):
    probe = probe_of(model, "blocks.0.hook_resid_pre", C=10)  # the last word itself
    monitor = fit(probe, model, *held_out, false_alarms=0.05)
    texts, labels = texts_of(120, 7)
    scored = monitor.score(model, texts)
    alarm = np.array([each.alarm for each in scored])
    assert alarm[labels == 1].mean() > 0.65
    assert alarm[labels == 0].mean() < 0.15
    found = monitor.evidence
    assert found.auroc > 0.9
    assert found.text.recall.value > 0.65
    assert found.text.false_alarms.low <= 0.05
    assert sum(found.texts.values()) == 300
    probability = np.array([each.probability for each in scored])
    assert probability[labels == 1].mean() > 0.6 > 0.4 > probability[labels == 0].mean()


def test_texts_are_streamed_a_window_at_a_time(monitor, model):
    texts = texts_of(30, 8)[0]
    taken = []

    def come():
        for text in texts:
            taken.append(text)
            yield text

    stream = monitor.stream(model, come(), window=4)
    first = next(stream)
    assert len(taken) == 4
    whole = monitor.score(model, texts)
    for one, other in zip([first, *stream], whole, strict=True):
        assert (one.index, one.text, one.cut) == (other.index, other.text, other.cut)
        np.testing.assert_allclose([one.score, one.p_value], [other.score, other.p_value], atol=1e-4)


@pytest.mark.parametrize(("family", "pool"), [("llama", "mean"), ("gpt2", "max"), ("gemma2", "last")])
def test_a_text_that_comes_token_by_token_says_what_the_whole_says(family, pool):
    model = tiny(family)
    monitor = of_pool(pool, model, probe_of(model, n=100), texts_of(90, 3))
    monitor = replace(monitor, running_threshold=monitor.threshold - 1.0)  # so that alarms go off
    texts = texts_of(6, 5)[0]
    rang = 0
    for text, whole in zip(texts, monitor.score(model, texts), strict=True):
        ids = model.tokenize([text])[0][0]
        follower = monitor.follow(model)
        pieces = np.split(ids, [1, 2, 5, 6])
        tokens = [token for piece in pieces for token in follower.feed(piece)]
        assert follower.position == len(ids) == len(whole.tokens)
        for one, other in zip(tokens, whole.tokens, strict=True):
            assert one.position == other.position
            assert one.alarm == other.alarm
            np.testing.assert_allclose(
                [one.score, one.so_far, one.probability], [other.score, other.so_far, other.probability], atol=1e-4
            )
        rang += any(t.alarm for t in tokens)
    assert rang


def test_words_may_come_as_text(monitor, model):
    follower = monitor.follow(model)
    tokens = follower.feed("the cat runs") + follower.feed(" in rome")
    whole = monitor.score(model, ["the cat runs in rome"])[0].tokens
    np.testing.assert_allclose([t.score for t in tokens], [t.score for t in whole], atol=1e-4)
    assert follower.feed([]) == ()
    with pytest.raises(ValueError, match="more than the 24"):
        follower.feed("the " * 30)


# What it promises


def test_a_token_judges_by_its_own_activation(monitor, model):
    """What follows changes nothing, and neither does the order in which texts are run."""
    short, long = monitor.score(model, ["the cat", "the cat runs in rome and paris"])
    np.testing.assert_allclose([t.score for t in short.tokens], [t.score for t in long.tokens[:3]], atol=1e-4)


def test_the_thresholds_come_from_texts_that_are_not_reported_on(model, probe, held_out, monitor):
    assert monitor.threshold <= monitor.running_threshold
    groups = np.arange(300) // 3
    grouped = fit(probe, model, *held_out, false_alarms=0.05, groups=groups)
    assert sum(grouped.evidence.texts.values()) == 300
    again = fit(probe, model, *held_out, false_alarms=0.05, seed=1)
    assert again.evidence != monitor.evidence
    assert fit(probe, model, *held_out, false_alarms=0.05).evidence == monitor.evidence


def test_the_rate_holds_over_many_divisions_and_draws(monitor, model):
    """Thresholds are set on scores: over draws of texts, the share of new ones over it is what was asked, at their end and anywhere."""
    from probekit.monitoring.false_alarms import threshold_for

    texts, labels = texts_of(1500, 11)
    ends, peaks = probe_scores(monitor, model, texts, labels)
    rng = np.random.default_rng(0)
    for scores in (ends, peaks):
        rates = []
        for _ in range(300):
            order = rng.permutation(len(scores))
            threshold, promised = threshold_for(0.05, scores[order[:80]], np.arange(80))
            assert promised
            rates.append((scores[order[80:]] > threshold).mean())
        assert np.mean(rates) <= 0.05 + 0.004
    assert (peaks > np.sort(ends)[-len(ends) // 20]).mean() > 0.05  # the threshold of whole texts would ring too often


def test_monitors_of_many_draws_keep_the_rate(model, probe):
    """From texts to thresholds: the false alarms on new texts, mean over monitors of fresh texts each."""
    texts, labels = texts_of(900, 50)
    scored = probe_scores(fit(probe, model, *texts_of(90, 51), false_alarms=0.1), model, texts, labels)
    rates = []
    for seed in range(24):
        monitor = fit(probe, model, *texts_of(100, 60 + seed), false_alarms=0.1, seed=seed)
        rates.append(
            [
                (scores > line).mean()
                for scores, line in zip(scored, (monitor.threshold, monitor.running_threshold), strict=True)
            ]
        )
    mean, error = np.mean(rates, 0), np.std(rates, 0) / 24**0.5
    assert (mean <= 0.1 + 2.5 * error).all()
    assert (mean >= 0.05 - 2.5 * error).all()


def probe_scores(monitor, model, texts, labels):
    """Of texts without the class: scores of whole texts, and the highest while they stream."""
    quiet = [text for text, label in zip(texts, labels, strict=True) if label == 0]
    scored = monitor.score(model, quiet)
    ends = np.array([each.score for each in scored])
    return ends, np.array([max(t.so_far for t in each.tokens[1:]) for each in scored])


def test_too_few_negatives_are_said(model, probe, held_out):
    with pytest.warns(UserWarning, match=r"1 % false alarms take 99 \(1 / rate - 1, of 149 given\)"):
        found = fit(probe, model, held_out[0][:90], held_out[1][:90], false_alarms=0.01)
    assert any("take 99" in note for note in found.notes)
    assert "take 99" in found.summary()


def test_texts_from_elsewhere_are_out_of_domain(monitor, model):
    home = monitor.score(model, texts_of(150, 21)[0])
    strange = ["two two three three two three . . ,", ", , . , . , , .", "not not not not not not"] * 5
    away = monitor.score(model, strange)
    assert np.mean([each.out_of_domain for each in home]) < 0.13
    assert np.mean([each.out_of_domain for each in away]) > 0.5
    assert all(0 < each.p_value <= 1 for each in home + away)


def test_either_class_may_raise_the_alarm(model, probe, held_out, monitor):
    turned = fit(probe, model, *held_out, false_alarms=0.05, alarm_class=0)
    assert turned.classes == ("0", "1")[::-1]
    one, other = (each.score(model, ["the cat"])[0] for each in (turned, monitor))
    assert one.score == pytest.approx(-other.score, abs=1e-4)
    with pytest.raises(KeyError, match="no class 'x'; its classes are 0, 1"):
        fit(probe, model, *held_out, alarm_class="x")


def test_token_ids_are_read_as_texts_are(monitor, model):
    text = "the cat runs in rome"
    ids = model.tokenize([text])[0][0]
    one, other = monitor.score(model, [text, ids])
    assert one.score == pytest.approx(other.score, abs=1e-5)
    bare = pk.load_model(make_model("llama"))
    spelled = monitor.score(bare, [list(map(int, ids))])[0]
    assert spelled.tokens[0].text == "1 "
    with pytest.raises(ValueError, match="no tokenizer"):
        monitor.score(bare, [text])


def test_another_way_of_making_tokens_is_refused(monitor, model, tmp_path):
    other = make_tokenizer()
    other.backend_tokenizer.pre_tokenizer = WhitespaceSplit()  # "fox," is one word
    padded = make_tokenizer()
    padded.add_special_tokens({"pad_token": "<padding>"})  # no text becomes other tokens
    loaded = Monitor.load(monitor.save(tmp_path))
    for same in (make_tokenizer(), padded):
        loaded.check(pk.load_model(make_model("llama"), tokenizer=same))
    for bad in (other, bare_tokenizer()):
        read = pk.load_model(make_model("llama"), tokenizer=bad)
        for each in (monitor, loaded):
            with pytest.raises(ValueError, match="fitted with another tokenizer, or with other special tokens"):
                each.check(read)


def bare_tokenizer():
    """Without special tokens around a text."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    return tokenizer


def test_a_sweeps_best_probe_is_taken(model):
    texts, labels = texts_of(240, 40)
    data = pk.Dataset("planted", texts=tuple(texts), labels={"warm": pk.LabelSet.from_values("warm", labels)})
    result = pk.sweep(model, data, "warm", sites=["blocks.0.hook_resid_pre", SITE], pool="mean", controls=False, n_boot=100, progress=False)  # fmt: skip
    held, truth = texts_of(120, 41)
    found = fit(result, model, held, truth == 1, false_alarms=0.1)
    assert (found.site, found.pool, found.classes) == (result.best("warm").site, "mean", ("0", "1"))
    with pytest.warns(UserWarning, match="trained on the mean of a text and is used on the last"):
        fit(result, model, held, truth, site=SITE, pool="last", false_alarms=0.1)
    named = pk.Dataset("held", texts=tuple(held), labels={"warm": pk.LabelSet.from_values("warm", truth)})
    assert fit(result, model, named, "warm", false_alarms=0.1).threshold == found.threshold
    with pytest.raises(ValueError, match="the sweep was of another model"):
        fit(result, tiny(seed=1), held, truth)
    with pytest.raises(KeyError, match="no probe at"):
        fit(result, model, held, truth, site="blocks.2.hook_resid_post")
    with pytest.raises(KeyError, match="near it: warm"):
        fit(result, model, held, truth, label_set="worm")


@pytest.mark.parametrize("calibration", ["temperature", "platt", "isotonic"])
def test_every_calibration_is_saved_and_read_back(calibration, model, probe, held_out, tmp_path):
    monitor = fit(probe, model, *held_out, calibration=calibration, pool="max", false_alarms=0.05)
    found = Monitor.load(monitor.save(tmp_path / "monitor"))
    text = held_out[0][:5]
    assert found.score(model, text) == monitor.score(model, text) or np.isnan(
        monitor.score(model, text)[0].tokens[0].so_far
    )
    for one, other in zip(found.score(model, text), monitor.score(model, text), strict=True):
        assert (one.score, one.probability, one.p_value) == (other.score, other.probability, other.p_value)
    assert found.summary() == monitor.summary()
    assert found.evidence == monitor.evidence
    assert sorted(p.name for p in (tmp_path / "monitor").iterdir()) == ["monitor.json", "monitor.safetensors"]


def test_groups_count_once_among_the_ranked_texts(model, probe, held_out, tmp_path):
    groups = np.arange(300) // 3
    grouped = fit(probe, model, *held_out, false_alarms=0.1, groups=groups)
    assert grouped.domain.groups < len(grouped.domain.ranked)
    assert Monitor.load(grouped.save(tmp_path / "new")).domain.groups == grouped.domain.groups
    with pytest.warns(UserWarning, match=r"\d+ groups of texts to rank among are too few to flag any"):
        fit(probe, model, *held_out, false_alarms=0.4, groups=np.arange(300) // 20)


def test_a_monitor_saved_before_groups_were_weighed_is_read(monitor, model, tmp_path):
    from safetensors.numpy import load_file, save

    folder = monitor.save(tmp_path / "old")
    arrays = load_file(folder / "monitor.safetensors")
    del arrays["domain/weight"]
    data = save(arrays)
    document = json.loads((folder / "monitor.json").read_text()) | {"checksum": hashlib.sha256(data).hexdigest()}
    (folder / "monitor.safetensors").write_bytes(data)
    (folder / "monitor.json").write_text(json.dumps(document))
    found = Monitor.load(folder)
    assert found.domain.groups == len(found.domain.ranked)
    assert found.score(model, ["the cat"])[0].p_value == monitor.score(model, ["the cat"])[0].p_value


# What it refuses


def test_another_model_is_refused(monitor, held_out):
    with pytest.raises(ValueError, match="has other weights"):
        monitor.score(tiny(seed=1), held_out[0])
    with pytest.raises(ValueError, match="has other weights"):
        monitor.watch(tiny(seed=1))
    with pytest.raises(ValueError, match="has other weights"):
        monitor.follow(tiny(seed=1))


def test_probes_that_do_not_fit_are_refused(model, probe, held_out):
    texts, labels = held_out
    rng = np.random.default_rng(0)
    other = LogisticProbe().fit(rng.normal(size=(20, 16)), np.arange(20) % 2)
    with pytest.raises(ValueError, match="this probe does not know where it reads"):
        fit(other, model, texts, labels)
    with pytest.raises(ValueError, match=r"the probe reads 16 numbers, and .* is 32 wide"):
        fit(other, model, texts, labels, site=SITE)
    with pytest.raises(KeyError, match="numbered 0 to 2"):
        fit(probe, model, texts, labels, site="blocks.9.hook_resid_post")
    several = LogisticProbe().fit(rng.normal(size=(30, 32)), np.arange(30) % 3)
    with pytest.raises(ValueError, match="two classes, and this one is of 3 classes"):
        fit(several, model, texts, labels, site=SITE)
    numbers = RidgeProbe().fit(rng.normal(size=(30, 32)), rng.normal(size=30))
    with pytest.raises(ValueError, match="of a continuous target"):
        fit(numbers, model, texts, labels, site=SITE)
    with pytest.raises(ValueError, match="not fitted yet"):
        fit(LogisticProbe(), model, texts, labels, site=SITE)
    with pytest.raises(TypeError, match="not of a str"):
        fit("probe", model, texts, labels)


def test_texts_and_labels_that_do_not_fit_are_refused(model, probe, monitor, held_out):
    texts, labels = held_out
    with pytest.raises(ValueError, match=r"one class only \('1'\)"):
        fit(probe, model, texts, np.ones(300))
    with pytest.raises(ValueError, match=r"values \['2'\] that the probe does not know; its classes are 0, 1"):
        fit(probe, model, texts, np.where(np.arange(300) == 3, 2, labels))
    with pytest.raises(ValueError, match=r"one a text, \[300\]"):
        fit(probe, model, texts, labels[:10])
    with pytest.raises(ValueError, match="2 texts of a class"):
        fit(probe, model, texts[:20], np.arange(20) < 2)
    with pytest.raises(ValueError, match=r"texts\[1\] is empty"):
        fit(probe, model, [texts[0], " ", *texts[2:]], labels)
    with pytest.raises(ValueError, match="three parts that show both classes"):
        fit(probe, model, texts, labels, groups=np.arange(300) // 150)
    for options, said in (
        ({"false_alarms": 0}, "above 0 and below 0.5"),
        ({"pool": "sum"}, "last, mean, max"),
        ({"calibration": "magic"}, "temperature, platt, isotonic"),
        ({"warm_up": -1}, "0 or more"),
    ):
        with pytest.raises(ValueError, match=said):
            fit(probe, model, texts, labels, **options)
    for bad in ("", "  "):
        with pytest.raises(ValueError, match=r"texts\[2\] is empty"):
            monitor.score(model, ["the", "cat", bad])
    with pytest.raises(ValueError, match=r"texts\[0\] has no token of its own"):
        monitor.score(model, [[1]])
    with pytest.raises(TypeError, match="one string"):
        monitor.score(model, "the cat")
    with pytest.raises(TypeError, match=r"texts\[0\] is neither a text nor"):
        monitor.score(model, [3.5])
    assert monitor.score(model, []) == []


def test_a_text_longer_than_the_context_is_cut_and_said(monitor, model):
    with pytest.warns(UserWarning, match=r"longer than the 24 tokens .* number 1"):
        whole, cut = monitor.score(model, ["the cat", "the " * 60])
    assert (whole.cut, cut.cut, len(cut.tokens)) == (False, True, 24)


def test_folders_that_hold_no_monitor_are_refused(monitor, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Monitor.load(tmp_path / "nothing")
    with pytest.raises(
        FileNotFoundError, match=r"it holds nothing; make one with `probekit monitor .*monitoring\.fit\("
    ):
        Monitor.load(tmp_path)
    file = tmp_path / "monitor.pkl"
    file.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(ValueError, match=r"a pickle is never opened.*`probekit monitor .*monitoring\.fit\(.*\.save\("):
        Monitor.load(file)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "result.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"it holds a sweep: probekit\.monitoring\.fit"):
        Monitor.load(tmp_path / "sweep")
    folder = monitor.save(tmp_path / "monitor")
    good = (folder / "monitor.json").read_text()
    for damaged in ("{", "[]", '{"format": 9}', json.dumps({**json.loads(good), "site": None, "evidence": {}})):
        (folder / "monitor.json").write_text(damaged)
        with pytest.raises(ValueError, match="holds no monitor, or a damaged one"):
            Monitor.load(folder)
    (folder / "monitor.json").write_text(good)
    (folder / "monitor.safetensors").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="damaged or belongs to another monitor"):
        Monitor.load(folder)
    (folder / "monitor.safetensors").unlink()
    with pytest.raises(ValueError, match="is missing"):
        Monitor.load(folder)


def test_words_of_the_planted_world_do_not_overlap():
    assert not set(WARM) & set(COLD)
    assert make_tokenizer()("happy")["input_ids"][0] == 1
