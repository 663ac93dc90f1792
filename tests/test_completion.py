"""The shell's completion: installed for the shell at hand, and proposals without waiting for torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shotfit.commands.cli import main
from shotfit.commands.completion import backbones, choices, method_lists, methods
from shotfit.methods import METHODS


def complete(words: str, home: Path) -> list[str]:
    """What bash is given for the last word, by the program as the shell calls it."""
    settings = {"_SHOTFIT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = "import sys; from shotfit.commands.cli import main; code = main([]); assert 'torch' not in sys.modules; "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}sys.exit(code)"],
        env=os.environ | settings | {"HOME": str(home)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        ("shotfit do", ["doctor"]),
        ("shotfit fit --method tip", ["tip_adapter", "tip_adapter_f"]),
        ("shotfit compare --methods zero_shot,so", ["zero_shot,softcpt"]),
        ("shotfit fit --backbone Biomed", ["BiomedCLIP"]),
    ],
)
def test_tab_proposes(tmp_path: Path, words: str, proposed: list[str]) -> None:
    assert complete(words, tmp_path) == proposed


def test_completion_of_an_unknown_shell_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert main(["--install-completion"]) == 2


def test_completion_is_installed_in_the_shells_settings(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m shotfit --install-completion; true"],
        env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "completion installed in" in done.stdout
    assert "_SHOTFIT_COMPLETE" in (tmp_path / ".bash_completions" / "shotfit.sh").read_text()


def test_every_proposal_is_one_that_the_command_takes() -> None:
    assert methods("") == ["auto", *METHODS]
    assert method_lists("a,b,coop_") == ["a,b,coop_mt"]
    assert backbones("ViT-L") == ["ViT-L/14", "ViT-L/14@336"]
    assert choices("auto", "cpu")("c") == ["cpu"]
