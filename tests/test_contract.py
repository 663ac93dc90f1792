"""The contract suite over every method of the table, in its variants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from shotfit.methods import METHODS, find
from shotfit.testing import CONTRACT, check

VARIANTS: dict[str, list[Mapping[str, str]]] = {
    "coop": [
        {"length": "4"},
        {"length": "5", "position": "middle"},
        {"length": "2", "class_specific": "true", "position": "front"},
    ],
    "clip_adapter": [{}, {"side": "both", "reduction": "2"}],
    "taskres": [{}, {"side": "image", "learnable_alpha": "true"}],
}
CASES = [(method, options) for method in METHODS for options in VARIANTS.get(method, [{}])]


@pytest.mark.parametrize("name", CONTRACT)
@pytest.mark.parametrize(("method", "options"), CASES, ids=[f"{m}-{'-'.join(o.values())}" for m, o in CASES])
def test_method_keeps_the_contract(name: str, method: str, options: Mapping[str, str], tmp_path: Path) -> None:
    check(name, lambda: find(method).with_options(options), tmp_path)
