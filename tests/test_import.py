"""`import probekit` stays light, and every public name is there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("transformer_lens", "sae_lens", "sklearn", "plotly", "pandas", "transformers", "datasets", "scipy", "typer")


def run(code: str) -> dict[str, object]:
    return json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def test_import_brings_in_no_heavy_library() -> None:
    loaded = run(f"import json, sys, probekit; print(json.dumps({{m: m in sys.modules for m in {HEAVY!r}}}))")
    assert not any(loaded.values()), loaded


def test_importing_every_package_costs_under_a_second_beyond_torch() -> None:
    # Processor time, not wall-clock time: it does not depend on what else the machine is doing.
    code = (
        "import json, sys, time, torch; start = time.process_time()\n"
        "import probekit as pk; pk.load_model, pk.capture, pk.sweep, pk.LogisticProbe, pk.read_csv, pk.testbeds.othello\n"
        f"print(json.dumps({{'seconds': time.process_time() - start, **{{m: m in sys.modules for m in {HEAVY!r}}}}}))"
    )
    loaded = run(code)
    assert loaded.pop("seconds") < 1.0
    assert not any(loaded.values()), loaded


def test_every_public_name_resolves() -> None:
    import probekit

    for name in probekit.__all__:
        assert getattr(probekit, name) is not None
    assert set(probekit.__all__) <= set(dir(probekit))


def test_unknown_name_says_what_there_is() -> None:
    import probekit

    with pytest.raises(AttributeError, match="load_model"):
        probekit.load_modle  # noqa: B018
