"""Known holes of the locked versions, by pip-audit: exit 1 if there is one that audit-exceptions.txt does not name.

Where its database cannot be reached, that is one line, and no failure: a build does not wait for a service.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXCEPTIONS = ROOT / ".ci" / "audit-exceptions.txt"
LOCKS = ("test.txt", "originals.txt", "torch.txt")
SECONDS = 120


def main() -> int:
    """Look up every locked version, print what was found, and give the exit code."""
    answer = looked_up()
    checked = [package for package in (answer or {}).get("dependencies", []) if "vulns" in package]
    if not checked:
        print("audit: the database of known holes cannot be reached from here; nothing was looked up")
        return 0
    allowed = exceptions(EXCEPTIONS.read_text())
    open_holes = holes(checked, allowed)
    for line in open_holes:
        print(f"audit: {line}")
    print(f"audit: {len(checked)} packages looked up, {len(open_holes)} known holes, {len(allowed)} exceptions")
    return 1 if open_holes else 0


def looked_up() -> dict[str, Any] | None:
    """pip-audit's answer, or None if it has none."""
    files = [word for lock in LOCKS for word in ("--requirement", f"requirements/{lock}")]
    command = [sys.executable, "-m", "pip_audit", *files, "--disable-pip", "--require-hashes", "--timeout", "10"]
    try:
        done = subprocess.run(
            [*command, "--format", "json", "--progress-spinner", "off"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        return dict(json.loads(done.stdout))
    except (subprocess.TimeoutExpired, ValueError):
        return None


def holes(packages: list[dict[str, Any]], allowed: dict[str, str]) -> list[str]:
    """One line for each hole without an exception."""
    lines = []
    for package in packages:
        for hole in package["vulns"]:
            if allowed.keys().isdisjoint({hole["id"], *hole.get("aliases", [])}):
                mended = ", ".join(hole["fix_versions"]) or "none"
                lines.append(f"{package['name']} {package['version']} has {hole['id']}, mended in {mended}")
    return lines


def exceptions(text: str) -> dict[str, str]:
    """The reasons by the names of holes: lines `NAME reason`. A line without a reason is an error."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    allowed = {name: reason.strip() for name, _, reason in (line.partition(" ") for line in lines)}
    for name, reason in allowed.items():
        if not reason:
            raise SystemExit(f"audit: {EXCEPTIONS.name} names {name} without a reason")
    return allowed


if __name__ == "__main__":
    sys.exit(main())
