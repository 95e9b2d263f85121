"""Writes mappings/vocabulary/kubevirt-X.Y.json: every field and type of the objects that a plan writes.

Usage: python tools/kubevirt_vocabulary.py FROM [X.Y], where FROM is
- a JSON schema of KubeVirt (`definitions`, and the version under `kubevirt`), or a folder of `schema-v*.json` with
  `feature-gates.json` (gate -> version -> state), or
- what `kubectl get crd virtualmachines.kubevirt.io -o yaml` (or `-o json`) prints; X.Y where its labels lack it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from migrate.data import data_path

OLDEST = (1, 3)
FOLDER = data_path("mappings", "vocabulary")

# Kubernetes' own fields, the same in every version.
HEAD = {"apiVersion!": "string", "kind!": "string", "metadata!": "ObjectMeta"}
KEPT = {
    "ObjectMeta": {
        "annotations": "{string}",
        "creationTimestamp": "any",
        "deletionGracePeriodSeconds": "int64",
        "deletionTimestamp": "any",
        "finalizers": "[string]",
        "generateName": "string",
        "generation": "int64",
        "labels": "{string}",
        "managedFields": "[any]",
        "name": "string",
        "namespace": "string",
        "ownerReferences": "[OwnerReference]",
        "resourceVersion": "string",
        "selfLink": "string",
        "uid": "string",
    },
    "OwnerReference": {
        "apiVersion!": "string",
        "blockOwnerDeletion": "boolean",
        "controller": "boolean",
        "kind!": "string",
        "name!": "string",
        "uid!": "string",
    },
    "Secret": HEAD | {"data": "{string}", "immutable": "boolean", "stringData": "{string}", "type": "string"},
}
ROOTS = ("VirtualMachine", "DataVolume", "PersistentVolumeClaim")


class Types:
    """The types found so far, by name: {field, with `!` where required: type}."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self.definitions = definitions
        self.table: dict[str, dict[str, str]] = {}
        self.named: dict[str, str] = {}

    def of(self, schema: dict[str, Any], hint: str) -> str:
        """The type expression of a schema; objects with fields are put into the table, named by the hint."""
        if "$ref" in schema:
            return self.of_ref(schema["$ref"].removeprefix("#/definitions/"))
        kind = schema.get("type")
        if schema.get("x-kubernetes-int-or-string"):
            # In a CRD a quantity is an int-or-string with a pattern.
            return "quantity" if "pattern" in schema else "int-or-string"
        if isinstance(kind, list):
            return "any" if "null" in kind else "int-or-string"
        if schema.get("x-kubernetes-preserve-unknown-fields"):
            return "any"
        if kind == "array":
            return f"[{self.of(schema['items'], hint.removesuffix('s'))}]"
        if kind == "object" and "additionalProperties" in schema:
            return f"{{{self.of(schema['additionalProperties'], hint)}}}"
        if kind == "object":
            return self.put(hint, self.fields(schema))
        if "enum" in schema:
            return "=" + "|".join(sorted(schema["enum"]))
        return schema["format"] if kind == "integer" else str(kind)

    def of_ref(self, ref: str) -> str:
        """The type that a definition becomes; it is named by the last part of the definition's name."""
        short = ref.rpartition(".")[2]
        if short in KEPT:
            return short
        if short == "Quantity":
            return "quantity"
        if ref not in self.named:
            taken = any(name.endswith("." + short) and name != ref for name in self.definitions)
            self.named[ref] = ".".join(ref.split(".")[-2:]) if taken and not ref.startswith("v1.") else short
            schema = self.definitions[ref]
            if schema.get("type") != "object":
                self.named[ref] = self.of(schema, short)
            else:
                self.table[self.named[ref]] = self.fields(schema)
        return self.named[ref]

    def put(self, hint: str, fields: dict[str, str]) -> str:
        """Puts an object without a name of its own into the table; equal ones with one hint are one type."""
        name, count = hint, 1
        while name in (*KEPT, *ROOTS) or self.table.get(name, fields) != fields:
            count += 1
            name = f"{hint}{count}"
        self.table[name] = fields
        return name

    def fields(self, schema: dict[str, Any]) -> dict[str, str]:
        """The fields of an object, without `status`, with `!` after those that must be there."""
        required = schema.get("required", [])
        return {
            # CRDs hold no fields of metadata.
            name + ("!" if name in required else ""): "ObjectMeta"
            if name == "metadata"
            else self.of(inner, title(name))
            for name, inner in sorted(schema.get("properties", {}).items())
            if name != "status"
        }


def vocabulary(types: Types, spec: str) -> dict[str, dict[str, str]]:
    """The types reachable from the kinds we write, which all lie below a VirtualMachine's spec."""
    data_volume = types.table[types.table[spec]["dataVolumeTemplates"].strip("[]")]["spec!"]
    specs = zip(ROOTS, (spec, data_volume, types.table[data_volume]["pvc"]), strict=True)
    table = types.table | KEPT | {kind: HEAD | {"spec!": below} for kind, below in specs}
    wanted, found = ["Secret", *ROOTS], set()
    while wanted:
        name = wanted.pop()
        if name in table and name not in found:
            found.add(name)
            wanted += [kind.strip("[]{}") for kind in table[name].values()]
    return {name: table[name] for name in sorted(found)}


def title(name: str) -> str:
    """The name with a capital first letter."""
    return name[:1].upper() + name[1:]


def minor(version: str) -> str:
    """`1.9` of `v1.9.0`."""
    return ".".join(re.findall(r"\d+", version)[:2])


def from_schema(document: dict[str, Any]) -> tuple[str, dict[str, dict[str, str]]]:
    """Version and types of a JSON schema."""
    types = Types(document["definitions"])
    spec = types.of_ref("v1.VirtualMachineSpec")
    return minor(document["kubevirt"]), vocabulary(types, spec)


def from_crd(document: dict[str, Any], version: str | None) -> tuple[str, dict[str, dict[str, str]]]:
    """Version and types of the CRD of VirtualMachine, alone or in a list."""
    crds = document.get("items", [document])
    (crd,) = (crd for crd in crds if crd["spec"]["names"]["kind"] == "VirtualMachine")
    metadata = crd["metadata"]
    notes = metadata.get("labels", {}) | metadata.get("annotations", {})
    version = version or notes.get("kubevirt.io/install-strategy-version") or notes["app.kubernetes.io/version"]
    (served,) = (each for each in crd["spec"]["versions"] if each["name"] == "v1")
    types = Types({})
    properties = served["schema"]["openAPIV3Schema"]["properties"]
    return minor(version), vocabulary(types, types.of(properties["spec"], "VirtualMachineSpec"))


def lines(table: dict[str, Any]) -> str:
    """JSON with one line an entry."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in table.items()) + "\n}\n"


def gates(states: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The gates with their state by version, from the oldest version we know."""
    known = {
        gate: {version: state for version, state in by.items() if tuple(map(int, version.split("."))) >= OLDEST}
        for gate, by in sorted(states.items())
    }
    return {gate: by for gate, by in known.items() if by}


def write(version: str, table: dict[str, dict[str, str]]) -> None:
    """Writes the file of one version, unless it is older than the oldest we know."""
    if tuple(map(int, version.split("."))) >= OLDEST:
        (FOLDER / f"kubevirt-{version}.json").write_text(lines(table))
        print(f"kubevirt-{version}.json: {len(table)} types")


def main(source: Path, version: str | None) -> None:
    """Writes the files of one source."""
    for path in sorted(source.glob("schema-v*.json")) if source.is_dir() else [source]:
        document = (
            yaml.safe_load(path.read_text()) if path.suffix in (".yaml", ".yml") else json.loads(path.read_text())
        )
        write(*(from_schema(document) if "definitions" in document else from_crd(document, version)))
    if (source / "feature-gates.json").is_file():
        found = gates(json.loads((source / "feature-gates.json").read_text()))
        (FOLDER / "feature-gates.json").write_text(lines(found))
        print(f"feature-gates.json: {len(found)} gates")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
