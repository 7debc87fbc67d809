"""What must be true of the built site, found by reading its pages.

Nothing is loaded from the network or twice, every link and anchor leads somewhere, and every
picture says in words what it shows.
"""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
}
LINKED = {"a": "href", "area": "href", "form": "action", "link": "href"}
STYLES = {
    "stylesheet",
    "preload",
    "modulepreload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "icon",
    "manifest",
}
PATH = re.compile(r"\S+\.(png|jpe?g|gif|svg|webp)", re.IGNORECASE)


class Page(HTMLParser):
    """What one page loads when it is opened, where a reader may go from it, and its anchors.

    `loads` and `links` are URLs as written, `anchors` ids and names, `scripts` the scripts
    loaded, and `silent` the pictures whose alternative text is missing, empty or a path.
    """

    def __init__(self, content: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.silent: list[str] = []
        self.anchors: set[str] = set()
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        keys = ("id", "name") if tag == "a" else ("id",)
        self.anchors |= {values[key] for key in keys if key in values}
        self._collect_links(tag, values)
        self.loads += re.findall(r"url\(['\"]?([^'\")]+)", values.get("style", ""))
        if tag == "script" and "src" in values:
            self.scripts.append(urlsplit(values["src"]).path)
        if tag == "img" and not _says_something(values.get("alt", "").strip()):
            _, _, name = values.get("src", "").rpartition("/")
            self.silent.append(name[:80])

    def _collect_links(self, tag: str, values: dict[str, str]) -> None:
        if tag == "link" and STYLES & set(values.get("rel", "").split()):
            self.loads.append(values.get("href", ""))
        elif tag in LOADED and LOADED[tag] in values:
            self.loads.append(values[LOADED[tag]])
        elif tag in LINKED and LINKED[tag] in values:
            self.links.append(values[LINKED[tag]])


class Site(NamedTuple):
    """A folder with its pages, read."""

    folder: Path
    pages: dict[Path, Page]

    @classmethod
    def read(cls, folder: Path) -> Site:
        folder = folder.resolve()
        paths = sorted(folder.rglob("*.html"))
        return cls(folder, {path: Page(path.read_text(errors="replace")) for path in paths})

    def loads(self) -> list[tuple[Path, str]]:
        """Every page or style sheet, with a URL that it loads."""
        found = [(path, url) for path, page in self.pages.items() for url in page.loads]
        sheets = sorted(self.folder.rglob("*.css"))
        return found + [(path, url) for path in sheets for url in _loads_of_style(path)]


def faults(folder: Path) -> list[str]:
    """Everything that is wrong with the site in `folder`, one line each; empty if nothing is."""
    site = Site.read(folder)
    found = [*network_loads(site), *dead_links(site)]
    found += [*repeated_scripts(site), *silent_pictures(site)]
    return [f"{path.relative_to(site.folder)} {fault}" for path, fault in found]


def network_loads(site: Site) -> list[tuple[Path, str]]:
    """Every script, style, font, image or frame that would be fetched from the network."""
    return [
        (path, f"loads from the network: {url}")
        for path, url in site.loads()
        if re.match(r"(https?:)?//", url)
    ]


def dead_links(site: Site) -> list[tuple[Path, str]]:
    """Every file or anchor that a page or style sheet names and the site lacks.

    Other sites are not asked.
    """
    links = [(path, url) for path, page in site.pages.items() for url in page.links]
    return [
        (path, f"has a dead link: {url}")
        for path, url in site.loads() + links
        if _is_dead(site, path, url)
    ]


def repeated_scripts(site: Site) -> list[tuple[Path, str]]:
    """Every script that a page loads more than once."""
    return [
        (path, f"loads a script {times} times: {url}")
        for path, page in site.pages.items()
        for url, times in Counter(page.scripts).items()
        if times > 1
    ]


def silent_pictures(site: Site) -> list[tuple[Path, str]]:
    """Every picture without an alternative text."""
    return [
        (path, f"has a picture without words (figures.describe gives it some): {source}")
        for path, page in site.pages.items()
        for source in page.silent
    ]


def _says_something(alt: str) -> bool:
    """Whether an alternative text is one, and not the path of the picture."""
    return bool(alt) and PATH.fullmatch(alt) is None


def _loads_of_style(path: Path) -> list[str]:
    """What a style sheet loads: fonts, pictures, other sheets."""
    content = path.read_text(errors="replace")
    rules = re.sub(r"/\*.*?\*/", "", content, flags=re.DOTALL)
    found = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", rules)
    return [plain or quoted for plain, quoted in found]


def _is_dead(site: Site, path: Path, url: str) -> bool:
    """Whether a link that stands in `path` leads to a file or an anchor that the site lacks."""
    scheme, host, target, _, fragment = urlsplit(url)
    if scheme or host:
        return False
    file = (path.parent / unquote(target)).resolve() if target else path
    if file.is_dir():
        file /= "index.html"
    inside = file.is_relative_to(site.folder)
    if not (inside and file.is_file()):
        return True
    page = site.pages.get(file)
    if page is None or not fragment:
        return False
    anchors = page.anchors | {"top"}
    return unquote(fragment) not in anchors
