"""What the VM asks of its pod: where it runs, how it is probed, its DNS and its account.

vmi-create-admitter.go and validate-k8s-utils.go; tolerations and node selectors are refused by the API server when the
pod is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address

from migrate.target.admission.spec import (
    LABEL_VALUE,
    SUBDOMAIN,
    Manifest,
    Refusal,
    Spec,
    is_label,
    qualified,
)

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
# Operators of selectors with the least and the most values that they take.
MANY = 2**31
OF_LABELS = {"In": (1, MANY), "NotIn": (1, MANY), "Exists": (0, 0), "DoesNotExist": (0, 0)}
OF_NODES = OF_LABELS | {"Gt": (1, 1), "Lt": (1, 1)}
OF_FIELDS = {"In": (1, 1), "NotIn": (1, 1)}
CORRECT = "Correct it, or leave it out."
HANDLERS = ("httpGet", "tcpSocket", "exec", "guestAgentPing")
# Annotations with the feature gate that they need.
GATED = {
    "hooks.kubevirt.io/hookSidecars": "Sidecar",
    "kubevirt.io/ignitiondata": "ExperimentalIgnitionSupport",
}


def of_scheduling(every: Spec) -> Iterator[Refusal]:
    """Affinity, spreading, node selector and tolerations."""
    affinity = every.spec.get("affinity", {})
    problems = [*_node_affinity(affinity.get("nodeAffinity", {}), "affinity.nodeAffinity")]
    for kind in ("podAffinity", "podAntiAffinity"):
        problems += _pod_affinity(affinity.get(kind, {}), f"affinity.{kind}")
    for path, wrong in problems:
        yield Refusal(path, "affinity", f"KubeVirt refuses affinity {wrong}.", CORRECT)
    yield from _spread(every.spec.get("topologySpreadConstraints", []))
    for key, value in every.spec.get("nodeSelector", {}).items():
        if not qualified(key) or not LABEL_VALUE.fullmatch(value):
            because = "A VM whose node selector is no label never starts."
            yield Refusal(f"nodeSelector[{key}]", "node-selector", because, CORRECT)
    for position, toleration in enumerate(every.spec.get("tolerations", [])):
        if wrong := _toleration(toleration):
            because = f"A VM with a toleration {wrong} never starts."
            yield Refusal(f"tolerations[{position}]", "toleration", because, CORRECT)


def _node_affinity(affinity: Manifest, path: str) -> Iterator[tuple[str, str]]:
    required = affinity.get(REQUIRED)
    if required is not None and not required.get("nodeSelectorTerms"):
        yield f"{path}.{REQUIRED}.nodeSelectorTerms", "to nodes without a term"
    terms = (required or {}).get("nodeSelectorTerms", [])
    for preferred in affinity.get(PREFERRED, []):
        terms = [*terms, preferred.get("preference", {})]
        if not 0 < preferred.get("weight", 0) <= 100:
            yield f"{path}.{PREFERRED}", "of another weight than 1 to 100"
    for term in terms:
        for requirement in term.get("matchExpressions", []):
            if not _selects(requirement, OF_NODES) or not qualified(requirement.get("key", "")):
                yield path, "to a label that is none, or with an operator that does not fit its values"
        for requirement in term.get("matchFields", []):
            named = requirement.get("key") == "metadata.name"
            values = requirement.get("values", [])
            if not named or not _selects(requirement, OF_FIELDS) or not all(map(SUBDOMAIN.fullmatch, values)):
                yield path, "to another field than one metadata.name"


def _pod_affinity(affinity: Manifest, path: str) -> Iterator[tuple[str, str]]:
    preferred = affinity.get(PREFERRED, [])
    if not all(0 < each.get("weight", 0) <= 100 for each in preferred):
        yield f"{path}.{PREFERRED}", "of another weight than 1 to 100"
    for term in [*affinity.get(REQUIRED, []), *(each.get("podAffinityTerm", {}) for each in preferred)]:
        if not qualified(term.get("topologyKey", "")):
            yield path, "without a topologyKey that is a label"
        if not all(map(is_label, term.get("namespaces", []))):
            yield path, "to a namespace whose name is no DNS label"
        if not all(_is_selector(term.get(key)) for key in ("labelSelector", "namespaceSelector")):
            yield path, "with a selector that is none"


def _spread(constraints: list[Manifest]) -> Iterator[Refusal]:
    seen: set[tuple[str, str]] = set()
    for position, constraint in enumerate(constraints):
        path = f"topologySpreadConstraints[{position}]"
        key, action = constraint.get("topologyKey", ""), constraint.get("whenUnsatisfiable", "")
        if (
            constraint.get("maxSkew", 0) <= 0
            or not qualified(key)
            or not _is_selector(constraint.get("labelSelector"))
            or (key, action) in seen
        ):
            because = (
                "KubeVirt refuses spreading without a maxSkew above zero or a topologyKey that is a label, with a "
                "selector that is none, or twice for one topologyKey."
            )
            yield Refusal(path, "topology-spread", because, CORRECT)
        seen.add((key, action))
        if "minDomains" in constraint and (constraint["minDomains"] <= 0 or action != "DoNotSchedule"):
            because = "A VM with minDomains below 1, or without DoNotSchedule, never starts."
            yield Refusal(f"{path}.minDomains", "topology-spread", because, "Leave minDomains out.")


def _is_selector(selector: Manifest | None) -> bool:
    """Whether a label selector, which can be left out, is well formed."""
    selector = selector or {}
    labels = selector.get("matchLabels", {}).items()
    return all(qualified(key) and LABEL_VALUE.fullmatch(value) for key, value in labels) and all(
        qualified(each.get("key", ""))
        and _selects(each, OF_LABELS)
        and all(map(LABEL_VALUE.fullmatch, each.get("values", [])))
        for each in selector.get("matchExpressions", [])
    )


def _selects(requirement: Manifest, operators: dict[str, tuple[int, int]]) -> bool:
    """Whether a requirement has a known operator and as many values as that takes."""
    least, most = operators.get(requirement.get("operator", ""), (1, 0))
    return least <= len(requirement.get("values", [])) <= most


def _toleration(toleration: Manifest) -> str:
    """What is wrong with a toleration, empty where nothing is."""
    key, exists = toleration.get("key", ""), toleration.get("operator") == "Exists"
    if key and not qualified(key):
        return "of a key that is no label"
    if not key and not exists:
        return "without a key, which needs the operator Exists"
    if exists and toleration.get("value"):
        return "with a value, which the operator Exists does not take"
    if not exists and not LABEL_VALUE.fullmatch(toleration.get("value", "")):
        return "of a value that is no label's"
    if "tolerationSeconds" in toleration and toleration.get("effect") != "NoExecute":
        return "with seconds, which need the effect NoExecute"
    return ""


def of_probes(every: Spec) -> Iterator[Refusal]:
    """Probes of the guest."""
    for name in ("livenessProbe", "readinessProbe"):
        probe = every.spec.get(name)
        if probe is None:
            continue
        handlers = [handler for handler in HANDLERS if probe.get(handler) is not None]
        if len(handlers) != 1:
            because = f"KubeVirt refuses a probe with {len(handlers)} ways to ask the guest."
            yield Refusal(name, "probe", because, f"Give it exactly one of {', '.join(HANDLERS)}.")
        if {"httpGet", "tcpSocket"} & set(handlers) and not every.on_pod_network:
            because = "KubeVirt refuses to probe a guest by network that is not on the pod network."
            yield Refusal(name, "probe-network", because, "Use exec or guestAgentPing.")
    if every.spec.get("startStrategy") == "Paused" and "livenessProbe" in every.spec:
        because = "KubeVirt refuses a liveness probe of a VM that starts paused."
        yield Refusal("livenessProbe", "probe-paused", because, "Leave one of them out.")


def of_dns(every: Spec) -> Iterator[Refusal]:
    """DNS of the pod, as Kubernetes limits it."""
    config = every.spec.get("dnsConfig", {})
    servers, searches = config.get("nameservers", []), config.get("searches", [])
    if every.spec.get("dnsPolicy") == "None" and not servers:
        because = "KubeVirt refuses DNS policy None without a name server."
        yield Refusal("dnsConfig.nameservers", "dns-servers", because, "Name a server in dnsConfig.")
    if len(servers) > 3 or not all(map(_is_address, servers)):
        because = "KubeVirt refuses more than 3 name servers, and such as are no IP address."
        yield Refusal("dnsConfig.nameservers", "dns-servers", because, CORRECT)
    if len(searches) > 6 or len(" ".join(searches)) > 256 or not all(map(SUBDOMAIN.fullmatch, searches)):
        because = (
            "KubeVirt refuses more than 6 search domains, over 256 characters of them, and such as are no DNS name."
        )
        yield Refusal("dnsConfig.searches", "dns-searches", because, CORRECT)
    if not all(option.get("name") for option in config.get("options", [])):
        yield Refusal("dnsConfig.options", "dns-options", "KubeVirt refuses a DNS option without a name.", CORRECT)


def _is_address(text: str) -> bool:
    try:
        # Kubernetes takes addresses with leading zeroes.
        return "%" not in text and bool(ip_address(re.sub(r"\b0+(?=[0-9])", "", text)))
    except ValueError:
        return False


def of_pod(every: Spec) -> Iterator[Refusal]:
    """The service account, and annotations that need a feature gate."""
    account = every.spec.get("serviceAccountName")
    mounted = [
        volume["serviceAccount"].get("serviceAccountName") for volume in every.volumes if "serviceAccount" in volume
    ]
    if account and any(name != account for name in mounted):
        because = "KubeVirt refuses a service account other than that of the VM's volume."
        yield Refusal("serviceAccountName", "service-account", because, "Name the same account in both.")
    annotations = every.vm.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations", {})
    for key, gate in GATED.items():
        if annotations.get(key) and not every.target.enabled(gate):
            path = f"VirtualMachine.spec.template.metadata.annotations[{key}]"
            because = f"KubeVirt {every.target.kubevirt} refuses this annotation without feature gate {gate}."
            remedy = "Switch the feature gate on, or leave the annotation out."
            yield Refusal(path, "feature-gate", because, remedy)
