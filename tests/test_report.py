"""Reports as typed and as read: what is measured, what is only told, hostile names, and bounds."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import shotfit
from shotfit.commands.cli import main
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.data.tasks import Item, Task
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError
from shotfit.evaluation.clean import Examined, clean
from shotfit.evaluation.confident import Judged
from shotfit.evaluation.doubles import Doubles
from shotfit.evaluation.evaluate import Answers
from shotfit.evaluation.rows import Row
from shotfit.fitting.fit import fit
from shotfit.report import mapping, model_page
from shotfit.report.comparison import write_comparison
from shotfit.report.facts import Facts, look
from shotfit.report.mapping import map_of
from shotfit.report.model_page import page_of_facts
from shotfit.report.svg import shortened
from shotfit.testing.tiny import tiny_backbone, tiny_task

CLIPART = Path(__file__).parent.parent / "examples" / "clipart"
HOSTILE = ("<img src=x onerror=alert(1)>", "\x1b[31mred\x1b[0m $\\frac{1}$ & \"q\" 'a'", "a" * 5000)


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with photos, a backbone, and a model that was fitted with a report."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOTFIT_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        tiny_backbone(folder / "backbone")
        tiny_task(folder / "photos", images=10)
        words = ["fit", "photos", "--backbone", "backbone", "--method", "taskres", "--steps", 8, "--shots", 6]
        words += ["--set", "alpha=0.7", "--keep", "--out", "model", "--report", "fit.html"]
        assert main([str(word) for word in words]) == 0
        yield folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    found = capsys.readouterr()
    lines = [line for line in found.err.splitlines() if not line.startswith(("warning: ", "note: "))]
    return code, found.out, "\n".join(lines)


def report(capsys: pytest.CaptureFixture[str], *words: object) -> Page:
    out = Path("page.html")
    code, _, error = run(capsys, "report", *words, "--backbone", "backbone", "--out", out)
    assert code == 0, error
    return Page(out)


def is_self_contained(page: Page) -> bool:
    """Whether nothing on the page runs or is fetched."""
    for tag, attributes in page.tags:
        if tag in ("script", "link", "iframe", "object", "embed", "base") or any(
            name[:2] == "on" for name in attributes
        ):
            return False
        addresses = [attributes.get(name) for name in ("src", "href", "xlink:href", "srcset", "action")]
        if not all(one.startswith(("data:image/", "#")) for one in addresses if one):
            return False
    style = re.sub(r"url\(#[\w-]+\)", "", page.source)
    return "url(" not in style and "@import" not in style


def test_page_says_what_evaluate_says(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "evaluate", "model", "photos", "--backbone", "backbone", "--json")
    scores = json.loads(out)
    page = report(capsys, "model", "photos")
    low, high = scores["accuracy_interval"]
    told = f"{100 * scores['accuracy']:.1f} % of the 6 images of the test part"
    assert told in page.text
    assert f"95 % interval {100 * low:.1f} % to {100 * high:.1f} %" in page.text
    for own in scores["per_class"]:
        recall = "-" if own["recall"] is None else f"{100 * own['recall']:.1f}"
        assert re.search(rf"{own['name']} {own['images']} {own['predicted']} [\d.-]+ {recall} ", page.text)
    assert is_self_contained(page)


def test_page_has_every_part(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = report(capsys, "model", "photos")
    anchors = {attributes["href"] for attributes in page.of("a")}
    assert anchors == {f"#{attributes['id']}" for attributes in page.of("h2")} - {"#result"}
    assert all((attributes.get("alt") or "").startswith("Image labelled ") for attributes in page.of("img"))
    titles = {attributes["aria-labelledby"] for attributes in page.of("svg")}
    assert titles == {attributes["id"] for attributes in page.of("title") if attributes}
    assert len({attributes["id"] for _, attributes in page.tags if "id" in attributes}) == sum(
        "id" in attributes for _, attributes in page.tags
    )
    assert str(home) not in page.source  # nothing of the machine


def test_fit_writes_the_same_page(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = report(capsys, "model", "photos")
    assert Page(Path("fit.html")).text == page.text


def test_command_on_the_page_fits_the_same_model(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(Path("fit.html"))
    (line,) = (line for line in "".join(page.words).splitlines() if line.startswith("shotfit fit "))
    words = shlex.split(line)[1:]
    words[words.index("--out") + 1] = "again"
    assert {"--method", "taskres", "alpha=0.7", "--shots"} < set(words)
    assert run(capsys, *words, "--keep", "--backbone", "backbone")[0] == 0
    assert _record("again")["weights"] == _record("model")["weights"]


def _record(folder: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((Path(folder) / "adapter.json").read_text())
    return record


def test_images_that_were_learned_are_no_held_out_figure(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Not a held-out figure" not in report(capsys, "model", "photos").text
    page = report(capsys, "model", "photos", "--all")
    assert "Not a held-out figure. 18 of these 30 images are among those that the model learned from" in page.text


def test_without_images_there_are_none(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = report(capsys, "model", "photos", "--no-images")
    assert page.of("img") == [] and "blue/" in page.text and "cannot be read" not in page.text


def test_a_picture_that_is_gone_is_said(home: Path) -> None:
    task = read_task(home / "photos")
    model = shotfit.load(home / "model", backbone=str(home / "backbone"))
    facts = look(model, task)
    gone = [Item(Picture(Path("gone.png")), item.label, item.digest) for item in facts.known]
    facts = replace(facts, known=tuple(gone))
    assert "cannot be read" in page_of_facts(facts, task, model.record, [], "model")


def test_without_a_folder_the_record_speaks(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "report", "model", "--out", "page.html")  # and no backbone is opened
    assert code == 0 and "from the model's record alone" in out
    page = Page(Path("page.html"))
    scores = _record("model")["scores"]
    assert "made from the model's record alone" in page.text
    assert f"taskres: {100 * scores['accuracy']:.1f} %" in page.text
    assert "red_thing, green thing" in page.text or "blue, green thing, red_thing" in page.text
    assert page.of("img") == [] and is_self_contained(page)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scores", {"accuracy": "<b>", "zero_shot_accuracy": 1.0}),
        ("checked", {"accuracy": 0.5, "zero_shot_accuracy": [1]}),
        ("training", {"steps": "many"}),
    ],
)
def test_a_record_that_no_fit_wrote_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], field: str, value: Any, tmp_path: Path
) -> None:
    shutil.copytree(home / "model", tmp_path / "odd")
    record = _record("model") | {field: value}
    (tmp_path / "odd" / "adapter.json").write_text(json.dumps(record))
    code, _, error = run(capsys, "report", tmp_path / "odd", "--out", "odd.html")
    assert code == 3 and f"its field {field} holds no number for" in error
    assert not Path("odd.html").exists()


def test_a_record_with_odd_counts_is_shown(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "model", tmp_path / "odd")
    record = _record("model")
    record["scores"] = {"accuracy": 7.0, "zero_shot_accuracy": None, "test_images": 10**30}
    record["training"] |= {"looked_at": 0}
    (tmp_path / "odd" / "adapter.json").write_text(json.dumps(record))
    assert shotfit.write_report(tmp_path / "odd", out=tmp_path / "odd.html").exists()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("model", "photos", "--out", "a.png"), 2, "expected a file that ends in .html"),
        (("model", "photos", "--out", "photos"), 2, "expected a file that ends in .html"),
        (("model", "photos", "--out", "model/a.html"), 2, "would lie in the model's folder"),
        (("model", "--all"), 2, "--all is about a folder of images, and none was named"),
        (("model", "nowhere"), 3, "nowhere"),
        (("nowhere",), 3, "is not a shotfit model"),
        (("photos", "model"), 2, "model is the model, and comes first: shotfit report model photos"),
    ],
)
def test_every_mistake_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, sentence: str
) -> None:
    found, _, error = run(capsys, "report", *words, "--backbone", "backbone")
    assert found == code and sentence in error and error.count("\n") == 0
    assert not Path("report.html").exists()


def test_fit_refuses_a_report_before_it_fits(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        (("photos", "--report", "new/a.html"), "would lie in the model's folder"),
        (("--tasks", "tasks.toml", "--report", "a.html"), "--report is about one task"),
        (("--classes", "a,b", "--report", "a.html"), "--report goes with images"),
    ):
        code, _, error = run(capsys, "fit", *words, "--out", "new", "--backbone", "backbone")
        assert code == 2 and sentence in error
    assert not Path("new").exists()


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_missing_extra_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for words in (
        ("report", "model"),
        ("fit", "photos", "--report", "a.html"),
        ("compare", "photos", "--report", "a.html"),
    ):
        code, _, error = run(capsys, *words)
        assert code == 2 and "pip install 'shotfit[report]'" in error and error.count("\n") == 0


@pytest.mark.slow
def test_compare_writes_a_page(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "photos", "--backbone", "backbone", "--methods", "zero_shot,tip_adapter", "--shots", "1,4"]
    code, out, error = run(capsys, *words, "--seeds", "1,2", "--report", "runs.html", "--json")
    assert code == 0, error
    page, rows = Page(Path("runs.html")), json.loads(out)["rows"]
    assert json.loads(out)["report"] == "runs.html" and is_self_contained(page)
    assert all(f"{100 * row['mean']:.1f}" in page.text for row in rows)
    charts = {attributes["id"] for attributes in page.of("svg")}
    assert charts == {"shots-0", "seconds", "memory"}
    assert "McNemar's exact test against the best of the column" in page.text
    (line,) = (line for line in "".join(page.words).splitlines() if line.startswith("shotfit compare "))
    assert sorted(shlex.split(line)[1:]) == sorted([*words, "--seeds", "1,2", "--report", "runs.html", "--json"])


def test_hostile_names_are_text_everywhere(tmp_path: Path) -> None:
    for path in hostile_pages(tmp_path):
        page = Page(path)
        assert is_self_contained(page)
        assert not any(attributes.get("src") == "x" for attributes in page.of("img"))
        assert "<img src=x onerror=alert(1)>" in page.text and r"\x1b[31mred\x1b[0m" in page.text
        assert "\x1b" not in page.source and "a" * 4100 not in page.source
    alternatives = " ".join(attributes["alt"] or "" for attributes in Page(tmp_path / "model.html").of("img"))
    assert "<img src=x onerror=alert(1)>" in alternatives


def hostile_pages(folder: Path) -> list[Path]:
    """Pages of each kind about a task whose classes, files and name are called badly."""
    tiny = tiny_task(folder / "photos", images=8)
    odd = folder / "photos" / "<b>&lt; '\x1b[2J.png"
    shutil.copy(folder / "photos" / "blue" / "0.png", odd)
    items = [*tiny.train, *tiny.test]
    names = (*HOSTILE[:2], "long")
    images = [*(item.picture for item in items), Picture(odd)]
    labels = [*(names[item.label] for item in items), names[1]]
    task = Task.from_images(images, labels, name=HOSTILE[0])
    backbone = tiny_backbone(folder / "backbone")
    model = fit(task, "linear_probe", backbone=backbone, store=MemoryStore(), keep=True)
    facts = look(model, task, everything=True)
    # no text tower reads a name of 5,000 letters, but a record and a page may get one
    known = tuple(HOSTILE[2] if name == "long" else name for name in facts.class_names)
    said = replace(facts.answers, class_names=known)
    examined = replace(facts.examined, names=known)
    plain = replace(facts.plain, class_names=known)
    facts = replace(facts, class_names=known, answers=said, plain=plain, examined=examined)
    model.record["classes"] = [{"task": task.name, "names": list(known), "templates": ["{}"]}]
    rows = [Row(name, shots, name, (1,), (0.5,), 0.5, None, 1.0, 10) for name in HOSTILE for shots in (1, 2)]
    paths = [folder / f"{name}.html" for name in ("model", "record", "runs")]
    paths[0].write_text(page_of_facts(facts, task, model.record, HOSTILE, HOSTILE[0]), encoding="utf-8")
    shotfit.write_report(model, out=paths[1])
    write_comparison(rows, out=paths[2], title=HOSTILE[0], notes=HOSTILE, command=HOSTILE[0])
    return paths


@pytest.fixture(scope="module")
def planted(home: Path) -> Path:
    """Drawings with two wrong labels, a drawing under two and one there twice, some of them in a test part."""
    for part, first, last in (("train", 0, 9), ("test", 9, 12)):
        for name in ("bird", "fruit", "tool"):
            (home / "planted" / part / name).mkdir(parents=True)
            for path in sorted((CLIPART / name).glob("*.png"))[first:last]:
                shutil.copy(path, home / "planted" / part / name)
    train, test = home / "planted" / "train", home / "planted" / "test"
    shutil.move(train / "bird" / "bird_05.png", train / "tool" / "wrong.png")
    shutil.move(next((test / "tool").iterdir()), test / "bird" / "wrong.png")
    shutil.copy(train / "fruit" / "fruit_03.png", test / "tool" / "copy.png")
    shutil.copy(train / "fruit" / "fruit_02.png", train / "fruit" / "again.png")
    words = ["fit", "planted", "--method", "zero_shot", "--out", "planted-model"]
    assert main(words) == 0
    return home / "planted"


@pytest.mark.parametrize("words", [(), ("--all",)])
def test_page_and_clean_agree(planted: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    _, out, _ = run(capsys, "clean", "planted", "-n", 0, "--json")
    cleaned = json.loads(out)
    code, _, error = run(capsys, "report", "planted-model", "planted", "--out", "planted.html", *words)
    assert code == 0, error
    page = Page(Path("planted.html"))

    wrong = [one for one in cleaned["suspects"] if one["wrong"]]
    section = part_of(page, "suspects", "doubles")
    assert cleaned["wrong"] == len(wrong) and f"{len(wrong)} of {len(wrong)} labels" in section
    named = re.findall(r'<p class="file">(.+?)</p>', section)
    assert named == [inside(planted, one["image"]) for one in wrong]
    assert {*named[:3]} == {"train/tool/wrong.png", "test/bird/wrong.png", "test/tool/copy.png"}
    told = [f"{100 * share:.1f}" for one in wrong for share in (one["score"], 1 - one["score"])]
    assert re.findall(r'<span class="share">([\d.]+).%</span></li>', section) == told

    section, groups = part_of(page, "doubles", "maps"), cleaned["doubles"]
    assert len(groups) >= 2 and f"{len(groups)} of {len(groups)} groups" in section
    cards = section.split('<li class="card">')[1:]
    assert "same picture, in several labels and parts" in cards[0]
    for card, group in zip(cards, groups, strict=True):
        assert re.findall(r'<p class="file">(.+?)</p>', card) == [inside(planted, image) for image in group["images"]]


def test_order_of_the_models_classes_changes_no_suspect(planted: Path) -> None:
    task = read_task(planted)
    items = [*task.train, *task.test]
    labels = [task.classes.names[item.label] for item in items]
    turned = Task.from_images([item.picture for item in items], labels, classes=task.classes.names[::-1])
    store = MemoryStore()
    facts = look(fit(turned, "zero_shot", store=store), task, everything=True)
    assert facts.class_names == task.classes.names[::-1]
    found = clean(task, store=store)
    named, expected = (
        [(one.rank, one.picture, one.label, one.likely, one.score, one.like_it()) for one in suspects]
        for suspects in (facts.suspects(99), [one for one in found.suspects if one.wrong])
    )
    assert named == expected and facts.doubles(99) == found.doubles


def test_neighbours_are_labelled_and_no_copies(planted: Path) -> None:
    facts = look(shotfit.load("planted-model"), read_task(planted))
    labelled = set(facts.known[: facts.labelled])
    for own, near in zip(facts.known, facts.neighbours(np.arange(len(facts.known))), strict=True):
        assert len(near) == 3 and {one.item for one in near} <= labelled
        assert own.digest not in {one.item.digest for one in near}
        assert [one.similarity for one in near] == sorted((one.similarity for one in near), reverse=True)


def test_a_large_group_of_doubles_shows_those_that_differ_first(planted: Path) -> None:
    facts = look(shotfit.load("planted-model"), read_task(planted))
    same = [place for place in range(facts.labelled) if facts.known[place].label == 0][:6]
    other = next(place for place in range(facts.labelled) if facts.known[place].label == 1)
    group = Doubles((*same, other), False, 0.98, True, False)
    facts = replace(facts, examined=replace(facts.examined, doubles=(group,)))
    page = page_of_facts(facts, read_task(planted), shotfit.load("planted-model").record, [], "model")
    card = page.partition('<h2 id="doubles">')[2].partition('<h2 id="maps">')[0]
    assert re.findall(r"<p>(\w+), training part</p>", card) == ["bird", "fruit", "bird", "bird"]
    assert "and 3 more" in card and "cosine 0.980" in card


def part_of(page: Page, first: str, after: str) -> str:
    """The source of a page from one heading to another."""
    return page.source.partition(f'<h2 id="{first}">')[2].partition(f'<h2 id="{after}">')[0]


def inside(folder: Path, image: str) -> str:
    return Path(image).resolve().relative_to(folder.resolve()).as_posix()


def test_a_map_of_too_few_or_equal_images_is_none() -> None:
    assert map_of(np.eye(2)) is None
    assert map_of(np.ones((9, 4))) is None
    found = map_of(np.eye(4))
    assert found is not None and found.tsne is None and found.pca.shape == (4, 2)


def test_size_is_bounded_by_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "MAPPED", 60)
    random = np.random.default_rng(0)
    count, classes = 20_000, 150
    noise = Picture.of(random.integers(0, 256, (300, 300, 3), dtype=np.uint8), "n" * 5000)
    names = tuple("x" * 5000 + str(number) for number in range(classes))
    labels = random.integers(0, classes, count)
    probabilities = random.dirichlet(np.ones(classes), count)
    items = tuple(Item(noise, int(label), f"{number:064x}") for number, label in enumerate(labels))
    features = random.normal(size=(count, 4))
    answers = Answers(labels, probabilities, names)
    order = np.arange(count)
    judged = Judged(probabilities, (labels + 1) % classes, order / count, order >= 0, order)
    doubles = tuple(Doubles(tuple(range(first, first + 50)), False, 0.99, True, False) for first in range(0, count, 50))
    examined = Examined(items, ("train",) * 500 + ("test",) * (count - 500), names, features, judged, doubles)
    facts = Facts("t", Path("photos"), names, items, 500, True, 0, False, answers, answers, examined)
    record = {
        "method": "zero_shot", "found_at": "zero_shot", "options": {}, "precision": "float32", "selection": "x" * 10**6,
        "classes": [{"task": "t", "names": names, "templates": ["{}"]}],
        "backbone": {"name": "mini", "fingerprint": ""},
    }  # fmt: skip
    task = Task.from_images([noise], ["a"])
    page = page_of_facts(facts, task, record, ["w" * 10**5] * 10**3, "model")
    pictures = page.count("data:image/jpeg")
    assert (
        0
        < pictures
        <= 4 * (model_page.MISTAKES + model_page.HITS + model_page.SUSPECTS) + model_page.ALIKE * model_page.DOUBLES
    )
    assert len(page) < 5_000_000


def test_names_are_cut_in_the_middle() -> None:
    assert shortened("short") == "short"
    assert len(shortened("a" * 10**6)) == 40
    assert shortened("first" + "-" * 100 + "last", 20).endswith("last")


def test_report_of_images_from_python(home: Path) -> None:
    model = shotfit.load(home / "model", backbone=str(home / "backbone"))
    images = [np.asarray(Image.open(path)) for path in sorted((home / "photos" / "blue").glob("*.png"))]
    page = Page(shotfit.write_report(model, images, ["blue"] * len(images), out=home / "python.html"))
    assert "of all 10 images are right" in page.text
    with pytest.raises(ShotfitError, match="a report is about one"):
        task = read_task(home / "photos")
        shotfit.write_report(model, [task, Task.from_images([images[0]], ["a"])], out=home / "python.html")
