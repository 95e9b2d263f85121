"""Answers to "what became of this, and why?": a view of a plan's ledger."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from migrate.mapping.ledger import item_key
from migrate.model import SEVERITIES, Refused
from migrate.site import nearest

INDEX = re.compile(r"\[[^\]]*\]")
KEY = re.compile(r"\[([^\]]*)\]")
OBJECTS = ("VirtualMachine", "PersistentVolumeClaim")


def explain(plan: Path, vm: str, path: str | None = None) -> dict[str, Any]:
    """What the plan says of a path: a leaf of the source, a whole element of it, or a path of the target.

    Indices and keys can be left out: then all that fits is told. Without a path it is the verdict on the VM and every
    finding, the worst first. Raises Refused where nothing fits.
    """
    try:
        return _explained(plan, vm, path) if path is not None else _verdict(plan, vm)
    except OSError as error:
        raise Refused(f"{error.filename}: {error.strerror}; give a folder that `plan` wrote") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{plan}: is no plan ({error}); plan again") from None


def _verdict(plan: Path, vm: str) -> dict[str, Any]:
    row = _row(plan, vm)
    worst_first = sorted(row["findings"], key=lambda item: -SEVERITIES.index(item["severity"]))
    return {"vm": row["name"], "verdict": row["verdict"], "findings": worst_first}


def _explained(plan: Path, vm: str, path: str) -> dict[str, Any]:
    row = _row(plan, vm)
    ledger = (plan / row["folder"] / "ledger.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in ledger.split("\n") if line]
    fields = _wanted(path, lines, plan / row["manifest"])
    found = [
        line for line in lines if _is(line["path"], path) or any(_is_field(name, fields) for name in line["writes"])
    ]
    gains = [gain for gain in row["gains"] if _is_field(gain["path"], fields)]
    leafless = (item for item in row["findings"] if item["path"] is None and item["target"])
    findings = [item for item in leafless if _is_field(item["target"], fields)]
    if not found and not gains and not findings:
        names = {line["path"] for line in lines} | {name for line in lines for name in line["writes"]}
        close = difflib.get_close_matches(path, names, n=1)
        hint = f"did you mean {close[0]}?" if close else "give a path of ledger.jsonl or vm.yaml, `devices` for one"
        raise Refused(f"{path}: neither in the source of {row['name']} nor in its manifest; {hint}")
    return {"vm": row["name"], "path": path, "leaves": found, "gains": gains, "findings": findings}


def _row(plan: Path, vm: str) -> dict[str, Any]:
    report = json.loads((plan / "report.json").read_text("utf-8"))
    rows = [row for row in report["vms"] if vm in (row["folder"], row["name"], row["uuid"], row["id"])]
    if len(rows) > 1:
        raise Refused(f"{vm}: {len(rows)} VMs are meant; give one of {', '.join(row['folder'] for row in rows[:5])}")
    if not rows:
        raise Refused(f"{vm}: no such VM in this plan{nearest(vm, [row['folder'] for row in report['vms']])[:300]}")
    return rows[0]


def _wanted(path: str, lines: list[dict[str, Any]], manifest: Path) -> list[str]:
    """The whole paths of target fields, from their object down, that a path means as it is written in its file.

    Items of lists may be named by key or by position, claims by name, and the way down to a field may be left out.
    """
    claims = {
        value: name.removesuffix(".metadata.name")
        for line in lines
        for name, value in line["writes"].items()
        if name.startswith("PersistentVolumeClaim[") and name.endswith("].metadata.name")
    }
    for name, claim in claims.items():
        if path in (name, f"PersistentVolumeClaim[{name}]") or path.startswith(f"PersistentVolumeClaim[{name}]."):
            return [claim + path.partition("]")[2], f"PersistentVolumeClaim[{name}]{path.partition(']')[2]}"]
    if path.startswith(OBJECTS):
        return [_keyed(path, manifest)]
    return [_keyed(f"{start}{path}", manifest) for start in ("VirtualMachine.", "VirtualMachine.spec.template.spec.")]


def _keyed(path: str, manifest: Path) -> str:
    """A path of the VM with the keys of list items in place of their positions in vm.yaml."""
    if not re.search(r"\[\d+\]", path) or not path.startswith("VirtualMachine."):
        return path
    import yaml

    try:
        node = yaml.load(manifest.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Refused(f"{manifest}: cannot be read: {str(error).splitlines()[0]}; name list items by key") from None
    keyed = "VirtualMachine"
    for name, position in re.findall(r"\.([^.\[\]]+)(?:\[([^\]]*)\])?", path.removeprefix("VirtualMachine")):
        node = node.get(name) if isinstance(node, dict) else None
        keyed += f".{name}" + (f"[{position}]" if position else "")
        if position.isdigit() and isinstance(node, list) and int(position) < len(node):
            node = node[int(position)]
            if isinstance(node, dict) and "name" in node:
                keyed = f"{keyed.rpartition('[')[0]}[{node['name']}]"
    return keyed


def _is_field(path: str, fields: list[str]) -> bool:
    """Whether a target path of the ledger is one of the fields or lies below it."""
    whole = path if path.startswith(OBJECTS) else f"VirtualMachine.spec.template.spec.{path}"
    return any(_is(write(whole), write(field)) for field in fields for write in (str, _dotted, _plain))


def _dotted(path: str) -> str:
    """A path with the keys of maps as they stand in the file."""
    return KEY.sub(r".\1", path)


def _plain(path: str) -> str:
    """A path with the names of list items as the ledger has them for keys: features[lahf_lm] is features[lahf-lm]."""
    return KEY.sub(lambda found: f"[{item_key(found[1])}]", path)


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
    if "verdict" in found:
        return "\n".join([f"{found['vm']}: {found['verdict']}", *map(_finding, found["findings"])])
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


def _finding(item: dict[str, Any]) -> str:
    place = item["path"] or item["target"]
    head = f"{item['severity']} {item['id']}" + (f" at {place}" if place else "")
    lines = [head, f"  {item['because']}", f"  to do: {item['remedy']}"]
    if waiver := item.get("waived"):
        lines.append(f"  waived until {waiver['until']}: {waiver['reason']}")
    if waiver := item.get("waiverEnded"):
        lines.append(f"  waived until {waiver['until']}, which is over: {waiver['reason']}")
    return "\n".join(lines)
