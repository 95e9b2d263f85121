"""Plans every domain XML of folders and holds each plan against the promises: `python tests/corpus/run.py FOLDER...`.

Prints the counts of each folder, then every broken promise; the exit code is 1 where there is one.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lxml import etree

from migrate import pipeline
from migrate.mapping import rule_files
from migrate.mapping import rules as all_rules
from migrate.mapping.paths import PREFIXES, parse
from migrate.model import Refused, Skipped, Translation
from migrate.selection import Selection
from migrate.site import Site
from migrate.sources import files
from migrate.target.vocabulary import Target, strict, target

XML = "http://www.w3.org/XML/1998/namespace"
WORDS = ("write", "default", "flag", "ignore")
# What a refusal says, and the kind that it is counted as.
REFUSALS = {"the root element is": "not a domain", "not well-formed": "not well-formed XML"}


def leaves(element: etree._Element) -> int:
    """How many attributes, texts and bare elements there are; a subtree of an unknown namespace is one."""
    children = [child for child in element if isinstance(child.tag, str)]
    count = len(element.attrib)
    text = "".join([element.text or "", *(child.tail or "" for child in element)]).strip()
    count += bool(text) or not (children or element.attrib)
    for child in children:
        uri = child.tag[1:].partition("}")[0] if child.tag[0] == "{" else ""
        count += leaves(child) if not uri or uri in PREFIXES or uri == XML else 1
    return count


def broken(plan: Translation, xml: bytes, chosen: Target) -> Iterator[str]:
    """The promises that a plan does not keep: every leaf signed once, by a rule that knows it; no odd field or key."""
    findings = plan.all_findings()
    yield from (finding.because for finding in findings if finding.id == "internal")
    keys = Counter(finding.key for finding in findings)
    yield from (f"{key} is the key of {count} findings" for key, count in keys.items() if count > 1)
    entries = [entry for entry in plan.entries if not entry.implied]
    if len(entries) != (there := leaves(parse(xml, plan.vm.name))):
        yield f"{len(entries)} entries for {there} leaves"
    yield from (f"nobody knows {entry.path}" for entry in entries if entry.rule == all_rules.UNKNOWN)
    for entry in plan.entries:
        if entry.fate not in WORDS or not (entry.writes if entry.fate == "write" else entry.because):
            yield f"{entry.path} is unsigned"
    if plan.verdict != "blocked":
        for manifest in (plan.manifest, *plan.claims):
            yield from (f"{manifest['kind']}: {problem}" for problem in strict(manifest, chosen))


def _kind(refusal: Skipped) -> str:
    return next((kind for says, kind in REFUSALS.items() if says in refusal.reason), "refused otherwise")


def main(folder: Path) -> int:
    """Plans all of a folder, prints counts and broken promises."""
    rules, chosen, started = rule_files.load(), target("1.9"), time.monotonic()
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("refused", "verdicts", "leaves", "types")}
    promises: list[str] = []
    inventory = pipeline.opened([folder], Selection())
    for item in pipeline.plan(inventory, rules, chosen, Site()):
        if isinstance(item, Skipped):
            counts["refused"][_kind(item)] += 1
            continue
        xml = files.xml(item.vm)
        counts["verdicts"][item.verdict] += 1
        counts["leaves"].update(entry.fate for entry in item.entries if not entry.implied)
        counts["types"][parse(xml, "").get("type", "none")] += 1
        promises += [f"{item.vm.url}: {what}" for what in broken(item, xml, chosen)]
    domains = counts["verdicts"].total()
    files_there = domains + counts["refused"].total()
    print(f"{folder}: {files_there} files, {domains} domains, {time.monotonic() - started:.1f} s")
    for name, counter in counts.items():
        print(
            f"{name}: {counter.total()} (" + ", ".join(f"{kind} {count}" for kind, count in counter.most_common()) + ")"
        )
    print(f"broken promises: {len(promises)}", *promises[:100], sep="\n  ")
    return 1 if promises else 0


if __name__ == "__main__":
    try:
        sys.exit(max(main(Path(name)) for name in sys.argv[1:]))
    except Refused as refusal:
        sys.exit(f"corpus: {refusal}")
