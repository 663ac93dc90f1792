"""The README of an export: what it is, and the code that runs it, as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shotfit.printing import as_code, as_markdown

__all__ = ["readme"]


def readme(record: Mapping[str, Any]) -> str:
    """The text, in Markdown, by the export's record."""
    card, classes = record["card"], record["classes"]
    shown = ", ".join(map(as_markdown, classes[:20])) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
    lines = [
        f"# {as_markdown(card['title'])} on {as_markdown(card['backbone'])}",
        "",
        f"An image classifier for {len(classes)} classes ({shown}), exported by shotfit "
        f"{as_markdown(record['shotfit'])}. `export.json` has the classes, the preprocessing and the checksums.",
        "",
        f"- Learned from: {as_markdown(card['learned_from'])}",
        *([f"- Terms: {as_markdown(card['terms'])}"] if card["terms"] else []),
        f"- Precision: {as_code(record['precision'])}",
        "",
        *_compared(record),
        "",
        *WITHOUT_CODE.get(record["kind"], ()),
        "## Run it",
        "",
        f"    pip install {INSTALL[record['kind']]}",
        "",
        "```python",
        _code(record).strip("\n"),
        "```",
        "",
        *OPEN_CLIP[record["kind"] == "classifier"],
    ]
    return "\n".join(lines)


LIGHT = (
    "## Predict without writing code",
    "",
    "    pip install shotfit-light",
    "    shotfit predict . photo.jpg",
    "",
)
WITHOUT_CODE = {
    "onnx": LIGHT,
    "web": (
        "## Open it in a browser",
        "",
        "Put this folder on any web server, or start one here and open http://localhost:8000:",
        "",
        "    python -m http.server",
        "",
        "Pictures stay in the browser; nothing is fetched from elsewhere. The camera needs https or localhost.",
        "",
        *LIGHT,
    ),
}

INSTALL = {
    "onnx": "onnxruntime numpy pillow",
    "web": "onnxruntime numpy pillow",
    "openvino": "openvino numpy pillow",
    "classifier": "torch safetensors pillow transformers",
}

RUN = {
    "onnxruntime": """
session = onnxruntime.InferenceSession("{file}")
logits, features = session.run(["logits", "features"], {{"pixels": pixels("photo.jpg")[None]}})
""",
    "openvino": """
model = openvino.Core().compile_model("{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
logits = model([pixels("photo.jpg")[None]])["logits"]
""",
}

CODE = """
import json

import numpy as np
{library}
from PIL import Image, ImageOps

with open("export.json", encoding="utf-8") as file:
    export = json.load(file)


def pixels(path):
    image = ImageOps.exif_transpose(Image.open(path))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    image = image.convert("RGB")
{resize}
    levels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    mean, std = (np.array(export["preprocess"][name], np.float32)[:, None, None] for name in ("mean", "std"))
    return (levels - mean) / std


{session}
odds = np.exp(logits[0] - logits[0].max())
for index in logits[0].argsort()[::-1][:3]:
    print(export["classes"][index], round(float(odds[index] / odds.sum()), 4))
"""

RESIZE = {
    "shortest": """
    long = int({size} * max(image.size) / min(image.size))
    upright = image.width <= image.height
    image = image.resize(({size}, long) if upright else (long, {size}), Image.Resampling.{filter})
    left, top = ({offset} for side in image.size)
    image = image.crop((left, top, left + {size}, top + {size}))
""",
    "squash": """
    image = image.resize(({size}, {size}), Image.Resampling.{filter})
""",
    "longest": """
    ratio = max(image.size) / {size}
    image = image.resize([max(1, round(side / ratio)) for side in image.size], Image.Resampling.{filter})
    across, down = ({size} - side for side in image.size)
    border = (across // 2, down // 2, across - across // 2, down - down // 2)
    image = ImageOps.expand(image, border, ({fill},) * 3)
""",
}


CLASSIFIER = """
import json

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

backbone = {{{backbone}}}
model, prepare = (kind.from_pretrained(**backbone) for kind in (AutoModel, AutoImageProcessor))
with open("export.json", encoding="utf-8") as file:
    export = json.load(file)
classifier = load_file("classifier.safetensors")
with torch.no_grad():
    features = model.get_image_features(**prepare(Image.open("photo.jpg").convert("RGB"), return_tensors="pt"))
features = getattr(features, "pooler_output", features)  # in transformers 5 the features are inside{normalize}
logits = export["scale"] * features @ classifier["weight"].T + classifier["bias"]
probability, index = logits.softmax(dim=-1)[0].max(dim=0)
print(export["classes"][index], round(float(probability), 4))
"""

NORMALIZE = """
features = features / features.norm(dim=-1, keepdim=True)"""

OPEN_CLIP = {
    False: (),
    True: (
        "With open_clip the features come from `model.encode_image(preprocess(image)[None])`, where `model, _, "
        "preprocess = open_clip.create_model_and_transforms(...)` names the same checkpoint. The rest is the same.",
        "",
    ),
}


def _compared(record: Mapping[str, Any]) -> list[str]:
    """How it compared with the model, and what the precision costs."""
    found = record["compared"]
    what = f"{found['images']} {'images' if found['given'] else 'generated images'}"
    lines = [f"- Compared with the model in float32: the same class on {100 * found['same']:.1f} % of {what}"]
    if "accuracy" in found:
        before, after = (100 * found["accuracy"][name] for name in ("model", "export"))
        lines.append(f"- Accuracy on {found['labelled']} labelled images: {after:.1f} % (the model: {before:.1f} %)")
    return lines


def _code(record: Mapping[str, Any]) -> str:
    if record["kind"] == "classifier":
        normalize = NORMALIZE if record["normalize"] else ""
        checkpoint = record["card"]["checkpoint"]
        named = {"pretrained_model_name_or_path": checkpoint["name"], "revision": checkpoint["revision"]}
        words = ", ".join(f'"{key}": {value!a}' for key, value in named.items() if value)
        return CLASSIFIER.format(backbone=words, normalize=normalize)
    rule = record["preprocess"]
    size = rule["size"][0]
    offset = f"round((side - {size}) / 2)" if rule["crop"] == "center-round" else f"(side - {size}) // 2"
    values = {"size": size, "filter": rule["interpolation"].upper(), "offset": offset, "fill": rule["fill"]}
    resize = RESIZE[rule["resize"]].format(**values).strip("\n")
    library = "openvino" if record["kind"] == "openvino" else "onnxruntime"
    session = RUN[library].format(file=record["model"]).strip("\n")
    return CODE.format(library=f"import {library}", resize=resize, session=session)
