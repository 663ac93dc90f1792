"""The labelling page's server as a program talks to it: whom it answers, what it keeps, and what a kill leaves."""

from __future__ import annotations

import csv
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from shotfit.commands.cli import main
from shotfit.data.readers import read_task
from shotfit.server.app.journal import NAME
from tests.apps import App, unsorted_clipart


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unsorted_clipart(tmp_path_factory.mktemp("pictures"), of_each=4)


@pytest.fixture(scope="module")
def shared(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A server for tests that ask, and change nothing that another one counts on."""
    folder = tmp_path_factory.mktemp("shared") / "photos"
    shutil.copytree(pictures, folder)
    with App(folder, here=tmp_path_factory.mktemp("here")) as app:
        yield app


@pytest.fixture
def folder(pictures: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pictures, tmp_path / "photos"))


def asked(app: App, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """The answer to a request of which nothing is added by a library but its host, unless that is given."""
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=30)
    connection.putrequest(method, path, skip_host="host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def inside(app: App) -> str:
    """The path of the page, with the token."""
    return "/" + app.address.split("/", 3)[3]


# Whom it answers


def test_without_the_token_nothing_is_answered(shared: App) -> None:
    for path in ("/", "/assets/main.js", "/api/state", "/wrong/api/state", f"{inside(shared)[:-2]}/api/state"):
        status, _, said = asked(shared, path)
        assert status == 403, path
        assert b"token" in said


def test_a_name_that_was_bound_to_this_machine_is_refused(shared: App) -> None:
    for host in ("evil.example", f"evil.example:{shared.port}", "127.0.0.1", "127.0.0.1:1", ""):
        assert asked(shared, inside(shared), host=host)[0] == 421, host
    assert asked(shared, inside(shared), host=f"localhost:{shared.port}")[0] == 200


def test_another_site_is_refused_even_with_the_token(shared: App) -> None:
    path = f"{inside(shared)}api/class"
    for headers in (
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": f"http://127.0.0.1:{shared.port + 1}"},
        {"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"},
    ):  # fmt: skip
        assert asked(shared, path, "POST", content_length="0", **headers)[0] == 403, headers


def test_the_headers_forbid_what_does_not_come_from_here(shared: App) -> None:
    for path in ("", "assets/main.js", "api/state", "missing"):
        _, headers, _ = asked(shared, inside(shared) + path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
        assert "set-cookie" not in headers


def test_paths_lead_to_nothing_but_the_pictures_and_the_page(shared: App) -> None:
    for path in (
        "assets/../site.py",
        "assets/..%2fsite.py",
        "small/..%2f..%2fetc%2fpasswd",
        "plot/fit.json",
        "large/x",
    ):
        status, _, said = asked(shared, inside(shared) + path)
        assert status in (400, 404), path
        assert b"import" not in said


def test_more_than_its_share_is_refused(shared: App) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=30)
    body = b'{"names": ["' + b"a" * 9_000_000 + b'"]}'
    connection.request("POST", f"{inside(shared)}api/confirm", body)
    answer = connection.getresponse()
    assert answer.status == 400
    assert "bytes" in json.loads(answer.read())["error"]
    connection.close()


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b"\xff", b"[" * 100_000, b'{"labels": {"x": 1}}', b'{"labels": [1]}', b"{}"]
)
def test_what_is_no_question_gets_a_sentence(shared: App, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=30)
    connection.request("POST", f"{inside(shared)}api/label", body)
    answer = connection.getresponse()
    assert answer.status == 400
    assert json.loads(answer.read())["error"].endswith(".")
    connection.close()


def test_pictures_come_small_large_and_as_jpeg(shared: App) -> None:
    name = shared.state()["names"][0]
    for size in ("small", "large"):
        status, headers, content = asked(shared, f"{inside(shared)}{size}/{name}")
        assert (status, headers["content-type"], content[:3]) == (200, "image/jpeg", b"\xff\xd8\xff")
        assert "immutable" in headers["cache-control"]


# What it keeps


def test_labels_classes_and_undo(folder: Path) -> None:
    with App(folder) as app:
        first, second, third = app.state()["names"][:3]
        app.post("label", labels={first: "bird", second: "bird", third: "plane"})
        left = app.post("label", labels={first: None, third: None}, expected={first: "bird", third: "bird"})["left"]
        assert left == [third]  # somebody had said something else by then
        assert app.labels() == {"bird_02.png": "bird", "bird_03.png": "plane"}
        app.post("rename", name="plane", to="bird")
        assert app.labels() == {"bird_02.png": "bird", "bird_03.png": "bird"}
        assert "has 2 pictures" in app.post("drop", name="bird")["error"]
        app.post("class", name="  two   words ")
        assert app.state()["classes"] == ["bird", "two words"]
        app.post("drop", name="two words")
        assert app.state()["classes"] == ["bird"]


@pytest.mark.parametrize("name", ["", "  ", "_", "x" * 201, "a\x1b[31mb", "a\u202eb", "a\x00"])
def test_class_names_that_nobody_could_read_are_refused(shared: App, name: str) -> None:
    assert shared.post("class", name=name)["error"].endswith(".")


def test_class_folders_are_labels_that_the_journal_overrules(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent.parent / "examples" / "clipart" / "bird", tmp_path / "photos" / "bird")
    shutil.copytree(Path(__file__).parent.parent / "examples" / "clipart" / "house", tmp_path / "photos" / "house")
    shutil.copy(tmp_path / "photos" / "bird" / "bird_01.png", tmp_path / "photos" / "new.png")
    with App(tmp_path / "photos") as app:
        assert app.state()["classes"] == ["bird", "house"]
        assert "new.png" not in app.labels()
        name = app.state()["names"][0]
        app.post("label", labels={name: None})
        assert "bird/bird_01.png" not in app.labels()
        assert app.labels()["bird/bird_02.png"] == "bird"
    with App(tmp_path / "photos", "--unsorted") as app:
        assert app.labels() == {}


def test_pictures_that_come_later_are_found(folder: Path) -> None:
    with App(folder) as app:
        count = len(app.state()["names"])
        shutil.copy(folder / "bird_01.png", folder / "zzz.png")
        time.sleep(3.5)  # so long it trusts what it has seen
        app.state()
        until = time.monotonic() + 10
        while len(app.state()["names"]) == count and time.monotonic() < until:
            time.sleep(0.1)
        assert len(app.state()["names"]) == count + 1


def test_no_picture_is_moved_or_changed_and_labels_are_taken_along(folder: Path, tmp_path: Path) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    here = tmp_path / "here"
    here.mkdir()
    with App(folder, here=here) as app:
        state = app.state()
        app.post("label", labels=dict(zip(state["names"][:8], ["=bird", "a/b"] * 4, strict=True)))
        for form, name in (("csv", "labels.csv"), ("folders", "sorted"), ("imagefolder", "hub")):
            app.post("take", form=form, name=name)
            _done(app)
        app.post("take", form="folders", name="linked", link=True)
        _done(app)
        labels = app.labels()
    assert {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.name != NAME
    } == before
    with (here / "labels.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)][:2] == ["'=bird", "a/b"]
    assert read_task(here / "labels.csv", images=folder).classes.names == ("=bird", "a/b")
    assert sorted(path.name for path in (here / "sorted").iterdir()) == ["=bird", "a_b"]
    assert len([*(here / "sorted").rglob("*.png")]) == 8
    assert all(path.is_symlink() for path in (here / "linked").rglob("*.png"))
    task = read_task(here / "hub")
    assert len(task.train) + len(task.test) == len(labels)
    with (here / "hub" / "metadata.csv").open() as file:
        assert {row["file_name"] for row in csv.DictReader(file)} == {*labels}


def test_nothing_is_written_but_where_it_was_started(shared: App) -> None:
    for name in ("../out", "/tmp/out", "", ".", "a/../../b", "x\x1b"):
        assert "error" in shared.post("save", name=name), name
        assert "error" in shared.post("take", form="csv", name=name), name


def _done(app: App) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        job = app.state()["job"]
        if job["state"] != "running":
            assert job["state"] == "done", job
            return
        time.sleep(0.05)
    raise AssertionError("still running")


def test_the_server_does_without_torch() -> None:
    program = "import sys, shotfit.server.app.start, shotfit.server.app.site; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


# What a kill leaves, and several at once


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.browser)])  # 30 take a minute
def test_no_acknowledged_label_is_lost_by_kills(folder: Path, tmp_path: Path, kills: int) -> None:
    draw, known, told = random.Random(7), dict[str, str](), 0
    env = {"SHOTFIT_CACHE": str(tmp_path / "cache")}
    for number in range(kills):
        app = App(folder, env=env)
        state = app.state()
        paths = dict(zip(state["names"], state["paths"], strict=True))
        killer, begun = threading.Timer(draw.uniform(0.0, 0.12), app.process.kill), told
        try:
            while True:
                if told == begun + 1:  # on a busy machine the first label takes longer than the timer
                    killer.start()
                name, label = draw.choice(state["names"]), f"class {draw.randrange(6)} {number}"
                answer = app.post("label", labels={name: label})
                assert "error" not in answer, answer
                known[paths[name]], told = label, told + 1
        except (OSError, http.client.HTTPException, ValueError):  # killed; that last one was not acknowledged
            pass
        killer.join()
        app.kill()
    with App(folder, env=env) as app:
        found, state = app.labels(), app.state()
    assert state["damaged"] == 0
    lost = {path: label for path, label in known.items() if found.get(path) != label}
    assert len(lost) <= kills  # written, and killed before it was acknowledged: a newer label of the same picture
    for path, label in lost.items():
        assert found[path].startswith("class "), (path, label, found.get(path))
        assert int(found[path].split()[2]) >= int(label.split()[2]), (path, label, found[path])
    assert told >= kills


def test_two_servers_on_one_folder_keep_the_union_and_hear_of_each_other(folder: Path) -> None:
    with App(folder) as one, App(folder) as other:
        names = one.state()["names"]
        stream = http.client.HTTPConnection("127.0.0.1", one.port, timeout=30)
        stream.request("GET", f"{inside(one)}api/events")
        heard = stream.getresponse()
        heard.fp.readline()  # hello
        threads = [
            threading.Thread(target=lambda app=app, own=own: [app.post("label", labels={name: "cat"}) for name in own])
            for app, own in ((one, names[:15]), (other, names[15:30]))
        ]
        for thread in threads:
            thread.start()
        told = set[str]()
        while len(told) < 30:
            line = heard.fp.readline()
            if line.startswith(b"data:") and b"labels" in line:
                told |= json.loads(line[5:])["labels"].keys()
        for thread in threads:
            thread.join()
        stream.close()
        assert told == {*names[:30]}
        assert len(other.labels()) == 30


def test_ctrl_c_ends_it_while_a_page_listens(folder: Path) -> None:
    app = App(folder)
    stream = http.client.HTTPConnection("127.0.0.1", app.port, timeout=30)
    stream.request("GET", f"{inside(app)}api/events")
    stream.getresponse().fp.readline()
    began = time.monotonic()
    assert app.stop() == 0
    assert time.monotonic() - began < 8
    stream.close()


def test_clearing_the_cache_takes_what_the_page_kept_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    with App(folder, env={"SHOTFIT_CACHE": str(cache)}) as app:
        app.get(f"small/{app.state()['names'][0]}")
        app.post("label", labels={app.state()["names"][0]: "bird"})
    assert (cache / "thumbnails.sqlite").stat().st_size > 0
    (home,) = (cache / "app").iterdir()
    (home / "fit.json").write_text("{}")
    (cache / "app" / "mine.txt").touch()
    monkeypatch.setenv("SHOTFIT_CACHE", str(cache))
    assert main(["cache", "--clear"]) == 0
    assert not home.exists()
    assert not (cache / "thumbnails.sqlite").exists()
    assert (cache / "app" / "mine.txt").exists()
    assert (folder / NAME).exists()  # labels are no cache


# Folders that it cannot show


def test_what_is_no_folder_of_pictures_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("hello")
    for name, said in (("missing", "is no folder"), ("empty", "holds no pictures"), ("file.txt", "is no folder")):
        assert main(["app", str(tmp_path / name), "--no-browser"]) == 3
        assert said in capfd.readouterr().err


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = unsorted_clipart(tmp_path / "photos", of_each=1)
    for name in ("b.mp4", "c.nef", "d.nef", "notes.txt"):
        (folder / name).touch()
    with App(folder) as app:
        state = app.state()
    said = "Left out: 1 clip and 2 pictures of a format that is not read (b.mp4, c.nef, d.nef)."
    assert (len(state["names"]), state["passed_over"], state["left_out"]) == (10, 3, said)
    for path in folder.glob("*.png"):
        path.unlink()
    assert main(["app", str(folder), "--no-browser"]) == 3
    assert said in capfd.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes elsewhere")
def test_hostile_names_of_files_and_classes_pass_through(tmp_path: Path) -> None:
    kinds = ["<img src=x onerror=alert(1)>", "a\x1b[31mred", "b\nc", os.fsdecode(b"\xff\xfe"), "'; DROP TABLE"]
    for number, kind in enumerate(kinds):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number * 40, 9, 9)).save(tmp_path / "photos" / kind / "x.png")
    with App(tmp_path / "photos") as app:
        state = app.state()
        assert sorted(state["classes"]) == sorted(kinds)
        app.post("label", labels={state["names"][0]: kinds[3]})
        for name in state["names"]:
            assert app.get(f"small/{name}")[:3] == b"\xff\xd8\xff"
