"""A command that is ended from outside leaves nothing behind in the temporary folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def test_a_command_that_is_terminated_removes_its_temporary_activations(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    rows = [f"the city of {i} is in france {i},{i % 2}" for i in range(4000)]
    (tmp_path / "some.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    command = [sys.executable, "-m", "probekit.cli", "probe", str(tmp_path / "some.csv"), "-t", "text", "-l", "label"]
    command += ["-m", str(tiny_model_folder), "-o", str(tmp_path / "out")]
    running = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(place)}, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if any(place.glob("probekit-sweep-*")) or running.poll() is not None:
            break
        time.sleep(0.05)
    assert running.poll() is None, "the command ended before it could be interrupted"
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 128 + signal.SIGTERM
    assert not list(place.glob("probekit-sweep-*"))
