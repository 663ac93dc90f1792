"""The command line as a user types it: what it prints, what it writes, and one line for every mistake."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shotfit.commands.cli import COMMANDS, main
from shotfit.methods import METHODS
from shotfit.testing.tiny import tiny_backbone, tiny_task


@dataclass(frozen=True)
class Home:
    """A folder of images, a tiny backbone, and a model that was fitted to them."""

    photos: Path
    backbone: str
    model: Path
    fit_output: str


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Predict = Callable[..., "Result"]


class Shell:
    """Runs `shotfit` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object) -> Result:
        self.capsys.readouterr()
        code = main([str(word) for word in words])
        captured = self.capsys.readouterr()
        return Result(code, captured.out, captured.err)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOTFIT_CACHE", str(folder / "cache"))
        tiny_task(folder / "photos")
        tiny_backbone(folder / "backbone")
        out, stdout = folder / "model", io.StringIO()
        patch.setattr(sys, "stdout", stdout)
        words: list[object] = ["fit", folder / "photos", "--backbone", folder / "backbone", "--out", out]
        words += ["--method", "tip_adapter_f", "--recipe", "paper", "--shots", 3, "--keep", "--json"]
        code = main([str(word) for word in words])
        patch.undo()
        patch.setenv("SHOTFIT_CACHE", str(folder / "cache"))
        assert code == 0
        yield Home(folder / "photos", str(folder / "backbone"), out, stdout.getvalue())


@pytest.fixture
def predict(home: Home, shell: Shell) -> Predict:
    """Runs `shotfit predict` with the model."""
    return lambda *words: shell("predict", home.model, *words, "--backbone", home.backbone)


def one_line(result: Result) -> str:
    """The only line on standard error but warnings, which has no traceback."""
    lines = [line for line in result.err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_help_answers_at_once_without_torch() -> None:
    program = (
        "import sys, shotfit.commands.cli as c; code = c.main(['--help']);"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    best = 60.0
    for _ in range(3):  # the limit is 0.7 s on a quiet machine; tests share it with others
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        best = min(best, time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    assert best < 2.1


def test_a_command_imports_no_other() -> None:
    program = (
        "import sys, shotfit.commands.cli as c; c.main(['cache', '--json']);"
        "assert 'shotfit.commands.cache' in sys.modules and 'shotfit.commands.fit' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example_and_the_exit_codes(shell: Shell, command: str) -> None:
    result = shell(command, "--help")
    assert result.code == 0
    assert f"shotfit {command}" in result.out.split("Example")[1]
    assert "130  interrupted" in result.out


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "shotfit", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_last_line_of_fit_is_the_result(home: Home) -> None:
    result = json.loads(home.fit_output.splitlines()[-1])
    needed = {"method", "shots", "seed", "zero_shot_accuracy", "accuracy", "test_images", "seconds", "model"}
    assert needed <= result.keys()
    assert (result["method"], result["shots"], result["seed"]) == ("tip_adapter_f", 3, 1)
    assert result["model"] == str(home.model)
    assert 0 <= result["zero_shot_accuracy"] <= 1
    assert 0 <= result["accuracy"] <= 1


def test_json_of_fit_keeps_its_keys_and_tells_the_choice(home: Home, shell: Shell, tmp_path: Path) -> None:
    words = ["fit", home.photos, "--backbone", home.backbone, "--method", "taskres", "--steps", 8, "--keep", "--json"]
    result = shell(*words, "--out", tmp_path / "m")
    assert result.code == 0 and len(result.out.splitlines()) == 1, result.err
    found = json.loads(result.out)
    kept = {"method", "model", "predicts_with", "shots", "seed", "seconds", "selection", "fell_back", "test_images"}
    new = {"support_images", "labelled_images", "learned_images", "refit", "recipe", "choice", "race", "training"}
    new |= {"found", "checked", "half_of_the_labels", "trust"}
    assert found.keys() == kept | {"zero_shot_accuracy", "accuracy"} | new
    assert found["choice"]["chosen"].keys() == {"alpha", "lr"} and found["recipe"] == "auto"
    assert {"rung", "point", "steps", "images", "accuracy", "score"} == found["choice"]["tried"][0].keys()
    told = shell("fit", "--help").out.split("Keys of --json")[1].split("Options:")[0]
    assert {word.strip(",:") for word in told.split()} >= found.keys()
    card = (tmp_path / "m" / "README.md").read_text()
    tried = {(trial["rung"], *trial["point"].values()) for trial in found["choice"]["tried"]}
    assert "| taskres | alpha=0.5, lr=0.002 | " in card and card.count("| taskres | ") == len(tried) == 9 + 3


def test_json_of_a_fit_by_default_is_one_object_too(home: Home, shell: Shell, tmp_path: Path) -> None:
    result = shell("fit", home.photos, "--backbone", home.backbone, "--out", tmp_path / "m", "--json")
    assert result.code == 0, result.err
    (line,) = result.out.splitlines()
    found = json.loads(line)
    assert (
        found["method"] == "auto"
        and found["predicts_with"] == json.loads((tmp_path / "m" / "adapter.json").read_text())["method"]
    )
    assert {row["method"] for row in found["race"]} >= {"zero_shot", "linear_probe"}


def test_fit_tells_reader_test_part_and_both_accuracies(home: Home, shell: Shell, tmp_path: Path) -> None:
    result = shell("fit", home.photos, "--backbone", home.backbone, "--shots", 2, "--method", "taskres", "--epochs", 1,
                   "--out", tmp_path / "m", "--no-check", "--set", "alpha=0.3", "--template", "a {}.")  # fmt: skip
    assert result.code == 0, result.err
    for words in ("read as class folders", "test part: a fifth of each class", "zero-shot  ", "taskres  ", "saved"):
        assert words in result.out
    record = json.loads((tmp_path / "m" / "adapter.json").read_text())
    assert record["options"]["alpha"] == 0.3
    assert record["classes"][0]["templates"] == ["a {}."]
    assert record["scores"]["test_images"] > 0


def test_model_of_a_method_file_opens_where_the_file_is_named(home: Home, shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("from shotfit.methods.zero_shot import ZeroShot\n\n\nclass Own(ZeroShot):\n    name = 'own'\n")
    words = ["fit", home.photos, "--backbone", home.backbone, "--shots", 2, "--keep", "--out", tmp_path / "m"]
    told = shell(*words, "--method", f"{file}:Own").out.splitlines()[-1]
    assert told.endswith(f"IMAGES --backbone {home.backbone} --method {file}:Own)")
    refused = shell("predict", tmp_path / "m", home.photos)
    assert (refused.code, "which is run only if you name it" in one_line(refused)) == (2, True)
    named = ["--backbone", home.backbone, "--method", f"{file}:Own"]
    assert shell("predict", tmp_path / "m", home.photos, *named).code == 0
    assert shell("evaluate", tmp_path / "m", home.photos, *named).code == 0


def test_evaluate_repeats_the_accuracy_of_the_fit(home: Home, shell: Shell) -> None:
    result = shell("evaluate", home.model, home.photos, "--backbone", home.backbone, "--json")
    fitted, found = json.loads(home.fit_output.splitlines()[-1]), json.loads(result.out)
    assert (found["accuracy"], found["images"]) == (fitted["accuracy"], fitted["test_images"])


def test_evaluate_takes_all_images_if_asked(home: Home, shell: Shell) -> None:
    result = shell("evaluate", home.model, home.photos, "--all", "--json", "--backbone", home.backbone)
    assert json.loads(result.out)["images"] == len(list(home.photos.rglob("*.png")))


def test_evaluate_prints_every_class_if_asked_and_all_of_it_as_json(home: Home, shell: Shell) -> None:
    on_it = ["--backbone", home.backbone]
    text = shell("evaluate", home.model, home.photos, "--per-class", *on_it).out
    found = json.loads(shell("evaluate", home.model, home.photos, "--json", *on_it).out)
    assert f"accuracy               {100 * found['accuracy']:.1f} %" in text.splitlines()
    low, high = (100 * end for end in found["accuracy_interval"])
    assert f"accuracy {low:.1f} to {high:.1f} %" in text
    table = text.split("classes:\n")[1].split("calibrated")[0].splitlines()
    assert {line[2:].split("  ")[0] for line in table[1:]} == {own["name"] for own in found["per_class"]}
    assert f"{found['log_loss']:.3f}" in text


def test_evaluate_compares_two_models_on_the_same_images(home: Home, shell: Shell, tmp_path: Path) -> None:
    on_it = ["--backbone", home.backbone]
    words = ["fit", home.photos, *on_it, "--method", "zero_shot", "--out", tmp_path / "plain"]
    assert shell(*words).code == 0
    result = shell("evaluate", tmp_path / "plain", home.model, home.photos, "--json", *on_it)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    first = json.loads(shell("evaluate", tmp_path / "plain", home.photos, "--json", *on_it).out)
    second = json.loads(shell("evaluate", home.model, home.photos, "--json", *on_it).out)
    assert found["models"] == [first.pop("model"), second.pop("model")]
    assert first.pop("trust").keys() == second.pop("trust").keys()  # what each model says of itself alone
    assert first.pop("learned_images") == second.pop("learned_images") == 0
    assert (found["first"], found["second"]) == (first, second)
    assert found["difference"] == pytest.approx(second["accuracy"] - first["accuracy"])
    counts = [found[name] for name in ("both_right", "only_first", "only_second", "both_wrong")]
    assert sum(counts) == first["images"]
    text = shell("evaluate", tmp_path / "plain", home.model, home.photos, *on_it).out
    assert "McNemar's exact test: p " in text and f"only with plain: {counts[1]}" in text
    same = json.loads(shell("evaluate", home.model, home.model, home.photos, "--json", *on_it).out)
    assert (same["difference"], same["difference_interval"], same["p"]) == (0.0, [0.0, 0.0], 1.0)
    on_all = shell("evaluate", tmp_path / "plain", home.model, home.photos, "--all", "--json", *on_it)
    learned = json.loads(on_all.out)["learned_images"]
    assert learned[0] == 0 < learned[1] and f"model: {learned[1]} of these " in on_all.err


def test_evaluate_of_three_models_is_one_line(home: Home, shell: Shell) -> None:
    result = shell("evaluate", home.model, home.model, home.model, home.photos)
    assert result.code == 2 and "3 models were named; expected one or two" in one_line(result)
    missing = shell("evaluate", home.model)
    assert missing.code == 2 and "Missing argument FOLDER" in one_line(missing)


def test_predict_writes_csv_with_ranks(home: Home, predict: Predict) -> None:
    image = next(home.photos.rglob("*.png"))
    lines = predict(image, "--format", "csv", "--top", 2).out.splitlines()
    assert lines[0] == "image,rank,label,probability,set,unknown,error"
    assert [line.split(",")[:2] for line in lines[1:]] == [[str(image), "1"], [str(image), "2"]]


def test_predict_reads_paths_from_standard_input(home: Home, predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    images = sorted(home.photos.rglob("*.png"))[:2]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{image}\n" for image in images)))
    lines = predict("-", "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["image"] for line in lines] == [str(image) for image in images]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_predict_reads_names_that_are_no_text_from_standard_input(
    home: Home, predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(image)).write_bytes(next(home.photos.rglob("*.png")).read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(image + b"\n"), encoding="utf-8"))
    result = predict("-", "--format", "csv")
    assert result.code == 0 and "caf" in result.out, result.err


def test_command_alone_shows_the_help(shell: Shell) -> None:
    result = shell()
    assert result.code == 0 and "Commands:" in result.out and not result.err


def test_predict_takes_folders_and_patterns(home: Home, predict: Predict) -> None:
    everything = predict(home.photos).out
    assert predict(f"{home.photos}/*/*.png").out == everything
    assert len(everything.splitlines()) == len(list(home.photos.rglob("*.png")))


def test_compare_prints_one_table_and_resumes(home: Home, shell: Shell, tmp_path: Path) -> None:
    words = ["compare", home.photos, "--backbone", home.backbone, "--methods", "zero_shot,tip_adapter"]
    words += ["--shots", "1,2", "--seeds", "1", "--out", tmp_path / "runs.jsonl"]
    first = shell(*words)
    assert first.code == 0, first.err
    assert "zero_shot" in first.out
    second = shell(*words, "--json")
    assert second.err.count("found in the file") == 4
    assert len(json.loads(second.out)["rows"]) == 4


def test_compare_reads_commas_in_front_of_numbers_as_an_option(home: Home, shell: Shell, tmp_path: Path) -> None:
    names = ["dualadapter+training_free=true+beta_grid=0,2,2", "zero_shot"]
    words = ["compare", home.photos, "--backbone", home.backbone, "--methods", ",".join(names), "--json"]
    result = shell(*words, "--shots", "1", "--seeds", "1", "--out", tmp_path / "runs.jsonl")
    assert result.code == 0, result.err
    assert [row["method"] for row in json.loads(result.out)["rows"]] == names


def test_methods_lists_them(shell: Shell) -> None:
    assert "tip_adapter_f" in shell("methods").out
    assert {"method", "title", "new_classes", "verified", "source"} == json.loads(shell("methods", "--json").out)[
        "methods"
    ][0].keys()


def test_show_prints_options_recipe_and_calls(home: Home, shell: Shell) -> None:
    result = shell("show", "coop", "--backbone", home.backbone, "--set", "length=4")
    assert result.code == 0, result.err
    for words in ("context length L", "learning rate 0.002", "text tower: 3 texts, Context; nothing frozen", "stored"):
        assert words in result.out


@pytest.mark.parametrize("method", METHODS)
def test_show_runs_every_method(home: Home, shell: Shell, method: str) -> None:
    result = shell("show", method, "--backbone", home.backbone)
    assert result.code == 0, result.err
    assert "a prediction of one new image" in result.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fit", "PHOTOS", "--method", "linear_probe", "--epochs", 5], "takes no gradient steps"),
        (["fit", "PHOTOS", "--backbone", "mimi"], "Did you mean mini"),
        (["compare", "PHOTOS", "--shots", 0], "shots is 0"),
        (["compare", "PHOTOS", "--backbone", "mimi"], "Did you mean mini"),
        (["show", "coop", "--set", "words= "], "The initial words ' ' hold no word"),
        (["evaluate", "PHOTOS", "PHOTOS"], "is not a shotfit model"),
    ],
)
def test_what_needs_no_images_is_refused_before_they_are_read(
    home: Home, shell: Shell, words: list[object], sentence: str
) -> None:
    result = shell(*[home.photos if word == "PHOTOS" else word for word in words])
    assert sentence in one_line(result)
    assert not result.out


def test_folder_whose_name_is_no_text_is_fitted(home: Home, shell: Shell, tmp_path: Path) -> None:
    photos = tmp_path / os.fsdecode(b"b\xe9rds")
    try:
        tiny_task(photos)
    except OSError:
        assert sys.platform != "linux"  # where any bytes name a file
        return
    words = ["fit", photos, "--backbone", home.backbone, "--method", "zero_shot", "--shots", 2]
    result = shell(*words, "--out", tmp_path / "model")
    assert result.code == 0, result.err
    assert shell("evaluate", tmp_path / "model", photos, "--backbone", home.backbone).code == 0


def test_class_without_train_images_stops_fits_alone(home: Home, shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    tiny_task(folder / "train")
    shutil.copytree(folder / "train", folder / "test")
    missing = sorted((folder / "train").iterdir())[0]
    shutil.rmtree(missing)
    stopped = shell("fit", folder, "--backbone", home.backbone, "--out", tmp_path / "model")
    assert f"class {missing.name!r} has no train image" in one_line(stopped)
    result = shell("evaluate", home.model, folder, "--backbone", home.backbone)
    assert result.code == 0, result.err


def test_doctor_exits_with_3_on_errors_only(home: Home, shell: Shell, tmp_path: Path) -> None:
    assert shell("doctor", home.photos).code == 0
    broken = tmp_path / "photos" / "cat" / "a.png"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"")
    result = shell("doctor", tmp_path / "photos", "--json")
    assert result.code == 3
    assert json.loads(result.out)["errors"][0]["paths"] == [str(broken)]


def test_broken_image_stops_a_fit_unless_it_is_skipped(home: Home, shell: Shell, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    tiny_task(photos)
    next(photos.rglob("*.png")).write_bytes(b"no image")
    words = ["fit", photos, "--backbone", home.backbone, "--method", "zero_shot", "--shots", 2, "--out", tmp_path / "m"]
    result = shell(*words)
    assert result.code == 3
    assert "--skip-broken" in result.err.splitlines()[-1]
    assert not (tmp_path / "m").exists()
    assert shell(*words, "--skip-broken").code == 0


def test_cache_tells_its_size_and_is_cleared(
    home: Home, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    shell(
        "fit", home.photos, "--backbone", home.backbone, "--method", "zero_shot", "--shots", 2, "--out", tmp_path / "m"
    )
    assert json.loads(shell("cache", "--json").out)["bytes"] > 0
    assert shell("cache", "--clear").code == 0
    assert json.loads(shell("cache", "--json").out)["bytes"] == 0


def test_limit_of_the_cache_that_is_no_size_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOTFIT_CACHE_LIMIT", "plenty")
    result = shell("cache")
    assert (result.code, one_line(result).startswith("error: SHOTFIT_CACHE_LIMIT: 'plenty' is no size")) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["fot"], 2, "No such command 'fot'"),
        (["fit"], 2, "Missing argument"),
        (["fit", "PHOTOS", "--shot", "4"], 2, "No such option"),
        (["fit", "PHOTOS", "--shots", "few"], 2, "Invalid value for '--shots'"),
        (["fit", "PHOTOS", "--method", "tipadapter"], 2, "There is no method 'tipadapter'. Did you mean tip_adapter?"),
        (["fit", "PHOTOS", "--set", "alpha"], 2, "is no option=value"),
        (["fit", "PHOTOS", "--method", "tip_adapter_f", "--set", "size=3"], 2, "has no option 'size'"),
        (["fit", "PHOTOS", "--seed", "4294967296"], 2, "Invalid value for '--seed'"),
        (["fit", "PHOTOS", "--views", "100000"], 2, "views is 100000; expected a whole number from 0 to 1,000"),
        (["fit", "PHOTOS", "--method", "linear_probe", "--lr", "1"], 2, "linear_probe takes no gradient steps"),
        (["compare", "PHOTOS", "--seeds", "4294967296"], 2, "seed is 4294967296"),
        (["fit", "PHOTOS", "--views", "many"], 2, "--views is 'many'"),
        (["fit", "PHOTOS", "--memory", "lots"], 2, "'lots' is no size"),
        (["fit", "PHOTOS", "--precision", "half"], 2, "--precision is 'half'; expected auto, float32, bfloat16"),
        (["fit", "PHOTOS", "--without", "cut,gelu"], 2, "There is no saving 'gelu': use frozen_beginning, cut, shared"),
        (["fit", "PHOTOS", "--out", "PHOTOS"], 2, "is not a shotfit model: choose another --out"),
        (["fit", "PHOTOS", "--template", "a photo", "--out", "NEW"], 3, "the template 'a photo' holds {} 0 times"),
        (["fit", "nowhere", "--out", "NEW"], 3, "nowhere does not exist"),
        (["fit", "PHOTOS", "--out", "IMAGE/model"], 2, "is not a folder: choose another --out"),
        (["predict", "PHOTOS", "PHOTOS"], 3, "is not a shotfit model"),
        (["predict", "MODEL", "nowhere.png"], 3, "There is no image nowhere.png"),
        (["predict", "MODEL", "PHOTOS", "--format", "xml"], 2, "There is no format 'xml'"),
        (["predict", "MODEL", "PHOTOS", "--trust-backbone", "--classes", "a,b"], 2, "cannot predict others"),
        (["compare", "PHOTOS", "--shots", "1,,4"], 2, "--shots is '1,,4'"),
        (["show", "nothing"], 2, "There is no method 'nothing'"),
    ],
)
def test_wrong_input_is_one_line(
    home: Home, shell: Shell, tmp_path: Path, words: list[str], code: int, sentence: str
) -> None:
    places = {"PHOTOS": str(home.photos), "MODEL": str(home.model), "NEW": str(tmp_path / "new")}
    places |= {"IMAGE/model": f"{next(home.photos.rglob('*.png'))}/model"}
    result = shell(*[places.get(word, word) for word in words])
    assert sentence in one_line(result)
    assert result.code == code
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_the_default_of_every_flag(shell: Shell, command: str) -> None:
    options = shell(command, "--help").out.split("Options:")[1].split("Exit codes")[0]
    flags = [" ".join(text.split()) for text in re.split(r"\n(?=  -)", options)]
    without = [text for text in flags if text.startswith("--") and not re.search("default|required", text)]
    assert without == []


def test_a_path_with_a_space_is_quoted_to_be_typed_again(home: Home, shell: Shell, tmp_path: Path) -> None:
    words = ["fit", home.photos, "--backbone", home.backbone, "--method", "zero_shot", "--shots", 2]
    result = shell(*words, "--out", tmp_path / "my model")
    assert f"shotfit predict '{tmp_path}/my model' IMAGES" in result.out


def test_bug_is_one_line_and_a_traceback_with_debug(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("of two minds")

    monkeypatch.setattr("shotfit.commands.describe.overview", broken)
    result = shell("methods")
    assert result.code == 1
    assert "this is a bug" in one_line(result)
    assert "Traceback" in shell("--debug", "methods").err
    assert "Traceback" in shell("methods", "--debug").err


def test_interrupt_exits_with_130(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shotfit.commands.describe.overview", interrupted)
    result = shell("methods")
    assert (result.code, result.err.strip().splitlines()) == (130, ["interrupted"])


def test_names_of_the_package_stay_functions() -> None:
    program = (
        "import shotfit, sys; assert 'torch' not in sys.modules;"
        "import shotfit.fitting.fit, shotfit.evaluation.evaluate, shotfit.evaluation.compare;"
        "assert all(not isinstance(getattr(shotfit, name), type(sys)) for name in shotfit.__all__)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
