"""How far probabilities, prediction sets and unknown marks can be trusted: the figures of docs/trust.md.

    python -m benchmarks.trust --data data/caltech101 data/dtd --methods linear_probe,tip_adapter_f --seeds 1,2,3
    python -m benchmarks.trust --data data/caltech101 --methods linear_probe --seeds 1 --open-set

Prints a JSON line for each data set, method and seed, and for each method one over all of them. calibration: the error
in 15 bins and the log loss on the test part, as the logits are and calibrated; `limit`, the 95 % quantile of the error
of a calibrated model with the same confidences; `worse`, by how many standard errors the log loss rose (or fell).
sets: coverage and mean size of sets of 90 % by 1 - p, and by the scores APS and RAPS with random ties. With
`--open-set`, each method is fitted to the first half of the classes, and the AUROC of each score against images of the
other half stands there, with FPR at 95 %.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shotfit.checkpoints.weights import load_in
from shotfit.commands.arguments import as_list, as_numbers
from shotfit.data.readers import read_task
from shotfit.data.tasks import Item
from shotfit.engine.frozen import ImagePool, normalize
from shotfit.engine.store import cache_folder, open_store
from shotfit.evaluation.evaluate import score
from shotfit.evaluation.protocols import Lesson, plan_protocol
from shotfit.evaluation.trust import auroc, fpr_at
from shotfit.fitting.calibration import calibrate, log_losses
from shotfit.fitting.fit import RecipeName, fit
from shotfit.fitting.fitter import zero_shot
from shotfit.fitting.heldout import HeldOut, frozen_features
from shotfit.fitting.trust import Trust, trust_of
from shotfit.fitting.unknown import entropy
from shotfit.methods.base import Method
from shotfit.methods.class_features import class_features

__all__ = ["calibration", "sets", "trust", "unknown"]

COVERAGE, DRAWS = 0.9, 300


@dataclass(frozen=True, eq=False)
class Run:
    """A fit: what was held out of it, and the images that it was asked of afterwards."""

    held: HeldOut
    test: HeldOut
    sizes: tuple[int, ...]


def calibration(runs: Sequence[Run]) -> dict[str, Any]:
    """Calibration error and log loss on the test images of all runs, before and after."""
    found: dict[str, Any] = {}
    losses = []
    for name in ("before", "after"):
        confidence, right, loss = [], [], []
        for run in runs:
            logits = run.test.logits if name == "before" else calibrate(run.held, run.sizes)[0](run.test.logits)
            best = logits.double().softmax(dim=1).max(dim=1)
            confidence.append(best.values.numpy())
            right.append((best.indices == run.test.labels).numpy())
            loss.append(log_losses(logits, run.test.labels, run.sizes))
        said, true = np.concatenate(confidence), np.concatenate(right)
        losses.append(torch.cat(loss))
        found |= {
            f"error_{name}": 100 * _error(said, true),
            f"limit_{name}": 100 * _limit(said),
            f"log_loss_{name}": losses[-1].mean().item(),
            f"accuracy_{name}": 100 * true.mean(),
        }
    more = losses[1] - losses[0]
    return found | {"worse": more.mean().item() / max(more.std().item() / len(more) ** 0.5, 1e-12)}


def sets(run: Run, coverage: float = COVERAGE) -> dict[str, float]:
    """Coverage and mean size of prediction sets by each score, on the test images."""
    fitted, crossed = calibrate(run.held, run.sizes)
    generator = torch.Generator().manual_seed(0)
    parts = [(crossed, run.held.labels), (fitted(run.test.logits), run.test.labels)]
    (ours, labels), (theirs, true) = ((logits.softmax(dim=1), own) for logits, own in parts)
    found = {}
    for name, of in {"1-p": None, "aps": (0.0, 0), "raps": (0.01, 2)}.items():
        mine, new = (1 - p if of is None else _adaptive(p, generator, *of) for p in (ours, theirs))
        rank = math.ceil((len(labels) + 1) * coverage)
        bound = mine.gather(1, labels[:, None]).flatten().sort().values[rank - 1]
        inside = new <= bound
        found[f"covered_{name}"] = 100 * inside.gather(1, true[:, None]).double().mean().item()
        found[f"size_{name}"] = inside.sum(dim=1).double().mean().item()
    return found


def unknown(
    run: Run, others: HeldOut, support: HeldOut, plain: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor] | None
) -> dict[str, float]:
    """AUROC and FPR at 95 % of each score between test images of the classes and others.

    plain, negative: cosines with the class texts [images, classes], and DualAdapter's negative logits, of both.
    """
    measure: Trust = trust_of(run.held, run.sizes)
    pairs: dict[str, list[Tensor]] = {}
    for number, images in enumerate((run.test, others)):
        logits = measure.calibration(images.logits)
        near = images.features @ support.features.T
        found = {
            "maximum probability": -logits.softmax(dim=1).amax(dim=1),
            "entropy": entropy(logits.softmax(dim=1)),
            "largest logit": -logits.amax(dim=1),
            "energy": -logits.logsumexp(dim=1),
            "maximum concept matching": -plain[number].softmax(dim=1).amax(dim=1),
            "nearest image": -near.amax(dim=1),
            "fifth nearest image": -near.topk(5, dim=1).values[:, -1],
            "class mean": 1 - (images.features @ measure.means.float().T).amax(dim=1),
            "entropy and class mean": measure.strangeness(logits.softmax(dim=1), images.features),
        }
        if negative is not None:
            found["negative half"] = -negative[number].amax(dim=1)
        for name, values in found.items():
            pairs.setdefault(name, []).append(values)
    scores = {f"auroc {name}": 100 * auroc(*both) for name, both in pairs.items()}
    rates = {f"fpr {name}": 100 * fpr_at(known, strange) for name, (known, strange) in pairs.items()}
    marked = [float((pairs["entropy and class mean"][k] > measure.strangest(0.95)).double().mean()) for k in (0, 1)]
    return scores | rates | {"known_marked": 100 * marked[0], "unknown_marked": 100 * marked[1]}


@torch.no_grad()
def held_out(method: Method, items: Sequence[Item], source: str) -> HeldOut:
    """Images that the method has not learned from, in their center views."""
    pool = ImagePool(items)
    images = pool.all()
    features = frozen_features(method.frozen, images)
    return HeldOut(method.logits(images).float().cpu(), pool.labels, features, source)


def trust(
    folder: Path, methods: list[str], shots: int, seeds: list[int], open_set: bool, recipe: RecipeName = "paper"
) -> Iterator[tuple[dict[str, Any], Run]]:
    """One measurement for each method and seed, and what it was made of."""
    task, store = read_task(folder, cache=cache_folder()), open_store()
    (lesson,) = plan_protocol("base-to-new", task).lessons if open_set else (Lesson((task,), ()),)
    items = lesson.exams[0].items if open_set else task.test
    backbone = load_in("mini", "auto", "cpu")
    for method in methods:
        for seed in seeds:
            support = lesson.support(shots, seed)
            with mock.patch.object(sys.modules[fit.__module__], "trust_of", wraps=trust_of) as asked:
                model = fit(
                    support, method, shots=None, seed=seed, recipe=recipe, backbone=backbone, store=store, keep=True
                )
            held: HeldOut = asked.call_args.args[0]
            run = Run(held, held_out(model.method, items, "test"), model.method.sizes)
            row = {"name": "trust", "data": task.name, "method": method, "shots": shots, "seed": seed}
            if not open_set:
                yield row | calibration([run]) | sets(run), run
                continue
            others = lesson.exams[1].items
            texts = normalize(class_features(model.frozen, model.classes)).float()
            strangers = held_out(model.method, others, "others")
            seen = held_out(zero_shot(model.frozen, model.classes), support[0].train, "support")
            plain = run.test.features @ texts.T, strangers.features @ texts.T
            negative = None
            if method.startswith("dualadapter"):
                both = (run.test.features, strangers.features)
                with torch.no_grad():
                    first, second = (model.method.text_logits(features)[1] for features in both)  # type: ignore[operator]
                negative = first, second
            yield row | {"open_set": True} | unknown(run, strangers, seen, plain, negative), run


def _error(confidence: NDArray[Any], right: NDArray[Any]) -> float:
    """The calibration error of a task with two classes: the predicted one, and the rest."""
    probabilities = np.stack([confidence, np.zeros_like(confidence)], axis=1)
    return score(np.where(right, 0, 1), probabilities, ("right", "wrong")).calibration_error


def _limit(confidence: NDArray[Any]) -> float:
    """The 95 % quantile of the error of a model that is right as often as it says."""
    generator = np.random.default_rng(0)
    drawn = [_error(confidence, generator.random(len(confidence)) < confidence) for _ in range(DRAWS)]
    return float(np.quantile(drawn, 0.95))


def _adaptive(probabilities: Tensor, generator: torch.Generator, penalty: float, free: int) -> Tensor:
    """APS, and with a penalty for each class behind the first `free` RAPS: [images, classes]."""
    ordered, order = probabilities.sort(dim=1, descending=True)
    drawn = torch.rand(len(ordered), 1, generator=generator)
    ranks = torch.arange(1, ordered.shape[1] + 1)
    values = ordered.cumsum(dim=1) - drawn * ordered + penalty * (ranks - free).clamp_min(0)
    return torch.empty_like(values).scatter(1, order, values)


def main() -> None:
    """Print the measurements that the arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trust", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders of images")
    parser.add_argument("--methods", default="linear_probe,tip_adapter_f", help="names between commas")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", default="1", help="numbers between commas")
    parser.add_argument("--recipe", choices=("paper", "auto"), default="paper", help="of the methods")
    parser.add_argument("--open-set", action="store_true", help="fit to half of the classes, ask for the others")
    given = parser.parse_args()
    methods, seeds = as_list("--methods", given.methods), as_numbers("--seeds", given.seeds)
    pooled: dict[str, list[Run]] = {}
    for folder in given.data:
        for found, run in trust(folder, methods, given.shots, seeds, given.open_set, given.recipe):
            pooled.setdefault(found["method"], []).append(run)
            print(json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in found.items()}), flush=True)
    for method, runs in pooled.items() if not given.open_set else ():
        row = {"name": "trust", "data": "all", "method": method, "runs": len(runs)} | calibration(runs)
        print(json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}), flush=True)


if __name__ == "__main__":
    main()
