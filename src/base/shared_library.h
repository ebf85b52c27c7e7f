// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/shared_library.h -- a library of the machine that is opened while the program runs, so
// that one binary serves machines that have it and machines that do not.
#pragma once

#include <string>

namespace switchyard {

class SharedLibrary {
 public:
  // Where to look: under the soname what the process has loaded already; then `beside`, a folder
  // relative to the one that holds this code (of NVIDIA's Python packages, say); then `folder`,
  // whose headers the build used; then wherever the system looks. A folder may be empty.
  struct Places {
    const char* soname;
    const char* beside = "";
    const char* folder = "";
  };
  // It stays open: its threads and caches outlive every object here.
  explicit SharedLibrary(const Places& places);

  bool is_open() const { return why_not_.empty(); }
  // What the system said. Empty: it is open, and all that was wanted is in it.
  const std::string& why_not() const { return why_not_; }

  // Stores the address of `symbol`; null, with a reason, if it is not there.
  template <class Function>
  void find(const char* symbol, Function*& function) {
    function = reinterpret_cast<Function*>(address(symbol));
  }

 private:
  void* address(const char* symbol);

  void* handle_ = nullptr;
  std::string why_not_;
};

}  // namespace switchyard
