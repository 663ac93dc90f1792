"""Hostile lists of images: task lists and `classes.toml` in TOML, manifests in CSV, TSV and JSONL, split files in JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.attacks.runner import Case, Family, Place, without_privileges
from tests.attacks.values import NAMES, SPECIAL, VALUES, changed_somewhere, deep

__all__ = ["TASKS"]

TASKS = Family("tasks")
FORMS = ("csv", "tsv", "jsonl", "json", "toml", "classes")
FILES = {"csv": "labels.csv", "tsv": "labels.tsv", "jsonl": "labels.jsonl", "json": "split_zhou_x.json", "toml": "tasks.toml",
         "classes": "task/classes.toml"}  # fmt: skip
ZERO_SHOT = ("--method", "zero_shot", "--recipe", "paper")


def asked(place: Place, random: Random, form: str) -> Case:
    """A command that reads the file."""
    path, out = place.folder / FILES[form], str(place.folder / "model")
    model = str(place.base / "models" / "zero_shot")
    if form == "toml":
        lists = ["fit", "--tasks", str(path), *ZERO_SHOT, "--out", out, *place.backbone]
        return Case(random.choice([lists, lists, ["evaluate", model, "--tasks", str(path), *place.backbone]]))
    if form == "classes":
        folder = str(path.parent)
        named = ["doctor", str(place.base / "task"), "--class-names", str(path)]
        return Case(
            random.choice([["doctor", folder], named, ["fit", folder, *ZERO_SHOT, "--out", out, *place.backbone]])
        )
    more = random.choice(
        [
            [],
            [],
            ["--images", str(place.folder)],
            ["--group-column", random.choice(["patient", "no", "path", "\x1b[2J"])],
        ]
    )
    if form == "json":
        more = more if "--group-column" not in more else []
    commands = [
        ["doctor", str(path), *more],
        ["doctor", str(path), "--json", "--shots", "5", *more],
        ["fit", str(path), *ZERO_SHOT, "--out", out, *more, *place.backbone],
        ["evaluate", model, str(path), "--all", *more, *place.backbone],
    ]
    return Case(random.choice(commands))


def rows(place: Place) -> list[tuple[str, str, str]]:
    """Path, label and part of each image of the task, which is copied."""
    folder = place.folder / "task" if (place.folder / "task").exists() else place.copy("task")
    found = sorted(folder.glob("*/*.png"))
    return [
        (str(path.relative_to(place.folder)), path.parent.name, "test" if path.stem == "3" else "train")
        for path in found
    ]


def written(place: Place, form: str) -> str:
    """The file of a form as it should be."""
    listed = rows(place)
    if form in ("csv", "tsv"):
        comma = "," if form == "csv" else "\t"
        lines = [comma.join((*row, f"p{i % 5}")) for i, row in enumerate(listed)]
        return "\n".join([comma.join(("path", "label", "split", "patient")), *lines, ""])
    if form == "jsonl":
        return "".join(
            json.dumps({"path": path, "label": label, "split": part, "patient": "p1"}) + "\n"
            for path, label, part in listed
        )
    if form == "json":
        numbers = {label: i for i, label in enumerate(sorted({label for _, label, _ in listed}))}
        triples = {
            part: [[path, numbers[label], label] for path, label, own in listed if own == part]
            for part in ("train", "val", "test")
        }
        return json.dumps(triples)
    if form == "toml":
        return (
            '[[task]]\nname = "colors"\ndescription = "things"\ndata = "task"\ntemplate = "a photo of a {}."\n\n'
            '[[task]]\nname = "others"\ndata = "task"\ntemplates = ["a {}.", "the {}."]\n'
        )
    return 'template = "a photo of a {}."\n\n[names]\nred_thing = "red"\n"green thing" = "green"\n'


Change = Callable[[str, Random], str | bytes]


def changed(form: str, change: Change) -> Callable[[Place, Random], Case]:
    def make(place: Place, random: Random) -> Case:
        place.write(FILES[form], change(written(place, form), random))
        return asked(place, random, form)

    return make


def of_each_form(times: int, *forms: str) -> Callable[[Change], Change]:
    """Register a change of a file's text, for each of the forms."""

    def register(change: Change) -> Change:
        for form in forms or FORMS:
            TASKS.add(f"{form}_{change.__name__}", changed(form, change), times)
        return change

    return register


# Bytes


@of_each_form(5)
def flipped(text: str, random: Random) -> bytes:
    whole = bytearray(text.encode())
    for _ in range(random.choice([1, 5, 50])):
        whole[random.randrange(len(whole))] = random.randrange(256)
    return bytes(whole)


@of_each_form(3)
def cut(text: str, random: Random) -> bytes:
    return text.encode()[: random.randrange(len(text))]


@of_each_form(4)
def spliced(text: str, random: Random) -> bytes:
    """Something odd in between, once or often."""
    parts = [b"\0", b"\x1b[2J", b"\xff\xfe", b'"' * 9, b"[" * 3000, b"{" * 3000, b"\r", b"\xc2\x9b", b"9" * 6000, b"'''", b"=", b",,,", b"\t", b"\xed\xa0\x80",
             "\u202e\u2066".encode(), b"\\u0000", b"\\ud800", b"nan", b"1e999", b"x" * 10**6, b"1979-05-27T07:32:00Z", b"../" * 2000]  # fmt: skip
    whole = text.encode()
    for _ in range(random.choice([1, 1, 5])):
        at = random.randrange(len(whole))
        whole = whole[:at] + random.choice(parts) + whole[at:]
    return whole


@of_each_form(3)
def encodings(text: str, random: Random) -> bytes:
    odd = text.replace("red", random.choice(["r\u00e9d", "\x1bred", "red"]))
    coding = random.choice(["utf-16", "utf-8-sig", "latin-1", "utf-32", "utf-7", "utf-16-be"])
    return odd.encode(coding).replace(b"\n", random.choice([b"\n", b"\r\n", b"\r"]))


@of_each_form(2)
def nothing(text: str, random: Random) -> bytes:
    return random.choice([b"", b"\n" * 10**5, b"\xef\xbb\xbf", b"\0" * 1000, b" ", b"#\x1b[2J\n", b"\n\n\n,\n"])


@of_each_form(2)
def repeated(text: str, random: Random) -> str:
    """The lines again and again."""
    return text * random.choice([2, 300])


# Grammar


@of_each_form(8, "csv", "tsv")
def cells(text: str, random: Random) -> str:
    comma = "\t" if "\t" in text else ","
    lines = [line.split(comma) for line in text.splitlines()]
    for _ in range(random.choice([1, 1, 4])):
        line = random.choice(lines[1:])
        odd = random.choice(
            [
                *NAMES.values(),
                "",
                "/dev/zero",
                "/etc/passwd",
                "../../x",
                "~",
                "a\0b",
                "9" * 5000,
                "-1",
                "nan",
                '"',
                "http://localhost/x",
                ".",
                "/",
                "x" * 200_000,
            ]
        )
        line[random.randrange(len(line))] = odd
    return "\n".join(comma.join(line) for line in lines)


@of_each_form(4, "csv", "tsv")
def columns(text: str, random: Random) -> str:
    rest = text.partition("\n")[2]
    comma = "\t" if "\t" in text else ","
    names = random.choice([["path", "path", "label"], ["label"], ["\x1b[2J", "\x07"], ["path", "label", "split", "split"], ["PATH", "Label"],
                           ["path", "label", *[f"c{i}" for i in range(20_000)]], [""] * 4, ["path\x1b", "label"], ["path", "label", "\x1b]0;x\x07"]])  # fmt: skip
    return comma.join(names) + "\n" + rest


@of_each_form(4, "csv", "tsv")
def quotes(text: str, random: Random) -> str:
    lines = text.splitlines()
    lines[random.randrange(1, len(lines))] = random.choice(
        ['"' + "a" * 200_000, '"a""b",x', '"a\nb","c\nd"', "a,b,c,d,e,f,g", '""', "\\", "a" * 140_000 + ",x"]
    )
    return "\n".join(lines)


@of_each_form(3, "csv", "tsv", "jsonl")
def many_rows(text: str, random: Random) -> str:
    lines = text.splitlines()
    first, more = (
        lines[0],
        [random.choice(lines[1:]).replace("p1", f"p{i}") for i in range(random.choice([1000, 20_000]))],
    )
    if random.random() < 0.5:
        more = [line.replace("red_thing/", f"missing{i}/") for i, line in enumerate(more)]
    return "\n".join([first, *more])


@of_each_form(3, "csv", "jsonl")
def many_classes(text: str, random: Random) -> str:
    lines = text.splitlines()
    return "\n".join(
        [
            lines[0],
            *[
                line.replace("green thing", "a", 1)
                .replace("red_thing", f"c{i}")
                .replace(f"task/c{i}/", "task/red_thing/")
                for i, line in enumerate(lines[1:] * 60)
            ],
        ]
    )


@of_each_form(12, "jsonl")
def objects(text: str, random: Random) -> str:
    lines = [json.loads(line) for line in text.splitlines()]
    for _ in range(random.choice([1, 3])):
        changed_somewhere(lines, random.choice([*VALUES.values(), [*NAMES.values()]]), random)
    return "\n".join(map(json.dumps, lines))


@of_each_form(4, "jsonl")
def json_lines(text: str, random: Random) -> str:
    lines = text.splitlines()
    odd = [
        deep("[", 100_000).decode(),
        "[]",
        "null",
        '"x"',
        "NaN",
        '{"path": ' + "9" * 6000 + "}",
        '{"path": "a", "path": "b", "label": 1}',
        "{" * 5000,
        '{"\x1b": 1}',
        "{'path': 1}",
    ]
    lines[random.randrange(len(lines))] = random.choice(odd)
    return "\n".join(lines)


@of_each_form(14, "json")
def triples(text: str, random: Random) -> str:
    content: Any = json.loads(text)
    for _ in range(random.choice([1, 1, 3])):
        changed_somewhere(content, random.choice([*VALUES.values(), [*NAMES.values()], [10**9, -1, 10**4000]]), random)
    return json.dumps(content) if random.random() < 0.97 else deep("[", 100_000).decode()


@of_each_form(3, "json")
def numbered(text: str, random: Random) -> str:
    """Labels that are huge, twice, negative, or of another name each time."""
    content = json.loads(text)
    for triples_ in content.values():
        for triple in triples_:
            triple[1] = random.choice([10**9, 0, -5, 2**70, triple[1]])
    return json.dumps(content)


TOML_VALUES = ("1", "-1", "nan", "inf", "true", "[]", "[1]", "{}", '""', '" "', "'\x1b[2J'", '"\\u001b[2J"', '"a\\rb"', '"\\u202e"', "1979-05-27", "07:32:00", "9" * 6000, "1e400",
               "0x" + "f" * 5000, '"/dev/zero"', '"../../../etc/passwd"', '"~nouser/x"', '"' + "x" * 5000 + '"', '"a\\u0000b"', "[[[[[]]]]]", '["{}", 1]', '"{} {}"', '"{0.__class__}"',
               '"{:>999999999}"', '"{!r}"', '"{"', '"ensemble"', '["ensemble", "ensemble"]', "[" * 3000 + "]" * 3000, "{a=" * 3000 + "1" + "}" * 3000, '"""' + "\n" * 1000 + '"""',
               '"\\ud800"', "[" + '"{}",' * 20_000 + "]")  # fmt: skip


@of_each_form(10, "toml", "classes")
def values(text: str, random: Random) -> str:
    lines = text.splitlines()
    places = [i for i, line in enumerate(lines) if "=" in line]
    for i in random.sample(places, random.choice([1, 1, 2])):
        lines[i] = f"{lines[i].partition('=')[0]}= {random.choice(TOML_VALUES)}"
    return "\n".join(lines)


@of_each_form(8, "toml", "classes")
def keys(text: str, random: Random) -> str:
    odd = [
        "a." * 2000 + "b = 1", "a." * 50_000 + "b = 1", "\n".join(f"k{i} = 1" for i in range(20_000)), "name = 1\nname = 2", '"\\u001b[2J" = 1', "'\x1b' = 1", "[a]\n[a]", "[" + "a." * 3000 + "b]",
        "\n".join(f"[[task.{'x.' * 10}t{i}]]" for i in range(300)), "[task]", "task = 5", "[[names]]", "= 1", "a = 1 b = 2", '"" = 1', "[names]\n" * 2, "images = 5", '"\\u202e" = "x"',
        "[names.a]\nb = 1", '"green thing" = "\\u001b"', "[[task]]\n" * 5000, "\n".join(f"[{'a.' * i}b]" for i in range(1, 400)),
    ]  # fmt: skip
    lines = text.splitlines()
    lines.insert(random.randrange(len(lines) + 1), random.choice(odd))
    return "\n".join(lines)


@TASKS.kind(10)
def data_of_a_task(place: Place, random: Random) -> Case:
    """A task list whose paths lead to what is none."""
    written(place, "csv")
    kind = random.choice([*SPECIAL])
    ending = random.choice([".csv", ".jsonl", ".json", "", ".toml"])
    SPECIAL[kind](place.folder / f"odd{ending}")
    key = random.choice(["data", "images", "class_names"])
    # not "/": a machine that is full of pictures takes its time
    value = random.choice([f"odd{ending}", "/dev", "/proc", ".", "tasks.toml", "~", "x" * 5000, "/dev/fd/0"])
    more = f'{key} = "{value}"' if key == "data" else f'data = "task"\n{key} = "{value}"'
    place.write("tasks.toml", f"[[task]]\n{more}\n")
    return asked(place, random, "toml")


@TASKS.kind(4)
def many_tasks(place: Place, random: Random) -> Case:
    written(place, "csv")
    count = random.choice([20, 3000])
    place.write("tasks.toml", "".join(f'[[task]]\nname = "t{i % (count - 1)}"\ndata = "task"\n' for i in range(count)))
    return asked(place, random, "toml")


# What is no file, and names


def special(make_at: Callable[[Path], None]) -> Callable[[Place, Random], Case]:
    def make(place: Place, random: Random) -> Case:
        form = random.choice(FORMS)
        written(place, form)
        path = place.folder / FILES[form]
        make_at(path)
        return asked(place, random, form)

    return make


for name, make_at in SPECIAL.items():
    TASKS.add(f"special_{name}", special(make_at), 2)


def hard_name(odd: str) -> Callable[[Place, Random], Case]:
    """The name is that of a manifest, a class, a task, or a folder in between."""

    def make(place: Place, random: Random) -> Case:
        which, safe = random.randrange(4), odd.encode("utf-8", "replace").decode()
        if which == 0:
            path = place.write(f"{odd}.csv", written(place, "csv"))
            return Case(["doctor", str(path)])
        if which == 1:
            text = written(place, "jsonl").replace('"label": "blue"', f'"label": {json.dumps(safe)}')
            place.write(FILES["jsonl"], text)
            return asked(place, random, "jsonl")
        if which == 2:
            written(place, "csv")
            place.write(
                "tasks.toml", f'[[task]]\nname = {json.dumps(safe)}\ndescription = {json.dumps(safe)}\ndata = "task"\n'
            )
            return asked(place, random, "toml")
        place.copy("task", f"{odd}/task")
        return Case(["doctor", str(place.folder / odd / "task"), *random.choice([[], ["--json"]])])

    return make


for name, odd in NAMES.items():
    TASKS.add(f"name_{name}", hard_name(odd))


# Folders


@TASKS.kind(6)
def folders(place: Place, random: Random) -> Case:
    """Trees that are deep, that lead to themselves, or whose parts are odd."""
    task = place.copy("task")
    which = random.randrange(7)
    if which == 0:
        (task / "loop").symlink_to(task)
        (task / "blue" / "loop").symlink_to(task / "blue")
    elif which == 1:
        (task / "/".join(["d"] * random.choice([100, 400]))).mkdir(parents=True)
    elif which == 2:
        for i in range(3000):
            (task / f"c{i}").mkdir()
    elif which == 3:
        (task / "all").symlink_to(random.choice(["/proc/self", "/dev", "/sys/kernel"]))
    elif which == 4:
        for part in ("train", "Train", "TRAIN", "test", "val"):
            place.copy("task/blue", f"task/{part}/blue")
    elif which == 5:
        for i in range(45):
            (task / f"l{i}").symlink_to(f"l{i + 1}")
        (task / "l45").symlink_to("blue")
    else:
        os.chmod(task / "blue", 0)  # noqa: PTH101
    case = Case(
        random.choice(
            [["doctor", str(task)], ["fit", str(task), *ZERO_SHOT, "--out", str(place.folder / "m"), *place.backbone]]
        )
    )
    case.before = without_privileges if which == 6 else None
    return case


@TASKS.kind(8)
def words(place: Place, random: Random) -> Case:
    """Numbers, names and paths on the command line that are none."""
    task, long = str(place.base / "task"), "9" * 5000
    odd = random.choice(
        [
            *NAMES.values(),
            long,
            "-" + long,
            "nan",
            "inf",
            "1e999",
            "x" * 5000,
            "~nouser",
            "a\x1b[2J",
            "",
            " ",
            "0x10",
            "٣",
        ]
    ).encode("utf-8", "surrogateescape")
    word = os.fsdecode(odd)
    flags = ["--shots", "--seed", "--method", "--lr", "--steps", "--epochs", "--views", "--memory", "--budget", "--template", "--images", "--class-names", "--out", "--backbone",
             "--set", "--needs", "--recipe", "--device", "--precision", "--without", "--validation", "--group-column"]  # fmt: skip
    flag = random.choice(flags)
    if random.random() < 0.2:
        return Case(
            random.choice(
                [
                    ["fit", "--classes", word],
                    ["fit", "--classes", f"@{word}"],
                    ["show", word],
                    [word],
                    ["doctor", word],
                    ["predict", word, word],
                    ["cache", word],
                ]
            )
        )
    return Case(["fit", task, *ZERO_SHOT, "--out", str(place.folder / "model"), *place.backbone, f"{flag}={word}"])
