// src/comm/one_host.cc
#include "comm/one_host.h"

#include <algorithm>

#include "comm/cards.h"
#include "comm/process_identity.h"

namespace switchyard {

bool are_on_one_host(Communicator& communicator) {
  if (communicator.size() == 1 || communicator.shares_process()) return true;
  const auto mine = ProcessIdentity::mine().host;
  const auto all = show_cards(communicator, mine);
  return std::all_of(all.begin(), all.end(), [&](const auto& host) { return host == mine; });
}

}  // namespace switchyard
