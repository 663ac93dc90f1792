"""A thousand tasks in one SoftCPT on `mini`: how good, how long, and what a task is worth that was left out.

    python -m benchmarks.thousand_tasks --data ../shared/data --work /tmp/thousand            all of it, hours
    python -m benchmarks.thousand_tasks --data ../shared/data --work /tmp/try --tasks 40 --steps 30

203 tasks of `emoji_tasks.tar`, the 47 of `omniglot.tar`, and 750 that are made from WordNet's tree over the classes of
Tiny-ImageNet and Caltech101 (`made_tasks.py`). Four images a class, one of the emoji; Tiny-ImageNet is judged on its
tiles 45 to 49, which `mini` has not seen (it has seen the tiles that are learned from, and emoji such as these).
SoftCPT: 8 tasks a batch, rate 6e-3, `--steps` steps; no choice and no check, both would look at every task several
times. What is measured:

    zero_shot                of every task, by its own template
    emoji                    the 203 by themselves
    all, 3 seeds             one fit of all; accuracies by group, seconds of fit and evaluation
    coop                     CoOp, `--recipe auto`, task by task on 50 of them
    left_out, 3 seeds        50 tasks left out, with their classes, and predicted from their names, plain, with
                             hierarchy (parents) and with graph (neighbours=4, mix=0.5)

Each result is a line of `--results`, benchmarks/thousand_tasks.jsonl unless you name another file; what stands there is
not done again, so the study can go on on another day. The end prints the table of what is there.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks.made_tasks import Made, WordNet, made_tasks
from benchmarks.measure import machine
from shotfit.checkpoints.weights import load_in
from shotfit.data.pictures import Picture
from shotfit.data.tasklist import read_tasks
from shotfit.data.tasks import ClassList, Item, Task
from shotfit.engine.frozen import Frozen, ImagePool, Images
from shotfit.engine.store import open_store
from shotfit.evaluation.evaluate import answers, labelled_for, model_for
from shotfit.fitting.fit import fit
from shotfit.fitting.fitter import zero_shot
from shotfit.fitting.model import Model
from shotfit.methods.recipe import VIEWS
from shotfit.methods.softcpt import SoftCPT
from shotfit.towers.backbone import Backbone

__all__: list[str] = []

ARCHIVES = ("emoji_tasks", "omniglot", "caltech101", "train_images")
SHOTS, JUDGED = 4, 10  # images a class to learn from, and of Caltech101 to judge by
SHARES = {"emoji": 203, "omniglot": 47, "made": 750}
LEFT_OUT = {"emoji": 38, "made": 12}
WITH_COOP = {"emoji": 20, "omniglot": 5, "made": 25}
SEEDS = (1, 2, 3)
PARTS = ("emoji", "all", "coop", "left_out")
RESULTS = Path(__file__).with_name("thousand_tasks.jsonl")
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hierarchy": {"hierarchy": True},
    "graph": {"neighbours": 4, "mix": 0.5},
}


@dataclass(frozen=True)
class Group:
    """Tasks of one kind, for instance the emoji."""

    name: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Pictured:
    """A class with its images to learn from and to judge by, and its place in WordNet."""

    name: str
    synset: str
    train: tuple[Picture, ...]
    test: tuple[Picture, ...]


class Results:
    """Lines of a file of results; what is done is not done again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith("}")]

    def once(self, key: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of this key, measured if it does not stand there."""
        for row in self.rows:
            if row["key"] == key:
                return row
        print(f"{time.strftime('%H:%M:%S')} {key}", flush=True)
        began, used = time.perf_counter(), time.process_time()
        row = {"key": key, **measure()}
        row |= {"seconds": time.perf_counter() - began, "processor": time.process_time() - used}
        row |= {"load": os.getloadavg()[0]}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
        return row


class Study:
    """The tasks, and what is asked of them. share: of the thousand, how many."""

    def __init__(self, work: Path, wordnet: Path, share: float, steps: int) -> None:
        self.work, self.share, self.steps = work, share, steps
        self.wordnet = WordNet(wordnet)
        self.backbone: Backbone = load_in("mini", "auto", "cpu")
        self.store = open_store()
        self.pictured = [*self._tiny(), *self._caltech()]
        self.emoji = self._listed("emoji", work / "emoji_tasks" / "tasks.toml")
        self.omniglot = self._listed("omniglot", work / "omniglot" / "tasks-small.toml")

    def part(self, counts: dict[str, int], name: str) -> int:
        """How many of a kind, at this share."""
        return max(1, round(counts[name] * self.share)) if name in counts else 0

    def _listed(self, kind: str, path: Path) -> tuple[Task, ...]:
        tasks = read_tasks(path, cache=self.work)
        chosen = random.Random(0).sample(range(len(tasks)), self.part(SHARES, kind))
        return tuple(self._with_parents(kind, tasks[number]) for number in sorted(chosen))

    def _with_parents(self, kind: str, task: Task) -> Task:
        """An emoji's task is below its group; an alphabet's part below the alphabet."""
        group = task.name.split(",")[0] + " icons" if kind == "emoji" else task.name.split(" letters")[0] + " letters"
        path = tuple(dict.fromkeys((group, "icons" if kind == "emoji" else "handwritten letters")))
        small = task if kind == "emoji" else task.shots(SHOTS, 1)
        return replace(small, classes=replace(task.classes, parents=tuple(one for one in path if one != task.name)))

    def _tiny(self) -> Iterable[Pictured]:
        with (self.work / "train_images" / "tiny_imagenet.csv").open(encoding="utf-8") as table:
            for row in csv.DictReader(table):
                sheet = self.work / "train_images" / row["sheet"]
                tiles = [Picture.of(f"{sheet}#xywh={64 * (t % 10)},{64 * (t // 10)},64,64") for t in range(50)]
                yield Pictured(row["classname"], row["wnid"][1:], tuple(tiles[:SHOTS]), tuple(tiles[45:]))

    def _caltech(self) -> Iterable[Pictured]:
        folder = self.work / "caltech101"
        split = json.loads((folder / "split_zhou_Caltech101.json").read_text("utf-8"))
        parts: dict[str, dict[str, list[str]]] = {}
        for part in ("train", "test"):
            for path, _, name in split[part]:
                parts.setdefault(name, {"train": [], "test": []})[part].append(path)
        for name, paths in sorted(parts.items()):
            synset = self.wordnet.synset_of(name)
            if synset is None:
                print(f"not in WordNet, left out: {name}")
                continue
            train, test = (self._some(folder, paths[part], most) for part, most in (("train", SHOTS), ("test", JUDGED)))
            yield Pictured(name.replace("_", " "), synset, train, test)

    @staticmethod
    def _some(folder: Path, paths: list[str], most: int) -> tuple[Picture, ...]:
        """So many of the pictures, always the same."""
        chosen = random.Random(0).sample(sorted(paths), min(most, len(paths)))
        return tuple(Picture.of(str(folder / path)) for path in chosen)

    def made(self, count: int, without: Sequence[int] = ()) -> list[tuple[Made, Task]]:
        """Tasks that are made, each from one of the two sets; without: numbers of classes that none has."""
        sets = [range(200), range(200, len(self.pictured))]
        each = [round(count * len(own) / len(self.pictured)) for own in sets]
        found = []
        for own, many in zip(sets, (each[0], count - each[0]), strict=True):
            classes = [(self.pictured[number].name, self.pictured[number].synset) for number in own]
            barred = {number - own.start: None for number in without if number in own}
            for one in made_tasks(self.wordnet, classes, many, barred):
                moved = replace(one, classes=tuple(number + own.start for number in one.classes))
                found.append((moved, self._task(moved, "tiny" if own.start == 0 else "caltech")))
        return found

    def _task(self, made: Made, kind: str) -> Task:
        chosen = [self.pictured[number] for number in made.classes]

        def items(part: str) -> tuple[Item, ...]:
            return tuple(
                Item(picture, label, picture.digest())
                for label, own in enumerate(chosen)
                for picture in getattr(own, part)
            )

        icons = {task.name for task in self.emoji}  # a name has one parent
        parents = tuple(f"{one} in photos" if one in icons else one for one in made.parents)
        classes = ClassList(f"{made.name}, {kind}", tuple(own.name for own in chosen), parents=parents)
        return Task(classes, items("train"), held_out=items("test"))

    def everything(self) -> list[Group]:
        """All tasks."""
        made = tuple(task for _, task in self.made(self.part(SHARES, "made")))
        return [Group("emoji", self.emoji), Group("omniglot", self.omniglot), Group("made", made)]

    def left_out(self, seed: int) -> tuple[list[Task], list[Group]]:
        """What is learned, and what is left out of it: of the made tasks their classes too."""
        chooser = random.Random(seed)
        few = chooser.sample(range(len(self.emoji)), self.part(LEFT_OUT, "emoji"))
        candidates, taken, hidden = self.made(self.part(SHARES, "made")), set[int](), list[Task]()
        chooser.shuffle(candidates)
        for one, task in candidates:
            if len(hidden) < self.part(LEFT_OUT, "made") and not taken & {*one.classes}:
                taken |= {*one.classes}
                hidden.append(task)
        names = {self.pictured[number].name.casefold() for number in taken}  # some stand in both sets
        barred = [number for number, own in enumerate(self.pictured) if own.name.casefold() in names]
        rest = self.made(self.part(SHARES, "made") - len(hidden), barred)
        learned = [task for number, task in enumerate(self.emoji) if number not in few]
        groups = [Group("emoji", tuple(self.emoji[number] for number in sorted(few))), Group("made", tuple(hidden))]
        return [*learned, *self.omniglot, *(task for _, task in rest)], groups

    def encode(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Every image once, in the views that trainings read, so that their times are of training alone."""
        frozen = Frozen(self.backbone, self.store)
        for part, views in (("train", VIEWS), ("test", 0)):
            items = {
                item.digest: replace(item, label=0)
                for group in groups for task in group.tasks for item in (task.train if part == "train" else task.test)
            }  # fmt: skip
            pool = ImagePool(list(items.values()), views)
            frozen.image(Images(pool, torch.arange(len(items) * max(views, 1))))
        return {"images": len(items)}

    def fitted(self, tasks: Sequence[Task], seed: int, **options: Any) -> tuple[Model, dict[str, Any]]:
        """A SoftCPT of the tasks, and what the fit took."""
        began, used = time.perf_counter(), time.process_time()
        model = fit(
            [task.sealed() for task in tasks], SoftCPT(tasks_per_batch=8, **options), seed=seed,
            backbone=self.backbone, store=self.store, lr=6e-3, steps=self.steps, check=False,
        )  # fmt: skip
        course = {name: model.record["training"][name] for name in ("steps", "first_loss", "last_loss")}
        taken = {"fit_seconds": time.perf_counter() - began, "fit_processor": time.process_time() - used}
        return model, {"tasks": len(tasks), "classes": len(model.class_names), **taken, **course}


def accuracies(groups: Sequence[Group], model_of: Callable[[Task], Model]) -> dict[str, Any]:
    """The mean accuracy over each group's tasks, and of each task."""
    each = {group.name: {task.name: accuracy(model_of(task), task) for task in group.tasks} for group in groups}
    return {"accuracy": {name: fmean(own.values()) for name, own in each.items() if own}, "each": each}


def accuracy(model: Model, task: Task) -> float:
    """The share of a task's test images that are right."""
    return float(answers(model, labelled_for(model.class_names, task)).right.mean())


def plain(study: Study, task: Task) -> Model:
    """The zero-shot model of a task."""
    frozen = Frozen(study.backbone, study.store)
    return Model(zero_shot(frozen, (task.classes,)), frozen, {})


def with_coop(study: Study, task: Task) -> dict[str, Any]:
    """CoOp on one task."""
    began, used = time.perf_counter(), time.process_time()
    model = fit(task.sealed(), "coop", backbone=study.backbone, store=study.store, check=False)
    taken = {"fit_seconds": time.perf_counter() - began, "fit_processor": time.process_time() - used}
    return {"accuracy": accuracy(model, task), **taken}


def one_left_out(study: Study, kind: str, seed: int) -> dict[str, Any]:
    """Fit without some tasks, and predict these from their names."""
    learned, groups = study.left_out(seed)
    model, taken = study.fitted(learned, seed, **KINDS[kind])
    found = accuracies(groups, lambda task: model_for(model, task))
    without = accuracies(groups, lambda task: plain(study, task))
    return taken | found | {"zero_shot": without["accuracy"]}


def main() -> None:
    """Do what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.thousand_tasks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder with the archives")
    parser.add_argument("--work", type=Path, required=True, help="where they are unpacked")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, for instance coop")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--tasks", type=int, default=1000, help="fewer for a trial")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    given = parser.parse_args()
    unpack(given.data, given.work)
    parts = given.parts.split(",")
    if unknown := set(parts) - {*PARTS}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    results = Results(given.results)
    study = Study(given.work, given.wordnet, given.tasks / sum(SHARES.values()), given.steps)
    groups = study.everything()
    size = {"tasks": sum(len(group.tasks) for group in groups), "steps": given.steps}
    print(", ".join(f"{len(group.tasks)} {group.name}" for group in groups), flush=True)
    results.once({"part": "encode", **size}, lambda: study.encode(groups))
    results.once({"part": "zero_shot", **size}, lambda: accuracies(groups, lambda task: plain(study, task)))

    def all_of(some: Sequence[Group], seed: int) -> dict[str, Any]:
        model, taken = study.fitted([task for group in some for task in group.tasks], seed)
        return taken | accuracies(some, lambda task: model_for(model, task))

    if "emoji" in parts:
        results.once({"part": "emoji", "seed": 1, **size}, lambda: all_of(groups[:1], 1))
    for seed in given.seeds if "all" in parts else ():
        results.once({"part": "all", "seed": seed, **size}, partial(all_of, groups, seed))
    chooser = random.Random(1)
    for group in groups if "coop" in parts else ():
        few = chooser.sample(range(len(group.tasks)), min(len(group.tasks), study.part(WITH_COOP, group.name)))
        for number in few:
            task = group.tasks[number]
            key = {"part": "coop", "group": group.name, "task": task.name, **size}
            results.once(key, partial(with_coop, study, task))
    for seed in given.seeds if "left_out" in parts else ():
        for kind in KINDS:
            key = {"part": "left_out", "kind": kind, "seed": seed, **size}
            results.once(key, partial(one_left_out, study, kind, seed))
    table([row for row in results.rows if row["key"].items() >= size.items()])


def unpack(data: Path, work: Path) -> None:
    """Each archive into a folder of its own, once."""
    for name in ARCHIVES:
        folder = work / name
        if not folder.is_dir():
            building = work / f"{name}.unpacking"
            building.mkdir(parents=True, exist_ok=True)
            with tarfile.open(data / f"{name}.tar") as archive:
                archive.extractall(building, filter="data")
            building.rename(folder)


def table(rows: Sequence[dict[str, Any]]) -> None:
    """What was measured, in percent."""

    def of(part: str, **more: Any) -> list[dict[str, Any]]:
        return [row for row in rows if row["key"]["part"] == part and row["key"].items() >= more.items()]

    def told(values: Sequence[float]) -> str:
        if not values:
            return "not run"
        spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
        return f"{100 * fmean(values):5.1f}{spread}"

    (zero,) = of("zero_shot")
    print("\nall tasks, mean accuracy over the tasks of a group, in percent")
    for name, own in zero["accuracy"].items():
        print(f"  {name:10} zero-shot {told([own])}   softcpt {told([row['accuracy'][name] for row in of('all')])}")
    for row in [*of("emoji"), *of("all")]:
        what = f"{row['key']['part']}, seed {row['key']['seed']}: {row['tasks']} tasks, {row['classes']:,} classes"
        print(f"  {what}: fit {row['fit_seconds']:.0f} s ({row['fit_processor']:.0f} s of processor time)")
    coop = of("coop")
    print(f"\n{len(coop)} tasks, CoOp on each: fits {sum(row['fit_seconds'] for row in coop):.0f} s in all")
    for name in zero["accuracy"]:
        own = [row for row in coop if row["key"]["group"] == name]
        if own:
            tasks = [row["key"]["task"] for row in own]
            shared = [fmean(row["each"][name][task] for task in tasks) for row in of("all")]
            without = fmean(zero["each"][name][task] for task in tasks)
            each = fmean(row["accuracy"] for row in own)
            print(f"  {name:10} zero-shot {told([without])}   coop {told([each])}   softcpt {told(shared)}")
    print("\ntasks left out, predicted from their names")
    for kind in KINDS:
        found = of("left_out", kind=kind)
        for name in found[0]["accuracy"] if found else ():
            names, fitted = ([row[what][name] for row in found] for what in ("zero_shot", "accuracy"))
            print(f"  {kind:10} {name:10} zero-shot {told(names)}   softcpt {told(fitted)}")
    print(f"\n{json.dumps(machine())}")


if __name__ == "__main__":
    main()
