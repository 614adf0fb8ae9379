"""Processes that are killed outright (SIGKILL), which no `finally` sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]


def killed_when(there: Callable[[], bool], code: str, *arguments: str) -> None:
    """Run code in a process of its own and kill it as soon as something is there."""
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=said,
        )
        try:
            until = time.monotonic() + 600
            while not there():
                assert child.poll() is None, _all_of(said)
                assert time.monotonic() < until, "nothing happened"
                time.sleep(0.005)
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL, "it had ended before it was killed"
        finally:
            child.kill()
            child.wait()


def _all_of(said: IO[str]) -> str:
    said.seek(0)
    return said.read()
