"""The command line: `probekit probe | capture | sweep | report | demo | models`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; an expected error is one message on stderr and exit status 1, not a traceback."""
    from probekit.cli.app import app

    # Matrix products already use every core; the tokenizer's own threads only get in their way.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except (ValueError, TypeError, KeyError, OSError) as error:
        if os.environ.get("PROBEKIT_TRACEBACK"):
            raise
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {message}\n(PROBEKIT_TRACEBACK=1 shows where)", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        goes_on = "the same command goes on from what is already written"
        print(f"stopped; {goes_on if sys.argv[1:2] == ['capture'] else 'no result was written'}", file=sys.stderr)
        raise SystemExit(130) from None
