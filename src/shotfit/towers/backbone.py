"""A backbone: both frozen towers of one checkpoint with their scale, tokenizer and preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from shotfit.errors import ShotfitError, first_few
from shotfit.towers.bert import text_tower
from shotfit.towers.config import BackboneConfig, ResNetConfig, described
from shotfit.towers.forks import check_device, outlive_forks
from shotfit.towers.resnet import ModifiedResNet
from shotfit.towers.tokenizer import Tokenizer
from shotfit.towers.transformer import VisionTransformer

__all__ = ["Backbone"]


LARGEST_SCALE = 20.0  # CLIP's training stops at ln 100; e ** 20 makes every probability 0 or 1


class Backbone(nn.Module):
    """Two frozen towers, built from a configuration and weights under shotfit's own names.

    Raises ShotfitError, naming them, if weights are missing, left over or of another shape.
    """

    logit_scale: Tensor  # [] natural logarithm of the temperature's inverse
    logit_bias: Tensor | None  # [] SigLIP's

    def __init__(
        self, config: BackboneConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer | None = None, name: str = ""
    ) -> None:
        super().__init__()
        self.config, self.tokenizer, self.name = config, tokenizer, name
        with torch.device("meta"):  # the weights are given; drawing others first would take seconds
            self.image: VisionTransformer | ModifiedResNet = (
                ModifiedResNet(config.image)
                if isinstance(config.image, ResNetConfig)
                else VisionTransformer(config.image)
            )
            self.text = text_tower(config.text)
            self.logit_scale = nn.Parameter(torch.zeros(()))
            self.logit_bias = nn.Parameter(torch.zeros(())) if config.logit_bias else None
        self._load(weights)
        self.requires_grad_(False)
        self.eval()
        self.fingerprint = self._fingerprint()
        outlive_forks()

    @property
    def embed(self) -> int:
        """Width of the joint space."""
        return self.config.text.embed

    @property
    def closed(self) -> bool:
        """Whether somebody else's code runs the encoders, which nothing can be put into (`closed.py`)."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the weights are. Raises ShotfitError in a forked process, which cannot use a GPU of its parent."""
        return check_device(self.logit_scale.device)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the towers compute in."""
        return self.text.positions.dtype

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, start and end included. A text that is too long is refused by name."""
        return self.checked_tokenizer().encode(texts)

    def checked_tokenizer(self) -> Tokenizer:
        """The tokenizer, or a sentence that says how to get one."""
        if self.tokenizer is None:
            raise ShotfitError(
                f"{self.name or 'This checkpoint'} has no tokenizer, so it cannot read text: put its tokenizer.json "
                "beside the weights, or for CLIP install the extra: pip install 'shotfit[clip]'."
            )
        return self.tokenizer

    def _load(self, weights: Mapping[str, Tensor]) -> None:
        expected = {key: tuple(value.shape) for key, value in self.state_dict().items()}
        missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
        shapes = [key for key in expected if key in weights and tuple(weights[key].shape) != expected[key]]
        for problem, keys in (("lacks", missing), ("has no place for", extra)):
            if keys:
                shown = f"{len(keys)} tensor(s): {first_few(keys)}"
                raise ShotfitError(f"{self.name or 'The checkpoint'} {problem} {shown}.")
        if shapes:
            key = shapes[0]
            raise ShotfitError(
                f"{self.name or 'The checkpoint'}: {key} has shape {list(weights[key].shape)}, but its configuration "
                f"asks for {list(expected[key])}."
            )
        for key, value in weights.items():
            if not value.isfinite().all():
                raise ShotfitError(
                    f"{self.name or 'The checkpoint'} is damaged: {key} holds numbers that are not finite. Fetch it "
                    "again."
                )
        scale = float(weights["logit_scale"])
        if abs(scale) > LARGEST_SCALE:
            raise ShotfitError(
                f"{self.name or 'The checkpoint'} is damaged: its logit_scale is {scale:.3g}, expected at most "
                f"{LARGEST_SCALE:g}. Fetch it again."
            )
        self.load_state_dict({key: value.float() for key, value in weights.items()}, strict=True, assign=True)

    def _fingerprint(self) -> str:
        """sha256 over weights, configuration (preprocessing included) and tokenizer."""
        digest = hashlib.sha256(described(self.config).encode())
        digest.update((self.tokenizer.identity if self.tokenizer else "no tokenizer").encode())
        for key, value in sorted(self.state_dict().items()):
            digest.update(f"{key}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()
