#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Checks the vcpkg port without vcpkg.

Its manifest has vcpkg's keys, the version of CMakeLists.txt and the features that the port asks for. The port runs
under `cmake -P` with vcpkg's functions played by stubs, for each linkage: it hands options to CMake that exist.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PORT = ROOT / "packaging/vcpkg/ports/switchyard"
KEYS = {"name", "version-semver", "description", "license", "supports", "dependencies", "features", "homepage"}
STUBS = """
cmake_minimum_required(VERSION 3.22)
function(vcpkg_check_features)
  cmake_parse_arguments(stub "" "OUT_FEATURE_OPTIONS" "FEATURES" ${ARGN})
  set(options)
  while(stub_FEATURES)
    list(POP_FRONT stub_FEATURES feature option)
    message("feature ${feature}")
    list(APPEND options -D${option}=OFF)
  endwhile()
  set(${stub_OUT_FEATURE_OPTIONS} ${options} PARENT_SCOPE)
endfunction()
function(vcpkg_cmake_configure)
  cmake_parse_arguments(stub "" "SOURCE_PATH" "OPTIONS" ${ARGN})
  message("source ${stub_SOURCE_PATH}")
  foreach(option ${stub_OPTIONS})
    message("option ${option}")
  endforeach()
endfunction()
function(vcpkg_install_copyright)
  cmake_parse_arguments(stub "" "" "FILE_LIST" ${ARGN})
  message("licence ${stub_FILE_LIST}")
endfunction()
foreach(name cmake_install cmake_config_fixup fixup_pkgconfig copy_tools)
  cmake_language(EVAL CODE "function(vcpkg_${name})\\nmessage(\\"called ${name} \\${ARGN}\\")\\nendfunction()")
endforeach()
set(CURRENT_PACKAGES_DIR @FOLDER@)
set(VCPKG_LIBRARY_LINKAGE @LINKAGE@)
set(FEATURES core tools)
include(@PORT@)
"""


def run_port(linkage):
    """What the port says to vcpkg: (kind, text) of every line."""
    with tempfile.TemporaryDirectory() as folder:
        script = pathlib.Path(folder) / "port.cmake"
        text = STUBS.replace("@FOLDER@", folder).replace("@LINKAGE@", linkage).replace("@PORT@", str(PORT / "portfile.cmake"))
        script.write_text(text)
        ended = subprocess.run(["cmake", "-P", script], capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"check_port: portfile.cmake fails:\n{ended.stderr}")
    return [line.split(" ", 1) for line in ended.stderr.splitlines()]


def faults():
    cmake = (ROOT / "CMakeLists.txt").read_text()
    manifest = json.loads((PORT / "vcpkg.json").read_text())
    if unknown := set(manifest) - KEYS:
        yield f"vcpkg.json: unknown keys {sorted(unknown)}"
    version = re.search(r"VERSION (\d+\.\d+\.\d+)", cmake).group(1)
    if manifest["version-semver"] != version:
        yield f"vcpkg.json: version-semver={manifest['version-semver']}, CMakeLists.txt has {version}"
    declared = set(re.findall(r"^(?:option|set)\((SWITCHYARD_[A-Z_]+)", cmake, re.M))
    for linkage, with_c in (("static", "0|OFF|FALSE"), ("dynamic", "1|ON|TRUE")):
        said = run_port(linkage)
        options = dict(text[2:].split("=", 1) for kind, text in said if kind == "option")
        for option in sorted(set(options) - declared):
            yield f"portfile.cmake: {option} is no option of CMakeLists.txt"
        if not re.fullmatch(with_c, options.get("SWITCHYARD_C_API", "")):
            yield f"portfile.cmake: SWITCHYARD_C_API={options.get('SWITCHYARD_C_API')} of a {linkage} triplet"
        if {text for kind, text in said if kind == "feature"} != set(manifest["features"]):
            yield "portfile.cmake: its features are not those of vcpkg.json"
        if [text for kind, text in said if kind == "source"] != [str(ROOT)]:
            yield "portfile.cmake: SOURCE_PATH is not the folder of CMakeLists.txt"
        if [text for kind, text in said if kind == "licence"] != [str(ROOT / "LICENSE")]:
            yield "portfile.cmake: no LICENSE"


def main():
    found = list(faults())
    for fault in found:
        print(fault)
    print(f"vcpkg port: {'good' if not found else f'{len(found)} faults'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
