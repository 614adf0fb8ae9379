"""A Ray cluster of small nodes, in processes of this machine; no other cluster is touched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

_SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
_HASTE = {"worker_niceness": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


@contextmanager
def two_nodes() -> Iterator[Any]:
    """Ray, connected to a cluster: the driver's node without CPUs, and two nodes with one CPU each."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    assert not ray.is_initialized(), "another test left its connection open"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": _HASTE, **_SMALL})
    try:
        for _ in range(2):
            add_node(cluster)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        left = [child.name() for child in psutil.Process().children(recursive=True)]
        assert not [name for name in left if name.startswith(("raylet", "gcs_server", "ray::"))], left


def add_node(cluster: Any) -> None:
    """Another node of one CPU."""
    cluster.add_node(num_cpus=1, **_SMALL)


def kill_node(cluster: Any, node_id: str | None = None) -> None:
    """Kill a node that holds workers, as a machine that loses its power; the one of this id, or any."""
    nodes = [node for node in cluster.worker_nodes if node_id in (None, node.node_id)]
    cluster.remove_node(nodes[0], allow_graceful=False)


def when(there: Callable[[], bool], then: Callable[[], object], seconds: float = 300) -> Callable[[], None]:
    """What does something as soon as something is there; for a thread."""

    def wait() -> None:
        end = time.monotonic() + seconds
        while not there():
            if time.monotonic() > end:
                return
            time.sleep(0.01)
        then()

    return wait
