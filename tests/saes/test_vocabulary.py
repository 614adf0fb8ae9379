"""Names from words: planted ones are found at the right place, noise gets none, and what cannot be named is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

import saes
from probekit.data import Dataset
from saes.naming.vocabulary import _separated
from saes.scoring.feature_scores import halves

WORDS = [f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in ("mno", "rst", "xyz")]
LENGTH = 20


class Apart:
    """An SAE whose decoder vectors are orthogonal."""

    def __init__(self, width: int) -> None:
        self.W_dec = torch.eye(width)


class Read:
    """Features made by hand of random words."""

    def __init__(self, token: np.ndarray, dense: np.ndarray) -> None:
        self.token, self.width = token, dense.shape[1]
        self.matrix = sparse.csc_array(dense.astype(np.float32))
        self.sequence = np.arange(len(token)) // LENGTH
        self.position = np.arange(len(token)) % LENGTH
        self.item, self.prefix = np.arange(len(token)), np.arange(len(token)).astype(np.uint64)

    def __len__(self):
        return len(self.token)


def decode(ids):
    return [f" {WORDS[i]}" for i in ids]


def texts(seed: int, sequences: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, len(WORDS), sequences * LENGTH)


def test_planted_words_are_found_where_they_stand():
    token, rng = texts(0), np.random.default_rng(1)
    dense = (rng.random((len(token), 6)) < 0.003) * 0.2 * rng.random((len(token), 6))
    strength = 1 + rng.random(len(token))
    dense[:, 0] += (token == 7) * strength  # on a word
    following = np.append(token[1:], -1)
    following[LENGTH - 1 :: LENGTH] = -1
    dense[:, 1] += (following == 11) * strength  # before a word
    names = saes.name(Apart(6), Read(token, dense), vocabulary=saes.Vocabulary(), decode=decode)
    assert names[0].text == f"words like “{WORDS[7]}”"
    assert names[1].text == f"before words like “{WORDS[11]}”"
    assert [name.feature for name in names] == [0, 1]
    for name in names:
        assert name.source == "vocabulary"
        assert name.evidence.balanced_accuracy > 0.95
        assert abs(name.evidence.shuffled - 0.5) < 0.1
        assert name.rival != name.text


def test_a_topic_is_found_in_the_text_so_far():
    rng = np.random.default_rng(2)
    token = texts(3)
    about = np.repeat(rng.random(len(token) // LENGTH) < 0.3, LENGTH)
    token = np.where(about & (rng.random(len(token)) < 0.6), 5, token)
    dense = ((rng.random(len(token)) < np.where(about, 0.3, 0.0)) * (1 + rng.random(len(token))))[:, None]
    names = saes.name(Apart(1), Read(token, dense), vocabulary=saes.Vocabulary(), decode=decode)
    assert [name.text for name in names] == [f"text about “{WORDS[5]}”"]


def test_noise_gets_no_name():
    given = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        token = texts(seed, 60)
        dense = (rng.random((len(token), 8)) < 0.05) * rng.random((len(token), 8))
        found = saes.name(Apart(8), Read(token, dense), vocabulary=saes.Vocabulary(), decode=decode, least_accuracy=0)
        given.append(len(found) > 0)
    assert np.mean(given) <= 0.2


def test_words_of_ones_own_are_the_only_ones_used():
    token = texts(0)
    dense = ((token == 7) * 1.0)[:, None]
    vocabulary = saes.Vocabulary(words=[WORDS[7], WORDS[8], WORDS[40]])
    names = saes.name(Apart(1), Read(token, dense), vocabulary=vocabulary, decode=decode)
    assert names[0].text == f"words like “{WORDS[7]}”"


def test_the_best_threshold_of_likeness_is_what_trying_all_finds():
    rng = np.random.default_rng(0)
    parts = [np.round(rng.normal(shift, 1, n), 1) for shift, n in ((1, 30), (0, 50), (0.5, 20))]
    merit, least = _separated(parts)
    tried = {
        t: 0.5 * (parts[0] >= t).mean() + 0.25 * (parts[1] < t).mean() + 0.25 * (parts[2] < t).mean()
        for t in np.unique(np.concatenate(parts))
    }
    assert merit == pytest.approx(max(tried.values()))
    assert tried[least] == pytest.approx(merit)


@pytest.mark.parametrize("words", [[], [" "]])
def test_an_empty_vocabulary_is_refused(words):
    with pytest.raises(ValueError, match="empty vocabulary"):
        saes.Vocabulary(words=words)


def test_a_vocabulary_needs_the_texts():
    token = texts(0)
    with pytest.raises(ValueError, match="decode="):
        saes.name(Apart(1), Read(token, (token == 7)[:, None] * 1.0), vocabulary=saes.Vocabulary())


def test_nothing_to_name_with_and_nothing_to_name_are_refused():
    token = texts(0)
    with pytest.raises(ValueError, match="nothing to name"):
        saes.name(Apart(1), Read(token, (token == 7)[:, None] * 1.0))
    with pytest.raises(ValueError, match="no feature ever fires"):
        saes.name(Apart(1), Read(token, np.zeros((len(token), 1))), vocabulary=saes.Vocabulary(), decode=decode)


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"modules\.json"):
        saes.sentence_encoder(tmp_path)


def test_a_data_set_without_labels_brings_its_groups_and_its_split():
    token, rng = texts(5), np.random.default_rng(6)
    dense = (rng.random((len(token), 2)) < 0.003) * 0.2
    dense[:, 0] += token == 7
    features = Read(token, dense)
    sequences = tuple(token.reshape(-1, LENGTH).astype(np.int32))
    split = np.array(["train", "valid", "test", "ood"] * (len(sequences) // 4))
    words = {"vocabulary": saes.Vocabulary(), "decode": decode}
    names = saes.name(Apart(2), features, Dataset("d", tokens=sequences, split=split), **words)
    assert names[0].text == f"words like “{WORDS[7]}”"
    assert names.halved == "split"
    assert names.judged == halves(features, split=split)[1].name
    assert names[0].evidence.rows == (token[np.isin(features.sequence, np.flatnonzero(split == "test"))] == 7).sum()
    groups = np.arange(len(sequences)) // 50
    grouped = saes.name(Apart(2), features, Dataset("d", tokens=sequences, groups=groups), **words)
    assert (grouped.halved, grouped.judged) == ("groups", halves(features, groups=groups)[1].name)
    with pytest.raises(ValueError, match="groups of its own"):
        saes.name(Apart(2), features, Dataset("d", tokens=sequences), groups=groups, **words)
    with pytest.raises(ValueError, match="not what the features were encoded from"):
        saes.name(Apart(2), features, Dataset("d", tokens=sequences[:9]), **words)
    with pytest.raises(ValueError, match="nothing to name features with"):
        saes.name(Apart(2), features, Dataset("d", tokens=sequences))


def test_what_the_tokens_do_not_say_is_said():
    token = texts(0)
    fires = (token == 7)[:, None] * 1.0
    with pytest.raises(ValueError, match="activations without tokens"):
        saes.name(Apart(1), Read(np.full(len(token), -1), fires), vocabulary=saes.Vocabulary(), decode=decode)
    for text, said in (("", "texts of all tokens are empty"), (" a", "cannot be compared by their letters")):
        with pytest.raises(ValueError, match=said):
            saes.name(
                Apart(1),
                Read(token, fires),
                vocabulary=saes.Vocabulary(["zebra"]),
                decode=lambda ids, t=text: [t] * len(ids),
            )


def test_names_are_json_lines_written_whole(tmp_path, monkeypatch):
    token = texts(0)
    names = saes.name(Apart(1), Read(token, (token == 7)[:, None] * 1.0), vocabulary=saes.Vocabulary(), decode=decode)
    nan = float("nan")
    unknown = replace(names[0], evidence=replace(names[0].evidence, recall=nan, hard_accuracy=nan, fuzzing=None))
    names = replace(names, names=(replace(unknown, check=saes.Check("log odds", -1.0, nan, 0.0, 0.0, 0.0, 5, nan)),))
    names.save(tmp_path / "names.jsonl")

    def strict(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = (tmp_path / "names.jsonl").read_text().splitlines()
    assert json.loads(lines[1], parse_constant=strict)["evidence"]["recall"] is None
    read = saes.Names.load(tmp_path / "names.jsonl")
    assert repr(read.names) == repr(names.names)
    assert np.isnan(read[0].evidence.hard_accuracy)
    assert read[0].evidence.fuzzing is None

    def full(self, text, **_):
        with self.open("w") as file:
            file.write(text[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="no space"):
        names.save(tmp_path / "names.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["names.jsonl"]
    assert repr(saes.Names.load(tmp_path / "names.jsonl")) == repr(names)
