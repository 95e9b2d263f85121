"""What each KubeVirt version and its gates can take, and strict validation against it."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from migrate.data import data_path
from migrate.model import Refused
from migrate.target.vocabulary import Field, Target, cast, gate_states, load, missing, needs, strict, target, versions

ROOT = Path(__file__).parent.parent.parent

VM = {
    "apiVersion": "kubevirt.io/v1",
    "kind": "VirtualMachine",
    "metadata": {"name": "web", "annotations": {"a/b": "c"}},
    "spec": {
        "runStrategy": "Halted",
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "domain": {
                    "cpu": {"sockets": 1, "cores": 2},
                    "memory": {"guest": "1Gi"},
                    "devices": {
                        "disks": [{"name": "vda", "disk": {"bus": "virtio"}}],
                        "interfaces": [{"name": "net0", "masquerade": {}}],
                    },
                },
                "networks": [{"name": "net0", "pod": {}}],
                "volumes": [{"name": "vda", "persistentVolumeClaim": {"claimName": "web-vda"}}],
            },
        },
    },
}


def with_domain(**domain):
    vm = copy.deepcopy(VM)
    vm["spec"]["template"]["spec"]["domain"].update(domain)
    return vm


def test_versions():
    assert versions() == ["1.3", "1.4", "1.5", "1.6", "1.7", "1.8", "1.9"]


@pytest.mark.parametrize("name", ["1.9", "v1.9", "v1.9.0", "1.9.2-rc.1"])
def test_a_version_is_its_minor_version(name):
    assert load(name) is load("1.9")


@pytest.mark.parametrize("name", ["1.2", "2.0", "latest", "../../1.9", ""])
def test_an_unknown_version_is_refused_with_the_known_ones(name):
    with pytest.raises(Refused, match=r"1\.3, 1\.4"):
        load(name)


@pytest.mark.parametrize(
    ("pattern", "field"),
    [
        ("domain.devices.disks.disk.bus", Field("string", (2,))),
        ("domain.devices.disks.bootOrder", Field("int32", (2,))),
        ("domain.devices.interfaces.masquerade", Field("object", (2,))),
        ("domain.cpu.features.name", Field("string", (2,))),
        ("domain.memory.guest", Field("quantity", ())),
        ("domain.features.hyperv.spinlocks.spinlocks", Field("int64", ())),
        ("nodeSelector", Field("string", (0,), maps=(0,))),
        ("VirtualMachine.metadata.annotations", Field("string", (2,), maps=(2,))),
        ("VirtualMachine.metadata.name", Field("string", ())),
        ("VirtualMachine.spec.template.spec.domain.cpu.cores", Field("int64", ())),
        ("PersistentVolumeClaim.spec.resources.requests.storage", Field("quantity", (0,))),
        ("PersistentVolumeClaim.spec.resources.requests", Field("quantity", (0, 3), maps=(3,))),
        ("Secret.stringData", Field("string", (0, 1), maps=(1,))),
        ("DataVolume.spec.source.blank", Field("object", (0,))),
        ("readinessProbe.httpGet.port", Field("int-or-string", ())),
    ],
)
def test_fields(pattern, field):
    assert load("1.9").field(pattern) == field
    assert load("1.9").lists(pattern) == field.lists


def test_values_of_an_enumeration():
    assert "ReadWriteOnce" in load("1.9").field("PersistentVolumeClaim.spec.accessModes").values


@pytest.mark.parametrize("pattern", ["domain.cpu.nope", "nope", "", "domain.memory.guest.x", "VirtualMachine.status"])
def test_what_is_not_there(pattern):
    assert load("1.9").field(pattern) is None
    assert load("1.9").lists(pattern) == ()


@pytest.mark.parametrize(
    ("type", "text", "value"),
    [
        ("boolean", "yes", True),
        ("boolean", "OFF", False),
        ("int32", "-7", -7),
        ("int64", "9223372036854775807", 2**63 - 1),
        ("quantity", "1.5Gi", "1.5Gi"),
        ("quantity", "12e6", "12e6"),
        ("string", "yes", "yes"),
        ("int-or-string", "80", 80),
        ("int-or-string", "http", "http"),
        ("number", "1.5", 1.5),
    ],
)
def test_cast(type, text, value):
    assert cast(type, text) == value


@pytest.mark.parametrize(
    ("type", "text"),
    [
        ("boolean", "1"),
        ("int32", "2147483648"),
        ("int32", "0x10"),
        ("int64", "9" * 5000),
        ("quantity", "1 Gi"),
        ("object", "x"),
        ("number", "x"),
    ],
)
def test_cast_refuses(type, text):
    with pytest.raises(ValueError):
        cast(type, text)


def test_gates_in_each_state():
    on, off = target("1.9", "+HostDevices,-PasstBinding"), target("1.9")
    assert off.enabled("PanicDevices") and target("1.9", "-PanicDevices").enabled("PanicDevices")
    assert not off.enabled("HostDevices") and on.enabled("HostDevices")
    assert off.enabled("PasstBinding") and not on.enabled("PasstBinding")
    assert not target("1.8").enabled("PasstBinding") and target("1.8", "+PasstBinding").enabled("PasstBinding")
    assert not target("1.9", "+Macvtap").enabled("Macvtap")
    assert target("1.9", "+HostDevices,-HostDevices").enabled("HostDevices")


def test_unknown_gates_are_refused_with_the_nearest_name():
    with pytest.raises(Refused, match="HostDevices"):
        target("1.9", "+HostDevice")
    with pytest.raises(Refused, match=r"\+HostDisk"):
        target("1.9", "HostDisk")


@pytest.mark.parametrize(
    ("path", "value", "on", "why"),
    [
        ("domain.devices.disks[vda].disk.bus", "virtio", "1.3", None),
        ("domain.devices.panicDevices[p].model", "isa", "1.5", "needs KubeVirt 1.6"),
        ("domain.devices.panicDevices[p].model", "isa", "1.6", "needs feature gate PanicDevices"),
        ("domain.devices.panicDevices[p].model", "isa", "1.9", None),
        ("domain.devices.interfaces[n].state", "down", "1.4", "needs KubeVirt 1.5"),
        ("domain.devices.interfaces[n].state", "absent", "1.4", None),
        ("domain.devices.interfaces[n].macvtap", {}, "1.9", "its feature gate Macvtap is discontinued"),
        ("domain.devices.interfaces[n].binding.name", "a", "1.4", "needs feature gate NetworkBindingPlugins"),
        ("domain.devices.interfaces[n].binding.name", "a", "1.5", None),
        ("domain.devices.tpm.persistent", True, "1.3", "needs feature gate VMPersistentState"),
        ("domain.devices.tpm.persistent", False, "1.3", None),
        ("domain.devices.hostDevices[gpu]", {}, "1.9", "needs feature gate HostDevices"),
        ("domain.nope", 1, "1.9", "no KubeVirt version known here has this field"),
        ("VirtualMachine.metadata.annotations[a.b/c]", "x", "1.3", None),
        ("PersistentVolumeClaim[vda].spec.accessModes[0]", "ReadWriteOnce", "1.3", None),
    ],
)
def test_missing(path, value, on, why):
    assert missing(path, value, target(on)) == why


def test_a_gate_switched_on_is_not_missing():
    assert missing("domain.devices.hostDevices[gpu].name", "gpu", target("1.9", "+HostDevices")) is None


def test_every_need_names_a_real_path_and_gate():
    for need in needs():
        assert any(load(version).field(need.path) for version in versions()), need
        assert need.gate or need.since
        assert need.gate is None or need.gate in gate_states()


@pytest.mark.parametrize("version", versions())
def test_a_plain_vm_is_strictly_valid(version):
    assert strict(VM, Target(version)) == []


@pytest.mark.parametrize(
    ("domain", "problem"),
    [
        ({"nope": 1}, "VirtualMachine.spec.template.spec.domain.nope: unknown field"),
        ({"cpu": {"cores": "2"}}, "domain.cpu.cores: '2' is no int64"),
        ({"cpu": {"cores": True}}, "domain.cpu.cores: True is no int64"),
        ({"cpu": {"sockets": 2**63}}, "is no int64"),
        ({"memory": {"guest": "much"}}, "domain.memory.guest: 'much' is no quantity"),
        ({"memory": "1Gi"}, "domain.memory: is not an object"),
        ({"devices": {"disks": {}}}, "domain.devices.disks: is not a list"),
        ({"devices": {"disks": [{"disk": {}}]}}, "domain.devices.disks[0].name: missing"),
        ({"devices": {"disks": [{"name": "vda", "bus": "ide"}]}}, "domain.devices.disks[vda].bus: unknown field"),
        ({"features": {"acpi": {"enabled": "yes"}}}, "domain.features.acpi.enabled: 'yes' is no boolean"),
    ],
)
def test_strict_finds(domain, problem):
    (found,) = strict(with_domain(**domain), Target("1.9"))
    assert problem in found


def test_strict_looks_into_metadata():
    vm = VM | {"metadata": {"name": "web", "annotations": {"a": 1}, "labels": [], "generation": "1"}}
    assert [problem.partition(": ")[0] for problem in strict(vm, Target("1.9"))] == [
        "VirtualMachine.metadata.annotations[a]",
        "VirtualMachine.metadata.labels",
        "VirtualMachine.metadata.generation",
    ]
    probe = copy.deepcopy(VM)
    probe["spec"]["template"]["spec"]["readinessProbe"] = {"httpGet": {"port": "http"}}
    assert strict(probe, Target("1.9")) == []


def test_strict_says_since_when():
    (found,) = strict(with_domain(rebootPolicy="Terminate"), Target("1.3"))
    assert found.endswith("unknown field, KubeVirt has it since 1.8")


def test_strict_knows_its_kinds():
    assert "kind" in strict({"kind": "Pod"}, Target("1.9"))[0]
    assert "apiVersion" in strict(VM | {"apiVersion": "v1"}, Target("1.9"))[0]
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "a"},
        "spec": {"accessModes": ["Never"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    assert "accessModes[0]: 'Never' is not one of" in strict(claim, Target("1.9"))[0]


def inline(types, kind):
    """A type of the vocabulary as a CRD has it: inline, with quantities as int-or-string."""
    if kind in types:
        fields = types[kind]
        return {
            "type": "object",
            "properties": {name.rstrip("!"): inline(types, inner) for name, inner in fields.items()},
            "required": [name[:-1] for name in fields if name.endswith("!")],
        }
    if kind[0] == "[":
        return {"type": "array", "items": inline(types, kind[1:-1])}
    if kind[0] == "{":
        return {"type": "object", "additionalProperties": inline(types, kind[1:-1])}
    if kind[0] == "=":
        return {"type": "string", "enum": kind[1:].split("|")}
    if kind == "any":
        return {"x-kubernetes-preserve-unknown-fields": True}
    if kind in ("quantity", "int-or-string"):
        return {"x-kubernetes-int-or-string": True} | ({"pattern": "^[0-9]"} if kind == "quantity" else {})
    return {"type": "integer", "format": kind} if kind.startswith("int") else {"type": kind}


def test_the_vocabulary_of_a_crd_is_that_of_the_schema(tmp_path):
    types = json.loads(data_path("mappings", "vocabulary", "kubevirt-1.9.json").read_text())
    schema = inline(types, "VirtualMachine") | {"description": "x"}
    crd = {
        "kind": "CustomResourceDefinition",
        "metadata": {"annotations": {"kubevirt.io/install-strategy-version": "v1.9.0"}},
        "spec": {
            "names": {"kind": "VirtualMachine"},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}],
        },
    }
    (tmp_path / "crd.yaml").write_text(yaml.safe_dump({"kind": "List", "items": [crd]}))
    script = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1]); import kubevirt_vocabulary as tool;"
        "tool.FOLDER = pathlib.Path(sys.argv[2]); tool.main(tool.FOLDER / 'crd.yaml', None)"
    )
    subprocess.run([sys.executable, "-c", script, ROOT / "tools", tmp_path], check=True, cwd=ROOT)
    written = json.loads((tmp_path / "kubevirt-1.9.json").read_text())
    assert expand(written, "VirtualMachine") == expand(types, "VirtualMachine")
    assert expand(written, "PersistentVolumeClaim") == expand(types, "PersistentVolumeClaim")


def expand(types, kind):
    """A type with all below it spelled out, so that names of types do not matter."""
    inner = kind.strip("[]{}")
    if inner not in types:
        return kind
    return [kind.replace(inner, ""), {name: expand(types, below) for name, below in types[inner].items()}]
