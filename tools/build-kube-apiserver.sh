#!/usr/bin/env bash
# Builds the Kubernetes API server that the tests run: .cache/kube-apiserver, from Debian 12's source package `kubernetes`
# with Debian's Go. Takes 3 to 7 minutes on two cores and 4 GB of disk meanwhile; a second run finds it and says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "kube-apiserver: $*" >&2; }
die() { say "$*"; exit 2; }

out=$PWD/.cache/kube-apiserver
work=$PWD/.cache/kube-apiserver.build
tree=$work/src/k8s.io/kubernetes
export GOROOT=/usr/lib/go-1.19 GOPATH=$work GOCACHE=$work/cache GOTMPDIR=$work GO111MODULE=off GOFLAGS='' CGO_ENABLED=0
export PATH=$GOROOT/bin:$PATH

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

mirrors() {
    local key=/usr/share/keyrings/debian-archive-keyring.gpg
    apt-get indextargets 'Created-By: Packages' 'Origin: Debian' 'Codename: bookworm' 'Component: main' \
        --format "deb-src [signed-by=$key] \$(REPO_URI) \$(CODENAME) \$(COMPONENT)" | sort -u > "$work/sources.list"
    [ -s "$work/sources.list" ]
}

# The machine's own Debian mirror, asked for sources too; apt keeps what it learns in the work folder and verifies it.
apt_sources() {
    # Without package lists, as in containers, apt knows no mirror by its name.
    mirrors || { as_root apt-get -qq update && mirrors; } || die "apt knows no Debian 12 mirror (component main) here"
    mkdir -p "$work/lists/partial"
    options=(-qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    (cd "$work" && apt-get "${options[@]}" source --download-only kubernetes)
}

unpack() {
    rm -rf "$tree" "$work"/go-build*
    mkdir -p "$(dirname "$tree")"
    # apt verified the archive's hashes against the signed index.
    dpkg-source --no-check -x "$work"/kubernetes_*.dsc "$tree" > /dev/null
}

# This release is older than Go 1.18; two of its vendored libraries do not work with what came later.
mend() {
    local reflect2=$tree/vendor/github.com/modern-go/reflect2
    # reflect2 1.0.1 walks maps by the runtime's layout before Go 1.18.
    rm -f "$reflect2"/*.go "$reflect2"/*.s
    cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} "$reflect2"
    # Since Go 1.16 the comparison with a zero value is true for "", which then passes for null in validation.
    local validate=$tree/vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go
    perl -0pi -e 's/data == nil \|\| reflect\.DeepEqual\(reflect\.Zero\([^\n]*?\), reflect\.ValueOf\(data\)\)/data == nil/ or die' "$validate"
}

# The server does not compile without its generated OpenAPI definitions, which the package leaves out.
generate() {
    local marked
    go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    # The folders of vendor/k8s.io are links; the slash makes grep go in.
    marked=$(grep -rl --include='*.go' '+k8s:openapi-gen=' pkg cmd vendor/k8s.io/*/ | xargs -n1 dirname | sort -u |
        grep -v -e /kube-openapi/ -e /code-generator/ -e /gengo/ -e /sample- | tr -s / | sed 's#^#k8s.io/kubernetes/#' | paste -sd,)
    "$work/openapi-gen" --input-dirs "$marked" --output-package k8s.io/kubernetes/pkg/generated/openapi \
        --output-file-base zz_generated.openapi --go-header-file hack/boilerplate/boilerplate.generatego.txt \
        --report-filename "$work/violations" > /dev/null
}

mkdir -p .cache
exec 9> "$out.lock"
flock 9
if [ -x "$out" ]; then
    say "found $out"
    exit
fi
[ -x "$GOROOT/bin/go" ] || die "no Go 1.19 of Debian 12 here; put a kube-apiserver of 1.20 or later at $out"
start=$SECONDS
mkdir -p "$work"
say "building, which takes some minutes"
compgen -G "$work/kubernetes_*.dsc" > /dev/null || apt_sources
unpack
cd "$tree"
mend
generate
go build -trimpath -tags providerless -ldflags '-s -w' -o "$work/kube-apiserver" ./cmd/kube-apiserver
mv "$work/kube-apiserver" "$out"
chmod -R u+w "$work"
rm -rf "$work"
say "built in $((SECONDS - start)) s: $out"
