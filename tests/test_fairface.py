"""FairFace's two networks, against torchvision's own forward pass and numpy.

The files have the published format and random weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import resnet34
from torchvision.transforms.v2 import functional as V

from difflens_utils.evaluators.fairface import FairFace


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory):
    """A checkpoint of seven races and one of four, as upstream saves them."""
    torch.manual_seed(0)
    network, folder = resnet34(num_classes=18).eval(), tmp_path_factory.mktemp("fairface")
    for name in ("res34_fair_align_multi_7_20190809.pt", "res34_fair_align_multi_4_20190809.pt"):
        torch.save(network.state_dict(), folder / name)
    return network, folder


def probabilities(network: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    """Softmax within race (given below), gender and age, from torchvision's own preprocessing."""
    x = V.normalize(
        V.resize((images + 1) / 2, [224, 224], antialias=True),
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    )
    with torch.no_grad():
        return np.exp(network(x).double().numpy())


@pytest.mark.parametrize("races", [7, 4])
def test_classes_are_as_likely_as_their_outputs_together(published, races: int) -> None:
    network, folder = published
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    face = FairFace.load(folder / f"res34_fair_align_multi_{races}_20190809.pt")
    raw = probabilities(network, images)
    columns = {
        "gender": [[8], [7]],
        "age": [[9, 10, 11], [12, 13, 14, 15], [16, 17]],
        "race": [[0], [1], [3, 4], [5]] if races == 7 else [[0], [1], [2], [3]],
    }
    for factor, logits in face.logits(images).items():
        want = np.stack([raw[:, own].sum(1) for own in columns[factor]], 1)
        assert logits.softmax(1).numpy() == pytest.approx(
            want / want.sum(1, keepdims=True), rel=1e-4
        )
    assert face.factors == {
        "gender": ("female", "male"),
        "age": ("young", "adult", "old"),
        "race": ("White", "Black", "Asian", "Indian"),
    }
    assert face.features(images).shape == (3, 512)


def test_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    torch.save(resnet34(num_classes=10).state_dict(), tmp_path / "x_7_.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "y_7_.pt")
    whole = resnet34(num_classes=18).state_dict()
    lacking = {name: value for name, value in whole.items() if name != "layer2.0.conv1.weight"}
    torch.save(lacking, tmp_path / "z_7_.pt")
    whole["fc.bias"][3] = torch.inf
    torch.save(whole, tmp_path / "w_7_.pt")
    for name, told in (
        ("x_7_.pt", r"x_7_.pt: fc.bias has shape \(10,\) instead of \(18,\)"),
        ("y_7_.pt", "y_7_.pt lacks bn1.bias and"),
        ("none_7_.pt", "none_7_.pt is missing"),
        ("z_7_.pt", "z_7_.pt lacks layer2.0.conv1.weight$"),
        ("w_7_.pt", "w_7_.pt: fc.bias holds values that are not finite$"),
    ):
        with pytest.raises(ValueError, match=told) as refused:
            FairFace.load(tmp_path / name)
        assert "\n" not in str(refused.value)
