// src/layer/agreement.cc
#include "layer/agreement.h"

#include <vector>

#include "base/require.h"

namespace switchyard {
namespace {

// FNV-1a: the same on every rank, unlike std::hash, which may differ between builds.
int32_t fingerprint(const std::string& text) {
  uint32_t hash = 2166136261u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return static_cast<int32_t>(hash);
}

}  // namespace

void agree_or_throw(const std::optional<Error>& mine, const std::string& shared_facts,
                    Communicator& communicator) {
  const int64_t num_ranks = communicator.size();
  if (num_ranks > 1) {
    const int32_t said[2] = {mine ? static_cast<int32_t>(mine->code()) : 0,
                             fingerprint(shared_facts)};
    std::vector<int32_t> all(static_cast<size_t>(num_ranks * 2));
    communicator.all_gather(Tensor(all.data(), {num_ranks, 2}), ConstTensor(said, {2}), nullptr);

    for (size_t r = 0; r < static_cast<size_t>(num_ranks) && !mine; ++r)
      if (const auto code = static_cast<Errc>(all[2 * r]); all[2 * r] != 0)
        throw Error(code, cat("create: rank ", r, " refused its arguments (", errc_name(code),
                              "). See the error thrown there."));
    for (size_t r = 0; r < static_cast<size_t>(num_ranks) && !mine; ++r)
      SWITCHYARD_REQUIRE(all[2 * r + 1] == all[1], ShapeMismatch,
                         "create: config or options of rank ", r,
                         " differ from those of rank 0. They must be equal on every rank.");
  }
  if (mine) throw *mine;
}

}  // namespace switchyard
