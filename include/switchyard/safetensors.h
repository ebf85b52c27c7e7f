// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/safetensors.h -- public: read and write safetensors files.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/tensor.h"

namespace [[gnu::visibility("default")]] switchyard {

class FileBytes;

/// One tensor of a file, as its header describes it. Also for dtypes that Switchyard does not load.
/// An entry of a TensorFile lives as long as the file object.
struct TensorEntry {
  std::string name;
  std::string dtype;  // as written in the file: "BF16", "F8_E4M3", ...
  std::vector<int64_t> shape;
  int64_t begin = 0, num_bytes = 0;  // of its data in the file
  const FileBytes* file = nullptr;

  /// Copies bytes from `first` on. Throws Error(BadFile) where they are not all in the tensor, or the
  /// file fails or has become shorter.
  void read(std::span<std::byte> dst, int64_t first = 0) const;
};

/// An open safetensors file. Views live as long as the file object. Read-only, thread-safe. Bytes are
/// read into memory, so that a file that shrinks or fails under a running program is an error.
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
  /// A typed view of a copy, which the first call reads and the file object keeps. Throws
  /// Error(BadFile) for a missing name (with the nearest ones) and for a file that failed or was
  /// written since it was opened; Unsupported for a dtype that is not one of DType (it says which one
  /// it is) or more than Shape::kMaxRank dimensions.
  virtual ConstTensor tensor(std::string_view name) const = 0;
  /// Throws Error(BadFile) where the file was written or truncated since it was opened: what
  /// TensorEntry::read gave may be a part of either.
  virtual void check_unchanged() const = 0;
};

struct NamedTensor {
  std::string name;
  ConstTensor tensor;  // on the CPU
};

/// A reader sees the old file or the whole new one, and on an error or the end of the process nothing
/// is left behind (on file systems without unnamed files, such as NFS, a killed process leaves
/// `path`.<number>.draft, which the next write of `path` removes). The mode of a file that is
/// replaced stays. Throws Error(BadFile): names that are given twice or no UTF-8, absent tensors,
/// those of a device; and where `path` cannot be written, or is anything but a regular file: a
/// folder, a link, a device, a pipe.
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors);

/// Throws Error(BadFile) where write_safetensors would because of what `path` is, so that a long run
/// need not end in it. Creates nothing.
void check_safetensors_target(const std::filesystem::path& path);

}  // namespace switchyard
