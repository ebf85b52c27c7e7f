#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Builds for 64-bit Arm and runs the tests that reach a CPU's numerics under emulation: NEON, for correctness.
#
# Debian: its arm64 packages are unpacked under build/, with package lists of their own, so nothing of another
# architecture is installed. Elsewhere put them there (Ubuntu's are at ports.ubuntu.com).
set -euo pipefail
cd "$(dirname "$0")/.."
packages=$PWD/build/arm-packages

scripts/install_deps.sh build test arm
if [ ! -e "$packages/complete" ]; then
  rm -rf "$packages" && mkdir -p "$packages"/{lists/partial,debs}
  apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists="$packages/lists"
       -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
  "${apt[@]}" update
  (cd "$packages/debs" && "${apt[@]}" download libhwy-dev libhwy1 libfmt-dev libfmt9 libgtest-dev nlohmann-json3-dev libcli11-dev)
  for deb in "$packages"/debs/*.deb; do dpkg -x "$deb" "$packages"; done
  touch "$packages/complete"
fi

cmake --preset arm >/dev/null
cmake --build --preset arm -j2
# Ranks as processes are left to the machine's own tests: a fork under emulation tests the emulator.
ctest --preset arm -j2 -R '^(cpu|gate|executor|layer)\.' -E '^layer\.(Processes|.*Faults)'
