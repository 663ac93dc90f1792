"""What `shotfit show` says of the calls of the towers is what was chosen from ids and edits."""

from __future__ import annotations

import pytest

from shotfit.commands.describe import describe
from shotfit.testing.tiny import tiny_backbone
from shotfit.towers.backbone import Backbone
from shotfit.towers.layout import Savings


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("show"))


CHOSEN = {
    "frozen_beginning": ("taskres", {}, "all frozen: its features are computed once and stored"),
    "cut": ("coop", {"length": "4"}, "tokens run instead of 231 padded ones"),
    "shared": ("coop", {"length": "4"}, "shared beginning: 5 tokens run once for 3 texts"),
    "read_alone": ("coop", {"length": "4"}, "the last block runs for the read token alone"),
    "replaced": ("apex", {"visual_tokens": "3"}, "keys and values only: 9 prompt tokens of an image"),
    "silu": ("mma", {}, "QuickGELU runs as SiLU"),
}


@pytest.mark.parametrize("saving", CHOSEN)
def test_each_saving_is_told_where_it_is_used(backbone: Backbone, saving: str) -> None:
    method, options, words = CHOSEN[saving]
    used = "\n".join(describe(method, backbone, options))
    off = "\n".join(describe(method, backbone, options, savings=Savings.without([saving])))
    assert words in used
    assert saving == "cut" or words not in off
    assert saving != "cut" or "231 tokens run instead of 231" in off


def test_input_of_a_block_is_told_to_be_kept(backbone: Backbone) -> None:
    assert "computed once and stored with its input" in "\n".join(describe("mma", backbone))


def test_chunks_are_told(backbone: Backbone) -> None:
    assert "3 chunks, each run again in the backward pass" in "\n".join(describe("mma", backbone, memory=1))
