// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/shared_library.cc
#include "base/shared_library.h"

#include <dlfcn.h>

#include "base/require.h"

namespace switchyard {
namespace {

// Of the file that this code is in, with a slash at its end. Empty where only a relative name is
// known: the working folder must not decide what is opened.
std::string own_folder() {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<void*>(&own_folder), &info) == 0) return {};
  const std::string path = info.dli_fname != nullptr ? info.dli_fname : "";
  return path.starts_with('/') ? path.substr(0, path.rfind('/') + 1) : std::string();
}

void* open(const std::string& path, int more = 0) {
  return ::dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL | more);
}

std::string last_error() {
  const char* text = ::dlerror();
  return text != nullptr ? text : "no reason is known";
}

}  // namespace

SharedLibrary::SharedLibrary(const Places& places) {
  const std::string soname = places.soname, own = own_folder(), folder = places.folder;
  handle_ = open(soname, RTLD_NOLOAD);
  if (handle_ == nullptr && !own.empty()) handle_ = open(cat(own, soname));
  if (handle_ == nullptr && !own.empty() && *places.beside != '\0')
    handle_ = open(cat(own, places.beside, "/", soname));
  if (handle_ == nullptr && !folder.empty()) handle_ = open(cat(folder, "/", soname));
  if (handle_ == nullptr) handle_ = open(soname);
  if (handle_ == nullptr) why_not_ = last_error();
}

void* SharedLibrary::address(const char* symbol) {
  if (handle_ == nullptr) return nullptr;
  void* found = ::dlsym(handle_, symbol);
  if (found == nullptr && why_not_.empty()) why_not_ = last_error();
  return found;
}

}  // namespace switchyard
