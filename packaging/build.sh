#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Builds the packages, each with a program that runs a layer; what a machine cannot build it names, and ends with 77.
#
#   packaging/build.sh [vcpkg] [conan] [container]      default: all three
#
# vcpkg      with vcpkg on the PATH the overlay port is installed; without, its files are read and the port is run with
#            vcpkg's functions played by stubs
# conan      `pip install conan`; Highway and nlohmann/json are the machine's (CONAN_REMOTE=1: of the remote)
# container  buildah as root; BASE=image, or a Debian 12 that mmdebstrap makes
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf --one-file-system "$scratch"' EXIT
skipped=()

build_vcpkg() {
  python3 packaging/vcpkg/check_port.py
  if ! command -v vcpkg >/dev/null; then
    skipped+=("vcpkg: not on the PATH, the port was checked and not built")
    return
  fi
  vcpkg install switchyard --overlay-ports=packaging/vcpkg/ports --x-install-root="$scratch/vcpkg" --classic
  cmake -S examples/embed -B "$scratch/embed" -DCMAKE_PREFIX_PATH="$(echo "$scratch"/vcpkg/*-linux)"
  cmake --build "$scratch/embed" --target embed
  "$scratch/embed/embed"
}

build_conan() {
  if ! command -v conan >/dev/null; then
    skipped+=("conan: not on the PATH. pip install conan")
    return
  fi
  export CONAN_HOME=$scratch/conan
  conan profile detect
  sed -i 's/^compiler.cppstd=.*/compiler.cppstd=20/; s/^build_type=.*/build_type=Release/' "$CONAN_HOME/profiles/default"
  [ "${CONAN_REMOTE:-0}" = 1 ] ||
    printf '[platform_requires]\nhighway/%s\nnlohmann_json/%s\n' "$(pkg-config --modversion libhwy)" \
      "$(pkg-config --modversion nlohmann_json)" >>"$CONAN_HOME/profiles/default"
  # The source's folder stays as it is.
  printf '[conf]\ntools.cmake.cmake_layout:test_folder=%s\ntools.cmake.cmaketoolchain:user_presets=\n' \
    "$scratch/test_package" >>"$CONAN_HOME/profiles/default"
  local shared
  for shared in False True; do
    conan create packaging/conan -o "switchyard/*:shared=$shared"
  done
}

build_container() {
  if ! command -v buildah >/dev/null; then
    skipped+=("container: no buildah")
    return
  fi
  local base=${BASE:-} container
  buildah() { command buildah --root "$scratch/images" --runroot "$scratch/run" --storage-driver vfs "$@"; }
  if [ -z "$base" ]; then
    base=localhost/debian:12
    mmdebstrap --quiet --variant=minbase bookworm "$scratch/debian.tar"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$scratch/debian.tar" /
    buildah commit --quiet --rm "$container" "$base"
  fi
  buildah build --isolation chroot --pull-never --build-arg BASE="$base" -f packaging/Containerfile -t switchyard .
  container=$(buildah from --pull-never localhost/switchyard)
  buildah run --isolation chroot "$container" -- switchyard --version
  buildah run --isolation chroot "$container" -- switchyard run --preset olmoe-1b-7b --tokens 4 --ranks 2
}

packages=("$@")
[ ${#packages[@]} -gt 0 ] || packages=(vcpkg conan container)
for package in "${packages[@]}"; do
  echo "== $package"
  start=$SECONDS
  "build_$package"
  echo "== $package took $((SECONDS - start)) s"
done
[ ${#skipped[@]} -eq 0 ] || { printf 'skipped: %s\n' "${skipped[@]}"; exit 77; }
