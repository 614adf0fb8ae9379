"""The same work on a cluster of two machines, one of which is lost half way: the same bytes."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import probekit as pk
import saes
from probekit import engine
from probekit.activations import plan
from probekit.probes.estimator import Estimator
from tests.cli.test_commands import probekit
from tests.cluster import add_node, kill_node, two_nodes, when
from tests.leaderboard.worlds import texts, write_task, write_tasks
from tests.models.tiny import save_tiny_model

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def cluster():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as a worker has: then the bytes are the same
    with two_nodes() as running:
        yield running
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return pk.load_model(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def games():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 64, rng.integers(1, 24)) for _ in range(600)]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_capture_that_loses_a_node_half_way_ends_byte_for_byte_the_same(cluster, model, games, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "SHARD_BYTES", 16_000)
    settings = {"token_budget": 64, "rows": np.arange(600) % 7 != 3, "progress": False}
    alone = pk.capture(model, games, out=tmp_path / "alone", **settings)
    left: list[int] = []

    def kill() -> None:
        left.append(len(alone.manifest.shards) - len(written()))
        kill_node(cluster)

    def written() -> list[Path]:
        return list((tmp_path / "cluster").glob("shard-*"))

    killer = threading.Thread(target=when(lambda: len(written()) >= 10, kill))
    killer.start()
    try:
        store = pk.capture(model, games, out=tmp_path / "cluster", engine="ray", **settings)
    finally:
        killer.join()
        add_node(cluster)
    assert left[0] > 20, "the node was killed too late to matter"
    assert len(store.manifest.shards) > 50
    assert contents(tmp_path / "cluster") == contents(tmp_path / "alone")
    np.testing.assert_array_equal(store.read(SITE), alone.read(SITE))


def test_the_command_goes_on_with_a_capture_that_was_begun_here(cluster, model, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "SHARD_BYTES", 5_000)
    folder = Path(model.origin.source)
    table = write_task(tmp_path / "table.csv", [(text, 0) for text in texts(np.random.default_rng(0), 300)])
    data = pk.read_csv(table, text="prompt", label=[])
    for out in ("alone", "both"):
        pk.capture(model, data, SITE, out=tmp_path / out, pool="mean", progress=False)
    (tmp_path / "both" / "shard-00003.safetensors").write_bytes(b"damaged")
    given = ["capture", table, "-t", "prompt", "-m", folder, "-s", SITE, "--pool", "mean", "-o", tmp_path / "both"]
    done = probekit(*given, "--engine", "ray")
    assert done.returncode == 0, done.stderr
    assert len(contents(tmp_path / "both")) == 8 + 2
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_features_are_the_same_byte_for_byte(cluster, model, games, tmp_path, monkeypatch):
    monkeypatch.setattr("saes.features.SHARD_ROWS", 1000)
    store = pk.capture(model, games, SITE, out=tmp_path / "store", progress=False)
    sae = saes.train(store, site=SITE, width=64, k=3, rows=20 * 256, batch=256, progress=False)
    saes.encode(sae, store, out=tmp_path / "alone", progress=False)
    found = saes.encode(sae, store, out=tmp_path / "cluster", engine="ray", progress=False)
    assert len(found.manifest.shards) >= 7
    assert contents(tmp_path / "cluster") == contents(tmp_path / "alone")


def test_a_board_is_the_same_and_goes_on_here(cluster, model, tmp_path):
    tasks = write_tasks(tmp_path / "tasks")
    (tasks / "broken.csv").write_text("prompt,target\nno,label\n", encoding="utf-8")
    settings = {"families": ["logistic", "words"], "n_boot": 100, "train": 100, "test": 60, "progress": False}
    alone = pk.board(tasks, model, out=tmp_path / "alone", settings=["scarcity"], **settings)
    begun = pk.board(tasks, model, out=tmp_path / "cluster", engine="ray", **settings)
    assert {row["setting"] for row in begun.rows} == {"normal"}
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "cluster").glob("[en]*/*.json")}
    both = pk.board(tasks, model, out=tmp_path / "cluster", settings=["scarcity"], **settings)
    assert both.to_frame().equals(alone.to_frame())
    assert contents(tmp_path / "cluster") == contents(tmp_path / "alone")
    assert len(done) == 8
    assert all(path.stat().st_mtime_ns == time for path, time in done.items()), "what was done was done again"


class Dies(Estimator):
    """A probe that takes its process with it, as one does for which there is no memory."""

    def fit(self, X, y):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_kills_its_workers_fails_alone(cluster, model, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "LOSSES", 1)
    tasks = write_tasks(tmp_path / "tasks")
    settings = {"n_boot": 100, "train": 100, "test": 60, "progress": False, "out": tmp_path / "board"}
    first = pk.board(tasks, model, families=["logistic"], engine="ray", **settings)
    assert not first.failures
    board = pk.board(tasks, model, families={"logistic": "logistic", "deadly": Dies()}, engine="ray", **settings)
    assert set(board.failures) == set(first.curves) - {"number"}, "a probe of classes is not asked to read numbers"
    assert all("normal: lost 2 times with the worker that had it" in why for why in board.failures.values())
    assert board.to_frame().equals(first.to_frame()), "what was read before is lost"


def where(folder: Path, piece: int) -> tuple[int, str]:
    """A piece of work that notes on which node it was begun; the third takes for ever the first time."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    first = not list(folder.glob(f"{piece}-*"))
    (folder / f"{piece}-{node}").touch()
    time.sleep(600 if piece == 3 and first else 0.2)
    return piece**2, node


def test_a_lost_piece_is_done_again_elsewhere(cluster, tmp_path):
    work = where.__get__(tmp_path)
    killed: list[str] = []

    def kill() -> None:
        killed.append(next(path for path in tmp_path.iterdir() if path.name.startswith("3-")).name.split("-")[1])
        kill_node(cluster, killed[0])

    killer = threading.Thread(target=when(lambda: any(tmp_path.glob("3-*")), kill))
    killer.start()
    try:
        found = dict(engine.mapped(work, range(8), "ray"))
    finally:
        killer.join()
        add_node(cluster)
    assert {piece: square for piece, (square, _) in found.items()} == {i: i**2 for i in range(8)}
    assert found[3][1] != killed[0]
    again = [piece for piece in range(8) if len(list(tmp_path.glob(f"{piece}-*"))) > 1]
    assert again == [3], "only what the node had at hand is done twice"


def dies(piece: int) -> int:
    if piece == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


def refuses(piece: int) -> int:
    raise KeyError(f"piece {piece} is not to be had")


def test_what_cannot_be_done_is_said(cluster, model, games, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "LOSSES", 1)
    with pytest.raises(OSError, match=r"piece 1 was lost 2 times with the worker that had it: does it fit in memory"):
        list(engine.mapped(dies, range(3), "ray"))
    found = dict(engine.mapped(dies, range(3), "ray", lost=lambda number, why: -number if "lost 2 times" in why else 0))
    assert found == {0: 0, 1: -1, 2: 2}
    with pytest.raises(KeyError, match="piece 0 is not to be had") as raised:
        list(engine.mapped(refuses, range(1), "ray"))
    assert "on a Ray worker at" in raised.value.__notes__[0]
    with pytest.raises(
        ValueError, match=r"a worker needs 64 CPUs and 0 GPUs, and no machine of the Ray cluster has them"
    ):
        pk.capture(model, games, out=tmp_path / "s", engine=engine.Ray(cpus=64), progress=False)
    with pytest.raises(TypeError, match="cannot be sent to workers"):
        list(engine.mapped(threading.Lock().acquire, range(1), "ray"))
