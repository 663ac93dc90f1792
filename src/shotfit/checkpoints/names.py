"""The short names of backbones: what each is, and which file of which repository at which commit it stands for.

The table is data, `assets/backbones.json`, and the documentation's too (`markdown`). A commit, file, size, digest or
licence stands there only where it was read from a source, whose address stands beside it; else it is empty, which is
shown as "not verified". A name with a commit means the same weights tomorrow; of one without, the commit of the first
load is recorded on this machine (`recorded.py`) and taken from then on.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from types import MappingProxyType

__all__ = [
    "NAMES", "NOT_VERIFIED", "Name", "domains", "find",
    "markdown", "matching", "retired", "suggestions", "terms_of",
]  # fmt: skip

NOT_VERIFIED = "not verified"


@dataclass(frozen=True)
class Name:
    """One backbone by name. `repository` is None for what ships with shotfit, in `assets/NAME`.

    also: other names. domain: what it is for. tower: its class of architecture. pixels: a side of its images. size: of
    the file. architecture: open_clip's name of it, where the repository has weights alone. checked: how shotfit's
    towers of this class were compared with the original's, empty where nobody has; texts: likewise of its token ids.
    sources: where a field was read, by the field's name. terms: for what its weights may be used, and why, where
    shotfit ships them.
    """

    name: str
    about: str
    domain: str
    tower: str
    pixels: int
    repository: str | None
    revision: str = ""
    file: str = ""
    size: str = ""
    sha256: str = ""
    license: str = ""
    architecture: str = ""
    checked: str = ""
    texts: str = ""
    terms: str = ""
    also: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def closed_name(self) -> str:
        """What opens it as a closed encoder, where shotfit has no towers of its class; else empty."""
        return f"open_clip:hf-hub:{self.repository}" if self.checked.startswith("as closed") else ""


def _read() -> tuple[Name, ...]:
    table = json.loads((resources.files("shotfit") / "assets" / "backbones.json").read_text(encoding="utf-8"))
    found = []
    for row in table["backbones"]:
        sources = {name: table["sources"][key] for name, key in row.pop("sources", {}).items()}
        checked, texts = (table[what].get(row["tower"], "") for what in ("towers", "texts"))
        also = tuple(row.pop("also", ()))
        found.append(Name(also=also, sources=MappingProxyType(sources), checked=checked, texts=texts, **row))
    return tuple(found)


NAMES = _read()


def domains() -> list[str]:
    """What backbones are for, in the order of the table.

    >>> domains()[:2]
    ['small', 'general']
    """
    return list(dict.fromkeys(entry.domain for entry in NAMES))


def matching(domain: str | None = None, search: str = "") -> list[Name]:
    """The entries of a domain in which each word of a search stands, whatever the case.

    >>> [entry.name for entry in matching("nature", "bioclip")]
    ['BioCLIP', 'BioCLIP-2']
    """
    words = search.lower().split()
    found = []
    for entry in NAMES:
        texts = (entry.name, *entry.also, entry.about, entry.domain, entry.tower, entry.repository or "", entry.license)
        text = " ".join(texts).lower()
        if domain in (None, entry.domain) and all(word in text for word in words):
            found.append(entry)
    return found


def find(source: str) -> Name | None:
    """The entry that a user's spelling means: case and the signs `/ @ _` and space do not matter.

    Example:
        >>> find("vit-b-32").name
        'ViT-B/32'
    """
    wanted = _plain(source)
    for entry in NAMES:
        if wanted in {_plain(name) for name in (entry.name, *entry.also, *filter(None, [entry.repository]))}:
            return entry
    return None


def terms_of(name: str) -> str:
    """For what a backbone's weights may be used, in a sentence; "" where shotfit does not ship them.

    Example:
        >>> terms_of("mini").partition(",")[0]
        'the weights of mini-6 are for research use'
    """
    entry = find(name)
    return f"the weights of {entry.name} are {entry.terms}" if entry is not None and entry.terms else ""


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
    spellings = {_plain(name): entry.name for entry in NAMES for name in (entry.name, *entry.also)}
    close = difflib.get_close_matches(_plain(source), spellings, n=3, cutoff=0.7)
    return list(dict.fromkeys(spellings[spelling] for spelling in close))


def markdown() -> str:
    """The table for the documentation."""
    head = (
        *("name", "also", "what", "for", "tower", "px", "repository", "commit", "licence"),
        *("towers checked", "texts checked"),
    )
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for entry in NAMES:
        also = ", ".join(f"`{alias}`" for alias in entry.also)
        where = f"`{entry.repository}`" if entry.repository else "in the package"
        commit = _cited(f"`{entry.revision[:12]}`", entry, "revision") if entry.revision else NOT_VERIFIED
        cells = (
            *(f"`{entry.name}`", also, entry.about, entry.domain, entry.tower, str(entry.pixels), where),
            "" if entry.repository is None else commit,
            _cited(entry.license, entry, "license") if entry.license else NOT_VERIFIED,
            entry.checked or "no",
            entry.texts or "by their own library",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cited(text: str, entry: Name, what: str) -> str:
    """With a link to where it was read."""
    source = entry.sources[what]
    return f"[{text}]({source})" if source.startswith("https://") else text


def _plain(name: str) -> str:
    return name.strip().lower().translate(str.maketrans("/@_ ", "----"))
