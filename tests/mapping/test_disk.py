"""Disks: what KubeVirt refuses is never written, names are valid and unique, and nothing of a disk goes missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.mapping import disk, ledger
from migrate.mapping.rules import Rules

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
labels = st.from_regex(LABEL, fullmatch=True)
keys = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
deterministic = settings(derandomize=True, deadline=None)
GIB = {"vda": {"capacity": "1073741824"}}


def drive(*inside: str, attributes: str = "type='file'", target: str = "dev='vda' bus='virtio'") -> str:
    """One `<disk>` with a file as its source."""
    return f"<disk {attributes}><source file='/a'/><target {target}/>{''.join(inside)}</disk>"


def devices(*disks: str) -> str:
    return f"<devices>{''.join(disks)}</devices>"


def values(book: ledger.Ledger, suffix: str) -> list[Any]:
    return [write.value for path, write in book.writes.items() if path.endswith(suffix)]


def findings(book: ledger.Ledger) -> set[str]:
    return {finding.id for entry in book.entries for finding in entry.findings}


@deterministic
@given(labels, keys)
def test_a_claim_name_is_a_label_that_ends_with_the_disk(folder: str, key: str) -> None:
    name = disk.claim_name(folder, key)
    assert LABEL.fullmatch(name)
    assert name.endswith("-" + key)


def test_claim_names_of_long_folders_stay_apart() -> None:
    folders = ["a" * 62 + end for end in "bcde"]
    assert len({disk.claim_name(folder, "vda") for folder in folders}) == len(folders)


@deterministic
@given(
    st.sampled_from(["disk", "cdrom", "lun"]),
    st.sampled_from([*disk.BUSES, "uml", ""]),
    st.sampled_from(["x86_64", "i686", "aarch64", "s390x"]),
)
def test_a_bus_is_one_that_the_webhooks_take(device: str, old: str, arch: str) -> None:
    new = disk.target_bus(device, old, arch)
    if old not in disk.BUSES:
        assert new is None
    elif arch in ("aarch64", "s390x"):
        assert new in ("virtio", "scsi")
    else:
        assert new in ("virtio", "sata", "scsi", "usb")
    assert not (device == "cdrom" and new in ("virtio", "usb"))


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "s390x"])
@pytest.mark.parametrize("old", disk.BUSES)
def test_no_sata_disk_is_read_only(run: Callable, rules: Rules, arch: str, old: str) -> None:
    os = f"<os><type arch='{arch}'>hvm</type></os>"
    book = run(os + devices(drive("<readonly/>", target=f"dev='vda' bus='{old}'")), rules)
    sata = values(book, ".disk.bus") == ["sata"]
    assert values(book, ".disk.readonly") == ([] if sata else [True])
    assert ("disk-readonly/sata" in findings(book)) is sata


SERIALS = st.one_of(
    st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), max_size=30),
    st.just("a" * 256),
    st.just("a" * 257),
)


@deterministic
@given(text=SERIALS)
def test_a_serial_is_one_that_the_webhooks_take_or_is_flagged(run: Callable, rules: Rules, text: str) -> None:
    book = run(devices(drive(f"<serial>{escape(text)}</serial>")), rules)
    written = values(book, ".serial")
    assert all(re.fullmatch(r"[A-Za-z0-9_.+-]{1,256}", serial) for serial in written)
    if written != [text.strip()]:
        assert {"disk-serial/unset", "disk-serial/charset", "disk-serial/blanks"} & findings(book)


@deterministic
@given(logical=st.integers(0, 5_000_000), physical=st.integers(0, 5_000_000))
def test_sector_sizes_are_such_that_the_webhooks_take(run: Callable, rules: Rules, logical: int, physical: int) -> None:
    sizes = f"<blockio logical_block_size='{logical}' physical_block_size='{physical}'/>"
    book = run(devices(drive(sizes)), rules)
    written = values(book, ".custom.logical") + values(book, ".custom.physical")
    if not written:
        assert "disk-sectors/size" in findings(book)
    else:
        assert written == sorted(written)
        assert all(512 <= size <= 2**21 and size & (size - 1) == 0 for size in written)


def test_a_disk_has_its_item_its_volume_and_its_claim(run: Callable, rules: Rules) -> None:
    book = run(devices(drive()), rules, {"disks": GIB})
    assert values(book, "disks[vda].name") == values(book, "volumes[vda].name") == ["vda"]
    assert values(book, ".claimName") == values(book, "[vda].metadata.name") == ["vm-vda"]
    assert values(book, ".requests.storage")


def test_a_disk_of_unknown_size_names_a_claim_that_has_no_manifest(run: Callable, rules: Rules) -> None:
    book = run(devices(drive()), rules)
    assert values(book, ".claimName") == ["vm-vda"]
    assert not [path for path in book.writes if path.startswith("PersistentVolumeClaim")]
    assert "disk-claim/size" in findings(book)


def test_disks_with_one_target_dev_have_claims_of_their_own(run: Callable, rules: Rules) -> None:
    book = run(devices(drive(), drive(), drive(target="bus='virtio'")), rules)
    claims = values(book, ".claimName")
    assert len(set(claims)) == 3
    assert all(LABEL.fullmatch(claim) for claim in claims)


@pytest.mark.parametrize("path", ["/dev/mapper/quorum", "/srv/shared.img"])
def test_guests_that_share_a_disk_share_its_claim(run: Callable, rules: Rules, path: str) -> None:
    first, second = (
        run(
            devices(drive("<shareable/>", target=f"dev='{dev}' bus='virtio'")),
            rules,
            {"disks": {dev: {"capacity": "1048576", "path": path}}},
        )
        for dev in ("vda", "vdz")
    )
    claims = [
        {name.partition("]")[2]: write.value for name, write in book.writes.items() if name.startswith("Persistent")}
        for book in (first, second)
    ]
    assert claims[0] == claims[1]
    assert claims[0][".spec.accessModes[0]"] == "ReadWriteMany"
    assert values(first, ".cache") == ["none"]


def test_disks_of_other_paths_do_not_share_a_claim(run: Callable, rules: Rules) -> None:
    books = [
        run(devices(drive("<shareable/>")), rules, {"disks": {"vda": {"capacity": "1", "path": path}}})
        for path in ("/dev/sdx", "/dev/sdy")
    ]
    assert values(books[0], ".claimName") != values(books[1], ".claimName")


def test_every_item_but_an_empty_drive_has_a_volume(run: Callable, rules: Rules) -> None:
    empty = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>"
    book = run(devices(drive(), empty), rules)
    assert values(book, "disks[sda].name") == ["sda"]
    assert not values(book, "volumes[sda].name")
    older = run(devices(drive(), empty), rules, {"kubevirt": "1.5"})
    assert not [path for path in older.writes if "[sda]" in path]
    assert "disk-gate/empty-cdrom" in findings(older)


def test_secrets_of_a_source_stay_there(run: Callable, rules: Rules) -> None:
    inside = "<host name='h'/><cookies><cookie name='session'>planted-cookie</cookie></cookies>"
    served = f"<source protocol='https' name='a.iso' query='planted-query'>{inside}</source>"
    chain = f"<backingStore type='network'><format type='raw'/>{served}<backingStore/></backingStore>"
    xml = devices(
        f"<disk type='network' device='cdrom'>{served}<target dev='sda' bus='sata'/></disk>",
        drive(chain),
        drive(f"<mirror type='network' job='copy'><format type='raw'/>{served}</mirror>", target="dev='vdb'"),
        f"<disk type='network' device='floppy'>{served}<target dev='fda'/></disk>",
    )
    book = run(xml, rules)
    seen = " ".join([*(f"{entry.value} {entry.because} {entry.writes}" for entry in book.entries), str(book.findings)])
    assert "planted" not in seen
    assert seen.count("(redacted)") >= 4 * 2


def test_virtio_disks_whose_slots_give_another_order_are_flagged(run: Callable, rules: Rules) -> None:
    def at(dev: str, slot: str) -> str:
        return drive(f"<address type='pci' bus='0x00' slot='{slot}'/>", target=f"dev='{dev}' bus='virtio'")

    assert "disk-address/order" not in findings(run(devices(at("vda", "0x04"), at("vdb", "0x0a")), rules))
    assert "disk-address/order" in findings(run(devices(at("vda", "0x0a"), at("vdb", "0x04")), rules))
    unplaced = drive(target="dev='vdb' bus='virtio'")
    assert "disk-address/order" not in findings(run(devices(at("vda", "0x0a"), unplaced), rules))


@pytest.mark.parametrize(
    ("writing", "reading", "written", "flagged"),
    [
        (None, None, "enospace", False),
        ("stop", None, "stop", False),
        ("enospace", "report", "enospace", False),
        (None, "report", "enospace", False),
        (None, "stop", "enospace", True),
        ("ignore", "report", "ignore", True),
    ],
)
def test_the_error_policy_is_what_qemu_does(
    run: Callable, rules: Rules, writing: str | None, reading: str | None, written: str, flagged: bool
) -> None:
    attributes = (f"error_policy='{writing}' " if writing else "") + (f"rerror_policy='{reading}'" if reading else "")
    book = run(devices(drive(f"<driver {attributes}/>" if attributes else "")), rules)
    assert values(book, ".errorPolicy") == [written]
    assert ("disk-error-policy/reading" in findings(book)) is flagged


def test_a_startup_policy_of_an_unknown_type_of_disk_is_no_crash(run: Callable, rules: Rules) -> None:
    disk = "<disk type='quantum'><source startupPolicy='optional'/><target dev='vda' bus='virtio'/></disk>"
    book = run(f"<devices>{disk}</devices>", rules)
    assert {found.id for entry in book.entries for found in entry.findings} >= {"disk-claim/type"}
    assert not book.internal
