"""The page of an analysis of pairs: the numbers, the distributions, and the images of which the halves disagree."""

from __future__ import annotations

from pathlib import Path

from shotfit.analysis.pairs import Disagreement, Pairs, half_cells, kind_cells
from shotfit.analysis.plots import PAIRS_SIZE, draw_pairs
from shotfit.report.page import check_page, named_in, rendered, thumbnail, write_page
from shotfit.report.svg import drawing

__all__ = ["write_pairs_page"]

SIDE = 128  # pixels of a thumbnail
GROUPS = {
    "positive": "Right by the positive half alone",
    "negative": "Right by the negative half alone",
    "neither": "Different, and both wrong",
}


def write_pairs_page(
    found: Pairs, source: Path, out: Path, count: int = 24, images: bool = True, command: str = ""
) -> None:
    """Write one self-contained HTML page.

    source: the folder, whose pictures are named from there. count: images of each group, at most. images: show
    thumbnails. command: what repeats it.

    Raises UsageError for a file that is no .html, and ShotfitError for one that cannot be written.
    """
    check_page(out, "--page")
    summary = found.sentence()
    with drawing(*PAIRS_SIZE, f"Distributions of similarity on {found.task}: {summary}.", "pairs") as drawn:
        draw_pairs(drawn.figure, found)
    groups = [
        {"title": title, "images": len(own), "cards": [_card(one, source, images) for one in own[:count]]}
        for right, title in GROUPS.items()
        if (own := [one for one in found.disagreements if one.right == right])
    ]
    text = rendered(
        "pairs.html",
        title=f"Pairs of {found.task}",
        summary=summary,
        halves=half_cells(found),
        notes=[overlap.sentence() for overlap in found.overlaps],
        kinds=kind_cells(found),
        svg=drawn.svg,
        groups=groups,
        with_images=images,
        command=command,
    )
    write_page(out, text, "--page")


def _card(one: Disagreement, source: Path, images: bool) -> dict[str, object]:
    image = thumbnail(one.picture, SIDE) if images else None
    return vars(one) | {"name": named_in(one.picture, source), "image": image}
