"""An ensemble: several fitted methods that answer together. `--method auto` makes one where held-out images ask for it.

    log p(c | image) = mean over members m of log softmax(logits_m / T_m)       [images, classes]

T_m is the temperature at which member m's probabilities are best on held-out images. What is frozen, and what was
learned, is the members' own; the image tower runs once for all that leave it alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, Images
from shotfit.errors import ShotfitError, UsageError
from shotfit.methods import find, in_file
from shotfit.methods.base import Method, option
from shotfit.methods.declared import Declared

__all__ = ["MOST", "Ensemble", "averaged"]

MOST = 3  # members; more than three of the shortlist change nothing


class Ensemble(Method):
    """Members that were fitted to the same images, with their temperatures."""

    name: ClassVar[str] = "ensemble"
    title: ClassVar[str] = "ensemble"
    paper: ClassVar[str] = "members chosen on held-out images"

    members: str = option("[]", "JSON: a list of the members' method, options and temperature")

    @classmethod
    def of(cls, fitted: Sequence[Method], temperatures: Sequence[float]) -> Ensemble:
        """The ensemble of fitted methods of one backbone and class list."""
        plain = [
            {"method": one.name, "options": one.options(), "temperature": temperature}
            for one, temperature in zip(fitted, temperatures, strict=True)
        ]
        ensemble = cls(json.dumps(plain))
        ensemble.attach(fitted[0].frozen, fitted[0].classes)
        ensemble.parts = list(fitted)
        for part in ensemble.parts:
            part.attach(ensemble.frozen, ensemble.classes)  # one frozen model, whose image tower runs once
        return ensemble

    def check(self) -> None:
        """Refuse a fit: only methods that are fitted make one."""
        raise UsageError("ensemble is made by --method auto, of methods that it has fitted: name auto, or a method.")

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Refuse, as `check` does."""
        self.check()

    def attach(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        """Make the members too; what they learned comes by `restore`."""
        super().attach(frozen, classes)
        try:
            plain: list[dict[str, Any]] = json.loads(self.members)
            if not isinstance(plain, list) or len(plain) > MOST:
                raise ValueError("no list, or too many members")
            if any(in_file(one["method"]) or one["method"] == self.name for one in plain):
                raise ValueError("a model runs no file that it names, and no member is an ensemble")
            self.parts = [find(one["method"])(**one["options"]) for one in plain]
            self.temperatures = [float(one["temperature"]) for one in plain]
            if not all(0 < temperature < math.inf for temperature in self.temperatures):
                raise ValueError("a temperature that is no number above 0")
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise ShotfitError("The ensemble's list of members cannot be read: fit the model again.") from error
        for part in self.parts:
            part.attach(frozen, classes)

    def logits(self, images: Images) -> Tensor:
        """[images, classes], log probabilities."""
        return averaged([part.logits(images) for part in self.parts], self.temperatures)

    def for_classes(self, classes: Sequence[ClassList]) -> Method:
        """Each member on another class list.

        Raises NewClassesError where one of them knows no other classes.
        """
        return Ensemble.of([part.for_classes(classes) for part in self.parts], self.temperatures)

    def bake(self) -> None:
        """The members are baked already."""

    def all_declared(self) -> dict[str, Declared] | None:
        """What the members declare, each under its number; None where one of them does not say."""
        if not self.parts:
            raise ShotfitError("The ensemble has no members")
        found: dict[str, Declared] = {}
        for number, part in enumerate(self.parts):
            own = part.all_declared()
            if own is None:
                return None
            # sizes that only the fit knew are the same in all members: they learned from the same images
            found |= {f"{number}.{key}": value for key, value in own.items()}
        return found

    def state(self) -> dict[str, Tensor]:
        """The members' tensors, each under its number."""
        return {
            f"{number}.{key}": value for number, part in enumerate(self.parts) for key, value in part.state().items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for number, part in enumerate(self.parts):
            start = f"{number}."
            part.restore({key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)})


def averaged(logits: Sequence[Tensor], temperatures: Sequence[float]) -> Tensor:
    """Mean log probabilities [images, classes] of several logits of that shape, each at its temperature."""
    parts = [(one / by).log_softmax(dim=1) for one, by in zip(logits, temperatures, strict=True)]
    return torch.stack(parts).mean(dim=0)
