#!/usr/bin/env bash
# The main job on a fleet of three: VMs of a libvirt of their own are planned, applied to a folder and verified.
# Usage: examples/fleet/run.sh DIR    (what an earlier run left in DIR is made anew)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# = 1 ] || { echo "say where to work: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
disks=$PWD/disks

step() { printf '\n== %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }
fill() { local text; text=$(cat "$1"); printf '%s\n' "${text//@DISKS@/"$disks"}"; }

step "Three shut-off VMs in a libvirt of their own"
rm -rf disks domains inventory plan claims
"$here/make-disks" "$disks"
uri=$("$here/../embedded-libvirt" "$PWD")
mkdir domains
for domain in "$here"/domains/*.xml; do
    fill "$domain" > "domains/$(basename "$domain")"
    virsh -q -c "$uri" define "domains/$(basename "$domain")"
done
fill "$here/site.yaml" > site.yaml
run kubevirt-migrate list libvirt "$uri"

step "Collect: their definitions and the facts of their disks, read-only"
run kubevirt-migrate collect libvirt "$uri" -d inventory

step "Plan: manifests, a ledger of every attribute, a report"
run kubevirt-migrate plan inventory --site site.yaml -d plan

step "Apply: every disk becomes a claim, below a folder that stands in for the cluster"
run kubevirt-migrate apply plan --directory claims

step "Verify: the claims are read again and compared with the evidence"
run kubevirt-migrate verify plan --directory claims

step "Done. Look at $PWD"
ls plan/*/vm.yaml plan/*/ledger.jsonl claims/*/*/disk.img
