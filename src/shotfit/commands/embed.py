"""`shotfit embed`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_precision
from shotfit.commands.console import plural, print_json, to
from shotfit.errors import LEFT_OUT, first_few

__all__ = ["embed"]


def embed(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER",
            help="A folder DIR/CLASS/IMAGE, a manifest, or what else docs/data.md lists; or files, folders, archives, "
            "tables and patterns without labels.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file that is written: .npz, or .parquet (extra data).")],
    backbone: flags.Backbone = "mini",
    images: flags.ImagesDir = None,
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    read_as: flags.ReadAs = None,
    precision: flags.Precision = "auto",
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """Write the features of images to a file: image, label, part, error and the frozen model's features of length 1.

    Where the source has labels they are written, with the part that each image is in. An image that cannot be read is a
    row with its error, and the exit code is 4. Features are kept in the cache: a second time no picture is decoded.

    \b
    Examples:
      shotfit embed photos/ --out features.npz
      shotfit embed photos/ --out features.parquet --backbone ViT-B-16
      shotfit embed "more/*.png" photos.zip --out features.npz
    """
    from shotfit.data.listing import How
    from shotfit.fitting.features import write_features

    say = to(sys.stderr if as_json else sys.stdout)
    how = How(images, path_column, label_column, None, read_as)
    found = write_features(sources, out, backbone, how=how, precision=as_precision(precision), device=device)
    of = f" of {plural(found.classes, 'class', 'classes')}" if found.classes else ""
    say(f"{plural(found.images, 'image')}{of}: {found.dimensions} features each by {found.backbone}")
    if found.broken:
        say(f"not read: {plural(len(found.broken), 'image')} ({first_few(found.broken)})")
    say(f"written: {out}")
    if as_json:
        print_json(found.as_json())
    if found.broken:
        raise typer.Exit(LEFT_OUT)
