"""Plans an inventory of 10,000 VMs, made by cycling the domains of the examples and the golden tests, on one core.

Usage, from the checkout: python bench/plan.py [COUNT]
The goals are 300 VMs a second with all files written, and less than 300 MB.
"""

import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

TOP = Path(__file__).parents[1]
VMS_A_SECOND, MEGABYTES = 300, 300

# Bare lxml: parse every file and look at every attribute and text.
BARE = """
import sys
from pathlib import Path
from lxml import etree
leaves = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    for element in etree.parse(path).iter():
        leaves += len(element.attrib) + bool(element.text and element.text.strip())
"""


def make_domains(folder: Path, count: int) -> None:
    """Writes `count` domain XML files, each with a name and uuid of its own."""
    sources = sorted(TOP.glob("examples/**/*.xml")) + sorted(TOP.glob("tests/golden/*.xml"))
    for index, source in zip(range(count), itertools.cycle(sources), strict=False):
        text = re.sub("<uuid>.*?</uuid>", "", source.read_text(), count=1)
        identity = f"<name>vm-{index:05}</name><uuid>{uuid.UUID(int=index + 1)}</uuid>"
        (folder / f"vm-{index:05}.xml").write_text(re.sub("<name>.*?</name>", identity, text, count=1))


def run(*command: str | Path) -> tuple[float, float]:
    """Seconds and peak megabytes of a command on one core. Findings (exit code 1) are no failure."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        sys.exit(f"{command} failed")
    return seconds, usage.ru_maxrss / 1000


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "domains").mkdir()
        make_domains(folder / "domains", count)
        site = TOP / "tests/golden/site.yaml"
        bare, _ = run(sys.executable, "-c", BARE, folder / "domains")
        command = [sys.executable, "-m", "migrate"]
        run(*command, "collect", "files", folder / "domains", "-d", folder / "inventory")
        seconds, megabytes = run(*command, "plan", folder / "inventory", "--site", site, "-d", folder / "plan")
        written = sum(1 for path in (folder / "plan").rglob("*") if path.is_file())
    print(f"plan: {count / seconds:.0f} VMs a second (goal: at least {VMS_A_SECOND}), {written} files written")
    print(f"plan: {megabytes:.0f} MB at most (goal: below {MEGABYTES})")
    print(f"plan: {seconds / bare:.0f} x the time of bare lxml, which parses and walks {count / bare:.0f} a second")


if __name__ == "__main__":
    main()
