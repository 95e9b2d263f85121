"""A real Kubernetes API server on etcd, on loopback, with RBAC on; nothing runs pods."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml
from cluster import crds
from lightkube import ApiError, Client
from lightkube.core.resource import NamespacedResource
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.core_v1 import Namespace, Node, ResourceQuota
from lightkube.resources.rbac_authorization_v1 import ClusterRole, ClusterRoleBinding, Role, RoleBinding

from migrate.target import api

BINARY = Path(__file__).parents[2] / ".cache/kube-apiserver"
KUBEVIRT = "1.9"
RULES = (ClusterRole, ClusterRoleBinding, Role, RoleBinding)
# The contexts of the kubeconfig, each with the user of its name and the groups it is in.
USERS = {"admin": "system:masters", "stranger": "strangers"}


@dataclass(frozen=True)
class Server:
    """`kubeconfig` has a context for each of USERS; `client` is the administrator's."""

    kubeconfig: Path
    client: Client

    def add(self, plural: str, name: str, namespace: str | None = None, **fields: Any) -> None:
        """Makes an object of one of the kinds that a plan reads; of nodes and quotas also the status is taken."""
        kind = api.kinds()[plural]
        metadata = {"name": name, "namespace": namespace} | fields.pop("metadata", {})
        self.client.create(kind.from_dict({"metadata": metadata, **fields}))
        if kind in (Node, ResourceQuota) and "status" in fields:
            status = kind.Status.from_dict({"metadata": metadata, "status": fields["status"]})
            self.client.apply(status, name, namespace=namespace, field_manager="kubelet", force=True)

    def namespace(self, name: str, **labels: str) -> None:
        """Makes a namespace, or gives it these labels alone."""
        self.client.apply(Namespace.from_dict({"metadata": {"name": name, "labels": labels}}), force=True)

    def let_read(self, user: str, *plurals: str, namespace: str | None = None) -> None:
        """Lets a user list kinds, in a namespace or in the whole cluster."""
        groups = sorted({api.kinds()[plural]._api_info.resource.group for plural in plurals})
        rule = {"apiGroups": groups, "resources": list(plurals), "verbs": ["list"]}
        metadata = {"name": f"let-{user}", "namespace": namespace}
        role, binding = (Role, RoleBinding) if namespace else (ClusterRole, ClusterRoleBinding)
        self.client.create(role.from_dict({"metadata": metadata, "rules": [rule]}))
        subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
        given = {"kind": role.__name__, "name": f"let-{user}", "apiGroup": "rbac.authorization.k8s.io"}
        self.client.create(binding.from_dict({"metadata": metadata, "roleRef": given, "subjects": [subject]}))

    def clear(self) -> None:
        """Deletes what tests made. Namespaces stay: only a controller, of which none runs, could end them."""
        for kind in (*api.kinds().values(), *RULES):
            everywhere = {"namespace": "*"} if issubclass(kind, NamespacedResource) else {}
            for item in self.client.list(kind, **everywhere):
                name, inside = item.metadata.name, item.metadata.namespace
                if kind is Namespace or (kind in RULES and not name.startswith("let-")):
                    continue
                self.client.delete(kind, name, **({"namespace": inside} if inside else {}), grace_period=0)


@contextmanager
def running() -> Iterator[Server]:
    """A server with the definitions of KubeVirt, CDI and Multus; about 8 s."""
    assert BINARY.exists(), "tools/build-kube-apiserver.sh makes the API server, once"
    # A proxy of the environment does not lead to loopback.
    os.environ["NO_PROXY"] = "127.0.0.1"
    with tempfile.TemporaryDirectory(prefix="kube-") as folder, _processes(Path(folder)) as kubeconfig:
        client = api.connect("admin", kubeconfig)
        _wait(lambda: client.list(Namespace), "the API server")
        _define(client)
        yield Server(kubeconfig, client)


@contextmanager
def _processes(folder: Path) -> Iterator[Path]:
    port, store, peer = _free_ports(3)
    subprocess.run(["openssl", "genrsa", "-out", folder / "sa.key", "2048"], check=True, capture_output=True)
    tokens = "".join(f"{name}-token,{name},{name},{group}\n" for name, group in USERS.items())
    (folder / "tokens.csv").write_text(tokens)
    etcd = [
        *("etcd", f"--data-dir={folder}/etcd", "--unsafe-no-fsync", "--log-level=error"),
        *(f"--{who}-client-urls=http://127.0.0.1:{store}" for who in ("listen", "advertise")),
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
    ]
    apiserver = [
        *(BINARY, f"--etcd-servers=http://127.0.0.1:{store}", f"--secure-port={port}", f"--cert-dir={folder}/certs"),
        *("--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--service-cluster-ip-range=10.0.0.0/24"),
        *(f"--service-account-issuer=https://127.0.0.1:{port}", f"--service-account-key-file={folder}/sa.key"),
        *(f"--service-account-signing-key-file={folder}/sa.key", f"--token-auth-file={folder}/tokens.csv"),
        # Claims keep a finalizer that only a controller takes off; service accounts are made by one.
        *("--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount,StorageObjectInUseProtection"),
    ]
    started = []
    try:
        for name, command in (("etcd", etcd), ("apiserver", apiserver)):
            with open(folder / f"{name}.log", "wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
        certificate = folder / "certs/apiserver.crt"
        _wait(certificate.read_bytes, "the API server's certificate")
        yield _kubeconfig(folder, port, certificate.read_bytes())
    finally:
        for process in reversed(started):
            process.kill()  # An API server that is asked to end waits for every watch.
        for process in started:
            process.wait(30)


def _kubeconfig(folder: Path, port: int, certificate: bytes) -> Path:
    authority = base64.b64encode(certificate).decode()
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": authority}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": name, "user": {"token": f"{name}-token"}} for name in USERS],
        "contexts": [{"name": name, "context": {"cluster": "test", "user": name}} for name in USERS],
        "current-context": "admin",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def _define(client: Client) -> None:
    definitions = [CustomResourceDefinition.from_dict(each) for each in crds.all_of(KUBEVIRT)]
    for definition in definitions:
        client.create(definition)
    for definition in definitions:
        client.wait(CustomResourceDefinition, definition.metadata.name, for_conditions=["Established"])
    for kind in api.kinds().values():
        _wait(lambda kind=kind: list(client.list(kind)), f"the kind {kind.__name__}")


def _wait(look: Any, what: str, seconds: float = 60) -> None:
    """Looks until that succeeds."""
    end = time.monotonic() + seconds
    while True:
        try:
            look()
            return
        except (ApiError, httpx2.TransportError, OSError) as error:
            problem = error
        assert time.monotonic() < end, f"{what} is not there after {seconds:g} s: {problem}"
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
