"""No planted password is in anything that the program writes or says, whichever leaf held it."""

from __future__ import annotations

import json
from pathlib import Path

from lxml import etree
from test_cli import cli, domain

from migrate.mapping import rule_files
from migrate.mapping.paths import PREFIXES, REPEATED

SECRET = "hunter2-planted"
URIS = {prefix: uri for uri, prefix in PREFIXES.items()}


def secret_patterns() -> list[str]:
    """Every pattern of a rule that marks its leaves secret, with `*` and `**` filled in."""
    patterns = {pattern for rule in rule_files.load().rules.values() if rule.secret for pattern in rule.patterns}
    filled = {pattern.replace("**", "any.more").replace("*", "any") for pattern in patterns}
    return sorted(pattern for pattern in filled if not pattern.startswith(f"{REPEATED}."))  # in tests/mapping


def planted(root: etree._Element, pattern: str, attribute: bool) -> None:
    """Adds the leaf of a pattern with the secret in it, as an attribute or a text."""
    *steps, last = pattern.split(".")
    element = root
    for step in steps if attribute else [*steps, last]:
        found = None if step in ("disk", "entry") else element.find(tag(step))
        element = etree.SubElement(element, tag(step)) if found is None else found
        if step == "disk":
            etree.SubElement(element, "target", dev="vdz", bus="virtio")
    if attribute:
        element.set(tag(last), SECRET)
    else:
        element.text = SECRET


def tag(step: str) -> str:
    prefix, colon, name = step.rpartition(":")
    return f"{{{URIS[prefix]}}}{name}" if colon else name


def everything(source: Path, out: Path) -> None:
    """Runs all that reads the source, and looks for the secret in all that is said and written."""
    stock, plan = out / "inventory", out / "plan"
    runs = [
        cli("list", "files", source),
        cli("list", "files", source, "-o", "json"),
        cli("collect", "files", source, "-d", stock),
        cli("collect", "files", source, "-d", stock, "-o", "json"),
        cli("plan", stock, "-d", plan),
        cli("plan", source, "-d", out / "direct", "-o", "json"),
        cli("apply", plan, "--directory", out / "claims", "-o", "json"),
        cli("verify", plan, "--directory", out / "claims", "-o", "json"),
    ]
    for vm in json.loads((plan / "report.json").read_text())["vms"][:3]:
        runs.append(cli("explain", plan, vm["folder"], "devices", "-o", "json"))
    assert not [done.args for done in runs if SECRET in done.stdout + done.stderr]
    assert 70 not in {done.returncode for done in runs}, [done.stderr for done in runs if done.returncode == 70]
    files = [file for file in out.rglob("*") if file.is_file()]
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]
    assert (out / "claims").exists() or any(file.name == "journal.jsonl" for file in files)


def test_every_leaf_that_a_rule_calls_secret_is_redacted(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    number = 0
    for pattern in secret_patterns():
        for attribute in (False, True):
            root = etree.fromstring(domain(f"vm-{number}", 0))
            root.find("uuid").text = f"8f2a6a3e-6a0a-4c4b-9d1e-{number:012}"
            planted(root, pattern, attribute)
            (source / f"{number}.xml").write_bytes(etree.tostring(root))
            number += 1
    assert number > 30
    everything(source, tmp_path / "out")


NETWORK = (
    "<disk type='network'><driver name='qemu' type='raw'/>{auth}<source protocol='{protocol}' name='a/b'{more}>"
    "<host name='h'/>{inside}</source><target dev='vdb' bus='virtio'/></disk>"
)
FOREIGN = "xmlns:x='urn:of-nobody'"


DEVICES = [
    NETWORK.format(auth="", protocol="https", more=f" query='token={SECRET}'", inside=""),
    NETWORK.format(auth="", protocol="https", more="", inside=f"<cookies><cookie name='c'>{SECRET}</cookie></cookies>"),
    NETWORK.format(auth="", protocol="rbd", more=f" {FOREIGN} x:key='{SECRET}'", inside=""),
    NETWORK.format(auth="", protocol="rbd", more="", inside=f"<x:key {FOREIGN}>{SECRET}</x:key>"),
    NETWORK.replace("a/b", f"pool/a:id=a:key={SECRET}:mon_host=h").format(auth="", protocol="rbd", more="", inside=""),
    NETWORK.replace("a/b", f"pool/a:key=x\\:{SECRET}").format(auth="", protocol="rbd", more="", inside=""),
    NETWORK.replace("a/b", f"a/b?sig={SECRET}").format(auth="", protocol="https", more="", inside=""),
    NETWORK.replace("a/b", f"ftp://u:{SECRET}@h/a").format(auth="", protocol="ftp", more="", inside=""),
    NETWORK.replace("a/b", f"p/i:id=a:password={SECRET}:x=y").format(auth="", protocol="rbd", more="", inside=""),
    NETWORK.format(auth=f"<auth username='u' passwd='{SECRET}'/>", protocol="iscsi", more="", inside=""),
    NETWORK.format(auth="", protocol="ssh", more="", inside=f"<identity username='u' password='{SECRET}'/>"),
    f"<disk type='file'><source file='http://u:{SECRET}@h/a'/><target dev='vdb' bus='virtio'/></disk>",
    f"<disk type='file'><source file='rbd:p/i:key={SECRET}'/><target dev='vdb' bus='virtio'/></disk>",
    f"<disk type='file'><source file='json:{{&quot;key&quot;:&quot;{SECRET}&quot;}}'/><target dev='vdb'/></disk>",
    "<disk type='file'><source file='/a'/><target dev='vdb' bus='virtio'/>"
    f"<encryption format='luks'><passphrase>{SECRET}</passphrase></encryption></disk>",
    f"<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0' ticket='{SECRET}'/></channel>",
    f"<graphics type='vnc' passwd='{SECRET}' passwdValidTo='2030-01-01T00:00:00'/>",
    f"<graphics type='spice' passwd='{SECRET}'/><graphics type='vnc' passwd='{SECRET}'/>",
    f"<interface type='user' {FOREIGN} x:token='{SECRET}'><x:deep><x:er>{SECRET}</x:er></x:deep></interface>",
    f"<disk type='file' device='floppy'><source file='/a'/><target dev='fda'/><x:s {FOREIGN}>{SECRET}</x:s></disk>",
    f"<hostdev mode='subsystem' type='pci'><x:s {FOREIGN} k='{SECRET}'/></hostdev>",
    f"<made-up {FOREIGN}><x:password>{SECRET}</x:password></made-up>",
]


# The arguments of a kernel that boots directly.
ARGUMENTS = [
    f"ks=http://u:{SECRET}@h/ks",
    f"a passwd={SECRET} b",
    f"quiet systemd.set_credential=passwd.hashed-password.root:{SECRET}",
    f"netroot=iscsi:u:{SECRET}/x:ru:{SECRET}@10.0.0.1::::iqn.2026-01.example:a",
]


OTHERS = [
    f"<made-up password='{SECRET}'><token>{SECRET}</token></made-up>",
    "<metadata><o:vm xmlns:o='http://ovirt.org/vm/1.0'><o:device devtype='disk' name='hdd'><o:payload>"
    f"<o:file path='openstack/latest/user_data'>{SECRET}</o:file></o:payload></o:device></o:vm></metadata>",
]


def test_a_secret_outside_of_devices_is_redacted(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number, more in enumerate(OTHERS):
        (source / f"{number}.xml").write_text(domain(f"vm-{number}", number, more=more))
    for number, arguments in enumerate(ARGUMENTS, len(OTHERS)):
        kernel = f"<kernel>/k</kernel><cmdline>{arguments}</cmdline></os>"
        (source / f"{number}.xml").write_text(domain(f"vm-{number}", number).replace("</os>", kernel))
    everything(source, tmp_path / "out")


def test_a_secret_inside_a_device_is_redacted(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number, devices in enumerate(DEVICES):
        (source / f"{number}.xml").write_text(domain(f"vm-{number}", number, devices))
    everything(source, tmp_path / "out")


def test_a_broken_file_says_nothing_of_its_content(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    good = domain(devices=f"<graphics type='vnc' passwd='{SECRET}'/>")
    (source / "good.xml").write_text(good)
    for number, text in enumerate(
        [
            good.replace("</devices>", ""),
            good.replace("passwd='hunter2-planted'", "passwd='hunter2-planted"),
            good.replace(f"passwd='{SECRET}'", f"passwd='{SECRET}' passwd='{SECRET}'"),
            good.replace(f"'{SECRET}'", f"'&{SECRET};'"),
            f"<!DOCTYPE x [<!ENTITY e '{SECRET}'>]>" + good,
            good.replace("</uuid>", "x</uuid>"),
        ]
    ):
        (source / f"{number}.xml").write_text(text)
    everything(source, tmp_path / "out")
