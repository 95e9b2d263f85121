"""CustomResourceDefinitions of what a cluster with KubeVirt, CDI and Multus has, with schemas from our vocabularies."""

from __future__ import annotations

from typing import Any

from migrate.target import vocabulary

Object = dict[str, Any]
OPEN: Object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
INT_OR_STRING: Object = {"x-kubernetes-int-or-string": True}
SCALARS: dict[str, Object] = {
    "string": {"type": "string"},
    "boolean": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "number": {"type": "number"},
    "quantity": INT_OR_STRING,
    "int-or-string": INT_OR_STRING,
    "any": {"x-kubernetes-preserve-unknown-fields": True},
}
# Group, versions (the last one is stored), kind, plural, whether it has namespaces.
OTHERS = (
    ("kubevirt.io", ("v1",), "KubeVirt", "kubevirts", True),
    ("kubevirt.io", ("v1",), "VirtualMachineInstance", "virtualmachineinstances", True),
    ("instancetype.kubevirt.io", ("v1beta1",), "VirtualMachineInstancetype", "virtualmachineinstancetypes", True),
    (
        "instancetype.kubevirt.io",
        ("v1beta1",),
        "VirtualMachineClusterInstancetype",
        "virtualmachineclusterinstancetypes",
        False,
    ),
    ("instancetype.kubevirt.io", ("v1beta1",), "VirtualMachinePreference", "virtualmachinepreferences", True),
    (
        "instancetype.kubevirt.io",
        ("v1beta1",),
        "VirtualMachineClusterPreference",
        "virtualmachineclusterpreferences",
        False,
    ),
    ("cdi.kubevirt.io", ("v1beta1",), "StorageProfile", "storageprofiles", False),
    ("cdi.kubevirt.io", ("v1beta1",), "CDIConfig", "cdiconfigs", False),
    ("cdi.kubevirt.io", ("v1beta1",), "CDI", "cdis", False),
    ("k8s.cni.cncf.io", ("v1",), "NetworkAttachmentDefinition", "network-attachment-definitions", True),
)


def all_of(version: str) -> list[Object]:
    """The definitions of a cluster with that KubeVirt version."""
    types = vocabulary.load(version)
    return [
        _definition("kubevirt.io", ("v1",), "VirtualMachine", "virtualmachines", True, root(types, "VirtualMachine")),
        _definition("cdi.kubevirt.io", ("v1beta1",), "DataVolume", "datavolumes", True, root(types, "DataVolume")),
        *(_definition(*row, OPEN) for row in OTHERS),
    ]


def root(types: vocabulary.Vocabulary, kind: str) -> Object:
    """The schema of a kind; the API server knows metadata and takes any status."""
    schema = _object(types, kind, ())
    schema["properties"] |= {"metadata": {"type": "object"}, "status": OPEN}
    return schema


def _object(types: vocabulary.Vocabulary, name: str, above: tuple[str, ...]) -> Object:
    fields = {field: _schema(types, kind, (*above, name)) for field, kind in types.types[name].items()}
    required = types.required[name]
    return {"type": "object", "properties": fields} | ({"required": required} if required else {})


def _schema(types: vocabulary.Vocabulary, kind: str, above: tuple[str, ...]) -> Object:
    """The structural schema of a type expression of the vocabulary; what contains itself is left open."""
    if kind in types.types:
        return OPEN if kind in above else _object(types, kind, above)
    if kind[0] == "[":
        return {"type": "array", "items": _schema(types, kind[1:-1], above)}
    if kind[0] == "{":
        return {"type": "object", "additionalProperties": _schema(types, kind[1:-1], above)}
    if kind[0] == "=":
        return {"type": "string", "enum": kind[1:].split("|")}
    return SCALARS[kind]


def _definition(
    group: str, versions: tuple[str, ...], kind: str, plural: str, namespaced: bool, schema: Object
) -> Object:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced" if namespaced else "Cluster",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": version == versions[-1],
                    "schema": {"openAPIV3Schema": schema},
                }
                for version in versions
            ],
        },
    }
