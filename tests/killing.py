"""Processes that are killed outright (SIGKILL), which no `finally` sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def killed_when(there: Callable[[], bool], code: str, *arguments: str) -> None:
    """Run code in a process of its own and kill it as soon as something is there."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not there():
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it had ended before it was killed"
