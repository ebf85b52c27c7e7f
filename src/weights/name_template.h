// src/weights/name_template.h -- tensor names with {layer} and {expert} in them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace switchyard {

// A template with its numbers filled in.
std::string fill_template(std::string name, int64_t layer, int64_t expert = 0);
// Its {layer} alone.
std::string fill_layer(std::string name, int64_t layer);

// The layer of a name that ends with the template, and the length of its prefix. A
// template begins behind a dot or at the name's beginning.
struct TemplateMatch {
  int64_t layer = 0;
  size_t prefix_length = 0;
};
std::optional<TemplateMatch> match_tail(std::string_view name, std::string_view name_template);

}  // namespace switchyard
