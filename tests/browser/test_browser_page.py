"""The page of ``moqtrio serve --web``, as a person has it before them."""

from __future__ import annotations

import itertools
import re
import urllib.request
from pathlib import Path
from typing import Any, cast

from browser_tools import HISTORY, Server, opened, serving
from playwright.sync_api import Browser, Page, expect

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
DEVICES = {"desktop": (1280, 1000), "phone": (390, 844)}

_ROWS = "rows => rows.map(row => Number(row.dataset.sequence))"

# Texts whose colour is too close to what is behind them (WCAG 2.2, 1.4.3), with their ratio.
_LOW_CONTRAST = """() => {
    const luminance = (rgb) => {
        const [r, g, b] = rgb.map((value) => {
            const share = value / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const background = (element) => {
        for (; element; element = element.parentElement) {
            const [r, g, b, alpha = 1] = parse(getComputedStyle(element).backgroundColor);
            if (alpha > 0) return [r, g, b];
        }
        return [255, 255, 255];
    };
    const found = [];
    for (const element of document.body.querySelectorAll("*")) {
        const text = [...element.childNodes]
            .filter((node) => node.nodeType === Node.TEXT_NODE)
            .map((node) => node.data.trim())
            .join("");
        if (!text || element.offsetParent === null) continue;
        const one = luminance(parse(getComputedStyle(element).color).slice(0, 3));
        const other = luminance(background(element));
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        if (ratio < 4.5) found.push(`${text}: ${ratio.toFixed(2)}`);
    }
    return found;
}"""


def sequences(page: Page) -> list[int]:
    """The groups in the table, as they are listed."""
    rows: list[int] = page.eval_on_selector_all("#groups tr[data-sequence]", _ROWS)
    return rows


def wait_for_group(page: Page, sequence: int) -> None:
    """Wait until the table's first group is this one or a later one."""
    page.wait_for_function(
        "least => Number(document.querySelector('#groups tr')?.dataset.sequence) >= least",
        arg=sequence,
    )


def wait_for_oldest(page: Page) -> None:
    """Wait until the table's last group is the first of the track."""
    page.wait_for_function(
        "() => document.querySelector('#groups tr:last-child')?.dataset.sequence === '0'"
    )


def wait_for_edge(page: Page) -> None:
    """Wait until the minute before has come, and the page is as far as the server."""
    page.wait_for_function(
        "() => {"
        " const [row] = document.querySelectorAll('#groups tr');"
        " const { max } = document.querySelector('#seek');"
        " return Number(row?.dataset.sequence) >= Math.max(Number(max), 1);"
        "}"
    )


def assert_no_gap(rows: list[int]) -> None:
    assert rows == list(range(rows[0], rows[0] - len(rows), -1))


def test_live_groups_and_curves(page: Page, server: Server) -> None:
    page.goto(server.page)
    expect(page.locator("#status")).to_have_text("Connected")
    expect(page.locator("#mode")).to_have_text("Live")
    wait_for_group(page, 10)
    rows = sequences(page)
    assert_no_gap(rows)
    wait_for_group(page, rows[0] + 5)
    titles = page.locator("figure h3").all_inner_texts()
    assert titles == ["Stream", "Processor", "Memory in use", "Network", "Disk"]
    assert float(page.inner_text("#frame-rate")) > 10
    cells = page.locator("#groups tr").nth(3).locator("td").all_inner_texts()
    assert cells[2] == "5"
    assert re.fullmatch(r"\d\d:\d\d:\d\d[.,]\d\d", cells[1])
    assert cells[3].endswith("kB")
    assert cells[4].endswith("B/s")


def test_the_slider_goes_back_in_history(page: Page, server: Server) -> None:
    server.wait_for_history()
    page.goto(server.page)
    wait_for_group(page, 1)
    slider = page.get_by_label("Position in the history")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#mode")).to_have_text("Replay")
    page.wait_for_function(
        "most => document.querySelector('#groups tr')?.dataset.sequence < most", arg=HISTORY
    )
    wait_for_oldest(page)
    wait_for_group(page, sequences(page)[0] + 5)
    assert_no_gap(sequences(page))
    expect(page.locator("#behind")).to_contain_text("behind live")

    page.get_by_role("button", name="Go live").click()
    expect(page.locator("#mode")).to_have_text("Live")
    wait_for_group(page, int(slider.get_attribute("max") or 0))


def test_a_fast_replay_catches_up_without_a_gap(page: Page, server: Server) -> None:
    server.wait_for_history()
    page.goto(server.page)
    wait_for_group(page, 1)
    page.get_by_label("Replay speed").select_option("Infinity")
    page.focus("#seek")
    page.keyboard.press("Home")
    expect(page.locator("#mode")).to_have_text("Replay")
    expect(page.locator("#mode")).to_have_text("Live")
    assert_no_gap(sequences(page))


def test_the_keyboard_is_enough(page: Page, server: Server) -> None:
    page.goto(server.page)
    wait_for_group(page, 5)
    focused = []
    for _ in range(12):
        page.keyboard.press("Tab")
        focused.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
    assert focused[0] == "Skip to the player"
    for name in ("seek", "pause", "speed", "charts"):
        assert name in focused

    page.focus("#pause")
    page.keyboard.press("Space")
    expect(page.locator("#mode")).to_have_text("Paused")
    expect(page.locator("#pause")).to_have_text("Play")
    shown = sequences(page)
    page.keyboard.press("Space")
    expect(page.locator("#mode")).to_have_text("Replay")
    wait_for_group(page, shown[0] + 5)
    assert_no_gap(sequences(page))
    frames = page.locator("#groups tr:not(:first-child) td:nth-child(3)").all_inner_texts()
    assert set(frames) == {"5"}  # that which was cut off by the pause, too

    page.focus("#charts")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#cursor-time")).to_contain_text("Values at")
    page.keyboard.press("Escape")
    expect(page.locator("#cursor-time")).not_to_contain_text("Values at")


def test_it_can_be_read(page: Page, server: Server) -> None:
    """Look at the screenshots, too."""
    server.wait_for_history()
    page.goto(server.page)
    wait_for_group(page, 10)
    page.focus("#seek")
    page.keyboard.press("PageDown")
    expect(page.locator("#mode")).to_have_text("Replay")
    expect(page.locator("figure")).to_have_count(5)
    page.locator("#live").focus()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for device, (width, height) in DEVICES.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=cast(Any, scheme))
            page.wait_for_timeout(250)  # the curves are drawn in the new colours
            page.screenshot(path=SCREENSHOTS / f"{device}-{scheme}.png", full_page=True)
            assert page.evaluate(_LOW_CONTRAST) == []
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_little_moves_for_those_who_want_that(browser: Browser, server: Server) -> None:
    with (
        browser.new_context(reduced_motion="reduce") as context,
        opened(context) as page,
    ):
        page.add_init_script(
            "const draw = CanvasRenderingContext2D.prototype.clearRect; window.drawn = 0;"
            "CanvasRenderingContext2D.prototype.clearRect = function (...values) {"
            "window.drawn += 1; return draw.apply(this, values); };"
        )
        page.goto(server.page)
        wait_for_edge(page)
        panels = page.locator("figure").count()
        before = page.evaluate("window.drawn")
        began = page.evaluate("performance.now()")
        wait_for_group(page, sequences(page)[0] + 20)
        seconds = (page.evaluate("performance.now()") - began) / 1000
        drawn = (page.evaluate("window.drawn") - before) / panels
        assert 1 <= drawn <= seconds + 2


def test_screen_readers_hear_of_changes_only(page: Page, server: Server) -> None:
    page.goto(server.page)
    wait_for_edge(page)
    page.evaluate(
        """() => {
            window.said = 0;
            const live = document.querySelectorAll("[role=status], [role=alert], [aria-live]");
            const note = new MutationObserver((changes) => { window.said += changes.length; });
            for (const element of live) {
                note.observe(element, { childList: true, characterData: true, subtree: true });
            }
        }"""
    )
    wait_for_group(page, sequences(page)[0] + 20)
    assert page.evaluate("window.said") == 0


def test_rows_stay_where_somebody_reads(page: Page, server: Server) -> None:
    page.goto(server.page)
    wait_for_edge(page)
    row = page.locator("#groups tr").nth(2)
    sequence = row.get_attribute("data-sequence")
    element = row.element_handle()
    wait_for_group(page, sequences(page)[0] + 10)
    assert element.evaluate("row => row.isConnected")
    assert element.get_attribute("data-sequence") == sequence


def test_a_server_that_restarts(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        page.goto(server.page)
        wait_for_group(page, 10)
        server.program.stop()
    expect(page.locator("#status")).to_have_text("Connecting again")
    expect(page.locator("#problem")).to_contain_text("The server does not answer.")
    last = sequences(page)[0]
    with serving(tmp_path, port=server.port):
        expect(page.locator("#status")).to_have_text("Connected")
        expect(page.locator("#problem")).to_be_hidden()
        wait_for_group(page, last + 1)
        wait_for_group(page, sequences(page)[0] + 10)
        assert last in sequences(page)
        assert_every_group_is_accounted_for(page)


def assert_every_group_is_accounted_for(page: Page) -> None:
    """Between the groups of before and after there is a row that says what is missing."""
    rows = sequences(page)
    missing = [
        range(older + 1, newer) for newer, older in itertools.pairwise(rows) if newer != older + 1
    ]
    texts = page.locator("#groups tr.gap").all_inner_texts()
    assert len(missing) == len(texts) <= 1
    for each, text in zip(missing, texts, strict=True):
        assert f"{each.start} to {each.stop - 1} are not there." in text


def test_a_track_that_begins_again(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path / "one") as server:
        page.goto(server.page)
        server.wait_for_history()
        wait_for_group(page, 20)
        server.program.stop()
    with serving(tmp_path / "another", port=server.port):
        expect(page.locator("#status")).to_have_text("Connected")
        expect(page.get_by_role("alert")).to_contain_text("The track has begun again")
        wait_for_oldest(page)
        assert_no_gap(sequences(page))


def test_a_track_that_does_not_exist(page: Page, server: Server) -> None:
    page.goto(f"{server.page}?broadcast=host&track=nothing")
    expect(page.get_by_role("alert")).to_contain_text("refused with code 0x33")
    page.get_by_label("Track", exact=True).fill("telemetry")
    page.get_by_role("button", name="Watch").click()
    wait_for_group(page, 1)
    expect(page.locator("#problem")).to_be_hidden()
    assert page.url.endswith("?broadcast=host&track=telemetry")


def test_a_browser_without_webtransport(page: Page, server: Server) -> None:
    page.add_init_script("delete window.WebTransport")
    page.goto(server.page)
    expect(page.locator("#status")).to_have_text("Not connected")
    expect(page.get_by_role("alert")).to_contain_text("does not have WebTransport")


def test_no_udp(page: Page, server: Server) -> None:
    page.add_init_script(
        "window.WebTransport = class {"
        " constructor() { this.closed = this.ready = Promise.reject(new Error('no')); } }"
    )
    page.goto(server.page)
    expect(page.get_by_role("alert")).to_contain_text(f"Is UDP port {server.port} open?")


def test_nothing_from_elsewhere_is_allowed(server: Server) -> None:
    with urllib.request.urlopen(server.page) as answer:
        policy = answer.headers["Content-Security-Policy"]
        html = answer.read().decode()
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"\son\w+=|style=|https?://", html)
