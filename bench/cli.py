"""Times `kubevirt-migrate --help` against `python -c "import click"`: medians of interleaved runs.

Usage, from the checkout: python bench/cli.py
The goal is a ratio of at most 2.5.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS, GOAL = 31, 2.5


def seconds(*command: str | Path) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    ours, click = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(Path(sys.executable).with_name("kubevirt-migrate"), "--help"))
        click.append(seconds(sys.executable, "-c", "import click"))
    help_, import_ = statistics.median(ours), statistics.median(click)
    print(f"cli: --help {help_ * 1000:.0f} ms, import click {import_ * 1000:.0f} ms")
    print(f"cli: ratio {help_ / import_:.2f} (goal: at most {GOAL})")


if __name__ == "__main__":
    main()
