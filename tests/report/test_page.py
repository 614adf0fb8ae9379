"""The page says what the sweep found, escapes what comes from data, and is the same every time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from probekit.report import Block, Page, blocks, game_beliefs, sweep_page, write_sweep_page
from probekit.report.page import answer, question, score_table
from tests.report.finished import a_game, finished, with_column

HOSTILE = "</script><img src=x onerror=alert(1)>&amp;\"'"


class Reader(HTMLParser):
    """What a browser makes of a page: elements, the visible text, and the data for scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: tuple[str, dict[str, str | None]] = ("", {})
        self.text, self.data = "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open = self.elements[-1]

    def handle_endtag(self, tag):
        self.open = ("", {})

    def handle_data(self, data):
        tag, attributes = self.open
        if tag == "script":
            if attributes.get("type") == "application/json":
                self.data.append(json.loads(data))
        elif tag != "style":
            self.text += data

    def has(self, tag: str) -> bool:
        return any(t == tag for t, _ in self.elements)


@pytest.fixture(scope="module")
def othello():
    return finished(notes=("1,204 rows were left out",))


@pytest.fixture(scope="module")
def page(othello):
    return Reader(sweep_page(othello, title="Othello", command="probekit demo --seed 0").html())


def test_the_page_says_everything_it_has_to(page, othello):
    for words in (
        "Othello",
        "What was asked",
        "The answer",
        "By layer",
        "Square by square",
        "Right and wrong after block 4",
        "Notes",
        "1,204 rows were left out",
        "Make it again",
        "probekit demo --seed 0",
        "logistic probes of a-model on made-up data",
    ):
        assert words in page.text
    assert answer(othello, "tile") in page.text


def test_every_figure_carries_its_numbers(page):
    drawings = [d for d in page.data if isinstance(d, dict) and "layout" in d]
    kinds = [d["data"][0]["type"] for d in drawings]
    assert kinds.count("heatmap") == 1 + 2 * 2  # all label sets; per label set the targets and the confusion
    assert kinds.count("scatter") == 2 * (8 + 1)  # per label set eight metrics and calibration
    assert all("template" not in d["layout"] for d in drawings)


def test_nothing_is_fetched(page, othello):
    for _, attributes in page.elements:
        for name in ("src", "href", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "connect-src" not in Page("x").html()  # default-src 'none' forbids it
    assert "default-src 'none'" in Page("x").html()


def test_the_answer_names_interval_ties_and_controls(othello):
    words = answer(othello, "tile").replace("\u00a0", " ")
    best = othello.best("tile")
    assert f"{100 * best.value:.1f} %" in words
    assert f"{100 * best.low:.1f}–{100 * best.high:.1f} %" in words
    assert "The score after block 5 cannot be told apart from it" in words
    assert "above all that it must beat: majority class" in words
    assert "selectivity of" in words


def test_the_answer_says_when_a_control_does_as_well():
    result = finished({"x": (("a", "b"), ("x",))})
    best = result.best("x")
    kinds = list(zip(result.figures["source"], result.figures["metric"], strict=True))
    for column, value in (("value", best.value), ("low", best.low), ("high", best.high)):
        was = zip(kinds, result.figures[column], strict=True)
        result = with_column(result, column, [value if kind == ("surface", "accuracy") else one for kind, one in was])
    words = answer(result, "x")
    assert "not clearly better than surface" in words
    assert "does not show that the model has learned it" in words
    assert "all that it must beat" not in words


def test_question_names_model_probe_and_targets():
    result = finished(manifest={"model": {"name": "tiny"}, "arguments": {"probe": "difference_in_means"}})
    words = question(result)
    assert (
        "a difference-in-means probe read “tile” (64 targets) and “stable” (64 targets) from the activations of tiny"
        in words
    )
    assert "7 sites" in words


def test_the_table_has_the_numbers_of_the_picture(othello):
    table = score_table(othello, "tile", "accuracy")
    assert list(table.columns) == [
        "after block",
        "probe",
        "95 % interval",
        "majority class",
        "shuffled labels",
        "control task",
        "random weights",
        "surface",
    ]
    assert table["after block"].tolist() == ["emb", "0", "1", "2", "3", "4", "5"]
    assert table["probe"][5] == f"{100 * othello.best('tile').value:.1f}"
    assert set(table["surface"]) == {table["surface"][0]}


def test_text_from_data_is_escaped():
    belief, truth, moves = a_game(3)
    result = finished(
        {HOSTILE: ((HOSTILE, "b"), (HOSTILE, "q"))},
        ood=(HOSTILE,),
        notes=(HOSTILE,),
        manifest={"title": HOSTILE, "model": HOSTILE, "x": {HOSTILE: HOSTILE}},
    )
    game = game_beliefs(belief, truth, [HOSTILE] * len(moves), classes=(HOSTILE, "white", "empty"), title=HOSTILE)
    page = sweep_page(
        result,
        title=HOSTILE,
        command=HOSTILE,
        extra_blocks=[blocks.heading(HOSTILE), game, blocks.facts({HOSTILE: HOSTILE})],
    )
    page.table(pd.DataFrame({HOSTILE: [HOSTILE]}), HOSTILE).add(
        blocks.tiles([{"name": HOSTILE, "value": HOSTILE, "detail": HOSTILE, "href": "#x"}])
    )
    page.add(blocks.tabs({HOSTILE: blocks.text(HOSTILE)}), blocks.details(HOSTILE, blocks.code(HOSTILE, HOSTILE)))
    html = page.html()
    seen = Reader(html)
    assert not seen.has("img")
    assert not any(name.startswith("on") for _, attributes in seen.elements for name in attributes)
    assert HOSTILE in seen.text
    assert any(isinstance(d, dict) and HOSTILE in d.get("moves", []) for d in seen.data)
    plain = Reader(sweep_page(finished({"x": (("a", "b"), ("p", "q"))}, ood=("o",), notes=("n",))).html())
    assert (
        len([t for t, _ in seen.elements if t == "script"]) == len([t for t, _ in plain.elements if t == "script"]) + 1
    )  # the game's


def test_a_scripted_block_holds_its_data_and_never_ends_its_script():
    given = {"texts": [HOSTILE, "\u2028", "<!--"], "n": None}
    document = Page("x").add(blocks.scripted(given, "draw();", style="p { color: red }", label=HOSTILE)).html()
    assert "<img" not in document
    (held,) = re.findall(
        r'<section class="scripted".*?json">(.*?)</script></section>\n<script>draw\(\);', document, re.DOTALL
    )
    assert json.loads(held) == given
    with pytest.raises(ValueError, match="JSON"):
        blocks.scripted(float("nan"), "")


def test_the_same_result_gives_the_same_bytes(tmp_path):
    sets = {"x": (("a", "b"), ("p", "q"))}
    one, two = (write_sweep_page(finished(sets, ood=("o",)), tmp_path / f"{i}.html").read_bytes() for i in range(2))
    assert one == two


def test_a_page_is_whole_or_not_there(tmp_path, monkeypatch):
    target = tmp_path / "deep" / "page.html"
    assert Page("x").text("first").write(target) == target
    before = target.read_text()
    monkeypatch.setattr(Page, "html", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Page("x").text("second").write(target)
    assert target.read_text() == before
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_gets_an_index(tmp_path):
    assert Page("x").write(tmp_path) == tmp_path / "index.html"


def test_plotly_is_in_the_page_once_and_only_when_needed():
    import plotly.graph_objects as go

    assert len(Page("x").text("words").html()) < 100_000
    figure = go.Figure(go.Scatter(x=[1], y=[2]))
    inside = Page("x").add(
        blocks.details("more", blocks.tabs({"a": blocks.figure(figure), "b": blocks.figure(figure)}))
    )
    assert len(re.findall(r"plotly\.js v\d", inside.html())) == 1


def test_tables_format_numbers_and_keep_text():
    frame = pd.DataFrame({"name": ["a", None], "value": [0.123456, np.nan], "count": [1234567, 2]})
    data = blocks.table(frame).data
    assert data["rows"] == [["a", "0.123", "1,234,567"], ["–", "–", "2"]]
    assert [c["number"] for c in data["columns"]] == [False, True, True]


def test_links_go_to_their_own_heading():
    names = ["a b", "a-b", "A b", "äb", "", "a b!"]
    assert len({blocks.anchor(n) for n in names}) == len(names)
    assert blocks.anchor("a b") == "a-b"
    page = Reader(sweep_page(finished(dict.fromkeys(("one two", "one-two", "Notes"), (("a", "b"), ("x",))))).html())
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    links = [a["href"][1:] for t, a in page.elements if t == "a"]
    assert len(ids) == len(set(ids))
    assert links
    assert set(links) <= set(ids)


def test_blocks_and_pages_show_in_a_notebook():
    shown = Block("text", {"paragraphs": ['<a & "b">'], "strong": False})._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert '<a & "b">' not in shown
    assert "one more" in Page("x").text("one more")._repr_html_()


def test_importing_the_report_imports_no_heavy_library():
    code = "import sys, probekit.report; print([m for m in ('plotly', 'jinja2', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_extra_blocks_stand_under_a_heading_of_their_own_or_a_common_one():
    result = finished({"x": (("a", "b"), ("x",))})
    given = [
        b.data["text"] for b in sweep_page(result, extra_blocks=[blocks.text("more")]).blocks if b.macro == "heading"
    ]
    own = [blocks.heading("Mine"), blocks.text("more")]
    named = [b.data["text"] for b in sweep_page(result, extra_blocks=own).blocks if b.macro == "heading"]
    assert given[-3:] == ["A closer look", "Notes", "Make it again"]
    assert named[-3:] == ["Mine", "Notes", "Make it again"]


def test_the_answer_says_when_random_labels_are_learned_as_well():
    result = finished({"x": (("a", "b"), ("x",))})
    assert "random labels as well" not in answer(result, "x")
    was = zip(result.figures["metric"], result.figures["low"], strict=True)
    result = with_column(result, "low", [-0.01 if metric == "selectivity" else low for metric, low in was])
    assert "learns random labels as well as these" in answer(result, "x")
