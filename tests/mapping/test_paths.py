"""Leaves and their paths, and what is refused before it can do harm."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.data import MAX_BYTES
from migrate.mapping.paths import parse, read
from migrate.model import Refused

REPEATS = frozenset({"devices.disk", "os.boot"})


def leaves(xml: str) -> dict[str, str]:
    return {leaf.path: leaf.value for leaf in read(parse(xml.encode(), "x"), REPEATS).leaves}


def test_of_an_element_that_libvirt_knows_once_the_first_has_the_path() -> None:
    xml = "<domain><memory unit='KiB'>8</memory><a><b/><b/></a><memory>9<b/><b c='1'/></memory><memory/></domain>"
    document = read(parse(xml.encode(), "x"), REPEATS, frozenset({"memory", "a"}))
    assert [(leaf.path, leaf.pattern) for leaf in document.leaves] == [
        ("memory.unit", "memory.unit"),
        ("memory", "memory"),
        ("a.b[0]", "a.b"),
        ("a.b[1]", "a.b"),
        ("memory[1].b[0]", "2nd.memory.b"),
        ("memory[1].b[1].c", "2nd.memory.b.c"),
        ("memory[1]", "2nd.memory"),
        ("memory[2]", "2nd.memory"),
    ]


def test_an_attribute_has_the_path_before_an_element_of_its_name() -> None:
    efi = "<os firmware='efi'><firmware><feature/></firmware></os>"
    xml = f"<domain>{efi}<a b='1'><b>2</b></a><c d=''><d/><d/></c></domain>"
    document = read(parse(xml.encode(), "x"), REPEATS)
    assert [(leaf.path, leaf.pattern) for leaf in document.leaves] == [
        ("os.firmware", "os.firmware"),
        ("os.firmware.feature", "os.firmware.feature"),
        ("a.b", "a.b"),
        ("a.b[0]", "2nd.a.b"),
        ("c.d", "c.d"),
        ("c.d[0]", "2nd.c.d"),
        ("c.d[1]", "2nd.c.d"),
    ]


def test_attributes_texts_and_bare_elements_are_leaves() -> None:
    xml = "<domain type='kvm'><memory unit='KiB'> 8 </memory><features><acpi/></features><!-- no --></domain>"
    assert leaves(xml) == {"type": "kvm", "memory.unit": "KiB", "memory": "8", "features.acpi": ""}


def test_a_repeatable_element_has_an_index_also_when_single() -> None:
    found = leaves("<domain><devices><disk type='file'/></devices><x/><x a='1'/></domain>")
    assert found == {"devices.disk[0].type": "file", "x[0]": "", "x[1].a": "1"}


def test_known_namespaces_have_fixed_prefixes_whatever_the_document_calls_them() -> None:
    uri = "http://libvirt.org/schemas/domain/qemu/1.0"
    xml = f"<domain xmlns:evil='{uri}'><evil:commandline><evil:arg value='-s'/></evil:commandline></domain>"
    assert leaves(xml) == {"qemu:commandline.qemu:arg.value": "-s"}


def test_an_unknown_namespace_is_one_leaf() -> None:
    found = leaves("<domain><metadata><a:b xmlns:a='urn:x'><a:c>1</a:c><a:d e='2'/></a:b></metadata></domain>")
    assert list(found) == ["metadata.other:b"]
    assert "<a:c>1</a:c>" in found["metadata.other:b"]


def test_text_around_children_is_not_lost() -> None:
    assert leaves("<domain><a>x<b/>y</a></domain>") == {"a.b": "", "a": "xy"}


LAUGHS = (
    "<!DOCTYPE domain [<!ENTITY a 'ha'>"
    + "".join(f"<!ENTITY a{n} '{f'&a{n - 1 if n else str()};' * 10}'>" for n in range(9))
    + "]><domain><name>&a8;</name></domain>"
)


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        (b"", "not well-formed"),
        (b"<domain>", "not well-formed"),
        (b"hello", "not well-formed"),
        (b"<pool/>", "not <domain>"),
        (b"<domstatus><domain/></domstatus>", "not <domain>"),
        (b"<!DOCTYPE domain><domain/>", "document type"),
        (b"<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain/>", "document type"),
        (b"<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain><name>&x;</name></domain>", "document type"),
        (LAUGHS.encode(), ""),
        (b"<domain>" + b"<a>" * 40_000 + b"</a>" * 40_000 + b"</domain>", "not well-formed"),
        (b"<domain>" + b"<a/>" * 400_000 + b"</domain>", "more markup"),
        (b"<domain>" + b" " * MAX_BYTES + b"</domain>", "larger than 16 MB"),
        (b"\x00\x01\x02", "not well-formed"),
        ("<domain/>".encode("utf-16")[:-3], "not well-formed"),
        (b"<?xml version='1.0' encoding='UTF-7'?>+ADw-domain+AD4-+ADw-/domain+AD4-", "encoding"),
    ],
    ids=range(15),
)
def test_bad_input_is_refused_in_one_line_and_little_memory(xml: bytes, says: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused) as refusal:
        parse(xml, "bad.xml")
    assert says in str(refusal.value)
    assert str(refusal.value).startswith("bad.xml: ")
    assert "\n" not in str(refusal.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


WIDE = {
    "attributes": "<domain><a " + " ".join(f"a{n}='1'" for n in range(30_000)) + "/></domain>",
    "elements": "<domain><devices>" + "<disk/>" * 30_000 + "</devices></domain>",
}


@pytest.mark.parametrize("wide", WIDE)
def test_a_crowd_in_one_element_took_the_square_of_its_number(wide: str) -> None:
    with pytest.raises(Refused, match="more markup"):
        parse(WIDE[wide].encode(), "wide.xml")


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    for document in (data, b"<domain>" + data + b"</domain>"):
        try:
            read(parse(document, "x"), REPEATS)
        except Refused as refusal:
            assert "\n" not in str(refusal)


def test_a_ceph_key_inside_of_a_legacy_rbd_name_was_shown() -> None:
    disk = "<domain><devices><disk><source protocol='{}' name='{}'/></disk></devices></domain>"
    shown = {
        ("rbd", "pool/image:id=admin:key=QVFD==:auth_supported=cephx"): (
            "pool/image:id=admin:key=(redacted):auth_supported=cephx"
        ),
        ("rbd", "pool/image:key=QV\\:FD"): "pool/image:key=(redacted)",
        ("rbd", "pool/key=a"): "pool/key=a",
        ("https", "a/b?sig=QVFD"): "a/b?(redacted)",
        ("nbd", "a?b"): "a?b",
    }
    for (protocol, name), said in shown.items():
        assert leaves(disk.format(protocol, name))["devices.disk[0].source.name"] == said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_password_inside_of_a_text_was_shown(encoding: str) -> None:
    texts = {
        "ks=http://u:hunter2@h/a x": "ks=http://u:(redacted)@h/a x",
        "ks=http://u:hunter2&#64;h/a": "ks=http://u:(redacted)@h/a",
        "a PASSWD=hunter2 b": "a PASSWD=(redacted) b",
        "json:{key: hunter2}": "json:(redacted)",
        "see http://h:80/a, mail a@b": "see http://h:80/a, mail a@b",
    }
    for text, shown in texts.items():
        root = parse(f"<domain a='{text}'>{text}<b/>{text}</domain>".encode(encoding), "x")
        assert [root.get("a"), root.text, root[0].tail] == [shown] * 3
