"""The API as a client asks it: the library's numbers, and a sentence for every mistake."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shotfit.errors import UsageError
from shotfit.fitting.asked import Asked
from shotfit.fitting.predict import as_object
from shotfit.fitting.predictions import Prediction
from shotfit.server.api import OPEN_PATHS, prediction_app
from shotfit.server.batching import Batches
from shotfit.server.limits import Limits
from shotfit.server.tokens import new_token, read_token
from tests.pictures import bomb
from tests.serving.conftest import HERE, Home

TOKEN = "a-token-that-nobody-guesses"


def sent(paths: list[Path]) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("files", (path.name, path.read_bytes(), "image/png")) for path in paths]


def same(found: list[dict[str, Any]], expected: list[Prediction]) -> None:
    """Names are those that were sent, numbers those of the library but for the last digits, which a batch changes."""
    for ours, library in zip(found, map(as_object, expected), strict=True):
        assert ours["image"] == Path(str(library["image"])).name
        assert ours.keys() == library.keys()
        assert [ours.get("set"), ours.get("unknown")] == [library.get("set"), library.get("unknown")]
        theirs: Any = library.get("predictions", [])
        for one, other in zip(ours.get("predictions", []), theirs, strict=True):
            assert one["label"] == other["label"]
            assert math.isclose(one["probability"], other["probability"], abs_tol=2e-5)


def test_answers_are_what_the_library_predicts(home: Home, client: TestClient) -> None:
    paths = home.pictures[::4]
    asked = {"top": "2", "coverage": "0.9", "unknown": "true"}
    answer = client.post("/v1/predict", files=sent(paths), data=asked)
    assert answer.status_code == 200
    same(answer.json()["predictions"], home.model().predict(paths, top=2, asked=Asked(0.9, unknown=True)))


def test_one_picture_is_enough_and_nothing_is_said_that_was_not_asked(home: Home, client: TestClient) -> None:
    (found,) = client.post("/v1/predict", files=sent(home.pictures[:1])).json()["predictions"]
    assert found.keys() == {"image", "predictions"} and len(found["predictions"]) == 1


def test_broken_picture_has_an_error_and_the_others_are_answered(home: Home, client: TestClient) -> None:
    path = home.pictures[0]
    files = [("files", ("text.jpg", b"no picture", "image/jpeg")), *sent([path])]
    answer = client.post("/v1/predict", files=files)
    broken, whole = answer.json()["predictions"]
    (expected,) = home.model().predict(b"no picture", keep_broken=True)
    assert answer.status_code == 200
    assert broken["error"] == str(expected.error).replace("image", "text.jpg", 1)
    same([whole], home.model().predict(path))


def test_picture_of_too_many_pixels_is_not_decoded(home: Home, client: TestClient, tmp_path: Path) -> None:
    large = sent([bomb(tmp_path / "bomb.png")])
    alone = client.post("/v1/predict", files=large)
    assert alone.status_code == 413 and "pixels" in alone.json()["detail"]
    among = client.post("/v1/predict", files=[*large, *sent(home.pictures[:1])])
    assert among.status_code == 200 and "pixels" in among.json()["predictions"][0]["error"]


def test_name_from_outside_is_answered_as_text(client: TestClient) -> None:
    name = "<img src=x>\x1b[31m.png"
    answer = client.post("/v1/predict", files=[("files", (name, b"", "image/png"))])
    assert "\x1b" not in answer.text and answer.headers["content-type"] == "application/json"
    assert "is empty" in answer.json()["predictions"][0]["error"]


def test_other_classes_and_tasks_where_the_method_can(home: Home) -> None:
    model = home.model("open")
    with TestClient(prediction_app(model), base_url=HERE) as client:
        paths = home.pictures[:2]
        asked = {"classes": 'robin, "gull, herring"', "top": "9"}
        answer = client.post("/v1/predict", files=sent(paths), data=asked)
        same(answer.json()["predictions"], model.for_classes(["robin", "gull, herring"]).predict(paths, top=9))
        new = client.post("/v1/predict", files=sent(paths), data={"classes": "a,b", "task": "letters"})
        same(new.json()["predictions"], model.for_task("letters", ["a", "b"]).predict(paths))
        fields = client.get("/v1/model").json()["fields"]
        assert fields["classes"] and fields["task"]


def test_class_names_that_the_tower_cannot_read_are_the_clients(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    with TestClient(prediction_app(home.model("open")), base_url=HERE) as client:
        for name in ("a" * 300, "a <end>"):
            answer = client.post("/v1/predict", files=sent(home.pictures[:1]), data={"classes": f"{name},b"})
            assert (answer.status_code, "aaa" in answer.text or "<end>" in answer.text) == (400, True)
    assert "error" not in capfd.readouterr().err


def test_requests_that_ask_different_things_at_once_get_each_its_own(home: Home) -> None:
    model, path, found = home.model("open"), home.pictures[0], dict[int, Any]()
    with TestClient(prediction_app(model), base_url=HERE) as client:

        def ask(number: int) -> None:
            asked = {"top": str(1 + number % 3)} | ({"classes": f"a,b,c{number % 2}"} if number % 4 > 1 else {})
            found[number] = client.post("/v1/predict", files=sent([path]), data=asked).json()["predictions"][0]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, one in found.items():
        other = number % 4 > 1
        chosen = model.for_classes(["a", "b", f"c{number % 2}"]) if other else model
        same([one], chosen.predict(path, top=1 + number % 3))
    assert len(found) == 24


def test_pictures_that_arrive_together_run_together(home: Home) -> None:
    with TestClient(prediction_app(home.model()), base_url=HERE) as client:
        client.post("/v1/predict", files=sent(home.pictures[:16]))
        counts = client.get("/metrics").text
    assert "shotfit_batch_pictures_sum 16.0" in counts and 'shotfit_pictures_total{outcome="predicted"} 16.0' in counts
    batches = float(counts.split("shotfit_batch_pictures_count ")[1].split()[0])
    assert batches < 16


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"top": "0"}, "top is '0'; expected a whole number"),
        ({"top": "two"}, "top is 'two'; expected a whole number"),
        ({"top": "1e999"}, "expected a whole number"),
        ({"coverage": "2"}, "coverage is 2.0; expected a share"),
        ({"coverage": "0.999"}, "needs 999 held-out images"),
        ({"unknown": "maybe"}, "expected true or false"),
        ({"classes": "a,,b"}, "single commas"),
        ({"classes": "a,b"}, "cannot predict others"),
        ({"task": "birds"}, "has no task 'birds'"),
        ({"url": "http://127.0.0.1/a.jpg"}, "no field url; use files, top, coverage"),
    ],
)
def test_field_that_cannot_be_used_is_400(home: Home, client: TestClient, fields: Any, sentence: str) -> None:
    answer = client.post("/v1/predict", files=sent(home.pictures[:1]), data=fields)
    assert answer.status_code == 400
    assert sentence in answer.json()["detail"] and "--" not in answer.json()["detail"].replace("--classes", "")


def test_file_of_classes_is_a_name_and_is_not_read(home: Home, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("secret\n")
    with TestClient(prediction_app(home.model("open")), base_url=HERE) as client:
        asked = {"classes": f"@{tmp_path}/names.txt"}
        answer = client.post("/v1/predict", files=sent(home.pictures[:1]), data=asked)
    assert "secret" not in answer.text


def test_more_than_the_limits_is_413(home: Home) -> None:
    limits = Limits(body=60_000, files=2, fields=2, field_bytes=100)
    with TestClient(prediction_app(home.model("open"), limits), base_url=HERE) as client:
        for files, fields, sentence in (
            ([("files", ("a.png", b"x" * 70_000, "image/png"))], {}, "at most 60,000 are read"),
            (sent(home.pictures[:3]), {}, "more than 2 pictures"),
            (sent(home.pictures[:1]), {"top": "1", "task": "a", "unknown": "false"}, "more than 2 fields"),
            (sent(home.pictures[:1]), {"classes": "a" * 101}, "more than 100 bytes"),
        ):
            answer = client.post("/v1/predict", files=files, data=fields)
            assert (answer.status_code, sentence in answer.json()["detail"]) == (413, True), answer.text


def test_body_of_another_kind_is_415(client: TestClient) -> None:
    answer = client.post("/v1/predict", content=b"\xff\xd8", headers={"content-type": "image/jpeg"})
    assert answer.status_code == 415 and "curl -F files=@photo.jpg" in answer.json()["detail"]


def test_full_queue_is_429_and_says_when_to_try_again(home: Home) -> None:
    with TestClient(prediction_app(home.model(), Limits(queue=2)), base_url=HERE) as client:
        answer = client.post("/v1/predict", files=sent(home.pictures[:3]))
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
        assert client.post("/v1/predict", files=sent(home.pictures[:2])).status_code == 200
    with TestClient(prediction_app(home.model(), Limits(held=10)), base_url=HERE) as client:
        assert client.post("/v1/predict", files=sent(home.pictures[:1])).status_code == 429


def test_bug_is_500_and_the_next_request_is_served(
    home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with TestClient(prediction_app(home.model()), base_url=HERE) as client:
        with monkeypatch.context() as patch:
            patch.setattr("shotfit.server.batching.predict_decoded", lambda *_: 1 / 0)
            answer = client.post("/v1/predict", files=sent(home.pictures[:1]))
        assert answer.status_code == 500 and "ZeroDivisionError" not in answer.text
        assert "ZeroDivisionError" in capfd.readouterr().err
        assert client.post("/v1/predict", files=sent(home.pictures[:1])).status_code == 200


def test_token_is_asked_for_where_the_model_is(home: Home) -> None:
    with TestClient(prediction_app(home.model(), token=TOKEN), base_url="http://anything") as client:
        for path in OPEN_PATHS:
            assert client.get(path).status_code == 200
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": "Basic x"}):
            answer = client.get("/v1/model", headers=header)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert client.post("/v1/predict", files=sent(home.pictures[:1]), headers=header).status_code == 401
            assert client.get("/metrics", headers=header).status_code == 401
        right = {"authorization": f"Bearer {TOKEN}"}
        assert client.get("/v1/model", headers=right).json()["tasks"][0]["classes"] == list(home.model().class_names)
        assert client.post("/v1/predict", files=sent(home.pictures[:1]), headers=right).status_code == 200


def test_without_a_token_only_names_of_this_machine_are_answered(home: Home, client: TestClient) -> None:
    for host, status in (("localhost:8000", 200), ("[::1]:80", 200), ("127.0.0.1", 200), ("evil.example", 403)):
        assert client.get("/v1/model", headers={"host": host}).status_code == status


@pytest.mark.parametrize("text", ["", "short", "with a space in the middle", "a" * 5000, "ä" * 20])
def test_token_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "token.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="--token-file"):
        read_token(tmp_path / "token.txt")


def test_token_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    token = new_token()
    (tmp_path / "token.txt").write_text(f"{token}\n")
    assert read_token(tmp_path / "token.txt") == token


def test_picture_in_another_field_is_told_the_right_one(client: TestClient) -> None:
    for content in (b"\xff\xd8", b"x" * 200_000):
        answer = client.post("/v1/predict", files={"file": ("new.jpg", content)})
        assert answer.status_code == 400
        assert "A file came in the field 'file'; expected" in answer.json()["detail"]


def test_model_is_described_without_the_machine(home: Home, client: TestClient) -> None:
    found = client.get("/v1/model").json()
    assert found["method"] == "tip_adapter"
    assert found["fields"] == {"coverage": True, "unknown": True, "classes": False, "task": False}
    assert str(home.folder.parent) not in json.dumps(found)


def test_unknown_route_says_where_to_look(client: TestClient) -> None:
    for answer, status in ((client.get("/v2"), 404), (client.get("/v1/predict"), 405)):
        assert (answer.status_code, "/docs" in answer.json()["detail"]) == (status, True)


def test_documentation_names_every_field_and_fetches_nothing(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    fields = schema["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    page = client.get("/docs")
    assert all(f"<code>{name}</code>" in page.text for name in fields["properties"])
    assert all(f"<code>{path}</code>" not in page.text or path for path in schema["paths"])
    assert "<script" not in page.text and "//" not in page.text.replace("Bearer", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_probes_tell_a_server_that_ends(home: Home) -> None:
    from shotfit.server.running import Stopping

    stopping = Stopping()
    with TestClient(prediction_app(home.model(), stopping=stopping), base_url=HERE) as client:
        assert client.get("/ready").json() == {"status": "ready"}
        stopping.asked = True
        assert (client.get("/ready").status_code, client.get("/health").status_code) == (503, 200)


def test_class_lists_that_were_asked_for_long_ago_are_forgotten(home: Home) -> None:
    model = home.model("open")
    batches = Batches(model, Limits())
    from shotfit.server.questions import Question

    for number in range(40):
        batches._model(Question(classes=("a", f"b{number}")))
    assert len(batches._others) == 16
    assert not model.frozen.store._rows  # type: ignore[union-attr]
