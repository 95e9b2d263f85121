#!/usr/bin/env bash
# Unpacks what every libvirt release that Debian offers says of domains below .cache/libvirt/VERSION/: schemas/ from its
# packages, tests/ (the XML of libvirt's own tests) from its source package. Prints the folders, the oldest release first.
# All comes from the system's own Debian mirror; lists and files stay in .cache/, nothing of the system is changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "libvirt-releases: $*" >&2; }

home=$PWD/.cache/libvirt
if [ ! -e "$home/complete" ]; then
    mirror=$(. /etc/os-release && apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 2>/dev/null |
        awk -v release="${VERSION_CODENAME:-}" '$1 == release && $2 == "main" { print $3; exit }') || true
    [ -n "$mirror" ] || {
        say "no Debian mirror in apt's sources; put the files into $home/VERSION/schemas and tests, and touch $home/complete"
        exit 2
    }
    rm -rf "$home"
    mkdir -p "$home"/apt/{lists/partial,cache/archives/partial,files}
    for suite in oldoldstable oldstable stable unstable; do
        printf 'deb %s %s main\ndeb-src %s %s main\n' "$mirror" "$suite" "$mirror" "$suite"
    done > "$home/apt/sources.list"
    options=(-qq -o "Dir::Etc::sourcelist=$home/apt/sources.list" -o "Dir::Etc::sourceparts=/dev/null"
        -o "Dir::State::lists=$home/apt/lists" -o "Dir::Cache=$home/apt/cache" -o "APT::Sandbox::User=root")
    fetch() { (cd "$home/apt/files" && apt-get "${options[@]}" "$@") || say "the mirror lacks files of ${*: -1}"; }

    say "fetching libvirt's packages"
    apt-get "${options[@]}" update
    while IFS=' |' read -r package version _; do
        folder=$home/${version%%-*}
        mkdir -p "$folder/schemas"
        if [ "$package" = libvirt ]; then
            fetch source --download-only "libvirt=$version"
            for archive in "$home/apt/files/libvirt_${version%%-*}".orig.tar.[gx]z; do
                [ ! -e "$archive" ] || tar -xf "$archive" -C "$folder" --strip-components=1 --wildcards '*/tests/*.xml'
            done
        else
            fetch download "$package=$version"
            dpkg-deb --extract "$home/apt/files/${package}_$version"_*.deb "$home/apt/$package-$version"
            cp "$home/apt/$package-$version"/usr/share/libvirt/schemas/*.rng "$folder/schemas" 2> /dev/null || true
        fi
    done < <(apt-cache "${options[@]}" madison libvirt libvirt0 libvirt-common | sort -u)
    rm -rf "$home/apt"
    touch "$home/complete"
fi
find "$home" -mindepth 1 -maxdepth 1 -type d | sort -V
