import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import inventory
from migrate.model import VM, Disk, Image, Refused, Skipped

UUID = "6ba410c5-1e5c-4d57-bee7-2228e7ffa32f"


def vm(name="web", uuid=UUID, source="qemu://h1/system", **more):
    return VM(name, uuid, "libvirt", source, "qemu:///system", xml=f"<domain>{name}</domain>".encode(), **more)


def folders(vms):
    return {(vm.source, vm.uuid): vm.folder for vm in vms}


def test_what_is_written_is_read_again_with_its_xml(tmp_path):
    disk = Disk(
        "vda", path="/a", format="qcow2", capacity=1 << 40, chain=[Image("/a", "qcow2"), Image("/b", "raw", "/c")]
    )
    written = vm("wéb\n/../x", state="paused", autostart=False, snapshots=["s1"], disks=[disk], pool_paths=["/pool"])
    skipped = [Skipped("gone", "qemu://h1/system", "no")]
    inventory.write(tmp_path / "i", [written], skipped)
    found = inventory.read(tmp_path / "i")
    assert [replace(each, digest="") for each in found] == [replace(written, folder="web-x")]
    assert found.skipped == skipped
    assert sorted(path.name for path in (tmp_path / "i").iterdir()) == ["inventory.json", "web-x.xml"]


def test_writing_the_same_again_changes_no_byte(tmp_path):
    vms = [vm(), vm("db", uuid=UUID[:-1] + "0")]
    inventory.write(tmp_path, vms, [])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    inventory.write(tmp_path, reversed(vms), [])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_second_source_adds_and_keeps_recorded_names(tmp_path):
    inventory.write(tmp_path, [vm()], [])
    inventory.write(tmp_path, [vm(source="qemu://h2/system"), vm("db", source="qemu://h2/session")], [])
    found = folders(inventory.read(tmp_path).vms)
    assert found["qemu://h1/system", UUID] == "web"
    assert found["qemu://h2/session", UUID] == "db"
    assert found["qemu://h2/system", UUID].startswith("web-")
    assert len(found["qemu://h2/system", UUID]) == len("web-") + 6


def test_a_renamed_vm_keeps_its_folder_and_takes_its_new_facts(tmp_path):
    inventory.write(tmp_path, [vm()], [])
    inventory.write(tmp_path, [vm("shop", state="running")], [])
    (found,) = inventory.read(tmp_path)
    assert (found.folder, found.name, found.state, found.xml) == ("web", "shop", "running", b"<domain>shop</domain>")


def test_shared_names_all_get_digits_that_do_not_depend_on_order():
    vms = [vm(source=f"qemu://h{n}/system") for n in range(5)]
    inventory.name_folders(vms)
    again = [replace(item, folder="") for item in reversed(vms)]
    inventory.name_folders(again)
    assert folders(vms) == folders(again)
    assert all(item.folder == f"web-{item.id[:6]}" for item in vms)


def test_a_name_that_looks_like_anothers_digits_does_not_take_its_folder():
    twins = [vm(source="qemu://h1/system"), vm(source="qemu://h2/system")]
    imitator = vm(f"web-{twins[0].id[:6]}", source="qemu://h3/system")
    vms = [*twins, imitator]
    inventory.name_folders(vms)
    assert imitator.folder == imitator.name
    assert twins[0].folder == f"web-{twins[0].id[:7]}"
    assert len({item.folder for item in vms}) == 3


def test_ten_thousand_vms_of_one_name_have_a_folder_each():
    vms = [vm("x" * 300, uuid=f"{n:08x}{UUID[8:]}") for n in range(10_000)]
    inventory.name_folders(vms)
    assert len({item.folder for item in vms}) == 10_000
    assert all(inventory.LABEL.fullmatch(item.folder) for item in vms)


@given(st.text())
def test_every_name_has_a_dns_label(name):
    assert inventory.LABEL.fullmatch(inventory.dns_label(name))


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Web_01.example", "web-01-example"),
        ("../../etc/passwd", "etc-passwd"),
        ("Bücher", "bucher"),
        ("网站", "vm"),
        ("-", "vm"),
        ("a" * 62 + "-b", "a" * 62),
    ],
)
def test_dns_labels(name, label):
    assert inventory.dns_label(name) == label


def test_an_error_among_the_vms_leaves_nothing(tmp_path):
    def failing():
        yield vm()
        raise Refused("the host went away")

    with pytest.raises(Refused, match="went away"):
        inventory.write(tmp_path / "i", failing(), [])
    assert not (tmp_path / "i").exists()
    inventory.write(tmp_path / "i", [vm("old")], [])
    before = {path.name: path.read_bytes() for path in (tmp_path / "i").iterdir()}
    with pytest.raises(Refused, match="went away"):
        inventory.write(tmp_path / "i", failing(), [])
    assert {path.name: path.read_bytes() for path in (tmp_path / "i").iterdir()} == before


def test_what_a_killed_run_left_is_removed(tmp_path):
    killed = (
        "import os, sys; from pathlib import Path; from migrate import inventory; from migrate.model import VM\n"
        "def vms():\n"
        "    yield VM('web', sys.argv[2], 'libvirt', 's', 'u', xml=b'<domain/>')\n"
        "    os.kill(os.getpid(), 9)\n"
        "inventory.write(Path(sys.argv[1]), vms(), [])"
    )
    assert subprocess.run([sys.executable, "-c", killed, tmp_path, UUID], check=False).returncode == -9
    assert not inventory.holds(tmp_path)
    inventory.write(tmp_path, [vm()], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inventory.json", "web.xml"]


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "raise KeyboardInterrupt"])
def test_after_a_kill_new_xml_was_planned_with_old_facts(tmp_path, end):
    inventory.write(tmp_path, [vm()], [])
    ended = (
        "import os, sys; from pathlib import Path; from migrate import inventory; from migrate.model import VM\n"
        "replace = Path.replace\n"
        "def dying(self, target):\n"
        "    if Path(target).name == inventory.RECORDS:\n"
        f"        {end}\n"
        "    return replace(self, target)\n"
        "Path.replace = dying\n"
        "new = VM('web', sys.argv[2], 'libvirt', 'qemu://h1/system', 'u', xml=b'<domain>new</domain>')\n"
        "inventory.write(Path(sys.argv[1]), [new], [])"
    )
    subprocess.run([sys.executable, "-c", ended, tmp_path, UUID], check=False, stderr=subprocess.DEVNULL)
    assert (tmp_path / "web.xml").read_bytes() == b"<domain>new</domain>"
    with pytest.raises(Refused, match="run it again"):
        inventory.read(tmp_path)
    inventory.write(tmp_path, [vm()], [])
    assert [found.xml for found in inventory.read(tmp_path)] == [vm().xml]


def test_a_full_disk_leaves_the_inventory_as_it_was(tmp_path):
    inventory.write(tmp_path, [vm()], [])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    full = (
        "import resource, sys; from pathlib import Path; from migrate import inventory; from migrate.model import VM\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "big = b'x' * int(sys.argv[3])\n"
        "vms = [VM(f'vm{n}', sys.argv[2], 'libvirt', f's{n}', 'u', xml=big) for n in range(20)]\n"
        "inventory.write(Path(sys.argv[1]), vms, [])"
    )
    # First the XML does not fit, then the records.
    for size in ("2000", "10"):
        result = subprocess.run(
            [sys.executable, "-c", full, tmp_path, UUID, size], capture_output=True, text=True, check=False
        )
        assert "Refused" in result.stderr.splitlines()[-1]
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_two_writers_at_once_are_refused(tmp_path):
    def writing():
        with pytest.raises(Refused, match="another collect"):
            inventory.write(tmp_path, [vm("db")], [])
        yield vm()

    inventory.write(tmp_path, writing(), [])
    assert [item.name for item in inventory.read(tmp_path).vms] == ["web"]


def test_a_skipped_vm_stays_until_it_can_be_read(tmp_path):
    unread = [Skipped("web", "qemu://h1/system", "locked"), Skipped("web", "qemu://h2/system", "locked")]
    inventory.write(tmp_path, [], unread)
    inventory.write(tmp_path, [vm("db", source="qemu://h1/system")], [])
    assert inventory.read(tmp_path).skipped == unread
    inventory.write(tmp_path, [vm("web", source="qemu://h1/system")], [])
    assert inventory.read(tmp_path).skipped == unread[1:]


def test_a_bad_file_that_was_mended_is_no_longer_skipped(tmp_path):
    inventory.write(tmp_path, [], [Skipped("/a.xml", "files:///a.xml", "not well-formed")])
    inventory.write(tmp_path, [VM("web", UUID, "files", "files:///a.xml", "/a.xml")], [])
    assert inventory.read(tmp_path).skipped == []


def edited(records):
    def edit(change):
        document = json.loads(records.read_text())
        change(document)
        records.write_text(json.dumps(document))

    return edit


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(schema=2),
        lambda document: document["vms"][0].update(folder="../../etc/x"),
        lambda document: document["vms"][0].update(folder="web\n"),
        lambda document: document["vms"].append(document["vms"][0]),
        lambda document: document["vms"][0].pop("uuid"),
        lambda document: document["vms"][0].update(colour="red"),
        lambda document: document["vms"][0].update(transient=1),
        lambda document: document["vms"][0].update(autostart=1),
        lambda document: document["vms"][0].pop("autostart"),
        lambda document: document["vms"][0]["disks"].append({"target": "vda"}),
        lambda document: document["vms"][0]["disks"].append(7),
        lambda document: document["vms"][0].update(snapshots=[1]),
        lambda document: document.update(vms=[[]]),
        lambda document: document.update(vms={}),
        lambda document: document.update(skipped=None),
    ],
)
def test_records_edited_into_nonsense_are_refused_in_one_line(tmp_path, change):
    inventory.write(tmp_path, [vm()], [])
    edited(tmp_path / "inventory.json")(change)
    with pytest.raises(Refused) as refusal:
        inventory.read(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_records_that_are_no_inventory_are_refused(tmp_path, content):
    (tmp_path / "inventory.json").write_bytes(content)
    with pytest.raises(Refused):
        inventory.read(tmp_path)


def test_a_missing_inventory_and_a_missing_xml_are_refused(tmp_path):
    with pytest.raises(Refused, match="collect"):
        inventory.read(tmp_path)
    inventory.write(tmp_path, [vm()], [])
    (tmp_path / "web.xml").unlink()
    with pytest.raises(Refused, match="again"):
        list(inventory.read(tmp_path))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused):
        inventory.write(tmp_path / "file" / "i", [vm()], [])


def test_vms_that_were_never_written_read_their_xml_again():
    found = inventory.direct([vm("web"), Skipped("x", "y", "z"), vm("db")], lambda item: vm(item.name).xml)
    assert [(item.folder, item.xml) for item in found] == [("db", vm("db").xml), ("web", vm("web").xml)]
    assert [item.xml for item in found.vms] == [b"", b""]
    assert len(found.skipped) == 1


def test_an_xml_that_was_changed_since_crashed_or_met_the_facts_of_another(tmp_path):
    inventory.write(tmp_path, [vm(), vm("db", uuid=UUID[:-1] + "0")], [])
    (tmp_path / "web.xml").write_bytes(b"<domain>wbe</domain>")
    found = inventory.read(tmp_path)
    db, web = found.vms
    assert found.whole(db).xml == vm("db").xml
    with pytest.raises(Refused, match="at its source"):
        found.whole(web)
    with pytest.raises(Refused, match="again"):
        list(inventory.direct([vm()], lambda item: b"<domain/>"))
