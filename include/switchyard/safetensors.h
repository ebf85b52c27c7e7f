// include/switchyard/safetensors.h -- public: read (memory-mapped) and write safetensors files.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/tensor.h"

namespace switchyard {

/// One tensor of a file, as its header describes it. Also for dtypes that Switchyard does not load.
struct TensorEntry {
  std::string name;
  std::string dtype;  // as written in the file: "BF16", "F8_E4M3", ...
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // a view of the mapping
};

/// A memory-mapped safetensors file. Views live as long as the file object. Read-only, thread-safe.
class TensorFile {
 public:
  /// Checks the whole header before anything is used: size, JSON, shapes, offsets that are in
  /// range, ordered, do not overlap and fit shape and dtype, if that is one that is known here. A
  /// tensor of another is refused when it is read. Throws Error(BadFile), naming the file; a Git
  /// LFS pointer and a link whose target is gone are named as such.
  static std::shared_ptr<const TensorFile> open(const std::filesystem::path& path);
  virtual ~TensorFile() = default;

  virtual const std::filesystem::path& path() const = 0;
  virtual std::span<const TensorEntry> entries() const = 0;  // in order of name
  /// Null when there is no tensor of that name.
  virtual const TensorEntry* find(std::string_view name) const = 0;
  /// A typed view. Throws Error(BadFile) for a missing name (with the nearest ones), Unsupported
  /// for a dtype that is not one of DType (it says which one it is) or more than Shape::kMaxRank
  /// dimensions.
  virtual ConstTensor tensor(std::string_view name) const = 0;
};

struct NamedTensor {
  std::string name;
  ConstTensor tensor;  // on the CPU
};

/// Writes beside `path` and renames, so that a reader sees the old file or the whole new one; on an
/// error nothing is left behind. Throws Error(BadFile).
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors);

}  // namespace switchyard
