"""Class names that a text tower cannot use: those that say nothing, and those that it reads alike.

    for sentence in shared_texts(frozen, classes): print(sentence)

Two classes whose prompts become the same tokens, or nearly the same text features, always get the same probability
from zero-shot, and hardly another from any method that starts from texts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from shotfit.data.namecheck import IN_FILE, naming_advice, without_meaning
from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen
from shotfit.errors import NamesWarning, first_few
from shotfit.methods.class_features import class_features

__all__ = ["NEAR", "shared_texts", "warn_of_names"]

NEAR = 0.999
"""Cosine from which two classes count as read alike: apart by two logits at most at CLIP's scale, mostly by none. The
closest pair of different names in Caltech101 has 0.967 with mini."""
ROWS = 1024  # classes that are compared with all others at once


def warn_of_names(frozen: Frozen, classes: Sequence[ClassList], meaning: bool = False, where: str = IN_FILE) -> None:
    """Give each sentence of `shared_texts` as a warning; with `meaning`, of names that say nothing too.

    where: a better name can be given, as the end of the sentence.
    """
    for task in classes if meaning else ():
        found = without_meaning(task.names)
        if found:
            warnings.warn(naming_advice(found, len(set(task.names)), where), NamesWarning, stacklevel=4)
    for sentence in shared_texts(frozen, classes, where):
        warnings.warn(sentence, NamesWarning, stacklevel=4)


def shared_texts(frozen: Frozen, classes: Sequence[ClassList], where: str = IN_FILE) -> list[str]:
    """A sentence for each task with classes that have the same, or nearly the same, text features.

    Their features come from the store, where a fit looks for them too.
    """
    told = []
    for task in classes:
        groups = _groups(class_features(frozen, [task]), task.names)
        if groups:
            shown = first_few([" and ".join(repr(name) for name in group[:3]) for group in groups])
            several = sum(map(len, groups))
            told.append(
                f"the text tower of {frozen.backbone.name or 'this backbone'} reads {several} of {len(task.names):,} "
                f"classes of {task.task} like another ({shown}), so their texts do not tell them apart: give each its "
                f"own name in words that it knows{where}"
            )
    return told


def _groups(features: Tensor, names: Sequence[str]) -> list[list[str]]:
    """Names whose features [classes, embed], of unit length, are near those of an earlier class, with that one."""
    first: dict[int, list[str]] = {}
    home = list(range(len(names)))  # of each class, the earliest that it is near to
    for start in range(0, len(names), ROWS):
        near = (features[start : start + ROWS] @ features.T > NEAR).cpu()  # [rows, classes]
        rows, columns = near.tril(start - 1).nonzero(as_tuple=True)  # earlier classes alone
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            home[start + row] = min(home[start + row], home[column])
    for index, earliest in enumerate(home):
        if earliest != index:
            first.setdefault(earliest, [names[earliest]]).append(names[index])
    return list(first.values())
