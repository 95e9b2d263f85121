"""The four laws, proved with rules that keep or break them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from migrate.mapping import rule_files
from migrate.mapping import rules as all_rules
from migrate.mapping.signs import Context, Sign, View, flag, ignore, write

RULES = """
about: Rules for elements that libvirt does not have, so that nobody else owns them.
each: gizmo
key: name
rules:
  - id: gizmo-name
    owns: name
    writes: domain.devices.disks.name
    why: A copy.
    copy: domain.devices.disks.name
  - id: gizmo-order
    owns: order
    why: A copy of another type.
    copy: domain.devices.disks.bootOrder
  - id: gizmo-color
    owns: color
    why: A table.
    writes: domain.devices.disks.disk.bus
    values:
      red: virtio
      blue: {write: sata, flag: warning, because: Blue is lost., remedy: Paint it.}
    otherwise: {ignore: No color}
  - id: gizmo-rest
    owns: "**"
    flag: note
    because: The rest is lost.
    remedy: Nothing.
  - id: gizmo-red-size
    where: {color: red}
    owns: size
    ignore: The size of red ones is of no matter.
"""


@pytest.fixture
def custom(tmp_path: Path) -> all_rules.Rules:
    (tmp_path / "gizmo.yaml").write_text(RULES)
    return rule_files.load(tmp_path)


def test_every_leaf_has_one_entry_and_the_most_specific_owner(custom: all_rules.Rules, run: Callable) -> None:
    book = run("<gizmo name='a' color='red' size='1'/><gizmo name='b' color='blue' size='2'><x/></gizmo>", custom)
    owners = {entry.path: entry.rule for entry in book.entries}
    assert owners["gizmo[0].size"] == "gizmo-red-size"
    assert owners["gizmo[1].size"] == "gizmo-rest"
    assert owners["gizmo[1].x"] == "gizmo-rest"
    assert len(owners) == len(book.entries)


def test_a_leaf_written_and_flagged_has_fate_flag_and_keeps_its_writes(custom: all_rules.Rules, run: Callable) -> None:
    book = run("<gizmo name='b' color='blue'/>", custom)
    entry = next(entry for entry in book.entries if entry.path == "gizmo.color")
    assert entry.fate == "flag"
    assert entry.writes == {"domain.devices.disks[b].disk.bus": "sata"}
    assert [finding.id for finding in entry.findings] == ["gizmo-color/blue"]
    assert entry.findings[0].target == "domain.devices.disks[b].disk.bus"


def test_copy_casts_to_the_vocabularys_type_and_a_failure_is_a_blocker(custom: all_rules.Rules, run: Callable) -> None:
    good = run("<gizmo name='a' order='2'/>", custom)
    assert good.writes["domain.devices.disks[a].bootOrder"].value == 2
    bad = run("<gizmo name='a' order='two'/>", custom)
    finding = next(finding for entry in bad.entries for finding in entry.findings if finding.rule == "gizmo-order")
    assert (finding.id, finding.severity) == ("gizmo-order/cast", "blocker")
    assert "domain.devices.disks[a].bootOrder" not in bad.writes


def test_a_findings_key_does_not_change_with_the_index(custom: all_rules.Rules, run: Callable) -> None:
    def keys(xml: str) -> set[str]:
        book = run(xml, custom)
        return {item.key for entry in book.entries for item in entry.findings if item.id == "gizmo-color/blue"}

    blue = "<gizmo name='b' color='blue'/>"
    assert keys(blue) == keys("<gizmo name='a' color='red'/>" + blue)
    assert keys(blue) != keys("<gizmo name='c' color='blue'/>")


def test_a_finding_about_several_leaves_names_each_with_its_value(run: Callable) -> None:
    floppy = "<devices><disk type='file' device='floppy'><source file='/{}'/><target dev='fda'/></disk></devices>"
    rules = rule_files.load()
    entries = [entry for name in "ab" for entry in run(floppy.format(name), rules).entries]
    values = {finding.value for entry in entries for finding in entry.findings}
    assert {"type=file, device=floppy, source.file=/a, target.dev=fda"} <= values
    assert {"type=file, device=floppy, source.file=/b, target.dev=fda"} <= values


def test_items_keep_the_order_of_the_source(custom: all_rules.Rules, run: Callable) -> None:
    book = run("".join(f"<gizmo name='{name}' color='red'/>" for name in "zaqb"), custom)
    ordered = sorted(book.writes.values(), key=lambda write: write.order)
    assert [item.value for item in ordered if item.path.endswith("].name")] == list("zaqb")


def test_two_elements_of_one_name_keep_apart(custom: all_rules.Rules, run: Callable) -> None:
    book = run("<gizmo name='A b' color='red'/><gizmo name='a-B' color='red'/>", custom)
    assert not book.internal
    assert len([path for path in book.writes if path.endswith(".disk.bus")]) == 2


def test_a_name_that_is_another_elements_second_name_keeps_apart_too(custom: all_rules.Rules, run: Callable) -> None:
    book = run("<gizmo name='a'/><gizmo name='a-gizmo-2'/><gizmo name='A'/><gizmo name='a-gizmo-3'/>", custom)
    assert not book.internal
    assert len([path for path in book.writes if path.startswith("domain.devices.disks[")]) == 4


def _raises(view: View, context: Context) -> Iterator[Sign]:
    yield write(view.owned, "domain.devices.disks.disk.bus", "sata")
    raise RuntimeError("boom")


def _says_nothing(view: View, context: Context) -> Iterator[Sign]:
    return iter(())


def _writes_elsewhere(view: View, context: Context) -> Iterator[Sign]:
    yield write(view.owned, "domain.cpu.model", "x")


def _writes_twice(view: View, context: Context) -> Iterator[Sign]:
    yield write(view.owned, "domain.devices.disks.disk.bus", "sata")
    yield write(view.owned, "domain.devices.disks.disk.bus", "scsi")


def _peeks(view: View, context: Context) -> Iterator[Sign]:
    yield ignore(view.owned, view.text("/memory"))


def _flags_unheard(view: View, context: Context) -> Iterator[Sign]:
    yield flag(view.owned, "unheard")


def _two_words(view: View, context: Context) -> Iterator[Sign]:
    yield write(view.owned, "domain.devices.disks.disk.bus", "sata")
    yield ignore(view.owned, "and yet")


def _flags_then_writes(view: View, context: Context) -> Iterator[Sign]:
    yield flag(view.owned, "lost")
    yield write(view.owned, "domain.devices.disks.disk.bus", "sata")


def test_every_leaf_of_a_finding_stays_flagged_when_it_is_written_later(custom: all_rules.Rules, run: Callable) -> None:
    rule = custom.rules["gizmo-color"]
    rule.form, rule.function, rule.patterns = "call", _flags_then_writes, ("gizmo.color",)
    rule.rows = {"lost": replace(rule.rows["blue"], id="lost")}
    book = run("<gizmo name='a'><color x='1'>red</color><color>blue</color></gizmo>", custom)
    flagged = [entry for entry in book.entries if entry.rule == "gizmo-color"]
    assert len(flagged) == 2
    assert [(entry.fate, list(entry.writes)) for entry in flagged] == [
        ("flag", ["domain.devices.disks[a].disk.bus"])
    ] * 2


def _ignores_then_flags(view: View, context: Context) -> Iterator[Sign]:
    yield ignore(view.owned, "means nothing")
    yield flag(view.owned, "blue")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (_ignores_then_flags, "says two things"),
        (_raises, "RuntimeError: boom"),
        (_says_nothing, "says nothing of gizmo.color"),
        (_writes_elsewhere, "its `writes` do not have"),
        (_writes_twice, "which rule gizmo-color wrote"),
        (_peeks, "neither owns nor declares"),
        (_flags_unheard, "its `flags` do not have"),
        (_two_words, "says two things"),
    ],
)
def test_a_rule_that_breaks_a_law_blocks_its_vm_and_takes_its_writes_back(
    function: Callable, says: str, custom: all_rules.Rules, run: Callable
) -> None:
    rule = custom.rules["gizmo-color"]
    rule.form, rule.function = "call", function
    book = run("<gizmo name='a' color='red' order='1'/>", custom)
    findings = [finding for entry in book.entries for finding in entry.findings if finding.id == "internal"]
    assert book.internal
    assert [finding.severity for finding in findings] == ["blocker"]
    assert says in findings[0].because
    assert "domain.devices.disks[a].disk.bus" not in book.writes
    assert "domain.devices.disks[a].bootOrder" in book.writes


def test_what_the_version_lacks_turns_into_a_flag(custom: all_rules.Rules, run: Callable, tmp_path: Path) -> None:
    (tmp_path / "late.yaml").write_text(
        "rules:\n  - {id: late, owns: gadget.policy, copy: domain.rebootPolicy, why: New in late versions.}\n"
    )
    rules = rule_files.load(tmp_path)
    assert "domain.rebootPolicy" in run("<gadget policy='x'/>", rules, {"kubevirt": "1.9"}).writes
    book = run("<gadget policy='x'/>", rules, {"kubevirt": "1.3"})
    finding = next(finding for entry in book.entries for finding in entry.findings if finding.rule == "late")
    assert finding.id == "late/unsupported"
    assert "needs KubeVirt" in finding.because
    assert "domain.rebootPolicy" not in book.writes
