"""`--method auto`: a shortlist of methods runs on the same held-out images, and the best, or an ensemble, is kept.

    shortlist     what runs, the simplest first
    decided       who wins

Every entrant is chosen and judged as a fit of its own is: by folds of the support, or by the validation part. The
score is the mean log probability at each entrant's best temperature. The simplest entrant within one standard error of
the best wins, by the differences image by image. An ensemble of the best two or three takes its place where it beats it
by more than one standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from shotfit.errors import ShotfitError
from shotfit.fitting.fitter import Setting
from shotfit.fitting.heldout import HeldOut, best_temperature, log_likelihoods, pooled, standard_error
from shotfit.fitting.selection import Candidate, Choice
from shotfit.methods import find
from shotfit.methods.base import Fold, Method
from shotfit.methods.ensemble import MOST, Ensemble, averaged

__all__ = ["ALONE", "AUTO", "OF_SEVERAL", "Entrant", "check_size", "decided", "refused_row", "shortlist"]

AUTO = "auto"  # in place of a method's name
# Chosen on the development sets; docs/log has the table. Methods that only look at stored features of center views.
OF_LABELS = ("zero_shot", "linear_probe", "taskres", "dualadapter")  # of several labels a picture
SHORTLIST = ("zero_shot", "linear_probe", "taskres", "dualadapter")
WITH_NEW_CLASSES = ("zero_shot", "clip_adapter", "coop")
OF_SEVERAL = "softcpt"  # of several tasks at once, beside a race for each
UP_TO = {"dualadapter": 3000}  # support images: it learns rows for each, so that its work grows with their square
ALONE = "dualadapter"  # where nothing can be held out: best of one shot on the mean, and above zero-shot everywhere


def shortlist(new_classes: bool, several_labels: bool = False) -> list[Method]:
    """The methods that run, or those of them that predict classes that they were not fitted to."""
    return [find(name)() for name in (OF_LABELS if several_labels else WITH_NEW_CLASSES if new_classes else SHORTLIST)]


def check_size(prototype: Method, images: int) -> None:
    """Refuse a method that would take most of a race's time with so many support images, where it gains nothing."""
    most = UP_TO.get(prototype.name, images)
    if images > most:
        raise ShotfitError(f"it takes long with more than {most:,} support images; --method {prototype.name} runs it")


@dataclass(frozen=True, eq=False)
class Entrant:
    """One method of a race: its choice, fitted to all, and what it says of held-out images (None: it diverged).

    lead: of an ensemble, its best member. spared: what it says where a third of the classes was spared, which decides
    in its place if new classes are asked for.
    """

    choice: Choice
    fitted: Method
    parts: Sequence[tuple[Fold, HeldOut | None]]
    lead: Entrant | None = None
    spared: HeldOut | None = None

    def held_out(self) -> HeldOut | None:
        """All of its parts as one; None where one of them diverged, or there are none."""
        return pooled([held for _, held in self.parts])


def decided(entrants: Sequence[Entrant]) -> tuple[Entrant, list[dict[str, Any]]]:
    """The winner, and a row of each entrant for the record: method, accuracy, score, what was tried and chosen."""
    spare = any(entrant.spared is not None for entrant in entrants)  # all are judged on the same images
    held = [entrant.spared if spare else entrant.held_out() for entrant in entrants]
    sizes = entrants[0].fitted.sizes
    judged = [number for number, found in enumerate(held) if found is not None]
    scores = {number: _score(held[number], sizes) for number in judged}
    rows = [_row(entrant, held[number], scores.get(number)) for number, entrant in enumerate(entrants)]
    if not scores:
        return entrants[0], rows
    order = sorted(scores, key=lambda number: -float(scores[number].mean()))
    first = min(number for number in order if not _better(scores[order[0]], scores[number]))
    winner = entrants[first]
    best: tuple[float, Entrant] | None = None
    if winner.fitted.judges_alone:  # an ensemble averages over classes that exclude each other
        return winner, rows
    for count in range(2, min(MOST, len(order)) + 1):
        together = _ensemble([entrants[number] for number in order[:count]], sizes)
        found = together.spared or together.held_out()
        assert found is not None
        score = _score(found, sizes)
        rows.append(_row(together, found, score))
        if _better(score, scores[first]) and (best is None or float(score.mean()) > best[0]):
            best = float(score.mean()), together
    return (winner if best is None else best[1]), rows


def _score(held: HeldOut | None, sizes: Sequence[int]) -> Tensor:
    assert held is not None
    return log_likelihoods(held.logits, held.labels, sizes)


def _better(one: Tensor, other: Tensor) -> bool:
    """Whether scores [images] are higher on the mean, by more than a standard error of the differences."""
    gain = one - other
    return float(gain.mean()) > standard_error(gain)


def _ensemble(members: Sequence[Entrant], sizes: Sequence[int]) -> Entrant:
    """The members as one, with what they say together of the same held-out images."""
    temperatures, parts, spared = [], [], [member.spared for member in members]
    for member in members:
        held = member.spared or member.held_out()
        assert held is not None
        temperatures.append(best_temperature(held.logits, held.labels, sizes))
    for columns in zip(*(member.parts for member in members), strict=True):
        fold, first = columns[0]
        assert first is not None
        logits = averaged([held.logits for _, held in columns if held is not None], temperatures)
        parts.append((fold, replace(first, logits=logits)))
    fitted = Ensemble.of([member.fitted for member in members], temperatures)
    names = "+".join(member.fitted.name for member in members)
    known = [held for held in spared if held is not None]
    both = replace(known[0], logits=averaged([held.logits for held in known], temperatures)) if known else None
    return Entrant(Choice(Candidate(fitted, Setting(), {"members": names}, 0)), fitted, parts, members[0], both)


def refused_row(prototype: Method, reason: str) -> dict[str, Any]:
    """The row of a method that could not be fitted, and why."""
    return {"method": prototype.name, "accuracy": None, "score": None, "chosen": {}, "refused": reason}


def _row(entrant: Entrant, held: HeldOut | None, score: Tensor | None) -> dict[str, Any]:
    right = None if held is None else held.quality(entrant.fitted.sizes)
    score_of_all = None if score is None else float(score.mean())
    row: dict[str, Any] = {"method": entrant.fitted.name, "accuracy": right, "score": score_of_all}
    return row | entrant.choice.record()
