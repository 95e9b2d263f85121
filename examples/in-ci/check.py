#!/usr/bin/env python3
"""Plans the domains of this folder into DIR; fails on blockers and on warnings that accepted.txt does not hold.

Usage: examples/in-ci/check.py DIR [--accept]
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ACCEPTED = HERE / "accepted.txt"
FROM_FILES = "transfer/unfit"  # what is read from files has no disks to copy, which is no news here


def warnings(report: dict) -> dict[str, str]:
    """What each warning says, by VM, finding and place."""
    return {
        f"{vm['name']} {finding['id']} {finding['path'] or finding['target']}": finding["because"]
        for vm in report["vms"]
        for finding in vm["findings"]
        if finding["severity"] == "warning" and finding["id"] != FROM_FILES
    }


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    plan = Path(sys.argv[1]) / "plan"
    shutil.rmtree(plan, ignore_errors=True)
    command = ["kubevirt-migrate", "plan", HERE / "domains", "--site", HERE / "site.yaml", "-d", plan]
    status = subprocess.run(command, check=False).returncode
    if status:
        return status
    found = warnings(json.loads((plan / "report.json").read_text()))
    if "--accept" in sys.argv:
        ACCEPTED.write_text("".join(f"{line}\n" for line in sorted(found)))
    new = found.keys() - set(ACCEPTED.read_text().splitlines())
    for line in sorted(new):
        print(f"not accepted: {line}: {found[line]}")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
