# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# switchyard::highway, for this build and for programs that link the static library: by Highway's own CMake package where
# it has one (vcpkg, Conan, its own install), else by pkg-config (Debian 12).
if(NOT TARGET switchyard::highway)
  find_package(hwy CONFIG QUIET)
  if(TARGET hwy::hwy)
    set(switchyard_highway hwy::hwy)
  else()
    find_package(PkgConfig REQUIRED)
    pkg_check_modules(SWITCHYARD_HWY REQUIRED IMPORTED_TARGET libhwy)
    set(switchyard_highway PkgConfig::SWITCHYARD_HWY)
  endif()
  add_library(switchyard::highway INTERFACE IMPORTED)
  set_target_properties(switchyard::highway PROPERTIES INTERFACE_LINK_LIBRARIES ${switchyard_highway})
endif()
