"""No case of a covered folder may lie unread, and folders without a test are named."""

from __future__ import annotations

import importlib

import pytest

from shotfit.commands.describe import verified
from shotfit.methods import METHODS, find

from .cases import cases, folders, picked, roots

# Folder of cases: the test modules that read them. A folder that is not here belongs to a method still to come.
COVERED: dict[str, tuple[str, ...]] = {
    "checkpoints": ("test_checkpoints",),
    "clap": ("test_clap",),
    "clip_adapter": ("test_residuals",),
    "clip_lora": ("test_tuned",),
    "clip_svd": ("test_tuned",),
    "clip_towers": ("test_preprocess", "test_tokenizer", "test_towers"),
    "coop": ("test_coop", "test_shots"),
    "deep_language": ("test_deep_prompts",),
    "dualadapter": ("test_dualadapter",),
    "gda": ("test_gda",),
    "ivlp": ("test_deep_prompts",),
    "linear_probe": ("test_linear_probe",),
    "lp_plus_plus": ("test_lp_plus_plus",),
    "apex": ("test_apex",),
    "cocoop": ("test_contexts",),
    "kgcoop": ("test_contexts",),
    "prograd": ("test_contexts",),
    "maple": ("test_deep_prompts",),
    "mma": ("test_mma",),
    "proker": ("test_proker",),
    "prolip": ("test_prolip",),
    "promptsrc": ("test_deep_prompts",),
    "mma_plus_plus": ("test_mma_plus_plus",),
    "mmrl": ("test_mmrl",),
    "softcpt": ("test_softcpt",),
    "taskres": ("test_residuals",),
    "tip_adapter": ("test_tip_adapter",),
    "two_stage": ("test_tuned",),
    "vpt": ("test_deep_prompts",),
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


def test_methods_of_covered_folders_and_no_others_are_called_verified() -> None:
    also = {"zero_shot", "tip_adapter_f", "coop_mt", "zs_lp"}  # read from the folders of other methods
    called = {name for name in METHODS if verified(find(name))}
    assert called == {*also, *(name for name in METHODS if name in COVERED)}


@pytest.mark.parametrize("folder", sorted(COVERED))
def test_covered_folder_has_cases(folder: str) -> None:
    if not any((root / folder).is_dir() for root in roots()):
        pytest.skip("no case of it here: the selection of the repository, which stays below 6 MB, has none")
    assert cases(folder, partly=True)
