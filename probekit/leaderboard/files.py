"""What is kept of a task: a JSON file a task and setting, written whole, with what it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from probekit.files import with_nulls, write_whole
from probekit.leaderboard.settings import Pools
from probekit.leaderboard.tasks import Task

FORMAT = 5
"""To be raised when what is computed changes, grids of penalties among it: figures of an older one are made again."""


def digest_of(task: Task, pools: Pools, asked: Mapping[str, object]) -> str:
    """16 hex digits that change with the task's texts and labels, with which of them are used, and with what is asked."""
    digest = hashlib.sha256(json.dumps(dict(asked), sort_keys=True, default=str).encode())
    for text in task.texts:
        digest.update(text.encode() + b"\0")
    for data in task.elsewhere.values():
        for text in data.texts or ():
            digest.update(text.encode() + b"\1")
        for name in data.labels:
            digest.update(np.ascontiguousarray(data.label_set(name).values).tobytes())
        digest.update(np.ascontiguousarray(data.groups).tobytes())
    for array in (task.values, task.groups, pools.train, pools.test):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def path_of(folder: Path, task: str, setting: str) -> Path:
    """Of the file of a task in a setting; names that are no file names are spelt otherwise."""
    safe = "".join(c if c.isalnum() or c in "-_ ." else "-" for c in task)
    return folder / setting / f"{safe}-{hashlib.sha256(task.encode()).hexdigest()[:6]}.json"


def read(path: Path, digest: str) -> dict[str, Any]:
    """What is there, `{}` where nothing is, or something that was made otherwise."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] == FORMAT and found["digest"] == digest:
            return dict(found["families"])
    except (ValueError, KeyError, TypeError):
        pass  # cut or strange: made again
    return {}


def write(path: Path, digest: str, task: str, setting: str, families: Mapping[str, Any]) -> None:
    """All or nothing."""
    document = {"format": FORMAT, "digest": digest, "task": task, "setting": setting, "families": dict(families)}
    write_whole(path, json.dumps(with_nulls(document), allow_nan=False))
