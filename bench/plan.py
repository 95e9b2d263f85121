"""Translates domains on one core, and plans inventories of 10,000 VMs made by cycling domains, as Python and compiled.

Usage, from the checkout: python bench/plan.py [COUNT]
The goals hold for the domains of libvirt's own tests, which `make corpus` fetches: 2,000 translations a second
(which Python alone does not reach, and the compiled build does), plans of 300 VMs a second on one core and of 600 on
all, with all files written, and less than 300 MB. Those of examples/ and tests/golden, which have three times as many
leaves each, stand beside them.

Every plan goes into a folder of its own, and all of them are removed at the end: for five minutes ext4 looks past each
removed file's inode whenever it makes a file beside them (recently_deleted of fs/ext4/ialloc.c), so that removing one
plan would make the next one slower, by 2 ms a VM.
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
ON_ONE, ON_ALL, TRANSLATIONS, MEGABYTES = 300, 600, 2000, 300
FINDINGS = (0, 1)  # exit codes of a command that did its work, without findings or with some

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


# What the translation runs as.
KIND = """
from migrate.mapping import ledger
print("compiled" if ledger.__file__.endswith(".so") else "as Python")
"""


# Translating alone: the domains are read before.
TRANSLATE = """
import sys, time
from pathlib import Path
from migrate import pipeline, site
from migrate.mapping import rule_files
from migrate.model import Refused
from migrate.selection import Selection
from migrate.target.vocabulary import target
known, chosen, found = rule_files.load(), target("1.9"), site.load(Path(sys.argv[2]))
inventory = pipeline.opened([Path(sys.argv[1])], Selection())
vms = list(inventory)
count, started = 0, time.perf_counter()
for vm in vms:
    try:
        pipeline.translate(vm, known, chosen, found)
        count += 1
    except Refused:
        pass
print(count / (time.perf_counter() - started))
"""


def corpus() -> list[Path]:
    """The domains of libvirt's tests, of every release that is there."""
    found = sorted((TOP / ".cache/libvirt").glob("*/tests/**/*.xml"))
    return [path for path in found if re.search(rb"\A\s*(<!--.*?-->\s*)*<domain[\s>]", path.read_bytes(), re.DOTALL)]


def make_domains(folder: Path, sources: list[Path], count: int) -> None:
    """Writes `count` domain XML files, each with a name and uuid of its own."""
    folder.mkdir()
    for index, source in zip(range(count), itertools.cycle(sources), strict=False):
        text = re.sub("<uuid>.*?</uuid>", "", source.read_text(), count=1)
        identity = f"<name>vm-{index:05}</name><uuid>{uuid.UUID(int=index + 1)}</uuid>"
        (folder / f"vm-{index:05}.xml").write_text(re.sub("<name>.*?</name>", identity, text, count=1))


def run(*command: str | Path, path: str = "", cores: int = 1, good: tuple[int, ...] = (0,)) -> tuple[float, float, str]:
    """Seconds, peak megabytes and output of a command on some cores, which ends with a good exit code.

    `path` is where Python looks for the package first.
    """
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status) not in good:
        sys.exit(f"{command} failed")
    return seconds, usage.ru_maxrss / 1000, output


def measure(title: str, sources: list[Path], count: int, packages: list[str], folder: Path) -> None:
    """Prints what translating and planning `count` VMs made of these domains costs with each of the packages."""
    site, cores = TOP / "tests/golden/site.yaml", len(os.sched_getaffinity(0))
    folder.mkdir()
    make_domains(folder / "domains", sources, count)
    command = [sys.executable, "-m", "migrate"]
    run(*command, "collect", "files", folder / "domains", "-d", folder / "inventory", path=packages[0], good=FINDINGS)
    for number, path in enumerate(packages):
        _, _, translated = run(sys.executable, "-c", TRANSLATE, folder / "domains", site, path=path)
        bare, _, _ = run(sys.executable, "-c", BARE, folder / "domains")
        plan = [*command, "plan", folder / "inventory", "--site", site, "-d"]
        seconds, megabytes, _ = run(*plan, folder / f"one-{number}", path=path, good=FINDINGS)
        on_all, _, _ = run(*plan, folder / f"all-{number}", path=path, cores=cores, good=FINDINGS)
        written = sum(1 for each in (folder / f"all-{number}").rglob("*") if each.is_file())
        _, _, kind = run(sys.executable, "-c", KIND, path=path)
        print(f"{title}, {count} VMs made of {len(sources)} domains, translated {kind.strip()}:")
        print(f"  translate: {float(translated):.0f} a second on one core (goal: at least {TRANSLATIONS})")
        print(
            f"  plan: {count / seconds:.0f} VMs a second on one core (goal: at least {ON_ONE}), {written} files written"
        )
        print(f"  plan: {count / on_all:.0f} VMs a second on {cores} cores (goal: at least {ON_ALL})")
        print(f"  plan: {megabytes:.0f} MB at most (goal: below {MEGABYTES})")
        print(
            f"  plan: {seconds / bare:.0f} x the time of bare lxml, which parses and walks {count / bare:.0f} a second"
        )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    compiled = subprocess.run([TOP / "tools/compiled.sh"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as temporary:
        if found := corpus():
            title = "libvirt's own test domains"
            measure(title, found, count, [str(TOP), compiled], Path(temporary, "corpus"))
        else:
            print("libvirt's own test domains are not there; `make corpus` fetches them")
        rich = sorted(TOP.glob("examples/**/*.xml")) + sorted(TOP.glob("tests/golden/*.xml"))
        measure("examples and golden domains", rich, count, [str(TOP), compiled], Path(temporary, "rich"))


if __name__ == "__main__":
    main()
