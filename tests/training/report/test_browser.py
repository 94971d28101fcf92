"""The report in a real browser: no request but for itself, figures at hand with mouse, finger and keys."""

from pathlib import Path

import pytest

from tests.fixtures.browser import Page
from tests.training.report.stories import HOSTILE, cost, record, story, token
from worker.training.data.examples import Message, NLFTExample
from worker.training.report import REPORT_FILE, RunStory, write_report

LONG = [token(f" word{index}", index / 120, index / 60) for index in range(120)]


def written(folder: Path, told: RunStory | None = None) -> Path:
    path = folder / REPORT_FILE
    write_report(path, told or story())
    return path


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_asks_for_nothing(tmp_path: Path, page: Page, width: int, dark: bool) -> None:
    history = [record(2, False, step, *LONG) for step in (0, 4)]
    path = written(tmp_path, story(history=history))
    page.open(path, width=width, dark=dark)
    assert page.requests == [path.resolve().as_uri()]
    assert page.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert contrast(page, "body") > 7
    assert contrast(page, ".figures dt") > 4.5


def contrast(page: Page, selector: str) -> float:
    """Return the contrast of text and the nearest opaque background (WCAG 2, https://www.w3.org/TR/WCAG22/)."""
    found = page.evaluate(
        f"""(() => {{
            const node = document.querySelector("{selector}");
            const read = (text) => text.match(/[\\d.]+/g).map(Number);
            let under = node;
            while (under && read(getComputedStyle(under).backgroundColor)[3] === 0) under = under.parentElement;
            return [read(getComputedStyle(node).color), read(getComputedStyle(under).backgroundColor)];
        }})()"""
    )
    lights = sorted(luminance(color) for color in found)
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(color: list[float]) -> float:
    linear = [(part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4) for part in color[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_hostile_rows_run_nothing(tmp_path: Path, page: Page) -> None:
    row = NLFTExample([Message("user", HOSTILE)], response=HOSTILE, reference=HOSTILE, judgment=HOSTILE, correct=False)
    history = [record(1, False, step, token(HOSTILE, 0.5), token(HOSTILE, 0.1)) for step in (0, 4)]
    path = written(tmp_path, story(history=history, pinned={1: row}, costs=[cost(1, row, 1.0)]))
    page.open(path)
    page.hover(".t")
    assert page.evaluate("typeof window.broken") == "undefined"
    assert page.requests == [path.resolve().as_uri()]
    assert page.complaints == []


def test_what_escaped_escaping_would_still_not_run(tmp_path: Path, page: Page) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("</main>", f"{HOSTILE}</main>"))
    page.open(path)
    assert page.evaluate("typeof window.broken") == "undefined"
    assert [request for request in page.requests if not request.startswith("file:")] == []


def test_hover_shows_the_three_probabilities(tmp_path: Path, page: Page) -> None:
    page.open(written(tmp_path))
    assert page.evaluate("panel.hidden")
    page.hover("#row-2 .w-lower")
    shown = page.evaluate("panel.innerText")
    for told in ("7", "1.200", "lower", "salient", "80 % → 10 %", "with reference", "90 %", "with judgment", "80 %"):
        assert told in shown
    assert page.evaluate(
        "(() => { const box = panel.getBoundingClientRect(); return box.top >= 0 && box.left >= 0; })()"
    )


def test_a_tap_opens_the_figures_and_another_closes_them(tmp_path: Path, page: Page) -> None:
    page.open(written(tmp_path), width=390, height=844)
    page.tap("#row-2 .w-lower")
    assert "80 % → 10 %" in page.evaluate("panel.innerText")
    assert page.evaluate("panel.getBoundingClientRect().bottom <= innerHeight")
    page.tap("h1")
    assert page.evaluate("panel.hidden")


def test_keys_walk_from_token_to_token(tmp_path: Path, page: Page) -> None:
    history = [record(2, False, step, *LONG) for step in (0, 4)]
    page.open(written(tmp_path, story(history=history)))
    assert page.evaluate("document.querySelectorAll('.t[tabindex=\"0\"]').length") == 1
    page.evaluate("document.querySelector('.t').focus()")
    page.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == " word1"
    assert "word1" in page.evaluate("panel.innerText")
    page.press("End")
    assert page.evaluate("document.activeElement.textContent") == " word119"
    page.press("Escape")
    assert page.evaluate("panel.hidden")


def test_views_recolour_the_tokens(tmp_path: Path, page: Page) -> None:
    page.open(written(tmp_path))
    colours = []
    for view in ("weight", "before", "after", "change"):
        page.evaluate(f"document.querySelector('#row-2-{view}').click()")
        colours.append(page.evaluate("getComputedStyle(document.querySelector('#row-2 .w-lower')).backgroundColor"))
    assert len(set(colours)) == 4


def test_without_scripts_everything_is_there(tmp_path: Path, page: Page) -> None:
    page.open(written(tmp_path), scripts=False)
    assert not page.evaluate("document.documentElement.classList.contains('js')")
    page.hover("#row-2 .w-lower")
    tip = "getComputedStyle(document.querySelector('#row-2 .w-lower'), '::after').content"
    assert "80 % → 10 %" in page.evaluate(tip)
    assert page.evaluate("document.querySelector('#row-2 .t').tabIndex") == 0
    first = "getComputedStyle(document.querySelector('#row-2 .t')).backgroundColor"
    before = page.evaluate(first)
    page.click("label[for=row-2-after]")
    assert page.evaluate(first) != before
