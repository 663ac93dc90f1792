"""The short names of backbones: what each is, and which file of which repository at which commit it stands for.

This table is the documentation's, too (`markdown`). A name pins a commit, so that it means the same weights tomorrow.
Files are safetensors where the pinned commit has them; `pytorch_model.bin` is a pickled file, read without unpickling.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

__all__ = ["NAMES", "Name", "find", "markdown", "retired", "suggestions"]


@dataclass(frozen=True)
class Name:
    """One backbone by name. `repository` is None for what ships with shotfit, in `assets/NAME`."""

    name: str
    about: str
    repository: str | None
    file: str
    revision: str
    aliases: tuple[str, ...] = ()


NAMES = (
    Name(
        "mini-6",
        "EfficientNet-Lite1 with blocks of our own, and a small text tower; ships with shotfit",
        None,
        "model.safetensors",
        "",
        ("mini",),
    ),
    Name(
        "ViT-B/32",
        "OpenAI's CLIP, 224 px",
        "openai/clip-vit-base-patch32",
        "pytorch_model.bin",
        "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        ("openai/ViT-B/32",),
    ),
    Name(
        "ViT-B/16",
        "OpenAI's CLIP, 224 px",
        "openai/clip-vit-base-patch16",
        "pytorch_model.bin",
        "57c216476eefef5ab752ec549e440a49ae4ae5f3",
        ("openai/ViT-B/16",),
    ),
    Name(
        "ViT-L/14",
        "OpenAI's CLIP, 224 px",
        "openai/clip-vit-large-patch14",
        "model.safetensors",
        "32bd64288804d66eefd0ccbe215aa642df71cc41",
        ("openai/ViT-L/14",),
    ),
    Name(
        "ViT-L/14@336",
        "OpenAI's CLIP, 336 px",
        "openai/clip-vit-large-patch14-336",
        "pytorch_model.bin",
        "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
        ("ViT-L/14@336px", "openai/ViT-L/14@336"),
    ),
    Name(
        "SigLIP-B/16",
        "Google's SigLIP base, 224 px",
        "google/siglip-base-patch16-224",
        "model.safetensors",
        "7fd15f0689c79d79e38b1c2e2e2370a7bf2761ed",
        ("siglip", "siglip-base", "siglip-base-patch16-224"),
    ),
    Name(
        "LAION-B/32",
        "open_clip ViT-B/32 trained on LAION-2B, 224 px",
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        "open_clip_model.safetensors",
        "1a25a446712ba5ee05982a381eed697ef9b435cf",
        ("ViT-B/32-laion2b",),
    ),
    Name(
        "LAION-B/16",
        "open_clip ViT-B/16 trained on LAION-2B, 224 px",
        "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        "open_clip_model.safetensors",
        "7288da5a0d6f0b51c4a2b27c624837a9236d0112",
        ("ViT-B/16-laion2b",),
    ),
    Name(
        "LAION-L/14",
        "open_clip ViT-L/14 trained on LAION-2B, 224 px",
        "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
        "open_clip_pytorch_model.safetensors",
        "1627032197142fbe2a7cfec626f4ced3ae60d07a",
        ("ViT-L/14-laion2b",),
    ),
)


def find(source: str) -> Name | None:
    """The entry that a user's spelling means: case and the signs `/ @ _` and space do not matter.

    Example:
        >>> find("vit-b-32").name
        'ViT-B/32'
    """
    wanted = _plain(source)
    for entry in NAMES:
        if wanted in {_plain(name) for name in (entry.name, *entry.aliases, *filter(None, [entry.repository]))}:
            return entry
    return None


def retired(source: str) -> str | None:
    """The sentence for a version of `mini` that no longer ships; None for every other name.

    Example:
        >>> retired("mini-6") is None
        True
    """
    found = re.fullmatch(r"mini-(\d+)", source)
    if found is None or int(found[1]) >= int(NAMES[0].name.removeprefix("mini-")):
        return None
    return (
        f"{source} no longer ships with shotfit: fit the model again on {NAMES[0].name}, or install the version of "
        "shotfit that it was fitted with."
    )


def suggestions(source: str) -> list[str]:
    """Names close to one that is unknown, the closest first.

    Example:
        >>> suggestions("ViT-B/31")[0]
        'ViT-B/32'
    """
    spellings = {_plain(name): entry.name for entry in NAMES for name in (entry.name, *entry.aliases)}
    close = difflib.get_close_matches(_plain(source), spellings, n=3, cutoff=0.7)
    return list(dict.fromkeys(spellings[spelling] for spelling in close))


def markdown() -> str:
    """The table for the documentation."""
    lines = ["| name | also | what | repository | file | revision |", "|---|---|---|---|---|---|"]
    for entry in NAMES:
        also = ", ".join(f"`{alias}`" for alias in entry.aliases)
        where = f"`{entry.repository}`" if entry.repository else "in the package"
        revision = f"`{entry.revision[:12]}`" if entry.revision else ""
        lines.append(f"| `{entry.name}` | {also} | {entry.about} | {where} | `{entry.file}` | {revision} |")
    return "\n".join(lines)


def _plain(name: str) -> str:
    return name.strip().lower().translate(str.maketrans("/@_ ", "----"))
