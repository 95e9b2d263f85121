"""Headers and chains, real ones from qemu-img and forged ones, and what qemu-nbd serves of them."""

import json
import os
import struct
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.model import Image, Refused, Unfinished
from migrate.transfer import _bytes, _nbd

MIB = 1 << 20


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def forge(
    path: Path,
    *,
    version: int = 3,
    backing: bytes | None = None,
    format: bytes | None = b"qcow2",
    backing_length: int | None = None,
    cluster_bits: int = 16,
    encryption: int = 0,
    incompatible: int = 0,
    extension_length: int | None = None,
    size: int = MIB,
) -> Path:
    """A qcow2 header of our own making; its tables are missing."""
    extensions = b""
    if format is not None:
        length = len(format) if extension_length is None else extension_length
        extensions = struct.pack(">II", 0xE2792ACA, length) + format.ljust(-(-len(format) // 8) * 8, b"\0")
    at = 104 + len(extensions) + 8
    length = backing_length if backing_length is not None else len(backing or b"")
    start = struct.pack(
        ">4sIQIIQIIQQIIQ",
        b"QFI\xfb",
        version,
        at if backing else 0,
        length,
        cluster_bits,
        size,
        encryption,
        1,
        0,
        0,
        0,
        0,
        0,
    )
    rest = struct.pack(">QQQII", incompatible, 0, 0, 4, 104) + extensions + bytes(8) + (backing or b"")
    path.write_bytes((start + rest).ljust(4096, b"\0"))
    return path


def overlay(path: Path, backing: str | Path, format: str = "qcow2") -> Path:
    """A qcow2 of 1 MiB on any backing name, true or not."""
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", format, path, "1M")
    return path


def test_header_says_what_qemu_img_wrote(tmp_path: Path):
    qemu_img("create", "-q", "-f", "raw", tmp_path / "base", "3M")
    for compat in ("0.10", "1.1"):
        options = ["-o", f"compat={compat}", "-b", "base", "-F", "raw"]
        qemu_img("create", "-q", "-f", "qcow2", *options, tmp_path / "top.qcow2")
        found = _bytes.header(str(tmp_path / "top.qcow2"))
        assert (found.size, found.backing_file, found.backing_format) == (3 * MIB, "base", "raw")
        assert (found.encrypted, found.corrupt, found.data_file, found.snapshots) == (False, False, None, 0)
    qemu_img("snapshot", "-c", "one", tmp_path / "top.qcow2")
    assert _bytes.header(str(tmp_path / "top.qcow2")).snapshots == 1
    for name in ("one", "two"):
        qemu_img("bitmap", "--add", tmp_path / "top.qcow2", name)
    assert _bytes.header(str(tmp_path / "top.qcow2")).bitmaps == 2


def test_chain_is_flattened_as_the_guest_sees_it(tmp_path: Path):
    base, middle, top = (tmp_path / name for name in ("base.raw", "middle.qcow2", "top.qcow2"))
    base.write_bytes(b"a" * MIB)
    overlay(middle, "base.raw", "raw")
    overlay(top, "middle.qcow2")
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 0x62 64k 64k", middle], check=True, stdout=subprocess.DEVNULL
    )
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -z 512k 64k", top], check=True, stdout=subprocess.DEVNULL)
    images = _bytes.chain(str(top), "qcow2", [])
    assert images == [Image(str(top), "qcow2"), Image(str(middle), "qcow2"), Image(str(base), "raw")]
    with _bytes.opened(images) as opened, _nbd.Connection(opened.uri) as connection:
        assert opened.size == MIB
        buffer = bytearray(MIB)
        connection.pread(0, buffer, 0, MIB)
        assert list(connection.data_ranges()) == [(0, 512 * 1024), (576 * 1024, MIB)]
    assert buffer == b"a" * 65536 + b"b" * 65536 + b"a" * 393216 + bytes(65536) + b"a" * 458752


def test_raw_is_never_probed(tmp_path: Path):
    disk = overlay(tmp_path / "guest-wrote-a-header", "/etc/passwd", "raw")
    content = disk.read_bytes()
    images = _bytes.chain(str(disk), None, [])
    assert images == [Image(str(disk), "raw")]
    with _bytes.serve(images) as uri, _nbd.Connection(uri) as connection:
        buffer = bytearray(connection.size)
        connection.pread(0, buffer, 0, len(buffer))
    assert buffer.rstrip(b"\0") == content.rstrip(b"\0")


def test_chain_of_many_images_is_served(tmp_path: Path):
    names = [tmp_path / f"{number}.qcow2" for number in range(20)]
    qemu_img("create", "-q", "-f", "qcow2", names[0], "1M")
    for below, name in pairwise(names):
        overlay(name, below)
    images = _bytes.chain(str(names[-1]), "qcow2", [])
    with _bytes.serve(images) as uri:
        assert (len(images), _bytes.size(uri)) == (20, MIB)


@pytest.mark.parametrize(
    "name",
    ["json:{}", "nbd://127.0.0.1/x", "nbd:unix:/x", "file:/etc/passwd", "ssh://h/x", "a:b", 'json:{"driver":"raw"}'],
)
def test_protocols_as_backing_names_are_refused(tmp_path: Path, name: str):
    top = forge(tmp_path / "top", backing=name.encode())
    with pytest.raises(Refused, match="address, not to a file"):
        _bytes.chain(str(top), "qcow2", ["/"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"backing": b"x", "format": None}, "does not name the format.*qemu-img rebase -u"),
        ({"backing": b"x", "backing_length": 0}, "backing file name lies outside"),
        ({"backing": b"x", "backing_length": 1024}, "backing file name lies outside"),
        ({"backing": b"x" * 1000, "cluster_bits": 9}, "backing file name lies outside"),
        ({"backing": b"x", "backing_length": 0xFFFFFFFF}, "backing file name lies outside"),
        ({"backing": b"a\nb"}, "not printable"),
        ({"backing": b"a\0b"}, "not printable"),
        ({"backing": b"\xff\xfe"}, "not printable"),
        ({"backing": b"x", "format": b"\xff"}, "not printable"),
        ({"backing": b"x", "extension_length": 0x7FFFFFFF}, "extension runs out"),
        ({"backing": b"/dev/zero"}, "outside of the pools"),
        ({"encryption": 2}, "is encrypted"),
        ({"incompatible": 2}, "marked corrupt"),
        ({"incompatible": 4}, "does not name it"),
        ({"incompatible": 1 << 40}, "unknown here"),
        ({"version": 4}, "unknown version 4"),
        ({"cluster_bits": 40}, "damaged"),
        ({"size": 0}, "0 bytes"),
    ],
)
def test_hostile_headers_are_refused_in_one_line(tmp_path: Path, fields: dict, words: str):
    top = forge(tmp_path / "top", **fields)
    with pytest.raises(Refused, match=words) as caught:
        _bytes.chain(str(top), "qcow2", [])
    assert str(caught.value).isprintable()
    assert str(top) in str(caught.value) or "outside" in words


def test_real_encryption_is_refused(tmp_path: Path):
    options = ["--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s"]
    qemu_img("create", "-q", "-f", "qcow2", *options, tmp_path / "top", "1M")
    with pytest.raises(Refused, match="is encrypted"):
        _bytes.chain(str(tmp_path / "top"), "qcow2", [])


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"QFI\xfb" + bytes(80), bytes(4096)])
def test_what_is_no_qcow2_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "top").write_bytes(content)
    with pytest.raises(Refused):
        _bytes.chain(str(tmp_path / "top"), "qcow2", [])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=12), cut=st.integers(0, 4096))
def test_any_header_is_read_or_refused(tmp_path: Path, changes: list[tuple[int, int]], cut: int):
    top = forge(tmp_path / "top", backing=b"base")
    content = bytearray(top.read_bytes())
    for at, value in changes:
        content[at] = value
    top.write_bytes(content[: 4096 - cut])
    try:
        found = _bytes.header(str(top))
    except Refused as error:
        assert str(error).isprintable()
    else:
        assert len(found.backing_file or "") <= 1023


def test_loops_and_endless_chains_are_refused(tmp_path: Path):
    overlay(tmp_path / "a", "b")
    overlay(tmp_path / "b", "a")
    with pytest.raises(Refused, match="a loop"):
        _bytes.chain(str(tmp_path / "a"), "qcow2", [])
    for number in range(70):
        forge(tmp_path / str(number), backing=str(number + 1).encode())
    with pytest.raises(Refused, match="more than 64 images"):
        _bytes.chain(str(tmp_path / "0"), "qcow2", [])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    qemu_img("create", "-q", "-f", "qcow2", other / "base", "1M")
    return own, other


def test_backing_file_elsewhere_needs_leave(folders: tuple[Path, Path]):
    own, other = folders
    top = overlay(own / "top", other / "base")
    with pytest.raises(Refused, match=f"points to '{other}/base'.*add '{other}' to `images:`"):
        _bytes.chain(str(top), "qcow2", [str(own)])
    assert _bytes.chain(str(top), "qcow2", [str(other)])[1] == Image(str(other / "base"), "qcow2")
    with pytest.raises(Refused, match="outside"):
        _bytes.chain(str(top), "qcow2", [str(other) + "x", str(other)[:-1]])


def test_links_are_resolved_before_the_check(folders: tuple[Path, Path]):
    own, other = folders
    (own / "link").symlink_to(other / "base")
    top = overlay(own / "top", "link")
    with pytest.raises(Refused, match=f"points to '{other}/base'"):
        _bytes.chain(str(top), "qcow2", [str(own)])
    assert _bytes.chain(str(top), "qcow2", [str(other)])[1].path == str(other / "base")
    dotted = overlay(own / "dotted", "../other/base")
    with pytest.raises(Refused, match=f"points to '{other}/base'"):
        _bytes.chain(str(dotted), "qcow2", [str(own)])


def test_names_are_relative_to_the_name_of_the_image(folders: tuple[Path, Path]):
    own, other = folders
    qemu_img("create", "-q", "-f", "qcow2", own / "base", "2M")
    (own / "top").symlink_to(overlay(other / "real", "base"))
    assert [image.path for image in _bytes.chain(str(own / "top"), "qcow2", [])] == [
        str(other / "real"),
        str(own / "base"),
    ]


def test_what_is_served_is_what_was_checked(folders: tuple[Path, Path]):
    own, other = folders
    qemu_img("create", "-q", "-f", "qcow2", own / "base", "1M")
    top = overlay(own / "top", "base")
    images = _bytes.chain(str(top), "qcow2", [])
    qemu_img("rebase", "-u", "-b", other / "base", "-F", "qcow2", top)
    assert _bytes.graph(images)["backing"]["file"]["filename"] == str(own / "base")
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write 0 1M", other / "base"], check=True, stdout=subprocess.DEVNULL
    )
    with _bytes.serve(images) as uri, _nbd.Connection(uri) as connection:
        assert list(connection.data_ranges()) == []


def test_data_file_is_checked_like_a_backing_file(folders: tuple[Path, Path]):
    own, other = folders
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={other}/data,data_file_raw=on", own / "top", "1M")
    (other / "data").write_bytes(b"d" * MIB)
    with pytest.raises(Refused, match="other/data'"):
        _bytes.chain(str(own / "top"), "qcow2", [])
    images = _bytes.chain(str(own / "top"), "qcow2", [str(other)])
    assert images[0].data_file == str(other / "data")
    assert _bytes.header(str(own / "top")).data_file_raw
    with _bytes.serve(images) as uri, _nbd.Connection(uri) as connection:
        buffer = bytearray(MIB)
        connection.pread(0, buffer, 0, MIB)
    assert buffer == b"d" * MIB


@pytest.mark.parametrize("format", ["vdi", "vhdx", "vpc", "vmdk"])
def test_other_formats_are_served(tmp_path: Path, raw: Path, format: str):
    with raw.open("r+b") as file:
        file.truncate(20 * MIB)
    qemu_img("convert", "-O", format, *(["-o", "force_size=on"] if format == "vpc" else []), raw, tmp_path / "disk")
    with _bytes.serve(_bytes.chain(str(tmp_path / "disk"), format, [])) as uri, _nbd.Connection(uri) as connection:
        buffer = bytearray(20 * MIB)
        connection.pread(0, buffer, 0, len(buffer))
    assert buffer == raw.read_bytes()


def test_vmdk_with_other_files_is_refused(tmp_path: Path):
    for name in ("monolithicFlat", "twoGbMaxExtentSparse"):
        qemu_img("create", "-q", "-f", "vmdk", "-o", f"subformat={name}", tmp_path / f"{name}.vmdk", "1M")
        with pytest.raises(Refused, match="keeps its data in other files"):
            _bytes.chain(str(tmp_path / f"{name}.vmdk"), "vmdk", [])
    qemu_img("create", "-q", "-f", "vmdk", tmp_path / "base.vmdk", "1M")
    qemu_img("create", "-q", "-f", "vmdk", "-b", tmp_path / "base.vmdk", "-F", "vmdk", tmp_path / "child.vmdk")
    with pytest.raises(Refused, match="with a parent image"):
        _bytes.chain(str(tmp_path / "child.vmdk"), "vmdk", [])


def test_vmdk_whose_description_lies_beyond_all_bytes_is_refused(tmp_path: Path):
    start = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 1, 1, (1 << 64) - 1, 1)
    (tmp_path / "disk.vmdk").write_bytes(start.ljust(512, b"\0"))
    with pytest.raises(Refused, match="with a parent image"):
        _bytes.chain(str(tmp_path / "disk.vmdk"), "vmdk", [])


@pytest.mark.parametrize("format", ["qcow", "qed", "luks", "nbd", "dmg", "", "raw,file.filename=/etc/passwd"])
def test_formats_that_are_not_served_are_refused(tmp_path: Path, format: str):
    (tmp_path / "disk").write_bytes(bytes(MIB))
    top = forge(tmp_path / "top", backing=b"disk", format=format.encode())
    with pytest.raises(Refused, match=r"not served|does not name the format"):
        _bytes.chain(str(top), "qcow2", [])


def test_only_files_and_block_devices(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(Refused, match="neither a file nor a block device"):
            _bytes.chain(str(path), "qcow2", [])
    with pytest.raises(Refused, match="No such file"):
        _bytes.chain(str(tmp_path / "nothing"), None, [])
    with pytest.raises(Refused, match="not an absolute path"):
        _bytes.chain("disk.img", None, [])


def test_names_of_any_kind_are_only_names(tmp_path: Path):
    disk = tmp_path / 'a,b=c"d\\e:f é'
    disk.write_bytes(b"z" * MIB)
    with _bytes.serve(_bytes.chain(str(disk), "raw", [])) as uri:
        assert _bytes.size(uri) == MIB


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_image_in_use_is_not_served(tmp_path: Path, format: str):
    disk = tmp_path / "disk"
    qemu_img("create", "-q", "-f", format, disk, "1M")
    images = _bytes.chain(str(disk), format, [])
    guest = subprocess.Popen(["qemu-io", "-f", format, disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert guest.stdin and guest.stdout
    guest.stdin.write(b"read 0 512\n")
    guest.stdin.flush()
    assert guest.stdout.readline()
    with pytest.raises(Unfinished, match="is in use by a running machine"), _bytes.serve(images):
        pass
    guest.communicate(b"quit\n")
    with _bytes.serve(images):
        pass


def test_reason_of_qemu_nbd_is_told(tmp_path: Path):
    top = forge(tmp_path / "top", format=None)
    with (
        pytest.raises(Unfinished, match=r"qemu-nbd does not serve '.*top': .+"),
        _bytes.opened([Image(str(top), "qcow2")]),
    ):
        pass


def test_missing_program_names_its_package(qcow2: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with (
        pytest.raises(Refused, match="install the Debian package qemu-utils"),
        _bytes.serve([Image(str(qcow2), "qcow2")]),
    ):
        pass


def test_server_and_its_folder_are_gone_at_the_end(qcow2: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    with _bytes.serve([Image(str(qcow2), "qcow2")]) as uri:
        assert list((tmp_path / "t").iterdir())
    assert not list((tmp_path / "t").iterdir())
    with pytest.raises(Unfinished):
        _nbd.Connection(uri)


def test_stamp_is_equal_only_while_nothing_changes(folders: tuple[Path, Path]):
    own, other = folders
    images = _bytes.chain(str(overlay(own / "top", other / "base")), "qcow2", [str(other)])
    first = _bytes.stamp(images)
    assert _bytes.stamp(images) == first
    os.utime(other / "base")
    assert _bytes.stamp(images) != first
    (other / "base").unlink()
    with pytest.raises(Unfinished, match="is gone"):
        _bytes.stamp(images)


def test_graph_names_every_node(folders: tuple[Path, Path]):
    own, other = folders
    images = _bytes.chain(str(overlay(own / "top", other / "base")), "qcow2", [str(other)])
    base = {"driver": "file", "filename": str(other / "base"), "read-only": True}
    assert json.loads(json.dumps(_bytes.graph(images)))["backing"] == {
        "driver": "qcow2",
        "read-only": True,
        "file": base,
        "backing": None,
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="a loop device needs root")
def test_block_device_is_served_and_its_writes_are_seen(raw: Path):
    made = subprocess.run(["losetup", "--find", "--show", raw], check=True, capture_output=True, text=True)
    device = made.stdout.strip()
    try:
        images = _bytes.chain(device, "raw", [])
        with _bytes.opened(images) as opened:
            assert opened.size == raw.stat().st_size
            opened.check()
            with open(device, "r+b", buffering=0) as disk:
                disk.write(b"x" * 4096)
                os.fsync(disk.fileno())
            with pytest.raises(Unfinished, match="changed during the copy"):
                opened.check()
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
