"""The recipes of docs/scale.md, on workers of this machine: each writes the rows of one process.

A cluster of one machine stands for Ray's launcher and for Kubernetes, whose YAML is read and whose commands run as they
stand. Spark is not installed here: what its `mapInPandas` calls is called with the same frames.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from shotfit.engine.store import MemoryStore
from shotfit.fitting.fit import fit
from shotfit.testing.tiny import tiny_backbone, tiny_task

from .pictures import save
from .test_docs import ROOT, blocks
from .test_parts import content

PAGE = ROOT / "docs" / "scale.md"
LAUNCHER, KUBERNETES = (yaml.safe_load(block) for block in blocks(PAGE, "yaml"))
SHELL = [block for block in blocks(PAGE, "sh") if "shotfit predict" in block]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos`, one of which is broken, `my-model`, and `labels-of-one`, the rows of one process."""
    folder = tmp_path_factory.mktemp("recipes")
    backbone, task = tiny_backbone(folder / "backbone"), tiny_task(folder / "task")
    fit(task, "tip_adapter", shots=1, backbone=backbone, store=MemoryStore()).save(folder / "my-model")
    for number in range(24):
        save(folder / "photos" / f"{number:03}.png", seed=number)
    (folder / "photos" / "007.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    tools = folder / "tools"  # what a machine of the recipe has in its PATH
    tools.mkdir()
    own = f'exec {sys.executable} -m shotfit "$@" --backbone backbone --part-size 8'
    tool(tools / "shotfit", own)
    tool(tools / "torchrun", f'exec {sys.executable} -m torch.distributed.run "$@"')
    tool(tools / "ray", f'exec {sys.executable} -m ray.scripts.scripts "$@"')
    assert (
        subprocess.run([tools / "shotfit", *predict("labels-of-one")], cwd=folder, stderr=subprocess.DEVNULL).returncode
        == 4
    )
    return folder


def tool(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def predict(out: str) -> list[str]:
    return ["predict", "my-model", "photos/", "--out", out]


def shell(place: Path, line: str, **more: str) -> tuple[int, str]:
    known = os.environ | {"PATH": f"{place}/tools:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"} | more
    done = subprocess.run(["bash", "-c", line], cwd=place, env=known, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stderr


def test_a_recipe_has_twenty_lines_at_most() -> None:
    found = [block for language in ("yaml", "sh", "bash", "python") for block in blocks(PAGE, language)]
    assert len(found) >= 7 and max(len(block.splitlines()) for block in found) <= 20


@pytest.mark.slow
def test_torchrun_gives_each_process_its_share(place: Path) -> None:
    (recipe,) = (block for block in SHELL if block.startswith("torchrun"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code, err = shell(place, recipe.replace("--out labels", "--out by-torchrun"), HEAD=f"127.0.0.1:{port}")
    assert code == 0, err
    assert content(place / "by-torchrun") == content(place / "labels-of-one")
    assert sorted(re.findall(r"by-torchrun: (\d) part", err)) == ["1", "2"]


@pytest.mark.slow
def test_cluster_of_the_launcher_is_joined_by_its_address(place: Path) -> None:
    """The commands that start it run as they stand, but for the port and for `ray stop`, which ends other clusters."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    stop, start = LAUNCHER["head_start_ray_commands"]
    assert LAUNCHER["worker_start_ray_commands"] == [
        stop,
        "RAY_USAGE_STATS_ENABLED=0 ray start --address=$RAY_HEAD_IP:6379",
    ]
    known = os.environ | {"PATH": f"{place}/tools:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
    start = f"exec env {start.replace('6379', port)} --num-cpus=1 --object-store-memory=100000000 --block"
    (recipe,) = (block for block in SHELL if block.startswith("ray up"))
    (command,) = re.findall(r'^ray exec cluster.yaml "cd /shared && (.*)"$', recipe, re.MULTILINE)
    here = command.replace("--address auto", f"--address 127.0.0.1:{port}").replace("--out labels", "--out by-cluster")
    head = subprocess.Popen(
        ["bash", "-c", start], env=known, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        ends = time.monotonic() + 100
        code, err = 3, ""
        while code == 3 and time.monotonic() < ends:  # nobody listens yet
            code, err = shell(place, here, RAY_AUTH_MODE="disabled")
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(60)
    (line,) = err.splitlines()
    assert code == 4 and line.startswith("written: by-cluster: 3 parts, 24 pictures, 1 not predicted"), err
    assert content(place / "by-cluster") == content(place / "labels-of-one")


@pytest.mark.slow
def test_job_of_kubernetes_is_one_and_its_command_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (KUBERNETES["apiVersion"], KUBERNETES["kind"]) == ("ray.io/v1", "RayJob")
    cluster = KUBERNETES["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert container["volumeMounts"][0]["name"] == group["template"]["spec"]["volumes"][0]["name"]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
    program, flag, line = shlex.split(KUBERNETES["spec"]["entrypoint"])
    assert (program, flag) == ("bash", "-c") and line.startswith("cd /shared && shotfit predict ")
    alone = line.replace("cd /shared", "cd .").replace(" --address auto", "").replace("--out labels", "--out by-job")
    code, err = shell(place, alone)
    assert code == 0, err
    assert content(place / "by-job") == content(place / "labels-of-one")


def test_function_of_the_page_gives_spark_the_rows(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (block,) = (block for block in blocks(PAGE, "python") if "mapInPandas" in block)
    names: dict[str, Any] = {}
    exec(block.replace('shotfit.load("my-model")', 'shotfit.load("my-model", backbone="backbone")'), names)
    paths = sorted(map(str, Path("photos").iterdir()))
    frames = [pd.DataFrame({"path": paths[start : start + 8]}) for start in range(0, len(paths), 8)]
    found = pd.concat(names["predicted"](iter(frames)), ignore_index=True)
    expected = pq.ParquetDataset(sorted(Path("labels-of-one").glob("*.parquet"))).read().to_pandas()
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert [words.split()[0].strip("`") for words in names["COLUMNS"].split(", ")] == list(expected.columns)
