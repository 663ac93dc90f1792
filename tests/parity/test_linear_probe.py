"""The linear probe equals CoOp's search and the optimum of CLIP's objective."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shotfit.engine.frozen import Images
from shotfit.methods.base import Support, Validation
from shotfit.methods.linear_probe import LinearProbe

from .cases import Case, assert_close, cases
from .recorded import FeaturePool, RecordedFrozen, class_list, judged_by

RUNS = [
    pytest.param(case, f"{shots}shot/seed{seed}", id=f"{case.id}-{shots}shot-seed{seed}")
    for (case,) in (parameter.values for parameter in cases("linear_probe"))
    for shots in case.settings["shots"]
    for seed in case.settings["seeds"]
]
NO_FOLDS = Validation("none", ())


def _solve(case: Case, method: LinearProbe, rows: Tensor, validation: Validation) -> LinearProbe:
    method.attach(RecordedFrozen(case), [class_list(case, case.settings["classes"])])
    method.build(method.frozen, method.classes)
    pool = FeaturePool(case["in/train/features"][rows], case["in/train/labels"][rows])
    method.solve(Support(pool, pool, 1), validation)
    return method


@pytest.mark.parametrize(("case", "run"), RUNS)
def test_search_for_c_equals_coop_s(case: Case, run: str) -> None:
    rows, held = case[f"in/{run}/train_index"], case[f"in/{run}/val_index"]
    validation = judged_by(Images.of(case["in/val/features"][held]), case["in/val/labels"][held], len(rows))
    settings = case.settings
    probe = LinearProbe(tolerance=float(settings["tol"]), max_iterations=settings["max_iter"])
    method = _solve(case, probe, rows, validation)
    assert method.course is not None
    assert_close(_logarithms(method.course.tried), case[f"out/{run}/C_tried"].log10(), 1e-6)
    assert_close(_logarithms(method.course.kept), case[f"out/{run}/C_chosen"].log10(), 1e-6)
    official = torch.cat([case[f"out/{run}/coef"], case[f"out/{run}/intercept"][:, None]], dim=1)
    assert_close(_solution(method), official, 5e-3 + _rounding(case, run, method, official))
    predicted = method.logits(Images.of(case["in/test/features"])).argmax(dim=1)
    assert torch.equal(predicted, case[f"out/{run}/predictions"])
    accuracy = 100 * float((predicted == case["in/test/labels"]).double().mean())
    assert abs(accuracy - float(case[f"out/{run}/test_accuracy"][-1])) < 0.006


@pytest.mark.parametrize("case", cases("linear_probe"))
def test_tight_fit_is_the_optimum(case: Case) -> None:
    for c in case.settings["readme"]["C"]:
        method = LinearProbe(search=False, c=float(c), tolerance=1e-10, max_iterations=20_000)
        _solve(case, method, torch.arange(len(case["in/train/labels"])), NO_FOLDS)
        logits = method.logits(Images.of(case["in/test/features"]))
        where = f"out/optimum/C{c}"
        assert_close(method.get_buffer("weight"), case[f"{where}/coef"], 1e-4)
        assert_close(method.get_buffer("bias"), case[f"{where}/intercept"], 1e-4)
        assert_close(logits.softmax(dim=1), case[f"{where}/probabilities"], 1e-4)


@pytest.mark.parametrize("case", cases("linear_probe"))
def test_fixed_c_predicts_as_clip_s_example(case: Case) -> None:
    for c in case.settings["readme"]["C"]:
        method = LinearProbe(c=float(c))
        _solve(case, method, torch.arange(len(case["in/train/labels"])), NO_FOLDS)
        top = case[f"out/readme/C{c}/probabilities"].topk(2, dim=1).values
        clear = top[:, 0] - top[:, 1] > 0.03
        predicted = method.logits(Images.of(case["in/test/features"])).argmax(dim=1)
        assert torch.equal(predicted[clear], case[f"out/readme/C{c}/predictions"][clear])


def _solution(method: LinearProbe) -> Tensor:
    """Weights and intercepts, [classes, embed + 1]."""
    return torch.cat([method.get_buffer("weight"), method.get_buffer("bias")[:, None]], dim=1)


def _rounding(case: Case, run: str, method: LinearProbe, official: Tensor) -> float:
    """How far neighbours of C in float64 move the solution here, as a share of the largest entry.

    The solver stops before it has converged, so its last digits are those of the processor's order of summation: the
    recorded ones cannot be had on another processor, but they lie no farther away than rounding reaches.
    """
    rows, solutions = case[f"in/{run}/train_index"], [_solution(method)]
    assert method.course is not None
    for ulps in (-3, -2, -1, 1, 2, 3):
        c = method.course.best * (1 + ulps * torch.finfo(torch.float64).eps)
        fixed = LinearProbe(search=False, c=c, tolerance=method.tolerance, max_iterations=method.max_iterations)
        solutions.append(_solution(_solve(case, fixed, rows, NO_FOLDS)))
    together = torch.stack(solutions)
    return float((together.amax(0) - together.amin(0)).max() / official.abs().max())


def _logarithms(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).log10()
