// src/comm/cards.h -- steps of an introduction that every rank takes, or none.
#pragma once

#include <optional>
#include <type_traits>
#include <vector>

#include "base/require.h"
#include "switchyard/communicator.h"

namespace switchyard {

// all[r] = `mine` of rank r: plain words, in memory of the host.
template <class Card>
std::vector<Card> show_cards(Communicator& communicator, const Card& mine) {
  static_assert(std::is_trivially_copyable_v<Card> && sizeof(Card) % sizeof(int64_t) == 0);
  constexpr int64_t kWords = sizeof(Card) / sizeof(int64_t);
  std::vector<Card> all(static_cast<size_t>(communicator.size()));
  communicator.all_gather(Tensor(all.data(), DType::I64, {communicator.size(), kWords}),
                          ConstTensor(&mine, DType::I64, {kWords}), nullptr);
  return all;
}

// Runs `part`, which may write on the card, and shows it to the others; if it threw somewhere,
// every rank throws. Card::code is that of an Error; 0: good. `operation` begins the message.
template <class Card, class F>
std::vector<Card> together(const char* operation, Communicator& communicator, Card& mine, F part) {
  std::optional<Error> failed;
  try {
    part();
  } catch (const Error& e) {
    failed.emplace(e);
    mine.code = static_cast<int64_t>(e.code());
  }
  auto all = show_cards(communicator, mine);
  if (failed) throw *failed;
  for (size_t r = 0; r < all.size(); ++r)
    if (const auto code = static_cast<Errc>(all[r].code); all[r].code != 0)
      throw Error(code, cat(operation, ": rank ", r, " refused (", errc_name(code),
                            "). See the error thrown there."));
  return all;
}

}  // namespace switchyard
