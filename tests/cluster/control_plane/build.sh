#!/usr/bin/env bash
# Builds the programs of the cluster tests from Go modules that are pinned here, into DIRECTORY (build/control-plane). Go 1.26 or
# later; about ten minutes on two cores the first time, seconds when nothing has changed. PARTS="etcd helm" builds a part.
set -euo pipefail
out=${1:-build/control-plane}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"
parts=${PARTS:-etcd kubernetes coredns helm kwok keda}
command -v go >/dev/null || { echo "go is missing: Go 1.26 or later is right (https://go.dev/dl)" >&2; exit 1; }
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=readonly" GOWORK=off

build() { # PART FLAGS NAME=PACKAGE...
    local part=$1 flags=$2 pair
    shift 2
    case " $parts " in *" $part "*) ;; *) return 0 ;; esac
    for pair in "$@"; do
        echo "${pair%%=*} (module $part)"
        (cd "$part" && go build -ldflags "-s -w $flags" -o "$out/${pair%%=*}" "${pair#*=}")
    done
}

version_of() { sed -nE "s|^(require )?[[:space:]]*$2 (v[^ ]+).*|\\2|p" "$1/go.mod" | head -n 1; }

kubernetes=$(version_of kubernetes k8s.io/kubernetes)
base=k8s.io/component-base/version
minor=${kubernetes#v1.}
build etcd "" etcd=go.etcd.io/etcd/server/v3
build kubernetes "-X $base.gitVersion=$kubernetes -X $base.gitMajor=1 -X $base.gitMinor=${minor%%.*}" \
    kube-apiserver=k8s.io/kubernetes/cmd/kube-apiserver \
    kube-controller-manager=k8s.io/kubernetes/cmd/kube-controller-manager \
    kube-scheduler=k8s.io/kubernetes/cmd/kube-scheduler \
    kube-proxy=k8s.io/kubernetes/cmd/kube-proxy \
    kubectl=k8s.io/kubernetes/cmd/kubectl
build coredns "" coredns=github.com/coredns/coredns
build helm "-X helm.sh/helm/v4/internal/version.version=$(version_of helm helm.sh/helm/v4)" helm=helm.sh/helm/v4/cmd/helm
build kwok "" kwok=sigs.k8s.io/kwok/cmd/kwok
build keda "" keda-operator=github.com/kedacore/keda/v2/cmd/operator keda-adapter=github.com/kedacore/keda/v2/cmd/adapter
case " $parts " in *" keda "*)
    rm -rf "$out/keda-crds"
    mkdir "$out/keda-crds"
    cp "$(cd keda && go list -m -f '{{.Dir}}' github.com/kedacore/keda/v2)"/config/crd/bases/*.yaml "$out/keda-crds/"
    chmod -R u+w "$out/keda-crds"
    ;;
esac
echo "KUBEBUILDER_ASSETS=$out"
