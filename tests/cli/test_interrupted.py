"""A command that is ended from outside leaves nothing behind in the temporary folder, and says what it leaves elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probekit.cli import _what_is_kept


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


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ("capture x.csv -o store", True),
        ("board my_tasks -m gpt2 -o out", True),
        ("monitor x.csv -t text -l label -m gpt2 -o out", False),
        ("sae train store -o sae", True),
        ("sae score sae store -o scores.csv", False),
        ("sae score sae store --features f -o scores.csv", True),
        ("sae name sae store --cache=answers -o names.jsonl", True),
        ("probe x.csv -o out", False),
        ("--device cpu --model-dtype=bfloat16 capture x.csv -o store", True),
    ],
)
def test_what_a_stopped_command_leaves_is_said(command: str, kept: bool) -> None:
    assert _what_is_kept(command.split()).startswith("the same command goes on" if kept else "no result")
