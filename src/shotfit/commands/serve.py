"""`shotfit serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.arguments import as_bytes, as_precision
from shotfit.commands.console import to

__all__ = ["serve"]


def serve(
    model: flags.Model,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 is every one of this machine, and needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="Answer only those who send the token in this file: Authorization: Bearer TOKEN.",
            show_default="none",
        ),
    ] = None,
    max_body: Annotated[
        str, typer.Option("--max-body", metavar="SIZE", help="The largest request, such as 20MB.")
    ] = "64MiB",
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=1, help="How many pictures may wait; beyond that the answer is 429.")
    ] = 512,
    task: Annotated[
        str | None, typer.Option(help="Which of the fitted tasks to serve.", show_default="all, or the only one")
    ] = None,
    backbone: flags.ModelBackbone = None,
    trust_backbone: flags.TrustBackbone = False,
    method: flags.MethodFile = None,
    precision: flags.ModelPrecision = None,
    device: flags.Device = "auto",
) -> None:
    """Serve a fitted model over HTTP.

    POST pictures to /v1/predict in the field files, and the answer has what `shotfit predict` prints, as JSON. /docs
    documents the API, /health and /ready are for probes, /metrics for Prometheus. Pictures of requests that arrive
    together run together. No address is fetched, and no other model is opened. Ctrl-C or SIGTERM answers what was
    accepted, and ends with 0. docs/serving.md has a container file and clients.

    \b
    Examples:
      shotfit serve shotfit-model
      curl -F files=@new.jpg -F top=3 http://127.0.0.1:8000/v1/predict
      shotfit serve shotfit-model --host 0.0.0.0 --port 80 --token-file token.txt
      curl -H "Authorization: Bearer $(cat token.txt)" -F files=@new.jpg http://my.host/v1/predict
    """
    computing = None if precision is None else as_precision(precision)
    body = as_bytes("--max-body", max_body)
    from shotfit.server.running import check_installed, listening
    from shotfit.server.tokens import read_token

    check_installed()
    token = None if token_file is None else read_token(token_file)
    with listening(host, port, token) as place:
        from shotfit.engine.store import NoStore
        from shotfit.evaluation.several import load_task
        from shotfit.server.limits import Limits
        from shotfit.server.serving import serve_model

        limits = Limits(body=body or Limits.body, queue=max_queue)
        fitted = load_task(model, task, backbone, method, computing, device, NoStore(), trust_backbone, True)
        if task is not None:
            fitted = fitted.for_task(task)
        say = to(sys.stdout)
        started = f"serving {model} on {place.address} (documentation: {place.address}/docs; Ctrl-C ends it)"
        answered = serve_model(fitted, place, token, limits, lambda: say(started))
        say(f"ended: {answered:,} {'request' if answered == 1 else 'requests'} answered")
