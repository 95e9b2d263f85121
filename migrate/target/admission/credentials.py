"""SSH keys and passwords that reach into the guest: vmi-create-admitter.go, validateAccessCredentials."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.target.admission.spec import FEWER, MOST, Refusal, Spec

# How a key gets into the guest, with the volume that takes it there.
CARRIERS = {"noCloud": "cloudInitNoCloud", "configDrive": "cloudInitConfigDrive"}


def of_credentials(every: Spec) -> Iterator[Refusal]:
    """Access credentials: one kind, one source and one way in, each."""
    if len(every.spec.get("accessCredentials", [])) > MOST:
        because = "The API server refuses more than 256 access credentials."
        yield Refusal("accessCredentials", "credential-count", because, FEWER)
    carried = {source for volume in every.volumes for source in volume}
    for position, credential in enumerate(every.spec.get("accessCredentials", [])):
        path = f"accessCredentials[{position}]"
        kinds = [kind for kind in ("sshPublicKey", "userPassword") if kind in credential]
        if len(kinds) != 1:
            because = "KubeVirt refuses an access credential that is not exactly one of sshPublicKey and userPassword."
            yield Refusal(path, "credential-kind", because, "Give each its own entry.")
        for kind in kinds:
            source, ways = credential[kind].get("source", {}), credential[kind].get("propagationMethod", {})
            if "secret" not in source:
                because = "KubeVirt refuses an access credential without a Secret."
                yield Refusal(f"{path}.{kind}.source", "credential-source", because, "Name the Secret.")
            if len(ways) != 1:
                because = f"KubeVirt refuses an access credential with {len(ways)} ways into the guest."
                yield Refusal(f"{path}.{kind}.propagationMethod", "credential-way", because, "Name exactly one.")
            for way in ways:
                if CARRIERS.get(way, way) not in carried | {"qemuGuestAgent"}:
                    because = f"KubeVirt refuses {way} without a volume {CARRIERS[way]}."
                    yield Refusal(f"{path}.{kind}.propagationMethod", "credential-way", because, "Add the volume.")
            users = ways.get("qemuGuestAgent", {}).get("users", [])
            if kind == "sshPublicKey" and "qemuGuestAgent" in ways and len(set(users)) != max(len(users), 1):
                because = "KubeVirt refuses an SSH key for no user, or for one twice."
                yield Refusal(f"{path}.{kind}.propagationMethod", "credential-users", because, "Name the users.")
