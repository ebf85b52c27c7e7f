// src/weights/indexed_files.cc
#include "weights/indexed_files.h"

#include "base/require.h"

namespace switchyard {

IndexedFiles::IndexedFiles(const std::filesystem::path& index)
    : directory_(index.parent_path()), index_(ShardIndex::read(index)) {}

const TensorFile& IndexedFiles::shard(const std::string& file, const std::string& tensor) const {
  const std::lock_guard lock(mutex_);
  auto& open = shards_[file];
  if (open) return *open;
  const auto path = directory_ / file;
  std::error_code error;
  const auto kind = std::filesystem::symlink_status(path, error).type();
  SWITCHYARD_REQUIRE(
      kind != std::filesystem::file_type::not_found && kind != std::filesystem::file_type::none,
      BadFile, "checkpoint: tensor ", tensor, ", shard ", path.string(),
      " is missing; its index names it. Download it again.");
  try {
    open = TensorFile::open(path);
  } catch (const Error& e) {
    throw Error(e.code(), cat("checkpoint: tensor ", tensor, ", ", e.what()));
  }
  return *open;
}

const TensorEntry& IndexedFiles::entry(const std::string& name) const {
  const std::string file = index_.file_of(name);
  const TensorEntry* found = shard(file, name).find(name);
  SWITCHYARD_REQUIRE(found != nullptr, BadFile, "checkpoint: ", index_.path(), ", tensor ", name,
                     ": is not in ", file,
                     ". The index does not fit its files; download both again.");
  return *found;
}

void IndexedFiles::for_each_name(const std::function<void(const std::string&)>& visit) const {
  for (size_t i = 0; i < index_.size(); ++i) visit(std::string(index_.tensor(i)));
}

}  // namespace switchyard
