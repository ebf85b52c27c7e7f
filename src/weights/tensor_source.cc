// src/weights/tensor_source.cc
#include "weights/tensor_source.h"

namespace switchyard {
namespace {

// What stands beside a quantised tensor.
constexpr const char* kScaleInverse = "_scale_inv";
constexpr const char* kBlocks = "_blocks";
constexpr const char* kScales = "_scales";

}  // namespace

bool TensorSource::has_mxfp4(const std::string& name) const {
  return !has(name) && has(name + kBlocks);
}

size_t TensorSource::rank_of(const std::string& name) const {
  return has(name) ? files_.entry(name).shape.size() : 0;
}

StoredTensor TensorSource::open(const std::string& name) const {
  if (has_mxfp4(name))
    return StoredTensor::mxfp4(files_.entry(name + kBlocks), files_.entry(name + kScales));
  const TensorEntry& entry = files_.entry(name);
  if (entry.dtype == "F8_E4M3" && has(name + kScaleInverse))
    return StoredTensor::block_scaled(entry, files_.entry(name + kScaleInverse), scale_block_);
  return StoredTensor::plain(entry);
}

}  // namespace switchyard
