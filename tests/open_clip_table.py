"""Which of open_clip's configurations shotfit reads, found by reading each of them; the table of docs/backbones.md.

python -m tests.open_clip_table      # write the table anew
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotfit.checkpoints.open_clip import read_open_clip
from shotfit.checkpoints.settings import Settings
from shotfit.checkpoints.timm_trunks import TRUNKS
from shotfit.checkpoints.unread import Tensors
from shotfit.checkpoints.weights import load_backbone
from shotfit.errors import ShotfitError
from shotfit.towers.backbone import Backbone
from shotfit.towers.texts import Texts

from .open_clip_closed import closed_difference
from .open_clip_original import CONFIGURATIONS, CONTEXT, VOCABULARY, Original, build, reduced_trunks
from .originals import open_clip

__all__ = ["Outcome", "architectures", "by_closed_way", "difference", "outcome", "rows", "table", "with_table"]

PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
ARCHITECTURES = Path(__file__).parents[1] / "src" / "shotfit" / "assets" / "architectures.json"
START, END = "<!-- configurations of open_clip: start -->", "<!-- configurations of open_clip: end -->"


@dataclass(frozen=True)
class Outcome:
    """What became of one configuration.

    `difference`: the largest of any image or text feature from open_clip's, in shares of the largest feature, where it
    is read. `refusal`: the one line that refuses it, else.
    """

    difference: float | None
    refusal: str = ""


def by_closed_way(name: str, folder: Path) -> Outcome:
    """Build a configuration at reduced size by open_clip, open it as a closed encoder, compare in float32."""
    try:
        return Outcome(closed_difference(name, folder))
    except ShotfitError as error:
        return Outcome(None, str(error))


def outcome(name: str, folder: Path) -> Outcome:
    """Build a configuration at reduced size by open_clip, read it by shotfit, compare in float32."""
    if _trunk(name) in (None, *TRUNKS):
        original = build(name)
        path = original.write(folder / name)
    else:  # no other trunk is built: it is refused before a weight is read
        original, path = None, Original(torch.nn.Linear(1, 1), CONFIGURATIONS[name]).write(folder / name)
    try:
        with reduced_trunks():
            backbone = load_backbone(path)
    except ShotfitError as error:
        return Outcome(None, str(error))
    assert original is not None
    return Outcome(difference(original, backbone))


@torch.inference_mode()
def difference(original: Original, backbone: Backbone) -> float:
    """The largest of any image or text feature from the original's, in shares of the largest."""
    return max(_of_images(original, backbone), _of_texts(original, backbone))


def _of_images(original: Original, backbone: Backbone) -> float:
    size = backbone.image.image_size
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    return _apart(
        original.model.encode_image(pixels, normalize=False), backbone.image.finish(backbone.image.start(pixels))
    )


def _of_texts(original: Original, backbone: Backbone) -> float:
    """Texts of three lengths, one as long as a text can be."""
    config: Any = backbone.config.text
    end = getattr(config, "end", None)
    end = VOCABULARY - 1 if end is None else end
    rows = [[5, 7, 9, end], [5, 8, 11, 13, 14, end], [5, *range(20, 18 + CONTEXT), end]]
    padded = torch.tensor([row + [config.padding] * (CONTEXT - len(row)) for row in rows])
    return _apart(
        original.model.encode_text(padded, normalize=False), backbone.text.finish(backbone.text.start(Texts.of(rows)))
    )


def _apart(wanted: Tensor, found: Tensor) -> float:
    return float((wanted - found).abs().max() / wanted.abs().max())


def _trunk(name: str) -> str | None:
    trunk: str | None = CONFIGURATIONS[name]["vision_cfg"].get("timm_model_name")
    return trunk


def table(own: Mapping[str, Outcome], closed: Mapping[str, Outcome]) -> str:
    """The page's part: how many, and a row for each kind of model. closed: of those that own towers do not read."""
    read = [name for name, found in closed.items() if found.difference is not None]
    rest = len(closed) - len(read)
    return "\n".join(
        [
            START,
            "",
            f"shotfit reads {len(own) - len(closed)} of the {len(own)} image-text configurations of open_clip "
            f"{open_clip.__version__} with its own towers, which every method may change inside, and {len(read)} by "
            f"the closed way. {f'{rest} are read by neither.' if rest else 'None is left.'} A folder of one without an "
            "own tower is refused by name.",
            "",
            "| image tower | text tower | read by | configurations |",
            "|---|---|---|---|",
            *rows(own, "own tower"),
            *rows(closed, "closed way"),
            "",
            END,
        ]
    )


def rows(outcomes: Mapping[str, Outcome], way: str) -> list[str]:
    """A row for each kind of model among those that are read in a way; for closed ones, the others with the reason."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, found in sorted(outcomes.items()):
        if found.difference is not None or way == "closed way":
            said = way if found.difference is not None else f"none: {found.refusal}"
            groups.setdefault((_image(name), _text(name), said), []).append(name)
    return [
        f"| {image} | {text} | {said} | {', '.join(f'`{name}`' for name in names)} |"
        for (image, text, said), names in groups.items()
    ]


def _image(name: str) -> str:
    vision, trunk = CONFIGURATIONS[name]["vision_cfg"], _trunk(name)
    if trunk is not None:
        kinds = {
            "vit_pe_core": "Perception Encoder",
            "eva": "EVA",
            "vit_base_mci": "MobileCLIP-B",
            "fastvit": "FastViT",
        }
        kinds |= {"convnext": "ConvNeXt", "swin": "Swin", "vitamin": "ViTamin", "vit_relpos": "ViT, relative positions"}
        found = next((kind for start, kind in kinds.items() if trunk.startswith(start)), "ViT of timm")
        return "SigLIP" if "siglip" in trunk else found
    if isinstance(vision["layers"], list):
        return "ResNet"
    if vision.get("attentional_pool"):
        return "ViT, attentional pool"
    return "ViT, averaged" if vision.get("pool_type") == "avg" else "ViT"


def _text(name: str) -> str:
    text = CONFIGURATIONS[name]["text_cfg"]
    if "hf_model_name" in text:
        return f"`{text['hf_model_name']}`"
    if text.get("embed_cls"):
        return "CoCa"
    kind = "not causal" if text.get("no_causal_mask") else "causal"
    return f"{kind}, `{text['hf_tokenizer_name']}`" if "hf_tokenizer_name" in text and kind == "causal" else kind


class _ReadError(Exception):
    """The weights were asked for, so that the configuration is one that own towers read."""


def architectures() -> str:
    """The configurations that own towers read, one a line: what weights alone leave unsaid of them.

    Images are prepared as for the weights that open_clip's package lists by the name, where all of those agree.
    """
    own = {
        name: {"model_cfg": config, "preprocess_cfg": _preparation(name)}
        for name, config in CONFIGURATIONS.items()
        if _has_own_towers(config, name)
    }
    rows = [f"{json.dumps(name)}: {json.dumps(config, sort_keys=True)}" for name, config in own.items()]
    return "{\n" + ",\n".join(rows) + "\n}\n"


def _has_own_towers(config: dict[str, Any], name: str) -> bool:
    def stop() -> Tensors:
        raise _ReadError

    try:
        read_open_clip(Settings({"model_cfg": config}, name), stop, name)
    except _ReadError:
        return True
    except ShotfitError:
        return False
    raise AssertionError(f"{name} was read without its weights")


def _preparation(name: str) -> dict[str, Any]:
    """What is not open_clip's default of how the images of a name's weights are prepared."""
    entries = ("mean", "std", "interpolation", "resize_mode")
    default = asdict(open_clip.transform.PreprocessCfg())
    tags = open_clip.pretrained._PRETRAINED.get(name, {})
    found = {json.dumps({entry: tag[entry] for entry in entries}) for tag in tags.values()}
    prepared = json.loads(found.pop()) if len(found) == 1 else {}
    return {entry: value for entry, value in prepared.items() if value != json.loads(json.dumps(default[entry]))}


def with_table(page: str, part: str) -> str:
    """The page with the part in the place of the one that it has."""
    before, _, rest = page.partition(START)
    return before + part + rest.partition(END)[2]


if __name__ == "__main__":
    ARCHITECTURES.write_text(architectures())
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: outcome(name, Path(scratch)) for name in CONFIGURATIONS}
        others = [name for name, what in found.items() if what.difference is None]
        closed = {name: by_closed_way(name, Path(scratch)) for name in others}
    PAGE.write_text(with_table(PAGE.read_text(), table(found, closed)))
