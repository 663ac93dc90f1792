"""`mini-6`, the backbone that ships with shotfit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import shotfit
from shotfit.checkpoints.weights import load_backbone
from shotfit.towers.backbone import Backbone
from shotfit.towers.config import StemConfig
from shotfit.towers.preprocess import preprocess
from shotfit.towers.texts import Texts

ASSET = Path(shotfit.__file__).parent / "assets" / "mini-6"
CLIPART = Path(__file__).parents[1] / "examples" / "clipart"


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return load_backbone(ASSET)


def test_files_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in ASSET.iterdir()) < 40e6


def test_the_alias_is_this_asset(mini: Backbone) -> None:
    assert load_backbone("mini").fingerprint == mini.fingerprint


def test_the_card_names_the_fingerprint(mini: Backbone) -> None:
    assert mini.fingerprint in (ASSET / "README.md").read_text(encoding="utf-8")


def test_loading_imports_nothing_slow_that_it_does_not_need() -> None:
    script = (
        "import sys; import shotfit.fitting.fit; from shotfit.checkpoints.weights import load_backbone\n"
        "load_backbone('mini')\n"
        "print(sorted({'huggingface_hub', 'scipy', 'sklearn', 'torch._dynamo', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_fit_that_trains_imports_no_compiler() -> None:
    script = (
        "import sys; from shotfit import fit\n"
        f"fit({str(CLIPART)!r}, 'taskres', shots=1, epochs=1, check=False)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_fingerprint_is_stable(mini: Backbone) -> None:
    assert re.fullmatch("[0-9a-f]{64}", mini.fingerprint)
    assert load_backbone(ASSET).fingerprint == mini.fingerprint


def test_both_towers_have_blocks_for_every_method(mini: Backbone) -> None:
    assert isinstance(mini.config.image, StemConfig)
    assert mini.config.image.blocks.layers >= 4
    assert mini.config.text.blocks.layers >= 4


def test_noise_gives_finite_features(mini: Backbone) -> None:
    size = mini.config.preprocessing.size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = mini.image.finish(mini.image.start(pixels))
    assert features.shape == (2, mini.embed)
    assert bool(features.isfinite().all())


def test_an_image_alone_equals_the_image_in_a_batch(mini: Backbone) -> None:
    size = mini.config.preprocessing.size
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        together = mini.image.finish(mini.image.start(pixels))
        alone = mini.image.finish(mini.image.start(pixels[1:2]))
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_pixels(mini: Backbone) -> None:
    size = mini.config.preprocessing.size
    pixels = torch.zeros(1, 3, size, size, requires_grad=True)
    mini.image.finish(mini.image.start(pixels)).square().sum().backward()
    assert pixels.grad is not None
    assert float(pixels.grad.abs().sum()) > 0


@torch.inference_mode()
def _names(mini: Backbone, names: list[str], template: str) -> torch.Tensor:
    texts = Texts.of(mini.encode([template.format(name) for name in names]))
    return torch.nn.functional.normalize(mini.text.finish(mini.text.start(texts)), dim=-1)


@pytest.mark.parametrize("template", ["{}", "a photo of a {}.", "a drawing of the {}."])
def test_related_names_are_closer_than_unrelated_ones(mini: Backbone, template: str) -> None:
    dog, puppy, truck, lorry = _names(mini, ["dog", "puppy", "truck", "lorry"], template)
    assert min(dog @ puppy, truck @ lorry) > max(dog @ truck, puppy @ lorry)


def test_zero_shot_on_drawings_is_far_above_chance(mini: Backbone) -> None:
    folders = sorted(path for path in CLIPART.iterdir() if path.is_dir())
    files = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.glob("*.png"))[:12]]
    pixels = torch.stack([preprocess(Image.open(file), mini.config.preprocessing) for file, _ in files])
    with torch.inference_mode():
        features = mini.image.finish(mini.image.start(pixels))
    texts = _names(mini, [folder.name.replace("_", " ") for folder in folders], "a photo of a {}.")
    right = (features @ texts.T).argmax(-1).eq(torch.tensor([label for _, label in files]))
    assert float(right.float().mean()) > 5 / len(folders)
