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


PIECE = 2**20  # weights that are looked at together
LARGEST_SCALE = 20.0  # CLIP's training stops at ln 100; e ** 20 makes every probability 0 or 1


class Backbone(nn.Module):
    """Two frozen towers, built from a configuration and weights under shotfit's own names.

    weights: of any floating precision; the dict is emptied, so that none is held twice. dtype: what they are kept in,
    None for what each comes in. The fingerprint is that of the weights in float32, whatever they are kept in.

    Raises ShotfitError, naming them, if weights are missing, left over or of another shape.
    """

    logit_scale: Tensor  # [] natural logarithm of the temperature's inverse
    logit_bias: Tensor | None  # [] SigLIP's
    int8 = False  # the matrices of the blocks are (`precision.py`)

    def __init__(
        self,
        config: BackboneConfig,
        weights: dict[str, Tensor],
        tokenizer: Tokenizer | None = None,
        name: str = "",
        dtype: torch.dtype | None = torch.float32,
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
        self._check(weights)
        self.fingerprint = self._load(weights, dtype)
        self.requires_grad_(False)
        self.eval()
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

    @property
    def precision(self) -> str:
        """The precision by its name: float32, bfloat16, float64, or int8, whose rest is float32."""
        return "int8" if self.int8 else str(self.dtype).removeprefix("torch.")

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

    def _check(self, weights: Mapping[str, Tensor]) -> None:
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
        scale = float(weights["logit_scale"])
        if LARGEST_SCALE < abs(scale) < float("inf"):  # what is not finite is refused as such below
            raise ShotfitError(
                f"{self.name or 'The checkpoint'} is damaged: its logit_scale is {scale:.3g}, expected at most "
                f"{LARGEST_SCALE:g}. Fetch it again."
            )

    def _load(self, weights: dict[str, Tensor], dtype: torch.dtype | None) -> str:
        """Take the weights, one after the other; the fingerprint.

        It is the sha256 over weights in float32, configuration (preprocessing included) and tokenizer.
        """
        digest, kept = hashlib.sha256(described(self.config).encode()), {}
        digest.update((self.tokenizer.identity if self.tokenizer else "no tokenizer").encode())
        for key in sorted(weights):
            value = weights.pop(key).detach()
            digest.update(f"{key}{tuple(value.shape)}".encode())
            for piece in value.flatten().split(PIECE):
                exact = piece.float().cpu()
                if not (exact.sum().isfinite() or exact.isfinite().all()):  # a sum shows all that is not, at a third
                    raise ShotfitError(
                        f"{self.name or 'The checkpoint'} is damaged: {key} holds numbers that are not finite. Fetch "
                        "it again."
                    )
                digest.update(exact.numpy())
            kept[key] = value.to(dtype or value.dtype)
        self.load_state_dict(kept, strict=True, assign=True)
        return digest.hexdigest()
