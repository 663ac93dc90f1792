"""Arguments and flags that several commands share, each with its help and what it is by default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import completion

__all__ = [
    "Backbone",
    "Bands",
    "ClassNames",
    "Coverage",
    "DataSets",
    "Device",
    "Epochs",
    "Folder",
    "FolderOrTasks",
    "Fps",
    "Frames",
    "GroupColumn",
    "ImagesDir",
    "Json",
    "LabelColumn",
    "Lenient",
    "ListForm",
    "ListOut",
    "Memory",
    "MethodFile",
    "Model",
    "ModelBackbone",
    "ModelPrecision",
    "Options",
    "Padding",
    "PartOf",
    "PartSize",
    "PathColumn",
    "Plot",
    "Precision",
    "Rate",
    "ReadAs",
    "Recipe",
    "Report",
    "SeveralLabels",
    "SkipBroken",
    "Steps",
    "Tasks",
    "Templates",
    "TrustBackbone",
    "ValidationImages",
    "Views",
    "Window",
    "Without",
]

Folder = Annotated[
    Path, typer.Argument(help="A folder DIR/CLASS/IMAGE, a CSV manifest, or what else docs/data.md lists.")
]
FolderOrTasks = Annotated[
    Path | None,
    typer.Argument(
        help="A folder DIR/CLASS/IMAGE, a CSV manifest, or what else docs/data.md lists.", show_default=False
    ),
]
DataSets = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[FOLDER]...",
        help="Data sets: folders DIR/CLASS/IMAGE, CSV manifests, and what else docs/data.md lists.",
        show_default=False,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE", help="Draw it too: FILE.svg or FILE.png (extra `report`).", show_default="none"
    ),
]
Tasks = Annotated[
    Path | None, typer.Option("--tasks", help="A task list, tasks.toml, in place of a folder.", show_default="none")
]
Backbone = Annotated[
    str,
    typer.Option(
        help="The frozen model: a name (`shotfit backbones`), a folder, a file, a Hugging Face id, "
        "open_clip:NAME@WEIGHTS, transformers:ID, or FILE.py:FUNCTION for encoders of your own.",
        autocompletion=completion.backbones,
    ),
]
Text = Annotated[
    str | None,
    typer.Option(
        "--text",
        help="How the backbone reads texts: canonical (lower case, no punctuation) or plain (as they are).",
        show_default="as it was trained",
    ),
]
Architecture = Annotated[
    str | None,
    typer.Option(
        "--architecture",
        help="What a --backbone that is a file of weights alone is, by open_clip's name, such as ViT-B-32.",
        show_default="by the files beside it",
    ),
]
Templates = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        help='Prompt with {} for the class name, or "ensemble"; may be repeated.',
        show_default='the task\'s, else "a photo of a {}."',
    ),
]
ClassNames = Annotated[
    Path | None, typer.Option(help="A classes.toml with class names and templates.", show_default="DIR/classes.toml")
]
ImagesDir = Annotated[
    Path | None, typer.Option("--images", help="Where a manifest's paths begin.", show_default="beside it")
]
PathColumn = Annotated[
    str | None,
    typer.Option(help="The column, or key, that names the image.", show_default="path, file_name, ..."),
]
LabelColumn = Annotated[
    str | None, typer.Option(help="The column, or key, that names the class.", show_default="label, class, ...")
]
PartOf = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="I/N",
        help="With --out DIR: do share I of N (1 to N), for as many processes that write into one DIR.",
        show_default="all",
    ),
]
PartSize = Annotated[
    int | None,
    typer.Option("--part-size", help="With --out DIR: pictures of a part, at most.", show_default="512"),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="ray",
        help="With --out DIR: ray runs the parts on the workers of a Ray cluster (extra ray).",
        show_default="threads of this process",
        autocompletion=completion.choices("ray"),
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="With --engine ray: the cluster that this machine belongs to, or auto.",
        show_default="a new one on this machine",
    ),
]
ReadAs = Annotated[
    str | None,
    typer.Option(
        "--read-as", metavar="FORMAT", help="The format of the data; docs/data.md lists them.", show_default="found out"
    ),
]
GroupColumn = Annotated[
    str | None,
    typer.Option(
        help="A manifest's column of groups (patient, track, shop): the test part and checks take whole groups.",
        show_default="none",
    ),
]
Padding = Annotated[
    float | None,
    typer.Option(
        "--padding",
        metavar="SHARE",
        help="What each box gets around it, a share of its sides such as 0.1, where images are boxes.",
        show_default="none",
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        help="Frames of each clip that are looked at; a GIF of several frames is a clip then.", show_default="8"
    ),
]
Fps = Annotated[
    float | None,
    typer.Option(help="In place of --frames: frames of each second of a clip.", show_default="none"),
]
Window = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="Levels that become black and white, of pictures of more than 8 bits (16-bit, DICOM, TIFF bands). "
        "The model keeps it.",
        show_default="docs/medical-and-aerial.md",
    ),
]
Bands = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="Bands of TIFFs that become red, green and blue, or one that becomes gray, from 1 (extra geo). The model "
        "keeps them.",
        show_default="the first three",
    ),
]
SeveralLabels = Annotated[
    bool,
    typer.Option(
        "--several-labels",
        help="A picture may have several labels, or none: cat|dog in a manifest, a list, or a column of 0 and 1 a "
        "class.",
        show_default="off",
    ),
]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Leave unreadable images out instead of stopping.", show_default="off")
]
Lenient = Annotated[
    bool,
    typer.Option(
        "--lenient", help="Read what is there of images that are cut off, and fill the rest.", show_default="off"
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE", help="Write a report too, one HTML page (extra `report`).", show_default="none"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.", show_default="off")]
ListForm = Annotated[
    str | None,
    typer.Option("--format", help="table, csv or json.", show_default="the ending of --out, else table"),
]
ListOut = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Write the list to this file: .csv, .json or .txt (a table).", show_default="standard output"
    ),
]
MethodFile = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="FILE:CLASS",
        help="The method's file, of a model that was fitted by one; it is run.",
        show_default="an installed method",
    ),
]
Model = Annotated[
    Path, typer.Argument(help="The folder that `shotfit fit` wrote, or hf://owner/name[@revision] for one on the hub.")
]
ModelBackbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="The model's backbone, or where it is now; needed for one that was a file or folder.",
        show_default="the recorded name",
    ),
]
TrustBackbone = Annotated[
    bool,
    typer.Option(
        "--trust-backbone",
        help="Open or fetch the backbone that the model names, whatever it is. Without it, no path that a model names "
        "is opened and the network is not asked.",
        show_default="off",
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="OPTION=VALUE",
        help="An option of the method; may be repeated.",
        show_default="those of `shotfit show METHOD`",
    ),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of training.", show_default="the method's")]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Steps of training, in place of epochs.", show_default="chosen, or the method's epochs"),
]
Recipe = Annotated[
    str,
    typer.Option(
        help="auto chooses rate, length and options on held-out images; paper is the published recipe.",
        autocompletion=completion.choices("auto", "paper"),
    ),
]
Rate = Annotated[float | None, typer.Option("--lr", help="Learning rate of training.", show_default="the method's")]
Views = Annotated[
    str | None,
    typer.Option(
        help="Random views an image, or center, or fresh (a new crop each step).", show_default="the method's"
    ),
]
ValidationImages = Annotated[
    str, typer.Option("--validation", help="Images of a validation part to select on: few (four a class) or full.")
]
Memory = Annotated[
    str | None,
    typer.Option(help="Bound on what a training step keeps of the towers, such as 500MB or 4GB.", show_default="none"),
]
Precision = Annotated[
    str,
    typer.Option(
        help="The towers compute in float32, bfloat16, int8 (matrices in 8 bits, on a CPU), or auto: whichever of the "
        "first two is fast here."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="The towers run on cpu, cuda, cuda:1, mps, or auto: a GPU of CUDA if there is one.",
        autocompletion=completion.choices("auto", "cpu", "cuda", "mps"),
    ),
]
ModelPrecision = Annotated[
    str | None,
    typer.Option("--precision", help="The towers compute in float32, bfloat16 or int8.", show_default="as fitted"),
]
Coverage = Annotated[
    float | None,
    typer.Option(
        help="Sets of classes that hold the true one of this share of images, such as 0.95.", show_default="no sets"
    ),
]
Without = Annotated[
    str | None,
    typer.Option(
        metavar="SAVINGS",
        help="Savings to do without, separated by commas, for comparison: frozen_beginning, cut, shared, read_alone, "
        "replaced, silu, reduced_images, replayed, absent_tasks (all exact but reduced_images).",
        show_default="none",
    ),
]
