"""Image files as a viewer shows them on a white page, cut to the square in their middle.

The meaning of the numbers in a file differs: 16-bit grey, palettes, transparency, colour profiles,
the orientation of the camera. Pillow's `convert("RGB")` alone turns 16-bit grey into white and
transparent pixels into black. Here transparent pixels become white.

>>> import tempfile
>>> from pathlib import Path
>>> from PIL import Image
>>> from difflens_utils.worlds import pictures
>>> with tempfile.TemporaryDirectory() as folder:
...     Image.new("RGBA", (6, 4)).save(Path(folder, "transparent.png"))
...     image = pictures.shown(Path(folder, "transparent.png"))
>>> image.size, image.getpixel((0, 0))
((4, 4), (255, 255, 255))
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor
from tqdm.auto import tqdm

from ..evaluators import resized
from ..runtime.errors import line

ROOM = 2**30  # bytes of pixels that are kept in memory
SRGB = ImageCms.createProfile("sRGB")
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF


def shown(path: Path) -> Image.Image:
    """Returns the file as a square RGB image of 8 bits: upright, in sRGB, on white.

    Of several frames it is the first.

    Raises ValueError, in one line with the file, for what is damaged, cut off or has no defined
    white.
    """
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _centre(_on_white(image))
    except Exception as error:  # whatever a damaged file raises, the user needs one line
        raise ValueError(f"{path} cannot be read as an image: {line(error)}") from None


def stack(paths: Sequence[Path], size: int) -> Tensor:
    """Returns the images of some files, (n, 3, size, size) in [-1, 1].

    Raises ValueError, in one line, for one that cannot be read.
    """
    pixels = [_cache.read(path, size) for path in paths]
    if len({p.shape for p in pixels}) == 1:
        return _scaled(torch.stack(pixels), size)
    return torch.cat([_scaled(p[None], size) for p in pixels])


def unreadable(paths: Sequence[Path]) -> dict[int, str]:
    """Returns {place among the paths: what is wrong} of the files that cannot be read as images.

    Every file is decoded.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without Python's lock
        faults = pool.map(_fault, paths)
        watched = tqdm(faults, "checking images", len(paths), leave=False, delay=5)
        return {place: fault for place, fault in enumerate(watched) if fault}


def _fault(path: Path) -> str:
    try:
        shown(path)
    except ValueError as error:
        return str(error)
    return ""


def smallest(paths: Sequence[Path]) -> int:
    """Returns the shortest side of the images, by what the heads of their files say."""
    sides: list[int] = []
    for path in paths:
        with Image.open(path) as image:
            sides += image.size
    return min(sides)


class Cache:
    """Pixels of the files that were read last, at most `room` bytes of them.

    What is larger than the size asked for is kept at that size; a file that has changed is read
    again.
    """

    def __init__(self, room: int = ROOM) -> None:
        self.room = room
        self.bytes = 0
        self.held: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()

    def read(self, path: Path, size: int) -> Tensor:
        """Returns (3, s, s) uint8, s at most `size`."""
        try:
            stat = path.stat()
        except OSError as error:
            raise ValueError(f"{path} cannot be read as an image: {error.strerror}") from None
        key = (path, stat.st_mtime_ns, stat.st_size, size)
        if key not in self.held:
            self.held[key] = _pixels(path, size)
            self.bytes += self.held[key].nbytes
        self.held.move_to_end(key)
        pixels = self.held[key]
        while self.bytes > self.room:
            _, oldest = self.held.popitem(last=False)
            self.bytes -= oldest.nbytes
        return pixels


_cache = Cache()


def _pixels(path: Path, size: int) -> Tensor:
    """Returns (3, s, s) uint8: s is the side of the image, or `size` where that is smaller."""
    pixels = torch.from_numpy(np.array(shown(path))).permute(2, 0, 1)
    if pixels.shape[-1] <= size:
        return pixels
    small = _scaled(pixels[None], size)[0]
    return ((small + 1) * 127.5).round().to(torch.uint8)


def _scaled(pixels: Tensor, size: int) -> Tensor:
    """Returns bytes (n, 3, s, s) as images (n, 3, size, size) in [-1, 1]."""
    return resized(pixels.float() / 127.5 - 1, size).clamp(-1, 1)


def _on_white(image: Image.Image) -> Image.Image:
    """Returns RGB, in which what is transparent shows the white behind it."""
    if image.mode.startswith("I;16"):
        image = _of_more_bits(image)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are numbers whose white is unknown (mode {image.mode}, such as 32 bits); "
            "save it with 8 or 16"
        )
    if not image.has_transparency_data:
        return _in_srgb(image)
    alpha = image.convert("RGBA").getchannel("A")
    is_grey = image.mode in ("1", "L", "LA")
    opaque = image.convert("L" if is_grey else "RGB")
    white = Image.new("RGB", image.size, "white")
    return Image.composite(_in_srgb(opaque), white, alpha)


def _of_more_bits(image: Image.Image) -> Image.Image:
    """Returns grey of up to 16 bits as 8 bits, from black to white.

    It has transparency where a PNG says which level is transparent.
    """
    tags = getattr(image, "tag_v2", {})  # a TIFF may have 12 bits, or black where others have white
    bits = tags.get(_BITS, (16,))[0]
    levels = np.array(image).astype(np.float64)
    grey = levels / (2**bits - 1)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 1 - grey
    result = Image.fromarray((grey * 255).round().astype(np.uint8))
    if "transparency" in image.info:
        is_opaque = levels != image.info["transparency"]
        result.putalpha(Image.fromarray(is_opaque.astype(np.uint8) * 255))
    return result


def _in_srgb(image: Image.Image) -> Image.Image:
    """Returns RGB of an opaque image, by its colour profile.

    A profile that does not fit the image is ignored, as viewers do.
    """
    profile = image.info.get("icc_profile")
    if profile and image.mode == "P":
        image = image.convert("RGB")
    if profile:
        with suppress(ImageCms.PyCMSError):
            converted = ImageCms.profileToProfile(image, BytesIO(profile), SRGB, outputMode="RGB")
            if converted is not None:  # as of one that is changed in place
                return converted
    return image.convert("RGB")


def _centre(image: Image.Image) -> Image.Image:
    """Returns the largest square in the middle."""
    width, height = image.size
    side = min(width, height)
    left = (width - side) // 2
    top = (height - side) // 2
    return image.crop((left, top, left + side, top + side))
