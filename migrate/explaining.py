"""Answers to "what became of this, and why?": a view of a plan's ledger, and the pages of the rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from migrate.mapping.rules import Row, Rule, Rules
from migrate.model import Refused
from migrate.site import nearest

INDEX = re.compile(r"\[[^\]]*\]")
TEMPLATE = ("VirtualMachine.spec.template.spec.", "spec.template.spec.")


def explain(plan: Path, vm: str, path: str) -> dict[str, Any]:
    """What the plan says of a path: a leaf of the source, a whole element of it, or a path of the target.

    Indices and keys can be left out: then all that fits is told. Raises Refused where nothing fits.
    """
    row = _row(plan, vm)
    lines = [json.loads(line) for line in (plan / row["folder"] / "ledger.jsonl").read_text("utf-8").splitlines()]
    wanted = next((path.removeprefix(prefix) for prefix in TEMPLATE if path.startswith(prefix)), path)
    found = [line for line in lines if _is(line["path"], wanted) or any(_is(name, wanted) for name in line["writes"])]
    gains = [gain for gain in row["gains"] if _is(gain["path"], wanted)]
    findings = [item for item in row["findings"] if item["path"] is None and _is(item["target"] or "", wanted)]
    if not found and not gains and not findings:
        names = {line["path"] for line in lines} | {name for line in lines for name in line["writes"]}
        raise Refused(f"{path}: neither in the source of {row['name']} nor in its manifest{nearest(path, names)[:300]}")
    return {"vm": row["name"], "path": path, "leaves": found, "gains": gains, "findings": findings}


def _row(plan: Path, vm: str) -> dict[str, Any]:
    try:
        report = json.loads((plan / "report.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{plan}: no plan ({getattr(error, 'strerror', None) or error}); give a plan folder") from None
    rows = [row for row in report["vms"] if vm in (row["folder"], row["name"], row["uuid"], row["id"])]
    if len(rows) > 1:
        raise Refused(f"{vm}: {len(rows)} VMs are meant; give one of {', '.join(row['folder'] for row in rows[:5])}")
    if not rows:
        raise Refused(f"{vm}: no such VM in this plan{nearest(vm, [row['folder'] for row in report['vms']])[:300]}")
    return rows[0]


def _is(path: str, wanted: str) -> bool:
    """Whether a path is the wanted one or lies below it; a wanted path without brackets means every item."""
    if path == wanted or path.startswith((wanted + ".", wanted + "[")):
        return True
    if "[" in wanted:
        return False
    bare = INDEX.sub("", path)
    return bare == wanted or bare.startswith(wanted + ".")


def text(found: dict[str, Any]) -> str:
    """An explanation for a terminal."""
    blocks = []
    for line in found["leaves"]:
        lines = [f"{line['path']} = {line['value']!r}" + (" (implied by libvirt)" if line.get("implied") else "")]
        lines.append(f"  {line['fate']} by rule {line['rule']}" + (f": {line['because']}" if line["because"] else ""))
        lines += [f"  -> {path} = {json.dumps(value, ensure_ascii=False)}" for path, value in line["writes"].items()]
        for item in line["findings"]:
            lines += [f"  {item['severity']} {item['id']}: {item['because']}", f"     to do: {item['remedy']}"]
        blocks.append("\n".join(lines))
    for item in found["findings"]:
        lines = [f"{item['target']}", f"  {item['severity']} {item['id']}: {item['because']}"]
        blocks.append("\n".join([*lines, f"     to do: {item['remedy']}"]))
    for gain in found["gains"]:
        value = json.dumps(gain["value"], ensure_ascii=False)
        blocks.append(f"{gain['path']} = {value}\n  added, the source did not have it: {gain['because']}")
    return "\n".join(blocks)


def rule(rules: Rules, name: str) -> dict[str, Any]:
    """A rule as plain data. Raises Refused with the nearest name for one that does not exist."""
    if name not in rules.rules:
        raise Refused(f"{name}: there is no such rule{nearest(name, rules.rules)[:300]}")
    known = rules.rules[name]
    return {
        "id": known.id,
        "file": known.file,
        "form": known.form,
        "why": known.why,
        "owns": list(known.patterns),
        "where": {path: sorted(values) for path, values in known.where},
        "reads": list(known.reads),
        "writes": list(known.writes),
        "call": known.call,
        "secret": known.secret,
        "rows": [_row_data(row) for row in _rows(known)],
        "examples": known.examples,
    }


def _rows(known: Rule) -> list[Row]:
    return [*known.rows.values(), *([known.otherwise] if known.otherwise else [])]


def _row_data(row: Row) -> dict[str, Any]:
    data = {name: getattr(row, name) for name in Row.__slots__}
    return {name: value for name, value in data.items() if value}


def page(rules: Rules, name: str) -> str:
    """A rule's page as Markdown: what it owns, what it does, why, what to do, and examples."""
    data = rule(rules, name)
    lines = [f"# {data['id']}", "", data["why"] or "", "", f"In `mappings/{data['file']}`, form `{data['form']}`."]
    for title, key in (("Owns", "owns"), ("Reads", "reads"), ("Writes", "writes")):
        if data[key]:
            lines += ["", f"**{title}**", "", *(f"- `{item}`" for item in data[key])]
    if data["where"]:
        lines += [
            "",
            "**Where**",
            "",
            *(f"- `{path}` is {' or '.join(values)}" for path, values in data["where"].items()),
        ]
    lines += ["", "**Does**", "", *(_row_text(row) for row in data["rows"])]
    if data["secret"]:
        lines += ["", "The value is secret: inventory, ledger and reports hold `(redacted)`."]
    for example in data["examples"]:
        lines += ["", "**Example**", "", "```xml", example["xml"].strip(), "```"]
        lines += [f"- writes `{path}` = `{value}`" for path, value in (example.get("writes") or {}).items()]
        lines += [f"- finding `{item}`" for item in example.get("findings") or []]
    return "\n".join(lines)


def _row_text(row: dict[str, Any]) -> str:
    text = f"- `{row['id'] or '(nothing)'}`:" if "id" in row else "- "
    if "write" in row:
        text += f" writes `{row['write']}`."
    if row["word"] in ("default", "ignore"):
        text += f" {row['word']}."
    if "severity" in row:
        text += f" {row['severity']}."
    if "because" in row:
        text += f" {row['because']}"
    if "source" in row:
        text += f" ({row['source']})"
    return text + (f" To do: {row['remedy']}" if "remedy" in row else "")
