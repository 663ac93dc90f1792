"""Workers that are forked after a model was loaded predict, or say in a line why they cannot."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError
from shotfit.fitting.fit import fit
from shotfit.testing.tiny import tiny_task
from shotfit.towers import forks

PROGRAM = """
import multiprocessing, shotfit, torch
torch.set_num_threads(2)
model = shotfit.load("model")
import pathlib
photos = sorted(map(str, pathlib.Path("photos").rglob("*.png")))
here = model.predict(photos)
def there(_):
    rows = model.predict(photos)
    return [row.labels for row in rows], torch.get_num_threads()
with multiprocessing.get_context("fork").Pool(2) as pool:
    answers = pool.map_async(there, range(2)).get(timeout=60)
assert answers == [([row.labels for row in here], 1)] * 2, answers
assert torch.get_num_threads() == 2
print("ok")
"""

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")


def test_workers_forked_after_a_prediction_predict_the_same(tmp_path: Path) -> None:
    task = tiny_task(tmp_path / "photos")
    fit(task, "zero_shot", shots=1, backbone="mini", store=MemoryStore()).save(tmp_path / "model")
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "SHOTFIT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr


def test_model_on_a_gpu_is_refused_in_a_forked_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_on_gpu", True)
    assert forks.check_device(torch.device("cpu")).type == "cpu"
    with pytest.raises(ShotfitError, match=r"does not outlive a fork: load it in the worker"):
        forks.check_device(torch.device("cuda:0"))
