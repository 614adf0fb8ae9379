"""A walk on a grid: what goes into the page, what is refused, and that it steps in a browser."""

from __future__ import annotations

import re

import numpy as np
import pytest

from probekit.report import GridStep, Page, grid_walk

HOSTILE = "</script><img src=x onerror=console.error('run')>"
WALLS = np.pad(np.zeros((2, 3), bool), 1, constant_values=True).ravel()


def step(
    word: str = "move", robot: int = 6, read_at: int = 6, facing: int = 1, read_facing: int = 1, **more
) -> GridStep:
    place, heading = np.zeros(20), np.full(4, 0.1)
    place[read_at], heading[read_facing] = 0.8, 0.7
    return GridStep(word, robot, facing, more.get("markers", np.zeros(20, int)), more.get("place", place), heading)


def walk(*steps: GridStep, **more):
    return grid_walk(steps, WALLS, columns=5, **more)


def test_probabilities_go_into_the_page_in_whole_per_mille():
    import json

    data = json.loads(walk(step(), step(robot=7, read_at=8), title="a walk", start=9).data["json"])
    assert (data["rows"], data["columns"], data["start"], len(data["steps"])) == (4, 5, 1, 2)
    assert data["steps"][0]["place"][6] == 800
    assert data["steps"][1]["heading"] == [100, 700, 100, 100]
    assert data["walls"] == WALLS.astype(int).tolist()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: walk(), "at least one step"),
        (lambda: grid_walk([step()], WALLS[:19], columns=5), "rows of 5"),
        (lambda: walk(step(place=np.zeros(19))), r"step 0: place has shape \(19,\), the grid needs \(20,\)"),
        (lambda: walk(step(robot=0)), "cell 0, which is a wall"),
        (lambda: walk(step(), step(facing=4)), "step 1: there is no facing 4"),
    ],
)
def test_what_does_not_fit_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_words_from_data_cannot_end_the_script():
    html = Page("walks").add(walk(step(HOSTILE), title=HOSTILE)).html()
    assert HOSTILE not in html
    assert len(re.findall(r"<script", html)) == len(re.findall(r"</script>", html))


def test_a_walk_steps_by_words_buttons_slider_and_keys(browser, tmp_path):
    markers = np.zeros(20, int)
    markers[8] = 3
    steps = [
        step("move"),
        step(HOSTILE, robot=7, read_at=8, markers=markers),
        step("turn_left", facing=0, read_facing=2),
    ]
    file = Page("walks").add(walk(*steps, title=HOSTILE)).write(tmp_path / "walk.html")
    for width in (1200, 400):
        page = browser.new_page(viewport={"width": width, "height": 900})
        complaints: list[str] = []
        page.on("console", lambda message, into=complaints: into.append(message.text))
        page.on("pageerror", lambda error, into=complaints: into.append(str(error)))
        page.goto(file.as_uri())
        status = page.locator(".walk .status")
        assert status.inner_text().startswith(
            "After word 1 of 3, move. Read: row 1, column 1 (80 %), facing east (70 %)."
        )
        assert status.inner_text().endswith("Read rightly.")
        assert page.locator(".walk .miss").count() == 0
        page.locator(".walk .forth").click()
        assert status.inner_text().endswith("Read wrongly.")
        assert page.locator(".read .miss").count() == 1
        assert page.locator(".truth .count").text_content() == "3"
        page.keyboard.press("ArrowRight")
        assert status.inner_text().startswith("After word 3 of 3, turn_left.")
        page.locator(".walk .words button").first.click()
        assert status.inner_text().startswith("After word 1 of 3")
        page.locator(".walk input").fill("2")
        assert page.locator(".words button.off").count() == 2
        assert page.locator("img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert complaints == []
        page.close()
