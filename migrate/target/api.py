"""The API server of a cluster: how it is reached, the kinds of objects that matter here, and what it refuses."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from migrate.model import Refused, Unfinished

if TYPE_CHECKING:
    from lightkube import Client

T = TypeVar("T")
Object = dict[str, Any]
FIELD_MANAGER = "kubevirt-migrate"
SECONDS = 30.0
NO_LOGIN = "(no login)"
EXEC_VERSION = "client.authentication.k8s.io/v1"
WAITS = (0.1, 0.3, 1.0, 2.0, 4.0)
BUSY = (429, 500, 502, 503, 504)
LONGEST_WAIT = 30.0


class Forbidden(Refused):
    """What the user of a context may not do."""


def connect(context: str | None, kubeconfig: Path | None, namespace: str | None = None) -> Client:
    """A client for a context of the kubeconfig, or of $KUBECONFIG or ~/.kube/config; Refused with what to mend."""
    import httpx2
    from lightkube import Client, KubeConfig
    from lightkube.core.exceptions import ConfigError

    files = [kubeconfig] if kubeconfig else [Path(name) for name in os.environ.get("KUBECONFIG", "").split(":") if name]
    file, data = _with_context([file.expanduser() for file in files or [Path("~/.kube/config")]], context)
    try:
        config = KubeConfig.from_dict(data, file).get(context)
        return Client(config, namespace=namespace, field_manager=FIELD_MANAGER, timeout=httpx2.Timeout(SECONDS))
    except (ConfigError, KeyError, TypeError, ValueError, OSError) as error:
        raise Refused(f"{file}: cannot be used for context {context or 'current-context'}: {error}") from None


def _with_context(files: Iterable[Path], context: str | None) -> tuple[Path, Object]:
    """The first file that has the context, or a current one where none is named, made fit for the client."""
    import yaml

    problem = "no kubeconfig"
    for file in files:
        try:
            data = yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            problem = f"{file}: {getattr(error, 'strerror', None) or 'not YAML'}"
            continue
        data = data if isinstance(data, dict) else {}
        known = [item.get("name") for item in data.get("contexts") or []]
        if (context or data.get("current-context")) in known:
            return file, _fit(data)
        problem = f"{file}: has no context {context or '(none is named, and none is current)'}" + (
            f"; it has {', '.join(map(str, known))}" if known else ""
        )
    raise Refused(f"{problem}; name one with --kubeconfig FILE --context NAME")


def _fit(data: Object) -> Object:
    """A kubeconfig with what lightkube 1.0 leaves out: contexts without a user, and logins of version v1."""
    users = [*(data.get("users") or []), {"name": NO_LOGIN, "user": {}}]
    for item in data["contexts"]:
        item["context"]["user"] = item["context"].get("user") or NO_LOGIN
    for login in (item["user"].get("exec") for item in users):
        if login and login.get("apiVersion") == EXEC_VERSION:
            # Version v1 has the answer of v1beta1; the programs ask the environment which one is wanted.
            spec = {"apiVersion": EXEC_VERSION, "kind": "ExecCredential", "spec": {"interactive": False}}
            wanted = {"name": "KUBERNETES_EXEC_INFO", "value": json.dumps(spec)}
            login |= {"apiVersion": f"{EXEC_VERSION}beta1", "env": [*(login.get("env") or []), wanted]}
    data["users"] = users
    return data


@cache
def kinds() -> dict[str, type]:
    """The kinds that are read, by plural."""
    from lightkube.generic_resource import create_global_resource, create_namespaced_resource
    from lightkube.resources.apps_v1 import ControllerRevision
    from lightkube.resources.batch_v1 import Job
    from lightkube.resources.core_v1 import (
        LimitRange,
        Namespace,
        Node,
        PersistentVolume,
        PersistentVolumeClaim,
        Pod,
        ResourceQuota,
        Secret,
    )
    from lightkube.resources.storage_v1 import StorageClass

    core = {
        "nodes": Node,
        "namespaces": Namespace,
        "persistentvolumes": PersistentVolume,
        "persistentvolumeclaims": PersistentVolumeClaim,
        "resourcequotas": ResourceQuota,
        "limitranges": LimitRange,
        "storageclasses": StorageClass,
        "secrets": Secret,
        "pods": Pod,
        "jobs": Job,
        "controllerrevisions": ControllerRevision,
    }
    kubevirt, types = ("kubevirt.io", "v1"), ("instancetype.kubevirt.io", "v1beta1")
    cdi = ("cdi.kubevirt.io", "v1beta1")
    namespaced = [
        (*kubevirt, "KubeVirt"),
        (*kubevirt, "VirtualMachine"),
        (*kubevirt, "VirtualMachineInstance"),
        (*types, "VirtualMachineInstancetype"),
        (*types, "VirtualMachinePreference"),
        ("k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition"),
        (*cdi, "DataVolume"),
    ]
    everywhere = [
        (*types, "VirtualMachineClusterInstancetype"),
        (*types, "VirtualMachineClusterPreference"),
        (*cdi, "StorageProfile"),
        (*cdi, "CDIConfig"),
    ]
    plurals = {"NetworkAttachmentDefinition": "network-attachment-definitions"}
    custom = [
        make(group, version, kind, plurals.get(kind, f"{kind.lower()}s"))
        for make, rows in ((create_namespaced_resource, namespaced), (create_global_resource, everywhere))
        for group, version, kind in rows
    ]
    return core | {kind._api_info.plural: kind for kind in custom}


def kind_of(name: str) -> type:
    """One of the kinds by its own name; Refused where it is none of them."""
    found = kinds().get(f"{name.lower()}s")
    if found is None:
        raise Refused(f"{name} is no kind of object that is made here: take it out of the manifest")
    return found


def load_types() -> None:
    """Has msgspec look at all types now: it crashes where several threads make it look at one for the first time."""
    from lightkube.core.decoders import decode_list, decode_status

    decode_status(b"{}")
    for kind in kinds().values():
        decode_list(b'{"items": []}', kind)


def answered(call: Callable[[], T], pause: Callable[[float], object] = time.sleep) -> T:
    """What a call answers; while the server is busy, failing or out of reach it is made again, with longer waits.

    Only for calls that may be made twice. Raises what the last one raised.
    """
    import httpx2

    for wait in WAITS:
        try:
            return call()
        except httpx2.HTTPError as error:
            if not _passes(error):
                raise
            pause(max(wait, _asked_to_wait(error)))
    return call()


def _passes(error: Exception) -> bool:
    """Whether a failure is one that passes: of the connection, of a busy server, or of two writers that met."""
    response = getattr(error, "response", None)
    if response is None:
        return True
    return response.status_code in BUSY or (response.status_code == 409 and not _is_taken(error))


def _is_taken(error: Exception) -> bool:
    """Whether a conflict stays: the object is there, or another manager has a field of it."""
    status = getattr(error, "status", None)
    causes = getattr(getattr(status, "details", None), "causes", None) or []
    reasons = {getattr(status, "reason", None), *(cause.reason for cause in causes)}
    return "Conflict" not in reasons or "FieldManagerConflict" in reasons


def _asked_to_wait(error: Exception) -> float:
    response = getattr(error, "response", None)
    seconds = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(seconds), LONGEST_WAIT) if seconds.isdigit() else 0.0


def failure(context: str, error: Exception) -> Refused | Unfinished:
    """A failed call in one line with what to do."""
    response = getattr(error, "response", None)
    if response is None:
        todo = "see that `kubectl` reaches it, run again"
        return Unfinished(f"context {context}: no answer from the API server ({error}): {todo}")
    message = getattr(getattr(error, "status", None), "message", None) or f"status {response.status_code}"
    if response.status_code in BUSY:
        return Unfinished(f"context {context}: the API server is busy or failing ({message}): run again later")
    if response.status_code == 401:
        return Refused(f"context {context}: the login is not valid or has ended ({message}): log in anew, run again")
    if response.status_code == 403:
        return Forbidden(f"context {context}: not allowed: {message}; use a user who may")
    return Refused(f"context {context}: refused by the API server: {message}")


def unreachable(context: str, error: Exception) -> Refused:
    """The refusal for a cluster that gives no answer."""
    return Refused(f"context {context}: no answer from the API server: {error}; see that `kubectl` reaches it")


def refusal(client: Client, manifest: Object) -> str | None:
    """What the API server says against an object that we would apply, asked as a dry run; None where it takes it."""
    import httpx2
    from lightkube.core.exceptions import ApiError

    plural = f"{manifest['kind'].lower()}s"
    try:
        client.apply(kinds()[plural].from_dict(manifest), dry_run=True)
    except ApiError as error:
        return error.status.message or f"status {error.status.code}"
    except httpx2.HTTPError as error:
        raise unreachable(client.config.context_name, error) from None
    return None
