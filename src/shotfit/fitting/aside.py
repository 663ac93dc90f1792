"""A model as bytes, for those who keep it elsewhere than in a folder of the user's: a pickle, the hub.

contents = contents_of(model)                   # {"adapter.json": b"...", ...}
again = opened_from(contents, backbone)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from shotfit.engine.store import open_store
from shotfit.files import MODEL_BYTES, read_bytes
from shotfit.fitting.model import Model
from shotfit.methods.base import Method
from shotfit.towers.backbone import Backbone

__all__ = ["contents_of", "opened_from", "saved_aside"]


@contextmanager
def saved_aside(model: Model) -> Iterator[Path]:
    """The model in a folder that is gone in the end; where the model itself lies, if anywhere, stays as it was."""
    opened = model.opened
    with TemporaryDirectory(prefix="shotfit-") as place:
        try:
            yield model.save(Path(place) / "model")
        finally:
            model.opened = opened


def contents_of(model: Model) -> dict[str, bytes]:
    """The bytes of the model's files, by their names."""
    with saved_aside(model) as folder:
        return {path.name: read_bytes(path, MODEL_BYTES, "a file of a model") for path in sorted(folder.iterdir())}


def opened_from(contents: Mapping[str, bytes], backbone: Backbone, method: str | type[Method] | None = None) -> Model:
    """The model of such bytes, on the backbone that it was fitted on, which lies in no folder.

    Raises as `Model.open` does.
    """
    with TemporaryDirectory(prefix="shotfit-") as place:
        for name, content in contents.items():
            (Path(place) / name).write_bytes(content)
        model = Model.open(place, backbone, open_store(), method)
    model.opened = None
    return model
