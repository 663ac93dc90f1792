"""Small closed encoders for tests: fixed random matrices on eight by eight pixels and on counts of letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

EMBED, IMAGE, TEXT = 24, 40, 48  # widths of the joint space, and of encoders that share none


def drawn(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / rows**0.5


class Images:
    """An image encoder alone."""

    def __init__(self, width: int = IMAGE) -> None:
        self.matrix = drawn(3 * 8 * 8, width, 1)

    def preprocess(self, image: Image.Image) -> Tensor:
        shown = torch.tensor(list(image.resize((8, 8)).tobytes()), dtype=torch.float32).reshape(8, 8, 3)
        return shown.permute(2, 0, 1) / 127.5 - 1

    def encode_images(self, pixels: Tensor) -> Tensor:
        return torch.tanh(pixels.flatten(1) @ self.matrix)


class Texts:
    """A text encoder alone."""

    def __init__(self, width: int = TEXT) -> None:
        self.letters = drawn(256, width, 2)

    def encode_texts(self, texts: list[str]) -> Tensor:
        rows = [torch.bincount(torch.tensor([*text.encode()], dtype=torch.long), minlength=256) for text in texts]
        return torch.tanh(torch.stack(rows).float() @ self.letters)


class Both(Images, Texts):
    """Two encoders of one width."""

    embed, logit_scale = EMBED, 3.0

    def __init__(self, **changed: Any) -> None:
        Images.__init__(self, EMBED)
        Texts.__init__(self, EMBED)
        for name, value in changed.items():
            setattr(self, name, value)

    def state_dict(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix, "letters": self.letters}


def write_file(folder: Path) -> Path:
    """A file of code with a function for each, as a user has it."""
    file = folder / "mine.py"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(
        "from tests.encoders import Both, Images, Texts\n\nboth, images, texts = Both, Images, Texts\nnumber = 3\n"
    )
    return file
