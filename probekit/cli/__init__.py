"""The command line: `probekit probe | capture | sweep | board | monitor | score | report | demo | models | sae | edit`."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import TextIO


def main() -> None:
    """Run the command line; an expected error is one message on stderr and exit status 1, not a traceback."""
    from probekit.cli.app import app

    # Matrix products already use every core; the tokenizer's own threads only get in their way.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that temporary files are removed
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_note
            app()
    except (ValueError, TypeError, KeyError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("PROBEKIT_TRACEBACK"):
            raise
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {message}\n(PROBEKIT_TRACEBACK=1 shows where)", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print(f"stopped; {_what_is_kept(sys.argv[1:])}", file=sys.stderr)
        raise SystemExit(130) from None


def _what_is_kept(command: list[str]) -> str:
    """What a command that was stopped leaves behind."""
    while command and command[0].startswith("--"):  # of how models are loaded
        command = command[1 if "=" in command[0] else 2 :]
    keeps = command[:1] in (["capture"], ["edit"], ["board"]) or command[:2] in (["sae", "train"], ["sae", "floor"])
    if keeps or any(word.partition("=")[0] in ("--features", "--cache") for word in command):
        return "the same command goes on from what is already written"
    return "no result was written"


def _show_note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Say on stderr what was warned of, without the line of code; who reads a command line did not write it."""
    if category is UserWarning:
        print(f"note: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=sys.stderr)
