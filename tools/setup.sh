#!/usr/bin/env bash
# Installs what `make demo` or `make test` needs: Debian packages, then a virtual environment in the checkout.
# A second run finds everything there and only says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 2; }

build=(gcc libc6-dev pkg-config libvirt-dev python3-dev python3-venv ca-certificates)
libvirt=(libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils swtpm swtpm-tools libnbd0)
guest=(busybox-static cpio dosfstools mtools syslinux)
kubernetes=(dpkg-dev etcd-server openssl)
# Debian has no package with a Kubernetes API server; these build one once.
[ -x .cache/kube-apiserver ] || kubernetes+=(golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev)

purpose=${1:-}
case $purpose in
    demo) packages=("${build[@]}" "${libvirt[@]}"); extras=libvirt; commands="virsh qemu-img qemu-nbd qemu-system-x86_64 swtpm setpriv" ;;
    test)
        packages=("${build[@]}" "${libvirt[@]}" "${guest[@]}" "${kubernetes[@]}" git nbdkit libnbd-bin e2fsprogs xfsprogs mount openssh-client openssh-server procps)
        extras=test,libvirt
        commands="virsh libvirtd qemu-img qemu-nbd qemu-system-x86_64 swtpm setpriv nbdkit syslinux mcopy mkfs.fat mkfs.ext4 mkfs.xfs mount cpio busybox etcd openssl ssh sshd ps"
        ;;
    *) die "say what for: tools/setup.sh demo|test" ;;
esac

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
    local missing=()
    for package in "${packages[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    if [ ${#missing[@]} = 0 ]; then
        say "Debian packages: all ${#packages[@]} are installed"
        return
    fi
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        die "not root and no sudo; as root run: apt-get install --no-install-recommends ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}")
    # Package lists may be absent (containers) or name versions that the mirror has dropped: both mend with an update.
    if ! compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null || ! as_root "${install[@]}" >/dev/null 2>&1; then
        as_root apt-get -qq update
        as_root "${install[@]}" >/dev/null
    fi
}

check_commands() {
    local missing=()
    for command in $commands; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null || missing+=("$command")
    done
    if [ ${#missing[@]} != 0 ]; then
        die "no apt-get here, and these commands are missing: ${missing[*]}. Install what Debian calls: ${packages[*]}"
    fi
    say "no apt-get here; the commands that are needed are there"
}

# The tiny guest of the tests boots this kernel; it is unpacked from its package and not installed.
fetch_kernel() {
    compgen -G '.cache/linux-image-*.deb' >/dev/null && return
    command -v apt-get >/dev/null ||
        die "no apt-get here; put a Debian package linux-image-*-cloud-amd64_*.deb into .cache/ for the guest that boots"
    mkdir -p .cache
    if ! download_kernel 2>/dev/null; then
        as_root apt-get -qq update
        download_kernel
    fi
    say "fetched $(basename .cache/linux-image-*.deb)"
}

download_kernel() {
    local name
    name=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
    [ -n "$name" ] && (cd .cache && apt-get -qq download "$name")
}

# libvirt's QEMU driver, when run by root, wants this account and group to exist; Debian makes them in
# libvirt-daemon-system only, which brings systemd along.
add_account() {
    [ "$(id -u)" = 0 ] && command -v useradd >/dev/null || return 0
    local group
    for group in kvm libvirt-qemu; do
        getent group "$group" >/dev/null || groupadd --system "$group"
    done
    getent passwd libvirt-qemu >/dev/null && return
    say "adding the system account libvirt-qemu, which libvirt run by root asks for"
    useradd --system --no-create-home --home-dir /var/lib/libvirt --shell /usr/sbin/nologin \
        --gid kvm --groups libvirt-qemu libvirt-qemu
}

# The distribution's Python comes first: it is compiled with profiles, which one made from source by hand rarely is, and
# translates a fifth more VMs a second.
find_python() {
    for python in ${PYTHON:-} /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    die "no Python 3.11 or newer with the venv module; install one and name it: PYTHON=/path/to/python3.12 make $purpose"
}

make_environment() {
    local stamp=.venv/.installed-$purpose wanted
    wanted="$PWD $(sha256sum < pyproject.toml)"
    if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        say "virtual environment: .venv is up to date"
        return
    fi
    if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        local python
        python=$(find_python)
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    say "installing kubevirt-migrate[$extras] into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
    echo "$wanted" > "$stamp"
}

if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then install_packages; else check_commands; fi
[ "$purpose" = demo ] || fetch_kernel
[ "$purpose" = demo ] || tools/build-kube-apiserver.sh
add_account
make_environment
