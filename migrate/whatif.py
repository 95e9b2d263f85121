"""What another KubeVirt would change for the VMs of a plan: the domains in the plan are translated for both."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from migrate import pipeline, reporting
from migrate import site as sites
from migrate.inventory import Inventory
from migrate.mapping.rules import Rules
from migrate.model import VM, Finding, Refused, Skipped, Translation, Verdict
from migrate.planned import planned
from migrate.selection import Selection
from migrate.target import vocabulary
from migrate.target.vocabulary import Target


@dataclass(slots=True)
class Change:
    """A VM whose findings come or go, and with them perhaps its verdict."""

    vm: VM
    before: Verdict
    after: Verdict
    come: list[Finding]
    gone: list[Finding]


@dataclass(slots=True)
class Answer:
    """What changes from one target to another.

    `unseen` are findings of the plan that the rules alone do not repeat, `skipped` VMs whose domain cannot be read.
    """

    before: Target
    after: Target
    verdicts: Counter[tuple[Verdict, Verdict]] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def ask(plan: Path, kubevirt: str | None, feature_gates: str, rules: Rules, select: Selection, today: date) -> Answer:
    """Translates the VMs of a plan for its own target and for another: a version, or the plan's, and gates on top.

    Raises Refused where the folder is no plan, or the version or a gate is not known.
    """
    rows = planned(plan, select)
    before, told = _report(plan)
    named = vocabulary.target(kubevirt or before.kubevirt, ",".join(_over(before, feature_gates)))
    after = replace(before, kubevirt=named.kubevirt, gates=named.gates)
    answer = Answer(before, after)
    unseen: set[str] = set()
    for old, new in _both(plan, [row.vm for row in rows], rules, (before, after), today):
        if isinstance(old, Skipped) or isinstance(new, Skipped):
            answer.skipped.append(old if isinstance(old, Skipped) else new)
            continue
        answer.verdicts[old.verdict, new.verdict] += 1
        unseen |= {name for key, name in told.get(old.vm.folder, {}).items() if key not in _keys(old)}
        change = Change(old.vm, old.verdict, new.verdict, _only(new, old), _only(old, new))
        if change.come or change.gone:
            answer.changes.append(change)
    answer.changes.sort(key=lambda change: change.before == change.after)
    answer.unseen = sorted(unseen)
    return answer


def _both(
    plan: Path, vms: list[VM], rules: Rules, targets: tuple[Target, Target], today: date
) -> Iterator[tuple[Translation | Skipped, Translation | Skipped]]:
    """Every VM of a plan translated for both targets."""
    site = sites.load(plan / reporting.SITE) if (plan / reporting.SITE).exists() else sites.Site()
    inventory = Inventory(
        [replace(vm, digest="") for vm in vms],  # a plan's XML is without secrets
        xml=lambda vm: _read(plan / vm.folder / reporting.SOURCE),
        live=lambda vm: _read(plan / vm.folder / reporting.LIVE),
    )
    first, second = (pipeline.plan(inventory, rules, target, site, today) for target in targets)
    yield from zip(first, second, strict=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; plan again") from None


def _report(plan: Path) -> tuple[Target, dict[str, dict[str, str]]]:
    """The target of a plan, and by the folder of each VM the ids of its findings by their keys."""
    try:
        report = json.loads((plan / "report.json").read_text("utf-8"))
        told = {
            _text(row["folder"]): {_text(item["key"]): _text(item["id"]) for item in row["findings"]}
            for row in report["vms"]
        }
        return _target(report["target"]), told
    except OSError as error:
        raise Refused(f"{plan / 'report.json'}: {error.strerror}; give a folder that `plan` wrote") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{plan / 'report.json'}: is no report ({error}); plan again") from None


def _target(recorded: dict[str, Any]) -> Target:
    found = vocabulary.target(_text(recorded["kubevirt"]), ",".join(recorded["featureGates"]))
    return replace(
        found,
        machines=frozenset(map(_text, recorded.get("emulatedMachines", ()))),
        vga_for_efi=recorded.get("vgaDisplayForEFIGuests", False),
        plugins=frozenset(map(_text, recorded.get("networkBindings", ()))),
        obsolete=frozenset(map(_text, recorded.get("obsoleteCPUModels", ()))),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    return value


def _over(before: Target, feature_gates: str) -> list[str]:
    """The plan's switches, but for gates that are switched anew."""
    new = [part.strip() for part in feature_gates.split(",") if part.strip()]
    return [*sorted(old for old in before.gates if old[1:] not in {switch[1:] for switch in new}), *new]


def _keys(translation: Translation) -> set[str]:
    return {finding.key for finding in translation.all_findings()}


def _only(one: Translation, other: Translation) -> list[Finding]:
    """The findings of one translation that the other does not have, or not as severe."""
    there = {(finding.key, finding.severity) for finding in other.all_findings()}
    return [finding for finding in one.all_findings() if (finding.key, finding.severity) not in there]


def document(answer: Answer) -> dict[str, Any]:
    """An answer as JSON."""
    return {
        "schema": 1,
        "before": reporting.target_document(answer.before),
        "after": reporting.target_document(answer.after),
        "verdicts": [
            {"before": before, "after": after, "vms": count}
            for (before, after), count in sorted(answer.verdicts.items())
        ],
        "vms": [
            {
                "name": change.vm.name,
                "folder": change.vm.folder,
                "uuid": change.vm.uuid,
                "before": change.before,
                "after": change.after,
                "come": [reporting.finding_document(finding) for finding in change.come],
                "gone": [reporting.finding_document(finding) for finding in change.gone],
            }
            for change in answer.changes
        ],
        "unseen": answer.unseen,
        "skipped": [asdict(item) for item in answer.skipped],
    }


def text(answer: Answer) -> str:
    """An answer for a terminal: a line a VM, and one for each finding that comes (+) or goes (-)."""
    lines = [f"{_named(answer.before)} -> {_named(answer.after)}"]
    for change in answer.changes:
        verdict = change.before if change.before == change.after else f"{change.before} -> {change.after}"
        lines.append(f"{change.vm.folder}: {verdict}")
        for sign, findings in (("-", change.gone), ("+", change.come)):
            lines += [f"  {sign} {item.severity} {item.id}: {item.because}" for item in findings]
    moved = sum(count for (before, after), count in answer.verdicts.items() if before != after)
    lines.append(f"{moved} of {sum(answer.verdicts.values())} VMs change their verdict")
    if answer.unseen:
        lines.append(f"not compared, since the rules alone do not tell them: {', '.join(answer.unseen)}")
    return "\n".join(lines)


def _named(target: Target) -> str:
    return f"KubeVirt {target.kubevirt}" + "".join(f" {gate}" for gate in sorted(target.gates))
