#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# What a user does first, on a Debian 12 that has nothing yet: each step builds and runs an example in a chroot, and is
# a row of the table of times at the end. As root, with mmdebstrap; some GB under FRESH (/var/tmp/switchyard-fresh).
#
#   tests/install/fresh_machine.sh [STEP...]      default: all of them, in the order of `all` below, on new machines
#
# Steps that are named run on the machines of an earlier run, with today's source; one that is missing is made.
# Two machines: one is given the README's commands, which install what they miss; the other has a compiler, CMake,
# pkg-config, Highway and nlohmann/json, and so shows what the library alone needs. They share a ccache, for which builds
# lie where relative paths are the same: only the first step that builds the library takes as long as it does for a user.
set -euo pipefail
cd "$(dirname "$0")/../.."
fresh=$(realpath -m "${FRESH:-/var/tmp/switchyard-fresh}")
all=(make_run plain pip_install library_static find_package_static pkg_config_static library_shared find_package_shared
     pkg_config_shared c_static c_shared add_subdirectory fetch_content make_test)

# ---- the README's machine

step_make_run() { make run; }
step_make_test() { make test; }

# The commands of the guide as they stand there.
step_plain() {
  sed -n '/^Without make:/,/^With /p' docs/guide/getting_started.md | sed -n '/^```$/,/^```$/{/^```$/!p}' >/tmp/plain.sh
  grep -q 'cmake -S' /tmp/plain.sh
  bash -eux /tmp/plain.sh
}

step_pip_install() {
  scripts/install_deps.sh build python
  python3 -m venv --clear /tmp/venv
  /tmp/venv/bin/pip install .
  local error
  error=$(/tmp/venv/bin/python examples/python/quick_start.py)  # against float64
  echo "$error"
  awk -v error="$error" 'BEGIN { exit !(error > 0 && error <= 4e-3) }'
}

# ---- the machine of a library's user

refuse_packages() {  # what the library alone does not need is not there
  local package
  for package in libfmt-dev libcli11-dev libgtest-dev libopenmpi-dev ninja-build python3; do
    ! dpkg-query -W -f='${db:Status-Status}' $package 2>/dev/null | grep -qx installed || { echo "$package is here"; return 1; }
  done
}

library() {  # kind, value of BUILD_SHARED_LIBS: built, installed by --prefix, then moved
  refuse_packages
  rm -rf "/opt/$1" /opt/staged
  cmake -S . -B "build/$1" -DSWITCHYARD_CLI=OFF -DBUILD_SHARED_LIBS="$2"
  cmake --build "build/$1" --parallel "$(nproc)"
  cmake --install "build/$1" --prefix /opt/staged
  mv /opt/staged "/opt/$1"
}
step_library_static() { library static OFF; }
step_library_shared() { library shared ON; }

find_package() {  # kind
  cmake -S examples/embed -B "/tmp/embed_$1" -DCMAKE_PREFIX_PATH="/opt/$1"
  cmake --build "/tmp/embed_$1" --parallel "$(nproc)"
  local program
  for program in embed model engine linear_attention; do "/tmp/embed_$1/$program"; done
  "/tmp/embed_$1/ranks" threads
}
step_find_package_static() { find_package static; }
step_find_package_shared() { find_package shared; }

pkg_config() {  # kind, further options
  local kind=$1
  shift
  export PKG_CONFIG_PATH=$(dirname "$(find "/opt/$kind" -name switchyard.pc)")
  # shellcheck disable=SC2046  # flags are meant to be split
  g++ -std=c++20 examples/embed/embed.cc -o "/tmp/pc_$kind" $(pkg-config --cflags --libs "$@" switchyard)
  LD_LIBRARY_PATH=$(pkg-config --variable=libdir switchyard) "/tmp/pc_$kind"
}
step_pkg_config_static() { pkg_config static --static; }
step_pkg_config_shared() {
  pkg_config shared
  # A shared library brings what it needs: its users see neither Highway nor its headers.
  ! pkg-config --libs --cflags --static switchyard | grep -E 'hwy|mpi'
}

c_layer() {  # kind of the C++ library beside it: libswitchyard_c is shared, and holds C++, with both
  export PKG_CONFIG_PATH=$(dirname "$(find "/opt/$1" -name switchyard-c.pc)")
  # shellcheck disable=SC2046
  gcc -std=c99 examples/c/layer.c -o "/tmp/c_$1" $(pkg-config --cflags --libs switchyard-c)
  cmake -S examples/c -B "/tmp/c_cmake_$1" -DCMAKE_PREFIX_PATH="/opt/$1"
  cmake --build "/tmp/c_cmake_$1"
  head -c 1536 /dev/zero >/tmp/rows  # 4 tokens of H = 192
  local program
  for program in "/tmp/c_$1" "/tmp/c_cmake_$1/layer"; do
    LD_LIBRARY_PATH=$(pkg-config --variable=libdir switchyard-c) "$program" data/tiny-code-moe 1 /tmp/rows /tmp/output
    cmp /tmp/rows /tmp/output  # no bias: zeros stay zeros
  done
  ! ldd "/tmp/c_$1" | grep libswitchyard.so
}
step_c_static() { c_layer static; }
step_c_shared() { c_layer shared; }

step_add_subdirectory() {
  refuse_packages
  cmake -S tests/install/subproject -B parent -DSWITCHYARD="$PWD" -DCMAKE_BUILD_TYPE=Release
  cmake --build parent --parallel "$(nproc)"
  parent/embed
}
step_fetch_content() {
  cmake -S tests/install/fetched -B /tmp/fetched -DSWITCHYARD="$PWD" -DCMAKE_BUILD_TYPE=Release \
    -DFETCHCONTENT_BASE_DIR="$PWD/build"
  cmake --build /tmp/fetched --parallel "$(nproc)"
  cmake --install /tmp/fetched --prefix /opt/fetched
  /opt/fetched/bin/embed
  [ "$(find /opt/fetched -type f -o -type l)" = /opt/fetched/bin/embed ]  # nothing of Switchyard
}

# ---- the machines

machine_of() {
  case $1 in
    make_run | make_test | plain | pip_install) echo readme ;;
    *) echo library ;;
  esac
}

packages_of() {  # those that a user has installed before; ccache saves time, no more
  case $1 in
    readme) echo make ;;
    library) echo g++ make cmake pkg-config libhwy-dev nlohmann-json3-dev ccache ;;
  esac
}

inside() {  # machine, bash text: runs there, in the source's folder; its mounts and processes end with it
  unshare --mount --pid --fork bash -c '
    root=$1
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount --bind "$2" "$root/ccache"
    exec chroot "$root" env -i HOME=/root USER=root LANG=C.UTF-8 TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin PIP_CERT=/etc/host_certificates.crt \
      CCACHE_DIR=/ccache CCACHE_BASEDIR=/switchyard CCACHE_NOHASHDIR=1 CMAKE_CXX_COMPILER_LAUNCHER="$4" DEBIAN_FRONTEND=noninteractive \
      bash -euo pipefail -c "cd /switchyard; $3"' \
    inside "$fresh/$1" "$fresh/ccache" "$2" "${3:-}" </dev/null
}

new_machine() {  # each line by itself: errexit does not reach into what `timed` calls
  local root=$fresh/$1
  rm -rf --one-file-system "$root" || return  # a run that was cut off may have left mounts
  if [ ! -d "$fresh/base" ]; then
    rm -rf "$fresh/unfinished"
    mmdebstrap --quiet --variant=minbase bookworm "$fresh/unfinished" || return
    mv "$fresh/unfinished" "$fresh/base"
  fi
  cp -a "$fresh/base" "$root" || return
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  echo '127.0.0.1 localhost' >"$root/etc/hosts"
  # The host's network may have a certificate of its own, which pip is given.
  cp "${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}" "$root/etc/host_certificates.crt" || return
  mkdir -p "$root/switchyard" "$root/ccache"
  inside "$1" "apt-get update -qq && apt-get install -y -qq --no-install-recommends $(packages_of "$1") >/dev/null" ||
    return
  packages_of "$1" >"$root/made_of"
}

# Not one whose making was cut off, nor one of an older list of packages.
is_made() { [ "$(cat "$fresh/$1/made_of" 2>/dev/null)" = "$(packages_of "$1")" ]; }

copy_source() {  # all but what was built there
  local to=$fresh/$1/switchyard
  find "$to" -mindepth 1 -maxdepth 1 ! -name build ! -name parent -exec rm -rf {} +
  git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- -cf - | tar -xf - -C "$to"
}

timed() {  # name, command
  local name=$1 start=$SECONDS log=$fresh/$1.log
  shift
  echo "== $name"
  if ! "$@" >"$log" 2>&1; then
    tail -n 40 "$log"
    echo "fresh_machine: $name failed after $((SECONDS - start)) s, all that it said is in $log" >&2
    exit 1
  fi
  echo "$((SECONDS - start))" >"$fresh/times/$name"
}

[ "$(id -u)" -eq 0 ] || { echo "fresh_machine: needs root, for chroot and mounts. Run it by sudo." >&2; exit 2; }
command -v mmdebstrap >/dev/null || { echo "fresh_machine: no mmdebstrap. Run scripts/install_deps.sh fresh." >&2; exit 2; }
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=("${all[@]}")
for step in "${steps[@]}"; do
  [[ " ${all[*]} " == *" $step "* ]] || { echo "fresh_machine: no step $step. Take some of: ${all[*]}." >&2; exit 2; }
done
[ $# -gt 0 ] || rm -rf --one-file-system "$fresh"/{ccache,times,base,readme,library}
mkdir -p "$fresh"/{ccache,times}
functions=$(declare -f)
declare -A has_source
for step in "${steps[@]}"; do
  machine=$(machine_of "$step")
  is_made "$machine" || timed "machine_$machine" new_machine "$machine"
  [ -n "${has_source[$machine]:-}" ] || copy_source "$machine"
  has_source[$machine]=yes
  launcher=
  [ "$machine" = readme ] || launcher=ccache
  timed "$step" inside "$machine" "$functions; step_$step" "$launcher"
done

echo
echo "$(git describe --always --dirty 2>/dev/null || echo unknown), $(nproc) cores, $(date +%F)"
echo "| step                     | seconds |"
echo "| ------------------------ | ------: |"
for step in machine_readme machine_library "${all[@]}"; do
  [ ! -e "$fresh/times/$step" ] || printf '| %-24s | %7d |\n' "$step" "$(cat "$fresh/times/$step")"
done
