"""No case of a covered folder may lie unread, and folders without a test are named."""

from __future__ import annotations

import importlib

import pytest

from .cases import cases, folders, picked, roots

# Folder of cases: the test modules that read them. A folder that is not here belongs to a method still to come.
COVERED: dict[str, tuple[str, ...]] = {
    "checkpoints": ("test_checkpoints",),
    "clip_adapter": ("test_residuals",),
    "clip_towers": ("test_preprocess", "test_tokenizer", "test_towers"),
    "coop": ("test_coop", "test_shots"),
    "dualadapter": ("test_dualadapter",),
    "linear_probe": ("test_linear_probe",),
    "apex": ("test_apex",),
    "mma": ("test_mma",),
    "mma_plus_plus": ("test_mma_plus_plus",),
    "mmrl": ("test_mmrl",),
    "softcpt": ("test_softcpt",),
    "taskres": ("test_residuals",),
    "tip_adapter": ("test_tip_adapter",),
}


def uncovered() -> list[str]:
    """The folders that hold cases and that no test module reads."""
    return sorted({folder for root in roots() for folder in folders(root)} - COVERED.keys())


@pytest.mark.parametrize("folder", sorted(COVERED))
def test_every_case_of_a_covered_folder_is_read_by_a_test(folder: str) -> None:
    for module in COVERED[folder]:
        importlib.import_module(f"tests.parity.{module}")
    read = picked()
    unread = [
        case.id for (case,) in (parameter.values for parameter in cases(folder, partly=True)) if case.path not in read
    ]
    assert not unread, f"no test of {', '.join(COVERED[folder])} reads {', '.join(unread)}"


@pytest.mark.parametrize("folder", sorted(COVERED))
def test_covered_folder_has_cases(folder: str) -> None:
    assert cases(folder, partly=True)
