#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian or Ubuntu packages that are missing for the groups named, after printing them.
#
#   scripts/install_deps.sh build test        what `make test` needs
#
# SKIP_DEPS=1 installs nothing. Elsewhere than on Debian it says what is needed.
set -euo pipefail

declare -A GROUPS_OF=(
  [build]="g++ cmake ninja-build pkg-config ccache libhwy-dev nlohmann-json3-dev libcli11-dev libfmt-dev"
  [test]="libgtest-dev python3 make libopenmpi-dev openmpi-bin rustc"
  [python]="python3-venv python3-dev"
  [bench]="libopenblas-dev"
  [arm]="g++-aarch64-linux-gnu qemu-user"
  [style]="clang-format clang-tidy git python3-markdown-it"
  [reference]="doxygen"
  [fresh]="mmdebstrap git"
  [fuzz]="clang libclang-rt-14-dev"
  [coverage]="gcovr"
  [screens]="chromium-headless-shell fonts-dejavu-core"
)

[ "${SKIP_DEPS:-0}" = 1 ] && exit 0
wanted=()
for group in "$@"; do
  # shellcheck disable=SC2206  # the list is meant to be split
  wanted+=(${GROUPS_OF[$group]:?unknown group $group})
done

if ! command -v dpkg-query >/dev/null; then
  echo "These packages (Debian's names) are needed; install them and say SKIP_DEPS=1: ${wanted[*]}" >&2
  exit 0
fi
missing=()
for package in "${wanted[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "Installing missing packages: ${missing[*]}"
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
export DEBIAN_FRONTEND=noninteractive
install() { "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }
# A fresh machine has no package lists, an old one stale ones.
install 2>/dev/null || { "${as_root[@]}" apt-get update -qq && install; }
