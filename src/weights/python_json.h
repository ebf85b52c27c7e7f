// src/weights/python_json.h -- the characters of JSON as Python writes it, for a parser of JSON.
#pragma once

#include <cstddef>
#include <iterator>
#include <string_view>

namespace switchyard {

// NaN, Infinity, -Infinity and numbers that no double holds (1e999), which Python reads as one of
// them, come out in quotes: a reader that needs a number refuses what it sees, and a key that
// nobody reads does not matter. Strings and lines stay as they are. Nothing is copied.
class PythonJson {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  static PythonJson begin(std::string_view text) { return PythonJson(text, 0); }
  static PythonJson end(std::string_view text) { return PythonJson(text, text.size()); }

  char operator*() const { return quote_ == Quote::None ? text_[at_] : '"'; }
  PythonJson& operator++();
  // Of the character, in the text; of a quote behind a word, that of the word's last one.
  size_t position() const { return quote_ == Quote::Behind ? at_ - 1 : at_; }
  bool operator==(const PythonJson& other) const {
    return at_ == other.at_ && quote_ == other.quote_;
  }

 private:
  enum class Quote { None, Before, Behind };  // the literal at, or that ended before, at_

  PythonJson(std::string_view text, size_t at) : text_(text), at_(at) { begin_token(); }
  void begin_token();

  std::string_view text_;
  size_t at_;
  size_t token_end_ = 0;  // of the word or number that at_ stands in
  bool in_string_ = false;
  bool escaped_ = false;  // the character at at_, by a backslash
  bool quoted_ = false;   // the word or number
  Quote quote_ = Quote::None;
};

}  // namespace switchyard
