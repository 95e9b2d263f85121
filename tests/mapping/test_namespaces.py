"""Arguments of QEMU: what they add is said, what they say is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from migrate.mapping.rules import Rules

DOMAIN = """
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>vm</name><uuid>8f2a6a3e-6a0a-4c4b-9d1e-2f2a6c1b7d10</uuid><memory>1048576</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <qemu:commandline>{}</qemu:commandline>
</domain>
"""


@pytest.mark.parametrize("collected", [False, True])
@pytest.mark.parametrize(
    ("arguments", "row", "says"),
    [
        (["-device", "nvme,drive=d,serial=hunter2", "-drive", "file=/a,if=none"], "devices", "-device, -drive"),
        (["--fw_cfg", "name=opt/com.coreos/config,string=hunter2"], "data", "-fw_cfg"),
        (["-set", "device.video0.x=hunter2"], "arguments", ""),
        (["-hunter2"], "arguments", ""),
    ],
)
def test_bug_an_inventory_forgot_which_arguments_add_devices(
    run: Callable, rules: Rules, arguments: list[str], row: str, says: str, collected: bool
) -> None:
    arguments = [f"<qemu:arg value='{argument}'/>" for argument in arguments]
    book = run(DOMAIN.format("".join(arguments)), rules, None, collected)
    findings = [finding for entry in book.entries for finding in entry.findings if finding.rule == "qemu-arguments"]
    assert [finding.id for finding in findings] == [f"qemu-arguments/{row}"]
    assert says in findings[0].because
    assert "hunter2" not in repr(book.entries)
