"""`shotfit verify`."""

from __future__ import annotations

import sys
from dataclasses import asdict

import typer

from shotfit.commands import flags
from shotfit.commands.console import print_json, to
from shotfit.errors import ShotfitError, plural

__all__ = ["verify"]


def verify(
    model: flags.Model,
    backbone: flags.ModelBackbone = None,
    trust_backbone: flags.TrustBackbone = False,
    method: flags.MethodFile = None,
    as_json: flags.Json = False,
) -> None:
    """Check a model's folder without running it: its files, hashes, record and options, and every tensor.

    Exits with 3 if something is wrong, with 0 if not. What cannot be checked, such as a backbone that is not on this
    machine, is said and is not wrong.

    \b
    Examples:
      shotfit verify shotfit-model
      shotfit verify shotfit-model --json
      shotfit verify hf://owner/name@v1        a model on the hub, before it is used
    """
    from shotfit.fitting.addresses import called, local_folder
    from shotfit.fitting.verify import verify as look_at

    say = to(sys.stderr if as_json else sys.stdout)
    folder = local_folder(model)
    name = called(folder)
    checks = look_at(folder, backbone, method, trust_backbone)
    for check in checks:
        say(f"{check.name:9} {check.outcome:12} {check.said}")
    wrong = [check for check in checks if check.outcome == "wrong"]
    left_out = sum(check.outcome == "not checked" for check in checks)
    say(f"{name}: {f'{len(wrong)} wrong' if wrong else 'nothing wrong'} in {plural(len(checks) - left_out, 'check')}")
    if as_json:
        print_json({"model": name, "ok": not wrong, "checks": [asdict(check) for check in checks]})
    if wrong:
        raise typer.Exit(ShotfitError.exit_code)
