"""`--method auto`: a shortlist of methods runs on the same held-out images, and the best, or an ensemble, is kept.

    shortlist     what runs, the simplest first
    decided       who wins
    in_views      the winner once more, with random views of each image

Every entrant is chosen and judged as a fit of its own is: by folds of the support, or by the validation part. The
score is the mean log probability at each entrant's best temperature. The simplest entrant within one standard error of
the best wins, by the differences image by image. An ensemble of the best two or three takes its place where it beats it
by more than one standard error. What won on center views is fitted once more to random views too, and stays so where
that is better by more than one standard error: only then are views worth their encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from shotfit.errors import DivergedError, ShotfitError
from shotfit.fitting.fitter import Setting
from shotfit.fitting.heldout import HeldOut, best_temperature, log_likelihoods, pooled, standard_error
from shotfit.fitting.selection import Candidate, Choice, Judge, as_found, hold_out
from shotfit.methods import find
from shotfit.methods.base import Fold, Method
from shotfit.methods.ensemble import MOST, Ensemble, averaged
from shotfit.methods.recipe import VIEWS

__all__ = [
    "ALONE",
    "AUTO",
    "OF_SEVERAL",
    "VIEWED",
    "Entrant",
    "better_in_views",
    "check_size",
    "decided",
    "entry_of",
    "in_views",
    "refused_row",
    "shortlist",
]

AUTO = "auto"  # in place of a method's name
# Chosen on the development sets; docs/log has the table. Methods that only look at stored features of center views.
OF_LABELS = ("zero_shot", "linear_probe", "taskres", "dualadapter")  # of several labels a picture
SHORTLIST = ("zero_shot", "linear_probe", "taskres", "dualadapter")
WITH_NEW_CLASSES = ("zero_shot", "clip_adapter", "coop")
OF_SEVERAL = "softcpt"  # of several tasks at once, beside a race for each
UP_TO = {"dualadapter": 3000}  # support images: it learns rows for each, so that its work grows with their square
VIEWED = 1000  # support images: of more, views cost most of the time and change little
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

    members: of an ensemble, the best first. spared: what it says where a third of the classes was spared, which decides
    in its place if new classes are asked for.
    """

    choice: Choice
    fitted: Method
    parts: Sequence[tuple[Fold, HeldOut | None]]
    members: tuple[Entrant, ...] = ()
    spared: HeldOut | None = None

    @property
    def lead(self) -> Entrant:
        """The best member of an ensemble; else itself."""
        return self.members[0] if self.members else self

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


def entry_of(judge: Judge, choice: Choice, what: str, check: bool = True) -> Entrant:
    """What was chosen, fitted to all, and with `check` what it says of images that are held out from it."""
    chosen, validation = choice.candidate, judge.validation
    again = len(validation.folds) if check and validation.source == "cross-validation" else 0
    fitted = judge.fitter.fit(chosen.prototype, judge.items, validation, what, chosen.setting, trainings=1 + again)
    return Entrant(choice, fitted, hold_out(judge, chosen, fitted) if check else [])


def in_views(judge: Judge, winner: Entrant) -> Entrant | None:
    """The winner fitted to random views of each image too, with all that was chosen left as it is; None: it diverged.

    judge: of a fitter with views.
    """
    if winner.members:
        members = [in_views(judge, member) for member in winner.members]
        found = [member for member in members if member is not None and member.held_out() is not None]
        return _ensemble(found, judge.fitter.sizes) if len(found) == len(members) else None
    chosen = replace(winner.choice, candidate=as_found(winner.choice.candidate, winner.fitted))
    try:
        return replace(entry_of(judge, chosen, f"Fitting {winner.fitted.name} to random views"), choice=winner.choice)
    except DivergedError:
        return None


def better_in_views(winner: Entrant, viewed: Entrant | None) -> tuple[bool, dict[str, Any]]:
    """Whether the winner is better where it has seen random views, and the row of that for the record."""
    sizes, held = winner.fitted.sizes, None if viewed is None else viewed.held_out()
    score = None if held is None else _score(held, sizes)
    row = _row(viewed or winner, held, score)
    row["chosen"] = row["chosen"] | {"views": VIEWS}
    return score is not None and _better(score, _score(winner.held_out(), sizes)), row


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
    return Entrant(Choice(Candidate(fitted, Setting(), {"members": names}, 0)), fitted, parts, tuple(members), both)


def refused_row(prototype: Method, reason: str) -> dict[str, Any]:
    """The row of a method that could not be fitted, and why."""
    return {"method": prototype.name, "accuracy": None, "score": None, "chosen": {}, "refused": reason}


def _row(entrant: Entrant, held: HeldOut | None, score: Tensor | None) -> dict[str, Any]:
    right = None if held is None else held.quality(entrant.fitted.sizes)
    score_of_all = None if score is None else float(score.mean())
    row: dict[str, Any] = {"method": entrant.fitted.name, "accuracy": right, "score": score_of_all}
    return row | entrant.choice.record()
