"""What a reader would notice of the built site, found by opening its pages in Chromium.

Every page is opened from disk in a window as wide as a screen's and in one as wide as a phone's,
with all that can be unfolded unfolded. No page may report an error, ask another host, show a
picture without words, be wider than its window, or have what axe-core calls a serious or critical
fault. What can be operated has to answer to clicks and to keys. Dead links are the business of
`sitecheck`.

A control says what it changes: its attribute `data-answers` holds a CSS selector, and an operation
has to change what the selector finds (the source of pictures, the pixels of a canvas, of all else
text and markup). So are operated:

- `input[type=range]` with clicks on both ends, End, Home and an arrow;
- `select` with its first and its last option, by choice and by keys;
- `input[type=search]` and fields of text with a word that is nowhere, then with none;
- all else, such as buttons and the headers of a table that sort it, with a click and with Enter. A
  header may hold the button that takes the key.

Two kinds need no attribute: the slider of `figures.slider` has to change its picture, and headers
with `aria-sort` or of DataTables the body of their table.

First all controls are clicked in their order on the page, then all are operated by keys; each is
set back to its value before the next. What has one value only, is disabled or hidden is let be.
What is chosen already (`aria-pressed`, `aria-selected`, `aria-current`) may stay as it is. Of
controls of one kind with one selector the first `MOST` are tried.

    python -m workflow.browser [_build/html]

prints `page: fault` lines and fails if there are any. Where no Chromium is found it says so, and
succeeds. The variable CHROMIUM may hold the path of one.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Error, Locator, Page, sync_playwright

from workflow import sitecheck
from workflow.execute import BUILD

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
SCREEN, PHONE = 1280, 390  # the widths of the windows, in CSS pixels
HEIGHT = 900
BROWSERS = 2  # side by side
PATIENCE = 5_000  # milliseconds for an answer
OPENING = 120_000  # milliseconds for a page
MOST = 10
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"  # no host is found, also none given by number
OUTSIDE = re.compile(r"(https?|wss?)://")
GRAVE = ("serious", "critical")
AXE = {
    "resultTypes": ["violations"],
    "preload": False,  # would fetch the style sheets, which browsers forbid on a disk
    "rules": {"label-content-name-mismatch": {"enabled": True}},  # off by default
}
WORD = "zqxjzqxj"  # is on no page

# What the pages are asked, in JavaScript.

UNFOLD = """async () => {
  document.querySelectorAll("details").forEach(fold => { fold.open = true; });
  document.getAnimations().filter(a => a.effect.getComputedTiming().endTime < Infinity)
    .forEach(a => a.finish());
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
}"""

OVERFLOW = """() => {
  const room = document.documentElement.clientWidth;
  const over = document.scrollingElement.scrollWidth - room;
  const cut = e => e && e !== document.body
    && (getComputedStyle(e).overflowX !== "visible" || cut(e.parentElement));
  const right = e => e.getBoundingClientRect().right;
  const wide = [...document.body.querySelectorAll("*")].filter(
    e => right(e) > room + 0.5 && right(e) < room + over + 1 && !cut(e.parentElement));
  const last = wide.sort((a, b) => right(a) - right(b)).at(-1) ?? document.body;
  return [over, `${last.tagName.toLowerCase()} "${last.textContent.trim().slice(0, 60)}"`];
}"""

PICTURES = """() => [...document.querySelectorAll(
    "img, canvas, object, svg, input[type=image], [role=img]")]
  .filter(e => !e.closest("[aria-hidden=true], [role=presentation], [role=none]"))
  .filter(e => !e.parentElement.closest("svg, [role=img]"))
  .map(e => [
    (e.getAttribute("aria-labelledby") ?? "").split(" ")
      .map(id => document.getElementById(id)?.textContent ?? "").join(" ")
    || e.getAttribute("aria-label") || e.getAttribute("alt") || e.getAttribute("title")
    || (e.matches("svg") ? e.querySelector("title")?.textContent : e.textContent) || "",
    `${e.tagName.toLowerCase()} ${(e.src ?? e.data ?? e.id).split("/").at(-1).slice(0, 80)}`])"""

CONTROLS = """() => {
  document.querySelectorAll(".difflens-slider").forEach((box, i) => {
    box.dataset.slider = i;
    const input = box.querySelector("input[type=range]");
    if (input) input.dataset.answers = `[data-slider="${i}"] img`;
  });
  document.querySelectorAll("th[aria-sort], th.dt-orderable-asc").forEach(header => {
    const table = header.closest("table");
    table.dataset.sorts ??= document.querySelectorAll("[data-sorts]").length;
    header.dataset.answers ??= `[data-sorts="${table.dataset.sorts}"] tbody`;
  });
  const kind = e => e.matches("select") ? "select" : e.matches("input[type=range]") ? "range"
    : e.matches("input[type=search], input[type=text], input:not([type])") ? "field" : "button";
  const choice = e => e.matches("select") ? e.options.length > 1
    : e.matches("input[type=range]") ? +e.min < +(e.max || 100) : true;
  return [...document.querySelectorAll("[data-answers]")]
    .filter(e => choice(e) && !e.matches(":disabled") && e.checkVisibility())
    .map((e, i) => {
      e.dataset.control = i;
      const tag = e.tagName.toLowerCase(), words = (e.labels?.[0]?.firstChild ?? e).textContent;
      const name = e.getAttribute("aria-label") ?? words;
      return [`[data-control="${i}"]`, kind(e), e.dataset.answers,
        `${tag} "${name.trim().slice(0, 40)}"`];
    });
}"""

SHOWN = """selector => [...document.querySelectorAll(selector)].map(
  e => e.matches("img") ? e.src : e.toDataURL?.() ?? e.outerHTML + e.innerText).join()"""
REMEMBER = f"selector => {{ window.shownBefore = ({SHOWN})(selector); }}"
CHANGED = f"selector => ({SHOWN})(selector) !== window.shownBefore"

SET = """(e, value) => {
  e.value = value;
  ["input", "change"].forEach(name => e.dispatchEvent(new Event(name, {bubbles: true})));
}"""

CHOSEN = """e => ["aria-pressed", "aria-selected", "aria-current"].some(
  name => ![null, "false"].includes(e.getAttribute(name)))"""


class Window:
    """A window of the browser, and what it was told since a page was opened in it.

    `errors` are those of the console and of scripts, `outside` the URLs of other hosts.
    """

    def __init__(self, browser: Browser, width: int) -> None:
        self.width = width
        self.page = browser.new_page(viewport={"width": width, "height": HEIGHT})
        self.page.set_default_timeout(PATIENCE)
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self._ask(request.url))
        self.page.on("websocket", lambda socket: self._ask(socket.url))

    def open(self, path: Path) -> None:
        """Open a page and wait until it looks as it stays, with everything unfolded."""
        self.errors, self.outside = [], []
        self.page.goto(path.as_uri(), timeout=OPENING)
        self.page.evaluate(UNFOLD)

    def told(self) -> list[str]:
        """The faults that follow from what the window was told."""
        found = [f"asks another host: {url}" for url in self.outside]
        found += [f"reports an error: {_short(error)}" for error in self.errors]
        return list(dict.fromkeys(found))

    def _ask(self, url: str) -> None:
        if OUTSIDE.match(url):
            self.outside.append(url)

    def _hear(self, message: ConsoleMessage) -> None:
        """Keep an error, unless it only says that a host was not found."""
        place = message.location["url"]
        said = message.text if place == self.page.url else f"{message.text} {place}"
        if message.type == "error" and not any(url in said for url in self.outside):
            self.errors.append(said)


class Control(NamedTuple):
    """What a reader can operate: where it is, its kind, what it changes, how to speak of it."""

    selector: str
    kind: str
    answers: str
    name: str


Action = Callable[[Locator], None]


def _click_at(share: float) -> Action:
    """Click on a control, at a share of its width."""

    def act(control: Locator) -> None:
        box = control.bounding_box() or {"width": 0, "height": 0}
        x = 1 + share * (box["width"] - 2)
        control.click(position={"x": x, "y": box["height"] / 2})

    return act


def _choose_first(control: Locator) -> None:
    control.select_option(index=0)


def _choose_last(control: Locator) -> None:
    control.select_option(index=control.locator("option").count() - 1)


def _press(key: str) -> Action:
    return lambda control: control.press(key)


def _enter(control: Locator) -> None:
    """Press Enter on a control, or on the button in it."""
    inner = control.locator("button, a[href], [tabindex]")
    (inner.first if inner.count() else control).press("Enter")


def _erase(control: Locator) -> None:
    control.press("Control+a")
    control.press("Delete")


# What is done to a control of each kind. What has no name prepares the next and need not answer.
CLICKS: dict[str, list[tuple[str, Action]]] = {
    "range": [("", _click_at(0)), ("a click on its right end", _click_at(1))],
    "select": [("", _choose_first), ("the choice of its last option", _choose_last)],
    "field": [],
    "button": [("a click", lambda control: control.click())],
}
KEYS: dict[str, list[tuple[str, Action]]] = {
    "range": [
        ("", _press("Home")),
        ("the key End", _press("End")),
        ("the key Home", _press("Home")),
        ("the key ArrowRight", _press("ArrowRight")),
    ],
    "select": [
        ("", _press("Home")),
        ("the key End", _press("End")),
        ("the key Home", _press("Home")),
        ("the key ArrowDown", _press("ArrowDown")),
    ],
    "field": [
        ("a word", lambda control: control.press_sequentially(WORD)),
        ("no word", _erase),
    ],
    "button": [("the key Enter", _enter)],
}


def program() -> str | None:
    """The path of a Chromium: the variable CHROMIUM's, or the first on the PATH; None without."""
    names = filter(None, [os.environ.get("CHROMIUM"), *PROGRAMS])
    return next(filter(None, map(shutil.which, names)), None)


def faults(folder: Path, chromium: str) -> list[str]:
    """Everything that is wrong with the site in `folder`, one line each; empty if nothing is."""
    folder = folder.resolve()
    largest_first = sorted(pages(folder), key=lambda path: -path.stat().st_size)
    waiting = iter(largest_first)  # one for all browsers: each takes the next page
    browsers = min(BROWSERS, len(largest_first))
    with ThreadPoolExecutor(browsers) as pool:
        shares = pool.map(lambda _: _visit_all(waiting, chromium), range(browsers))
        found = sorted(entry for share in shares for entry in share)
    return [f"{path.relative_to(folder)}: {fault}" for path, faults in found for fault in faults]


def _visit_all(waiting: Iterator[Path], chromium: str) -> list[tuple[Path, list[str]]]:
    """Open pages in a browser of one's own until none waits; returns the faults of each."""
    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path=chromium, args=[OFFLINE])
        screen, phone = Window(browser, SCREEN), Window(browser, PHONE)
        found = [(path, visit(screen, phone, path)) for path in waiting]
        browser.close()
    return found


def pages(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


def visit(screen: Window, phone: Window, path: Path) -> list[str]:
    """All faults of a page, each once."""
    found = []
    for window, look in ((screen, on_screen), (phone, on_phone)):
        try:
            window.open(path)
            found += look(window)
        except Error as error:
            found.append(f"cannot be read to its end: {_short(error.message)}")
    return list(dict.fromkeys(found))


def on_screen(window: Window) -> list[str]:
    """All faults of the page that is open in a wide window."""
    found = overflow(window) + silent_pictures(window.page)
    found += barriers(window.page) + mute_controls(window.page)
    return window.told() + found


def on_phone(window: Window) -> list[str]:
    """The faults of the page that depend on the width of the window."""
    return window.told() + overflow(window)


def overflow(window: Window) -> list[str]:
    """Whether the page is wider than its window, with the last part that sticks out."""
    pixels, part = window.page.evaluate(OVERFLOW)
    if pixels <= 0:
        return []
    return [f"is {pixels} px wider than a window of {window.width} px: {_short(part)}"]


def silent_pictures(page: Page) -> list[str]:
    """Every picture without words, or with a path for words."""
    pictures = [(words.strip(), name) for words, name in page.evaluate(PICTURES)]
    return [
        f"has a picture without words: {name}"
        for words, name in pictures
        if not words or sitecheck.PATH.fullmatch(words)
    ]


def barriers(page: Page) -> list[str]:
    """What axe-core calls serious or critical, one line for each of its rules."""
    found = Axe().run(page, options=AXE).response["violations"]
    return [
        f"axe-core finds {rule['impact']}: {rule['id']} ({len(rule['nodes'])} times, first at "
        f"{_short(str(rule['nodes'][0]['target'][0]))})"
        for rule in found
        if rule["impact"] in GRAVE
    ]


def mute_controls(page: Page) -> list[str]:
    """Every control that does not change what it has to, with the operation that failed."""
    known = controls(page)
    return [
        fault
        for operations in (CLICKS, KEYS)
        for control in known
        for fault in _operate(page, control, operations[control.kind])
    ]


def controls(page: Page) -> list[Control]:
    """What can be operated on a page, at most `MOST` of a kind with the same selector."""
    alike: Counter[tuple[str, str]] = Counter()
    found = []
    for control in (Control(*values) for values in page.evaluate(CONTROLS)):
        alike[control.kind, control.answers] += 1
        if alike[control.kind, control.answers] <= MOST:
            found.append(control)
    return found


def _operate(page: Page, control: Control, operations: list[tuple[str, Action]]) -> list[str]:
    """Do all operations to a control; returns what it does not answer to."""
    target = page.locator(control.selector)
    if not target.is_visible():  # another control has hidden it
        return []
    if not page.locator(control.answers).count():
        return [f"{control.name} answers with nothing: {control.answers}"]
    may_stay = target.evaluate(CHOSEN)
    value = target.evaluate("e => e.value")
    found = []
    for name, act in operations:
        page.evaluate(REMEMBER, control.answers)
        try:
            act(target)
            if name and not may_stay:
                page.wait_for_function(CHANGED, arg=control.answers)
        except Error:
            found.append(f"{control.name} does not answer to {name or 'anything'}")
    if control.kind != "button":
        target.evaluate(SET, value)
    return found


def _short(text: str) -> str:
    """Text as one line of at most 200 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:199]}…"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=BUILD / "html")
    folder = parser.parse_args().folder
    chromium = program()
    if chromium is None:
        print(f"No page was opened: none of {', '.join(PROGRAMS)} is installed.")
        return
    if not pages(folder):
        sys.exit(f"no page lies in {folder}: make book builds them")
    found = faults(folder, chromium)
    print(*found, sep="\n", end="\n" if found else "")
    if found:
        sys.exit(f"faults of the pages: {len(found)}")
    print(f"Pages opened in {chromium}: {len(pages(folder))}, nothing is wrong.")


if __name__ == "__main__":
    main()
