#!/usr/bin/env bash
# tools/image.sh base | build [ARGUMENT...]: envmesh's image, by the engine that is here (docker, podman or buildah).
#   base    localhost/debian-python, from Debian's packages alone (root, debootstrap); build takes it where it is there
#   build   localhost/envmesh; with build/wheels (make wheels) it asks no package index
set -euo pipefail
cd "$(dirname "$0")/.."

base=localhost/debian-python
engine=
for each in ${ENGINE:-docker podman buildah}; do
    if command -v "$each" >/dev/null && "$each" info >/dev/null 2>&1; then engine=$each; break; fi
done
if [ -z "$engine" ]; then echo "tools/image.sh: docker, podman or buildah is needed, and none runs here" >&2; exit 1; fi

has() { if [ "$engine" = buildah ]; then buildah inspect --type image "$1"; else "$engine" image inspect "$1"; fi >/dev/null 2>&1; }

make_base() {
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root/system" >"$root/log" \
        || { tail -5 "$root/log" >&2; exit 1; }
    rm -rf "$root/system"/var/{cache/apt,lib/apt/lists,log}/* "$root/system"/usr/share/{doc,man,locale}/*
    if [ "$engine" = buildah ]; then
        container=$(buildah from scratch)
        buildah add --quiet "$container" "$root/system" / >/dev/null
        buildah commit --quiet --rm "$container" "$base"
    else
        tar --directory="$root/system" --create . | "$engine" import - "$base"
    fi
}

case ${1:-} in
base) make_base ;;
build)
    shift
    arguments=(--file services/Dockerfile --tag localhost/envmesh)
    if has "$base"; then arguments+=(--build-arg "BASE=$base"); fi
    if [ -d build/wheels ]; then arguments+=(--build-arg PIP_NO_INDEX=1); fi
    verb=build
    if [ "$engine" = buildah ]; then verb=bud; fi
    # The same commit, base and wheels make the same image: its times are those of the commit.
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
    export SOURCE_DATE_EPOCH
    arguments+=(--build-arg "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH")
    if [ "$engine" != docker ]; then arguments+=(--timestamp "$SOURCE_DATE_EPOCH"); fi
    "$engine" "$verb" "${arguments[@]}" "$@" .
    ;;
*) sed -n '2,4s/^# //p' "$0" >&2; exit 2 ;;
esac
