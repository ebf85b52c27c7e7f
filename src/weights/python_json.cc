// src/weights/python_json.cc
#include "weights/python_json.h"

#include <charconv>

namespace switchyard {
namespace {

bool in_token(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' ||
         c == '-' || c == '.';
}

// A number too large for a double. One too small is 0 to a parser, as to Python.
bool overflows(std::string_view number) {
  double value = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  if (error != std::errc::result_out_of_range || end != number.data() + number.size()) return false;
  const size_t exponent = number.find_first_of("eE");
  if (exponent != number.npos) return number[exponent + 1] != '-';
  return !number.substr(number.front() == '-').starts_with("0.");
}

bool is_no_finite_number(std::string_view token) {
  if (token == "NaN" || token == "Infinity" || token == "-Infinity") return true;
  // Up to here an integer or a fraction fits, and most tokens are short: nothing to measure.
  constexpr size_t kDigitsThatFit = 300;
  return (token.size() > kDigitsThatFit || token.find_first_of("eE") != token.npos) &&
         overflows(token);
}

}  // namespace

void PythonJson::begin_token() {
  if (in_string_ || at_ < token_end_ || at_ == text_.size() || !in_token(text_[at_])) return;
  token_end_ = at_ + 1;
  while (token_end_ < text_.size() && in_token(text_[token_end_])) ++token_end_;
  const size_t next = text_.find_first_not_of(" \t\r\n", token_end_);
  const bool is_key = next != text_.npos && text_[next] == ':';  // no JSON, for Python neither
  quoted_ = !is_key && is_no_finite_number(text_.substr(at_, token_end_ - at_));
  if (quoted_) quote_ = Quote::Before;
}

PythonJson& PythonJson::operator++() {
  if (quote_ == Quote::Before) {
    quote_ = Quote::None;
    return *this;
  }
  if (quote_ == Quote::Behind) {
    quote_ = Quote::None;
    quoted_ = false;
    return *this;
  }
  const char c = text_[at_++];
  if (escaped_)
    escaped_ = false;
  else if (c == '"')
    in_string_ = !in_string_;
  else
    escaped_ = in_string_ && c == '\\';
  if (quoted_ && at_ == token_end_)
    quote_ = Quote::Behind;
  else
    begin_token();
  return *this;
}

}  // namespace switchyard
