"""Engines in this process, and what is refused before any worker starts. `test_cluster.py` has the workers."""

from __future__ import annotations

import copy
import pickle
import sys

import numpy as np
import pytest
import torch

import probekit as pk
from probekit import engine
from probekit.surgery import Direction, steer
from tests.cli.test_commands import probekit
from tests.leaderboard.worlds import write_task
from tests.models.tiny import WORDS, make_model, save_tiny_model

GAMES = [np.arange(5), np.arange(9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def model(folder):
    return pk.load_model(folder)


@pytest.fixture
def connected(monkeypatch):
    """As if a cluster were there."""
    monkeypatch.setattr(engine, "_connected", lambda: None)


def test_here_pieces_are_taken_one_by_one_and_in_order():
    taken: list[int] = []

    def pieces():
        for piece in (3, 1, 2):
            taken.append(piece)
            yield piece

    made = engine.mapped(lambda piece: piece * 10, pieces())
    assert next(made) == (0, 30)
    assert taken == [3]
    assert list(made) == [(1, 10), (2, 20)]


@pytest.mark.parametrize("wrong", ["spark", "Ray", None, 2])
def test_an_unknown_engine_is_refused_everywhere(model, tmp_path, wrong):
    with pytest.raises(ValueError, match=f"engine must be 'local', 'ray' or .*, not {wrong!r}"):
        pk.capture(model, GAMES, out=tmp_path / "s", engine=wrong)
    with pytest.raises(ValueError, match="engine must be"):
        pk.board("sae-probes", model, out=tmp_path / "b", engine=wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cpus": 0}, {"gpus": -1}])
def test_workers_without_anything_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least"):
        engine.Ray(**wrong)


def test_without_ray_the_extra_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'probekit-interp\[ray\]'"):
        pk.capture(model, GAMES, out=tmp_path / "s", engine="ray")


def test_without_a_cluster_it_is_said_how_to_start_one(model, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed")

    def nowhere(**arguments):
        assert arguments["address"] == "auto", "a cluster is never started by itself"
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", nowhere)
    with pytest.raises(ConnectionError, match=r"ray start --head.*Could not find any running Ray instance"):
        pk.capture(model, GAMES, out=tmp_path / "s", engine="ray")


@pytest.mark.parametrize("command", [("capture", "--text", "prompt"), ("board",)])
def test_the_commands_say_so_too(command, folder, tmp_path, monkeypatch):
    table = write_task(tmp_path / "table.csv", [(f"one {word}", i % 2) for i, word in enumerate(WORDS)])
    monkeypatch.setitem(sys.modules, "ray", None)
    done = probekit(command[0], table, *command[1:], "-m", folder, "-o", tmp_path / "out", "--engine", "ray")
    assert done.returncode == 1
    assert "error: engine='ray' needs Ray, an extra" in done.stderr


def test_a_model_is_sent_as_where_it_lies(model, folder, tmp_path, monkeypatch):
    half = pk.load_model(folder, dtype="bfloat16")
    for one in (model, half):
        sent = pickle.dumps(one)
        assert len(sent) < 2000, "weights were sent"
        monkeypatch.chdir(tmp_path)  # another process works elsewhere
        again = pickle.loads(sent)
        assert (again.fingerprint, again.dtype, again.name) == (one.fingerprint, one.dtype, one.name)
    assert half.fingerprint != model.fingerprint


def test_a_model_made_here_cannot_be_sent(model, tmp_path, connected):
    for made in (pk.load_model(make_model("llama")), model.randomized(0), copy.deepcopy(model)):
        with pytest.raises(ValueError, match=r"was made in this process.*save_pretrained\(folder\)"):
            pk.capture(made, GAMES, out=tmp_path / "s", engine="ray")
    assert not list(tmp_path.iterdir())


def test_a_model_with_an_edit_on_it_cannot_be_sent(model, tmp_path, connected):
    site = "blocks.1.hook_resid_post"
    edit = steer(Direction(torch.ones(32) / 32**0.5, site, scale=1.0, model=model.fingerprint), model, 1.0)
    with edit.applied(model), pytest.raises(ValueError, match=r"has hooks on it .an edit.*, at model\.layers\.1"):
        pk.capture(model, GAMES, out=tmp_path / "s", engine="ray")
    assert pickle.loads(pickle.dumps(model)).fingerprint == model.fingerprint


def test_a_model_whose_weights_changed_is_not_taken_for_the_one_on_disk(model):
    with torch.no_grad():
        next(model.hf.parameters())[0, 0] += 1
    with pytest.raises(ValueError, match="its weights were edited after it was loaded"):
        pickle.loads(pickle.dumps(model))


def test_a_folder_that_another_machine_does_not_see_is_said(tmp_path):
    with pytest.raises(OSError, match=r"nothing\.json is not there on .*every machine sees under the same path"):
        engine.require_seen(tmp_path / "nothing.json")
