# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Builds the source that it lies in: conan create packaging/conan."""
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load
from conan.tools.gnu import PkgConfigDeps


class Switchyard(ConanFile):
    name = "switchyard"
    description = "The expert part of a Mixture-of-Experts layer, in bf16"
    license = "Apache-2.0"
    author = "The Switchyard authors"
    topics = ("mixture-of-experts", "inference", "bf16")
    package_type = "library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"shared": [True, False], "fPIC": [True, False]}
    default_options = {"shared": False, "fPIC": True}

    @property
    def source_root(self):
        return os.path.join(self.recipe_folder, os.pardir, os.pardir)

    def set_version(self):
        self.version = re.search(r"VERSION (\d+\.\d+\.\d+)", load(self, os.path.join(self.source_root, "CMakeLists.txt"))).group(1)

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "include/*", "src/*", "scripts/*"):
            copy(self, pattern, src=self.source_root, dst=self.export_sources_folder)

    def requirements(self):
        self.requires("highway/[>=1.0 <2]")
        self.requires("nlohmann_json/[>=3.9 <4]")

    def validate(self):
        check_min_cppstd(self, 20)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ("CLI", "C_API", "CUDA", "MPI"):
            toolchain.cache_variables[f"SWITCHYARD_{part}"] = "OFF"
        toolchain.generate()
        CMakeDeps(self).generate()
        PkgConfigDeps(self).generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        copy(self, "LICENSE", src=self.source_folder, dst=os.path.join(self.package_folder, "licenses"))
        CMake(self).install()

    def package_info(self):
        # Programs find the package that Switchyard installs, which names what a static library needs.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("lib", "cmake", "switchyard")]
        self.cpp_info.libs = ["switchyard"]
        self.cpp_info.system_libs = ["pthread"]
