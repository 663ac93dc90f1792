"""What attacks copy and damage: tiny checkpoints of each format, a task of a few pictures, models fitted to it."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import sys
import traceback
from pathlib import Path

__all__ = ["METHODS", "import_all", "made"]

TRAINED = ("--steps", "2", "--views", "1")
METHODS = {"zero_shot": (), "linear_probe": (), "coop": TRAINED, "tip_adapter_f": TRAINED, "mma": TRAINED}
SETTINGS = ("--recipe", "paper", "--keep", "--precision", "float32")


def import_all() -> None:
    """Import all of shotfit and what it imports late, so that a forked child does not."""
    import shotfit

    for module in pkgutil.walk_packages(shotfit.__path__, "shotfit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("sklearn.linear_model", "scipy.optimize", "PIL.ImageOps", "rich.progress"):
        importlib.import_module(name)
    from PIL import Image

    Image.init()


def made(base: Path) -> Path:
    """The folder of assets, made unless it is there: in a child, as building it starts threads."""
    if base.exists():
        return base
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _make(base)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the assets of the attacks could not be made")
    return base


def _make(base: Path) -> None:
    from shotfit.commands.cli import main
    from shotfit.testing.tiny import tiny_backbone, tiny_task
    from tests import checkpoints

    building = base.with_name(f"{base.name}-{os.getpid()}")
    building.mkdir(parents=True)
    os.environ["SHOTFIT_CACHE"] = str(building / "cache")
    tiny_backbone(building / "backbone")
    tiny_task(building / "task", images=4)
    for name, write in (("hf", checkpoints.write_huggingface), ("open_clip", checkpoints.write_open_clip)):
        _with_tokenizer(write(building / name))
    words = [str(building / "task"), *SETTINGS, "--backbone", str(building / "backbone")]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for method, own in METHODS.items():
        if main(["fit", *words, *own, "--method", method, "--out", str(building / "models" / method)]) != 0:
            raise RuntimeError(f"{method} could not be fitted to the attacks' task")
    (building / "cache").rename(building / "warm")
    try:
        building.rename(base)
    except OSError:  # another process was first
        shutil.rmtree(building)


def _with_tokenizer(folder: Path) -> None:
    """A tokenizer of 40 ids, which end a text with 39, as the checkpoints of the tests do."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = {letter: index for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz .,_-'!")}
    vocabulary = letters | {"<unk>": 37, "<start>": 38, "<end>": 39}
    words = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["<start>", "<end>"])
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 38), ("<end>", 39)]
    )
    words.save(str(folder / "tokenizer.json"))
