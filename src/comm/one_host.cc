// src/comm/one_host.cc
#include "comm/one_host.h"

#include <algorithm>

#include "comm/process_identity.h"

namespace switchyard {

bool are_on_one_host(Communicator& communicator) {
  if (communicator.size() == 1 || communicator.shares_process()) return true;
  using Host = decltype(ProcessIdentity::host);
  constexpr auto kWords = static_cast<int64_t>(std::tuple_size_v<Host>);
  const Host mine = ProcessIdentity::mine().host;
  std::vector<Host> all(static_cast<size_t>(communicator.size()));
  communicator.all_gather(Tensor(all.data(), DType::I64, {communicator.size(), kWords}),
                          ConstTensor(mine.data(), DType::I64, {kWords}), nullptr);
  return std::all_of(all.begin(), all.end(), [&](const Host& host) { return host == mine; });
}

}  // namespace switchyard
