"""A process that is killed outright (SIGKILL) while it trains, encodes or names leaves what the same call goes on from."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

import saes
from probekit.activations import ArrayActivations
from tests.killing import killed_when
from tests.saes.chat_server import oracle, serving
from tests.saes.test_language_model import named

SITE = "blocks.0.hook_resid_post"
PREPARED = """
import sys, time
import numpy as np, saes
from probekit.activations import ArrayActivations
rows = np.random.default_rng(0).normal(size=(8000, 40)).astype(np.float32)
activations = ArrayActivations({"blocks.0.hook_resid_post": rows}, sequence=np.arange(8000) // 20)
"""

SLOWER = """
import saes.features, saes.training
plain = {of}.{name}
def slower(*given):
    time.sleep({seconds})  # so that there is time to kill it in, however busy the machine
    return plain(*given)
{of}.{name} = slower
"""


def activations() -> ArrayActivations:
    rows = np.random.default_rng(0).normal(size=(8000, 40)).astype(np.float32)
    return ArrayActivations({SITE: rows}, sequence=np.arange(8000) // 20)


def test_training_goes_on_and_ends_the_same(tmp_path):
    """Of an architecture that has more state than weights: JumpReLU's thresholds and what is known of dead features."""
    settings = {"site": SITE, "kind": "jumprelu", "width": 64, "rows": 400 * 256, "batch": 256, "save_every": 10, "progress": False}  # fmt: skip
    killed_when(
        lambda: (tmp_path / "sae" / "checkpoint").is_dir(),
        PREPARED
        + SLOWER.format(of="saes.training._Run", name="advance", seconds=0.01)
        + f"saes.train(activations, out=sys.argv[1], **{settings!r})",
        str(tmp_path / "sae"),
    )
    assert not (tmp_path / "sae" / "sae_weights.safetensors").exists()
    resumed = saes.train(activations(), out=tmp_path / "sae", **settings)
    whole = saes.train(activations(), **settings)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_encoding_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    settings = {"site": SITE, "kind": "topk", "k": 8, "width": 512, "rows": 512, "batch": 256, "progress": False}
    sae = saes.train(activations(), out=tmp_path / "sae", **settings)
    killed_when(
        lambda: len(list((tmp_path / "features").glob("features-*.safetensors"))) >= 2,
        PREPARED + SLOWER.format(of="saes.features", name="_encoded", seconds=0.05) + "import saes.features\n"
        "saes.features.SHARD_ROWS = 200\n"
        "saes.encode(saes.load(sys.argv[1]), activations, out=sys.argv[2])",
        str(tmp_path / "sae"),
        str(tmp_path / "features"),
    )
    with pytest.raises(ValueError, match=r"call saes\.encode again"):
        saes.SparseFeatures.open(tmp_path / "features")
    monkeypatch.setattr("saes.features.SHARD_ROWS", 200)
    again = saes.encode(sae, activations(), out=tmp_path / "features", progress=False)
    whole = saes.encode(sae, activations(), progress=False)
    assert (again.matrix != whole.matrix).nnz == 0


def test_naming_asks_nothing_twice_and_gives_the_same_names(tmp_path):
    with serving(oracle) as (url, chat):
        whole = named(url, tmp_path / "whole")
        questions = len(chat.asked)
    (tmp_path / "killed").mkdir()
    with serving(lambda *said: (time.sleep(0.02), oracle(*said))[1]) as (url, chat):
        killed_when(
            lambda: len(chat.asked) > questions // 2,
            PREPARED + "from pathlib import Path\n"
            "from tests.saes.test_language_model import named\n"
            "named(sys.argv[1], Path(sys.argv[2]))",
            url,
            str(tmp_path / "killed"),
        )
        kept = len(list((tmp_path / "killed" / "cache").rglob("*.json")))
    assert kept >= questions // 2 - 8, "what was answered is on disk, but for the questions under way"
    with serving(oracle) as (url, chat):
        again = named(url, tmp_path / "killed")
    assert len(chat.asked) == questions - kept
    assert [(n.feature, n.text, n.evidence.p) for n in again] == [(n.feature, n.text, n.evidence.p) for n in whole]
