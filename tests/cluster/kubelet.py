"""A double of kubelet, scheduler, job controller and garbage collector: a container is a local process.

Its root is an overlay of this machine's, whatever its image is called: what it writes outside of its volumes is
lost. It has its pod's claims mounted or as loop devices, its own /tmp and /dev, and the Python of the tests.
"""

from __future__ import annotations

import base64
import os
import shlex
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cluster.csi import NODE, Driver
from cluster.wire import Answer, Events, Object, Request, overtaken
from lightkube import ApiError
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import ConfigMap, Node, PersistentVolumeClaim, Pod, Secret
from lightkube.types import PatchType
from msgspec import ValidationError

REPOSITORY = Path(__file__).parents[2]
ENDED = ("Succeeded", "Failed")
MESSAGE = 4096  # Bytes that a termination message has at most.
NAMED = ("batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid")
DEVICES = ("null", "zero", "full", "random", "urandom")
COLLECTED = (Pod, PersistentVolumeClaim)


@dataclass
class Running:
    """A pod's folder, with the log of each container, and the process of the one that runs."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    killed: bool = False
    loops: list[str] = field(default_factory=list)


class Kubelet:
    """Runs pods; `unpullable` names images that cannot be had, `root` is where their folders are."""

    def __init__(self, events: Events, driver: Driver, root: Path) -> None:
        self.events, self.client, self.driver, self.root = events, events.client, driver, root
        self.unpullable: set[str] = set()
        self.pods: dict[str, Running] = {}
        events.follow(Pod, self._pod, self._job_of)
        events.follow(PersistentVolumeClaim, self._claim)
        events.follow(Job, self._job, self.collect)

    @property
    def routes(self) -> dict[str, Answer]:
        return {r"/containerLogs/([^/]+)/([^/]+)/([^/]+)": self._log}

    def register(self, port: int) -> None:
        """Makes the node, whose logs are asked for at this port."""
        labels = {"kubernetes.io/hostname": NODE, "kubernetes.io/arch": "amd64", "kubevirt.io/schedulable": "true"}
        self.client.apply(Node.from_dict({"metadata": {"name": NODE, "labels": labels}}), force=True)
        devices = {f"devices.kubevirt.io/{name}": "1k" for name in ("kvm", "tun", "vhost-net")}
        resources = {"cpu": "64", "memory": "256Gi", "pods": "110", **devices}
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [{"type": "Ready", "status": "True"}],
            "capacity": resources,
            "allocatable": resources,
        }
        self.client.patch(Node.Status, NODE, {"status": status})

    def stop(self) -> None:
        for running in list(self.pods.values()):
            self._kill(running)

    # Pods.

    def _claim(self, event: str, claim: PersistentVolumeClaim) -> None:
        """Pods that wait for a claim look again."""
        if claim.status.phase == "Bound" and event != "DELETED":
            for pod in self.client.list(Pod, namespace=claim.metadata.namespace):
                if claim.metadata.name in _claims(pod).values():
                    with overtaken():
                        self._pod("MODIFIED", pod)

    def _pod(self, event: str, pod: Pod) -> None:
        metadata = pod.metadata
        running = self.pods.get(metadata.uid)
        if event == "DELETED" or metadata.deletionTimestamp:
            if running:
                self._kill(running)
            if event != "DELETED":
                with overtaken():
                    self.client.delete(Pod, metadata.name, namespace=metadata.namespace, grace_period=0)
        elif not running and pod.status.phase == "Pending" and self._scheduled(pod):
            folder = self.root / metadata.uid
            folder.mkdir()
            self.pods[metadata.uid] = running = Running(folder)
            threading.Thread(target=self._run, args=(pod, running), daemon=True).start()

    def _scheduled(self, pod: Pod) -> bool:
        """Whether all that the pod needs is there; says what is missing, and gives the pod its node."""
        for name in _claims(pod).values():
            try:
                claim = self.client.get(PersistentVolumeClaim, name, namespace=pod.metadata.namespace)
            except ApiError:
                return self._waits(pod, f'persistentvolumeclaim "{name}" not found')
            if claim.status.phase != "Bound":
                if self.driver.waits_for_consumer(claim):
                    self.driver.select(claim)
                return self._waits(pod, "pod has unbound immediate PersistentVolumeClaims")
        if not pod.spec.nodeName:
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            binding = Pod.Binding.from_dict({"metadata": {"name": pod.metadata.name}, "target": target})
            with suppress(ValidationError):  # The answer is a Status.
                self.client.create(binding, pod.metadata.name, namespace=pod.metadata.namespace)
        image = pod.spec.containers[0].image
        if image in self.unpullable:
            state = {"waiting": {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}}
            self._status(pod, {"phase": "Pending", "containerStatuses": [_container(pod, 0, state)]})
            return False
        return True

    def _waits(self, pod: Pod, message: str) -> bool:
        known = [condition.message for condition in pod.status.conditions or []]
        if message not in known:
            waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            self._status(pod, {"conditions": [waits]})
        return False

    def _status(self, pod: Pod, status: Object) -> None:
        where = {"namespace": pod.metadata.namespace}
        self.client.patch(Pod.Status, pod.metadata.name, {"status": status}, **where, patch_type=PatchType.MERGE)

    def _run(self, pod: Pod, running: Running) -> None:
        """Runs the containers one after the other, the first ones being the init containers, and writes the status."""
        begun = _now()
        codes, states = [], []
        ready = [{"type": "Ready", "status": "True"}]
        try:
            active = {"running": {"startedAt": begun}}
            each = range(len(pod.spec.containers))
            with overtaken():
                statuses = [_container(pod, index, active) for index in each]
                self._status(pod, {"phase": "Running", "conditions": ready, "containerStatuses": statuses})
            for container in [*(pod.spec.initContainers or []), *pod.spec.containers]:
                code, message = self._container(pod, container, running)
                codes.append(code)
                reason = "Completed" if code == 0 else "Error"
                ended = {"exitCode": code, "reason": reason, "message": message, "startedAt": begun}
                states.append({"terminated": ended | {"finishedAt": _now()}})
                if code:
                    break
        except Exception as error:
            codes.append(128)
            states.append({"terminated": {"exitCode": 128, "reason": "StartError", "message": str(error)}})
            if not running.killed:
                self.events.problems.append(f"pod {pod.metadata.name}: {error!r}")
        finally:
            for loop in running.loops:
                subprocess.run(["losetup", "-d", loop], check=False)
        phase = "Failed" if any(codes) else "Succeeded"
        states = states[-len(pod.spec.containers) :]
        statuses = [_container(pod, index, state) for index, state in enumerate(states)]
        with overtaken():
            done = [{"type": "Ready", "status": "False", "reason": "PodCompleted"}]
            self._status(pod, {"phase": phase, "conditions": done, "containerStatuses": statuses})

    def _container(self, pod: Pod, container: object, running: Running) -> tuple[int, str]:
        """The exit code and the termination message of a container."""
        said = running.folder / f"{container.name}.message"
        said.touch()
        said.chmod(0o666)
        command = [*(container.command or []), *(container.args or [])]
        script = running.folder / f"{container.name}.sh"
        script.write_text(self._script(pod, container, running, said, command))
        log = running.folder / f"{container.name}.log"
        if running.killed:
            return 137, ""
        with open(log, "wb") as output:
            running.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", script],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(pod, container),
                cwd="/",
                start_new_session=True,
            )
        code = running.process.wait()
        message = said.read_bytes()[:MESSAGE].decode(errors="replace")
        if code and not message and container.terminationMessagePolicy == "FallbackToLogsOnError":
            message = log.read_bytes()[-2048:].decode(errors="replace")
        return (code if code >= 0 else 128 - code), message

    def _environment(self, pod: Pod, container: object) -> dict[str, str]:
        known = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "HOME": "/", "HOSTNAME": pod.metadata.name}
        for item in container.env or []:
            source = item.valueFrom
            if source and source.secretKeyRef:
                secret = self.client.get(Secret, source.secretKeyRef.name, namespace=pod.metadata.namespace)
                known[item.name] = base64.b64decode(secret.data[source.secretKeyRef.key]).decode()
            elif source and source.fieldRef:
                names = {"metadata.name": pod.metadata.name, "metadata.namespace": pod.metadata.namespace}
                known[item.name] = names[source.fieldRef.fieldPath]
            else:
                known[item.name] = item.value or ""
        return known

    def _script(self, pod: Pod, container: object, running: Running, said: Path, command: list[str]) -> str:
        """Makes the container's root in a mount namespace and goes there."""
        work, root = running.folder / f"{container.name}.work", running.folder / f"{container.name}.root"
        work.mkdir()
        root.mkdir()
        lines = [
            "set -e",
            f"mount -t tmpfs none {work}; mkdir {work}/upper {work}/work",
            f"mount -t overlay none -o lowerdir=/,upperdir={work}/upper,workdir={work}/work {root}",
            # The Python of the tests may be below a home folder.
            f"chmod 755 {root}/root",
            f"mount --rbind /proc {root}/proc; mount --rbind /sys {root}/sys",
            f"mount -t tmpfs -o mode=755 none {root}/dev; mount -t tmpfs -o mode=1777 none {root}/tmp",
            *(f"touch {root}/dev/{name}; mount --bind /dev/{name} {root}/dev/{name}" for name in DEVICES),
            f"ln -s /proc/self/fd {root}/dev/fd",
            *_bind(REPOSITORY, str(REPOSITORY), root, True),
            *_bind(said, container.terminationMessagePath or "/dev/termination-log", root, False),
        ]
        volumes = {volume.name: volume for volume in pod.spec.volumes or []}
        for device in container.volumeDevices or []:
            claim = volumes[device.name].persistentVolumeClaim
            made = self._device(pod, claim, running)
            lines += _bind(made, device.devicePath, root, False)
        for mount in container.volumeMounts or []:
            folder, read_only = self._folder(pod, volumes[mount.name], running)
            source = folder / mount.subPath if mount.subPath else folder
            lines += _bind(source, mount.mountPath, root, read_only or bool(mount.readOnly))
        context, own = pod.spec.securityContext, container.securityContext
        user = next((each.runAsUser for each in (own, context) if each and each.runAsUser is not None), 0)
        group = next((each.runAsGroup for each in (own, context) if each and each.runAsGroup is not None), 0)
        groups = [str(context.fsGroup)] if context and context.fsGroup is not None else []
        if own and own.readOnlyRootFilesystem:
            lines.append(f"mount -o remount,ro {root}")
        where = shlex.quote(container.workingDir or "/")
        inside = ["setpriv", f"--reuid={user}", f"--regid={group}"]
        inside += [f"--groups={','.join(groups)}" if groups else "--clear-groups", "--", *command]
        entered = f"cd {where} && exec {shlex.join(inside)}"
        lines.append(f"exec chroot {root} sh -c {shlex.quote(entered)}")
        return "\n".join(lines) + "\n"

    def _device(self, pod: Pod, claim: object, running: Running) -> Path:
        volume = self.driver.volume(pod.metadata.namespace, claim.claimName)
        if volume.path.is_block_device():
            return volume.path
        flags = ["--read-only"] if claim.readOnly else []
        made = subprocess.run(["losetup", *flags, "--find", "--show", volume.path], check=True, capture_output=True)
        running.loops.append(made.stdout.decode().strip())
        device = Path(running.loops[-1])
        subprocess.run(["chown", "107:107", device], check=True)
        return device

    def _folder(self, pod: Pod, volume: object, running: Running) -> tuple[Path, bool]:
        """The folder that a volume is, and whether nobody may write there."""
        namespace = pod.metadata.namespace
        if claim := volume.persistentVolumeClaim:
            return self.driver.volume(namespace, claim.claimName).path, bool(claim.readOnly)
        folder = running.folder / f"volume-{volume.name}"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        files: dict[str, bytes] = {}
        if volume.secret:
            secret = self.client.get(Secret, volume.secret.secretName, namespace=namespace)
            files = {name: base64.b64decode(value) for name, value in (secret.data or {}).items()}
        elif volume.configMap:
            found = self.client.get(ConfigMap, volume.configMap.name, namespace=namespace)
            files = {name: value.encode() for name, value in (found.data or {}).items()}
        elif volume.emptyDir is None:
            raise ValueError(f"volume {volume.name} is of a kind that this double does not know")
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder, bool(files)

    def _kill(self, running: Running) -> None:
        running.killed = True
        if running.process and running.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGKILL)

    def _log(self, request: Request) -> None:
        """A container's log as far as it is; with `follow` until the pod ends."""
        namespace, name, container = request.match.groups()
        pod = self.client.get(Pod, name, namespace=namespace)
        log = self.pods[pod.metadata.uid].folder / f"{container}.log"
        while request.query.get("follow") == "true" and pod.status.phase not in ENDED:
            time.sleep(0.05)
            pod = self.client.get(Pod, name, namespace=namespace)
        data = log.read_bytes() if log.exists() else b""
        if "tailLines" in request.query:
            data = b"".join(data.splitlines(True)[-int(request.query["tailLines"]) :])
        request.send(200, data[: int(request.query.get("limitBytes", len(data)))])

    # Jobs.

    def _job_of(self, event: str, pod: Pod) -> None:
        for owner in pod.metadata.ownerReferences or []:
            if owner.kind == "Job":
                self._look(pod.metadata.namespace, owner.name)

    def _look(self, namespace: str, name: str) -> None:
        self._job("MODIFIED", self.client.get(Job, name, namespace=namespace))

    def _job(self, event: str, job: Job) -> None:
        metadata, spec, status = job.metadata, job.spec, job.status
        where = {"namespace": metadata.namespace}
        if event == "DELETED" or metadata.deletionTimestamp:
            return
        if any(each.type in ("Complete", "Failed") for each in status.conditions or []):
            if spec.ttlSecondsAfterFinished is not None:
                self.events.later(spec.ttlSecondsAfterFinished, self._delete_job, metadata.name, metadata.namespace)
            return
        pods = [pod for pod in self.client.list(Pod, **where) if _owned(pod, metadata.uid)]
        phases = [pod.status.phase for pod in pods]
        failed, succeeded = phases.count("Failed"), phases.count("Succeeded")
        active = len(phases) - failed - succeeded
        told: Object = {"active": active, "failed": failed, "succeeded": succeeded}
        told["startTime"] = status.startTime or _now()
        limit = 6 if spec.backoffLimit is None else spec.backoffLimit
        deadline = spec.activeDeadlineSeconds
        age = (datetime.now(UTC) - metadata.creationTimestamp).total_seconds()
        if succeeded:
            told |= {"conditions": [_condition("Complete", "", "")], "completionTime": _now()}
        elif deadline and age >= deadline:
            told["conditions"] = [
                _condition("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
            ]
        elif failed > limit:
            told["conditions"] = [
                _condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
            ]
        elif not active:
            self._start(job)
            told["active"] = 1
            if deadline:
                self.events.later(deadline - age + 0.1, self._look, metadata.namespace, metadata.name)
        if "conditions" in told:
            for pod in pods:
                if pod.status.phase not in ENDED:
                    self.client.delete(Pod, pod.metadata.name, **where)
        self.client.patch(Job.Status, metadata.name, {"status": told}, **where)

    def _start(self, job: Job) -> None:
        metadata, template = job.metadata, job.spec.template
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata.name, "uid": metadata.uid}
        labels = (template.metadata.labels if template.metadata else None) or {}
        labels |= dict(zip(NAMED, (metadata.name, metadata.uid), strict=True))
        made = {
            "metadata": {
                "generateName": f"{metadata.name}-",
                "namespace": metadata.namespace,
                "labels": labels,
                "annotations": (template.metadata.annotations if template.metadata else None) or {},
                "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
            },
            "spec": template.spec.to_dict(),
        }
        self.client.create(Pod.from_dict(made))

    def _delete_job(self, name: str, namespace: str) -> None:
        self.client.delete(Job, name, namespace=namespace)
        for pod in self.client.list(Pod, namespace=namespace, labels={NAMED[0]: name}):
            self.client.delete(Pod, pod.metadata.name, namespace=namespace)

    # The garbage collector.

    def collect(self, event: str, owner: object) -> None:
        """Deletes what a deleted object owns, unless its dependents are to be orphans."""
        metadata = owner.metadata
        finalizers = metadata.finalizers or []
        asked = {"orphan", "foregroundDeletion"} & set(finalizers)
        if event != "DELETED" and not (metadata.deletionTimestamp and asked):
            return
        where = {"namespace": metadata.namespace}
        for kind in COLLECTED:
            for item in self.client.list(kind, **where):
                if not _owned(item, metadata.uid):
                    continue
                with overtaken():
                    if "orphan" in finalizers:
                        patch = {"metadata": {"ownerReferences": None}}
                        self.client.patch(kind, item.metadata.name, patch, **where, patch_type=PatchType.MERGE)
                    else:
                        self.client.delete(kind, item.metadata.name, **where)
        if event != "DELETED":
            patch = {"metadata": {"finalizers": [each for each in finalizers if each not in asked]}}
            self.client.patch(type(owner), metadata.name, patch, **where, patch_type=PatchType.MERGE)


def _claims(pod: Pod) -> dict[str, str]:
    volumes = pod.spec.volumes or []
    return {each.name: each.persistentVolumeClaim.claimName for each in volumes if each.persistentVolumeClaim}


def _owned(item: object, uid: str) -> bool:
    return any(owner.uid == uid for owner in item.metadata.ownerReferences or [])


def _bind(source: Path, at: str, root: Path, read_only: bool) -> list[str]:
    """The lines that show a folder, file or device at a path of the container."""
    target = shlex.quote(f"{root}{at}")
    make = f"mkdir -p {target}" if source.is_dir() else f"mkdir -p $(dirname {target}); touch {target}"
    lines = [make, f"mount --bind {shlex.quote(str(source))} {target}"]
    return [*lines, f"mount -o remount,bind,ro {target}"] if read_only else lines


def _container(pod: Pod, index: int, state: Object) -> Object:
    container = pod.spec.containers[index]
    status = {"name": container.name, "image": container.image, "imageID": "", "restartCount": 0, "state": state}
    return status | {"ready": "running" in state}


def _condition(kind: str, reason: str, message: str) -> Object:
    return {"type": kind, "status": "True", "reason": reason, "message": message}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
