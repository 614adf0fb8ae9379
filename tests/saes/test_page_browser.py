"""The page of features in a real browser: search, sorting, cards, links, keys; wide and narrow, light and dark."""

from __future__ import annotations

import re

import pytest

import saes
from tests.saes.page_world import HOSTILE, world

MOST = 30


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    w = world()
    decoder = w.sae.W_dec.detach().numpy()
    options = {
        "names": w.names, "decode": w.decode, "model": w.model, "probes": {HOSTILE: decoder[3], "other": decoder[9]},
        "activations": w.store, "most": MOST, "title": HOSTILE, "command": f"probekit sae page {'long ' * 40}",
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("page")
    saes.save_page(folder / "text page.html", w.features, w.sae, **options)
    saes.save_page(folder / "boards.html", w.features, w.sae, boards=w.tile, **options)
    return folder


@pytest.fixture(params=[(1400, "light"), (400, "dark")], ids=["wide", "narrow"])
def opened(request, browser, file):
    """Opens a page of the folder; complaints of the console fail the test."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.complaints, page.requests, page.width = [], [], width
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda sent: page.requests.append(sent.url))

    def go(name="text page.html", fragment=""):
        page.goto((file / name).as_uri() + fragment)
        return page

    yield go
    assert page.complaints == []
    assert all(url.startswith(("file:", "data:")) for url in page.requests)
    context.close()


def numbers(page):
    return [int(text[1:]) for text in page.locator(".features .id").all_inner_texts()]


def named():
    return [name.feature for name in world().names]


def find(page, words):
    page.fill("#feature-search", words)
    page.wait_for_timeout(200)


def test_features_are_listed_by_evidence_activity_and_number(opened):
    page = opened()
    fired = (world().features.matrix.toarray() > 0).sum(0)
    first, second, third = named()
    shown = numbers(page)
    assert shown[:3] == [second, first, third], "hard accuracy 0.95, 0.8, and 0.7 where there is none"
    assert len(shown) == MOST + 3
    page.select_option("#feature-order", "activity")
    assert [fired[f] for f in numbers(page)] == sorted((fired[f] for f in shown), reverse=True)
    page.select_option("#feature-order", "number")
    assert numbers(page) == sorted(shown)


def test_search_by_name_token_and_number(opened):
    page = opened()
    first, second, third = named()
    find(page, "RIVERS")
    assert numbers(page) == [third]
    assert page.get_by_role("status").inner_text() == f"1 of {MOST + 3} features with a card."
    find(page, "<img src=x")
    assert second in numbers(page)
    find(page, f"#{first}")
    assert numbers(page) == [first]
    find(page, str(first))
    assert first in numbers(page)
    find(page, "t12")
    found = numbers(page)
    assert 0 < len(found) < MOST + 3
    for button in page.locator(".opener").all()[:5]:
        button.click()
    marks = page.locator(".card").first.locator(".context .here").all_inner_texts()
    assert any("t12" in mark for mark in marks)
    left = next(f for f in range(48) if page.evaluate(f"!document.getElementById('row-{f}')") and f not in found)
    find(page, "#99999")
    assert numbers(page) == []
    assert "there is no feature 99999" in page.get_by_role("status").inner_text()
    find(page, "")
    assert len(numbers(page)) == MOST + 3
    assert left in numbers(page) or left not in found


def test_filters(opened):
    page = opened()
    first, second, third = named()
    for value, expected in {
        "named": {first, second, third}, "precise": {first}, "fair": {second, third}, "labels": {first},
        "vocabulary": {second}, "language_model": {third}, "holds": {first}, "fails": {third},
    }.items():  # fmt: skip
        page.select_option("#feature-show", value)
        assert set(numbers(page)) == expected, value
    page.select_option("#feature-show", "unnamed")
    assert len(numbers(page)) == MOST
    assert page.locator(".opener", has_text="no name earned").count() == MOST


def test_a_card_opens_and_closes_by_key_and_shows_the_evidence(opened):
    page = opened()
    button = page.locator(f"#row-{named()[0]} .opener")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    card = page.locator(f"#card-{named()[0]}")
    words = card.locator(".evidence").inner_text()
    for part in (
        "B2 is mine and C3 is empty",
        "0.91",
        "≥ 0.88",
        "names of other features",
        "0.51",
        "0.80",
        "D4 is mine",
        "1,234",
    ):
        assert part in words
    assert "The check holds" in words
    assert "−1.20" in words
    assert "−0.10" in words
    assert card.locator(".histogram rect").count() == 24
    assert card.locator(".bars li").count() == 20
    assert card.locator("h4", has_text="Nearest probe").count() == 1
    page.keyboard.press("Enter")
    assert page.locator(".card").count() == 0
    assert "fuzzing" not in words
    page.locator(f"#row-{named()[2]} .opener").click()
    words = page.locator(".evidence").inner_text()
    assert "The check does not hold" in words
    assert re.search(r"fuzzing\s+0\.66", words)
    assert re.search(r"recall\s+–", words), "not known of names from a language model"


def test_tokens_tell_their_activation_to_pointer_and_keys(opened):
    page = opened()
    page.locator(f"#row-{named()[1]} .opener").click()
    line = next(line for line in page.locator(".context").all() if line.locator("mark").count() > 2)
    readout = line.locator("xpath=following-sibling::p[1]").locator(".readout")
    before = readout.inner_text()
    assert line.locator("mark[tabindex='0']").count() == 1, "one stop for the tab key"
    line.locator("mark[tabindex='0']").focus()
    assert readout.inner_text().startswith("“")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    at = page.evaluate(
        "[...document.activeElement.parentElement.querySelectorAll('mark')].indexOf(document.activeElement)"
    )
    page.keyboard.press("ArrowRight")
    assert (
        page.evaluate(
            "[...document.activeElement.parentElement.querySelectorAll('mark')].indexOf(document.activeElement)"
        )
        == at + 1
    )
    assert (
        page.evaluate("document.activeElement.querySelector('.unseen').textContent").strip(" ()")
        in readout.inner_text()
    )
    page.evaluate("document.activeElement.blur()")
    assert readout.inner_text() == before
    line.locator("mark").first.hover()
    assert readout.inner_text().startswith("“")


def test_links_lead_from_card_to_card_and_back(opened):
    page = opened()
    page.select_option("#feature-show", "named")
    page.locator(f"#row-{named()[0]} .opener").click()
    link = page.locator(".near a").first
    target = int(link.get_attribute("href").removeprefix("#feature-"))
    link.click()
    page.wait_for_timeout(100)
    assert numbers(page) == [target]
    assert page.locator(f"#card-{target}").is_visible()
    assert page.evaluate("document.activeElement.className") == "opener"
    assert page.input_value("#feature-search") == f"#{target}"
    page.go_back()
    page.wait_for_timeout(100)
    assert set(numbers(page)) == set(named())
    assert page.locator(f"#card-{named()[0]}").is_visible(), "open cards stay open"


def test_a_link_from_outside_opens_the_card(opened):
    page = opened(fragment=f"#feature-{named()[2]}")
    assert page.locator(f"#card-{named()[2]}").is_visible()


def test_the_table_sorts_and_follows_the_search(opened):
    page = opened()
    first, second, third = named()
    page.locator("[role=tab]", has_text="Table of names").click()
    assert not page.locator(".features").is_visible()

    def rows():
        return [int(text[1:]) for text in page.locator(".names tbody td:first-child").all_inner_texts()]

    def sort(words):
        page.locator(".names th button", has_text=words).click()
        return page.locator(".names th", has_text=words).get_attribute("aria-sort")

    assert sort("balanced accuracy") == "descending"
    assert rows() == [second, first, third]
    assert sort("balanced accuracy") == "ascending"
    assert rows() == [third, first, second]
    assert sort("feature") == "ascending"
    assert rows() == sorted(named())
    assert sort("against hard") == "descending"
    assert rows() == [second, first, third], "what is not defined comes last"
    assert page.locator(".names tbody tr", has_text="rivers").locator("td").nth(6).inner_text() == "–"
    assert page.locator(".names tbody tr", has_text="rivers").locator("td").nth(7).inner_text() == "0.66"
    assert page.locator(".names tbody tr", has_text="B2 is mine").locator("td").nth(7).inner_text() == "–"
    find(page, "rivers")
    assert rows() == [third]
    page.locator(".names tbody a").first.click()
    page.wait_for_timeout(100)
    assert page.locator(f"#card-{third}").is_visible()


@pytest.mark.parametrize("name", ["text page.html", "boards.html"])
def test_nothing_sticks_out_and_hostile_text_is_text(opened, name):
    page = opened(name)
    for button in page.locator(".opener").all()[:8]:
        button.click()
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == page.width
    out = page.evaluate("""() => {
        const inside = (e) => e.closest('.scroll, .unseen, svg, pre, code');
        return [...document.querySelectorAll('main *')].filter(e => e.getClientRects().length && !inside(e)).filter(e => {
            const box = e.getBoundingClientRect(), frame = document.querySelector('main').getBoundingClientRect();
            return box.left < frame.left || box.right > frame.right + 0.5;
        }).map(e => e.outerHTML.slice(0, 120));
    }""")
    assert out == []
    tables = "[...document.querySelectorAll('.card table')].filter(t => t.scrollWidth > t.parentElement.clientWidth + 1).length"
    assert page.evaluate(tables) == 0
    assert page.locator("img").count() == 0
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.locator(".opener", has_text="<img src=x").count() > 0


def test_boards_show_discs_the_last_move_and_the_squares_of_the_name(opened):
    w = world()
    page = opened("boards.html")
    page.locator(f"#row-{named()[0]} .opener").click()
    card = page.locator(f"#card-{named()[0]}")
    for item in card.locator(".boardlist > div").all():
        label = item.locator("svg.position").get_attribute("aria-label")
        sequence, position = (int(label.split(word)[1].split(",")[0]) for word in (" sequence ", " position "))
        assert item.locator(".position circle[r='0.39']").count() == position + 1
        square = int(w.features.token[sequence * 16 + position]) - 1
        assert item.locator(".position circle[fill='#e0533d']").get_attribute("cx") == str(square % 4 + 0.5)
        assert item.locator("rect.wrong").count() == 2
    assert card.locator(".average svg.field").count() == 3
    assert card.locator(".effects svg.field").count() == 1
    assert card.locator(".effects rect.spoken").count() == 2


def test_colours_follow_the_theme(opened):
    page = opened()
    page.locator(".opener").first.click()
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    fill = page.evaluate("getComputedStyle(document.querySelector('.histogram rect')).fill")
    assert fill == ("rgb(90, 180, 240)" if dark else "rgb(0, 104, 176)")


def test_a_page_of_thousands_draws_some_rows_and_no_card(browser, tmp_path):
    w = world()
    path = saes.save_page(tmp_path / "page.html", w.features, w.sae, names=w.names, decode=w.decode)
    before, cards, after = re.split(
        r'(?<="cards":\[)(.*)(?=\]\}</script></section>)', path.read_text(), flags=re.DOTALL
    )
    path.write_text(before + ",".join([cards] * 50) + after)
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    page.goto(path.as_uri())
    assert "2,400 of 2,400" in page.get_by_role("status").inner_text()
    assert page.locator(".features > li").count() == 40
    assert page.locator(".card").count() == 0
    page.locator("button.more").first.click()
    assert page.locator(".features > li").count() == 80
    assert page.evaluate("document.activeElement.className") == "opener", "the first of those that came"
    page.context.close()
