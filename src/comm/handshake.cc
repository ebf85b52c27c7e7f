// src/comm/handshake.cc
#include "comm/handshake.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>

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

bool are_on_one_host(Communicator& communicator) {
  if (communicator.size() == 1 || communicator.shares_process()) return true;
  const auto mine = ProcessIdentity::mine().host;
  return std::ranges::count(exchange_words(communicator, mine), mine) == communicator.size();
}

std::string absence_message(const char* op, const std::string& missing,
                            std::chrono::milliseconds deadline) {
  return cat(
      op, ": rank ", missing, " did not come within ", deadline.count(),
      " ms, the deadline of this communicator. Look at that rank, then make a new communicator.");
}

void meet(Communicator& communicator) {
  const int32_t here = 1;
  std::vector<int32_t> all(communicator.size());
  communicator.all_gather(Tensor(all.data(), {communicator.size()}), ConstTensor(&here, {1}),
                          nullptr);
}

std::string await_reason(const Communicator& communicator, std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (true) {
    std::string reason = communicator.failure_reason();
    if (!reason.empty() || std::chrono::steady_clock::now() >= end) return reason;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace switchyard
