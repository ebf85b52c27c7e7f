// src/comm/process_identity.cc
#include "comm/process_identity.h"

#include <unistd.h>

#include <cstring>
#include <fstream>
#include <random>
#include <string>

namespace switchyard {
namespace {

// The kernel draws it anew at every boot; without one, the host's name has to do.
std::array<int64_t, 2> host_words() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  std::getline(file, text);
  std::erase(text, '-');
  std::array<int64_t, 2> words{};
  if (text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string::npos) {
    for (size_t i = 0; i < 2; ++i)
      words[i] = static_cast<int64_t>(std::stoull(text.substr(16 * i, 16), nullptr, 16));
    return words;
  }
  char name[sizeof words] = {};
  (void)gethostname(name, sizeof name - 1);
  std::memcpy(words.data(), name, sizeof words);
  return words;
}

int64_t draw() {
  std::random_device random;
  return static_cast<int64_t>(uint64_t{random()} << 32 | random());
}

}  // namespace

ProcessIdentity ProcessIdentity::mine() {
  static const auto here = host_words();
  static const int64_t nonce = draw();  // a forked child has another pid
  return {here, getpid(), nonce};
}

}  // namespace switchyard
