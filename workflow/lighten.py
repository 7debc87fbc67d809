"""A built site with less to load: large pictures as WebP, and no maps of minified scripts.

Figures with faces are photographs to an encoder: as PNG they are two thirds of the site's weight.
As WebP of high quality they weigh a quarter of it. Plots of lines are small as they are, and stay
PNG, which keeps them exact.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from PIL import Image

LARGE = 100_000  # bytes: plots alone stay below it
QUALITY = 92  # no difference is seen at the size of a page
PICTURE = re.compile(r"_images/([^\"'<>/]+)\.png")


def lighten(site: Path) -> None:
    """Re-encodes the large PNGs of `_images` as WebP, names them in the pages, and drops maps.

    The sources of the atlas, which are copies of its tables, become a line that says where from.
    """
    large = [path for path in (site / "_images").glob("*.png") if path.stat().st_size > LARGE]
    for path in large:
        with Image.open(path) as image:
            image.save(path.with_suffix(".webp"), quality=QUALITY)
        path.unlink()
    _rename(site, {path.stem for path in large})
    for path in site.rglob("*.map"):
        path.unlink()
    for path in (site / "_sources/atlas").glob("*.md"):
        path.write_text(f"Made by workflow/atlas.py from results/atlas/{path.stem}/atlas.json.\n")


def _rename(site: Path, stems: Collection[str]) -> None:
    def renamed(found: re.Match[str]) -> str:
        return f"_images/{found[1]}.webp" if found[1] in stems else found[0]

    for page in site.rglob("*.html"):
        page.write_text(PICTURE.sub(renamed, page.read_text()))
