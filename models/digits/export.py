"""Writes scikit-learn's handwritten digits as a folder of images with labels:

    python -m models.digits.export

They are the zeros to threes of the test set of Alpaydin and Kaynak (1998), 8x8 pixels, as 43 people
wrote them. Besides the digit each image gets two labels that are measured, as Morpho-MNIST (Castro
et al., 2019) does for larger digits. The stroke is bold where the mean ink lies above the median of
all. The slant is right where the strokes lean to the right by more than the median of that digit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
NAMES = ("zero", "one", "two", "three")


def lean(images: np.ndarray) -> np.ndarray:
    """How far strokes shift to the right per pixel upwards, by image moments: (n, 8, 8) to (n,)."""
    y, x = np.mgrid[:8, :8]
    mass = images.sum((1, 2))

    def mean(values: np.ndarray) -> np.ndarray:
        return (images * values).sum((1, 2)) / mass

    covariance = mean(x * y) - mean(x) * mean(y)
    return -covariance / (mean(y * y) - mean(y) ** 2)


def main() -> None:
    data = load_digits(n_class=len(NAMES))
    folder = HERE / "images"
    folder.mkdir(exist_ok=True)
    ink, slope = data.images.mean((1, 2)), lean(data.images)
    medians = np.array([np.median(slope[data.target == d]) for d in range(len(NAMES))])
    files = [f"{i:04d}.png" for i in range(len(ink))]
    for name, image in zip(files, data.images, strict=True):
        Image.fromarray((image * 255 / 16).round().astype(np.uint8)).save(folder / name)
    pd.DataFrame(
        {
            "file": files,
            "digit": [NAMES[d] for d in data.target],
            "stroke": np.where(ink > np.median(ink), "bold", "thin"),
            "slant": np.where(slope > medians[data.target], "right", "left"),
        }
    ).to_csv(folder / "labels.csv", index=False)
    print(f"{len(files)} images and labels.csv in {folder}")


if __name__ == "__main__":
    main()
