"""A folder of static files that classifies in the browser: the page, onnxruntime-web, and the graph beside them.

    files = {"model.onnx": graph} | page_files()

The page lies in `assets/web/`: `pixels.js` resizes as Pillow does, `worker.js` runs the graph, `page.js` is what people
see. It reads `export.json`, and fetches nothing from elsewhere. `ort.*` is onnxruntime-web as it is published; see
docs/supply-chain.md.
"""

from __future__ import annotations

from pathlib import Path

import shotfit
from shotfit.errors import UsageError

__all__ = ["check_size", "page_files"]

LARGEST = 2**30  # bytes of weights; a browser's WebAssembly has 4 GB, of which the runtime needs several times as much


def page_files() -> dict[str, bytes]:
    """The files of the page by name."""
    folder = Path(shotfit.__file__).parent / "assets" / "web"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def check_size(files: dict[str, bytes]) -> None:
    """Refuse a graph that no browser has room for. Raises UsageError."""
    size = sum(map(len, files.values()))
    if size > LARGEST:
        raise UsageError(
            f"The model has {size:,} bytes, and a browser runs at most {LARGEST:,}: add --precision float16 or int8, "
            "or fit on a smaller backbone."
        )
