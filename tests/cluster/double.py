"""A cluster for tests: a real API server, and doubles at the wire of CSI, CDI, kubelet and virt-controller.

with cluster() as there:
    api.connect(there.context, there.kubeconfig)  # Through a proxy that has faults where a test wants them.
    there.claim_path("vms", "web-vda").read_bytes()
"""

from __future__ import annotations

import base64
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml
from cluster import server
from cluster.cdi import OVERHEAD, SCRATCH, Uploads
from cluster.csi import CLASSES, PROVISIONER, Driver
from cluster.datavolumes import DATA_VOLUME, VALIDATE, Imports
from cluster.faults import Proxy, proxy
from cluster.kubelet import Kubelet
from cluster.virt import Controller
from cluster.wire import Events, certificate, overtaken, serving
from lightkube import ApiError, Client
from lightkube.generic_resource import create_global_resource, create_namespaced_resource
from lightkube.resources.admissionregistration_v1 import ValidatingWebhookConfiguration
from lightkube.resources.apiregistration_v1 import APIService
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import (
    ConfigMap,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    Secret,
    Service,
)

from migrate.target import api

CDI = "v1beta1.upload.cdi.kubevirt.io"
CDI_CONFIG = create_global_resource("cdi.kubevirt.io", "v1beta1", "CDIConfig", "cdiconfigs")
TOKEN_REQUEST = create_namespaced_resource(
    "upload.cdi.kubevirt.io", "v1beta1", "UploadTokenRequest", "uploadtokenrequests"
)
MADE = (Job, Pod, DATA_VOLUME, PersistentVolumeClaim, PersistentVolume, Secret, ConfigMap)


@dataclass
class Cluster:
    """`client` is the administrator's and goes past the `api` proxy, which `kubeconfig` leads to.

    Faults: `api.faults` (ApiFault), `uploads.faults` (UploadFault), `uploads.tokens.seconds`, `uploads.ready_seconds`,
    `kubelet.unpullable`. What was asked: `api.seen`, `uploads.seen`. What imports find: `imports.origins`.
    """

    server: server.Server
    kubeconfig: Path
    uploadproxy: str
    authority: Path
    api: Proxy
    driver: Driver
    uploads: Uploads
    imports: Imports
    kubelet: Kubelet
    events: Events
    context: str = "admin"

    @property
    def client(self) -> Client:
        return self.server.client

    def claim_path(self, namespace: str, name: str) -> Path:
        """The disk image on a claim, or the file that is its block device."""
        return self.driver.volume(namespace, name).image

    def wait(self, found: Callable[[], Any], what: str, seconds: float = 20) -> Any:
        """Looks until something is found."""
        end = time.monotonic() + seconds
        while not (result := found()):
            assert time.monotonic() < end, f"{what} is not there after {seconds:g} s; {self.events.problems}"
            time.sleep(0.02)
        return result

    def clear(self) -> None:
        """Makes it as it was at first, but for namespaces."""
        self.api.faults.clear()
        self.api.seen.clear()
        self.uploads.faults.clear()
        self.uploads.seen.clear()
        self.uploads.tokens.seconds, self.uploads.ready_seconds = 300.0, 10.0
        self.kubelet.unpullable.clear()
        self.imports.origins.clear()
        for kind in (api.kinds()["virtualmachines"], *MADE):
            everywhere = {"namespace": "*"} if kind is not PersistentVolume else {}
            for item in self.client.list(kind, **everywhere):
                _delete(self.client, kind, item)
        self.wait(lambda: not list(self.client.list(api.kinds()["virtualmachines"], namespace="*")), "the end of VMs")
        self.server.clear()
        self.wait(lambda: not self.driver.volumes, "the end of all volumes")

    def offer(self) -> None:
        """Makes what an administrator has set up: storage classes, CDI's and KubeVirt's configuration, the node."""
        add, client = self.server.add, self.client
        for namespace in ("cdi", "kubevirt", "vms"):
            self.server.namespace(namespace)
        modes = [
            {"accessModes": ["ReadWriteMany", "ReadWriteOnce"], "volumeMode": mode} for mode in ("Block", "Filesystem")
        ]
        for name, (binding, parameters) in CLASSES.items():
            add("storageclasses", name, provisioner=PROVISIONER, volumeBindingMode=binding, parameters=parameters)
            add("storageprofiles", name, status={"claimPropertySets": modes, "storageClass": name})
        add("kubevirts", "kubevirt", "kubevirt", spec={}, status={"observedKubeVirtVersion": f"v{server.KUBEVIRT}.0"})
        self.kubelet.register(int(self.uploadproxy.rpartition(":")[2]))
        status = {
            "uploadProxyURL": self.uploadproxy.removeprefix("https://"),
            "uploadProxyCA": self.authority.read_text(),
            "filesystemOverhead": {"global": str(OVERHEAD), "storageClass": {name: str(OVERHEAD) for name in CLASSES}},
            "scratchSpaceStorageClass": SCRATCH,
        }
        config = {"metadata": {"name": "config"}, "spec": {"featureGates": ["HonorWaitForFirstConsumer"]}}
        client.apply(CDI_CONFIG.from_dict(config | {"status": status}), force=True)


@contextmanager
def doubles(found: server.Server) -> Iterator[Cluster]:
    """The doubles around an API server, which has to be theirs alone."""
    with tempfile.TemporaryDirectory(prefix="double-") as name:
        root = Path(name)
        for part in ("volumes", "scratch", "pods"):
            (root / part).mkdir()
        tls = certificate(root)
        events = Events(found.client)
        driver = Driver(events, root / "volumes")
        uploads = Uploads(events, driver, root / "scratch")
        kubelet = Kubelet(events, driver, root / "pods")
        imports = Imports(events, driver, root / "scratch")
        events.follow(DATA_VOLUME, kubelet.collect)
        Controller(events)
        config = yaml.safe_load(found.kubeconfig.read_text())
        there = config["clusters"][0]["cluster"]
        authority = root / "apiserver.crt"
        authority.write_bytes(base64.b64decode(there["certificate-authority-data"]))
        try:
            with (
                events.handling(),
                serving(tls, uploads.routes | imports.routes | kubelet.routes) as port,
                proxy(tls, there["server"], authority) as before,
            ):
                there["server"] = f"https://127.0.0.1:{before.port}"
                there["certificate-authority-data"] = base64.b64encode(tls[0].read_bytes()).decode()
                (root / "kubeconfig").write_text(yaml.safe_dump(config))
                made = Cluster(
                    found,
                    root / "kubeconfig",
                    f"https://127.0.0.1:{port}",
                    tls[0],
                    before,
                    driver,
                    uploads,
                    imports,
                    kubelet,
                    events,
                )
                _aggregate(made, port)
                _admit(made, port)
                yield made
        finally:
            kubelet.stop()
            driver.remove_all()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster of its own; about 8 s."""
    with server.running() as found, doubles(found) as made:
        made.offer()
        yield made


def _aggregate(made: Cluster, port: int) -> None:
    """Lets the API server ask the double for tokens, as it asks the API server of CDI."""
    client, namespace = made.client, "cdi"
    made.server.namespace(namespace)
    external = {"type": "ExternalName", "externalName": "127.0.0.1"}
    service = {"metadata": {"name": "cdi-api", "namespace": namespace}, "spec": external}
    client.apply(Service.from_dict(service), force=True)
    group, version = "upload.cdi.kubevirt.io", "v1beta1"
    spec = {"group": group, "version": version, "groupPriorityMinimum": 1000, "versionPriority": 15}
    spec |= {"insecureSkipTLSVerify": True, "service": {"name": "cdi-api", "namespace": namespace, "port": port}}
    client.create(APIService.from_dict({"metadata": {"name": CDI}, "spec": spec}))

    request = TOKEN_REQUEST.from_dict({"metadata": {"name": "any", "namespace": namespace}, "spec": {"pvcName": "any"}})

    def available() -> bool:
        # The API server calls it available before it leads there.
        try:
            return bool(client.create(request).status["token"])
        except (ApiError, httpx2.HTTPError):
            return False

    made.wait(available, "the API of CDI")


def _admit(made: Cluster, port: int) -> None:
    """Has the API server ask the double about DataVolumes, as it asks CDI's webhook."""
    authority = base64.b64encode(made.authority.read_bytes()).decode()
    rule = {"apiGroups": ["cdi.kubevirt.io"], "apiVersions": ["v1beta1"], "resources": ["datavolumes"]}
    hook = {
        "name": "datavolume-validate.cdi.kubevirt.io",
        "clientConfig": {"url": f"https://127.0.0.1:{port}{VALIDATE}", "caBundle": authority},
        "rules": [rule | {"operations": ["CREATE", "UPDATE"], "scope": "*"}],
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
    }
    name = {"metadata": {"name": "cdi-api-datavolume-validate"}}
    made.client.create(ValidatingWebhookConfiguration.from_dict(name | {"webhooks": [hook]}))


def _delete(client: Client, kind: type, item: Any) -> None:
    namespace = item.metadata.namespace
    with overtaken():
        client.delete(kind, item.metadata.name, **({"namespace": namespace} if namespace else {}), grace_period=0)
