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
    "kgcoop": [{"words": ""}],
    "prograd": [{"length": "6"}, {"length": "3", "start": "random", "class_specific": "true", "strength": "0.8"}],
    "cocoop": [{"words": "a photo of a"}, {"words": "", "length": "2"}],
    "vpt": [{"tokens": "2"}],
    "deep_language": [{"tokens": "3", "depth": "2"}],
    "ivlp": [{}, {"text_depth": "1", "visual_depth": "2", "words": ""}],
    "maple": [{"depth": "4"}],
    "promptsrc": [{"text_tokens": "2", "visual_tokens": "2", "teacher": "task"}],
    "coop_mt": [{"length": "3"}, {"length": "2", "sharing": "task"}, {"length": "2", "sharing": "class"}],
    "softcpt": [
        {"length": "4"},
        {"variant": "nats", "length": "3", "task_length": "0", "position": "middle"},
        {"variant": "cata", "length": "2", "class_sampling": "0.5", "freeze_class_context": "true"},
        {"variant": "csts", "length": "2", "class_length": "2", "update": "released"},
        {"length": "2", "hierarchy": "true", "neighbours": "1", "mix": "0.3"},
        {"variant": "cata", "length": "2", "hierarchy": "true", "class_length": "1"},
        {"variant": "cats", "length": "2", "network": "lincls", "class_words": "a kind of", "task_position": "front"},
    ],
    "clip_adapter": [{}, {"side": "both", "reduction": "2"}],
    "apex": [
        {"text_tokens": "4"},
        {
            "visual_depth": "2",
            "text_depth": "3",
            "image_reference": "random-prompts",
            "text_reference": "random-prompts",
        },
        {"visual_tokens": "3", "visual_depth": "1", "adapter": "low-rank", "rank": "5", "optimizer": "sgd"},
        {"prompt": "manual", "adapter": "bottleneck", "coefficient": "0.4", "protocol": "transfer"},
        {"visual_depth": "0", "adapter_side": "image", "text_depth": "2", "text_ensemble": "false"},
        {"prompt": "manual", "adapter": "none", "visual_depth": "3", "image_ensemble": "false"},
    ],
    "mma": [
        {"scale": "0.1"},
        {"start": "0", "end": "2", "dim": "4", "scale": "0.5", "shared": "false", "gradient_rule": "plain"},
        {"start": "3", "towers": "text", "scale": "1", "prediction_scale": "0.5", "prefix": ""},
        {"start": "3", "towers": "image", "scale": "1", "pairing": "index", "protocol": "transfer"},
    ],
    # Without dropout: its masks are of the tokens that run, and savings decide which these are.
    "mma_plus_plus": [
        {"dropout": "0", "texts": "ensemble"},
        {"dropout": "0", "texts": "task", "protocol": "transfer", "gradient_rule": "scaled"},
    ],
    # With one head each: prediction=auto reads another one where a class is new, which may change the others' order.
    "mmrl": [
        {"prediction": "fused", "tokens": "3", "dim": "8"},
        {"prediction": "class", "dim": "8", "plus": "true", "rank": "2", "projection_rank": "3", "blocks": "1,3"},
        {"prediction": "fused", "blocks": "2-4", "pairing": "index", "projection_start": "frozen", "dim": "4"},
    ],
    "dualadapter": [
        {},
        {"training_free": "true"},
        {"revision": "simnl", "residual_per": "shot"},
        {"paths": "positive", "consistency_axis": "dimension"},
        {"paths": "negative", "residuals": "negative_keys"},
        {"cache": "false", "search": "false", "template_set": "dtd"},
    ],
    "clip_lora": [
        {},
        {"rank": "3", "matrices": "qo", "image_blocks": "2,4", "text_blocks": "up", "dropout": "0"},
    ],
    "clip_svd": [{}, {"matrices": "vm", "rank_ratio": "0.5", "image_blocks": "half-up", "protocol": "base-to-new"}],
    "two_stage": [
        {"steps_per_shot": "20"},
        {"steps_per_shot": "5", "peft": "biases", "image_blocks": "3-4"},
        {"steps_per_shot": "5", "fraction": "0"},
        {"fraction": "1", "outer_norms": "true", "text_blocks": "2,3"},
    ],
    "fine_tune": [{}, {"variant": "linear", "label_smoothing": "0.1"}, {"contrast": "0.7", "distill": "0.1"}],
    "wise_ft": [{"mix": "0.3"}, {"towers": "both", "contrast": "0.7"}],
    "clap": [{}, {"mode": "adaptative"}, {"distance": "cosine", "mode": "corrected"}],
    "prolip": [{}, {"side": "text", "per": "nothing"}, {"side": "features", "protocol": "transfer"}],
    "taskres": [{}, {"side": "image", "learnable_alpha": "true"}, {"enhanced": "9"}],
}
# What no option changes is checked once a method.
ONCE = {
    "bfloat16_is_close",
    "options_are_documented",
    "options_are_found",
    "test_part_stays_sealed",
    "interrupted_fit_leaves_nothing",
}
assert CONTRACT.keys() >= ONCE
# In the time of `make test`: the first variant of each method, of these all checks, of the others those that are quick
# and that a method breaks first. `make slow` runs the rest.
HEART = {"coop", "softcpt", "mma", "apex", "dualadapter"}
QUICK = {
    "options_are_documented",
    "stored_equals_full",
    "saved_equals_fitted",
    "new_classes_as_declared",
    "several_tasks_as_declared",
    "several_labels_as_declared",
    "places_sum_to_the_image",
}
assert CONTRACT.keys() >= QUICK


def _marks(name: str, method: str, number: int) -> list[pytest.MarkDecorator]:
    quick = number == 0 and (method in HEART or name in QUICK)
    return [] if quick else [pytest.mark.slow]


CASES = [
    pytest.param(
        name, method, options, id=f"{name}-{method}-{'-'.join(options.values())}", marks=_marks(name, method, number)
    )
    for method in METHODS
    for number, options in enumerate(VARIANTS.get(method, [{}]))
    for name in CONTRACT
    if number == 0 or name not in ONCE
]


@pytest.mark.parametrize(("name", "method", "options"), CASES)
def test_method_keeps_the_contract(name: str, method: str, options: Mapping[str, str], tmp_path: Path) -> None:
    check(name, lambda: find(method).with_options(options), tmp_path)
