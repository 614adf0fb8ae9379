"""`probekit score` and the page: tokens coloured, text escaped, what is wrong said in one line."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from probekit.cli.app import app
from probekit.monitoring import fit
from tests.monitoring.worlds import probe_of, texts_of, tiny

HOSTILE = "cat </script><script>alert(1)<img src=x> \x1b[31m runs"


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def monitor(model):
    return fit(probe_of(model, n=150), model, *texts_of(150, 1), false_alarms=0.1)


@pytest.fixture(scope="module")
def folders(model, monitor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    model.hf.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    monitor.save(folder / "monitor")
    return folder


def run(folders, file, *more):
    return CliRunner().invoke(
        app, ["score", str(file), "--probe", str(folders / "monitor"), "-m", str(folders / "model"), *more]
    )


def embedded(page: str) -> dict:
    return json.loads(
        re.search(r'aria-label="scored texts">.*?<script type="application/json">(.*?)</script>', page, re.DOTALL)[1]
    )


def test_a_text_a_line(folders, model, monitor, tmp_path):
    file = tmp_path / "new.txt"
    file.write_text(f"the cat runs\n\n{HOSTILE}\r\nred happy cat\n", encoding="utf-8")
    said = run(folders, file, "-o", str(tmp_path / "page.html"))
    assert said.exit_code == 0, said.exception
    assert "the cat runs" in said.output
    assert "\x1b[31m runs" not in said.output  # a text cannot command the terminal
    assert [line.split(",")[0] for line in said.output.splitlines() if line.startswith("line ")] == [
        "line 1",
        "line 3",
        "line 4",
    ]
    assert "of 3 texts raise the alarm" in said.output
    assert "false alarms" in said.output
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "</script><script>alert" not in page
    assert "<img src=x" not in page
    data = embedded(page)["texts"]
    wanted = monitor.score(model, ["the cat runs", HOSTILE, "red happy cat"])
    assert [each["probability"] for each in data] == [pytest.approx(each.probability, abs=2e-4) for each in wanted]
    assert "".join(token[0] for token in data[1]["tokens"][1:]) == HOSTILE
    for words in ("calibration error", "How sure, and how often right", "while streaming", "at home, but flagged"):
        assert words in page
    assert "http://" not in page.replace("http://www.w3.org", "")[:20_000]


def test_a_whole_file(folders, tmp_path):
    file = tmp_path / "letter.txt"
    file.write_text("the cat runs\nin rome", encoding="utf-8")
    said = run(folders, file, "--whole")
    assert said.exit_code == 0, said.exception
    assert said.output.startswith("letter.txt, probability")
    assert "of 1 texts raise the alarm" in said.output


def test_what_is_wrong_is_said(folders, tmp_path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text(" \n\n")
    binary.write_bytes(b"the \xff cat")
    for file, error in (
        (empty, "holds no text"),
        (binary, "is not UTF-8 text"),
        (tmp_path / "none.txt", "there is no file"),
    ):
        assert error in str(run(folders, file).exception)
    good = tmp_path / "good.txt"
    good.write_text("the cat")
    wrong = CliRunner().invoke(
        app, ["score", str(good), "--probe", str(folders / "model"), "-m", str(folders / "model")]
    )
    assert "holds no monitor" in str(wrong.exception)
    assert "make one with `probekit monitor" in str(wrong.exception)
    file = CliRunner().invoke(app, ["score", str(good), "--probe", str(good), "-m", str(folders / "model")])
    assert "is a file, and a monitor is a folder" in str(file.exception)
    assert "make one with `probekit monitor" in str(file.exception)
    assert "probekit.monitoring.fit(probe, model, texts, labels).save(folder)" in str(file.exception)
    tiny(seed=1).hf.save_pretrained(tmp_path / "other")
    other = CliRunner().invoke(
        app, ["score", str(good), "--probe", str(folders / "monitor"), "-m", str(tmp_path / "other")]
    )
    assert "has other weights" in str(other.exception)


def test_a_page_of_the_monitor_alone(monitor, tmp_path):
    page = monitor.save_page(tmp_path / "monitor.html", title="<b>x</b>", command="probekit <i>").read_text(
        encoding="utf-8"
    )
    assert "<b>x</b>" not in page
    assert "probekit <i>" not in page
    assert "scored texts" not in page


def test_the_page_in_a_browser(browser, monitor, model, tmp_path):
    loud = replace(monitor, running_threshold=-1.0)
    texts = [HOSTILE, *texts_of(70, 2)[0]]
    page = loud.save_page(tmp_path / "page.html", loud.stream(model, texts))
    for width, scheme in ((1200, "light"), (380, "dark")):
        opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        complaints = []
        opened.on("console", lambda message: complaints.append(message.text))  # noqa: B023
        opened.on("pageerror", lambda error: complaints.append(str(error)))  # noqa: B023
        opened.goto(page.as_uri())
        assert opened.locator(".scored > li").count() == 50
        assert opened.locator(".scored .tokens").first.text_content() == "<s>" + HOSTILE
        opened.get_by_role("button", name="Show more").click()
        assert opened.locator(".scored > li").count() == 71
        opened.get_by_role("button", name="alarm while streaming").click()
        rang = opened.locator(".scored > li").count()
        assert rang == opened.locator(".scored .token.first").count() > 0
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        assert complaints == []
        opened.close()
