// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/available_memory.cc
#include "weights/weight_block.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "weights/text.h"

namespace switchyard {
namespace {

// Paths are text here: std::filesystem's crash where memory runs out inside them (GCC 12).
std::string text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The number that `text` begins with, after blanks. Not through a stream: a program's locale may
// group digits.
std::optional<uint64_t> number(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  uint64_t n = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), n).ec != std::errc()) return {};
  return n;
}

// What follows `key` on the line that begins with it.
std::optional<uint64_t> number_of(std::string_view text, std::string_view key) {
  for (const auto line : split(text, '\n'))
    if (line.starts_with(key)) return number(line.substr(key.size()));
  return {};
}

std::optional<uint64_t> number_in(const std::string& path) {
  return number(text_of(path));
}

// What the names of the two versions of control groups are.
struct GroupFiles {
  const char *limit, *used, *cached;
};
constexpr GroupFiles kV1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                            "total_inactive_file "};
constexpr GroupFiles kV2 = {"memory.max", "memory.current", "inactive_file "};

class Least {
 public:
  void take(std::optional<uint64_t> limit, uint64_t used, const char* of) {
    if (!limit) return;
    const uint64_t left = *limit > used ? *limit - used : 0;
    if (left < least_.bytes) least_ = {left, of};
  }
  AvailableMemory get() const { return least_; }

 private:
  AvailableMemory least_;
};

void take_group(Least& least, const std::string& folder, const GroupFiles& files) {
  const auto limit = number_in(folder + files.limit);  // "max" is none
  if (!limit) return;
  const uint64_t used = number_in(folder + files.used).value_or(0);
  const uint64_t cached = number_of(text_of(folder + "memory.stat"), files.cached).value_or(0);
  least.take(limit, used > cached ? used - cached : 0, "its container or control group");
}

// The group of a process and those above it. Where a container sees only its own groups, the path
// is the host's and names nothing here; the folders above it do.
void take_groups(Least& least, const std::string& mount, std::string_view group,
                 const GroupFiles& files) {
  std::vector<std::string> folders{mount};
  for (const auto part : split(group, '/')) {
    if (part.empty() || part == ".") continue;
    if (part != "..")
      folders.push_back(folders.back() + std::string(part) + "/");
    else if (folders.size() > 1)
      folders.pop_back();
  }
  for (const auto& folder : folders) take_group(least, folder, files);
}

// /proc/self/cgroup: lines of number:controllers:path; v2 has number 0 and no controllers.
void take_all_groups(Least& least, const std::string& root) {
  const std::string mount = root + "sys/fs/cgroup/";
  const std::string text = text_of(root + "proc/self/cgroup");
  for (const auto line : split(text, '\n')) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    const auto controllers = line.substr(first + 1, second - first - 1);
    const auto group = line.substr(second + 1);
    if (std::ranges::count(split(controllers, ','), "memory") > 0)
      take_groups(least, mount + "memory/", group, kV1);
    if (controllers.empty()) take_groups(least, mount, group, kV2);
  }
}

void take_process_limits(Least& least, const std::string& root) {
  const std::string limits = text_of(root + "proc/self/limits"),
                    status = text_of(root + "proc/self/status");
  const auto used = [&](const char* key) { return number_of(status, key).value_or(0) * 1024; };
  least.take(number_of(limits, "Max address space"), used("VmSize:"), "its limit RLIMIT_AS");
  least.take(number_of(limits, "Max data size"), used("VmData:"), "its limit RLIMIT_DATA");
}

}  // namespace

AvailableMemory available_memory(const std::string& root) {
  Least least;
  if (const auto kib = number_of(text_of(root + "proc/meminfo"), "MemAvailable:"))
    least.take(*kib * 1024, 0, "the machine");
  take_all_groups(least, root);
  take_process_limits(least, root);
  return least.get();
}

}  // namespace switchyard
