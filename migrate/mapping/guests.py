"""What a guest's operating system drives by itself, judged by its libosinfo id."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

Driver = Literal["ahci", "virtio_scsi", "virtio_1", "xhci"]
NEWEST, NEVER = (10**6,), "9999999"


class Drivers(NamedTuple):
    """The first version of a system with a driver in the box: of SATA's AHCI, virtio-scsi, virtio 1.0, USB 3's xHCI."""

    ahci: str
    virtio_scsi: str
    virtio_1: str
    xhci: str


# By the libosinfo id without its version. Sources: osinfo-db, and the kernels of the versions: AHCI of QEMU's ICH9 came
# with Linux 2.6.18, xHCI with 2.6.31, virtio-scsi with 3.4, virtio 1.0 with 4.0; enterprises' distributions had them
# earlier.
RED_HAT = Drivers("5", "6.4", "7.2", "6")
SUSE = Drivers("10", "11.3", "12.2", "11.1")
ALWAYS = Drivers("0", "0", "0", "0")
SYSTEMS = {
    "redhat.com/rhel": RED_HAT,
    "oracle.com/ol": RED_HAT,
    "oracle.com/oel": RED_HAT,
    "scientificlinux.org/scientificlinux": RED_HAT,
    "asianux.com/asianux": RED_HAT,
    # Its one id 7.0 stands for all of 7.
    "centos.org/centos": Drivers("5", "6.4", "7", "6"),
    "centos.org/centos-stream": ALWAYS,
    "almalinux.org/almalinux": ALWAYS,
    "rockylinux.org/rocky": ALWAYS,
    "cclinux.org/circle": ALWAYS,
    "miraclelinux.com/miraclelinux": ALWAYS,
    "fedoraproject.org/fedora": Drivers("7", "17", "23", "12"),
    "fedoraproject.org/silverblue": ALWAYS,
    "fedoraproject.org/coreos": ALWAYS,
    "redhat.com/rhl": Drivers(NEVER, NEVER, NEVER, NEVER),
    "debian.org/debian": Drivers("4", "7", "9", "6"),
    "ubuntu.com/ubuntu": Drivers("7.04", "12.10", "15.10", "9.10"),
    "suse.com/sles": SUSE,
    "suse.com/sled": SUSE,
    "suse.com/sle": SUSE,
    "suse.com/slem": ALWAYS,
    "opensuse.org/opensuse": Drivers("10.2", "12.3", "15", "11.2"),
    "alpinelinux.org/alpinelinux": Drivers("0", "0", "3.5", "0"),
    "archlinux.org/archlinux": ALWAYS,
    "gentoo.org/gentoo": ALWAYS,
    "manjaro.org/manjaro": ALWAYS,
    "nixos.org/nixos": ALWAYS,
    "voidlinux.org/voidlinux": ALWAYS,
    "cirros-cloud.net/cirros": Drivers("0", "0", "0.4", "0"),
    "libosinfo.org/linux": Drivers("0", "0", "2018", "0"),
    "freebsd.org/freebsd": Drivers("7", "10", "14", "8.2"),
    "openbsd.org/openbsd": Drivers("4.2", "5.4", "6.6", "5.7"),
    "netbsd.org/netbsd": Drivers("4", "7", "10", "8"),
    "sun.com/solaris": Drivers("10", NEVER, NEVER, NEVER),
    "oracle.com/solaris": Drivers("0", NEVER, NEVER, "11.3"),
    "microsoft.com/msdos": Drivers(NEVER, NEVER, NEVER, NEVER),
    "microsoft.com/winnt": Drivers(NEVER, NEVER, NEVER, NEVER),
    "novell.com/netware": Drivers(NEVER, NEVER, NEVER, NEVER),
}
WINDOWS = "microsoft.com/win"
WITHOUT_AHCI = ("1.0", "2.0", "2.1", "3.1", "95", "98", "me", "2k", "xp", "2k3", "2k3r2")
WITHOUT_XHCI = (*WITHOUT_AHCI, "vista", "2k8", "7", "2k8r2")
# What Windows calls the drivers; those of virtio come from virtio-win.
OF_WINDOWS = {"ahci": "storahci or msahci", "virtio_scsi": "vioscsi", "xhci": "usbxhci"}
NAMES = {"virtio_1": "virtio_pci of virtio 1.0 (since Linux 4.0)", "xhci": "xhci_hcd"}


def windows(osinfo: str) -> bool:
    """Whether the guest is known to be Windows."""
    return _parts(osinfo)[0] in (WINDOWS, "microsoft.com/winnt")


@lru_cache(maxsize=1024)
def drives(osinfo: str, driver: Driver) -> bool | None:
    """Whether a system has a driver in the box, None where the system or its version is not known.

    Windows speaks virtio by drivers that are installed into it, of whatever age; those of 2003 and before know no 1.0.
    """
    system, version = _parts(osinfo)
    if system == WINDOWS:
        old = version in WITHOUT_AHCI
        xhci = version not in WITHOUT_XHCI
        return {"ahci": not old, "virtio_scsi": False, "virtio_1": False if old else None, "xhci": xhci}[driver]
    first = getattr(SYSTEMS.get(system), driver, None)
    if first is None or version in ("", "unknown"):
        return None
    return _numbers(version) >= _numbers(first)


def _parts(osinfo: str) -> tuple[str, str]:
    """The id without its version, and the version."""
    system, _, version = osinfo.partition("://")[2].rpartition("/")
    return system, version


def _numbers(version: str) -> tuple[int, ...]:
    """A version to compare; `rolling` and `testing` are the newest, and `9-unknown` is the newest 9."""
    numbers = tuple(int(number) for number in re.findall(r"\d{1,7}", version))
    return numbers + NEWEST if version.endswith("-unknown") else numbers or NEWEST


def judged(osinfo: str, driver: Driver) -> str:
    """What is known of a guest and the driver that it needs from now on, as part of a sentence."""
    name, known = osinfo.partition("://")[2], drives(osinfo, driver)
    called = (OF_WINDOWS if windows(osinfo) else NAMES).get(driver, driver)
    if not name:
        return f"which system the guest has is not known, nor whether it has the driver {called}"
    if known is None:
        return f"whether {name} has the driver {called} is not known"
    return (
        f"{name} has the driver {called}"
        if known
        else f"{name} has no driver {called} in the box and needs one beforehand"
    )
