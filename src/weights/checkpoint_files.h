// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/checkpoint_files.h -- where a checkpoint is, and its safetensors files as one set
// of tensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/safetensors.h"

namespace switchyard {

// ---- from what a user names to the folder that holds a checkpoint

// `path` itself, or a snapshot inside it where it is a model's folder in the Hugging Face cache:
// models--<org>--<name>, the snapshot that refs/main names; its folder `snapshots`, the only one.
// Throws Error(BadFile): no folder (for what looks like a name on the hub, how to download it), or
// not one snapshot to take, with those that are there.
std::filesystem::path find_model_folder(const std::filesystem::path& path);

// ---- its files

// safetensors.cc
// The length of a file's header, from its first nine bytes (or all of fewer). Throws Error(BadFile)
// before anything is read of one that cannot be; `name` says which file in messages.
int64_t safetensors_header_bytes(std::span<const std::byte> head, int64_t file_bytes,
                                 const std::string& name);
// Parses a header, behind which the file has `data_bytes`, into entries ordered by name, without
// their file. Throws Error(BadFile). Takes time and memory as the header's length has them.
std::vector<TensorEntry> parse_safetensors(std::string_view header, int64_t data_bytes,
                                           const std::string& name);

// Which file of a sharded checkpoint holds a tensor: weight_map of a model.safetensors.index.json, in
// a few times the memory that its text takes.
class ShardIndex {
 public:
  // Throws Error(BadFile): more than 256 MiB, damaged, no weight_map, or no entry. Entries are
  // looked at when they are needed.
  static ShardIndex read(const std::filesystem::path& path);
  // The same of the text of `path`.
  ShardIndex(std::string_view text, std::string path);

  const std::string& path() const { return path_; }
  bool has(std::string_view tensor) const { return find(tensor) != nullptr; }
  // The file of a tensor, a name in the index's own folder. Throws Error(BadFile): no entry, or one
  // that is no name or leads elsewhere.
  std::string file_of(const std::string& tensor) const;

  size_t size() const { return entries_.size(); }
  // Names in order.
  std::string_view tensor(size_t i) const { return at(entries_[i].tensor); }

 private:
  struct Piece {  // of text_
    uint32_t begin, size;
  };
  struct Entry {
    Piece tensor, file;
  };
  static constexpr uint32_t kNoString = UINT32_MAX;  // size of a file that is 7, null, {}, ...

  std::string_view at(Piece piece) const {
    return std::string_view(text_).substr(piece.begin, piece.size);
  }
  const Entry* find(std::string_view tensor) const;
  bool read_map(std::string_view text);  // whether there is one
  Piece keep(std::string_view text);
  void add(std::string_view tensor, const std::string* file);
  void sort();

  std::string path_;
  std::string text_;  // all names, one behind the other
  std::vector<Entry> entries_;
};

// Thread-safe.
class CheckpointFiles {
 public:
  // model.safetensors; or what model.safetensors.index.json names; or, without both, every
  // safetensors file of the folder. transformers prefers the single file, too.
  static std::unique_ptr<const CheckpointFiles> open(const std::filesystem::path& directory);
  virtual ~CheckpointFiles() = default;

  // Whether the index names it, or without one a header. Opens no shard of an index.
  virtual bool has(const std::string& name) const = 0;
  // Opens its shard. Throws Error(BadFile) where the tensor is missing, its shard is not there or
  // damaged, or several files hold it; names both.
  virtual const TensorEntry& entry(const std::string& name) const = 0;
  // Throws Error(BadFile) where a file that is open was written since: what was read may be a mixture.
  virtual void check_unchanged() const = 0;
  // Every name that the index holds, or without one the headers, in order. Opens nothing.
  virtual void for_each_name(const std::function<void(const std::string&)>& visit) const = 0;
};

}  // namespace switchyard
