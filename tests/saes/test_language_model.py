"""Names from a language model behind a real HTTP server: planted words are found, noise and nonsense get no name, and what
was answered before a server failed is kept."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import saes
from probekit.data import LabelSet
from saes.naming import endpoint, questions
from saes.naming.endpoint import Endpoint, NoAnswer
from tests.saes.chat_server import dice, oracle, say, serving
from tests.saes.page_world import HOSTILE, world

WORDS = [f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in ("mno", "rst", "xyz")]
LENGTH, SEQUENCES = 20, 400
PLANTED = (7, 11, 20)


class Apart:
    """An SAE whose decoder vectors are orthogonal."""

    def __init__(self, width: int) -> None:
        self.W_dec = torch.eye(width)


class Read:
    """Features made by hand of random words: three fire on a word each, the others at random."""

    def __init__(self, width: int = 4) -> None:
        rng = np.random.default_rng(0)
        self.token, self.width = rng.integers(0, len(WORDS), SEQUENCES * LENGTH), width
        dense = (rng.random((len(self.token), width)) < 0.01) * (1 + rng.random((len(self.token), width)))
        for feature, word in enumerate(PLANTED):
            dense[:, feature] = (self.token == word) * (1 + rng.random(len(self.token)))
        self.matrix = sparse.csc_array(dense.astype(np.float32))
        self.sequence = np.arange(len(self.token)) // LENGTH
        self.position = np.arange(len(self.token)) % LENGTH
        self.item, self.prefix = np.arange(len(self.token)), np.arange(len(self.token)).astype(np.uint64)

    def __len__(self):
        return len(self.token)


READ = Read()
LABELS = LabelSet(
    "seen", (READ.token == PLANTED[0])[:, None].astype(int), "binary", "token", ("no", "yes"), (WORDS[PLANTED[0]],)
)


def decode(ids):
    return [f" {WORDS[i]}" for i in ids]


def named(url, folder, labels=None, read=READ, **options):
    given = {key: options.pop(key) for key in ("least_accuracy", "false_names", "seed") if key in options}
    asked = saes.LanguageModel(url, "tiny", folder / "cache", **options)
    return saes.name(Apart(read.width), read, labels, language_model=asked, decode=decode, **given)


def same(one, other):
    pd.testing.assert_frame_equal(one.to_frame(), other.to_frame())
    return one.notes == other.notes


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSE", 0.01)
    monkeypatch.setattr(endpoint, "ATTEMPTS", 2)


def test_planted_words_are_named_and_noise_is_not(tmp_path):
    with serving(oracle) as (url, chat):
        names = named(url, tmp_path)
    assert [(name.feature, name.text) for name in names] == [(i, f"the word {WORDS[w]}") for i, w in enumerate(PLANTED)]
    assert names.notes == ()
    for name in names:
        evidence = name.evidence
        assert name.source == "language_model"
        assert (evidence.precision, evidence.balanced_accuracy, evidence.hard_accuracy) == (1.0, 1.0, 1.0)
        assert evidence.fuzzing == evidence.strictest_accuracy == 1.0
        assert evidence.q < 1e-4
        assert np.isnan(evidence.recall)
        assert np.isnan(evidence.f1)
        assert (name.rival, name.merit) == ("the word zzz", 1.0)
        assert name.rival_merit == 0.5
    assert abs(np.mean([name.evidence.shuffled for name in names]) - 0.5) < 0.1
    assert {request["model"] for request in chat.asked} == {"tiny"}
    assert {(request["temperature"], request["seed"]) for request in chat.asked} == {(0, 0)}
    assert not any("Authorization" in headers for headers in chat.headers)


def test_windows_that_judge_are_of_other_sequences_than_those_that_explain(tmp_path):
    with serving(oracle) as (url, chat):
        named(url, tmp_path, features=[0])
    shown = [request["messages"] for request in chat.asked]
    explaining = {line for m in shown if '"explanations"' in m[0]["content"] for line in m[1]["content"].splitlines()}
    explaining = {line.replace("<<", "").replace(">>", "").split("[")[0].strip() for line in explaining}
    asked = {line for m in shown if '"answers"' in m[0]["content"] for line in m[1]["content"].splitlines()}
    asked = {line.replace("<<", "").replace(">>", "") for line in asked if line.startswith('" ')}
    assert len(asked) > 40
    assert not asked & explaining
    # one explaining, two explanations x (20 windows to choose by + 40 to detect + 20 to fuzz) / 5, no other for a control
    assert len(chat.asked) == 1 + 2 * (4 + 8 + 4)


def test_answers_that_know_nothing_give_no_name(tmp_path):
    with serving(dice) as (url, chat):
        names = named(url, tmp_path, read=Read(16), least_accuracy=0.0, windows=10)
    assert len(names) == 0
    assert names.notes == ()
    assert len(chat.asked) > 200


def test_answers_that_cannot_be_read_count_as_wrong(tmp_path):
    def nonsense(system, user):
        return oracle(system, user) if '"explanations"' in system else "Sure! The first one, I think."

    with serving(nonsense) as (url, _):
        assert len(named(url, tmp_path)) == 0
        names = named(url, tmp_path, least_accuracy=0.0, false_names=1.0)
    assert len(names) == 4
    for name in names:
        evidence = name.evidence
        assert (evidence.precision, evidence.balanced_accuracy, evidence.fuzzing, name.merit) == (0.0, 0.0, 0.0, 0.0)
        assert evidence.shuffled == 0.5  # the control is not made to look weak
        assert evidence.p > 0.99


def test_one_answer_in_five_that_cannot_be_read_costs_a_fifth(tmp_path):
    def mumbling(system, user):
        answer = json.loads(oracle(system, user))
        return json.dumps({"answers": ["maybe", *answer["answers"][1:]]} if "answers" in answer else answer)

    with serving(mumbling) as (url, _):
        names = named(url, tmp_path, features=[0], least_accuracy=0.0)
    # 20 firing and 20 silent windows, five a question, the first of each wrong: 8 of 40
    assert names[0].evidence.balanced_accuracy == pytest.approx(1 - 8 / 40)


def test_explanations_that_cannot_be_read_leave_labels_alone(tmp_path):
    with serving(lambda system, user: HOSTILE) as (url, chat), pytest.warns(UserWarning, match="cannot be read"):
        names = named(url, tmp_path, LABELS)
    same(replace(names, notes=()), saes.name(Apart(4), READ, LABELS))
    assert len(chat.asked) == 4


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"answers": [1, 0, true]}', [True, False, True]),
        ('text {"a": {} then ```json\n{"answers": [0, 0, 1]}\n``` done', [False, False, True]),
        ('{"answers": [1, 1, 1]} no, {"answers": [0, 0, 0]}', [False, False, False]),
        ('{"answers": [1, "yes", 2]}', [True, True, None]),
        ('{"answers": [1, 0]}', [None] * 3),
        ('{"answers": [1, 0, 1, 0]}', [None] * 3),
        ('{"answers": "101"}', [None] * 3),
        ('{"answers": [1, 0, 1', [None] * 3),
        ("[1, 0, 1]", [None] * 3),
        ("", [None] * 3),
        ('{"a":' * 5000, [None] * 3),
    ],
)
def test_answers_are_read(answer, expected):
    assert questions.answers_in(answer, 3) == expected


def test_hostile_explanations_are_cut_and_cleaned_and_escaped_on_the_page(tmp_path):
    said = json.dumps({"explanations": [f"{HOSTILE}\n\u202eok\x00\x1b[31m", "long " * 1000, " ", 5]})
    first, second = questions.explanations_in(said)
    assert first == f"{HOSTILE} ok[31m"
    assert len(second) <= questions.LONGEST
    w = world()
    evidence = replace(w.names.names[2].evidence, fuzzing=0.88, recall=float("nan"))
    names = replace(w.names, names=(replace(w.names.names[2], text=first, evidence=evidence),), notes=(f"a {HOSTILE}",))
    names.save(tmp_path / "names.jsonl")
    names = saes.Names.load(tmp_path / "names.jsonl")
    page = saes.save_page(tmp_path / "page.html", w.features, w.sae, names=names).read_text()
    assert "<img src=x" not in page
    assert "0.88" in page
    assert "a &lt;img src=x" in page


def test_a_server_that_always_fails_leaves_names_from_labels(tmp_path):
    def failing(handler, n):
        say(handler, 500, "out of memory")
        return True

    read = Read(16)
    with serving(oracle, failing) as (url, chat), pytest.warns(UserWarning, match="out of memory"):
        names = named(url, tmp_path, LABELS, read)
    expected = saes.name(Apart(16), read, LABELS)
    assert len(expected) == 1
    same(replace(names, notes=()), expected)
    assert "16 of 16 features" in names.notes[0]
    assert len(chat.asked) <= endpoint.ATTEMPTS * (endpoint.GIVE_UP + 4), "gives up when nothing is answered"


def breaking(handler, n):
    if n > 30:
        say(handler, 503, "overloaded")
    return n > 30


def dropping(handler, n):
    if n > 30:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [')
        handler.close_connection = True
    return n > 30


@pytest.mark.parametrize("trouble", [breaking, dropping])
def test_what_was_answered_before_a_server_broke_is_kept(tmp_path, trouble):
    whole = tmp_path / "whole"
    with serving(oracle) as (url, chat):
        expected, questions_asked = named(url, whole, LABELS), len(chat.asked)
        assert len(chat.asked) == chat.answered
    with serving(oracle, trouble) as (url, chat), pytest.warns(UserWarning, match="goes on"):
        broken, answered = named(url, tmp_path, LABELS), chat.answered
    assert [(name.feature, name.source) for name in broken if name.source == "labels"] == [(0, "labels")]
    assert answered == 30
    with serving(oracle) as (url, chat):
        names = named(url, tmp_path, LABELS)
    assert len(chat.asked) == questions_asked - answered, "asks what is missing and no more"
    assert same(names, expected)
    assert same(named(url, tmp_path, LABELS), expected), "needs no server any more"


def test_a_damaged_answer_on_disk_is_asked_for_again(tmp_path):
    with serving(oracle) as (url, chat):
        expected = named(url, tmp_path, features=[0])
        before = len(chat.asked)
        files = sorted((tmp_path / "cache").rglob("*.json"))
        files[0].write_text(files[0].read_text()[:-20])
        files[1].write_text(files[2].read_text())
        assert same(named(url, tmp_path, features=[0]), expected)
        assert len(chat.asked) == before + 2
    assert len(files) == before
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def hanging(handler, n):
    handler.server.released.wait(5) if hasattr(handler.server, "released") else time.sleep(0.6)
    return True


def dripping(handler, n):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(12):
        handler.wfile.write(b" ")
        time.sleep(0.05)
    handler.close_connection = True
    return True


def chattering(handler, n):
    say(handler, 200, "<html>Welcome to your router</html>")
    return True


def refusing(handler, n):
    say(handler, 400, "context too long")
    return True


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (hanging, "no answer within 0.2 s"),
        (dripping, "no whole answer within 0.2 s"),
        (chattering, "no chat completion: <html>"),
        (refusing, "HTTP status 400: context too long"),
    ],
)
def test_slow_and_nonsense_talking_servers_are_said_and_cost_nothing(tmp_path, trouble, reason):
    with serving(oracle, trouble) as (url, _), pytest.warns(UserWarning, match=reason):
        names = named(url, tmp_path, LABELS, timeout=0.2)
    same(replace(names, notes=()), saes.name(Apart(4), READ, LABELS))
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_a_server_that_never_ends_its_list_of_models_is_asked_all_the_same(tmp_path):
    def endless(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(200):
                handler.wfile.write(b" ")
                time.sleep(0.05)
        handler.close_connection = True

    began = time.monotonic()
    with serving(lambda system, user: "fine", models=endless) as (url, _):
        assert Endpoint(url, "tiny", tmp_path, timeout=2).ask("system", "user") == "fine"
        assert time.monotonic() - began < 5


def test_a_busy_server_is_asked_again_when_it_says(tmp_path):
    def busy(handler, n):
        if n == 1:
            say(handler, 429, "slow down", Retry_After="0.5")
        return n == 1

    with serving(lambda system, user: "fine", busy) as (url, chat):
        assert Endpoint(url, "tiny", tmp_path).ask("system", "user") == "fine"
    assert chat.times[1] - chat.times[0] >= 0.5


def test_the_key_is_sent_and_never_written(tmp_path, monkeypatch):
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("SOME_KEY", key)

    def telling(system, user):
        return json.dumps({"explanations": [f"the key {key}", "b"]})

    def failing(handler, n):
        if n > 1:
            say(handler, 500, f"your key is {key}")
        return n > 1

    with serving(telling, failing) as (url, chat), pytest.warns(UserWarning, match="gave no name") as warned:
        names = named(url, tmp_path, LABELS, api_key_env="SOME_KEY")
    assert {headers["Authorization"] for headers in chat.headers} == {f"Bearer {key}"}
    names.save(tmp_path / "names.jsonl")
    written = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) == 2
    assert any("the key ***" in text for text in written)
    assert not any(key in text for text in [*written, *(str(one.message) for one in warned)])


@pytest.mark.parametrize(("status", "error"), [(401, PermissionError), (404, ValueError)])
def test_a_server_that_refuses_the_key_or_the_model_is_said_at_once(tmp_path, status, error):
    def refusing(handler, n):
        say(handler, status, "no")
        return True

    with serving(oracle, refusing) as (url, chat), pytest.raises(error, match=f"HTTP status {status}"):
        named(url, tmp_path, parallel=1)
    assert len(chat.asked) == 1


def test_no_server_and_no_key_are_said_at_once(tmp_path, monkeypatch):
    with serving(oracle) as (url, _):
        pass
    with pytest.raises(ConnectionError, match=f"no server answers at {url}"):
        named(url, tmp_path, LABELS)
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ValueError, match="NO_KEY holds no key"):
        Endpoint(url, "tiny", tmp_path, api_key_env="NO_KEY").ask("a", "b")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_url": "localhost:8000"}, "no http"),
        ({"base_url": "http://"}, "no http"),
        ({"base_url": "http://localhost:99999/v1"}, "no address"),
        ({"base_url": "http://me:secret@localhost/v1"}, "environment variable"),
        ({"model": " "}, "model is empty"),
        ({"features": []}, "features is empty"),
        ({"most": 0}, "most=0"),
        ({"windows": 5}, "windows=5"),
        ({"timeout": 0}, "timeout=0"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, change, said):
    given = {"base_url": "http://localhost:1/v1", "model": "tiny", "cache": tmp_path} | change
    with pytest.raises(ValueError, match=said) as error:
        saes.LanguageModel(**given)
    assert "secret" not in str(error.value)


def test_no_texts_and_no_such_feature_are_refused(tmp_path):
    asked = saes.LanguageModel("http://localhost:1/v1", "tiny", tmp_path, features=[4])
    with pytest.raises(ValueError, match="decode="):
        saes.name(Apart(4), READ, language_model=asked)
    with pytest.raises(ValueError, match="features: 4 is none of an SAE with 4"):
        saes.name(Apart(4), READ, language_model=asked, decode=decode)


def test_features_that_fire_in_too_few_sequences_are_not_asked_about(tmp_path):
    rare = Read(5)
    dense = rare.matrix.toarray()
    dense[:, 4] = 0
    dense[:60, 4] = 1
    rare.matrix = sparse.csc_array(dense)
    with serving(oracle) as (url, chat), pytest.warns(UserWarning, match="not asked about 1 features"):
        named(url, tmp_path, read=rare, features=[4])
    assert chat.asked == []


def test_at_most_so_many_features_are_asked_about(tmp_path):
    with serving(oracle) as (url, chat):
        named(url, tmp_path, most=2)
    assert sum('"explanations"' in request["messages"][0]["content"] for request in chat.asked) == 2


def test_no_answer_after_an_endpoint_was_stopped(tmp_path):
    with serving(oracle) as (url, _):
        asked = Endpoint(url, "tiny", tmp_path)
        asked.stop()
        with pytest.raises(NoAnswer, match="stopped"):
            asked.ask("a", "b")


@pytest.mark.parametrize("gone", ["no server", "refused"])
def test_answers_that_are_kept_make_names_when_the_server_is_gone(tmp_path, gone):
    with serving(oracle) as (url, _):
        whole = named(url, tmp_path, LABELS, parallel=1)
    explained = [one.feature for one in whole if one.source == "language_model"]
    assert explained
    kept = sorted((tmp_path / "cache").rglob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    for file in kept[-4:]:  # the last to be asked: controls of the last features
        file.unlink()

    def refusing(handler, n):
        say(handler, 401, "no")
        return True

    if gone == "refused":
        with serving(oracle, refusing) as (url, _), pytest.warns(UserWarning, match="HTTP status 401"):
            names = named(url, tmp_path, LABELS)
    else:
        with pytest.warns(UserWarning, match="no server answers"):
            names = named(url, tmp_path, LABELS)
    assert [one.text for one in names] == [one.text for one in whole]
    assert any("goes on from the answers that are kept" in note for note in names.notes)
    with serving(oracle) as (url, chat):
        assert same(named(url, tmp_path, LABELS), whole)
    assert len(chat.asked) == 4
