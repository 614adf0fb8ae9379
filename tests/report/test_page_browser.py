"""A page in a real browser: it opens from a file, draws, answers to slider, keys and tabs, and fits wide and narrow."""

from __future__ import annotations

from pathlib import Path

import pytest

from probekit.report import blocks, game_beliefs, write_sweep_page
from tests.report.finished import OTHELLO, a_game, finished

HOSTILE = "<img src=x onerror=console.error('run')></script><script>console.error('run')</script>"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    belief, truth, moves = a_game(12)
    sets = {"tile": OTHELLO["tile"], HOSTILE: (("no", HOSTILE), (HOSTILE,))}
    result = finished(sets, ood=(HOSTILE,), notes=(HOSTILE,))
    path = tmp_path_factory.mktemp("page") / "a page.html"
    game = [blocks.heading("One game"), game_beliefs(belief, truth, moves, title=HOSTILE, start=2)]
    return write_sweep_page(result, path, title=HOSTILE, extra_blocks=game, command=f"probekit sweep {'long ' * 40}")


@pytest.fixture(scope="module", params=[(1400, "light"), (400, "dark")], ids=["wide", "narrow"])
def page(request, browser, file):
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = context.new_page()
    opened.complaints, opened.requests, opened.width = [], [], width
    opened.on("console", lambda message: opened.complaints.append(message.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("request", lambda sent: opened.requests.append(sent.url))
    opened.goto(file.as_uri())
    opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")  # draws what is out of sight, too
    yield opened
    assert opened.complaints == []
    context.close()


def test_nothing_is_asked_of_the_network(page, file):
    outside = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert outside == [file.as_uri()]


def test_every_figure_is_drawn(page):
    plots = page.locator(".plot").count()
    assert plots > 15
    assert page.evaluate("[...document.querySelectorAll('.plot')].every(p => p.querySelector('svg.main-svg'))")
    assert page.locator(".plot .scatterlayer path.js-line").count() > 20


def test_nothing_sticks_out(page):
    assert page.evaluate("document.documentElement.scrollWidth") == page.width
    inside = "e => [e.getBoundingClientRect().left, e.getBoundingClientRect().right]"
    for element in page.locator("main > *").element_handles():
        left, right = element.evaluate(inside)
        assert left >= 0
        assert right <= page.width


def test_labels_lie_within_their_figures(page):
    cut = page.evaluate("""() => [...document.querySelectorAll('.plot')].filter(p => p.offsetParent).flatMap(plot => {
        const box = plot.getBoundingClientRect();
        const labels = '.xtick text, .ytick text, .xtitle, .ytitle, .legendtext, .cbtitle text';
        return [...plot.querySelectorAll(labels)].filter(text => {
            const t = text.getBoundingClientRect();
            const wide = t.left < box.left - 1 || t.right > box.right + 1;
            return t.width && (wide || t.top < box.top - 1 || t.bottom > box.bottom + 1);
        }).map(text => text.textContent);
    })""")
    assert cut == []


def test_names_from_data_are_text(page):
    assert page.locator("img").count() == 0
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.locator(".legendtext", has_text="<img").count() > 0


def test_the_game_moves_by_slider_keys_buttons_and_bars(page):
    game, slider = page.locator(".game"), page.locator(".game input")
    status = page.locator(".game .status")
    assert status.inner_text().startswith("Move 3 of 12")
    before = page.locator(".belief").inner_html()
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert status.inner_text().startswith("Move 4 of 12")
    assert page.locator(".belief").inner_html() != before
    slider.fill("11")
    assert status.inner_text().startswith("Move 12 of 12")
    page.locator(".forth").click()
    assert status.inner_text().startswith("Move 12 of 12")
    page.locator(".back").click()
    assert status.inner_text().startswith("Move 11 of 12")
    game.focus()
    page.keyboard.press("ArrowLeft")
    assert status.inner_text().startswith("Move 10 of 12")
    page.locator(".game .errors").click(position={"x": 4, "y": 40})
    assert status.inner_text().startswith("Move 1 of 12")


def test_the_controls_stay_where_they_are_from_move_to_move(page):
    slider, places = page.locator(".game input"), set()
    for move in range(12):
        slider.fill(str(move))
        places.add(
            page.evaluate("""() => {
            const [game, back] = ['.game', '.game .back'].map(name => document.querySelector(name));
            return back.getBoundingClientRect().top - game.getBoundingClientRect().top;
        }""")
        )
    assert len(places) == 1


def test_wrong_squares_are_marked_and_counted(page):
    belief, truth, _ = a_game(12)
    slider = page.locator(".game input")
    for move in (0, 5, 11):
        slider.fill(str(move))
        wrong = int((belief[move].argmax(-1) != truth[move]).sum())
        assert page.locator(".belief rect.wrong").count() == wrong
        assert page.locator(".truth rect.wrong").count() == 0
        assert page.locator(".truth circle[opacity='1.000']").count() == int((truth[move] < 2).sum())


def test_tabs_show_one_metric_at_a_time(page):
    tabs = page.locator(".tabs").first
    panels = tabs.locator(":scope > [role=tabpanel]")
    assert [panels.nth(i).is_visible() for i in range(3)] == [True, False, False]
    tabs.locator("button", has_text="AUROC").click()
    assert [panels.nth(i).is_visible() for i in range(3)] == [False, False, True]
    plot = panels.nth(2).locator(".plot")
    assert plot.locator("svg.main-svg").first.bounding_box()["width"] == pytest.approx(
        plot.bounding_box()["width"], abs=2
    )
    tabs.locator("button").first.click()


def test_the_command_can_be_copied(page):
    shown = page.evaluate("""() => new Promise(done => {
        const button = document.querySelector('.copy');
        new MutationObserver(() => done(button.textContent)).observe(button, {childList: true});
        button.click();
    })""")
    assert shown in ("Copied", "Press Ctrl+C")


def test_colours_follow_the_theme(page):
    colors = page.evaluate("[...document.querySelectorAll('.js-line')].map(line => line.style.stroke)")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert ("rgb(90, 180, 240)" in colors, "rgb(0, 104, 176)" in colors) == (dark, not dark)
