"""A process that is killed outright (SIGKILL) while it evaluates, searches or exports leaves what the same call goes on from."""

from __future__ import annotations

import pytest

from probekit import surgery
from tests.killing import killed_when
from tests.surgery.test_search import setting
from tests.surgery.worlds import direction, tiny

SLOWER = """
import sys, time
from tests.surgery import test_killed, test_search
kind = type(test_search.setting()[2])
plain = kind.measure
def slower(*given):
    time.sleep(0.05)  # so that there is time to kill it in, however busy the machine
    return plain(*given)
kind.measure = slower
"""
pytestmark = pytest.mark.filterwarnings("ignore:at .* the edit adds a vector", "ignore:.*experimental:Warning")


def evaluated(out):
    model, directions, behaviour, kl = setting()
    edit = surgery.steer(directions[2], model, 1.0)
    return surgery.evaluate(
        model, edit, behaviour=behaviour, side_effects=[kl], strengths=(-2, -1), controls=40, out=out, progress=False,
        n_boot=200,
    )  # fmt: skip


def searched(out):
    model, directions, behaviour, kl = setting()
    return surgery.search(
        model, directions, behaviour=behaviour, side_effect=kl, trials=20, out=out, progress=False
    ).to_frame()


def test_an_evaluation_goes_on_and_ends_the_same(tmp_path):
    folder = tmp_path / "conditions"
    killed_when(
        lambda: len(list(folder.glob("*.json"))) > 10,
        SLOWER + "test_killed.evaluated(sys.argv[1])",
        str(folder),
    )
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("*.json")}
    again = evaluated(folder)
    assert all(file.stat().st_mtime_ns == written for file, written in kept.items()), "nothing is measured twice"
    assert not list(folder.glob("*.tmp"))
    whole = evaluated(None)
    assert again.figures == whole.figures
    assert again.tests == whole.tests


def test_a_search_goes_on_and_ends_the_same(tmp_path):
    journal = tmp_path / "study.journal"
    killed_when(
        lambda: journal.is_file() and len(journal.read_text().splitlines()) > 60,
        SLOWER + "test_killed.searched(sys.argv[1])",
        str(journal),
    )
    assert searched(journal).equals(searched(None))


def test_an_export_leaves_no_folder_that_looks_like_a_model(tmp_path):
    """Killed while the fresh process reads the folder back, which is when it takes longest."""
    killed_when(
        lambda: any(path.name.endswith(".safetensors") for path in tmp_path.rglob("*")),
        "import sys; from probekit import surgery; from tests.surgery.worlds import direction, tiny\n"
        "model = tiny(); surgery.export(model, surgery.orthogonalize(direction(model), model), sys.argv[1])",
        str(tmp_path / "edited"),
    )
    assert not (tmp_path / "edited").exists()
    model = tiny()
    done = surgery.export(model, surgery.orthogonalize(direction(model), model), tmp_path / "edited")
    assert done.logit_difference < 1e-4
    assert (tmp_path / "edited" / "config.json").is_file()
