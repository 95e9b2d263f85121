"""What every check looks at: a VM with its parts, the refusal, and quantities as numbers."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from migrate.target.quantity import BINARY, DECIMAL
from migrate.target.vocabulary import Target

Manifest = dict[str, Any]

SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
Number = int | Fraction
FRACTIONS = {"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 10**3)}
FACTORS: dict[str, Number] = {**FRACTIONS, **DECIMAL, **BINARY}
AMOUNT = re.compile(r"([+-]?[0-9.]+)([eE][+-]?\d{1,2}|[a-zA-Z]{0,2})")

MIB, GIB = 2**20, 2**30
# The API server takes that many disks, volumes, interfaces and networks of one VM.
MOST = 256

FEWER = "Leave the excess devices out."
RENAME = "Give each its own name."


class Refusal(NamedTuple):
    """What is refused: the path to it, the name of the reason, what happens, and what to do."""

    path: str
    id: str
    because: str
    remedy: str


class Spec:
    """A VM with the parts that most checks look at."""

    def __init__(self, vm: Manifest, spec: Manifest, target: Target, arch: str):
        self.vm = vm
        self.spec = spec
        self.target = target
        self.arch = arch
        self.domain: Manifest = spec.get("domain", {})
        self.devices: Manifest = self.domain.get("devices", {})
        self.volumes: list[Manifest] = spec.get("volumes", [])
        self.networks: list[Manifest] = spec.get("networks", [])
        self.nics: list[Manifest] = self.devices.get("interfaces", [])

    @property
    def disks(self) -> list[Manifest]:
        """The disks, with those that KubeVirt adds for volumes that nothing uses."""
        disks = self.devices.get("disks", [])
        used = {device.get("name") for device in (*disks, *self.devices.get("filesystems", []))}
        return disks + [{"name": name} for volume in self.volumes if (name := volume.get("name")) not in used]

    @property
    def on_pod_network(self) -> bool:
        """Whether the VM is on the pod network, where KubeVirt puts it if it names no networks."""
        if self.nics or self.networks:
            return any("pod" in network for network in self.networks)
        return self.devices.get("autoattachPodInterface") is not False

    @property
    def sized_elsewhere(self) -> bool:
        """Whether an instance type gives CPUs and memory."""
        return "instancetype" in self.vm.get("spec", {})

    @property
    def live_update(self) -> bool:
        """Whether changes reach running VMs unless configured otherwise: LiveUpdate became the default in 1.6."""
        return self.target.at_least("1.6")


def amount(quantity: Any) -> Number | None:
    """A quantity as an exact number; None for none and for what is no quantity."""
    return _amount(str(quantity)) if quantity is not None else None


@lru_cache(maxsize=10_000)
def _amount(text: str) -> Number | None:
    found = _exact(text)
    # Whole numbers, which nearly all are, are compared much faster.
    return int(found) if found is not None and found.denominator == 1 else found


def _exact(text: str) -> Fraction | None:
    parts = AMOUNT.fullmatch(text)
    if parts is None:
        return None
    try:
        number, suffix = Fraction(parts[1]), parts[2]
    except ValueError:
        return None
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei":
        return number * Fraction(f"1e{suffix[1:]}")
    return number * FACTORS[suffix] if suffix in FACTORS else None if suffix else number


@lru_cache(maxsize=1024)
def qualified(key: str) -> bool:
    """Whether a key of labels or annotations is a name, with a DNS subdomain before its slash if it has one."""
    prefix, slash, name = key.rpartition("/")
    return bool(name and LABEL_VALUE.fullmatch(name) and (not slash or SUBDOMAIN.fullmatch(prefix)))


def is_label(name: str) -> bool:
    """Whether a name is a DNS label."""
    return LABEL.fullmatch(name) is not None


def efi(every: Spec) -> Manifest:
    """The EFI boot loader, empty where the VM names none."""
    return every.domain.get("firmware", {}).get("bootloader", {}).get("efi") or {}


def is_on(state: Manifest | None) -> bool:
    """Whether a feature is switched on, which is what naming it means."""
    return state is not None and state.get("enabled") is not False
