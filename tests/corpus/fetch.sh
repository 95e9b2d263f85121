#!/usr/bin/env bash
# Unpacks the domain XML of the tests in Debian's libvirt source package below .cache/corpus/, and prints the folder.
# The package comes from the system's own mirrors; lists and files stay in .cache/, nothing of the system is changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

say() { echo "corpus: $*" >&2; }

home=$PWD/.cache/corpus
if [ ! -e "$home/complete" ]; then
    command -v apt-get >/dev/null || {
        say "no apt-get here; unpack a libvirt source archive into $home and touch $home/complete"
        exit 2
    }
    rm -rf "$home"
    mkdir -p "$home"/{sources.d,lists/partial,cache/archives/partial,package}
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
        case $list in
            *.sources) sed 's/^Types:.*/Types: deb-src/' "$list" > "$home/sources.d/${list##*/}" ;;
            *.list) sed -n 's/^deb /deb-src /p' "$list" 2>/dev/null > "$home/sources.d/${list##*/}" || true ;;
        esac
    done
    apt=(apt-get -qq -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$home/sources.d" -o "Dir::State::lists=$home/lists"
        -o "Dir::Cache=$home/cache" -o "APT::Sandbox::User=root")
    say "fetching Debian's libvirt source package"
    "${apt[@]}" update
    (cd "$home/package" && "${apt[@]}" source --download-only libvirt)
    tar -xf "$home"/package/libvirt_*.orig.tar.[gx]z -C "$home" --wildcards '*/tests/*.xml'
    rm -rf "$home"/{lists,cache,sources.d}
    touch "$home/complete"
fi
echo "$home"
