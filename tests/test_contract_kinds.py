"""The contract on the other kinds of transformer towers: a sample here, all of it by `make backbones`."""

from __future__ import annotations

from pathlib import Path

import pytest

from shotfit.methods import METHODS, find
from shotfit.testing import CONTRACT, check

from .test_contract import HEART, ONCE, VARIANTS

KINDS = ("eva", "perception", "post_norm", "siglip", "bert", "bert_mean")
# what looks at the towers from inside, on the edit that each kind treats in a way of its own
SAMPLE = [
    ("eva", "mma", 1, "savings_change_nothing"),
    ("eva", "apex", 0, "saved_equals_fitted"),
    ("perception", "apex", 1, "savings_change_nothing"),
    ("post_norm", "mma", 1, "savings_change_nothing"),
    ("bert", "coop", 1, "savings_change_nothing"),
    ("bert", "apex", 1, "savings_change_nothing"),
    ("bert_mean", "mma", 1, "savings_change_nothing"),
    ("bert_mean", "softcpt", 2, "saved_equals_fitted"),
    *[(kind, method, 1, "places_sum_to_the_image") for kind in KINDS[:4] for method in ("mma", "apex", "mmrl")],
    *[(kind, method, 0, "stored_equals_full") for kind in KINDS for method in sorted(HEART)],
]
ALL = [
    (kind, method, number, name)
    for kind in KINDS
    for method in METHODS
    for number in range(len(VARIANTS.get(method, [{}])))
    for name in CONTRACT
    if name not in ONCE - {"bfloat16_is_close"}
]


def _marks(case: tuple[str, str, int, str]) -> list[pytest.MarkDecorator]:
    return [] if case[3] == "stored_equals_full" else [pytest.mark.slow]


CASES = [
    *[pytest.param(*case, id="-".join(map(str, case)), marks=_marks(case)) for case in SAMPLE],
    *[pytest.param(*case, id="-".join(map(str, case)), marks=pytest.mark.backbones) for case in ALL],
]


@pytest.mark.parametrize(("kind", "method", "number", "name"), CASES)
def test_method_keeps_the_contract_on_every_kind(
    kind: str, method: str, number: int, name: str, tmp_path: Path
) -> None:
    options = VARIANTS.get(method, [{}])[number]
    check(name, lambda: find(method).with_options(options), tmp_path, kind)
