"""Image files are read as a viewer shows them: against numpy, and against what Pillow makes of the
same pixels in 8 bits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch.nn.functional import interpolate

from difflens_utils.worlds import pictures

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65_536, (8, 8), dtype=np.uint16)
ALPHA = RNG.integers(0, 256, (8, 8), dtype=np.uint8)


def read(path: Path) -> np.ndarray:
    """(H, W, 3) of bytes."""
    return np.asarray(pictures.shown(path)).astype(int)


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels.round().astype(int)[..., None], 3, -1)


def test_grey_of_sixteen_bits_goes_from_black_to_white(tmp_path: Path) -> None:
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(DEEP).save(tmp_path / name)
        assert np.array_equal(read(tmp_path / name), grey(DEEP / 257))
    Image.fromarray(DEEP).save(tmp_path / "white_is_zero.tif", tiffinfo={262: 0})
    assert np.array_equal(read(tmp_path / "white_is_zero.tif"), grey(255 - DEEP / 257))
    Image.fromarray(DEEP).save(tmp_path / "hole.png", transparency=int(DEEP[2, 3]))
    assert read(tmp_path / "hole.png")[2, 3].tolist() == [255] * 3


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_shows_the_white_behind_it(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.dstack([RGB, ALPHA])).convert(mode)
    image.save(tmp_path / "a.png")
    colours = np.asarray(image.convert("RGBA")).astype(float)
    share = ALPHA[..., None] / 255
    assert (
        np.abs(read(tmp_path / "a.png") - (share * colours[..., :3] + (1 - share) * 255)).max() <= 1
    )


def test_palettes_have_their_colours_and_their_holes(tmp_path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 3, (8, 8), dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 250])
    image.save(tmp_path / "p.png", transparency=1)
    colours = np.array([[10, 20, 30], [255, 255, 255], [0, 0, 250]])
    assert np.array_equal(read(tmp_path / "p.png"), colours[np.asarray(image)])


def test_a_camera_that_was_held_upright(tmp_path: Path) -> None:
    for turned, as_seen in ((6, np.rot90(RGB, -1)), (3, np.rot90(RGB, 2)), (2, RGB[:, ::-1])):
        exif = Image.Exif()
        exif[0x0112] = turned
        Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
        assert np.array_equal(read(tmp_path / "turned.png"), as_seen)


def test_inks_become_light(tmp_path: Path) -> None:
    inks = RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "inks.tif")
    light = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    assert np.abs(read(tmp_path / "inks.tif") - light).max() <= 1


def test_a_colour_profile_says_what_the_numbers_mean(tmp_path: Path) -> None:
    """A profile in which red and blue have changed places: what it calls red is blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = (
        profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    )
    assert exchanged != profile
    Image.fromarray(RGB).save(tmp_path / "exchanged.png", icc_profile=exchanged)
    assert np.abs(read(tmp_path / "exchanged.png") - RGB[..., ::-1]).max() <= 3
    Image.fromarray(RGB).save(tmp_path / "foreign.png", icc_profile=b"no profile")
    assert np.array_equal(read(tmp_path / "foreign.png"), RGB)


def test_what_has_no_white_or_no_end_is_refused_in_one_line(tmp_path: Path) -> None:
    Image.fromarray(DEEP.astype(np.float32)).save(tmp_path / "float.tif")
    for name in ("whole.png", "whole.jpg"):
        Image.fromarray(RGB).resize((64, 64)).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    names = "float.tif cut_whole.png cut_whole.jpg text.png empty.png gone.png".split()
    bad = [tmp_path / name for name in names]
    faults = pictures.unreadable([tmp_path / "whole.png", *bad, tmp_path / "whole.jpg"])
    assert list(faults) == [1, 2, 3, 4, 5, 6] and "32 bits" in faults[1]
    for path, text in zip(bad, faults.values(), strict=True):
        assert str(path) in text and "\n" not in text


def test_wide_and_tall_images_are_cut_and_not_squeezed(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (8, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    images = pictures.stack([tmp_path / "wide.png", tmp_path / "tall.png"], 8)
    middle = torch.from_numpy(pixels[:, 6:14].copy()).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(images, torch.stack([middle, middle.mT]))


def test_large_images_are_kept_small_and_within_a_bound(tmp_path: Path) -> None:
    """By the bytes of what is held: at the size asked for, and never more than the room."""
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((256, 256, 3), 20 * i, np.uint8)).save(path)
    cache = pictures.Cache(room=8 * 3 * 16 * 16)
    for path in [*paths, *paths]:
        cache.read(path, 16)
        held = sum(pixels.untyped_storage().nbytes() for pixels in cache.held.values())
        assert held == cache.bytes <= 8 * 3 * 16 * 16
    assert [key[0] for key in cache.held] == paths[-8:]
    assert (cache.read(paths[3], 16) == 60).all()
    Image.fromarray(np.full((256, 256, 3), 99, np.uint8)).save(paths[3], compress_level=0)
    assert (cache.read(paths[3], 16) == 99).all()  # a file that was replaced is read again


def test_sizes_may_differ(tmp_path: Path) -> None:
    """Each image is scaled as it would be alone."""
    for i, side in enumerate((8, 24, 40)):
        Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(
            tmp_path / f"{i}.png"
        )
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    images = pictures.stack(paths, 16)
    assert images.shape == (3, 3, 16, 16) and pictures.smallest(paths) == 8
    for path, image in zip(paths, images, strict=True):
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float()
        exact = interpolate(pixels[None], (16, 16), mode="bilinear", antialias=True)[0]
        assert (image - (exact / 127.5 - 1)).abs().max() <= 1 / 255 + 1e-6
