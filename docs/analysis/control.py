"""Write a control for the analyses: a backbone of `mini`'s shape and tokenizer with random weights.

    python docs/analysis/control.py control-1 --seed 1
    shotfit analyze difficulty photos/ --backbone control-1

What an analysis says of it comes from the shape of the towers and from the images, and from nothing that was learned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import shotfit
from shotfit.checkpoints.saved import save_backbone
from shotfit.testing.tiny import random_backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    mini = shotfit.load_backbone("mini")
    control = random_backbone(mini.config, mini.tokenizer, asked.seed, str(asked.folder))
    save_backbone(control, asked.folder, tokenizer=Path(shotfit.__file__).parent / "assets" / mini.name)


if __name__ == "__main__":
    main()
