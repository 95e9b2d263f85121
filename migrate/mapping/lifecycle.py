"""What follows when the guest ends: with KubeVirt the VM's run strategy decides."""

from __future__ import annotations

from collections.abc import Iterator

from migrate.mapping.signs import Context, Sign, View, default, flag

# KubeVirt pkg/virt-controller/watch/vm/vm.go syncRunStrategy: with which a guest that ended so is started again. With
# Halted no guest runs, and `virtctl start` puts Always in its place (pkg/virt-api/rest/lifecycle.go getRunningPatch).
AGAIN = {"on_poweroff": ("Halted", "Always"), "on_crash": ("Halted", "Always", "RerunOnFailure")}
ACTIONS = {
    "on_poweroff": ("destroy", "restart", "preserve", "rename-restart"),
    "on_crash": (
        *("destroy", "restart", "preserve", "rename-restart"),
        *("coredump-destroy", "coredump-restart", "preserve-running"),
    ),
}
STARTED = (
    "virtctl start puts the run strategy Always in place of Halted, which starts the guest again"
    " (pkg/virt-api/rest/lifecycle.go)."
)


def ended(view: View, context: Context) -> Iterator[Sign]:
    """Whether a guest that powered off or crashed starts again as it did; what else libvirt would do is lost."""
    strategy = context.site.run_strategy
    for leaf in view.owned:
        again = strategy in AGAIN[leaf.pattern]
        if leaf.value == ("restart" if again else "destroy"):
            follows = "starts the guest again" if again else "leaves the guest off"
            said = f"The run strategy {strategy} {follows} (pkg/virt-controller/watch/vm/vm.go)."
            yield default(leaf, STARTED if strategy == "Halted" else said)
        elif leaf.value == "destroy" and strategy == "Halted":
            yield flag(leaf, "started")
        else:
            yield flag(leaf, leaf.value if leaf.value in ACTIONS[leaf.pattern] else "unknown")
