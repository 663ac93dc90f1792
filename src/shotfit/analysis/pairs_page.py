"""The page of an analysis of pairs: the numbers, the distributions, and the images of which the halves disagree."""

from __future__ import annotations

from pathlib import Path

from shotfit.analysis.pairs import HALVES, Disagreement, Pairs
from shotfit.analysis.plots import PAIRS_SIZE, draw_pairs
from shotfit.report.page import check_page, named_in, rendered, thumbnail, write_page
from shotfit.report.svg import drawing

__all__ = ["half_cells", "kind_cells", "overlap_lines", "write_pairs_page"]

SIDE = 128  # pixels of a thumbnail
GROUPS = {
    "positive": "Right by the positive half alone",
    "negative": "Right by the negative half alone",
    "neither": "Different, and both wrong",
}


def half_cells(found: Pairs) -> list[list[str]]:
    """What each half decides alone, as cells with their head; percent."""
    rows = [["decided by", "accuracy"]]
    for name in HALVES:
        share = found.halves[name]
        spread = "" if share.spread is None else f" ± {100 * share.spread:.1f}"
        title = {"both": "both halves"}.get(name, f"{name} alone" if name.endswith("text") else f"{name} half alone")
        rows.append([title, f"{100 * share.mean:.1f}{spread}"])
    return [*rows, ["chance", f"{100 / found.classes:.1f}"]]


def kind_cells(found: Pairs) -> list[list[str]]:
    """The distributions as cells with their head: cosines, and how often the own one is nearer in percent."""
    rows = [["images against", "own class", "5 to 95 %", "other classes", "5 to 95 %", "own nearer"]]
    for name, kind in found.kinds.items():
        cells = [name]
        for summary in (kind.own, kind.other):
            low, high = summary.quantiles[0], summary.quantiles[-1]
            cells += [f"{summary.mean:.3f}", f"{low:.2f} to {high:.2f}"]
        spread = "" if kind.order_spread is None else f" ± {100 * kind.order_spread:.1f}"
        rows.append([*cells, f"{100 * kind.order:.1f}{spread}"])
    return rows


def overlap_lines(found: Pairs) -> list[str]:
    """Where the halves agree, seed by seed, as sentences."""
    return [
        f"seed {one.seed}: of {one.images:,} images the halves say the same of {one.alike:,}; right by both "
        f"{one.both_right:,}, by the positive half alone {one.only_positive:,}, by the negative half alone "
        f"{one.only_negative:,}, by neither {one.neither:,} (McNemar's exact test: p = {one.p:.2g})"
        for one in found.overlaps
    ]


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
        notes=overlap_lines(found),
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
