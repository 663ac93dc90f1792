"""The transformer towers: CLIP's ViT and text tower, SigLIP's both, open_clip's variants (EVA and Perception Encoder
with rotated queries and keys among them), and `mini`'s upper part.

BERT's text tower, which is one too, is in `bert.py`.

A tower is a sequence of steps: step 0 embeds, steps 1 to L are blocks, step L + 1 pools and projects:

    stream = tower.start(inputs, edits)            # step 0
    stream = tower.run(stream, edits, until=4)     # steps 1 to 4
    features = tower.finish(stream, edits)         # the rest: [rows, embed], not normalized

`blocks.py` has the blocks. Towers contain no word about any method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from shotfit.errors import ShotfitError
from shotfit.towers.blocks import Block, PoolingHead, without
from shotfit.towers.changed import changed
from shotfit.towers.config import BertConfig, BlocksConfig, ImageConfig, StemConfig, TextConfig
from shotfit.towers.edits import Adapter, Context, Edit, PromptTokens, ends_unprojected, inserted_are_read
from shotfit.towers.layout import Layout, Savings, Stream
from shotfit.towers.linear import Linear
from shotfit.towers.texts import Group, Texts, share_beginnings, trim, words

__all__ = ["TextTower", "TextTransformer", "VisionTransformer"]


class Transformer(nn.Module):
    """Steps 1 to L of a tower, and the order of all of its steps."""

    pooled_alone: bool  # one token is read, so the last block may run for it alone
    rotation: Tensor | None  # of queries and keys, [places, head / 2, 2]

    def __init__(self, blocks: BlocksConfig) -> None:
        super().__init__()
        self.rotation = None
        self.blocks = nn.ModuleList(Block(blocks) for _ in range(blocks.layers))
        self.last = blocks.layers + 1

    def run(self, stream: Stream, edits: Sequence[Edit] = (), until: int | None = None) -> Stream:
        """Run the blocks up to step `until` (all of them by default)."""
        until = self.last - 1 if until is None else until
        while stream.step < until:
            stream = self._block(self.ready(stream, edits), edits)
        return stream

    def _block(self, stream: Stream, edits: Sequence[Edit]) -> Stream:
        """One step: all tokens, the read ones alone in the last, or all but those that the next step replaces."""
        x, layout, step, silu = stream.hidden, stream.layout, stream.step + 1, stream.savings.silu
        block, rotation = self._changed(step, edits), self.rotation
        assert layout is not None
        if step == self.last - 1 and stream.savings.read_alone and self.pooled_alone:
            if stream.prompts and inserted_are_read(edits):
                layout = Layout.even(layout.rows, layout.own.longest, x.device, stream.prompts)
            before = x.index_select(0, layout.read)
            return replace(stream, hidden=block.read(x, layout, silu, rotation), before=before, step=step, read=True)
        if (
            stream.prompts
            and stream.savings.replaced
            and any(edit.replace and edit.share == 1 for edit in _prompts(edits, step + 1))
        ):
            kept, last = without(x, layout, stream.prompts), stream.prompts
            rest = Layout.even(layout.rows, layout.own.longest - last, x.device)
            hidden = block.drop(x, layout, last, silu, rotation)
            return replace(stream, hidden=hidden, layout=rest, before=kept, step=step, prompts=0)
        return replace(stream, hidden=block(x, layout, silu, rotation), before=x, step=step)

    def ready(self, stream: Stream, edits: Sequence[Edit]) -> Stream:
        """As the next step reads it: what stands beside the last block is added, prompt tokens are put in."""
        for edit in edits:
            if isinstance(edit, Adapter) and edit.block == stream.step > 0:
                block, x = self._changed(edit.block, edits), stream.before
                assert x is not None
                stream = replace(stream, hidden=stream.hidden + edit.map(block.seen(x) if edit.through_norm else x))
        for prompts in _prompts(edits, stream.step + 1):
            stream = changed(self, 0, edits)._prompted(stream, prompts)
        return stream

    def _changed(self, block: int, edits: Sequence[Edit]) -> Block:
        """A block with the weights that the edits give it."""
        own = self.blocks[block - 1]
        assert isinstance(own, Block)
        return changed(own, block, edits)

    def _prompted(self, stream: Stream, edit: PromptTokens) -> Stream:
        x, layout, tokens = stream.hidden, stream.layout, edit.tokens.to(stream.hidden.dtype)
        assert layout is not None
        if edit.position is not None:
            if edit.insert:
                layout, kept = layout.lengthened(edit.position, len(tokens))
                x = x.new_zeros(layout.tokens, x.shape[1]).index_copy(0, kept, x)
            places, numbers = layout.standing(edit.position, len(tokens))
            standing = tokens.index_select(0, numbers)
            if edit.share != 1 and not edit.insert:
                standing = edit.share * standing + (1 - edit.share) * x.index_select(0, places)
            return replace(stream, hidden=x.index_copy(0, places, standing), layout=layout)
        if edit.block == 1 and edit.input_norm:
            tokens = self.input_norm(tokens)
        rows = x.unflatten(0, (layout.rows, -1))
        if edit.replace:
            rows, replaced = rows.split([rows.shape[1] - stream.prompts, stream.prompts], dim=1)
            tokens = tokens if edit.share == 1 else edit.share * tokens + (1 - edit.share) * replaced
        rows = torch.cat([rows, tokens.expand(layout.rows, -1, -1)], dim=1)
        layout = Layout.even(rows.shape[0], rows.shape[1], x.device)
        prompts = len(edit.tokens) + (0 if edit.replace else stream.prompts)
        return replace(stream, hidden=rows.flatten(0, 1), layout=layout, prompts=prompts)

    def input_norm(self, tokens: Tensor) -> Tensor:
        """What the tower's own tokens pass before block 1, [n, width]."""
        return tokens

    def _embedded(self, x: Tensor, edits: Sequence[Edit]) -> Tensor:
        """What step 0 made, and the adapters on it."""
        for edit in edits:
            if isinstance(edit, Adapter) and edit.block == 0:
                x = x + edit.map(x)
        return x

    def read_tokens(self, stream: Stream) -> Tensor:
        """The read tokens in the caller's order of rows: [rows, width]."""
        layout = stream.layout
        assert layout is not None
        if stream.read and stream.hidden.shape[0] != layout.rows:  # prompt tokens behind each
            return stream.hidden.unflatten(0, (layout.rows, -1))[:, 0]
        x = stream.hidden if stream.read else stream.hidden.index_select(0, layout.read)
        return x if layout.order is None else x.index_select(0, layout.order)


def _prompts(edits: Sequence[Edit], block: int) -> list[PromptTokens]:
    return [edit for edit in edits if isinstance(edit, PromptTokens) and edit.block == block]


class ConvolutionStem(nn.Sequential):
    """MobileCLIP-B's: three convolutions without overlap, GELU between them; batch norms are within their weights.

    Vasu et al., CVPR 2024, arXiv 2311.17049.
    """

    def __init__(self, width: int, patch: int, bias: bool) -> None:
        first, inner = patch // 4, width // 4
        super().__init__(
            nn.Conv2d(3, inner, first, first),
            nn.GELU(),
            nn.Conv2d(inner, inner, 2, 2),
            nn.GELU(),
            nn.Conv2d(inner, width, 2, 2, bias=bias),
        )


class PatchEmbedding(nn.Module):
    """Step 0 of a ViT: patches, class token, positions, norm where the checkpoint has one."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        width, grid = config.blocks.width, config.image_size // config.patch
        self.patch: nn.Module = nn.Conv2d(3, width, config.patch, config.patch, bias=config.patch_bias)
        if config.stem == "convolutions":
            self.patch = ConvolutionStem(width, config.patch, config.patch_bias)
        self.class_token = nn.Parameter(torch.zeros(width)) if config.class_token else None
        self.positions = nn.Parameter(torch.zeros(grid * grid + config.class_token, width))
        self.norm = nn.LayerNorm(width, config.blocks.epsilon) if config.pre_norm else nn.Identity()

    def tokens(self, pixels: Tensor) -> Tensor:
        """[n, 3, size, size] to [n, tokens, width], positions added, before the norm."""
        patches = self.patch(pixels).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            patches = torch.cat([self.class_token.expand(patches.shape[0], 1, -1), patches], dim=1)
        return torch.add(patches, self.positions)

    def forward(self, pixels: Tensor) -> Tensor:
        """[n, 3, size, size] to [n, tokens, width]."""
        return self.norm(self.tokens(pixels))


class VisionTransformer(Transformer):
    """An image tower of transformer blocks behind any step 0 that gives tokens: patches, or `mini`'s stem."""

    def __init__(self, config: ImageConfig | StemConfig) -> None:
        super().__init__(config.blocks)
        self.config = config
        width, pooling, bias, self.norm_after_pool = config.blocks.width, "token", False, False
        if isinstance(config, StemConfig):
            from shotfit.towers.efficientnet import StemEmbedding  # only `mini` needs it

            self.embedding: nn.Module = StemEmbedding(config)
            projection = True
        else:
            self.embedding, pooling, projection = PatchEmbedding(config), config.pooling, config.projection
            bias, self.norm_after_pool = config.projection_bias, config.norm_after_pool
        self.pooling, self.image_size = pooling, config.image_size
        self.tokens = self.embedding.positions.shape[0]  # of a row
        self.has_class_token = isinstance(config, StemConfig) or config.class_token
        self.pooled_alone = pooling == "token"
        self.post_norm = nn.LayerNorm(width, config.blocks.epsilon)
        self.pool = (
            PoolingHead(_of_pool(config)) if isinstance(config, ImageConfig) and pooling == "attention" else None
        )
        self.projection = Linear(width, config.embed, bias=bias) if projection else None
        if isinstance(config, ImageConfig) and config.rotary:
            self.rotation = nn.Parameter(torch.zeros(self.tokens, width // config.blocks.heads // 2, 2))

    def start(self, pixels: Tensor, edits: Sequence[Edit] = (), savings: Savings = Savings()) -> Stream:
        """Step 0: pixels [n, 3, size, size], preprocessed."""
        if pixels.shape[1:] != (3, self.image_size, self.image_size):
            size = self.image_size
            raise ShotfitError(
                f"The image tower takes [n, 3, {size}, {size}] pixels, but was given {list(pixels.shape)}."
            )
        return self.resume(self._embedded(changed(self, 0, edits).embedding(pixels), edits), 0, savings)

    def resume(self, hidden: Tensor, step: int, savings: Savings = Savings(), before: Tensor | None = None) -> Stream:
        """A stream from hidden states [n, tokens, width] after `step`, stored ones for instance.

        before: what that step read, where an edit stands beside it. Of a last block that ran for the read tokens alone
        each row is one token.
        """
        layout = Layout.even(hidden.shape[0], hidden.shape[1], hidden.device)
        return Stream(hidden.flatten(0, 1), layout, step, savings, None if before is None else before.flatten(0, 1))

    def input_norm(self, tokens: Tensor) -> Tensor:
        """The checkpoint's norm in front of block 1, where it has one."""
        return self.embedding.norm(tokens) if isinstance(self.embedding, PatchEmbedding) else tokens

    def finish(self, stream: Stream, edits: Sequence[Edit] = ()) -> Tensor:
        """The remaining blocks, pooling and projection: [n, embed], or [n, width] without. Prompts are not pooled.

        Where an edit asks for them (`read`) their mean stands behind it: [n, embed + width].
        """
        stream, own = self.ready(self.run(stream, edits), edits), changed(self, self.last, edits)
        features = own._pooled(stream, edits)
        if not inserted_are_read(edits):
            return features
        if stream.layout is None or not stream.prompts:
            raise ValueError("no prompt tokens stand at the end of the rows")
        last = stream.hidden.unflatten(0, (stream.layout.rows, -1))[:, -stream.prompts :]
        return torch.cat([features, own.post_norm(last).mean(dim=1)], dim=1)

    def _pooled(self, stream: Stream, edits: Sequence[Edit]) -> Tensor:
        """The last step: [n, embed], or [n, width]."""
        if self.pooling == "token":
            pooled = self.post_norm(self.read_tokens(stream))
        else:
            assert stream.layout is not None
            x = without(stream.hidden, stream.layout, stream.prompts)
            x = x.unflatten(0, (stream.layout.rows, -1))
            x = x if self.norm_after_pool else self.post_norm(x)
            pooled = self.pool(x) if self.pool is not None else x[:, int(self.has_class_token) :].mean(dim=1)
            pooled = self.post_norm(pooled) if self.norm_after_pool else pooled
        return pooled if self.projection is None or ends_unprojected(edits) else self.projection(pooled)


def _of_pool(config: ImageConfig) -> BlocksConfig:
    """The sizes of a pooling head: the blocks', where the configuration has no others."""
    blocks = config.blocks
    heads, hidden = config.pool_heads or blocks.heads, config.pool_mlp_width or blocks.mlp_width
    return replace(blocks, heads=heads, mlp_width=hidden, gated=False, inner_norms=False)


class TextTower(Transformer):
    """A text tower: rows of ids, causal or not."""

    pooled_alone = True

    def __init__(self, config: TextConfig | BertConfig) -> None:
        super().__init__(config.blocks)
        width = config.blocks.width
        self.config = config
        # Not drawn: on the meta device that alone would import torch's compiler, which takes as long as torch itself.
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(config.vocabulary, width))
        self.positions = nn.Parameter(torch.zeros(config.context, width))
        self._packed: WeakKeyDictionary[Texts, dict[Savings, _PackedTexts]] = WeakKeyDictionary()

    def pack(self, texts: Texts, savings: Savings = Savings()) -> _PackedTexts:
        """How rows of ids run: cut, grouped and laid out. Built once for each Texts object."""
        kept = self._packed.setdefault(texts, {})
        if savings not in kept:
            with torch.inference_mode(False):  # it is kept, and may serve a training next
                kept[savings] = _PackedTexts(texts, self.config, savings)
        return kept[savings].to(self.positions.device)

    def start(self, texts: Texts, edits: Sequence[Edit] = (), savings: Savings = Savings()) -> Stream:
        """Step 0: words and learned ids, with positions."""
        packed, own = self.pack(texts, savings), changed(self, 0, edits)
        x = own.token_embedding(packed.ids)
        if packed.learned is not None:
            contexts = [edit for edit in edits if isinstance(edit, Context)]
            if len(contexts) != 1:
                raise ShotfitError(f"Texts with learned ids need one Context edit, but {len(contexts)} were given.")
            vectors = contexts[0].vectors.to(x.dtype)
            x = x.index_copy(0, packed.learned, vectors.index_select(0, packed.rows))
        x = own.positioned(self._embedded(x, edits), own.positions.index_select(0, packed.layout.positions))
        return Stream(x, packed.layout, 0, savings)

    def positioned(self, x: Tensor, positions: Tensor) -> Tensor:
        """Words and learned ids with their positions, each [tokens, width], as block 1 reads them."""
        return x + positions

    def finish(self, stream: Stream, edits: Sequence[Edit] = ()) -> Tensor:
        """The remaining blocks, pooling and projection: [rows, embed]."""
        raise NotImplementedError


class TextTransformer(TextTower):
    """CLIP's and SigLIP's: read at one token."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        self.final_norm = nn.LayerNorm(config.blocks.width, config.blocks.epsilon)
        self.projection = Linear(config.blocks.width, config.embed, bias=config.projection_bias)

    def finish(self, stream: Stream, edits: Sequence[Edit] = ()) -> Tensor:
        """The remaining blocks, the final norm at the read token, the projection: [rows, embed], or [rows, width]."""
        stream, own = self.ready(self.run(stream, edits), edits), changed(self, self.last, edits)
        pooled = own.final_norm(self.read_tokens(stream))
        return pooled if ends_unprojected(edits) else own.projection(pooled)


class _PackedTexts:
    """Index tables of one Texts object: flat ids, where learned ids stand, the layout."""

    def __init__(self, texts: Texts, config: TextConfig | BertConfig, savings: Savings) -> None:
        longest = max((len(row) for row in texts.rows), default=0)
        if not texts.rows or longest > config.context:
            problem = "no text was given" if not texts.rows else f"a text has {longest} tokens"
            raise ShotfitError(f"The text tower reads 1 to {config.context} tokens a text, but {problem}.")
        trimmed = [trim(row, config, savings.cut) for row in texts.rows]
        rows, reads = [row for row, _ in trimmed], [read for _, read in trimmed]
        separate = [Group(tuple(range(len(rows))), 0)]
        share = savings.shared and savings.cut and config.causal and all(len(r) == p + 1 for r, p in trimmed)
        groups = share_beginnings(rows) if share else separate
        unpadded = [words(row, config.padding) for row in rows] if isinstance(config, BertConfig) else None
        self.layout = Layout([len(row) for row in rows], reads, groups, config.causal, unpadded)
        beginnings = [rows[group.rows[0]][: group.shared] for group in groups]
        own = [rows[row][group.shared :] for group in groups for row in group.rows]
        ids = [token for tokens in [*beginnings, *own] for token in tokens]
        learned = [index for index, token in enumerate(ids) if token >= config.vocabulary]
        self.learned = torch.tensor(learned) if learned else None
        self.rows = torch.tensor([ids[index] - config.vocabulary for index in learned], dtype=torch.long)
        self.ids = torch.tensor([0 if token >= config.vocabulary else token for token in ids])

    def to(self, device: torch.device) -> _PackedTexts:
        """Move the tables, once."""
        if self.ids.device != device:
            self.ids, self.rows = self.ids.to(device), self.rows.to(device)
            self.learned = None if self.learned is None else self.learned.to(device)
            self.layout.to(device)
        return self
