"""`python -m tests.benchmarks NAME... [--quick] [--json]`."""

import argparse
import dataclasses
import importlib
import inspect
import json
import os
import platform
import sys
from pathlib import Path

import torch


def main() -> None:
    """Run the named benchmarks, one after the other."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Ratios against a named baseline.")
    parser.add_argument("names", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    parser.add_argument("--quick", action="store_true", help="fewer rows, where a benchmark has long ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        before = os.getloadavg()[0]
        function = importlib.import_module(f"{__package__}.{name}").rows
        shorter = {"quick": True} if options.quick and "quick" in inspect.signature(function).parameters else {}
        rows = function(**shorter)
        load = f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after, {os.cpu_count()} cores"
        if options.json:
            for row in rows:
                sys.stdout.write(json.dumps({"benchmark": name, "load": load, **dataclasses.asdict(row)}) + "\n")
            continue
        sys.stdout.write(f"{name} · torch {torch.__version__} · {platform.machine()} · 1 thread, CPU time · {load}\n")
        for row in rows:
            sys.stdout.write(
                f"  {row.name:<44} {row.ratio:7.2f}x ±{row.spread:4.0%}  against {row.baseline:<42} "
                f"max difference {row.max_difference:.1e}  {row.note}\n"
            )


if __name__ == "__main__":
    main()
