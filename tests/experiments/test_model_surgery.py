"""The experiment on a tiny model and texts in its words, from the command's arguments to the folder that is shipped."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.experiments.scripts import scripts_of
from tests.models.tiny import VOCAB, WORDS, make_tokenizer

MODULES = ("texts", "controls", "shipped", "page", "run")


@pytest.fixture(scope="module")
def scripts():
    with scripts_of("model_surgery", *MODULES) as found:
        yield found


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    texts = [
        " ".join([*rng.choice(WORDS[:30], 6), *rng.choice(WORDS[30:35] if i % 2 else WORDS[35:], 4)])
        for i in range(400)
    ]
    (folder / "hate_offensive_tweets.csv").write_text(
        "\n".join(["class,tweet", *(f"{2 * (i % 2)},{t}" for i, t in enumerate(texts))])
    )
    (folder / "movie_review_snippets.tsv").write_text(
        "\n".join(f"{i}\t{2 if i % 2 else -2}\t{t}" for i, t in enumerate(texts))
    )
    (folder / "wikitext2_valid.txt").write_text("\n".join(" ".join(rng.choice(WORDS, 50)) for _ in range(14)))
    cities = [
        f"The city of {a} {b} is in Italy.,0,{a} {b},Italy,France" for a, b in itertools.permutations(WORDS[11:18], 2)
    ]
    (folder / "truth_cities.csv").write_text("\n".join(["statement,label,city,country,correct_country", *cities]))
    words = [f"The Spanish word '{a}' means '{b}'.,1" for a, b in zip(WORDS, WORDS[::-1], strict=True)]
    (folder / "truth_sp_en_trans.csv").write_text("\n".join(["statement,label", *words]))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", ["toxicity", "sentiment"])
def test_no_text_is_used_for_two_things(scripts, data, task):
    given = getattr(scripts.texts, task)(data, 0, find=60, judge=80, prompts=10)
    texts = [*given.find, *given.judge, *given.check, *given.wanted]
    assert len(set(texts)) == len(texts)
    assert not any(text.startswith(prompt) for text in texts for prompt in given.prompts)
    assert given.find_unwanted.mean() == given.judge_unwanted.mean() == 0.5


def test_from_texts_to_a_folder_that_says_the_same(scripts, data, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scripts.run, "SHIFTS", (-1, 1))
    monkeypatch.setattr(scripts.run, "STEPS", (-2, 2))
    monkeypatch.setattr(scripts.run, "RANK", 1)
    monkeypatch.setattr(scripts.run, "LEXICON", {"sentiment": ["sad", "red"]})
    monkeypatch.setattr(
        sys, "argv",
        [
            "run.py", "--model", str(folder), "--data", str(data), "--out", str(tmp_path), "--task", "sentiment", "--prompts", "8",
            "--find", "60", "--judge", "80", "--controls", "2", "--tuned", "1", "--only", "model surgery", "orthogonalisation beside the sink", "LEACE", "LoRA",
        ],
    )  # fmt: skip
    scripts.run.main()
    assert "## shipped" in capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    shipped = result["shipped"]
    assert shipped["prompts scored the same"] == "8 of 8"
    assert shipped["from the folder"] == pytest.approx(shipped["in memory"])
    assert shipped["perplexity from the folder"] == pytest.approx(shipped["perplexity in memory"], rel=1e-4)
    assert (tmp_path / "edited" / "model.safetensors").exists()
    assert set(result["figures"]) == {"model surgery", "orthogonalisation beside the sink", "LEACE", "LoRA"}
    assert "Shipped, and measured again" in (tmp_path / "report.html").read_text()
