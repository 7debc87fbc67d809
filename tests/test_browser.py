"""The check of the site in a browser: a page without faults passes, and each fault is found."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, sync_playwright

from difflens_utils.pages import figures
from workflow import browser, sphinx_pages

CHROMIUM = browser.program()
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title></head>
<body><main><h1>A page</h1>{body}</main></body></html>"""
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)
SLIDER = figures.slider({f"β = {i}": torch.full((1, 3, 4, 4), i / 3) for i in range(4)}, {})
SELECT = """<label>class <select data-answers="#shown"
 onchange="document.getElementById('shown').textContent = this.value">
<option>a</option><option>b</option><option>c</option></select></label><p id="shown">a</p>"""
FIELD = """<label>search <input type="search" data-answers="#hits"
 oninput="document.getElementById('hits').hidden = this.value"></label><p id="hits">hits</p>"""
BUTTON = """<button data-answers="#count"
 onclick="document.getElementById('count').textContent += 'x'">more</button><p id="count">x</p>"""
CHOSEN = '<button data-answers="main" aria-pressed="true">this</button>'
UNREACHED = BUTTON.replace("<button", "<span").replace("</button", "</span")
SORTS = """<table><thead><tr><th aria-sort="none"
 onclick="this.closest('table').tBodies[0].append(this.closest('table').tBodies[0].rows[0])">
<button>name</button></th></tr></thead><tbody><tr><td>a</td></tr><tr><td>b</td></tr></tbody></table>"""
DRAWN = """<button data-answers="canvas" onclick="
const pen = document.querySelector('canvas').getContext('2d');
pen.fillRect(this.dataset.x++, 0, 1, 1)" data-x="0">draw</button>
<canvas aria-label="a drawing"></canvas>"""
FADES = """<style>@keyframes fade { from { opacity: 0 } } details p { animation: fade 9s }</style>
<details><summary>more</summary><p>unfolded</p></details>"""
SIGNATURE = """<dl><dt class="sig py"><span class="n"><span class="pre">f</span></span>(
<dl>
<dd>x,</dd>
</dl>)</dt><dd>Its words.</dd></dl>"""  # as Sphinx writes it
GOOD = [
    f'<img alt="a face" src="{PIXEL}"><svg aria-hidden="true"></svg>',
    '<div tabindex="0" style="overflow-x: auto"><p style="width: 2000px">wide</p></div>',
    '<script>console.warn("only a warning")</script>',
    SLIDER,
    SELECT,
    FIELD,
    BUTTON,
    CHOSEN,
    SORTS,
    DRAWN,
    FADES,
    sphinx_pages.SIGNATURE.sub(sphinx_pages.plain_signature, SIGNATURE),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as library:
        started = library.chromium.launch(executable_path=CHROMIUM, args=[browser.OFFLINE])
        yield started
        started.close()


@pytest.fixture(scope="module")
def windows(chromium: Browser) -> tuple[browser.Window, browser.Window]:
    return browser.Window(chromium, browser.SCREEN), browser.Window(chromium, browser.PHONE)


def write(folder: Path, body: str) -> Path:
    path = folder / "index.html"
    path.write_text(PAGE.format(body=body))
    return path


Windows = tuple[browser.Window, browser.Window]


def seen(windows: Windows, path: Path, patience: int = 600) -> list[str]:
    """What is found on a page by one who waits `patience` milliseconds for answers."""
    windows[0].page.set_default_timeout(patience)
    return browser.visit(*windows, path)


@needs_chromium
def test_a_good_page_has_no_faults_and_all_its_controls_are_tried(
    windows: Windows, tmp_path: Path
) -> None:
    path = write(tmp_path, "".join(GOOD))
    assert seen(windows, path, browser.PATIENCE) == []
    windows[0].open(path)
    kinds = [control.kind for control in browser.controls(windows[0].page)]
    assert kinds == ["range", "select", "field", *["button"] * 4]


@needs_chromium
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<script>console.error("lost")</script>', "lost"),
        ('<script>throw new Error("broken")</script>', "broken"),
        ('<script>Promise.reject(new Error("promised"))</script>', "promised"),
        ("<script>document.body.onclick = 1; gone()</script>", "gone is not defined"),
    ],
)
def test_an_error_is_found(windows: Windows, tmp_path: Path, body: str, fault: str) -> None:
    assert seen(windows, write(tmp_path, body)) == [f"reports an error: {fault}"]


@needs_chromium
def test_a_missing_file_is_found(windows: Windows, tmp_path: Path) -> None:
    (fault,) = seen(windows, write(tmp_path, '<script src="gone.js"></script>'))
    assert fault.startswith("reports an error: Failed to load") and "/gone.js" in fault


@needs_chromium
@pytest.mark.parametrize(
    "body",
    [
        '<img alt="a face" src="http://{host}">',
        '<link rel="stylesheet" href="http://{host}">',
        '<script>fetch("http://{host}").catch(() => 0)</script>',
        '<script>new WebSocket("ws://{host}")</script>',
    ],
)
def test_what_asks_another_host_is_found_and_kept_from_it(
    windows: Windows, tmp_path: Path, body: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}/"
        (fault,) = seen(windows, write(tmp_path, body.format(host=host)))
        assert fault.startswith("asks another host: ") and fault.endswith(f"://{host}")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@needs_chromium
@pytest.mark.parametrize(
    ("picture", "name"),
    [
        (f'<img alt="" src="{PIXEL}">', PIXEL.rpartition("/")[2][:80]),
        (f'<img alt="../_images/a9.png" src="{PIXEL}">', PIXEL.rpartition("/")[2][:80]),
        ('<script>document.write("<canvas id=drawn></canvas>")</script>', "drawn"),
        ('<svg id="plain"><text></text></svg>', "plain"),
    ],
)
def test_a_picture_without_words_is_found(
    windows: Windows, tmp_path: Path, picture: str, name: str
) -> None:
    (fault,) = seen(windows, write(tmp_path, picture))
    assert fault.startswith("has a picture without words: ") and fault.endswith(f" {name}")


@needs_chromium
@pytest.mark.parametrize(("width", "windows_of"), [(500, [390]), (1500, [1280, 390])])
def test_what_is_wider_than_its_window_is_found(
    windows: Windows, tmp_path: Path, width: int, windows_of: list[int]
) -> None:
    folded = f'<details><summary>more</summary><p style="width: {width}px">wide</p></details>'
    found = seen(windows, write(tmp_path, folded))
    over = [width + 8 - window for window in windows_of]  # 8 px is the margin of a body
    assert found == [
        f'is {pixels} px wider than a window of {window} px: p "wide"'
        for pixels, window in zip(over, windows_of, strict=True)
    ]


@needs_chromium
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<p style="color: #ccc">pale</p>', "serious: color-contrast"),
        ("<button></button>", "critical: button-name"),
        ('<button aria-label="close">open</button>', "serious: label-content-name-mismatch"),
        ('<div role="list"><a href="#">x</a></div>', "critical: aria-required-children"),
        (SIGNATURE, "serious: definition-list"),
    ],
)
def test_what_axe_finds_is_found(windows: Windows, tmp_path: Path, body: str, fault: str) -> None:
    (found,) = seen(windows, write(tmp_path, body))
    assert found.startswith(f"axe-core finds {fault} (1 times, first at ")


RANGE = [f"the key {key}" for key in ("End", "Home", "ArrowRight")]
SELECTION = [f"the key {key}" for key in ("End", "Home", "ArrowDown")]


@needs_chromium
@pytest.mark.parametrize(
    ("body", "control", "missed"),
    [
        (
            SLIDER.replace("img.src = ", "img.title = "),
            'input "strength"',
            ["a click on its right end", *RANGE],
        ),
        (
            SLIDER.replace("<input ", '<input onkeydown="return false" '),
            'input "strength"',
            RANGE,
        ),
        (
            SLIDER.replace("<input ", '<input onmousedown="return false" '),
            'input "strength"',
            ["a click on its right end"],
        ),
        (
            SELECT.replace("this.value", "'a'"),
            'select "class"',
            ["the choice of its last option", *SELECTION],
        ),
        (FIELD.replace("this.value", "false"), 'input "search"', ["a word", "no word"]),
        (BUTTON.replace("+=", "=", 1), 'button "more"', ["a click", "the key Enter"]),
        (UNREACHED, 'span "more"', ["the key Enter"]),
        (CHOSEN.replace("true", "false"), 'button "this"', ["a click", "the key Enter"]),
        (SORTS.replace("<button>name</button>", "name"), 'th "name"', ["the key Enter"]),
        (DRAWN.replace("++", ""), 'button "draw"', ["the key Enter"]),
    ],
)
def test_what_does_not_answer_is_found(
    windows: Windows, tmp_path: Path, body: str, control: str, missed: list[str]
) -> None:
    found = seen(windows, write(tmp_path, body))
    assert found == [f"{control} does not answer to {operation}" for operation in missed]


@needs_chromium
def test_a_control_that_answers_with_nothing_is_found(windows: Windows, tmp_path: Path) -> None:
    path = write(tmp_path, '<button data-answers="#gone">more</button>')
    assert seen(windows, path) == ['button "more" answers with nothing: #gone']


def test_a_signature_keeps_its_words_and_not_their_marks() -> None:
    plain = sphinx_pages.SIGNATURE.sub(sphinx_pages.plain_signature, SIGNATURE)
    assert "<ul>\n<li>x,</li>\n</ul>" in plain and '<span class="n">f</span>' in plain
    assert plain.endswith("<dd>Its words.</dd></dl>")


@needs_chromium
@pytest.mark.parametrize("name", ["index.html", "gone.html"])
def test_a_page_that_cannot_be_read_is_found(chromium: Browser, tmp_path: Path, name: str) -> None:
    write(tmp_path, '<button data-answers="#">no selector</button>')
    windows = browser.Window(chromium, browser.SCREEN), browser.Window(chromium, browser.PHONE)
    (fault,) = seen(windows, tmp_path / name)
    assert fault.startswith("cannot be read to its end: ")
    for window in windows:
        window.page.close()


@needs_chromium
def test_controls_are_tried_in_their_order_and_not_all_of_a_kind(
    windows: Windows, tmp_path: Path
) -> None:
    first, second = (f'<button data-answers="#{name}">x</button>' for name in "ab")
    windows[0].open(write(tmp_path, first + second + first * 20))
    tried = [control.answers for control in browser.controls(windows[0].page)]
    assert tried == ["#a", "#b", *["#a"] * (browser.MOST - 1)]


# The command --------------------------------------------------------------------------------------


@needs_chromium
def test_the_command_fails_with_the_pages_and_their_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["browser", str(tmp_path)])
    path = write(tmp_path, "")
    (tmp_path / "sub").mkdir()
    broken = tmp_path / "sub/b.html"
    broken.write_text(path.read_text().replace("A page</h1>", '</h1><p style="width:500px">x'))
    with pytest.raises(SystemExit, match="^faults of the pages: 1$"):
        browser.main()
    told = capsys.readouterr().out
    assert told == 'sub/b.html: is 118 px wider than a window of 390 px: p "x"\n'
    broken.unlink()
    browser.main()
    assert capsys.readouterr().out.endswith(": 1, nothing is wrong.\n")


def test_without_chromium_the_command_says_so_and_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["browser", str(tmp_path)])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    browser.main()
    assert capsys.readouterr().out.startswith("No page was opened: none of chromium, ")


def test_a_folder_without_pages_is_no_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["browser", str(tmp_path)])
    monkeypatch.setenv("CHROMIUM", sys.executable)
    with pytest.raises(SystemExit, match="no page lies in"):
        browser.main()
