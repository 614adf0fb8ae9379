"""A Ray cluster of two nodes in processes of this machine; no other cluster, and none of its processes, is touched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def two_nodes() -> Iterator[tuple[Any, Callable[[], None]]]:
    """Ray, connected to a cluster whose driver's node has no CPUs and whose two others have one each; and what adds a third."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    assert not ray.is_initialized(), "another test left its connection open"
    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **small)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        cluster.wait_for_nodes()
        yield cluster, ray
    finally:
        ray.shutdown()
        cluster.shutdown()


def node_of(cluster: Any, node_id: str) -> Any:
    """The handle of a node, from the id that a worker on it gives."""
    return next(node for node in cluster.worker_nodes if node.node_id == node_id)


def until(there: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
