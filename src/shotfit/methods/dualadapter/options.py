"""The options of DualAdapter, what they may be, and what they mean together."""

from __future__ import annotations

from shotfit.errors import UsageError
from shotfit.methods.base import Method, option
from shotfit.methods.coefficients import parse_grid
from shotfit.methods.dualadapter.paired_templates import PAIRED_TEMPLATES

__all__ = ["NEGATIVE", "POSITIVE", "DualAdapterOptions", "given_templates"]

POSITIVE, NEGATIVE = ("template", "description", "keys"), ("negative", "negative_keys")  # residuals


class DualAdapterOptions(Method):
    """The options alone; `DualAdapter` is the method."""

    revision: str = option(
        "dualadapter", "how images are trusted; simnl: softer, and for negatives too", choices=("dualadapter", "simnl")
    )
    training_free: bool = option(False, "leave all residuals at zero")
    template_set: str = option(
        "task", "templates, positive and negative, of a data set; task: its own", choices=("task", *PAIRED_TEMPLATES)
    )
    negative_templates: str = option("", "negative templates, separated by |; empty: made of the positive ones")
    descriptions: str = option("", "JSON file of class name: list of sentences; empty: the templates stand for them")
    paths: str = option("both", "classifiers in use", choices=("both", "positive", "negative"))
    cache: bool = option(True, "use the caches of images; false: text alone (alpha = 0)")
    beta: float = option(1.0, "sharpness of the caches in training, and where nothing is searched", at_least=0)
    alpha: float = option(3.0, "weight of the caches in training, and where nothing is searched", at_least=0)
    positive_weight: float = option(
        0.75, "lambda, weight of the positive classifier, in training and where nothing is searched",
        at_least=0, at_most=1,
    )  # fmt: skip
    search: bool = option(True, "search beta, alpha and lambda on validation images")
    beta_grid: str = option("0,7,28", "values of beta that are tried: low,high,steps, high not reached")
    alpha_grid: str = option("0,7,28", "values of alpha that are tried, likewise")
    lambda_grid: str = option("0.6,1,8", "values of lambda that are tried, likewise")
    refinement: bool = option(True, "weight the images of a class by how alike they are to its others")
    refinement_temperature: float = option(0.0, "softness of these weights; 0: the revision's", at_least=0)
    left_out: int = option(1, "most similar classes that are no negatives, the class itself included", at_least=1)
    residuals: str = option(
        "template,description,keys,negative,negative_keys", "residuals that are trained, separated by commas"
    )
    residual_per: str = option("class", "what has a residual in the caches", choices=("class", "shot"))
    negative_rate: float = option(5.0, "learning rate of the negative residuals, in that of the positive ones", above=0)
    eps: float = option(1e-3, "AdamW's epsilon, which decides the size of early steps", above=0)
    description_weight: float = option(0.55, "share of the descriptions in the text classifier", at_least=0, at_most=1)
    negative_scale: float = option(0.15, "weight of the negative text classifier", at_least=0)
    temperature: float = option(0.0, "factor of the text classifiers' cosines; 0: the backbone's own", at_least=0)
    rerank_weight: float = option(1.0, "weight of the loss that keeps the own class nearest", at_least=0)
    rerank_neighbours: int = option(3, "nearest classes that it looks at", at_least=1)
    rerank_scale: float = option(4.0, "divisor of its margin", above=0)
    consistency_weight: float = option(
        8.0, "weight of the loss that keeps the text classifier where it was", at_least=0
    )
    consistency_axis: str = option("class", "what it compares; dimension: official", choices=("class", "dimension"))

    def _check(self) -> None:
        super()._check()
        self.grids()
        self.trained()
        given_templates(self.negative_templates)

    def grids(self) -> tuple[list[float], list[float], list[float]]:
        """Axes of the search: beta, alpha, lambda."""
        betas = parse_grid(f"{self.name}: beta_grid", self.beta_grid)
        alphas = parse_grid(f"{self.name}: alpha_grid", self.alpha_grid)
        weights = parse_grid(f"{self.name}: lambda_grid", self.lambda_grid, at_most=1.0)
        fixed = self.fixed_lambda()
        return betas if self.cache else [0.0], alphas if self.cache else [0.0], weights if fixed is None else [fixed]

    def fixed_lambda(self) -> float | None:
        """The weight of the positive classifier where the paths fix it."""
        return {"both": None, "positive": 1.0, "negative": 0.0}[self.paths]

    def trained(self) -> list[str]:
        """Residuals that are trained: those asked for of the classifiers in use."""
        asked = [name.strip() for name in self.residuals.split(",") if name.strip()]
        unknown = [name for name in asked if name not in POSITIVE + NEGATIVE]
        if unknown:
            raise UsageError(
                f"{self.name}: residuals names {unknown[0]!r}; expected any of {', '.join(POSITIVE + NEGATIVE)}, "
                "separated by commas."
            )
        used = (POSITIVE if self.paths != "negative" else ()) + (NEGATIVE if self.paths != "positive" else ())
        if self.training_free:
            return []
        return [name for name in used if name in asked and (self.cache or not name.endswith("keys"))]


def given_templates(text: str) -> tuple[str, ...]:
    """The templates between the | of an option."""
    templates = tuple(part.strip() for part in text.split("|")) if text else ()
    for template in templates:
        if template.count("{}") != 1:
            raise UsageError(
                f"dualadapter: negative_templates holds {template!r}; expected templates with {{}} exactly once "
                "in each, separated by |, as in 'a photo without {}.|not {}.'"
            )
    return templates
