// src/weights/shard_index.h -- which file of a sharded checkpoint holds a tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace switchyard {

// weight_map of a model.safetensors.index.json, in a few times the memory that its text takes.
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

}  // namespace switchyard
