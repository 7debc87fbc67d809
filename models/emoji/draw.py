"""Renders the drawings that the subject `emoji` learns from, from the root of the repository:

    pip install resvg-py
    npm pack @iconify-json/noto@1.2.9 @iconify-json/twemoji@1.2.5 \\
        @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/fluent-emoji@1.2.7
    python -m models.emoji.draw FOLDER_OF_THE_PACKAGES

The result is drawings.zip: one PNG of 64 x 64 pixels on white for each drawing, named
style/role/gender/tone.png. The licences of the four sets are in README.md. The same packages give
the same pictures.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from difflens_utils.worlds import emoji

# isort: split
from PIL import Image
from tqdm import tqdm

PACKAGES = {
    "noto": "iconify-json-noto-1.2.9.tgz",
    "twemoji": "iconify-json-twemoji-1.2.5.tgz",
    "flat": "iconify-json-fluent-emoji-flat-1.2.6.tgz",
    "fluent": "iconify-json-fluent-emoji-1.2.7.tgz",
}
SUFFIXED = ("noto", "twemoji")  # name a tone "dark-skin-tone", where the others say "dark"
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in the archive, so that its bytes are the same


def icons(package: Path) -> dict[str, Any]:
    """The icons of a package of iconify: {name: its SVG body and view box}."""
    with tarfile.open(package) as archive:
        file = archive.extractfile("package/icons.json")
        assert file is not None
        content = json.load(file)
    size = {key: content[key] for key in ("width", "height")}
    aliases = {
        name: content["icons"][alias["parent"]]
        for name, alias in content.get("aliases", {}).items()
        if alias["parent"] in content["icons"]
    }
    return {name: {**size, **icon} for name, icon in {**aliases, **content["icons"]}.items()}


def icon_name(drawing: emoji.Drawing) -> str:
    """The name of a drawing in its package, such as woman-judge-dark-skin-tone."""
    role = emoji.SLUGS[drawing.role]
    name = role if drawing.gender == "neutral" else f"{drawing.gender}-{role}"
    if drawing.tone == "yellow":
        return name
    suffix = "-skin-tone" if drawing.style in SUFFIXED else ""
    return f"{name}-{drawing.tone}{suffix}"


def rendered(icon: dict[str, Any], side: int) -> Image.Image:
    """An icon on white, RGB. Its square is rendered at four times the size and averaged."""
    import resvg_py

    box = [icon.get("left", 0), icon.get("top", 0), icon["width"], icon["height"]]
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * side, height=4 * side))
    drawn = Image.open(BytesIO(png)).convert("RGBA")
    page = Image.new("RGBA", drawn.size, "white")
    return Image.alpha_composite(page, drawn).convert("RGB").reduce(4)


def drawings(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every drawing that the packages have: its name in the archive, and its PNG."""
    for style, package in PACKAGES.items():
        found = icons(folder / package)
        for drawing in tqdm(list(emoji.every(style)), desc=style, mininterval=5):
            icon = found.get(icon_name(drawing))
            if icon is None and drawing.gender == "neutral":
                continue  # not every set has one
            if icon is None:
                raise SystemExit(f"error: {folder / package} has no {icon_name(drawing)}")
            file = BytesIO()
            rendered(icon, emoji.SIDE).save(file, "PNG", optimize=True)
            yield drawing.path, file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, help="the folder with the four packages of npm")
    args = parser.parse_args()
    missing = [name for name in PACKAGES.values() if not (args.packages / name).is_file()]
    if missing:
        raise SystemExit(f"error: {args.packages} has no {missing[0]}; see the top of this file")
    with zipfile.ZipFile(emoji.ARCHIVE, "w", zipfile.ZIP_STORED) as archive:
        for name, content in drawings(args.packages):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content)


if __name__ == "__main__":
    main()
