"""Examples in the README and the docs are run as tests: Python blocks in one namespace a page, shell blocks as commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser


def run_shell(example: Example) -> None:
    """Run a `bash` block the way a reader would, with the commands of this environment first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example.parsed],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise AssertionError(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")


def enter_folder(namespace: dict[str, object]) -> None:
    """Each page runs in an empty folder of its own and shows no windows."""
    import tempfile

    import plotly.io
    from plotly.io.base_renderers import ExternalRenderer

    class Quiet(ExternalRenderer):
        """`figure.show()` makes the figure and opens nothing."""

        def render(self, fig_dict: dict[str, object]) -> None:
            assert fig_dict["data"]

    plotly.io.renderers["quiet"] = Quiet()
    plotly.io.renderers.default = "quiet"
    namespace["_folder"] = folder = tempfile.TemporaryDirectory()
    namespace["_before"] = Path.cwd()
    os.chdir(folder.name)


def leave_folder(namespace: dict[str, object]) -> None:
    os.chdir(namespace["_before"])  # type: ignore[arg-type]
    namespace["_folder"].cleanup()  # type: ignore[attr-defined]


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser("bash", run_shell), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    setup=enter_folder,
    teardown=leave_folder,
).pytest()
