"""The command line on domain XML files: exit codes, bad input, secrets, and the files of a plan."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate import inventory, journal, pipeline, reporting
from migrate.data import data_path
from migrate.mapping import rule_files
from migrate.model import Refused
from migrate.selection import Selection
from migrate.site import Site
from migrate.target.vocabulary import strict, target

UUID = "8f2a6a3e-6a0a-4c4b-9d1e-2f2a6c1b7d1{}"
DOMAIN = """
<domain type='kvm'{ns}>
  <name>{name}</name><uuid>{uuid}</uuid><memory unit='GiB'>2</memory><currentMemory unit='GiB'>2</currentMemory>
  <vcpu>2</vcpu><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><cpu mode='host-model'/>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='/srv/{name}.qcow2'/><target dev='vda' bus='virtio'/>
    </disk>
    <interface type='user'><mac address='52:54:00:12:34:5{n}'/><model type='virtio'/></interface>
    {devices}
  </devices>
  {more}
</domain>
"""


def domain(name: str = "web", n: int = 0, devices: str = "", more: str = "", ns: str = "") -> str:
    return DOMAIN.format(name=name, n=n, uuid=UUID.format(n), devices=devices, more=more, ns=ns)


def cli(*args: object, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "migrate", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(data_path().resolve()), "COLUMNS": "160", **more}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


@pytest.fixture
def web(tmp_path: Path) -> Path:
    path = tmp_path / "web.xml"
    path.write_text(domain())
    return path


def test_a_plan_of_a_file_has_all_its_parts(web: Path, tmp_path: Path) -> None:
    done = cli("plan", web, "-d", tmp_path / "plan")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "plan/report.json").read_text())
    jsonschema.validate(report, json.loads(data_path("reports", "report.schema.json").read_text()))
    (vm,) = report["vms"]
    manifest = yaml.safe_load((tmp_path / "plan" / vm["manifest"]).read_text())
    assert not strict(manifest, target("1.9"))
    assert manifest["spec"]["runStrategy"] == "Halted"
    assert "dataVolumeTemplates" not in manifest["spec"]
    assert manifest["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "web-vda"
    kustomization = yaml.safe_load((tmp_path / "plan/kustomization.yaml").read_text())
    assert f"{vm['folder']}/vm.yaml" in kustomization["resources"]
    assert "web" in done.stdout


def test_coverage_adds_up_to_the_ledger(web: Path, tmp_path: Path) -> None:
    cli("plan", web, "-d", tmp_path / "plan")
    (vm,) = json.loads((tmp_path / "plan/report.json").read_text())["vms"]
    lines = [json.loads(line) for line in (tmp_path / "plan/web/ledger.jsonl").read_text().splitlines()]
    counted = [line for line in lines if not line.get("implied")]
    cover = vm["coverage"]
    assert cover["leaves"] == len(counted) == sum(cover[word] for word in ("write", "default", "flag", "ignore"))
    assert cover["unknown"] == 0
    assert len({line["path"] for line in lines}) == len(lines)


def test_unknown_size_leaves_the_claim_out_and_is_a_warning(web: Path, tmp_path: Path) -> None:
    cli("plan", web, "-d", tmp_path / "plan")
    (vm,) = json.loads((tmp_path / "plan/report.json").read_text())["vms"]
    assert vm["verdict"] == "changed"
    assert vm["disks"] == [
        {
            "name": "vda",
            "path": "/srv/web.qcow2",
            "bytes": None,
            "allocated": None,
            "requested": None,
            "claim": "default/web-vda",
        }
    ]
    assert not (tmp_path / "plan/web/claims.yaml").exists()


@pytest.mark.parametrize(("threshold", "code"), [("never", 0), ("blocker", 0), ("warning", 1), ("note", 1)])
def test_fail_on(threshold: str, code: int, web: Path, tmp_path: Path) -> None:
    assert cli("plan", web, "-d", tmp_path / "plan", "--fail-on", threshold).returncode == code


def test_a_skipped_file_in_a_folder_counts_as_a_blocker(web: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.xml").write_text("<domain>")
    done = cli("plan", tmp_path, "-d", tmp_path / "plan")
    assert done.returncode == 1
    assert "bad.xml" in done.stderr
    report = json.loads((tmp_path / "plan/report.json").read_text())
    assert len(report["vms"]) == 1
    assert len(report["skipped"]) == 1
    assert cli("plan", tmp_path, "-d", tmp_path / "plan", "--fail-on", "never").returncode == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [("<domain>", "not well-formed"), ("<!DOCTYPE x><domain/>", "document type"), ("<pool/>", "not <domain>")],
)
def test_one_bad_file_is_exit_2_one_line_and_nothing_written(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(content)
    done = cli("plan", tmp_path / "x.xml", "-d", tmp_path / "plan")
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--kubevirt", "2.0"], "not known here"),
        (["--feature-gates", "+Nonsense"], "nearest name"),
        (["--site", "missing.yaml"], "--site"),
        (["--select", "shape=round"], "cannot be selected by"),
        (["--fail-on", "sometimes"], "sometimes"),
    ],
)
def test_bad_use_is_exit_2(args: list[str], says: str, web: Path, tmp_path: Path) -> None:
    done = cli("plan", web, "-d", tmp_path / "plan", *args)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("namespce: x", "did you mean namespace?"),
        ("networks: {'network:default': {pod: masquerad}}", "masquerade"),
        ("timezone: Mars/Olympus", "IANA"),
        ("timezone: ../../etc/passwd", "IANA"),
        ("timezone: localtime", "IANA"),
        ("waivers: [{finding: disk-buss, reason: a, until: 2027-01-01}]", "did you mean disk-bus?"),
        ("namespace: '../x'", "no name that Kubernetes takes"),
        ("a: [", "not YAML"),
    ],
)
def test_a_site_file_is_strict(content: str, says: str, web: Path, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(content)
    done = cli("plan", web, "-d", tmp_path / "plan", "--site", tmp_path / "site.yaml")
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


SECRET = "hunter2-planted"
QEMU = " xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"


@pytest.mark.parametrize(
    "planted",
    [
        {"devices": f"<graphics type='vnc' passwd='{SECRET}'/>"},
        {"devices": f"<graphics type='spice' passwd='{SECRET}'/>"},
        {"ns": QEMU, "more": f"<qemu:commandline><qemu:arg value='{SECRET}'/></qemu:commandline>"},
        {"ns": QEMU, "more": f"<qemu:commandline><qemu:env name='P' value='{SECRET}'/></qemu:commandline>"},
        {"more": f"<metadata><x:data xmlns:x='urn:x'><x:password>{SECRET}</x:password></x:data></metadata>"},
        {"more": f"<metadata><x:data xmlns:x='urn:x' key='{SECRET}'/></metadata>"},
        {"more": f"<sysinfo type='fwcfg'><entry name='opt/com.coreos/config'>{SECRET}</entry></sysinfo>"},
        {"more": f"<sysinfo type='smbios'><oemStrings><entry>ds=nocloud;s={SECRET}</entry></oemStrings></sysinfo>"},
    ],
)
def test_a_planted_password_reaches_no_file_and_no_output(planted: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "source" / "web.xml"
    path.parent.mkdir()
    path.write_text(domain(**planted))
    plan, stock = tmp_path / "out/plan", tmp_path / "out/inventory"
    outputs = [
        cli("collect", "files", path, "-d", stock),
        cli("collect", "files", path, "-d", stock, "-o", "json"),
        cli("plan", stock, "-d", plan, "--fail-on", "never"),
        cli("plan", path, "-d", tmp_path / "out/direct", "--fail-on", "never", "-o", "json"),
        cli("explain", plan, "web", "devices", "-o", "json"),
        cli("list", "files", path, "-o", "json"),
    ]
    assert [done.returncode for done in outputs] == [0] * len(outputs), [done.stderr for done in outputs]
    assert not [done.args for done in outputs if SECRET in done.stdout + done.stderr]
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]
    assert any(b"(redacted)" in file.read_bytes() for file in files if file.name == "ledger.jsonl")


def test_two_vms_of_one_name_get_their_own_folders(tmp_path: Path) -> None:
    for n in (0, 1):
        (tmp_path / f"{n}.xml").write_text(domain("same", n))
    cli("plan", tmp_path, "-d", tmp_path / "plan")
    folders = sorted(vm["folder"] for vm in json.loads((tmp_path / "plan/report.json").read_text())["vms"])
    assert len(set(folders)) == 2
    assert all(folder.startswith("same-") and len(folder) == len("same-") + 6 for folder in folders)


def test_one_uuid_in_two_files_is_a_warning_with_the_count(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.xml").write_text(domain(name))
    cli("plan", tmp_path, "-d", tmp_path / "plan")
    for vm in json.loads((tmp_path / "plan/report.json").read_text())["vms"]:
        (found,) = (item for item in vm["findings"] if item["id"] == "identity/uuid-in-two-files")
        assert found["severity"] == "warning"
        assert "3 files" in found["because"]
        assert found["path"] is None


def test_a_plan_is_the_same_bytes_on_every_run(web: Path, tmp_path: Path) -> None:
    for name, seed in (("one", "0"), ("two", "1")):
        command = [sys.executable, "-m", "migrate", "plan", web, "-d", tmp_path / name]
        environment = {**os.environ, "PYTHONPATH": str(data_path().resolve()), "PYTHONHASHSEED": seed}
        subprocess.run(command, check=True, env=environment, capture_output=True)
    one, two = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("one", "two")
    )
    assert one == two


def test_planning_over_a_journal_is_refused_and_over_something_else_too(web: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    assert cli("plan", web, "-d", plan).returncode == 0
    assert cli("plan", web, "-d", plan).returncode == 0
    (plan / journal.NAME).touch()
    assert cli("plan", web, "-d", plan).returncode == 2
    (tmp_path / "else").mkdir()
    (tmp_path / "else/precious").touch()
    assert cli("plan", web, "-d", tmp_path / "else").returncode == 2
    assert (tmp_path / "else/precious").exists()


def test_sizes_that_add_up_to_more_than_64_bits_broke_the_whole_plan(tmp_path: Path) -> None:
    disk = "<disk type='file'><source file='/{0}'/><target dev='{0}' bus='virtio'/></disk>"
    disks = "".join(map(disk.format, ("vda", "vdb", "vdc")))
    (tmp_path / "web.xml").write_text(domain(devices=disks))
    (tmp_path / "site.yaml").write_text("sizes: {'web/*': 7Ei}")
    done = cli("plan", tmp_path / "web.xml", "--site", tmp_path / "site.yaml", "-d", tmp_path / "plan")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "plan/report.json").read_text())["summary"]["bytes"] > 1 << 64


def test_explain_answers_from_both_ends(web: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    cli("plan", web, "-d", plan)
    leaf = cli("explain", plan, "web", "devices.disk[0].target.bus")
    assert "domain.devices.disks[vda].disk.bus" in leaf.stdout
    field = cli("explain", plan, "web", "spec.template.spec.domain.devices.disks[vda].disk.bus")
    assert "devices.disk[0].target.bus" in field.stdout
    gain = cli("explain", plan, UUID.format(0), "VirtualMachine.spec.runStrategy")
    assert "the source did not have it" in gain.stdout
    assert cli("explain", plan, "web", "devices.dsk").returncode == 2
    assert cli("explain", plan, "wob", "devices").returncode == 2


def test_rules_lists_and_shows_a_page() -> None:
    listed = json.loads(cli("rules", "-o", "json").stdout)
    assert "disk-bus" in {row["id"] for row in listed}
    assert "devices.disk.target.bus" in cli("rules", "disk-bus").stdout
    assert cli("rules", "disk-buss").returncode == 2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(min_size=1, max_size=80))
def test_hostile_names_stay_inside_the_folder_and_the_yaml(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    from lxml import etree

    root = etree.fromstring(domain())
    try:
        root.find("name").text = name
    except ValueError:
        return
    home = tmp_path_factory.mktemp("hostile")
    (home / "in").mkdir()
    (home / "in/x.xml").write_bytes(etree.tostring(root))
    try:
        found = pipeline.opened([home / "in/x.xml"], Selection.parse())
    except Exception as refusal:
        assert "\n" not in str(refusal)
        return
    items = pipeline.plan(found, rule_files.load(), target("1.9"), Site())
    reporting.write_plan(home / "out/plan", items, target("1.9"))
    assert {path.name for path in home.iterdir()} == {"in", "out"}
    (place,) = (path for path in (home / "out/plan").iterdir() if path.is_dir())
    assert inventory.LABEL.fullmatch(place.name)
    (manifest,) = list(yaml.safe_load_all((place / "vm.yaml").read_text()))
    assert not strict(manifest, target("1.9"))
    assert manifest["metadata"]["annotations"]["kubevirt-migrate/name"].strip() == root.findtext("name").strip()


def test_selecting_nothing_is_refused_and_an_empty_list_is_not(web: Path, tmp_path: Path) -> None:
    stock = tmp_path / "inventory"
    assert cli("collect", "files", web, "-d", stock, "--select", "wob").returncode == 2
    assert not stock.exists()
    assert cli("plan", web, "-d", tmp_path / "plan", "--exclude", "*").returncode == 2
    cli("collect", "files", web, "-d", stock)
    refused = cli("plan", stock, "-d", tmp_path / "plan", "--select", "wob")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "plan").exists()
    listed = cli("list", "files", web, "--select", "wob", "-o", "json")
    assert (listed.returncode, json.loads(listed.stdout)) == (0, {"vms": [], "skipped": []})


def test_bug_a_selected_file_was_named_as_if_it_were_alone(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for n in (1, 2):
        (tmp_path / f"d/{n}.xml").write_text(domain(n=n))

    def planned(*more: str) -> set[str]:
        cli("plan", tmp_path / "d", "-d", tmp_path / "plan", *more)
        return {row["folder"] for row in json.loads((tmp_path / "plan/report.json").read_text())["vms"]}

    names = planned()
    assert len(names) == 2
    for select in (*names, UUID.format(1)):
        found = planned("--select", select)
        assert len(found) == 1 and found < names


def test_a_twin_that_is_not_selected_still_counts(web: Path, tmp_path: Path) -> None:
    stock = tmp_path / "inventory"
    (tmp_path / "old.xml").write_text(domain("old"))
    cli("collect", "files", web, tmp_path / "old.xml", "-d", stock)
    cli("plan", stock, "-d", tmp_path / "plan", "--select", "web")
    (vm,) = json.loads((tmp_path / "plan/report.json").read_text())["vms"]
    assert "identity/uuid-in-two-files" in {item["id"] for item in vm["findings"]}


def test_a_plan_is_not_put_in_place_of_the_folder_one_stands_in(web: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for name in (".", ".."):
        done = cli("plan", web, "-d", name, cwd=tmp_path / "here")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"here", "web.xml"}


def test_a_table_folded_names_and_states_where_no_terminal_was(tmp_path: Path) -> None:
    name = "a-name-of-forty-characters-and-then-some"
    (tmp_path / "x.xml").write_text(domain(name))
    listed = cli("list", "files", tmp_path, COLUMNS="40").stdout
    planned = cli("plan", tmp_path, "-d", tmp_path / "plan", COLUMNS="40").stdout
    assert re.search(f"^{name}  [-0-9a-f]{{36}}  unknown ", listed, re.MULTILINE)
    assert re.search(f"^{name}  (changed|blocked) ", planned, re.MULTILINE)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_draft_onto_a_read_only_file_system_was_our_bug(web: Path, tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", tmp_path / "ro"], check=True)
    try:
        done = cli("site", web, "-o", tmp_path / "ro/site.yaml")
    finally:
        subprocess.run(["umount", tmp_path / "ro"], check=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_json_that_is_printed_is_ascii_and_a_table_has_no_control_characters(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(domain("n\x9b31m\U0001f600\x7f"))
    (tmp_path / "n\x9bo.xml").write_text("<domain>")
    for args in (["list", "files", tmp_path], ["plan", tmp_path, "-d", tmp_path / "plan"]):
        done = cli(*args, "-o", "json")
        assert done.stdout.isascii() and "\x7f" not in done.stdout
        document = json.loads(done.stdout)
        assert document["vms"][0]["name"] == "n\x9b31m\U0001f600\x7f"
        shown = cli(*args)
        assert all(line.isprintable() for line in (shown.stdout + shown.stderr).split("\n"))


def test_a_skipped_file_that_was_deleted_stayed_skipped_for_ever(web: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.xml").write_text("<domain>")
    assert cli("collect", "files", tmp_path, "-d", tmp_path / "stock").returncode == 1
    assert cli("collect", "files", web, "-d", tmp_path / "stock").returncode == 1
    (tmp_path / "bad.xml").unlink()
    assert cli("collect", "files", tmp_path, "-d", tmp_path / "stock").returncode == 0


def test_bug_a_vm_that_nobody_selected_failed_the_plan(tmp_path: Path) -> None:
    bad = f"<metadata><m:x xmlns:m='urn:m'>{'<m:a/>' * 5000}</m:x></metadata>"
    (tmp_path / "node.xml").write_text(f"<node>{domain('good', 1)}{domain('bad', 2, more=bad)}</node>")
    stock, plan = tmp_path / "stock", tmp_path / "plan"
    assert cli("collect", "libvirt", f"test://{tmp_path / 'node.xml'}", "-d", stock).returncode == 1
    assert cli("plan", stock, "-d", plan, "--select", "good", "--fail-on", "blocker").returncode == 0
    assert cli("plan", stock, "-d", plan, "--select", "bad").returncode == 1
    assert cli("plan", stock, "-d", plan).returncode == 1


def test_bug_a_vm_that_became_unreadable_looked_as_if_it_were_of_today(web: Path, tmp_path: Path) -> None:
    stock = tmp_path / "stock"
    (tmp_path / "db.xml").write_text(domain("db", 1))
    assert cli("collect", "files", web, tmp_path / "db.xml", "-d", stock).returncode == 0
    web.write_text("<domain")
    assert cli("collect", "files", web, tmp_path / "db.xml", "-d", stock).returncode == 1
    assert cli("plan", stock, "-d", tmp_path / "plan").returncode == 1
    vms = json.loads((tmp_path / "plan/report.json").read_text())["vms"]
    outdated = {vm["name"]: "state/outdated" in {item["id"] for item in vm["findings"]} for vm in vms}
    assert outdated == {"web": True, "db": False}


def test_collect_hides_what_the_rules_of_the_user_hide(web: Path, tmp_path: Path) -> None:
    rule = "{id: mine, owns: frob.key, secret: 'true', flag: note, because: Gone., remedy: None.}"
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/mine.yaml").write_text(f"rules: [{rule}]")
    web.write_text(domain(more="<frob key='hunter2'/>"))
    assert cli("collect", "files", web, "-d", tmp_path / "stock", "--rules", tmp_path / "rules").returncode == 0
    assert "hunter2" not in (tmp_path / "stock/web.xml").read_text()


def test_a_host_that_answers_again_stayed_skipped_for_ever(tmp_path: Path) -> None:
    host = tmp_path / "host.xml"
    both = ("collect", "libvirt", "test:///default", f"test://{host}", "-d", tmp_path / "stock")
    assert cli(*both).returncode == 1
    host.write_text("<node/>")
    done = cli(*both)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_blocked_plan_said_why_in_report_json_alone(web: Path, tmp_path: Path) -> None:
    for n in range(6):
        nic = "<interface type='network'><source network='lab'/><model type='virtio'/></interface>"
        (tmp_path / f"vm-{n}.xml").write_text(domain(f"vm-{n}", n, nic))
    (tmp_path / "site.yaml").write_text("networks: {'network:other': {pod: masquerade}}")
    done = cli("plan", tmp_path, "--site", tmp_path / "site.yaml", "-d", tmp_path / "plan")
    report = json.loads((tmp_path / "plan/report.json").read_text())
    (finding,) = (item for item in report["vms"][0]["findings"] if item["severity"] == "blocker")
    assert done.stdout.count(finding["because"]) == done.stdout.count(f"to do: {finding['remedy']}") == 1
    assert f"blocker {finding['id']}: vm-0, vm-1, vm-2, vm-3 and 2 more" in done.stdout


def test_a_name_that_the_terminal_cannot_show_was_our_bug(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(domain("n\xfc"), encoding="utf-8")
    done = cli("list", "files", tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "n\\xfc" in done.stdout


def test_output_onto_a_full_disk_was_our_bug(web: Path) -> None:
    command = [sys.executable, "-m", "migrate", "list", "files", str(web)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_collect_wrote_over_the_domain_xml_of_others(tmp_path: Path) -> None:
    (tmp_path / "web.xml").write_text(domain(devices="<graphics type='vnc' passwd='x'/>"))
    before = (tmp_path / "web.xml").read_bytes()
    done = cli("collect", "files", tmp_path, "-d", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["web.xml"]
    assert (tmp_path / "web.xml").read_bytes() == before


def test_a_second_run_took_its_own_inventory_and_plan_for_sources(web: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert cli("collect", "files", tmp_path, "-d", tmp_path / "stock").stdout.startswith("1 VM ")
        assert "1 VM: " in cli("plan", tmp_path, "-d", tmp_path / "plan").stdout


def test_verify_was_silent_about_blocked_vms(tmp_path: Path) -> None:
    bare(tmp_path / "web.xml", "web", 0)
    text = (tmp_path / "web.xml").read_text().replace("hvm", "xen")
    (tmp_path / "web.xml").write_text(text)
    assert cli("plan", tmp_path, "-d", tmp_path / "plan").returncode == 1
    done = cli("verify", tmp_path / "plan", "--directory", tmp_path / "out")
    assert (done.returncode, done.stderr.count("left out")) == (1, 1)


def bare(path: Path, name: str, n: int) -> None:
    """A domain without devices, which is never blocked."""
    path.write_text(re.sub("<devices>.*</devices>", "<devices/>", domain(name, n), flags=re.DOTALL))


def test_run_for_a_second_vm_found_the_plan_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n, name in enumerate(("app", "web")):
        bare(tmp_path / "in" / f"{name}.xml", name, n)
    args = ("run", "files", tmp_path / "in", "-d", tmp_path / "work", "--directory", tmp_path / "out")
    for name, plan in (("app", "plan"), ("web", "plan-2"), ("app", "plan")):
        done = cli(*args, "--select", name, "-o", "json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["plan"] == str(tmp_path / "work" / plan)


def test_run_for_another_host_found_the_plan_of_the_first_and_did_nothing(tmp_path: Path) -> None:
    for n, host in enumerate(("one", "two")):
        (tmp_path / host).mkdir()
        bare(tmp_path / host / "web.xml", "web", n)
    for host, plan in (("one", "plan"), ("two", "plan-2")):
        done = cli("run", "files", tmp_path / host, "-d", tmp_path / "work", "--directory", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        (row,) = json.loads((tmp_path / "work" / plan / "plan.json").read_text())["vms"]
        assert row["vm"]["source"] == f"files://{tmp_path}/{host}/web.xml"
    bare(tmp_path / "two/new.xml", "new", 3)
    done = cli("run", "files", tmp_path / "two", "-d", tmp_path / "work", "--directory", tmp_path / "out")
    assert [row["vm"]["name"] for row in json.loads((tmp_path / "work/plan-3/plan.json").read_text())["vms"]] == ["new"]


def test_run_prints_one_json_document_also_when_it_stops(web: Path, tmp_path: Path) -> None:
    args = ("run", "files", web, "-d", tmp_path / "work", "--directory", tmp_path / "out", "-o", "json")
    done = cli(*args)
    document = json.loads(done.stdout)
    assert (done.returncode, sorted(document)) == (1, ["copied", "plan", "verified"])
    assert document["copied"] and not document["verified"]


def test_json_is_all_that_is_printed(web: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.xml").write_text("<domain>")
    plan, stock, out = tmp_path / "plan", tmp_path / "inventory", tmp_path / "out"
    for args in (
        ["list", "files", tmp_path],
        ["collect", "files", tmp_path, "-d", stock],
        ["plan", stock, "-d", plan],
        ["apply", plan, "--directory", out],
        ["verify", plan, "--directory", out],
        ["explain", plan, "web", "memory"],
        ["rules"],
        ["rules", "disk-bus"],
        ["run", "files", tmp_path, "-d", tmp_path / "work", "--directory", out, "--exclude", "nothing"],
    ):
        done = cli(*args, "-o", "json")
        json.loads(done.stdout)
        assert done.stderr.count("\n") == (args[0] == "run"), (args, done.stderr)
        assert "kubevirt-migrate: nothing was copied" in done.stderr or args[0] != "run"


def test_a_skipped_file_is_named_once_and_very_many_are_counted(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number}.xml").write_text("<domain>")
    lines = cli("collect", "files", tmp_path, "-d", tmp_path / "inventory").stderr.splitlines()
    assert len(lines) == 51
    assert lines[0].count("0.xml") == 1
    assert "10 more" in lines[-1]


@pytest.mark.parametrize(
    "rules",
    [
        "",
        "7",
        "rules: 7",
        "rules: [7]",
        "rules: [{id: {a: b}, owns: x.y, ignore: z}]",
        "rules: [{id: x, owns: x.y, ignore: [z]}]",
        "{each: [x], rules: [{id: x, owns: y, ignore: z}]}",
        "rules: [{id: x, owns: x.y, copy: nowhere.at.all}]",
        "rules: [{id: x, owns: x.y, call: os.system}]",
        "rules: [{id: x, owns: memory, ignore: z}]",
    ],
)
def test_a_rule_file_is_strict(rules: str, web: Path, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/x.yaml").write_text(rules)
    done = cli("plan", web, "-d", tmp_path / "plan", "--rules", tmp_path / "rules")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "x.yaml" in done.stderr


@pytest.mark.parametrize(
    ("streams", "args", "code"),
    [
        ("| true", "", 0),
        ("| true", "--fail-on warning", 1),
        ("| true", "-o json", 0),
        (">&-", "", 0),
        ("2>&-", "--fail-on warning", 1),
    ],
)
def test_where_nobody_reads_the_output_all_is_done_and_the_exit_code_is_true(
    streams: str, args: str, code: int, web: Path, tmp_path: Path
) -> None:
    command = shlex.join(map(str, [sys.executable, "-m", "migrate", "plan", web, "-d", tmp_path / "plan"]))
    environment = {**os.environ, "PYTHONPATH": str(data_path().resolve())}
    line = f"set -o pipefail; {command} {args} {streams}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert (tmp_path / "plan/report.json").exists()


def test_of_two_plans_into_one_folder_the_second_is_refused(web: Path, tmp_path: Path) -> None:
    found = pipeline.opened([web], Selection.parse())
    (item,) = pipeline.plan(found, rule_files.load(), target("1.9"), Site())

    def rows(partial: Path) -> Iterator[reporting.Row]:
        done = cli("plan", web, "-d", tmp_path / "plan")
        assert (done.returncode, done.stdout) == (2, "")
        assert "another plan is being written there" in done.stderr
        yield reporting.write_vm(partial, item)

    reporting.write_rows(tmp_path / "plan", rows, target("1.9"))
    assert json.loads((tmp_path / "plan/report.json").read_text())["summary"]["vms"] == 1
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_plan_that_apply_has_begun_on_meanwhile_is_not_replaced(web: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    cli("plan", web, "-d", plan)
    begun = plan / journal.NAME

    def rows(partial: Path) -> Iterator[reporting.Row]:
        begun.write_text("")
        return iter(())

    with pytest.raises(Refused, match="`apply` has begun"):
        reporting.write_rows(plan, rows, target("1.9"))
    assert begun.exists()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_what_a_plan_that_was_killed_left_is_gone(web: Path, tmp_path: Path) -> None:
    for name in (".plan.partial", ".plan.old"):
        (tmp_path / name / "web").mkdir(parents=True)
        (tmp_path / name / "report.json").write_text("{")
    assert cli("plan", web, "-d", tmp_path / "plan").returncode == 0
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_what_the_site_file_says_of_vms_that_are_not_there_went_by_in_silence(web: Path, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    waivers = [{"finding": "*", "vm": name, "reason": "so", "until": "2099-01-01"} for name in ("*", "wob")]
    said = {"vms": {name: {"wave": 1} for name in ("web", UUID.format(0).upper(), "w[e]b", "WEB", "db-*")}}
    said |= {"sizes": {"web/vda": "1Gi", "wep/vda": "1Gi"}, "waivers": waivers}
    site.write_text(yaml.safe_dump(said))
    done = cli("plan", web, "-d", tmp_path / "plan", "--site", site)
    assert done.returncode == 0
    keys = ("vms: WEB", "vms: db-*", "sizes: wep/vda", "waivers: *: vm: wob")
    assert sorted(line.partition(": fits")[0] for line in done.stderr.splitlines()) == sorted(
        f"site file: {key}" for key in keys
    )
    assert cli("plan", web, "-d", tmp_path / "plan", "--site", site, "--select", "web").stderr == ""
