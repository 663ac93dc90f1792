"""Give the boxes of a file the labels that a model says, and write the file again.

relabel("my-model", "detections.json", "relabelled.json")                    # COCO, VOC, YOLO, Label Studio
for number, said in predict_boxes(model, read_boxes(Path("detections.json"))): ...
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shotfit.calls import checked
from shotfit.data.detections.boxes import Detections, Labels, crops
from shotfit.data.detections.reading import read_boxes
from shotfit.data.pictures import Picture
from shotfit.data.rows import check_file
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import can_hold
from shotfit.fitting.asked import NOTHING_MORE, Asked
from shotfit.fitting.model import Model, load
from shotfit.fitting.padding import padding_for
from shotfit.fitting.predictions import Prediction
from shotfit.fitting.several_labels import refuse
from shotfit.progress import track

__all__ = ["Relabelled", "check_place", "predict_boxes", "relabel", "write_labels"]


@dataclass(frozen=True)
class Relabelled:
    """What was done: the file or folder, how many boxes got a label, and why others stay as they are, a sentence each.

    One sentence stands for all boxes that it holds for.
    """

    out: Path
    labelled: int
    kept: int
    reasons: tuple[str, ...]


@checked
def relabel(
    model: Model | str | Path,
    boxes: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    padding: float | None = None,
    read_as: str | None = None,
    strict: bool = False,
    lenient: bool = False,
    device: str = "auto",
) -> Relabelled:
    """Write a file of boxes again, with the label and the score that a model gives each; all else stays as it was.

    model: a model, or the folder of one; one of several tasks as `model.for_task(name)`. boxes: a COCO or Label Studio
    file, COCO's results, VOC's XML or a folder of it, YOLO's data.yaml or a folder of label files. out: a file, or for
    a folder a new one. images: the folder of the pictures; for COCO's results also the COCO file that lists them.
    padding: what each box gets around it, a share of its sides; by default what the model was fitted with. read_as: the
    format. strict: stop at the first box that cannot be judged; otherwise it stays as it is. lenient: read what is
    there of pictures that are cut off. device: as in `fit`, for a folder.

    Raises ShotfitError for a file that cannot be read as boxes, and UsageError for another padding than the model's.

    Example (needs a saved model):
        relabel("shotfit-model", "detections.json", "relabelled.json").labelled
    """
    opened = model if isinstance(model, Model) else load(model, device=device)
    around = padding_for(opened.record, padding)
    found = read_boxes(Path(boxes), None if images is None else Path(images), read_as)
    check_place(Path(out), found)
    said = predict_boxes(opened, found, around, strict=strict, lenient=lenient)
    return write_labels(Path(out), found, opened.one_task().names, said)


def predict_boxes(
    model: Model,
    found: Detections,
    padding: float = 0.0,
    top: int = 1,
    strict: bool = False,
    asked: Asked = NOTHING_MORE,
    lenient: bool = False,
) -> Iterator[tuple[int, Prediction]]:
    """Each box by its number with its prediction, picture by picture, so that a picture is decoded once for its boxes.

    A box that cannot be judged has a prediction with an `error`; `strict` stops there. The rest as `Model.predict`.

    Raises UsageError for a model of several labels a picture, as a box has one.
    """
    if model.several_labels:
        raise refuse("Labels of boxes")
    waiting = deque[tuple[int, Prediction | None]]()

    def pictures() -> Iterator[Picture]:
        for number, picture, why in crops(found, padding):
            if why and strict:
                raise ShotfitError(why)
            waiting.append((number, Prediction(str(picture), (), (), error=why, picture=picture) if why else None))
            if not why:
                yield picture

    def told() -> Iterator[tuple[int, Prediction]]:
        for said in model.predict_each(pictures(), top, not strict, asked, lenient):
            while (first := waiting.popleft())[1] is not None:
                yield first[0], first[1]
            yield first[0], said
        yield from ((number, said) for number, said in waiting if said is not None)

    return track(told(), "Predicting boxes", len(found))


def write_labels(
    out: Path,
    found: Detections,
    names: Iterable[str],
    said: Iterable[tuple[int, Prediction]],
    tell: Callable[[str], None] = lambda _: None,
) -> Relabelled:
    """Write the file of the boxes with the best class of each prediction.

    names: of the model's classes. tell: told each reason why boxes stay as they are, once.
    """
    names = tuple(names)
    place = {name: number for number, name in enumerate(names)}
    chosen, scores = np.full(len(found), -1, dtype=np.int32), np.zeros(len(found))
    reasons: dict[str, None] = {}
    for number, one in said:
        if one.error is None:
            chosen[number], scores[number] = place[one.labels[0]], one.probabilities[0]
        elif one.error not in reasons:
            reasons[one.error] = None
            tell(one.error)
    found.write(out, Labels(names, chosen, scores))
    labelled = int((chosen >= 0).sum())
    return Relabelled(out, labelled, len(found) - labelled, tuple(reasons))


def check_place(out: Path, found: Detections) -> None:
    """Refuse a place where the boxes cannot be written, before anything is computed. Raises UsageError."""
    if not found.folder:
        check_file(out)
    elif out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"--out {out} is there already; boxes of a folder are written to a new one: name that.")
    elif not can_hold(out):
        raise UsageError(f"--out {out} cannot be made there: name a folder where you may write.")
