// src/weights/family.cc -- the list, and names that are templates.
#include "weights/family.h"

#include <algorithm>
#include <charconv>

#include "weights/family_parts.h"

namespace switchyard {
namespace {

constexpr std::string_view kLayer = "{layer}", kExpert = "{expert}";

void replace_all(std::string& name, std::string_view key, int64_t value) {
  for (size_t at = 0; (at = name.find(key, at)) != std::string::npos;)
    name.replace(at, key.size(), std::to_string(value));
}

}  // namespace

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

std::string fill_layer(std::string name, int64_t layer) {
  replace_all(name, kLayer, layer);
  return name;
}

std::string fill_template(std::string name, int64_t layer, int64_t expert) {
  name = fill_layer(std::move(name), layer);
  replace_all(name, kExpert, expert);
  return name;
}

std::optional<TemplateMatch> match_tail(std::string_view name, std::string_view name_template) {
  const size_t at = name_template.find(kLayer);
  if (at == std::string_view::npos) return {};
  const auto tail = name_template.substr(at + kLayer.size()), head = name_template.substr(0, at);
  if (!name.ends_with(tail)) return {};
  name.remove_suffix(tail.size());
  size_t digits = 0;
  while (digits < name.size() && name[name.size() - 1 - digits] >= '0' &&
         name[name.size() - 1 - digits] <= '9')
    ++digits;
  TemplateMatch match;
  const char* first = name.data() + name.size() - digits;
  if (std::from_chars(first, name.data() + name.size(), match.layer).ec != std::errc{}) return {};
  if (digits > 1 && *first == '0') return {};  // "layers.01" is no layer of ours
  name.remove_suffix(digits);
  if (!name.ends_with(head)) return {};
  match.prefix_length = name.size() - head.size();
  if (match.prefix_length > 0 && name[match.prefix_length - 1] != '.') return {};
  return match;
}

}  // namespace switchyard
