// src/weights/json_events.h -- JSON text as a sequence of events, for what is too large for a tree.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace switchyard {

using JsonEvents = nlohmann::json_sax<nlohmann::json>;

// Tells `events` what stands in the text, in order. Reads what parse_json_object reads and throws
// as it does, but for a text that is no object. `events` returns true from each event.
void read_json(std::string_view text, const std::string& file, JsonEvents& events);

}  // namespace switchyard
