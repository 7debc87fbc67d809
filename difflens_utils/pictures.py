"""Image files as a viewer shows them on a white page, cut to the square in their middle.

Files differ in what a number in them means: 16-bit grey, palettes, transparency, colour profiles,
cameras held upright. Pillow's `convert("RGB")` alone turns 16-bit grey into white and what is
transparent into black.
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

from .evaluators import resized

ROOM = 2**30  # bytes of pixels that are kept in memory
SRGB = ImageCms.createProfile("sRGB")
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF


def shown(path: Path) -> Image.Image:
    """The file as a square RGB image of 8 bits: upright, in sRGB, on white; of several frames the
    first.

    Raises ValueError, in one line with the file, for what is damaged, cut off or has no defined
    white.
    """
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _centre(_on_white(image))
    except Exception as error:  # whatever a damaged file raises, the user needs one line
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be read as an image: {reason}") from None


def stack(paths: Sequence[Path], size: int) -> Tensor:
    """The images of some files, (n, 3, size, size) in [-1, 1].

    Raises ValueError, in one line, for one that cannot be read.
    """
    pixels = [_cache.read(path, size) for path in paths]
    if len({p.shape for p in pixels}) == 1:
        return _scaled(torch.stack(pixels), size)
    return torch.cat([_scaled(p[None], size) for p in pixels])


def unreadable(paths: Sequence[Path]) -> dict[int, str]:
    """What is wrong with each file that cannot be read as an image, by its place among the paths.

    Every file is decoded.
    """

    def fault(path: Path) -> str:
        try:
            shown(path)
        except ValueError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without Python's lock
        found = tqdm(pool.map(fault, paths), "checking images", len(paths), leave=False, delay=5)
        return {i: text for i, text in enumerate(found) if text}


def smallest(paths: Sequence[Path]) -> int:
    """The side of the smallest square among the images, by what their files' heads say."""

    def side(path: Path) -> int:
        with Image.open(path) as image:
            return min(image.size)

    return min(map(side, paths))


class Cache:
    """Pixels of the files that were read last, at most `room` bytes of them.

    What is larger than the size asked for is kept at that size; a file that has changed is read
    again.
    """

    def __init__(self, room: int = ROOM) -> None:
        self.room, self.bytes = room, 0
        self.held: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()

    def read(self, path: Path, size: int) -> Tensor:
        """(3, s, s) uint8, s at most `size`."""
        try:
            stat = path.stat()
        except OSError as error:
            raise ValueError(f"{path} cannot be read as an image: {error.strerror}") from None
        key = path, stat.st_mtime_ns, stat.st_size, size
        if key not in self.held:
            self.held[key] = _pixels(path, size)
            self.bytes += self.held[key].nbytes
        self.held.move_to_end(key)
        pixels = self.held[key]
        while self.bytes > self.room:
            self.bytes -= self.held.popitem(last=False)[1].nbytes
        return pixels


_cache = Cache()


def _pixels(path: Path, size: int) -> Tensor:
    """(3, s, s) uint8: s is the image's own side, or `size` where that is smaller."""
    pixels = torch.from_numpy(np.array(shown(path))).permute(2, 0, 1)
    if pixels.shape[-1] <= size:
        return pixels
    return ((_scaled(pixels[None], size)[0] + 1) * 127.5).round().to(torch.uint8)


def _scaled(pixels: Tensor, size: int) -> Tensor:
    """Bytes (n, 3, s, s) as images (n, 3, size, size) in [-1, 1]."""
    return resized(pixels.float() / 127.5 - 1, size).clamp(-1, 1)


def _on_white(image: Image.Image) -> Image.Image:
    """RGB, with what is transparent showing the white behind it."""
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
    opaque = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    return Image.composite(_in_srgb(opaque), Image.new("RGB", image.size, "white"), alpha)


def _of_more_bits(image: Image.Image) -> Image.Image:
    """Grey of up to 16 bits as 8 bits, from black to white.

    With transparency, where a PNG says which level is transparent.
    """
    tags = getattr(image, "tag_v2", {})  # a TIFF may have 12 bits, or black where others have white
    white = 2 ** tags.get(_BITS, (16,))[0] - 1
    levels = np.array(image).astype(np.float64)
    grey = levels / white if tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO else 1 - levels / white
    result = Image.fromarray((grey * 255).round().astype(np.uint8))
    if "transparency" in image.info:
        result.putalpha(
            Image.fromarray((levels != image.info["transparency"]).astype(np.uint8) * 255)
        )
    return result


def _in_srgb(image: Image.Image) -> Image.Image:
    """RGB of an opaque image, by its colour profile.

    A profile that does not fit the image is ignored, as viewers do.
    """
    if profile := image.info.get("icc_profile"):
        if image.mode == "P":
            image = image.convert("RGB")
        with suppress(ImageCms.PyCMSError):
            return ImageCms.profileToProfile(image, BytesIO(profile), SRGB, outputMode="RGB")
    return image.convert("RGB")


def _centre(image: Image.Image) -> Image.Image:
    """The largest square in the middle."""
    width, height = image.size
    if width == height:
        return image
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))
