"""`shotfit export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shotfit.commands import completion, flags
from shotfit.commands.console import print_json, say_terms, to
from shotfit.errors import UsageError, plural

if TYPE_CHECKING:
    from shotfit.export.write import Kind, Precision

__all__ = ["export"]


def export(
    model: flags.Model,
    kind: Annotated[
        str,
        typer.Option(
            "--to",
            help="onnx, openvino, web (a page that classifies in the browser), or classifier: the class matrix alone, "
            "for use with transformers or open_clip.",
            autocompletion=completion.choices("onnx", "openvino", "web", "classifier"),
        ),
    ] = "onnx",
    out: Annotated[
        Path, typer.Option(help="The folder to write; an older export there is replaced, anything else is not.")
    ] = Path("shotfit-export"),
    precision: Annotated[
        str,
        typer.Option(
            help="float32, float16 (half the size, the same arithmetic) or int8 (a quarter, and it computes in int8).",
            autocompletion=completion.choices("float32", "float16", "int8"),
        ),
    ] = "float32",
    images: Annotated[
        Path | None,
        typer.Option(
            help="Pictures to compare the export on, best in class folders: what a lower precision costs is measured "
            "on them, and int8 is calibrated on them.",
            show_default="generated ones",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Which task, of a model of several.", show_default="the only one")
    ] = None,
    backbone: flags.ModelBackbone = None,
    trust_backbone: flags.TrustBackbone = False,
    method: flags.MethodFile = None,
    as_json: flags.Json = False,
) -> None:
    """Write a fitted model as a folder that runs without shotfit and without torch.

    The graph holds the image tower with all that the method put into it, the head and the calibration; export.json the
    classes and the preprocessing; README.md the code that runs it. Before anything is written the export is compared
    with the model.

    \b
    Examples:
      shotfit export shotfit-model
      shotfit export shotfit-model --to openvino --out my-openvino
      shotfit export shotfit-model --to web --out my-page
      shotfit export shotfit-model --precision int8 --images photos/ --out my-int8
      shotfit export shotfit-model --to classifier --out my-classifier
    """
    chosen, computing = _as_kind(kind), _as_precision(precision)
    from shotfit.engine.store import MemoryStore
    from shotfit.evaluation.several import load_task
    from shotfit.export.libraries import check_installed
    from shotfit.export.write import check_target, export_model

    say = to(sys.stderr if as_json else sys.stdout)
    check_installed(chosen)
    check_target(out)
    fitted = load_task(model, task, backbone, method, "float32", "cpu", MemoryStore(), trust_backbone)
    written = export_model(fitted, chosen, out, precision=computing, images=images, task=task)
    for line in summary(written.record):
        say(line)
    say(f"written: {out}")
    say_terms(written.record["card"]["backbone"], to(sys.stderr))
    if as_json:
        print_json({"export": str(out)} | {name: written.record[name] for name in SHOWN})


SHOWN = ("kind", "model", "precision", "task", "classes", "compared", "sha256")


def summary(record: dict[str, Any]) -> list[str]:
    """How the export compared with the model."""
    found = record["compared"]
    what = plural(found["images"], "image" if found["given"] else "generated image")
    lines = [f"compared with the model in float32 on {what}: the same class on {100 * found['same']:.1f} %"]
    if record["precision"] == "float32":
        lines[0] += f", logits within {found['difference']:.1g}"
    if "as_fitted" in found:
        own, same = found["as_fitted"]["precision"], 100 * found["as_fitted"]["same"]
        lines.append(f"the model as it was fitted, in {own}, has the same class on {same:.1f} %")
    if found.get("accuracy"):
        before, after = (100 * found["accuracy"][name] for name in ("model", "export"))
        labelled = plural(found["labelled"], "labelled image")
        lines.append(f"accuracy on {labelled}: {before:.1f} % in float32, {after:.1f} % in {record['precision']}")
    if "calibrated_on" in found:
        lines.append(f"int8 was calibrated on {plural(found['calibrated_on'], 'other image')}")
    return lines


def _as_kind(text: str) -> Kind:
    if text in ("onnx", "openvino", "web", "classifier"):
        return text  # type: ignore[return-value]  # as checked
    raise UsageError(f"--to is {text!r}; expected onnx, openvino, web or classifier.")


def _as_precision(text: str) -> Precision:
    if text in ("float32", "float16", "int8"):
        return text  # type: ignore[return-value]  # as checked
    raise UsageError(f"--precision is {text!r}; expected float32, float16 or int8.")
