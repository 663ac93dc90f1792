"""`shotfit embed`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_bands, as_dtype, as_precision, as_share, as_window
from shotfit.commands.console import print_json, to
from shotfit.commands.engines import joined
from shotfit.commands.into_parts import is_parts, refuse, say_parts
from shotfit.errors import LEFT_OUT, first_few, plural

__all__ = ["embed"]


def embed(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER",
            help="A folder DIR/CLASS/IMAGE, a manifest, or what else docs/data.md lists; or files, folders, archives, "
            "tables, patterns and addresses (s3://, https://) without labels.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The file that is written: .npz, or .parquet (extra data). A name without an ending is a folder of "
            "parts, for any number of images: run it again to go on."
        ),
    ],
    backbone: flags.Backbone = "mini",
    text: flags.Text = None,
    architecture: flags.Architecture = None,
    images: flags.ImagesDir = None,
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    read_as: flags.ReadAs = None,
    frames: flags.Frames = None,
    fps: flags.Fps = None,
    window: flags.Window = None,
    bands: flags.Bands = None,
    several_labels: flags.SeveralLabels = False,
    part: flags.PartOf = None,
    part_size: flags.PartSize = None,
    engine: flags.Engine = None,
    address: flags.Address = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="With --out DIR: features as float32, or as float16.", show_default="float32"),
    ] = None,
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
      shotfit embed photos/ --out features.parquet --backbone ViT-B/16
      shotfit embed "more/*.png" photos.zip --out features.npz
      shotfit embed archive/ --out features --dtype float16     features/part-00000.parquet, ..., without labels
      shotfit embed s3://bucket/photos/ --out features
      shotfit embed archive/ --out features --engine ray --address auto
    """
    from shotfit.checkpoints.asked import with_asked
    from shotfit.data.listing import How
    from shotfit.fitting.features import write_features

    backbone = with_asked(backbone, text, architecture)
    if is_parts(out, None):
        given: dict[str, object] = {
            "--label-column": label_column, "--read-as": read_as, "--several-labels": several_labels,
            "--frames": frames, "--fps": fps, "--window": window, "--bands": bands,
        }  # fmt: skip
        refuse(out, given, True)
        from shotfit.data.finding import lines_of
        from shotfit.data.lists import Paths
        from shotfit.data.parts import SIZE
        from shotfit.fitting.parts import check_call, embed_parts

        share = as_share(part)
        check_call(out, sources, share)
        with joined(engine, address) as cluster:
            done = embed_parts(
                sources, out, backbone, share=share, part_size=SIZE if part_size is None else part_size,
                precision=as_precision(precision), device=device, dtype=as_dtype(dtype or "float32"),
                listed=lines_of(sys.stdin), paths=Paths(images, path_column),
                engine=None if cluster is None else cluster.engine(),
            )  # fmt: skip
        if as_json:
            print_json(done.as_json())
        say_parts(done, "read")
        return
    given = {"--part": part, "--part-size": part_size, "--engine": engine, "--address": address, "--dtype": dtype}
    refuse(out, given, False)
    say = to(sys.stderr if as_json else sys.stdout)
    how = How(
        images, path_column, label_column, None, read_as, None, frames, fps, as_window(window), as_bands(bands),
        several_labels,
    )  # fmt: skip
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
