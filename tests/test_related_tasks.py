"""Tasks that are related: by a hierarchy in the task list, and by the likeness of their names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shotfit.data.tasklist import paths_above, read_tasks
from shotfit.engine.frozen import Frozen
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.methods.relations import Relations, nearest
from shotfit.methods.softcpt import SoftCPT
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone

from .test_cli import Shell, one_line, shell
from .test_many_tasks import backbone, built, class_lists

__all__ = ["backbone", "shell"]  # fixtures


# Relations


def test_hierarchy_takes_the_mean_over_the_path(backbone: Backbone) -> None:
    frozen, lists = Frozen(backbone), class_lists()
    plain = built(SoftCPT(length=2), frozen, lists)
    related = built(SoftCPT(length=2, hierarchy=True), frozen, lists)
    assert related.task_features().shape == plain.task_features().shape == (5, frozen.embed)
    assert torch.allclose(related.task_features()[0], plain.task_features()[0], atol=1e-6)  # it has no parent
    names = [lists[1].task, *lists[1].parents]
    own = related.run(related.conditions(names, 4, "end"), related.task_context)
    assert torch.allclose(related.task_features()[1], own.mean(dim=0), atol=1e-6)
    alone = built(SoftCPT(length=2, hierarchy=True), frozen, class_lists(parents=False))
    assert torch.equal(alone.text_features(), plain.text_features())


def test_graph_mixes_the_nearest_by_weights_that_add_to_one(backbone: Backbone) -> None:
    frozen, lists = Frozen(backbone), class_lists()
    names = [own.task for own in lists]
    for place, found in enumerate(nearest(frozen, names, names, 2)):
        assert len(found) == 2 and place not in dict(found)
        assert sum(weight for _, weight in found) == pytest.approx(1)
    assert [len(found) for found in nearest(frozen, names, names, 9)] == [4] * 5  # all that there are
    mixed = Relations.of(frozen, lists, lists, neighbours=2, mix=0.25)
    for place, part in enumerate(mixed.parts):
        assert dict(part)[place] == pytest.approx(0.75) and sum(dict(part).values()) == pytest.approx(1)
    assert Relations.of(frozen, lists, lists, neighbours=2, mix=0.0).plain
    both = Relations.of(frozen, lists, lists, hierarchy=True, neighbours=2, mix=0.5)
    assert all(sum(dict(part).values()) == pytest.approx(1) for part in both.parts)
    assert "everything" in both.names


def test_only_task_has_no_neighbour(backbone: Backbone) -> None:
    frozen, lists = Frozen(backbone), class_lists()[:1]
    plain, graph = (built(SoftCPT(length=2, neighbours=k), frozen, lists).text_features() for k in (0, 3))
    assert torch.equal(plain, graph)


@pytest.mark.parametrize("options", [{"variant": "nats"}, {"variant": "cata", "network": "lincls"}])
@pytest.mark.parametrize("related", [{"hierarchy": True}, {"neighbours": 2}])
def test_relations_need_a_context_that_all_tasks_share(options: dict[str, Any], related: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="needs one task context that every context is made with"):
        SoftCPT(**options, **related)


def test_new_task_is_predicted_from_its_name_parent_and_neighbours(backbone: Backbone, tmp_path: Path) -> None:
    tasks = [tiny_task(tmp_path / name, (f"{name} a", f"{name} b")) for name in ("oaks", "pines", "wrens")]
    tasks[0] = replace(tasks[0], classes=replace(tasks[0].classes, parents=("trees", "plants")))
    picture = tasks[0].test[0].picture.path
    for options in ({"hierarchy": True}, {"neighbours": 2}, {"hierarchy": True, "neighbours": 1}):
        method = SoftCPT(length=2, **options)
        model = fit(tasks, method, shots=2, epochs=1, recipe="paper", backbone=backbone, check=False)
        opened = Model.open(model.save(tmp_path / "model"), backbone)
        assert opened.classes[0].parents == ("trees", "plants") and opened.classes[1].parents == ()
        said = []
        for one in (model, opened):
            new = one.for_task("elms", ["x", "y"], parent="trees")
            assert new.classes[0].parents == ("trees", "plants")  # which the model knows
            said.append(new.predict(picture, top=2)[0])
        assert said[0] == said[1]
        (plain,) = opened.for_task("elms", ["x", "y"]).predict(picture, top=2)
        assert (plain.probabilities != said[0].probabilities) == bool(options.get("hierarchy"))
        assert opened.for_task("oaks", ["x", "y"]).classes[0].parents == ("trees", "plants")
        with pytest.raises(UsageError, match="'trees' has two parents"):
            opened.for_task("elms", ["x", "y"], parent=["trees", "stones"])


def test_older_record_without_parents_says_none(backbone: Backbone, tmp_path: Path) -> None:
    task = tiny_task(tmp_path / "things")
    saved = fit(task, SoftCPT(length=2), shots=2, epochs=1, recipe="paper", backbone=backbone, check=False)
    record = json.loads((saved.save(tmp_path / "model") / "adapter.json").read_text())
    assert record["classes"][0].keys() == {"task", "names", "templates"} and "parts" not in record


# Task lists with parents


def listed(folder: Path, *parents: str) -> Path:
    """A list of tasks a, b, ..., each with a line of its own."""
    tiny_task(folder / "data", ("x", "y"), images=2)
    tables = [
        f'[[task]]\nname = "{name}"\ndata = "data"\n{own}\n' for name, own in zip("abcdef", parents, strict=False)
    ]
    (folder / "tasks.toml").write_text("\n".join(tables))
    return folder / "tasks.toml"


def test_parents_of_a_task_list_make_paths(tmp_path: Path) -> None:
    found = read_tasks(listed(tmp_path, 'parent = "b"', 'parent = ["flowers", "plants"]', "", 'parent = "flowers"'))
    assert [task.classes.parents for task in found] == [
        ("b", "flowers", "plants"), ("flowers", "plants"), (), ("flowers", "plants")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parents", "sentence"),
    [
        (('parent = "b"', 'parent = "c"', 'parent = "a"'), "circle ('a' -> 'b' -> 'c' -> 'a'): remove one of them"),
        (('parent = "a"',), "circle ('a' -> 'a')"),
        (('parent = ["p", "q"]', 'parent = ["p", "r"]'), "'p' has two parents, 'q' and 'r': give every name one"),
        (("parent = 3",), "`parent` must be a text, but is 3"),
        (("parent = []",), "`parent` must be a name, or a list of names, but is []"),
        (('parent = ["p", ""]',), "`parent` must be a name, or a list of names"),
        (('parent = " "',), "`parent` must be a text"),
        ((f"parent = {[f'n{number}' for number in range(33)]}",), "more than 32 names are above 'a'"),
        (('parents = "b"',), "unknown key 'parents'; did you mean parent?"),
    ],
)
def test_wrong_parents_are_one_line(parents: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ShotfitError) as error:
        read_tasks(listed(tmp_path, *parents))
    assert sentence in str(error.value) and "tasks.toml" in str(error.value) and "\n" not in str(error.value)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=20))
def test_paths_end_or_are_refused(above: list[int]) -> None:
    given_parents = {str(task): [str(parent)] for task, parent in enumerate(above)}
    try:
        paths = paths_above(given_parents)
    except UsageError as error:
        assert "circle" in str(error)
        return
    for task, path in paths.items():
        assert len({task, *path}) == len(path) + 1
        assert path[0] == given_parents[task][0]


def test_command_fits_a_list_with_parents(shell: Shell, tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "backbone")
    place = listed(tmp_path, 'parent = "b"', 'parent = "plants"', "")
    words = ["fit", "--tasks", place, "--method", "softcpt", "--backbone", tmp_path / "backbone", "--no-check"]
    words += ["--set", "length=2", "--set", "hierarchy=true", "--set", "tasks_per_batch=2", "--epochs", 1]
    result = shell(*words, "--out", tmp_path / "model")
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "model" / "adapter.json").read_text())
    assert [own.get("parents") for own in record["classes"]] == [["b", "plants"], ["plants"], None]
    picture = next((tmp_path / "data").rglob("*.png"))
    words = ["predict", "--trust-backbone", tmp_path / "model", picture, "--format", "csv", "--top", 2]
    new = [*words, "--task", "ferns", "--classes", "x,y"]
    assert shell(*new).out != shell(*new, "--parent", "plants").out
    assert shell(*new, "--parent", "b").out == shell(*new, "--parent", "b", "--parent", "plants").out
    assert "'b' has two parents, 'plants' and 'stones'" in one_line(shell(*new, "--parent", "b", "--parent", "stones"))
    assert "--parent is of a new task" in one_line(shell(*words, "--task", "b", "--parent", "plants"))
    assert shell("fit", "--tasks", listed(tmp_path, 'parent = "a"'), "--out", tmp_path / "new").code == 3
