// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/fuzz/parsers.cc
#include "parsers.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "switchyard/error.h"
#include "switchyard/layer.h"
#include "weights/checkpoint_files.h"
#include "weights/family.h"
#include "weights/json_file.h"

namespace switchyard::fuzz {
namespace {

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

bool is_one_line(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < ' '; });
}

bool blames_the_file(const Error& e) {
  return e.code() == Errc::BadFile || e.code() == Errc::Unsupported ||
         e.code() == Errc::ShapeMismatch || e.code() == Errc::Misaligned;
}

void check_tensors(std::vector<TensorEntry> entries, int64_t data_begin, int64_t file_bytes) {
  std::erase_if(entries, [](const auto& e) { return e.num_bytes == 0; });
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.begin < b.begin; });
  int64_t free_from = data_begin;
  for (const auto& e : entries) {
    expect(e.begin >= free_from, "tensors overlap");
    free_from = e.begin + e.num_bytes;
  }
  expect(free_from <= file_bytes, "a tensor ends behind the file");
}

void read_tensors(std::span<const std::byte> file) {
  const auto bytes = static_cast<int64_t>(file.size());
  const int64_t header = safetensors_header_bytes(file, bytes, "fuzzed");
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, header);
  check_tensors(parse_safetensors(text, bytes - 8 - header, "fuzzed"), 8 + header, bytes);
}

void check_model(const ModelConfig& model) {
  const auto check = [](const MoeConfig& c) {
    expect(c.top_k >= 1 && c.top_k <= c.num_choices(), "top_k without as many experts");
    expect(weight_bytes(c, 1) > 0 && !describe(c).empty(), "a layer that cannot be described");
  };
  check(model.layers.config);
  for (const auto& [layer, config] : model.layers.other_layers) check(config);
  expect(!model.layers.forms.empty(), "a layer without names");
  for (const int64_t layer : model.layers.moe_layers)
    expect(layer >= 0 && layer < model.layers.num_layers, "an MoE layer behind the last layer");
}

constexpr size_t kRead = 64;  // entries of an index

void check_place(const std::string& file) {
  const auto path = (std::filesystem::path("/folder") / file).lexically_normal();
  expect(path.parent_path() == "/folder" && path.has_filename(), "a file of another folder");
}

// What a tree of the same text says.
void check_index(const ShardIndex& index, const nlohmann::json& tree) {
  const auto& map = tree.at("weight_map");
  expect(map.size() == index.size(), "an index of another size");
  size_t i = 0;
  for (const auto& [tensor, file] : map.items()) {
    expect(index.tensor(i++) == tensor, "another tensor");
    if (i > kRead) continue;
    std::string seen;
    const bool named = read_or_refused([&, &name = tensor] { seen = index.file_of(name); });
    if (named) expect(file.is_string() && seen == file.get<std::string>(), "another file");
  }
}

}  // namespace

bool read_or_refused(const std::function<void()>& parse) {
  try {
    parse();
    return true;
  } catch (const Error& e) {
    expect(blames_the_file(e), e.what());
    expect(is_one_line(e.what()), "a message of several lines");
    return false;
  }
}

bool read_header(std::span<const std::byte> file) {
  return read_or_refused([&] { read_tensors(file); });
}

bool read_index(std::string_view text) {
  return read_or_refused([&] {
    const ShardIndex index(text, "fuzzed");
    check_index(index, parse_json_object(text, "fuzzed"));
    expect(index.size() > 0, "an index without entries");
    for (size_t i = 0; i < index.size(); ++i) {
      const std::string tensor(index.tensor(i));
      expect(index.has(tensor), "a tensor that is not found");
      expect(i == 0 || index.tensor(i - 1) < index.tensor(i), "tensors out of order");
      if (i < kRead) read_or_refused([&] { check_place(index.file_of(tensor)); });
    }
  });
}

bool read_config(std::string_view text) {
  return read_or_refused(
      [&] { check_model(read_model_config(parse_json_object(text, "fuzzed"), "fuzzed")); });
}

bool read_layer(std::string_view text) {
  return read_or_refused(
      [&] { check_model(read_layer_json(parse_json_object(text, "fuzzed"), "fuzzed")); });
}

}  // namespace switchyard::fuzz
