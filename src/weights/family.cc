// src/weights/family.cc -- the list.
#include "weights/family.h"

#include <algorithm>

#include "weights/family_parts.h"

namespace switchyard {

const std::vector<Family>& families() {
  static const std::vector<Family> all = [] {
    std::vector<Family> list = sigmoid_families();
    for (const auto& more : {softmax_families(), top_k_softmax_families()})
      list.insert(list.end(), more.begin(), more.end());
    std::ranges::sort(list, {}, &Family::model_type);
    return list;
  }();
  return all;
}

const Family* find_family(std::string_view model_type) {
  constexpr std::string_view kText = "_text";
  if (model_type.ends_with(kText)) model_type.remove_suffix(kText.size());
  const auto at = std::ranges::find(families(), model_type, &Family::model_type);
  return at == families().end() ? nullptr : &*at;
}

}  // namespace switchyard
