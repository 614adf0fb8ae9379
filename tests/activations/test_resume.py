"""A capture that is killed, or runs out of disk, loses nothing and ends byte for byte the same."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

import probekit as pk
from probekit.activations import ActivationStore, capture, plan, store
from probekit.activations import capture as capture_function
from probekit.activations.store import read_manifest

SITES = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")
SHARD = 16_000
KILLED = """
import os, signal, sys
import numpy as np
import probekit as pk
from probekit.activations import capture, plan, store

def save_half_and_die(tensors, path, save=store.save_file):
    save(tensors, path)
    if "shard-00005" in path.name:
        with open(path, "rb+") as file:
            file.truncate(path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

store.save_file = save_half_and_die
plan.SHARD_BYTES = {shard}
rng = np.random.default_rng(0)
games = [rng.integers(0, 64, rng.integers(1, 24)) for _ in range(200)]
capture(pk.load_model(sys.argv[1]), games, {sites}, out=sys.argv[2], token_budget=64, progress=False)
"""


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return pk.load_model(str(tiny_model_folder))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(plan, "SHARD_BYTES", SHARD)


@pytest.fixture(scope="module")
def games():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 64, rng.integers(1, 24)) for _ in range(200)]


def take(model, games, out, **kwargs) -> ActivationStore:
    return capture(model, games, SITES, out=out, token_budget=64, progress=False, **kwargs)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


class Stops:
    """A model that raises, or kills its own process, at the n-th batch."""

    def __init__(self, model, batches: int, error: BaseException) -> None:
        self._model, self._left, self._error = model, batches, error

    def __getattr__(self, name):
        return getattr(self._model, name)

    def visit(self, tokens, mask, sites, receive):
        self._left -= 1
        if self._left < 0:
            raise self._error
        self._model.visit(tokens, mask, sites, receive)


def test_a_killed_process_resumes_and_ends_byte_identical(tiny_model_folder, model, games, tmp_path):
    take(model, games, tmp_path / "whole")
    script = KILLED.format(shard=SHARD, sites=SITES)
    command = [sys.executable, "-c", script, str(tiny_model_folder), str(tmp_path / "killed")]
    child = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert child.returncode == -signal.SIGKILL
    names = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert names[0].startswith(".shard-00005.safetensors")  # what the killed writer left half done
    assert names[1:] == ["index.safetensors", "manifest.json", *(f"shard-{i:05d}.safetensors" for i in range(5))]
    with pytest.raises(ValueError, match="call capture with the same arguments"):
        ActivationStore.open(tmp_path / "killed")
    take(model, games, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 7, 20])
def test_an_interruption_at_any_batch_loses_only_the_shard_in_hand(model, games, tmp_path, batches):
    take(model, games, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        take(Stops(model, batches, KeyboardInterrupt()), games, tmp_path / "stopped")
    assert not list((tmp_path / "stopped").glob(".*"))
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "stopped").glob("shard-*")}
    take(model, games, tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert kept == {name: (tmp_path / "stopped" / name).stat().st_mtime_ns for name in kept}


def test_a_finished_capture_is_not_run_again(model, games, tmp_path):
    take(model, games, tmp_path / "s")
    again = take(Stops(model, 0, AssertionError("ran")), games, tmp_path / "s")
    assert len(again) == sum(map(len, games))


def test_what_a_killed_writer_left_behind_is_cleared(model, games, tmp_path):
    take(model, games, tmp_path / "whole")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".shard-00000.safetensors.123.tmp").write_bytes(b"half")
    take(model, games, tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_leaves_whole_shards_and_a_way_on(model, games, tmp_path, monkeypatch, error):
    take(model, games, tmp_path / "whole")
    write, written = store.save_file, []

    def fill(tensors, path):
        written.append(path)
        if len(written) == 5:
            path.write_bytes(b"half a shard")
            raise error
        write(tensors, path)

    monkeypatch.setattr(store, "save_file", fill)
    with pytest.raises(OSError, match=r"the disk is full: 3 of \d+ shards are written to .* and intact") as raised:
        take(model, games, tmp_path / "s")
    assert raised.value.errno == errno.ENOSPC
    names = sorted(p.name for p in (tmp_path / "s").iterdir())
    assert names == ["index.safetensors", "manifest.json", *(f"shard-{i:05d}.safetensors" for i in range(3))]
    monkeypatch.setattr(store, "save_file", write)
    take(model, games, tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_a_disk_that_fills_up_at_the_last_shard_is_said_too(model, games, tmp_path, monkeypatch):
    shards = len(take(model, games, tmp_path / "whole").manifest.shards)
    write = store.save_file

    def fill(tensors, path):
        if f"shard-{shards - 1:05d}" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(tensors, path)

    monkeypatch.setattr(store, "save_file", fill)
    with pytest.raises(OSError, match=rf"the disk is full: {shards - 1} of {shards} shards"):
        take(model, games, tmp_path / "s")


def test_the_model_runs_on_while_a_shard_is_written_and_what_is_written_counts(model, games, tmp_path, monkeypatch):
    first = take(model, games, tmp_path / "whole").manifest.shards[0]
    write, writing, ran_on, overlapped = store.save_file, threading.Event(), threading.Event(), []

    class RunsOn(Stops):
        rows = 0

        def visit(self, tokens, mask, sites, receive):
            if self.rows == first.stop:
                assert writing.wait(timeout=60)
                ran_on.set()
                raise KeyboardInterrupt
            self.rows += tokens.numel() if mask is None else int(mask.sum())
            super().visit(tokens, mask, sites, receive)

    def wait_for_the_model(tensors, path):
        if "shard" in path.name:
            writing.set()
            overlapped.append(ran_on.wait(timeout=60))
        write(tensors, path)

    monkeypatch.setattr(store, "save_file", wait_for_the_model)
    with pytest.raises(KeyboardInterrupt):
        take(RunsOn(model, 10**9, AssertionError()), games, tmp_path / "s")
    assert overlapped == [True]
    names = sorted(p.name for p in (tmp_path / "s").iterdir())
    assert names == ["index.safetensors", "manifest.json", "shard-00000.safetensors"]
    assert read_manifest(tmp_path / "s").shards == [first]
    monkeypatch.setattr(store, "save_file", write)
    take(model, games, tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_too_little_disk_is_said_before_anything_is_run(model, games, tmp_path, monkeypatch):
    module = sys.modules[capture_function.__module__]
    free = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: free)
    with pytest.raises(OSError, match=r"needs .* of disk, and 100 kB are free in .*s\. Store less") as raised:
        take(Stops(model, 0, AssertionError("ran")), games, tmp_path / "s")
    assert raised.value.errno == errno.ENOSPC


def test_what_was_read_under_a_hook_is_not_gone_on_with_without_it(model, games, tmp_path):
    name, block = next((n, m) for n, m in model.hf.named_modules() if n.endswith(".0"))
    handle = block.register_forward_hook(lambda module, given, made: None)
    try:
        assert take(model, games, tmp_path / "s").manifest.hooks == [name]
        with pytest.raises(ValueError, match=r"the model has hooks on it now \(at .*0; .*cannot be known"):
            take(model, games, tmp_path / "s")  # with others, as far as anybody knows
    finally:
        handle.remove()
    with pytest.raises(ValueError, match=r"holds another capture .*hooks: .*0'\] there, \[\] now"):
        take(model, games, tmp_path / "s")


@pytest.mark.parametrize(
    ("kwargs", "changed", "what"),
    [
        ({}, "data", "data_fingerprint"),
        ({}, "model", "model_fingerprint"),
        ({"dtype": "float16"}, "", "dtype: float32 there, float16 now"),
        ({"pool": "last"}, "", "pool: all there, last now"),
        ({"rows": np.arange(200) % 2 == 0}, "", "selection"),
    ],
)
def test_another_capture_is_never_mixed_into_a_folder(model, games, tmp_path, kwargs, changed, what):
    take(model, games, tmp_path / "s")
    before = contents(tmp_path / "s")
    other_model = model.randomized(1) if changed == "model" else model
    other_games = [*games[1:], games[0]] if changed == "data" else games
    with pytest.raises(ValueError, match=f"holds another capture .*{what}"):
        take(other_model, other_games, tmp_path / "s", **kwargs)
    assert contents(tmp_path / "s") == before


def test_a_folder_with_other_files_is_left_alone(model, games, tmp_path):
    (tmp_path / "thesis.tex").write_text("important", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds other files \(thesis.tex\)"):
        take(model, games, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        take(model, games, tmp_path / "thesis.tex")


def test_damage_is_found_by_name_and_mended_by_capturing_again(model, games, tmp_path):
    whole = take(model, games, tmp_path / "s")
    whole.verify()
    before = contents(tmp_path / "s")
    damaged, missing = tmp_path / "s" / "shard-00002.safetensors", tmp_path / "s" / "shard-00004.safetensors"
    flipped = bytearray(damaged.read_bytes())
    flipped[-10] ^= 1
    damaged.write_bytes(flipped)
    missing.unlink()
    opened = ActivationStore.open(tmp_path / "s")
    with pytest.raises(ValueError, match=r"shard-00002.safetensors is damaged; shard-00004.safetensors is missing"):
        opened.verify()
    with pytest.raises(FileNotFoundError, match=r"shard-00004.safetensors is missing"):
        opened.read(SITES[0])
    damaged.write_bytes(flipped[:100])
    with pytest.raises(ValueError, match=r"shard-00002.safetensors is damaged"):
        opened.read(SITES[0])
    damaged.write_bytes(b"\xff" * len(flipped))
    with pytest.raises(ValueError, match=r"shard-00002.safetensors is damaged"):
        opened.read(SITES[0])
    take(model, games, tmp_path / "s")
    assert contents(tmp_path / "s") == before


def test_a_damaged_index_is_mended_too(model, games, tmp_path):
    take(model, games, tmp_path / "s")
    before = contents(tmp_path / "s")
    (tmp_path / "s" / "index.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"index.safetensors is damaged"):
        ActivationStore.open(tmp_path / "s").verify()
    take(model, games, tmp_path / "s")
    assert contents(tmp_path / "s") == before


def test_a_store_of_another_model_or_other_data_is_refused(model, games, tmp_path):
    whole = take(model, games, tmp_path / "s")
    whole.check(model, games)
    with pytest.raises(ValueError, match=r"was captured from model 'tiny-llama' .* not from .*random weights, seed 1"):
        whole.check(model.randomized(1))
    with pytest.raises(ValueError, match=r"\(200 sequences, fingerprint .* \(199 sequences"):
        whole.check(data=games[1:])


def test_what_is_no_store_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not an activation store: it has no manifest.json"):
        ActivationStore.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"rows": "many"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"is not the manifest of an activation store"):
        ActivationStore.open(tmp_path)


def test_the_manifest_says_what_it_took_and_nothing_of_when(model, games, tmp_path):
    manifest = take(model, games, tmp_path / "s").manifest
    assert manifest.complete
    assert manifest.sites == dict.fromkeys(SITES, 32)
    assert manifest.model_fingerprint == model.fingerprint
    assert manifest.versions["probekit"] == pk.__version__
    assert set(manifest.versions) == {"probekit", "torch", "transformers"}
    text = (tmp_path / "s" / "manifest.json").read_text(encoding="utf-8")
    assert time.strftime("%Y-%m-%d") not in text
