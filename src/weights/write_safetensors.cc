// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/write_safetensors.cc -- tensors become a header and their bytes.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "base/as_error.h"
#include "base/draft.h"
#include "base/shape_text.h"
#include "switchyard/safetensors.h"
#include "weights/safetensors_format.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOperation = "write_safetensors";

// ---- what is written

std::string_view file_dtype(DType dtype) {
  const auto found = std::ranges::find(kLoadableDTypes, dtype, &LoadableDType::dtype);
  return found != kLoadableDTypes.end() ? found->name : "";
}

bool is_utf8(const std::string& text) {
  try {
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

void check_tensors(std::span<const NamedTensor> tensors) {
  std::set<std::string_view> names;
  for (const auto& [name, tensor] : tensors) {
    const auto where = cat("write_safetensors: tensor ", name);
    SWITCHYARD_REQUIRE(is_utf8(name), BadFile, where, ": its name is no UTF-8. Rename it.");
    SWITCHYARD_REQUIRE(name != kMetadata, BadFile, where,
                       ": the format keeps this name for itself. Rename it.");
    SWITCHYARD_REQUIRE(names.insert(name).second, BadFile, where,
                       ": is given twice. Give each name once.");
    SWITCHYARD_REQUIRE(tensor.present() && (tensor.data != nullptr || tensor.bytes() == 0), BadFile,
                       where, ": is absent. Leave it out.");
    SWITCHYARD_REQUIRE(tensor.device == DeviceKind::Cpu, BadFile, where,
                       ": device=", device_name(tensor.device), ", need cpu. Copy it first.");
    SWITCHYARD_REQUIRE(!file_dtype(tensor.dtype).empty(), BadFile, where,
                       ": dtype=", dtype_name(tensor.dtype), ", has no name in the format.");
  }
}

// In order of name. Without a tree: the end of one needs memory (JsonTree).
std::string header_of(std::span<const NamedTensor> tensors) {
  std::map<std::string_view, std::string> entries;
  int64_t begin = 0;
  for (const auto& [name, tensor] : tensors) {
    const int64_t end = begin + tensor.bytes();
    entries[name] =
        cat(nlohmann::json(name).dump(), ":{\"data_offsets\":[", begin, ",", end, "],\"dtype\":\"",
            file_dtype(tensor.dtype), "\",\"shape\":[", joined(extents(tensor.shape), ","), "]}");
    begin = end;
  }
  std::string text = "{";
  for (const auto& [name, entry] : entries) text += cat(text.size() == 1 ? "" : ",", entry);
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data begins 8-byte aligned
  SWITCHYARD_REQUIRE(text.size() <= kMaxHeaderBytes, BadFile,
                     "write_safetensors: header bytes=", text.size(), ", the format has at most ",
                     kMaxHeaderBytes, ". Write several files.");
  return text;
}

// ---- the file

void write_file(const fs::path& path, std::span<const NamedTensor> tensors) {
  check_tensors(tensors);
  const std::string header = header_of(tensors);
  const uint64_t header_bytes = header.size();
  Draft file(kOperation, path);
  file.write(std::as_bytes(std::span(&header_bytes, 1)));
  file.write(std::as_bytes(std::span(header)));
  for (const auto& t : tensors)
    file.write(
        {static_cast<const std::byte*>(t.tensor.data), static_cast<size_t>(t.tensor.bytes())});
  file.publish();
}

}  // namespace

void check_safetensors_target(const fs::path& path) {
  check_target(kOperation, path);
}

void write_safetensors(const fs::path& path, std::span<const NamedTensor> tensors) {
  as_errors(kOperation, [&] { write_file(path, tensors); });
}

}  // namespace switchyard
