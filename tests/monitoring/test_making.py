"""A monitor from labelled texts: what it promises, what it is held against, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import probekit as pk
from probekit.cli.app import app
from probekit.data import LabelSet
from probekit.monitoring import Monitor, make
from probekit.monitoring.controls import Parts, auroc, shuffled_labels, words_alone
from probekit.monitoring.false_alarms import Rate
from probekit.monitoring.held_out import three_parts
from probekit.monitoring.making import _choose
from probekit.probes import LogisticProbe
from probekit.probes.held_out import fold_of_rows
from probekit.probes.surface import C_GRID, TextBaseline
from tests.monitoring.worlds import SITE, texts_of, tiny

SITES = ["blocks.0.hook_resid_pre", SITE]


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def given():
    return texts_of(300, 1)


@pytest.fixture(scope="module")
def made(model, given):
    return make(model, *given, sites=SITES, progress=False)


# What it finds


def test_the_planted_label_is_recovered_and_the_controls_are_not(model, made):
    assert made.classes == ("0", "1")
    assert made.evidence.auroc > 0.9
    assert made.evidence.auroc_low <= made.evidence.auroc <= made.evidence.auroc_high
    shuffled, words = made.evidence.controls["shuffled labels"], made.evidence.controls["words alone"]
    assert shuffled.low < 0.5 < shuffled.high
    assert shuffled.recall < 0.3
    assert words.low > 0.5  # the label is planted in words
    fresh, truth = texts_of(400, 2)
    alarms = np.array([each.alarm for each in made.score(model, fresh)])
    assert alarms[truth == 1].mean() > 0.3 > 0.12 > alarms[truth == 0].mean()


def test_labels_that_say_nothing_are_not_read(model, given):
    labels = np.random.default_rng(0).integers(0, 2, len(given[0]))
    found = make(model, given[0], labels, sites=SITES, controls=False, progress=False)
    assert found.evidence.auroc_low < 0.5 < found.evidence.auroc_high
    assert found.evidence.controls == {}


def test_the_site_and_penalty_are_those_of_scikit_learn_style_cross_validation(model, given):
    """Every fold fitted by itself with the estimator, no stacks."""
    texts, labels = given[0][:96], given[1][:96]
    data, positive, groups = pk.Dataset("some", texts=tuple(texts)), labels == 1, np.arange(96)
    train = np.arange(96) % 4 > 0
    found = _choose(model, data, SITES, "last", positive, groups, train, 0, False)
    fold = fold_of_rows(labels[train], groups[train], 4, 0)
    losses = {}
    for site in SITES:
        X = pk.capture(model, texts, [site], pool="last", progress=False).read(site)[train]
        for C in LogisticProbe.default_grid:
            total = 0.0
            for k in range(4):
                probe = LogisticProbe(C=C).fit(X[fold != k], labels[train][fold != k])
                said = probe.predict_log_proba(X[fold == k])
                total -= said[np.arange(len(said)), labels[train][fold == k]].sum()
            losses[site, C] = total / train.sum()
    for site in SITES:
        assert found.losses[site] == pytest.approx(min(v for (s, _), v in losses.items() if s == site), rel=1e-2)
    assert losses[found.site, found.C] == pytest.approx(min(losses.values()), rel=1e-2)
    assert np.array_equal(found.held, fold[:, None] == np.arange(4))


def test_the_rate_holds_over_draws(model):
    """The mean over monitors of the true rate is at most what was asked, with a site chosen each time."""
    fresh, truth = texts_of(600, 9)
    quiet = [text for text, label in zip(fresh, truth, strict=True) if not label]
    rates = []
    for seed in range(8):
        some = make(
            model, *texts_of(150, 20 + seed), sites=SITES, false_alarms=0.1, controls=False, seed=seed, progress=False
        )
        rates.append(np.mean([each.alarm for each in some.score(model, quiet)]))
    assert np.mean(rates) < 0.1 + 2 * np.std(rates) / np.sqrt(len(rates))


def test_no_text_or_group_is_in_two_parts(model, given):
    groups = np.arange(300) // 2
    found = make(model, *given, sites=SITES[:1], groups=groups, controls=False, progress=False)
    assert sum(found.evidence.texts.values()) == 300
    assert found.evidence.trained
    assert found.manifest["data"]["groups"] is True
    with pytest.raises(ValueError, match="19 groups of texts of class '0'"):
        make(model, *given, groups=np.arange(300) // 10, progress=False)


def test_the_report_part_has_no_say(model, given, made, monkeypatch):
    """Other labels in the last third change what is reported and nothing else."""
    part = three_parts(given[1] == 1, np.arange(300), 0)
    monkeypatch.setattr("probekit.monitoring.making.three_parts", lambda *_: part)
    turned = np.where(part == 2, 1 - given[1], given[1])
    other = make(model, given[0], turned, sites=SITES, progress=False)
    for name in ("site", "threshold", "running_threshold", "calibration"):
        assert getattr(other, name) == getattr(made, name)
    assert other.evidence.auroc == pytest.approx(1 - made.evidence.auroc)
    for name, control in made.evidence.controls.items():
        assert other.evidence.controls[name].auroc == pytest.approx(1 - control.auroc)


def test_the_same_call_gives_the_same_monitor(model, given, made):
    again = make(model, *given, sites=SITES, progress=False)
    assert again.evidence == made.evidence
    assert (again.threshold, again.site) == (made.threshold, made.site)


def test_either_of_several_classes_may_raise_the_alarm(model, given):
    labels = ["warm" if label else ("cold" if i % 2 else "mild") for i, label in enumerate(given[1])]
    with pytest.raises(ValueError, match="has 3 classes: say which raises the alarm"):
        make(model, given[0], labels, progress=False)
    found = make(model, given[0], labels, sites=SITES, alarm_class="warm", controls=False, progress=False)
    assert found.classes == ("not warm", "warm")
    two = make(model, *given, sites=SITES, alarm_class=0, controls=False, progress=False)
    assert two.classes == ("1", "0")
    with pytest.raises(KeyError, match="has no class 'hot'; its classes are cold, mild, warm"):
        make(model, given[0], labels, alarm_class="hot", progress=False)


def test_the_controls_agree_with_slow_ones():
    rng = np.random.default_rng(0)
    positive, groups = rng.random(200) < 0.4, np.arange(200) // 2
    scores = np.round(rng.normal(size=200) + positive, 1)
    pairs = scores[positive][:, None] - scores[~positive][None]
    assert auroc(scores, positive, groups)[0] == pytest.approx((pairs > 0).mean() + 0.5 * (pairs == 0).mean())
    part = np.arange(200) // 2 % 3
    X = rng.normal(size=(200, 4)).astype(np.float32)
    X[:, 0] += 3 * positive
    found = shuffled_labels(X, Parts(positive, groups, part, 0.1), 1.0, 0)
    assert found.draws == 20
    assert found.low < 0.5 < found.high
    assert found.low <= found.auroc <= found.high


def test_the_words_are_fitted_again_to_all_training_texts(given):
    """As the probe is. A word that only held-out training texts show is known; the penalty is that of the held-out part."""
    from sklearn.linear_model import LogisticRegression

    part, held = np.arange(300) % 3, np.arange(300) % 12 == 0
    positive = given[1] == 1
    texts = [
        "the dog runs" if not out else ("zebra" if yes else "okapi") for out, yes in zip(held, positive, strict=True)
    ]
    texts = [
        text if number != 2 else ("zebra" if yes else "okapi")
        for text, number, yes in zip(texts, part, positive, strict=True)
    ]
    parts = Parts(positive, np.arange(300), part, 0.1)
    assert words_alone(texts, parts, held[part == 0][:, None], 0).auroc == 1.0

    texts = given[0]
    found = words_alone(texts, parts, held[part == 0][:, None], 0)
    losses = {}
    for C in C_GRID:
        inside = (part == 0) & ~held
        chooser = TextBaseline([texts[i] for i in np.flatnonzero(inside)])
        model = LogisticRegression(C=C, max_iter=300, tol=1e-3).fit(
            chooser.features([texts[i] for i in np.flatnonzero(inside)]), positive[inside]
        )
        said = model.predict_log_proba(chooser.features([texts[i] for i in np.flatnonzero(held)]))
        losses[C] = -said[np.arange(held.sum()), positive[held].astype(int)].mean()
    train = [texts[i] for i in np.flatnonzero(part == 0)]
    reader = TextBaseline(train)
    best = min(losses, key=losses.__getitem__)
    model = LogisticRegression(C=best, max_iter=300, tol=1e-3).fit(reader.features(train), positive[part == 0])
    odds = model.decision_function(reader.features(texts))
    assert found.auroc == pytest.approx(
        auroc(odds[part == 2], positive[part == 2], np.arange(300)[part == 2])[0], abs=1e-6
    )


def test_misses_are_what_recall_leaves():
    recall = Rate.of(np.arange(40) < 30, np.arange(40))
    missed = Rate.of(np.arange(40) >= 30, np.arange(40))
    assert recall.rest.hits == missed.hits
    np.testing.assert_allclose(
        [recall.rest.value, recall.rest.low, recall.rest.high], [missed.value, missed.low, missed.high]
    )


# What it refuses


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"false_alarms": 0.01}, r"take 99 texts of class '0' to set the threshold, and 49 of the 147 given"),
        ({"false_alarms": 0.01}, r"give 297, or ask for 2 %"),
        ({"false_alarms": 0.7}, "false_alarms is a share"),
        ({"pool": "max"}, "pool must be one of last, mean"),
        ({"calibration": "magic"}, "calibration must be one of"),
        ({"groups": [0] * 300}, "of one group"),
        ({"sites": "blocks.9.hook_resid_post"}, "blocks.9"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_runs(options, error, given):
    model = tiny()
    model.hf.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    with pytest.raises((ValueError, KeyError), match=error):
        make(model, *given, progress=False, **options)


def test_labels_that_do_not_fit_are_refused(model, given):
    texts = given[0]
    with pytest.raises(ValueError, match="one class only"):
        make(model, texts, [1] * 300)
    with pytest.raises(ValueError, match="is continuous"):
        make(model, texts, np.linspace(0, 1, 300))
    with pytest.raises(ValueError, match="8 texts are of class '0', and it takes 12 at least"):
        make(model, texts[:20], given[1][:20])
    with pytest.raises(ValueError, match="one a text"):
        make(model, texts, given[1][:200])
    absent = LabelSet.from_values("label", [None, *given[1][1:]], missing="undefined")
    with pytest.raises(ValueError, match="1 texts have no label"):
        make(model, texts, absent)


# The command


def test_the_command_makes_what_score_reads(model, given, tmp_path):
    model.hf.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    rows = [f"{text},{'loud' if label else 'quiet'}" for text, label in zip(*given, strict=True)]
    (tmp_path / "texts.csv").write_text("\n".join(["words,kind", *rows]), encoding="utf-8")
    asked = ["-t", "words", "-l", "kind", "-m", str(tmp_path / "model"), "-o", str(tmp_path / "monitor")]
    site = [word for each in SITES for word in ("-s", each)]
    run = CliRunner().invoke(
        app, ["monitor", str(tmp_path / "texts.csv"), *asked, *site, "--alarm-class", "loud", "--seed", "3"]
    )
    assert run.exit_code == 0, run.exception
    for words in ("shuffled labels", "words alone", "misses", "AUROC", "calibration error", "out of domain"):
        assert words in run.output
    found = Monitor.load(tmp_path / "monitor")
    data = pk.read_csv(tmp_path / "texts.csv", text="words", label="kind")
    same = make(model, data, "kind", sites=SITES, alarm_class="loud", seed=3, progress=False)
    assert found.evidence == same.evidence
    page = (tmp_path / "monitor" / "report.html").read_text(encoding="utf-8")
    for words in ("Beside controls", "Where it reads", "words alone", "fitted the probe and chose its site"):
        assert words in page
    (tmp_path / "new.txt").write_text("the dog runs\nred happy cat\n", encoding="utf-8")
    scored = CliRunner().invoke(
        app, ["score", str(tmp_path / "new.txt"), "--probe", str(tmp_path / "monitor"), "-m", str(tmp_path / "model")]
    )
    assert scored.exit_code == 0, scored.exception
    assert "of 2 texts raise the alarm" in scored.output
    (tmp_path / "some.csv").write_text("\n".join(["words,kind", *rows, "the cat,", "a dog,"]), encoding="utf-8")
    some = [
        "monitor",
        str(tmp_path / "some.csv"),
        *asked[:-1],
        str(tmp_path / "some"),
        *site,
        "--alarm-class",
        "loud",
        "--seed",
        "3",
    ]
    assert "--missing undefined" in str(CliRunner().invoke(app, some).exception)
    with pytest.warns(UserWarning, match="2 of 302 texts have no 'kind' and are left out"):
        assert CliRunner().invoke(app, [*some, "--missing", "undefined"]).exit_code == 0
    assert Monitor.load(tmp_path / "some").evidence == found.evidence
    few = CliRunner().invoke(app, ["monitor", str(tmp_path / "texts.csv"), *asked, "--false-alarms", "0.001"])
    assert "give 2997, or ask for 2 %" in str(few.exception)
    file = CliRunner().invoke(app, ["monitor", str(tmp_path / "texts.csv"), *asked[:-1], str(tmp_path / "new.txt")])
    assert "is a file; give a folder" in str(file.exception)
