"""The rules as pages in Markdown, one each and an index: what a rule does, why, what to do, and since which KubeVirt.

`python -m migrate.pages FOLDER` writes them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

from migrate.mapping.rule_files import load
from migrate.mapping.rules import Row, Rule, Rules
from migrate.model import Refused
from migrate.site import nearest
from migrate.target.vocabulary import API_VERSIONS, TEMPLATE, needs, since, versions

INDEX = "index.md"
FORMS = {
    "copy": "The value is written as it is.",
    "values": "A table says what becomes of each value.",
    "default": "KubeVirt does this already.",
    "ignore": "It means nothing off the source host.",
    "flag": "It is lost or changes.",
    "gate": "It runs before the other rules of the element; where it speaks, the whole element is one finding.",
}


def rule(rules: Rules, name: str) -> dict[str, Any]:
    """A rule as plain data. Raises Refused with the nearest name for one that does not exist."""
    known = _known(rules, name)
    return {
        "id": known.id,
        "file": known.file,
        "form": known.form,
        "why": known.why,
        "owns": known.accounts_for,
        "where": {path: sorted(values) for path, values in known.where},
        "reads": list(known.reads),
        "writes": list(known.writes),
        "call": known.call,
        "secret": known.secret,
        "rows": [_row_data(row) for row in known.every_row],
        "examples": known.examples,
    }


def _known(rules: Rules, name: str) -> Rule:
    if name not in rules.rules:
        raise Refused(f"{name}: there is no such rule{nearest(name, rules.rules)[:300]}")
    return rules.rules[name]


def _row_data(row: Row) -> dict[str, Any]:
    data = {known.name: getattr(row, known.name) for known in fields(row) if known.init and known.name != "rule"}
    return {name: value for name, value in data.items() if value}


def page(rules: Rules, name: str) -> str:
    """A rule's page: what it owns, what it does, why, what to do, KubeVirt's fields since which version, examples."""
    return "\n".join(_page(_known(rules, name))) + "\n"


def _page(known: Rule) -> Iterator[str]:
    yield f"# {known.id}"
    if known.why:
        yield f"\n{known.why}"
    says = [FORMS[known.form]] if known.form in FORMS else []
    says += [f"It is computed by `migrate.mapping.{known.call}`."] if known.call else []
    yield "\n" + " ".join([*says, f"In `mappings/{known.file}`."])
    owned = known.patterns or (f"{known.each}.**",)
    yield "\n## Leaves of the domain\n"
    yield from (f"- `{pattern}`" for pattern in owned)
    for path, values in known.where:
        shown = " or ".join(f"`{value}`" if value else "there" for value in sorted(values))
        yield f"- where `{path}` is {shown}"
    if known.reads:
        yield f"- reads also {', '.join(f'`{path}`' for path in known.reads)}"
    if known.secret:
        yield "\nThe value is secret: inventory, ledger and reports hold `(redacted)`."
    rows = known.every_row
    if rows:
        yield "\n## What becomes of them\n"
        yield from (_row(row) for row in rows)
    if known.writes:
        yield "\n## Fields of KubeVirt\n"
        yield from (_field(pattern) for pattern in known.writes)
    for example in known.examples:
        yield from _example(known, example)


def _row(row: Row) -> str:
    parts = [f"- `{row.id or '(nothing)'}`:"]
    if row.write is not None:
        parts.append(f"writes `{row.write}`.")
    if row.severity:
        parts.append(f"**{row.severity}**.")
    elif row.word in ("default", "ignore") and row.word != row.id:
        parts.append(f"{row.word}.")
    parts += [part for part in (row.because, f"({row.source})" if row.source else "") if part]
    if len(parts) == 1:
        parts.append("the value as it is.")
    return " ".join(parts) + (f" *To do:* {row.remedy}" if row.remedy else "")


def _field(pattern: str) -> str:
    """A target path, the first version that has it, and what it needs beyond the version."""
    first = since(pattern)
    versioned = pattern.partition(".")[0] == "VirtualMachine" or pattern.partition(".")[0] not in API_VERSIONS
    says = [f"since {first}" if first != versions()[0] else f"{first} and later"] if versioned and first else []
    for need in needs():
        if pattern == need.path or pattern.startswith(need.path + "."):
            value = f"`{need.value}` " if need.value else ""
            gate = f"needs the feature gate {need.gate}" if need.gate else f"needs {need.since}"
            says.append(value + gate + (f" up to {need.until}" if need.until else ""))
    whole = pattern if pattern.partition(".")[0] in API_VERSIONS else f"{TEMPLATE}.{pattern}"
    return f"- `{whole}`" + (f": {', '.join(says)}" if says else "")


def _example(known: Rule, example: dict[str, Any]) -> Iterator[str]:
    yield f"\n## Example\n\n```xml\n{example['xml'].strip()}\n```\n"
    settings = {key: example[key] for key in ("kubevirt", "gates", "site", "disks") if key in example}
    if settings:
        yield f"With {', '.join(f'{key} `{value}`' for key, value in settings.items())}:\n"
    written, found = example.get("writes") or {}, example.get("findings") or []
    yield from (f"- writes `{path}`: `{value}`" for path, value in written.items())
    yield from (f"- finding `{name}`, {known.findings[name]}" for name in found)
    if not written and not found:
        yield "- nothing is written, and there is no finding"


def index(rules: Rules) -> str:
    """All rules by the file they stand in, each with the leaves it owns."""
    lines = ["# The rules", "", f"{len(rules.rules)} rules, by file. `kubevirt-migrate rules ID` shows the same pages."]
    for file, group in groupby(rules.rules.values(), lambda known: known.file):
        lines += ["", f"## {file.removesuffix('.yaml')}", ""]
        for known in group:
            owned = ", ".join(f"`{pattern}`" for pattern in known.patterns) or f"`{known.each}.**`"
            lines.append(f"- [{known.id}]({known.id}.md): {owned}")
    return "\n".join(lines) + "\n"


def pages(rules: Rules) -> dict[str, str]:
    """Every page by its file name."""
    return {INDEX: index(rules), **{f"{name}.md": page(rules, name) for name in rules.rules}}


def write(folder: Path, rules: Rules) -> None:
    """Makes a folder hold exactly the pages."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages(rules)
    for old in folder.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), load())
