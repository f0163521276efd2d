"""The screen driven by keys, over a real websocket. The tests are synchronous: Textual needs asyncio."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import pytest
from textual import events
from textual.pilot import Pilot
from watched import Region, detail, item, lively, served, task_key

from css.client import State
from tui.app import CssApp
from tui.columns import COLUMNS
from tui.rows import decode
from tui.sanitize import clean

Step = Callable[[CssApp, Pilot[None]], Awaitable[None]]


def drive(url: str, step: Step, size: tuple[int, int] = (132, 36)) -> CssApp:
    """Run the screen, do the step, end the screen."""

    async def main() -> CssApp:
        app = CssApp(url)
        async with app.run_test(size=size) as pilot:
            await step(app, pilot)
        return app

    return asyncio.run(main())


def lines(app: CssApp) -> list[str]:
    """What the terminal would show."""
    return ["".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips()]


def text(app: CssApp) -> str:
    return "\n".join(lines(app))


async def until(app: CssApp, pilot: Pilot[None], condition: Callable[[], bool], seconds: float = 8.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, text(app)
        await pilot.pause(0.02)


async def see(app: CssApp, pilot: Pilot[None], *words: str, seconds: float = 8.0) -> None:
    await until(app, pilot, lambda: all(word in text(app) for word in words), seconds)


@pytest.mark.parametrize("size", [(80, 24), (132, 36), (200, 50), (60, 16)])
def test_tasks_appear_and_change_by_themselves(size: tuple[int, int]) -> None:
    """From connecting to live rows, without a key; a change of the server is on the screen at once."""
    region = Region()
    region.fill(20)

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "● LIVE", "20/20", "RUNNING", "api-billing")
        region.put(task_key(0), detail(0, "STOPPED"))
        await see(app, pilot, "STOPPED", "○")
        region.remove(task_key(0))
        await see(app, pilot, "19/19")
        assert all(len(line) == size[0] for line in lines(app))

    with served(region) as server:
        drive(server.daemon.url, step, size)


def test_the_filter_narrows_as_it_is_typed() -> None:
    """`/` and words, then `key:value`; Enter keeps it, Esc clears it; nonsense is said and changes nothing."""
    region = Region()
    region.fill(70)
    region.put(task_key(3), detail(3, "PENDING"))

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "70/70")
        await pilot.press("slash", *"web")
        await see(app, pilot, "20/70", "/web", "keep the filter")
        await pilot.press(*"-s")
        await see(app, pilot, "10/70")
        await pilot.press("space", *"status:pending", "enter")
        await see(app, pilot, "1/70", "sort service")
        assert app.focused is app.tasks.table
        await pilot.press("slash", *",,x")
        await see(app, pilot, "✖ status", "1/70")
        await pilot.press("escape")
        await see(app, pilot, "70/70")
        await pilot.press("slash", *"nothing-has-this")
        await see(app, pilot, "0 of 70 tasks match", "clears the filter")
        await pilot.press("ctrl+u")
        await see(app, pilot, "70/70")

    with served(region) as server:
        drive(server.daemon.url, step)


def test_fast_typing_goes_where_it_belongs() -> None:
    """What comes in one burst with `/` and Enter is text or command as if it were typed slowly."""
    region = Region()
    region.fill(70)

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "70/70")
        for key in ("slash", *"pS/q", "enter", "j", "j", "S"):
            app.post_message(events.Key(key, "/" if key == "slash" else key if len(key) == 1 else None))
        await see(app, pilot, "0/70", "/pS/q", "sort service▼")

    with served(region) as server:
        drive(server.daemon.url, step)


def test_the_cursor_stays_on_its_task_while_others_come_and_go() -> None:
    """Rows above appear and vanish, the order turns round, the filter changes: the cursor's task stays the same."""
    region = Region()
    region.fill(60, start=100)

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "60/60")
        await pilot.press("s", "S", *"jjjjj")
        chosen = app.tasks.table.rows.cursor
        assert chosen is not None
        place = app.tasks.table.rows.line - app.tasks.table.scroll_offset.y
        region.fill(80, start=200)
        await see(app, pilot, "140/140")
        assert app.tasks.table.rows.cursor == chosen
        assert app.tasks.table.rows.line - app.tasks.table.scroll_offset.y == place
        await pilot.press("S")
        assert app.tasks.table.rows.cursor == chosen
        assert app.tasks.table.rows.at(app.tasks.table.rows.line).key == chosen
        region.remove(chosen)
        await see(app, pilot, "139/139")
        assert app.tasks.table.rows.cursor not in (None, chosen)

    with served(region) as server:
        drive(server.daemon.url, step)


def test_keys_move_by_line_page_and_end() -> None:
    """j k g G, ctrl-f ctrl-b and the arrows; the current line is always in sight, and never beyond the last."""
    region = Region()
    region.fill(100)

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "100/100")
        seen = []
        for key in ("j", "down", "k", "ctrl+f", "ctrl+b", "G", "j", "k", "g", "k", "end", "home", "pagedown"):
            await pilot.press(key)
            line, top = app.tasks.table.rows.line, app.tasks.table.scroll_offset.y
            assert top <= line < top + app.tasks.table.size.height
            seen.append(line)
        page = app.tasks.table.size.height - 1
        assert seen == [1, 2, 1, 1 + page, 1, 99, 99, 98, 0, 0, 99, 0, page]

    with served(region) as server:
        drive(server.daemon.url, step, (100, 30))


def test_sorting_walks_the_columns_and_turns_round() -> None:
    """`s` goes on to the next column, `<` back, `S` reverses, a click on a title sorts by it."""
    region = Region()
    region.fill(30)

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "30/30", "sort service▲", "SERVICE▲")
        await pilot.press("s")
        await see(app, pilot, "sort task▲")
        await pilot.press("S")
        await see(app, pilot, "sort task▼")
        assert app.tasks.table.rows.at(0).key == task_key(29)
        await pilot.press("less_than_sign")
        await see(app, pilot, "sort service▲")
        await pilot.click("#titles", offset=(lines(app)[_line_of(app, "HEALTH")].index("HEALTH"), 0))
        await see(app, pilot, "sort health▲")

    with served(region) as server:
        drive(server.daemon.url, step)


def _line_of(app: CssApp, word: str) -> int:
    return next(number for number, line in enumerate(lines(app)) if word in line)


def test_pause_holds_the_screen_and_keeps_the_changes() -> None:
    """Nothing moves while paused, the changes are counted, and come in at the end of the pause."""
    region = Region()
    region.fill(5)

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "5/5")
        await pilot.press("p")
        region.fill(3, start=50)
        await see(app, pilot, "PAUSED +3", "5/5")
        await pilot.press("p")
        await see(app, pilot, "8/8")
        assert "PAUSED" not in text(app)

    with served(region) as server:
        drive(server.daemon.url, step)


def test_a_lost_connection_keeps_the_rows_and_comes_back() -> None:
    """The banner says retry, why and as of when; rows stay and can be browsed; afterwards ghosts are gone."""
    region = Region()
    region.fill(10)

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "● LIVE", "10/10")
        server.stop()
        await see(app, pilot, "✖ RETRY in", "refused", "as of", "10/10")
        await pilot.press("j", "slash", *"web", "enter")
        await see(app, pilot, "3/10")
        await pilot.press("escape")
        other = server.daemon.region = Region("other")
        other.fill(4, start=90)
        server.start()
        await see(app, pilot, "● LIVE", "4/4")

    with served(region) as server:
        drive(server.daemon.url, step)


def test_every_state_without_rows_says_why() -> None:
    """Nobody there, refused, and a service that knows of no task: each is named, with what to do."""

    async def nobody(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "cannot be reached", "connection refused", "tried again by itself")

    async def refused(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "✖ REFUSED", "401", "a token is needed", "tries again")
        server.daemon.refuse = None
        await pilot.press("ctrl+r")
        await see(app, pilot, "● LIVE", "knows of no tasks")

    with served(Region()) as server:
        server.daemon.refuse = 401
        drive(server.daemon.url, refused)
    drive(server.daemon.url, nobody)


def test_a_frozen_server_is_shown_as_stale_then_lost() -> None:
    """A screen never looks live when it is not."""
    region = Region()
    region.fill(3)

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "● LIVE", "3/3")
        server.call(server.daemon.freeze)
        await see(app, pilot, "STALE")
        await see(app, pilot, "RETRY")

    with served(region) as server:
        drive(server.daemon.url, step)
        server.call(server.daemon.thaw)


def test_help_opens_and_closes() -> None:
    """`?` shows the keys and what the glyphs mean; any key closes it again."""
    region = Region()

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "LIVE")
        await pilot.press("question_mark")
        await see(app, pilot, "filter as you type", "unhealthy", "✖")
        # What comes in meanwhile is shown behind it.
        region.fill(3)
        await until(app, pilot, lambda: app.tasks.table.rows.total == 3)
        await pilot.press("q")
        await until(app, pilot, lambda: "filter as you type" not in text(app))
        assert app.is_running

    with served(region) as server:
        drive(server.daemon.url, step, (80, 24))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_it_as_q_does(name: str) -> None:
    """The exit status is 128 and the signal's number; Textual restores the terminal on its way out."""
    number = signal.Signals[name]

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "LIVE")
        signal.raise_signal(number)
        await until(app, pilot, lambda: not app.is_running)

    with served(Region()) as server:
        assert drive(server.daemon.url, step).return_code == 128 + number


def test_a_defect_in_the_client_ends_the_screen_with_it_in_hand() -> None:
    """What is no typed error is not hidden: the screen ends with status 1 and keeps the error for the log."""

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        def broken(_update: object) -> None:
            raise ZeroDivisionError

        await see(app, pilot, "LIVE")
        app.follower._deliver = broken  # type: ignore[method-assign]
        await pilot.press("ctrl+r")
        await until(app, pilot, lambda: not app.is_running)

    with served(Region()) as server:
        app = drive(server.daemon.url, step)
    assert app.return_code == 1
    assert isinstance(app.failure, ZeroDivisionError)


HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]52;c;aGk=\x07",
    "\x9b2J",
    "\x9d8;;http://x\x9c",
    "a\rb\nc\td",
    "\x00\x7f\x85",
    "\u202eevil\u202c",
    "zero\u200bwidth\u2066x",
    "\ufeffbom",
    "[/nope]",
    "[link=http://x]x[/]",
    "[@click=app.quit]x[/]",
    "line\u2028sep",
    "\U000e0041tag",
    "\u8cc7\u8a0a" * 30,
    "x" * 5000,
]


def test_no_text_from_elsewhere_reaches_the_terminal_as_control() -> None:
    """Hostile names, reasons and ids in every column: each line is printable and exactly as wide as the screen."""
    region = Region()
    for number, evil in enumerate(HOSTILE):
        key = task_key(number, cluster=f"c{evil}")
        more = {
            "group": f"service:{evil}",
            "taskDefinitionArn": f"a/{evil}",
            "availabilityZone": evil,
            "stopCode": evil,
        }
        region.put(key, detail(number, evil, healthStatus=evil, stoppedReason=evil, cpu=evil, memory=evil, **more))

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, f"{len(HOSTILE)}/{len(HOSTILE)}")
        await pilot.press("slash")
        app.tasks.query_one("#entry").value = "\x1b]52;c;aGk=\x07\u202e"  # type: ignore[attr-defined]
        await see(app, pilot, "0 of")
        for strip in app.screen._compositor.render_strips():
            assert all(segment.text.isprintable() and not segment.control for segment in strip)
        await pilot.press("escape")
        await see(app, pilot, "nope", "click")
        for strip in app.screen._compositor.render_strips():
            assert strip.cell_length == 200
            assert all(segment.text.isprintable() and not segment.control for segment in strip)

    with served(region) as server:
        drive(server.daemon.url, step, (200, 40))


@pytest.mark.parametrize("evil", HOSTILE)
def test_cleaning_leaves_only_what_can_be_shown(evil: str) -> None:
    """Every character that is not for display is U+FFFD; the others stay as they are."""
    cleaned = clean(evil)
    assert cleaned.isprintable()
    assert len(cleaned) == len(evil)
    assert all(now in (was, "\ufffd") for now, was in zip(cleaned, evil, strict=True))


def test_only_changed_lines_are_drawn_again() -> None:
    """A change of one task in sight redraws its line; of one out of sight, none."""
    region = Region()
    region.fill(100)

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "100/100")
        await pilot.press("s")
        app.tasks.table.measure()
        await pilot.pause(0.5)
        drawn: list[int] = []
        original = app.tasks.table.refresh_line

        def counted(y: int) -> None:
            drawn.append(y)
            original(y)

        app.tasks.table.refresh_line = counted  # type: ignore[method-assign]
        for number in (2, 90):
            region.put(task_key(number), detail(number, cpu="1024"))
        changed = decode(item(task_key(2), region.revision - 1, detail(2, cpu="1024")))
        await until(app, pilot, lambda: app.tasks.table.rows.at(2) == changed)
        await pilot.pause(0.3)
        assert set(drawn) == {2}

    with served(region) as server:
        drive(server.daemon.url, step)


def test_colour_never_speaks_alone() -> None:
    """Each state of a task and of the connection has its own glyph or word beside its colour."""
    region = lively(60, time.time())

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "60/60", "● LIVE")
        shown = {row.fields.last_status for row in app.tasks.table.rows.all()}
        assert len(shown) >= 4
        assert {line[1] for line in lines(app) if "FARGATE" in line or "prod-" in line} >= {"●", "◐"}

    with served(region) as server:
        drive(server.daemon.url, step)
    assert len({column.title for column in COLUMNS}) == len(COLUMNS)
    assert State("live").phase == "live"


def test_no_color_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR set no segment of the screen has a colour."""
    monkeypatch.setenv("NO_COLOR", "1")
    region = Region()
    region.fill(5)

    async def step(app: CssApp, pilot: Pilot[None]) -> None:
        await see(app, pilot, "5/5")
        styles = [
            segment.style
            for line in app.tasks.table.render_lines(app.tasks.table.size.region)
            for segment in line
            if segment.style is not None
        ]
        assert styles
        colours = [colour for style in styles for colour in (style.color, style.bgcolor) if colour is not None]
        assert all(colour.is_default for colour in colours)

    with served(region) as server:
        drive(server.daemon.url, step)
