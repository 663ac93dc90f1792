"""The reference manner: CLIP's towers and seven methods as the official programs run them, written plainly on PyTorch.

    clip = Clip(backbone)                                          # the same weights, not copied
    method = CoOp(clip, pad(rows, clip), parameters)
    loss = method.loss(pixels, labels)

Every class is a prompt of 77 padded tokens, the image tower runs from pixels at every step, and one method trains at
a time. What a competent user of PyTorch would do is done: fused attention, fused projections, frozen weights without
gradients, no copies beyond those that the operations ask for. Nothing of shotfit takes part but the weights, and the
prompts as rows of ids (an id from the vocabulary's size on is a learned vector).

CoOp: Zhou et al., IJCV 2022. SoftCPT: Ding et al., Neurocomputing 2024. MMA: Yang et al., CVPR 2024. APEX: Yang et al.,
EMNLP 2024. CoCoOp: Zhou et al., CVPR 2022. MaPLe and PromptSRC: Khattak et al., CVPR and ICCV 2023. Only the step of
training is here, in each method's default form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotfit.towers.backbone import Backbone
from shotfit.towers.config import BlocksConfig, ResNetConfig, TextConfig

__all__ = ["MMA", "Apex", "Clip", "CoCoOp", "CoOp", "MaPLe", "PromptSRC", "Reference", "SoftCPT", "pad"]

Map = Callable[[Tensor], Tensor]
Weights = Mapping[str, Tensor]
Layer = TypeVar("Layer", nn.Linear, nn.LayerNorm)


class Block(nn.Module):
    """x + attention(norm1 x), then x + mlp(norm2 x) with QuickGELU, on [rows, tokens, width]."""

    def __init__(self, weights: Weights, name: str, config: BlocksConfig, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = config.heads, causal
        self.norm1, self.norm2 = (_norm(weights, f"{name}.norm{i}", config) for i in (1, 2))
        self.qkv, self.out = (_linear(weights, f"{name}.attention.{part}") for part in ("qkv", "out"))
        self.up, self.down = (_linear(weights, f"{name}.mlp.{part}") for part in ("up", "down"))

    def forward(self, x: Tensor, beside: Map | None = None) -> Tensor:
        """`beside` reads what the attention reads; its output is added at the block's end (MMA)."""
        h = self.norm1(x)
        query, key, value = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        hidden = self.up(self.norm2(x))
        x = x + self.down(hidden * torch.sigmoid(1.702 * hidden))
        return x if beside is None else x + beside(h)


class Patches(nn.Module):
    """A ViT's first step: patches behind the class token, with positions."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.patches, self.class_token, self.positions = (
            weights[f"image.embedding.{name}"] for name in ("patch.weight", "class_token", "positions")
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, 3, size, size] to [n, tokens, width]."""
        x = F.conv2d(pixels, self.patches, stride=self.patches.shape[-1]).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1) + self.positions


class Clip(nn.Module):
    """Both frozen towers of a backbone of CLIP's kind. Features are not normalized.

    Of `mini` the convolutions in front of the blocks, which have no other form, are the backbone's own.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        image, text, weights = backbone.config.image, backbone.config.text, backbone.state_dict()
        assert not isinstance(image, ResNetConfig) and image.blocks.activation == "quick_gelu"
        assert isinstance(text, TextConfig) and text.causal and text.end is not None
        assert text.blocks.activation == "quick_gelu"
        self.context, self.vocabulary, self.end = text.context, text.vocabulary, text.end
        plain = "image.embedding.class_token" in weights
        self.embedding = Patches(weights) if plain else backbone.image.get_submodule("embedding")
        self.pre_norm = _norm(weights, "image.embedding.norm", image.blocks) if plain else nn.Identity()
        self.words, self.text_positions = weights["text.token_embedding.weight"], weights["text.positions"]
        self.post_norm = _norm(weights, "image.post_norm", image.blocks)
        self.final_norm = _norm(weights, "text.final_norm", text.blocks)
        self.image_projection, self.text_projection = (
            _linear(weights, f"{tower}.projection", bias=False) for tower in ("image", "text")
        )
        self.image_blocks, self.text_blocks = (
            nn.ModuleList(
                Block(weights, f"{tower}.blocks.{i}", blocks, causal=tower == "text") for i in range(blocks.layers)
            )
            for tower, blocks in (("image", image.blocks), ("text", text.blocks))
        )
        self.scale = weights["logit_scale"].exp()

    def image(self, pixels: Tensor, beside: Mapping[int, Map] | None = None, prompts: Sequence[Tensor] = ()) -> Tensor:
        """Features [n, embed] of pixels [n, 3, size, size].

        beside: maps beside blocks, counted from 1. prompts: tokens [k, width] of the first blocks, at the row's end;
        those of a block take the place of those of the block before.
        """
        beside = beside or {}
        x = self.embedding(pixels)
        plain = x.shape[1]
        if prompts:
            x = torch.cat([x, prompts[0].expand(len(x), -1, -1)], dim=1)
        x = self.pre_norm(x)
        for number, block in enumerate(self.image_blocks, start=1):
            if 1 < number <= len(prompts):
                x = torch.cat([x[:, :plain], prompts[number - 1].expand(len(x), -1, -1)], dim=1)
            x = block(x, beside.get(number))
        return self.image_projection(self.post_norm(x[:, 0]))

    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings [rows, 77, width] of padded ids [rows, 77]; those of learned ids are arbitrary."""
        return self.words[ids.where(ids < self.vocabulary, 0)]

    def text(
        self, words: Tensor, ends: Tensor, beside: Mapping[int, Map] | None = None, prompts: Sequence[Tensor] = ()
    ) -> Tensor:
        """Features [rows, embed] of word embeddings [rows, 77, width], read at `ends` [rows].

        prompts: tokens [k, width] behind the start token, of the blocks from the second on.
        """
        beside = beside or {}
        x = words + self.text_positions
        for number, block in enumerate(self.text_blocks, start=1):
            if 1 < number <= len(prompts) + 1:
                own = prompts[number - 2].expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], own, x[:, 1 + own.shape[1] :]], dim=1)
            x = block(x, beside.get(number))
        return self.text_projection(self.final_norm(x[torch.arange(len(x), device=x.device), ends]))

    def ends(self, ids: Tensor) -> Tensor:
        """Where each row [77] has its end token, [rows]."""
        return ids.eq(self.end).int().argmax(dim=1)

    def logits(self, image: Tensor, text: Tensor) -> Tensor:
        """Scaled cosines [images, classes]."""
        image, text = (features / features.norm(dim=-1, keepdim=True) for features in (image, text))
        return self.scale * image @ text.T


def pad(rows: Sequence[Sequence[int]], clip: Clip) -> Tensor:
    """Rows of ids as one matrix [rows, 77] with zeros behind the end."""
    return torch.tensor([[*row, *[0] * (clip.context - len(row))] for row in rows], device=clip.words.device)


class Reference(nn.Module):
    """A method's training step in the reference manner; parameters under shotfit's names, starting from the given."""

    def __init__(self, clip: Clip, parameters: Weights) -> None:
        super().__init__()
        object.__setattr__(self, "clip", clip)  # frozen: not among the parameters
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value.detach().clone()))

    clip: Clip

    def loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy [] of pixels [n, 3, size, size], labels [n]."""
        return F.cross_entropy(self.clip.logits(self.image_features(pixels), self.text_features()), labels)

    def image_features(self, pixels: Tensor) -> Tensor:
        """[n, embed], from pixels."""
        return self.clip.image(pixels)

    def text_features(self) -> Tensor:
        """[classes, embed]."""
        raise NotImplementedError

    def adjust_gradients(self) -> None:
        """What happens to gradients before the optimizer's step."""


class CoOp(Reference):
    """start, context, name, end: the context [16, width] behind the start token of every class."""

    def __init__(self, clip: Clip, ids: Tensor, parameters: Weights) -> None:
        super().__init__(clip, parameters)
        words, length = clip.embed(ids), self.get_parameter("context").shape[0]
        self.prefix, self.suffix, self.ends = words[:, :1], words[:, 1 + length :], clip.ends(ids)

    def prompts(self, rows: slice = slice(None)) -> Tensor:
        """[classes, 77, width]."""
        prefix, suffix = self.prefix[rows], self.suffix[rows]
        context = self.get_parameter("context").expand(len(prefix), -1, -1)
        return torch.cat([prefix, context, suffix], dim=1)

    def text_features(self) -> Tensor:
        return self.clip.text(self.prompts(), self.ends)


class SoftCPT(Reference):
    """NATA: the contexts of a task's classes out of the features of its name and a task context."""

    def __init__(
        self, clip: Clip, task_ids: Tensor, ids: Tensor, sizes: Sequence[int], length: int, parameters: Weights
    ) -> None:
        super().__init__(clip, parameters)
        own = self.get_parameter("task_context").shape[0]
        tasks, words = clip.embed(task_ids), clip.embed(ids)
        self.task_prefix, self.task_suffix, self.task_ends = tasks[:, :1], tasks[:, 1 + own :], clip.ends(task_ids)
        self.prefix, self.suffix, self.ends = words[:, :1], words[:, 1 + length :], clip.ends(ids)
        self.sizes, self.length = list(sizes), length
        self.task_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(ids.device)  # [classes]

    def text_features(self) -> Tensor:
        context = self.get_parameter("task_context").expand(len(self.task_prefix), -1, -1)
        tasks = self.clip.text(torch.cat([self.task_prefix, context, self.task_suffix], dim=1), self.task_ends)
        contexts = (tasks @ self.get_parameter("projection")).unflatten(1, (self.length, -1))[self.task_of]
        return self.clip.text(torch.cat([self.prefix, contexts, self.suffix], dim=1), self.ends)

    def loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy among the classes of each image's task; labels count the classes of all tasks."""
        logits = self.clip.logits(self.image_features(pixels), self.text_features())
        total, first = logits.new_zeros(()), 0
        for size in self.sizes:
            rows = (labels >= first) & (labels < first + size)
            own = logits[rows, first : first + size]
            total = total + F.cross_entropy(own, labels[rows] - first, reduction="sum")
            first += size
        return total / len(labels)


class MMA(Reference):
    """Adapters beside the upper blocks of both towers, with a shared middle map at each site."""

    def __init__(self, clip: Clip, ids: Tensor, sites: Sequence[int], scale: float, parameters: Weights) -> None:
        super().__init__(clip, parameters)
        self.words, self.ends, self.scale = clip.embed(ids), clip.ends(ids), scale
        self.maps = {tower: {site: self._map(tower, site) for site in sites} for tower in ("image", "text")}

    def _map(self, tower: str, site: int) -> Map:
        down, shared, up = (
            (self.get_parameter(f"{name}_weight"), self.get_parameter(f"{name}_bias"))
            for name in (f"{tower}_{site}_down", f"shared_{site}", f"{tower}_{site}_up")
        )
        return lambda h: self.scale * F.linear(F.relu(F.linear(F.relu(F.linear(h, *down)), *shared)), *up)

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.clip.image(pixels, self.maps["image"])

    def text_features(self) -> Tensor:
        return self.clip.text(self.words, self.ends, self.maps["text"])

    def adjust_gradients(self) -> None:
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.grad /= self.scale


class Apex(Reference):
    """Deep visual prompts, learned first words of the template, a linear map behind the text tower."""

    def __init__(self, clip: Clip, ids: Tensor, parameters: Weights) -> None:
        super().__init__(clip, parameters)
        words, learned = clip.embed(ids), self.get_parameter("context").shape[0]
        self.prefix, self.suffix, self.ends = words[:, :1], words[:, 1 + learned :], clip.ends(ids)

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.clip.image(pixels, prompts=tuple(self.get_parameter("visual_prompts")))

    def text_features(self) -> Tensor:
        context = self.get_parameter("context").expand(len(self.prefix), -1, -1)
        features = self.clip.text(torch.cat([self.prefix, context, self.suffix], dim=1), self.ends)
        return features @ self.get_parameter("matrix") + self.get_parameter("bias")


class CoCoOp(CoOp):
    """The context shifted by a network on the image's features: the text tower runs for each image."""

    def loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        image = self.clip.image(pixels)
        image = image / image.norm(dim=-1, keepdim=True)
        first, second = ((self.get_parameter(f"meta_{i}_weight"), self.get_parameter(f"meta_{i}_bias")) for i in (1, 2))
        shifts = F.linear(F.relu(F.linear(image, *first)), *second)  # [n, width]
        rows = []
        for own, shift in zip(image, shifts, strict=True):
            context = (self.get_parameter("context") + shift).expand(len(self.prefix), -1, -1)
            text = self.clip.text(torch.cat([self.prefix, context, self.suffix], dim=1), self.ends)
            rows.append(self.clip.logits(own[None], text))
        return F.cross_entropy(torch.cat(rows), labels)


class MaPLe(CoOp):
    """Deep prompts of the text tower, and linear images of them in the image tower."""

    def image_features(self, pixels: Tensor) -> Tensor:
        weights, biases = self.get_parameter("map_weights"), self.get_parameter("map_biases")
        own = [self.get_parameter("context"), *self.get_parameter("text_prompts")]
        prompts = [F.linear(tokens, *layer) for tokens, *layer in zip(own, weights, biases, strict=True)]
        return self.clip.image(pixels, prompts=prompts)

    def text_features(self) -> Tensor:
        return self.clip.text(self.prompts(), self.ends, prompts=tuple(self.get_parameter("text_prompts")))


class PromptSRC(CoOp):
    """Deep prompts of both towers, held near features of the plain ones: of classes given, of images computed."""

    def __init__(self, clip: Clip, ids: Tensor, teacher: Tensor, parameters: Weights) -> None:
        super().__init__(clip, ids, parameters)
        self.teacher = teacher  # [classes, embed]

    def loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """With the published weights 25, 10 and 1."""
        image = self.clip.image(pixels, prompts=tuple(self.get_parameter("visual_prompts")))
        text = self.clip.text(self.prompts(), self.ends, prompts=tuple(self.get_parameter("text_prompts")))
        with torch.no_grad():
            plain = self.clip.image(pixels)
            targets = self.clip.logits(plain, self.teacher).softmax(dim=-1)
        logits = self.clip.logits(image, text)
        apart = [
            (F.normalize(one, dim=-1) - F.normalize(other, dim=-1)).abs().mean()
            for one, other in ((text, self.teacher), (image, plain))
        ]
        divergence = F.kl_div(logits.log_softmax(dim=-1), targets, reduction="sum") / logits.numel()
        return F.cross_entropy(logits, labels) + 25 * apart[0] + 10 * apart[1] + divergence


class MMRL(Reference):
    """Tokens in the upper blocks of both towers, two heads, and the frozen towers once more for each image."""

    def __init__(
        self, clip: Clip, ids: Tensor, blocks: Sequence[int], alpha: float, weight: float, parameters: Weights
    ) -> None:
        super().__init__(clip, parameters)
        self.words, self.ends, self.blocks, self.alpha, self.weight = (
            clip.embed(ids),
            clip.ends(ids),
            blocks,
            alpha,
            weight,
        )
        self.scale = 100.0
        with torch.no_grad():
            self.frozen_text = clip.text(self.words, self.ends)

    def _tokens(self, tower: str, block: int) -> Tensor:
        weight, bias = (self.get_parameter(f"{tower}_{block}_{kind}") for kind in ("weight", "bias"))
        return F.linear(self.get_parameter("shared"), weight, bias)

    def _run(self, x: Tensor, blocks: nn.ModuleList, tower: str) -> Tensor:
        """All blocks of a tower: tokens behind the first place, replaced before each listed block."""
        for number, block in enumerate(blocks, start=1):
            if number in self.blocks:
                tokens = self._tokens(tower, number)
                behind = 1 if number == self.blocks[0] else 1 + len(tokens)
                x = torch.cat([x[:, :1], tokens.expand(len(x), -1, -1), x[:, behind:]], dim=1)
            x = block(x, None)
        return x

    def loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        clip, count = self.clip, len(self.get_parameter("shared"))
        x = self._run(clip.pre_norm(clip.embedding(pixels)), clip.image_blocks, "image")
        own = clip.image_projection(clip.post_norm(x[:, 0]))
        tokens = clip.post_norm(x[:, 1 : 1 + count]).mean(dim=1) @ self.get_parameter("projection")
        x = self._run(self.words + clip.text_positions, clip.text_blocks, "text")
        text = clip.text_projection(clip.final_norm(x[torch.arange(len(x), device=x.device), self.ends + count]))
        with torch.no_grad():
            frozen = clip.image(pixels)
        one, other = (F.cross_entropy(self._logits(features, text), labels) for features in (own, tokens))
        apart = 2 - F.cosine_similarity(own, frozen).mean() - F.cosine_similarity(text, self.frozen_text).mean()
        return self.alpha * one + (1 - self.alpha) * other + self.weight * apart

    def _logits(self, image: Tensor, text: Tensor) -> Tensor:
        return self.scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T


def _linear(weights: Weights, name: str, bias: bool = True) -> nn.Linear:
    weight = weights[f"{name}.weight"]
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias)
    return _with(layer, weights, name)


def _norm(weights: Weights, name: str, config: BlocksConfig) -> nn.LayerNorm:
    with torch.device("meta"):
        layer = nn.LayerNorm(config.width, config.epsilon)
    return _with(layer, weights, name)


def _with(layer: Layer, weights: Weights, name: str) -> Layer:
    own = {key: weights[f"{name}.{key}"] for key in layer.state_dict()}
    layer.load_state_dict(own, assign=True)
    return layer.requires_grad_(False)
