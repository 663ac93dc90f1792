"""`shotfit push`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from shotfit.commands import flags
from shotfit.commands.console import print_json, to

__all__ = ["push"]


def push(
    model: flags.Model,
    repository: Annotated[str, typer.Argument(help="owner/name on the hub; made where it is not there yet.")],
    private: Annotated[
        bool,
        typer.Option("--private/--public", help="Who may see a repository that is made; one that exists has to fit."),
    ] = True,
    license: Annotated[
        str | None,
        typer.Option("--license", help="As the hub writes it: apache-2.0, mit, cc-by-4.0, ...", show_default="none"),
    ] = None,
    datasets: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="One on the hub that it was fitted to; may be repeated.", show_default="none"),
    ] = None,
    message: Annotated[str, typer.Option(help="What the commit says.")] = "Push a model of shotfit",
    as_json: flags.Json = False,
) -> None:
    """Put a fitted model on the Hugging Face hub, privately unless you say --public.

    Its own three files are uploaded, in one commit; nothing that lies beside them is. The login is that of the hub's
    client: run `hf auth login` once, or set HF_TOKEN. What the model tells of its images is in docs/hub.md.

    \b
    Examples:
      shotfit push shotfit-model owner/birds
      shotfit push shotfit-model owner/birds --public --license apache-2.0
      shotfit predict hf://owner/birds new.jpg
    """
    from shotfit.fitting.pushing import push as put

    say = to(sys.stderr if as_json else sys.stdout)
    pushed = put(model, repository, private=private, license=license, datasets=datasets or (), message=message)
    what = f"pushed: {', '.join(pushed.files)}" if pushed.changed else "nothing to push: the hub has the same files"
    say(what)
    say(f"{'private' if pushed.private else 'public'}: {pushed.url}")
    say(f"predict: shotfit predict {pushed.address} image.jpg")
    if as_json:
        print_json(asdict(pushed))
