"""A built site with less to load: pictures as WebP, and no maps of minified scripts.

Figures with faces are photographs to an encoder: as PNG they are two thirds of the site's weight.
As WebP of high quality they weigh a quarter of it. Plots of lines stay exact, as lossless WebP of
less than half the weight.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from difflens_utils.pages.figures import QUALITY

LARGE = 100_000  # bytes: plots alone stay below it
PICTURE = re.compile(r"_images/([^\"'<>/]+)\.png")


def lighten(site: Path) -> None:
    """Re-encodes the PNGs of `_images` as WebP, names them in the pages, and drops maps.

    The sources of the atlas, which are copies of its tables, become a line that says where from.
    """
    pictures = list((site / "_images").glob("*.png"))
    for path in pictures:
        exact = path.stat().st_size <= LARGE
        with Image.open(path) as image:
            image.save(path.with_suffix(".webp"), lossless=exact, quality=QUALITY)
        path.unlink()
    _rename(site, {path.stem for path in pictures})
    for path in site.rglob("*.map"):
        path.unlink()
    for path in (site / "_sources/atlas").glob("*.md"):
        path.write_text(f"Made by workflow/atlas.py from results/atlas/{path.stem}/atlas.json.\n")


def _rename(site: Path, stems: Collection[str]) -> None:
    def renamed(found: re.Match[str]) -> str:
        return f"_images/{found[1]}.webp" if found[1] in stems else found[0]

    for page in site.rglob("*.html"):
        page.write_text(PICTURE.sub(renamed, page.read_text()))
