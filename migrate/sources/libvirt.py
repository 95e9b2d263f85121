"""libvirt hosts: domains, their state, and their disks through pools, volumes and block info. Opened read-only.

What is read here holds for every libvirt driver; facts of one driver are named where they matter.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from migrate.mapping.paths import parse, printable, without_secret
from migrate.model import VM, BlockJob, Disk, Image, PlannedDisk, Refused, Skipped, Unfinished
from migrate.selection import Selection
from migrate.sources import _domain

if TYPE_CHECKING:
    from lxml.etree import _Element

    from migrate.transfer._bytes import Files, Opened

# virDomainState, by number.
STATES = ("unknown", "running", "blocked", "paused", "shutting down", "shut off", "crashed", "pmsuspended")
# The virDomainShutoffReasons with which a VM is not at rest.
SHUT_OFF = {4: "migrated", 5: "saved"}
# virDomainBlockJobType, by number.
JOBS = {1: "pull", 2: "copy", 3: "commit", 4: "active-commit", 5: "backup"}
SSH = ("ssh", "libssh", "libssh2")  # the transports whose host lets a user in by ssh
OTHER_CHAIN = (
    "the domain names another backing chain than the image's header, which a copy reads: correct the header "
    "(`qemu-img rebase -u`), or take <backingStore> and <dataStore> out of the domain"
)
FOLDER_POOLS = ("dir", "fs", "netfs", "vstorage")
MAX_CHAIN = 64


@dataclass(frozen=True, slots=True)
class Host:
    """An open connection and who answered: `source` is the same whatever the transport."""

    connection: Any
    driver: str
    name: str
    source: str
    url: str

    @property
    def local(self) -> bool:
        """Whether the host's files are this machine's files."""
        return _local(self.url, self.name)


def collect(url: str | None, select: Selection, login: object = None) -> Iterator[VM | Skipped]:
    """The VMs of one host, by name; no url is LIBVIRT_DEFAULT_URI or libvirt's own choice.

    libvirt itself asks for credentials or takes them from its auth.conf, so `login` has no use here. A host that
    cannot be reached is Refused.
    """
    lib = _library()
    with _connected(url) as host:
        try:
            domains = sorted(host.connection.listAllDomains(), key=lambda domain: domain.name())
            pool_paths = _pool_paths(host.connection)
        except lib.libvirtError as error:
            raise Refused(_explain(error, host.url)) from None
        for domain in domains:
            vm = VM(domain.name(), domain.UUIDString(), "libvirt", host.source, host.url, host.name)
            try:
                _read_state(host, domain, vm)
                if select.wants(vm):
                    _read_rest(host, domain, vm)
                    vm.pool_paths = pool_paths
                    yield vm
            except (lib.libvirtError, Refused) as error:
                # Without its state the VM is taken for a selected one rather than lost.
                yield Skipped(vm.name, vm.source, _line(error))


def unread(url: str) -> tuple[str, str]:
    """Name and source of a host that could not be read."""
    return _without_password(url), _without_password(url)


def unfit(vm: VM, disk: PlannedDisk) -> str | None:
    """Why a disk cannot be copied as its VM stands in the inventory, or None."""
    if urlsplit(vm.url).scheme.startswith("test"):
        return "libvirt's test driver has no disks behind its domains; it is for mapping only"
    if reason := _beyond_reach(vm, disk):
        return reason
    if vm.transient:
        return (
            "the domain is transient, so it is gone when it is shut off; define it (virsh define), then collect again"
        )
    return _unstill(vm.state, vm.managed_save) or _outside(vm, disk)


def spools(vm: VM, disk: PlannedDisk) -> bool:
    """Whether a disk's images are taken over whole to this machine before they are read."""
    return disk.path is not None and not _local(vm.url, vm.host) and _transport(vm.url) not in SSH


def _beyond_reach(vm: VM, disk: PlannedDisk) -> str | None:
    """Why the disks of another host cannot be read from here, with what to do."""
    if _local(vm.url, vm.host):
        return None
    if _transport(vm.url) in SSH:
        methods = parse_qs(urlsplit(vm.url).query).get("sshauth", ["privkey"])[-1].lower().split(",")
        return (
            None
            if {"agent", "privkey"} & set(methods)
            else "nothing answers ssh for a password: add privkey to sshauth"
        )
    path = _outside_of_pools(vm, disk)
    if path is None:
        return None
    return (
        f"{path!r} is on {printable(vm.host)} and in none of its pools: collect again over ssh (qemu+ssh://...), or "
        f"have a pool for {os.path.dirname(path)!r} there (virsh pool-create-as NAME dir --target FOLDER)"
    )


def _outside_of_pools(vm: VM, disk: PlannedDisk) -> str | None:
    """The first image of a disk that is no volume as far as the inventory tells."""
    volumes = {known.path for known in vm.disks if known.pool}
    paths = [path for image in disk.chain for path in (image.path, image.data_file) if path] or [disk.path]
    unknown = (path for path in paths if path and path not in volumes and os.path.dirname(path) not in vm.pool_paths)
    return next(unknown, None)


def _outside(vm: VM, disk: PlannedDisk) -> str | None:
    """The image of a disk's chain that lies neither beside its top nor in an allowed folder, with what to do."""
    local = _local(vm.url, vm.host)
    folders = [os.path.realpath(folder) if local else os.path.normpath(folder) for folder in disk.allowed]
    own = {os.path.dirname(image.path) for image in disk.chain[:1]}
    for path in (path for image in disk.chain for path in (image.path, image.data_file) if path):
        if os.path.dirname(path) not in own and not any(_below(path, folder) for folder in folders):
            return f"{path!r} lies outside of the pools and of the image's own folder; list it under `images:` if right"
    return None


@contextmanager
def hold(vm: VM) -> Iterator[Callable[[], None]]:
    """Yields a check that raises Unfinished unless the VM is shut off and has not run since.

    The first check is made here. A definition whose disks are no longer the recorded ones, or another host behind the
    URL, is Refused.
    """
    lib = _library()
    runs: list[int] = []
    with _connected(vm.url) as host:
        if host.source != vm.source:
            raise Refused(f"{vm.url} is {host.source} here, not {vm.source}; run this on {vm.host}")
        try:
            domain = host.connection.lookupByUUIDString(vm.uuid)
            _refuse_changed(domain, vm)
            handle = host.connection.domainEventRegisterAny(
                domain, lib.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *event: runs.append(event[2]), None
            )
        except lib.libvirtError as error:
            gone = error.get_error_code() == lib.VIR_ERR_NO_DOMAIN
            todo = "leave it out, or collect and plan again " + ("into new folders" if gone else "")
            raise Refused(f"{_line(error)}; {todo.rstrip()}") from None

        def check() -> None:
            try:
                reason = _unstill(_state(domain), bool(domain.hasManagedSaveImage(0)))
            except lib.libvirtError as error:
                raise Unfinished(f"{_line(error)}; run again when the host answers") from None
            if reason:
                raise Unfinished(f"{reason}, then run again")
            _take_events(lib)
            if lib.VIR_DOMAIN_EVENT_STARTED in runs:
                raise Unfinished("the VM ran during the copy, which is void; run again to start anew")

        check()
        try:
            yield check
        finally:
            with suppress(lib.libvirtError):
                host.connection.domainEventDeregisterAny(handle)


@contextmanager
def open(vm: VM, disk: PlannedDisk) -> Iterator[Opened]:
    """Serves a planned disk where its files are; the images it may read are those in its allowed folders."""
    from migrate.transfer import _bytes

    if reason := unfit(vm, disk):
        raise Refused(reason)
    if not disk.path:
        raise Refused("the disk has no image; collect and plan again")
    with ExitStack() as stack:
        files = _files(vm, disk, stack)
        chain = _bytes.chain(disk.path, disk.format, disk.allowed, files)
        if any(known.path == disk.path and _domain.differs(known, chain, files.real) for known in vm.disks):
            raise Refused(OTHER_CHAIN)
        yield stack.enter_context(_bytes.opened(chain, files))


def _files(vm: VM, disk: PlannedDisk, stack: ExitStack) -> Files:
    """The files of a VM's host: as they are here, over its ssh, or else through its storage pools."""
    from migrate.sources import _ssh, _volumes
    from migrate.transfer import _bytes

    if _local(vm.url, vm.host):
        return _bytes.Local()
    if _transport(vm.url) in SSH:
        try:
            return stack.enter_context(_ssh.connected(vm.url))
        except _ssh.NoServer:
            if _outside_of_pools(vm, disk):
                raise
    host = stack.enter_context(_connected(vm.url, write=True))
    return _volumes.Volumes(host.connection, printable(host.name), _library(), _line)


def _library() -> Any:
    """libvirt-python, loaded once by whichever thread comes first."""
    with _LOADING:
        return _loaded()


@cache
def _loaded() -> Any:
    """libvirt-python, silent, with its event loop running: the embedded drivers and lifecycle events need one."""
    # An embedded driver logs to the terminal by default; libvirt reads this once, when it is loaded.
    os.environ.setdefault("LIBVIRT_LOG_OUTPUTS", "4:file:/dev/null")
    try:
        import libvirt
    except ImportError:
        raise Refused("libvirt-python is missing: pip install 'kubevirt-migrate[libvirt]'") from None
    libvirt.registerErrorHandler(lambda context, error: None, None)
    libvirt.virEventRegisterDefaultImpl()

    def events() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=events, name="libvirt events", daemon=True).start()
    return libvirt


def _take_events(lib: Any) -> None:
    """Waits until the events that came in before are delivered: libvirt's loop takes its timers in their order."""
    passed = threading.Event()
    timer = lib.virEventAddTimeout(0, lambda timer, _: passed.set(), None)
    passed.wait(10)
    lib.virEventRemoveTimeout(timer)


# Open connections with how many use them: an embedded driver does not bear a second connection that comes or goes.
_OPEN: dict[tuple[str | None, bool], tuple[Host, int]] = {}
_LOCK = threading.Lock()
_LOADING = threading.Lock()


@contextmanager
def _connected(url: str | None, *, write: bool = False) -> Iterator[Host]:
    lib = _library()
    shown = _without_password(url) if url else "libvirt's default URI"
    # libxml2 complains of a missing file on stderr by itself.
    if url and re.match(r"test:///(?!default$)", url) and not os.path.isfile(urlsplit(url).path):
        raise Refused(f"{shown}: no such file; give test:///default or test:///FILE.xml")
    with _LOCK:
        try:
            host, users = _OPEN.get((url, write)) or (_host(lib.open(url) if write else lib.openReadOnly(url)), 0)
        except lib.libvirtError as error:
            raise Refused(_explain(error, shown)) from None
        _OPEN[url, write] = host, users + 1
    try:
        yield host
    finally:
        with _LOCK:
            host, users = _OPEN.pop((url, write))
            if users > 1:
                _OPEN[url, write] = host, users - 1
            else:
                host.connection.close()


def _host(connection: Any) -> Host:
    url = _without_password(connection.getURI())
    parts = urlsplit(url)
    driver = parts.scheme.partition("+")[0]
    name = connection.getHostname()
    root = parse_qs(parts.query).get("root")
    return Host(connection, driver, name, f"{driver}://{name}{parts.path}" + (f"?root={root[0]}" if root else ""), url)


def _read_state(host: Host, domain: Any, vm: VM) -> None:
    # The test driver's domains run unless their file says otherwise: that says nothing of a machine.
    vm.state = "unknown" if host.driver == "test" else _state(domain)
    vm.transient = not domain.isPersistent()


def _read_rest(host: Host, domain: Any, vm: VM) -> None:
    lib = _library()
    vm.managed_save = bool(_supported(lambda: domain.hasManagedSaveImage(0), 0))
    if vm.managed_save and vm.state == "saved":
        vm.state = "shut off"
    vm.snapshots = sorted(item.getName() for item in _supported(domain.listAllSnapshots, []))
    vm.checkpoints = sorted(item.getName() for item in _supported(domain.listAllCheckpoints, []))
    vm.xml = domain.XMLDesc(0 if vm.transient else lib.VIR_DOMAIN_XML_INACTIVE).encode()
    tree = parse(vm.xml, printable(vm.name))
    vm.disks, vm.project = _domain.disks(tree), _domain.project_of(tree)
    # The test driver's domains run unless their file says otherwise.
    if host.driver != "test":
        if not vm.transient:
            vm.autostart = _supported(lambda: bool(domain.autostart()), None)
        if domain.isActive():
            _read_live(domain, vm)
    for disk in vm.disks:
        _resolve(host, domain, disk)


def _read_live(domain: Any, vm: VM) -> None:
    """What only a running guest has: its own XML, unless that is all there is, and jobs that work on its disks."""
    lib = _library()
    text = domain.XMLDesc(0).encode()
    vm.has_live, vm.live = not vm.transient, b"" if vm.transient else text
    for element in parse(text, printable(vm.name)).iterfind("devices/disk"):
        target, mirror = element.find("target"), element.find("mirror")
        name = target.get("dev", "") if target is not None else ""
        info = _supported(lambda name=name: domain.blockJobInfo(name, 0), {}) or {}
        if mirror is not None:
            # libvirt 1.2.14 and older name no job; theirs is a copy.
            vm.jobs.append(BlockJob(name, mirror.get("job", "copy"), mirror.get("ready") in ("yes", "abort", "pivot")))
        elif info.get("type", lib.VIR_DOMAIN_BLOCK_JOB_TYPE_UNKNOWN) in JOBS:
            vm.jobs.append(BlockJob(name, JOBS[info["type"]]))


def _supported(call: Callable[[], Any], otherwise: Any) -> Any:
    """What a call answers, or `otherwise` from a driver that does not have it."""
    lib = _library()
    try:
        return call()
    except lib.libvirtError as error:
        if error.get_error_code() != lib.VIR_ERR_NO_SUPPORT:
            raise
        return otherwise


def _resolve(host: Host, domain: Any, disk: Disk) -> None:
    """Fills in size, path and chain, or why they are not known."""
    lib = _library()
    if not disk.path and not disk.volume and disk.type in ("file", "block"):
        return
    if host.driver == "test":
        disk.problem = "libvirt's test driver knows no sizes"
        return
    if host.local and disk.path and _may_wait(disk.path):
        disk.problem = f"{disk.path!r} is neither a file nor a block device"
        return
    try:
        volume = _volume(host.connection, disk) if disk.type == "volume" else None
        if volume:
            disk.path = volume.path()
            disk.format = disk.format or _format(_tree(volume), "target/format") or "raw"
        disk.capacity, disk.allocation = _sizes(host.connection, domain, disk, volume)
    except lib.libvirtError as error:
        disk.problem = _line(error)
    if disk.path and disk.format and os.path.isabs(disk.path) and disk.type in ("file", "block", "volume"):
        _find_chain(host, disk)


def _may_wait(path: str) -> bool:
    """Whether opening a path can wait without end, and libvirt with it: of a pipe until somebody writes to it."""
    with suppress(OSError, ValueError):
        mode = os.stat(path).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
    return False


def _volume(connection: Any, disk: Disk) -> Any:
    return connection.storagePoolLookupByName(disk.pool or "").storageVolLookupByName(disk.volume or "")


def _sizes(connection: Any, domain: Any, disk: Disk, volume: Any) -> tuple[int, int]:
    """Capacity as the domain's format sees it, and allocation, both in bytes."""
    lib = _library()
    if volume is None:
        try:
            # Of a running domain libvirt answers for the disks it has now, not for those of its next start.
            live = domain.ID() != -1 and disk.type in ("file", "block")
            return tuple(domain.blockInfo(disk.path if live else disk.target)[:2])
        except lib.libvirtError as error:
            try:
                volume = connection.storageVolLookupByPath(disk.path or "")
            except lib.libvirtError:
                raise error from None
    _, capacity, allocation = volume.info()
    # A pool probes the formats of its volumes; a disk that is declared raw shows its guest every byte of the file.
    if disk.format == "raw" and _format(_tree(volume), "target/format") not in (None, "raw"):
        capacity = volume.infoFlags(lib.VIR_STORAGE_VOL_GET_PHYSICAL)[2]
    return capacity, allocation


def _find_chain(host: Host, disk: Disk) -> None:
    from migrate.transfer import _bytes

    try:
        if host.local:
            # Here all is recorded; which folders a chain may reach into is judged in the plan and before the copy.
            disk.chain, whole, real = _bytes.chain(disk.path, disk.format, ["/"]), True, os.path.realpath
        else:
            # Links of another host are followed when its images are opened, and all is compared again.
            (disk.chain, whole), real = _remote_chain(host.connection, disk), os.path.normpath
            for image in disk.chain:
                _bytes.refuse_unserved(image.path, image.format)
        if _domain.differs(disk, disk.chain, real, whole=whole):
            raise Refused(OTHER_CHAIN)
    except _bytes.NotAllowed:
        pass  # Whoever carries the plan out may read it.
    except Refused as refusal:
        disk.problem = disk.problem or str(refusal)


def _remote_chain(connection: Any, disk: Disk) -> tuple[list[Image], bool]:
    """The images that the pools of a host know of, and whether they are all: a chain may go on outside of the pools."""
    lib = _library()
    images = [Image(disk.path, disk.format)]
    with suppress(lib.libvirtError):
        while images[-1].format != "raw" and len(images) < MAX_CHAIN:
            tree = _tree(connection.storageVolLookupByPath(images[-1].path))
            path = tree.findtext("backingStore/path")
            if not path:
                return images, True
            images.append(Image(without_secret(path), _format(tree, "backingStore/format") or "raw"))
    return images, images[-1].format == "raw"


def _pool_paths(connection: Any) -> list[str]:
    """The folders of the host's pools that are folders."""
    lib = _library()
    try:
        trees = [_tree(pool) for pool in connection.listAllStoragePools()]
    except lib.libvirtError:
        # A host may run no storage daemon, an embedded driver has none.
        return []
    paths = {tree.findtext("target/path") for tree in trees if tree.get("type") in FOLDER_POOLS}
    return sorted(path for path in paths if path)


def _tree(thing: Any) -> _Element:
    from lxml import etree

    return etree.fromstring(thing.XMLDesc(0), etree.XMLParser(resolve_entities=False, no_network=True))


def _format(tree: _Element, path: str) -> str | None:
    element = tree.find(path)
    return None if element is None else _domain.plain_format(element.get("type"))


def _state(domain: Any) -> str:
    number, reason = domain.state()
    name = STATES[number] if number < len(STATES) else "unknown"
    return SHUT_OFF.get(reason, name) if name == "shut off" else name


def _unstill(state: str, managed_save: bool) -> str | None:
    """Why the disks of a local domain are not at rest, with what to do."""
    if managed_save:
        return "it has a managed-save image, whose memory belongs to the disks; start it and shut it down"
    return None if state == "shut off" else f"its state is {state}; shut it down"


def _refuse_changed(domain: Any, vm: VM) -> None:
    xml = domain.XMLDesc(_library().VIR_DOMAIN_XML_INACTIVE).encode()
    now = [_named(disk) for disk in _domain.disks(parse(xml, printable(vm.name)))]
    if now != [_named(disk) for disk in vm.disks]:
        raise Refused("its disks were changed since they were collected; collect and plan again")


def _named(disk: Disk) -> tuple[object, ...]:
    """What the domain XML alone says of a disk."""
    from_pool = disk.type == "volume"
    where = (None, None) if from_pool else (disk.path, disk.format)
    return disk.target, disk.type, disk.pool, disk.volume, *where, disk.named, disk.ends


def _local(url: str, host: str) -> bool:
    transport = _transport(url)
    if transport == "unix":
        # A socket may lead to another machine; libvirt gives the full name of a host where it finds one.
        return host.split(".")[0] == socket.gethostname().split(".")[0]
    return not transport and not urlsplit(url).netloc


def _transport(url: str) -> str:
    return urlsplit(url).scheme.partition("+")[2]


def _below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _without_password(url: str) -> str:
    return re.sub(r"(//[^/:@]*):[^/]*@", r"\1@", url)


def _explain(error: Exception, shown: str) -> str:
    """One line for a connection that failed, with what to do."""
    lib = _library()
    code = error.get_error_code()
    if code in (lib.VIR_ERR_AUTH_FAILED, lib.VIR_ERR_AUTH_CANCELLED, lib.VIR_ERR_AUTH_UNAVAILABLE):
        todo = "check the user, libvirt's auth.conf, or whether you are in the group libvirt"
    elif code in (lib.VIR_ERR_SYSTEM_ERROR, lib.VIR_ERR_RPC, lib.VIR_ERR_NO_CONNECT):
        todo = "start the libvirt daemon there or correct the URI"
    elif "Failed to parse" in str(error):
        # As root, the QEMU driver looks up its user even where its configuration names another.
        todo = "create it, as Debian's libvirt-daemon-system does"
    elif "/embed" in shown or "'root'" in str(error):
        todo = "an embedded driver wants ?root=DIR, and a process that has opened one opens no other of its kind"
    else:
        todo = "correct the URI"
    return f"{shown}: {_line(error)}; {todo}"


def _line(error: Exception) -> str:
    """The message of an error on one line, without a password of a URL in it."""
    return printable(_without_password(" ".join(str(error).split())), 500)
