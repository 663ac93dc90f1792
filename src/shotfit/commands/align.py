"""`shotfit align`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import completion, flags
from shotfit.commands.console import print_json, to

__all__ = ["align"]


def align(
    pairs: Annotated[
        Path,
        typer.Argument(help="Images and captions: a CSV, JSON Lines or Parquet file, or folders DIR/CLASS/IMAGE."),
    ],
    image: Annotated[
        str, typer.Option("--image", metavar="NAME", help="The image encoder: FILE.py:FUNCTION, or timm:MODEL.")
    ],
    text: Annotated[
        str,
        typer.Option(
            "--text", metavar="NAME", help="The text encoder: FILE.py:FUNCTION, or sentence-transformers:MODEL."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write, which --backbone takes.")] = Path("joined"),
    how: Annotated[
        str,
        typer.Option(
            help="procrustes or ridge, in closed form, or contrastive, which trains two small matrices.",
            autocompletion=completion.choices("procrustes", "ridge", "contrastive"),
        ),
    ] = "procrustes",
    images: flags.ImagesDir = None,
    path_column: flags.PathColumn = None,
    caption_column: Annotated[
        str | None,
        typer.Option(help="The column, or key, of the captions.", show_default="caption, captions, text, ..."),
    ] = None,
    group_column: flags.GroupColumn = None,
    templates: flags.Templates = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the contrastive head.")] = 1,
    as_json: flags.Json = False,
) -> None:
    """Put an image encoder and a text encoder that were never trained together into one space.

    It learns from images with captions, measures recall on images that are held out, and writes a backbone's folder.
    The files of code that you name are run.

    \b
    Examples:
      shotfit align pairs.csv --image my.py:images --text my.py:texts --out joined
      shotfit align photos/ --image timm:convnext_tiny --text sentence-transformers:all-MiniLM-L6-v2
      shotfit fit photos/ --backbone joined+my.py:images+my.py:texts
    """
    from shotfit.fitting.align import align as join
    from shotfit.fitting.joining import AT
    from shotfit.fitting.joining import How as Way

    way: Way = how  # type: ignore[assignment]  # what it may be is for `join` to say
    found = join(
        pairs, image, text, out, how=way, images=images, path_column=path_column, caption_column=caption_column,
        group_column=group_column, templates=templates or (), seed=seed,
    )  # fmt: skip
    if as_json:
        print_json(found.as_json() | {"out": str(out)})
        return
    say = to(sys.stdout)
    say(f"{found.images:,} images with {found.captions:,} captions: {found.how}, regularization {found.strength:g}")
    say(f"recall on {found.held_out:,} held-out images:")
    say("                " + "".join(f"{f'at {at}':>8}" for at in AT) + "    by chance")
    rows = (
        ("image to text", found.recall.to_text, found.recall.chance_to_text),
        ("text to image", found.recall.to_image, found.recall.chance_to_image),
    )
    for what, values, chance in rows:
        told = "".join(f"{100 * value:6.1f} %" for value in values)
        say(f"  {what:14}{told}    {', '.join(f'{100 * value:.2g}' for value in chance)} %")
    name = found.backbone.name if str(out.absolute()) != found.backbone.name else str(out)
    say(f"wrote {out}; use it with --backbone {shlex.quote(name)}")
