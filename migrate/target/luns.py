"""A LUN that is handed over as it is: the PersistentVolume by which nodes reach it, made for one claim."""

from __future__ import annotations

import json
from typing import Any

from migrate.decisions import Lun
from migrate.model import short_hash

Object = dict[str, Any]
HOSTNAME = "kubernetes.io/hostname"


def volume_name(lun: Lun) -> str:
    """The name of a LUN's volume: one name for one way to one LUN, so that no cluster has it twice."""
    return f"lun-{short_hash(json.dumps(lun.source, sort_keys=True, default=str))}"


def volume(lun: Lun, claim: Object) -> Object:
    """The volume of a LUN, kept when its claim goes; no other claim gets it."""
    metadata, spec = claim["metadata"], claim["spec"]
    labels = {"labels": metadata["labels"]} if metadata.get("labels") else {}
    made: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": spec["volumeName"], **labels},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "volumeMode": spec["volumeMode"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
            },
            **lun.source,
        },
    }
    if lun.nodes:
        here = {"key": HOSTNAME, "operator": "In", "values": list(lun.nodes)}
        made["spec"]["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}}
    return made
