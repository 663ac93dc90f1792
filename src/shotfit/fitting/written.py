"""Predictions as annotation tools take them in: pure functions from predictions to text.

    for line in label_studio(predictions): print(line)          # a JSON file to import into Label Studio
    labels, data = fiftyone(predictions)                         # labels.json and data.json of a folder

`shotfit` reads both back as labels (`data/formats/`). Pictures that could not be read are left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from shotfit.fitting.predictions import Prediction

__all__ = ["fiftyone", "label_studio"]

_DIGITS = 6  # of a probability


def label_studio(
    predictions: Iterable[Prediction], choice: str = "choice", image: str = "image", version: str = "shotfit"
) -> Iterator[str]:
    """The lines of a JSON list of Label Studio's tasks, each with its best class as a prediction, as soon as known.

    choice, image: the names of the <Choices> and the <Image> in the project's labelling interface. Pictures are named
    as files of local storage (`/data/local-files/?d=...`) by their absolute paths. version: the model_version there.

    >>> list(label_studio([]))
    ['[', ']']
    """
    yield "["
    before = ""  # a line waits for the comma that the next one needs
    for prediction in predictions:
        if prediction.error is not None:
            continue
        if before:
            yield f"{before},"
        count = len(prediction.labels) if prediction.several_labels else 1
        score = round(min(prediction.probabilities[:count], default=0.0), _DIGITS)
        value = {"choices": list(prediction.labels[:count])}
        result = {"from_name": choice, "to_name": image, "type": "choices", "value": value}
        task = {
            "data": {image: f"/data/local-files/?d={quote(os.fsencode(os.path.abspath(prediction.source)))}"},  # noqa: PTH100
            "predictions": [{"model_version": version, "score": score, "result": [result]}],
        }
        before = json.dumps(task)
    if before:
        yield before
    yield "]"


def fiftyone(predictions: Iterable[Prediction]) -> tuple[str, str]:
    """The texts of labels.json and data.json, which in one folder are a FiftyOneImageClassificationDataset.

    labels.json has the best class of each picture with its confidence, data.json the absolute path of each: no picture
    is copied. The names of both are the paths without their endings, with a number where two would be alike.
    """
    labels: dict[str, dict[str, object]] = {}
    data: dict[str, str] = {}
    for prediction in predictions:
        if prediction.error is not None:
            continue
        path = os.path.abspath(prediction.source)  # noqa: PTH100
        stem, ending = os.path.splitext(prediction.source)  # noqa: PTH122
        name, number = stem, 1
        while name in labels:
            number += 1
            name = f"{stem}-{number}"
        labels[name] = {"label": prediction.labels[0], "confidence": round(prediction.probabilities[0], _DIGITS)}
        data[f"{name}{ending}"] = path
    return json.dumps({"labels": labels}), json.dumps(data)
