"""Prompt templates in pairs: what a photo shows, and what it does not.

The pairs of the data sets are those of Zhang et al., "Negative Yields Positive", arXiv 2403.12964. For any other
template a negative one is made of its words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from shotfit.data.tasks import ClassList
from shotfit.data.templates import TEMPLATE_SETS

__all__ = ["GENERAL_NEGATIVE", "PAIRED_TEMPLATES", "negated", "with_templates"]

GENERAL_NEGATIVE = "a photo without {}."

_PLAIN = (("a photo of a {}.",), (GENERAL_NEGATIVE,))

PAIRED_TEMPLATES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "caltech101": _PLAIN,
    "sun397": _PLAIN,
    "dtd": (("{} texture.",), ("not {} texture.",)),
    "eurosat": (
        ("a centered satellite photo of {}.", "A top-down view of {} arranged in a pattern."),
        ("a centered satellite photo without {}.", "A top-down view without {} arranged in a pattern."),
    ),
    "fgvc": (("a photo of a {}, a type of aircraft.",), ("a photo without {}, a type of aircraft.",)),
    "food101": (("a photo of {}, a type of food.",), ("a photo without {}, a type of food.",)),
    "oxford_flowers": (("a photo of a {}, a type of flower.",), ("a photo without {}, a type of flower.",)),
    "oxford_pets": (("a photo of a {}, a type of pet.",), ("a photo without {}, a type of pet.",)),
    "stanford_cars": (
        ("a photo of a {}.", "A {} featuring a wide range of color options for easy selection."),
        ("a photo of no {}.", "A non-{} featuring a wide range of color options for easy selection."),
    ),
    # The official second negative of ucf101 is its second positive, word for word, and is left out.
    "ucf101": (
        ("a photo of a person doing {}.", "A black and white photo of a {} in motion."),
        ("a photo of a person not doing {}.",),
    ),
    "imagenet": (
        (
            *TEMPLATE_SETS["ensemble"][:-1],
            "An image of a {} with bright and natural lighting.",
        ),
        (
            "itap without any {}.",
            "a bad photo with no {} in it.",
            "a origami piece that isn't a {}.",
            "a photo with no large {}.",
            "a video game scene without a {}.",
            "art that doesn't include a {}.",
            "a photo with no small {}.",
            "A landscape devoid of any {}.",
            "An image completely lacking a {}.",
            "A scene with no trace of {}.",
            "An empty space without any {}.",
            "A picture where {} is conspicuously absent.",
            "A setting that is free from any {}.",
            "A photo without a single {} in sight.",
        ),
    ),
}
"""Positive and negative templates by data set."""

_OF = re.compile(r"\bof (a |an |the )?(?=\{\})")


def negated(templates: Sequence[str]) -> tuple[str, ...]:
    """A negative template for each positive one, each once.

    "of a {}" becomes "without {}", and a template that begins with the name begins with "not". Of any other the general
    negative is taken.

    >>> negated(["a photo of a {}, a type of flower.", "{} texture.", "a origami {}."])
    ('a photo without {}, a type of flower.', 'not {} texture.', 'a photo without {}.')
    """
    return tuple(dict.fromkeys(_negated(template) for template in templates))


def _negated(template: str) -> str:
    if _OF.search(template):
        return _OF.sub("without ", template)
    return f"not {template}" if template.startswith("{}") else GENERAL_NEGATIVE


def with_templates(classes: ClassList, templates: Sequence[str]) -> ClassList:
    """The same classes in other templates.

    Raises ShotfitError for a template without exactly one `{}`.
    """
    return ClassList(classes.task, classes.names, tuple(templates))
