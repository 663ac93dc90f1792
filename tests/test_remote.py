"""Sources that lie elsewhere: the rows of the same files here, whatever fails, and nothing that a list may not ask."""

from __future__ import annotations

import importlib
import io
import json
import socket
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import shotfit
from shotfit.commands.cli import main
from shotfit.data.images import open_image
from shotfit.data.parts import Parts
from shotfit.data.pictures import Picture
from shotfit.data.remote import files as remote_files
from shotfit.data.remote import listing, pictures, web
from shotfit.data.remote.addresses import Address
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError
from shotfit.fitting.fit import fit
from shotfit.testing.tiny import tiny_backbone, tiny_task

from .pictures import save
from .remote_servers import Web, running_s3, running_web
from .test_parts import tables

COUNT = 23
Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in `photos`, the same in archives and a table, a backbone and a model."""
    folder = tmp_path_factory.mktemp("remote")
    backbone, task = tiny_backbone(folder / "backbone"), tiny_task(folder / "task")
    fit(task, "tip_adapter", shots=1, backbone=backbone, store=MemoryStore()).save(folder / "model")
    for number in range(COUNT):
        save(folder / "photos" / ("" if number < 15 else "more") / f"{number:03}.png", seed=number)
    (folder / "photos" / "005.png").write_bytes(b"broken")
    files = sorted((folder / "photos").rglob("*.png"))
    (folder / "shards").mkdir()
    for number, some in enumerate((files[:13], files[13:])):
        with tarfile.open(folder / "shards" / f"{number}.tar", "w") as archive:
            for file in some:
                archive.add(file, file.name)
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in files:
            packed.write(file, file.name)
    table = pa.table({"image": pa.array([file.read_bytes() for file in files]), "id": list(range(COUNT))})
    pq.write_table(table, folder / "all.parquet", row_group_size=9)
    return folder


@pytest.fixture(scope="module")
def bucket(home: Path) -> Iterator[str]:
    """All of `home` in a bucket of S3, `s3://shop`, and its client."""
    with pytest.MonkeyPatch.context() as patch, running_s3(patch):
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket="shop")
        for file in sorted(home.rglob("*")):
            if file.is_file() and file.parts[len(home.parts)] in ("photos", "shards", "all.zip", "all.parquet"):
                client.put_object(Bucket="shop", Key=file.relative_to(home).as_posix(), Body=file.read_bytes())
        remote_files._system.cache_clear()
        yield "s3://shop"
        client.close()
    remote_files._system.cache_clear()


@pytest.fixture(scope="module")
def host(home: Path) -> Iterator[Web]:
    wanted = [*(home / "photos").rglob("*.png"), *(home / "shards").iterdir(), *home.glob("all.*")]
    with running_web({file.name: file.read_bytes() for file in wanted}) as running:
        yield running


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of any host or file, and nobody waits long."""
    remote_files._kept.clear()
    web._silent.clear()
    monkeypatch.setattr(web, "_PAUSES", (0.01, 0.01))


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, and the lines of standard error, of shotfit in an empty folder; the files of `home` lie beside."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "shards", "model", "all.zip", "all.parquet"):
        Path(name).symlink_to(home / name)

    def ran(*words: object, size: int = 10) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = main([*map(str, words), "--backbone", str(home / "backbone"), "--part-size", str(size)])
        return code, capsys.readouterr().err.splitlines()

    return ran


def rows(folder: str) -> dict[str, list[Any]]:
    return pa.concat_tables(tables(folder)).to_pydict()


def errors(folder: str) -> dict[str, str]:
    found = rows(folder)
    return {name: why for name, why in zip(found["image"], found["error"], strict=True) if why}


def without(found: dict[str, list[Any]], begin: str) -> dict[str, list[Any]]:
    """The rows with names, also in errors, that do not say where they are."""
    names = {"image": [one.removeprefix(begin) for one in found["image"]]}
    return found | names | {"error": [one and one.removeprefix(begin) for one in found["error"]]}


# The same rows


@pytest.mark.parametrize("words", [["predict", "model"], ["embed"]])
@pytest.mark.parametrize("name", ["photos", "shards/*.tar", "all.zip", "all.parquet"])
def test_rows_of_a_bucket_are_those_of_the_same_files_here(run: Run, bucket: str, words: list[str], name: str) -> None:
    local, _ = run(*words, name, "--out", "here")
    remote, err = run(*words, f"{bucket}/{name}", "--out", "there")
    assert (local, remote) == (4, 4), err  # one picture is broken
    assert len(rows("here")["image"]) == COUNT
    assert without(rows("there"), f"{bucket}/") == rows("here")


@pytest.mark.parametrize("name", ["0.tar", "{0..1}.tar", "all.zip", "all.parquet"])
def test_rows_of_the_web_are_those_of_the_same_files_here(run: Run, host: Web, name: str) -> None:
    path = f"shards/{name}" if name.endswith(".tar") else name
    run("embed", path, "--out", "here")
    assert run("embed", f"{host.url}/{name}", "--out", "there")[0] == 4
    assert without(rows("there"), f"{host.url}/") == without(rows("here"), "shards/")


@pytest.mark.parametrize("form", ["txt", "csv", "parquet"])
def test_rows_of_a_list_of_addresses_are_those_of_the_same_files_here(
    run: Run, host: Web, bucket: str, home: Path, form: str
) -> None:
    files = sorted((home / "photos").rglob("*.png"))
    names = [f"{bucket}/{one.relative_to(home)}" if number % 2 else f"{host.url}/{one.name}"
             for number, one in enumerate(files)]  # fmt: skip
    if form == "parquet":
        pq.write_table(pa.table({"path": names}), "list.parquet")
    else:
        Path(f"list.{form}").write_text("\n".join((["path"] if form == "csv" else []) + names))
    assert run("embed", f"list.{form}", "--out", "there")[0] == 4
    Path("here.txt").write_text("\n".join(map(str, files)))
    assert run("embed", "here.txt", "--out", "here")[0] == 4
    here, there = rows("here"), rows("there")
    assert there["image"] == names
    assert there["features"] == here["features"]


def test_shares_write_the_rows_of_one_process(run: Run, bucket: str) -> None:
    run("predict", "model", f"{bucket}/photos/", "--out", "one")
    for share in (2, 1):
        run("predict", "model", f"{bucket}/photos/", "--out", "shares", "--part", f"{share}/2")
    assert rows("one") == rows("shares")


def test_predictions_on_the_terminal_and_copies_take_addresses(
    run: Run, bucket: str, host: Web, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [f"{bucket}/photos/000.png", f"{host.url}/001.png", f"{bucket}/shards/0.tar::002.png"]
    words = ["predict", "model", *sources, "--backbone", str(home / "backbone"), "--format", "jsonl"]
    assert main([*words, "--copy-to", "sorted"]) == 0
    told = [json.loads(line)["image"] for line in capsys.readouterr().out.splitlines()]
    assert told == sources
    assert {path.name for path in Path("sorted").rglob("*.png")} == {"000.png", "001.png", "002.png"}
    assert len(host.gets("001.png")) <= 2


# Requests, bytes, memory


def test_a_shard_is_asked_for_once_in_blocks(run: Run, host: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "BLOCK", 8192)
    size = len(host.files["0.tar"])
    host.asked.clear()
    assert run("embed", f"{host.url}/0.tar", "--out", "features")[0] == 4
    assert len(host.gets("0.tar")) == -(-size // 8192)
    assert len({*host.gets("0.tar")}) == len(host.gets("0.tar"))


def test_of_a_shard_of_large_members_the_headers_are_read(host: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for number in range(4):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = 3 * 2**20
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    host.files["large.tar"] = content.getvalue()
    monkeypatch.setattr(remote_files, "BLOCK", 2**18)
    before = host.sent
    assert [len(part) for part in Parts([f"{host.url}/large.tar"])] == [4]
    assert host.sent - before < 2**20


def test_blocks_that_stay_in_memory_are_bounded(host: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "BLOCK", 1024)
    monkeypatch.setattr(remote_files, "KEPT", 4096)
    with remote_files.RemoteFile(Address(f"{host.url}/0.tar"), 2**30) as file:
        assert file.read() == host.files["0.tar"]
    assert remote_files._kept._bytes <= 4096
    assert sum(len(one.result()) for one in remote_files._kept._found.values()) == remote_files._kept._bytes


def test_folders_are_listed_by_pages(bucket: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 4)
    found = [str(picture) for part in Parts([f"{bucket}/photos/"]) for picture in part.pictures()]
    here = [str(picture) for part in Parts([str(home / "photos")]) for picture in part.pictures()]
    assert found == [f"{bucket}/{Path(name).relative_to(home)}" for name in here]


# What fails


def test_one_line_for_each_source_that_cannot_be_read_and_the_rest_is_done(
    run: Run, host: Web, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        sources = [f"{bucket}none/photos/", f"{host.url}/forbidden/0.tar", f"{closed}/0.tar", f"{host.url}/plain/1.tar",
                   f"{host.url}/cut/all.zip", "photos"]  # fmt: skip
        monkeypatch.setattr(remote_files, "BLOCK", 4096)
        code, err = run("embed", *sources, "--out", "features")
    assert code == 4
    told = [line for line in err if line.startswith("note: ")]
    assert len(told) == 5
    for source, why in [
        (f"{bucket}none/photos/", "does not exist"),
        (f"{host.url}/forbidden/0.tar", "no permission"),
        (closed, "does not answer"),
        (f"{host.url}/plain/1.tar", "sends no ranges"),
        (f"{host.url}/cut/all.zip", "broke off"),
    ]:
        assert [line for line in told if source in line and why in line], (source, told)
    assert len(rows("features")["image"]) == COUNT


def test_nothing_that_can_be_read_is_exit_code_3(run: Run, host: Web, home: Path) -> None:
    for source in (f"{host.url}/forbidden/0.tar", f"{host.url}/none.zip"):
        assert run("embed", source, "--out", "features")[0] == 3
        assert main(["predict", "model", source, "--backbone", str(home / "backbone")]) == 3
    assert not Path("features").exists()


def test_bucket_without_permission_is_one_line(run: Run, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {"anon": True})
    remote_files._system.cache_clear()
    code, err = run("embed", f"{bucket}/photos/000.png", "photos", "--out", "features")
    remote_files._system.cache_clear()
    assert code == 4, err
    assert "no permission" in errors("features")[f"{bucket}/photos/000.png"]


def test_members_in_front_of_a_cut_are_done(run: Run, host: Web) -> None:
    host.files["half.tar"] = host.files["0.tar"][: len(host.files["0.tar"]) // 2 + 100]
    code, err = run("embed", f"{host.url}/half.tar", "--out", "features")
    assert code == 4
    assert 1 < len(rows("features")["image"]) < 13
    assert [line for line in err if "half.tar is no .tar archive that can be read" in line]


def test_pictures_that_cannot_be_fetched_are_rows(run: Run, host: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "READ_SECONDS", 0.2)
    monkeypatch.setattr(pictures, "MAX_BYTES", 2**20)
    monkeypatch.setattr(pictures, "_SMALL", 2**16)
    names = ["forbidden/000.png", "cut/001.png", "silent/002.png", "endless/003.png", "none.png", "busy/004.png",
             "plain/006.png", "a b.png"]  # fmt: skip
    host.files["a b.png"] = host.files["007.png"]
    before = host.sent
    Path("list.txt").write_text("\n".join(f"{host.url}/{name}" for name in names))
    assert run("embed", "list.txt", "--out", "features")[0] == 4
    told = {name.removeprefix(f"{host.url}/"): why for name, why in errors("features").items()}
    assert {name: why.partition(name)[2] for name, why in told.items() if name in names[:5]} == {
        "forbidden/000.png": " may not be read (no permission): check your login, and what it may read.",
        "cut/001.png": " cannot be fetched: the host broke off in the middle.",
        "silent/002.png": f" cannot be fetched: {host.url} does not answer.",
        "endless/003.png": told["endless/003.png"].partition("endless/003.png")[2],
        "none.png": " does not exist. Replace or remove it.",
    }
    assert "more bytes than" in told["endless/003.png"]
    assert host.sent - before < 32 * 2**20
    assert sorted(told) == sorted(names[:5])


@pytest.fixture
def s3_on_host(bucket: str, host: Web, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The host is asked as S3 is: a bucket is one of its faults."""
    import fsspec

    def anew() -> None:
        remote_files._system.cache_clear()
        fsspec.get_filesystem_class("s3").clear_instance_cache()

    monkeypatch.setenv("AWS_ENDPOINT_URL", host.url)
    anew()
    yield
    anew()


def test_buckets_are_asked_again_where_that_may_help(s3_on_host: None, host: Web) -> None:
    host.times.clear()
    assert remote_files.whole(Address("s3://busy/000.png"), 10**6) == host.files["000.png"]
    assert host.times["/busy/000.png"] == 3


@pytest.mark.parametrize(("name", "why"), [("cut/000.png", "broke off"), ("forbidden/000.png", "no permission")])
def test_buckets_that_fail_are_one_line(s3_on_host: None, host: Web, name: str, why: str) -> None:
    host.times.clear()
    with pytest.raises(ShotfitError, match=f"s3://{name} .*{why}"):
        remote_files.whole(Address(f"s3://{name}"), 10**6)
    assert host.times[f"/{name}"] <= 3


def test_host_that_did_not_answer_three_times_is_left_alone(host: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "READ_SECONDS", 0.05)
    host.asked.clear()
    for number in range(5):
        with pytest.raises(ShotfitError, match="does not answer"):
            remote_files.whole(Address(f"{host.url}/silent/{number:03}.png"), 1000)
    assert len(host.asked) == 3 * web.TRIES


def test_archive_that_changes_after_it_was_listed_gives_no_other_pictures(host: Web) -> None:
    host.files["new.tar"] = host.files["0.tar"]
    (part,) = Parts([f"{host.url}/new.tar"])
    host.files["new.tar"] = host.files["1.tar"]
    remote_files._kept.clear()
    for picture in part.pictures():
        with pytest.raises(ShotfitError, match="changed after it was listed"):
            open_image(picture)


def test_archive_of_another_version_is_done_again(run: Run, host: Web) -> None:
    host.files["new.tar"] = host.files["0.tar"]
    run("embed", f"{host.url}/new.tar", "--out", "features")
    host.files["new.tar"] += bytes(512)
    remote_files._kept.clear()
    _, err = run("embed", f"{host.url}/new.tar", "--out", "features")
    assert [line for line in err if "2 parts had other pictures" in line]


# What may be asked, and what is shown


@pytest.mark.parametrize("address", [
    "file:///etc/hostname", "simplecache::http://HOST/000.png", "ssh://HOST/000.png", "zip://a::http://HOST/000.png",
    "local:///etc/hostname", "http://", "data://x", "http:///000.png", "github://me:x@/a.png", "memory://a.png",
    "reference://::http://HOST/000.png", "dask::http://HOST/000.png",
])  # fmt: skip
def test_list_cannot_ask_for_what_is_not_fetched(run: Run, host: Web, address: str) -> None:
    named = address.replace("HOST", host.url.removeprefix("http://"))
    Path("list.txt").write_text(f"{named}\nphotos/000.png\n")
    host.asked.clear()
    assert run("embed", "list.txt", "--out", "features")[0] == 4
    assert len(errors("features")) == 1 and host.asked == []


def test_command_line_cannot_ask_for_what_is_not_fetched(run: Run) -> None:
    code, err = run("embed", "file:///etc/hostname", "photos", "--out", "features")
    assert code == 3 and len(err) == 1 and "of a kind that is not fetched (file://)" in err[0]


def test_lines_of_standard_input_may_be_addresses(
    run: Run, host: Web, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"{host.url}/000.png", f"{bucket}/shards/1.tar", "file:///etc/hostname", f"{bucket}/none"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert run("embed", "-", "--out", "features")[0] == 4
    assert [*errors("features")] == lines[2:]
    assert len(rows("features")["image"]) == 1 + 10 + 2


@pytest.mark.parametrize("target", ["file:///etc/hostname", "s3://shop/photos/000.png", "ftp://127.0.0.1/x"])
def test_redirects_lead_to_the_web_alone(host: Web, target: str) -> None:
    host.target = target
    with pytest.raises(ShotfitError, match="cannot be fetched"):
        remote_files.whole(Address(f"{host.url}/elsewhere/000.png"), 10**6)


def test_redirects_on_the_web_are_followed(host: Web) -> None:
    host.target = f"{host.url}/000.png"
    assert remote_files.whole(Address(f"{host.url}/elsewhere/000.png"), 10**6) == host.files["000.png"]


def test_secrets_are_not_shown_and_a_new_signature_is_the_same_picture(run: Run, host: Web) -> None:
    def names(secret: str) -> list[str]:
        begin = host.url.replace("://", f"://me:{secret}@")
        return [f"{begin}/000.png?X-Amz-Signature={secret}&X-Amz-Credential={secret}", f"{begin}/none.png?sig={secret}",
                f"{begin}/forbidden/001.png?id=17&token={secret}"]  # fmt: skip

    for secret, there in (("s3cr3t", 0), ("s3cr3t-2", 1)):
        Path("list.txt").write_text("\n".join(names(secret)))
        code, err = run("embed", "list.txt", "--out", "features")
        assert code == 4 and "s3cr3t" not in " ".join(err)
        assert ("1 there before" in err[-1]) == bool(there)
    code, err = run("embed", *names("s3cr3t"), f"{host.url}/none.tar?sig=s3cr3t", "--out", "other")
    assert code == 4 and "s3cr3t" not in " ".join(err)
    for folder in ("features", "other"):
        found = rows(folder)
        digest = found["image"][2].partition("?")[2]
        assert found["image"] == [f"{host.url}/{name}" for name in
                                  ("000.png", "none.png", f"forbidden/001.png?{digest}")]  # fmt: skip
        assert len(digest) == 8
        for path in Path(folder).iterdir():
            assert b"s3cr3t" not in path.read_bytes()


def test_python_and_the_server_fetch_nothing(host: Web, home: Path) -> None:
    model = shotfit.load(home / "model", backbone=str(home / "backbone"))
    host.asked.clear()
    with pytest.raises(ShotfitError, match="not fetched"):
        model.predict(f"{host.url}/000.png")
    with pytest.raises(ShotfitError, match="not fetched"):
        open_image(Picture.of(f"{host.url}/000.png"))
    assert host.asked == []


@pytest.mark.parametrize("fault", ["", "plain/"])
def test_larger_pictures_are_refused(host: Web, fault: str) -> None:
    with pytest.raises(ShotfitError, match="more bytes than the 1,000 that are read of a picture"):
        remote_files.whole(Address(f"{host.url}/{fault}0.tar"), 1000)


@pytest.mark.parametrize(("source", "install"), [
    ("s3://shop/a.png", "pip install 'shotfit[remote]'"), ("gs://shop/a.png", "pip install 'shotfit[remote]' gcsfs"),
])  # fmt: skip
def test_missing_library_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, source: str, install: str) -> None:
    for name in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, name, None)
    known = importlib.import_module("fsspec.registry")._registry
    for name in [name for name in known if name in ("s3", "gs")]:
        monkeypatch.delitem(known, name)
    remote_files._system.cache_clear()
    code, err = run("embed", f"{source.rpartition('/')[0]}/", "--out", "features")
    remote_files._system.cache_clear()
    assert code == 2 and len(err) == 1 and install in err[0]


@pytest.mark.parametrize("words", [["fit"], ["evaluate", "model"]])
def test_tasks_are_read_from_this_machine(run: Run, home: Path, words: list[str], capsys: Any) -> None:
    assert main([*words, "s3://shop/photos/", "--backbone", str(home / "backbone")]) == 3
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("Copy it here first: aws s3 cp --recursive s3://shop/photos photos")
    )
