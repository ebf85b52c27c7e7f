// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/fuzz/mutation.h -- damage as disks, downloads and hands do it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>

namespace switchyard::fuzz {

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : rng_(seed) {}

  // 0 to n - 1.
  size_t below(size_t n) { return static_cast<size_t>(rng_() % n); }

  // One to four changes; to numbers only, so that the text stays sound, for one text in two.
  void damage(std::string& text) {
    const bool numbers_only = below(2) == 0;
    for (size_t changes = 1 + below(4); changes > 0; --changes)
      numbers_only ? edit_number(text) : change(text);
  }

  void change(std::string& text) {
    if (text.empty()) return insert(text);
    switch (below(6)) {
      case 0: return flip_bit(text);
      case 1: return text.resize(below(text.size()));
      case 2: return insert(text);
      case 3: return erase(text);
      case 4: return swap_chunks(text);
      default: return edit_number(text);
    }
  }

 private:
  void flip_bit(std::string& text) {
    char& c = text[below(text.size())];
    c = static_cast<char>(c ^ (1 << below(8)));
  }
  void insert(std::string& text) {
    std::string bytes(1 + below(8), '\0');
    for (char& c : bytes) c = static_cast<char>(below(256));
    text.insert(below(text.size() + 1), bytes);
  }
  void erase(std::string& text) { text.erase(below(text.size()), 1 + below(32)); }

  void swap_chunks(std::string& text) {
    const size_t middle = below(text.size()), size = 1 + below(text.size() - middle);
    const std::string chunk = text.substr(middle, size);
    text.erase(middle, size);
    text.insert(below(text.size() + 1), chunk);
  }

  // The first number after a random place becomes another one, or something that is none.
  void edit_number(std::string& text) {
    if (text.empty()) return;
    constexpr std::array<std::string_view, 20> kValues = {"0",
                                                          "1",
                                                          "-1",
                                                          "-9223372036854775808",
                                                          "8",
                                                          "1.5",
                                                          "65536",
                                                          "2147483648",
                                                          "4294967296",
                                                          "1048576",
                                                          "1048577",
                                                          "9223372036854775807",
                                                          "1e999",
                                                          "-1e-9",
                                                          "18446744073709551615",
                                                          "1e300",
                                                          "null",
                                                          "18446744073709551616",
                                                          "\"8\"",
                                                          "[]"};
    constexpr std::string_view kDigits = "0123456789";
    size_t begin = text.find_first_of(kDigits, below(text.size()));
    if (begin == std::string::npos) return flip_bit(text);
    if (begin > 0 && text[begin - 1] == '-') --begin;
    const size_t end = std::min(text.find_first_not_of(kDigits, begin + 1), text.size());
    text.replace(begin, end - begin, kValues[below(kValues.size())]);
  }

  std::mt19937_64 rng_;
};

}  // namespace switchyard::fuzz
