"""The leaves of libvirt's schema: how they are found in RelaxNG, and what the shipped file says."""

import importlib
import sys
from pathlib import Path

import pytest

from migrate.data import data_path
from migrate.mapping.vocabulary import FILE, Leaf, dump, load, parse_lines

TOOLS = Path(__file__).parent.parent / "tools"

GRAMMAR = """
<grammar xmlns="http://relaxng.org/ns/structure/1.0">
  <start><ref name="domain"/></start>
  <include href="common.rng"/>
  <define name="domain">
    <element name="domain">
      <attribute name="type"><choice><value>kvm</value><value>qemu</value></choice></attribute>
      <optional><attribute name="id"/></optional>
      <interleave>
        <element name="name"><text/></element>
        <optional><ref name="device"/></optional>
        <zeroOrMore><choice><ref name="disk"/><element name="hub"><empty/></element></choice></zeroOrMore>
        <optional><ref name="twice"/></optional>
        <optional><ref name="twice"/></optional>
        <choice><ref name="once"/><ref name="once"/></choice>
        <optional>
          <element name="commandline" ns="http://libvirt.org/schemas/domain/qemu/1.0">
            <oneOrMore><element name="arg"><attribute name="value"/></element></oneOrMore>
          </element>
        </optional>
      </interleave>
    </element>
  </define>
</grammar>
"""
COMMON = """
<grammar xmlns="http://relaxng.org/ns/structure/1.0">
  <define name="disk">
    <element name="disk"><ref name="mode"/><optional><ref name="backing"/></optional></element>
  </define>
  <define name="mode">
    <attribute name="mode"><data type="string"><param name="pattern">(on|off)</param></data></attribute>
  </define>
  <define name="backing">
    <element name="backingStore"><optional><attribute name="index"/><ref name="backing"/></optional></element>
  </define>
  <define name="twice"><element name="twice"><text/></element></define>
  <define name="once"><element name="once"><attribute name="a"><text/></attribute></element></define>
  <define name="device"><element name="device"><attribute name="a"><value>x</value></attribute></element></define>
  <define name="device" combine="choice">
    <element name="device"><attribute name="a"><value>y</value></attribute></element>
  </define>
</grammar>
"""


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOLS))
    yield importlib.import_module("libvirt_vocabulary")
    sys.path.remove(str(TOOLS))


def test_a_small_grammar(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "KEPT", "kept[].a = b\n")
    (tmp_path / "domain.rng").write_text(GRAMMAR)
    (tmp_path / "common.rng").write_text(COMMON)
    assert dump(tool.vocabulary([tmp_path])).splitlines()[1:] == [
        "device.a = x y",
        "disk[].backingStore element",
        "disk[].backingStore.backingStore element",
        "disk[].backingStore.index",
        "disk[].mode = off on",
        "hub[] element",
        "id",
        "kept[].a = b",
        "name text",
        "once.a",
        "qemu:commandline.qemu:arg[].value",
        "twice[] text",
        "type = kvm qemu",
    ]


def test_several_schemas_are_united(tool, tmp_path):
    for name, value in (("old", "a"), ("new", "b")):
        (tmp_path / name).mkdir()
        inner = f'<element name="x"><attribute name="v"><value>{value}</value></attribute></element>'
        more = f"<zeroOrMore>{inner}</zeroOrMore>" if name == "new" else inner
        (tmp_path / name / "domain.rng").write_text(
            '<grammar xmlns="http://relaxng.org/ns/structure/1.0"><start><ref name="domain"/></start>'
            f'<define name="domain"><element name="domain">{more}</element></define></grammar>'
        )
    assert tool.vocabulary([tmp_path / "old", tmp_path / "new"])["x[].v"] == Leaf("attribute", ("a", "b"))


def test_every_leaf_of_the_installed_schema_is_shipped(tool):
    shipped = load()
    for path in tool.vocabulary([Path(tool.INSTALLED)]):
        assert path.replace("[]", "") in shipped.paths


def test_the_shipped_leaves_are_of_the_oldest_and_the_newest_release_and_stand_once_each():
    lines = [path for path, _ in parse_lines(data_path(*FILE).read_text())]
    assert len(lines) == len({path.replace("[]", "") for path in lines})
    # The first is in libvirt 7.0 and gone since, the second has come with 12.8.
    assert {"devices.smartcard[].alias.name", "cputune.energytune[].vcpus"} <= set(lines)
    assert "devices.disk[].source.encryption.secret[].uuid" in lines


def test_the_file_is_read_as_it_is_written():
    lines = "a[].b = x y\nc text\nd element\n"
    assert dump(dict(parse_lines(lines))).splitlines()[1:] == lines.splitlines()


def test_kinds_and_values():
    paths = load().paths
    assert paths["memory"].kind == "text" and paths["memory.unit"].kind == "attribute"
    assert paths["devices.disk.readonly"] == Leaf("element", ())
    assert paths["devices.disk.device"].values == ("cdrom", "disk", "floppy", "lun")
    assert paths["devices.disk.target.dev"].values == ()
    assert "qemu:commandline.qemu:env.value" in paths
    assert not any("[" in path for path in paths)


@pytest.mark.parametrize(
    "pattern",
    [
        "devices.disk",
        "devices.interface",
        "devices.watchdog",
        "devices.iommu",
        "devices.serial.source",
        "devices.disk.source.host",
        "cpu.feature",
        "os.boot",
        "clock.timer",
        "sysinfo",
        "qemu:commandline.qemu:arg",
        "metadata.nova:instance.nova:ports.nova:port",
    ],
)
def test_repeatable(pattern):
    assert pattern in load().repeatable


@pytest.mark.parametrize("pattern", ["devices", "os", "devices.disk.source", "devices.memballoon", "cpu", "name"])
def test_not_repeatable(pattern):
    assert pattern not in load().repeatable
