#!/usr/bin/env bash
# One VM of a libvirt of its own, in one command. Usage: examples/one-vm/run.sh DIR
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# = 1 ] || { echo "say where to work: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
rm -rf migration claims

qemu-img create -q -f qcow2 app-1.qcow2 2G
head -c 1M /dev/urandom > data
qemu-io -f qcow2 -c "write -q -s data 0 1M" -c "write -q -s data 1G 1M" app-1.qcow2
text=$(cat "$here/app-1.xml")
printf '%s\n' "${text//@DISK@/"$PWD/app-1.qcow2"}" > app-1.xml
uri=$("$here/../embedded-libvirt" "$PWD")
virsh -q -c "$uri" define app-1.xml

kubevirt-migrate run libvirt "$uri" --select app-1 --site "$here/site.yaml" --directory claims
