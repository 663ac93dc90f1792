"""Run a benchmark: python -m benchmarks NAME [--json]."""

from __future__ import annotations

import argparse
import json

from benchmarks.coop_text import coop_text_100

BENCHMARKS = {"coop_text_100": coop_text_100}


def main() -> None:
    """Run the named benchmark and print what it found."""
    about = "\n".join(f"  {name}: {(run.__doc__ or '').splitlines()[0]}" for name, run in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--repeats", type=int, default=7, help="timed pairs (default 7)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    found = BENCHMARKS[given.name](given.repeats)
    if given.json:
        print(json.dumps(found))
        return
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:{width}}  {value:,.4g}" if isinstance(value, float) else f"{name:{width}}  {value}")


if __name__ == "__main__":
    main()
