// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/dispatcher/device_transport_test.cc -- dispatchers over a link that only moves bytes, as NCCL
// does between GPUs; here on threads of the CPU. Bits, sizes, and what happens once it is over.
#include "comm/device_transport.h"

#include <gtest/gtest.h>

#include <atomic>

#include "dispatcher/parts.h"
#include "testing/host_link.h"
#include "testing/peer_dispatch.h"

namespace switchyard::testing {
namespace {

RowCarrier carrier_of(RowSizes sizes) {
  return sizes == RowSizes::Exact ? RowCarrier::NcclExact : RowCarrier::NcclBlocks;
}

// Shown each rank's link.
using Seen = std::function<void(HostLink&)>;

std::unique_ptr<Dispatcher> over_link(const DispatchCase& c, Communicator& comm,
                                      std::shared_ptr<Backend> backend, RowSizes sizes,
                                      const Seen& seen = {}) {
  auto link = std::make_shared<HostLink>(comm);
  if (seen) seen(*link);
  auto transport = std::make_shared<DeviceTransport>(comm, backend, sizes, std::move(link));
  return make_message_dispatcher(
      {c.config, c.options, comm, backend, carrier_of(sizes), std::move(transport)});
}

AllOutcomes on_threads(DispatchCase c, RowSizes sizes) {
  c.make = [sizes](const DispatchCase& one, Communicator& comm, std::shared_ptr<Backend> backend) {
    return over_link(one, comm, std::move(backend), sizes);
  };
  AllOutcomes all(static_cast<size_t>(c.num_ranks));
  run_local_ranks(c.num_ranks, [&](Communicator& comm) {
    all[static_cast<size_t>(comm.rank())] = run_dispatch(c, comm, make_cpu_backend(1), nullptr);
  });
  return all;
}

class DeviceTransportDispatch : public ::testing::TestWithParam<DispatchCase> {};
std::vector<DispatchCase> cases() {
  std::vector<DispatchCase> all;
  for (const int num_ranks : {2, 4, 8}) {
    for (const auto& some : {dispatch_cases(num_ranks, 64), f8_dispatch_cases(num_ranks, 264)})
      all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, DeviceTransportDispatch, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(DeviceTransportDispatch, GivesTheBitsOfTheCommunicator) {
  const auto expected = expected_outcomes(GetParam());
  EXPECT_EQ(difference(GetParam(), expected, on_threads(GetParam(), RowSizes::Blocks)), "");
  EXPECT_EQ(difference(GetParam(), expected, on_threads(GetParam(), RowSizes::Exact)), "");
}

TEST(DeviceTransport, ManyCallsOfAnyBoundOnOneWorkspace) {
  for (const int num_ranks : {2, 4}) {
    const auto c = random_calls(num_ranks, 200, 24, 7 + static_cast<uint64_t>(num_ranks));
    const auto expected = expected_outcomes(c);
    for (const auto sizes : {RowSizes::Blocks, RowSizes::Exact})
      EXPECT_EQ(difference(c, expected, on_threads(c, sizes)), "") << num_ranks << " ranks";
  }
}

// Ranks 0 to 3 and 4 to 7, then the even and the odd ones of each: groups of groups.
TEST(DeviceTransport, GroupsTakeTheLinkOfAll) {
  constexpr int kRanks = 8;
  std::vector<std::vector<int32_t>> gathered(kRanks), swapped(kRanks);
  run_local_ranks(kRanks, [&](Communicator& comm) {
    DeviceTransport all(comm, make_cpu_backend(1), RowSizes::Exact,
                        std::make_shared<HostLink>(comm));
    const auto half = all.split(comm.rank() / 4);
    const auto pair = half->split(comm.rank() % 2);
    ASSERT_EQ(pair->size(), 2);
    const auto at = static_cast<size_t>(comm.rank());
    const int32_t mine[] = {comm.rank(), 100 + comm.rank()};
    gathered[at].resize(4);
    pair->gather(Tensor(gathered[at].data(), {2, 2}), ConstTensor(mine, {2}), nullptr);
    pair->send(nullptr);
    // A row to each: its first word to rank 0 of the pair, the other to rank 1.
    swapped[at].resize(2);
    const int32_t counts[] = {1, 1, 1, 1};
    pair->exchange_rows({.dst = Tensor(swapped[at].data(), {2, 1}),
                         .src = ConstTensor(mine, {2, 1}),
                         .blocks = {},
                         .counts = ConstTensor(counts, {2, 2})},
                        nullptr);
  });
  for (int r = 0; r < kRanks; ++r) {
    const int32_t first = r / 4 * 4 + r % 2, second = first + 2;
    const int32_t sent = r == first ? 0 : 100;
    EXPECT_EQ(gathered[static_cast<size_t>(r)],
              (std::vector<int32_t>{first, 100 + first, second, 100 + second}));
    EXPECT_EQ(swapped[static_cast<size_t>(r)], (std::vector<int32_t>{sent + first, sent + second}));
  }
}

// 4-byte words that rank 0 sent in one dispatch and combine.
int64_t words_sent(RowSizes sizes, int64_t tokens, int64_t max_tokens, Skew skew,
                   DType rows = DType::Bf16) {
  DispatchCase c;
  c.config = dispatch_config(64, 8, 2);
  c.options.rows = rows;
  c.f8_experts = rows == DType::F8E4m3;
  c.calls.push_back({{tokens, tokens}, skew, 1, max_tokens});
  int64_t words = -1;
  c.make = [&](const DispatchCase& one, Communicator& comm, std::shared_ptr<Backend> backend) {
    return over_link(one, comm, std::move(backend), sizes, [&comm, &words](HostLink& link) {
      // Outlives the dispatcher's last call, which is when it is read.
      if (comm.rank() == 0) link.words_sent_to = &words;
    });
  };
  run_local_ranks(2,
                  [&](Communicator& comm) { run_dispatch(c, comm, make_cpu_backend(1), nullptr); });
  return words;
}

TEST(DeviceTransport, BlocksAreOfTheBoundOfTheCallAndExactSizesOfTheRouting) {
  const int64_t row = 64 / 2, slots = 2 * 2;  // words: bf16 [64]; ids and weights of K = 2
  EXPECT_EQ(words_sent(RowSizes::Blocks, 3, 5, Skew::Balanced), 5 * (row + slots) + 5 * row);
  EXPECT_EQ(words_sent(RowSizes::Blocks, 3, 40, Skew::NoExpert), 40 * (row + slots) + 40 * row);
  EXPECT_EQ(words_sent(RowSizes::Exact, 3, 40, Skew::NoExpert), 0);
  // Rank 0 sends no row to rank 1, whose 3 partial rows it sends back.
  EXPECT_EQ(words_sent(RowSizes::Exact, 3, 40, Skew::FirstHalfOnly), 3 * row);
  const int64_t f8 = 64 / 4 + 1;  // codes, a scale
  EXPECT_EQ(words_sent(RowSizes::Blocks, 3, 5, Skew::Balanced, DType::F8E4m3),
            5 * (f8 + slots) + 5 * row);
  EXPECT_EQ(words_sent(RowSizes::Exact, 3, 40, Skew::FirstHalfOnly, DType::F8E4m3), 3 * row);
}

// Of rank 0 in one dispatch and combine.
int64_t exchanges(DispatcherKind kind, int tp_size) {
  DispatchCase c;
  c.config = dispatch_config(64, 8, 2);
  c.num_ranks = 4;
  c.options.kind = kind;
  c.options.tp_size = tp_size;
  c.calls.push_back({{3, 3, 3, 3}, Skew::Balanced, 1, 5});
  int64_t count = 0;
  c.make = [&](const DispatchCase& one, Communicator& comm, std::shared_ptr<Backend> backend) {
    return over_link(one, comm, std::move(backend), RowSizes::Blocks,
                     [&comm, &count](HostLink& link) {
                       if (comm.rank() == 0) link.exchanges_to = &count;
                     });
  };
  run_local_ranks(4,
                  [&](Communicator& comm) { run_dispatch(c, comm, make_cpu_backend(1), nullptr); });
  return count;
}

// Each is a kernel of NCCL more, some 6 us in a graph, and orders what did not need it.
TEST(DeviceTransport, WhatDoesNotWaitForEachOtherTravelsTogether) {
  EXPECT_EQ(exchanges(DispatcherKind::AllGather, 1), 2) << "there and back";
  EXPECT_EQ(exchanges(DispatcherKind::Local, 4), 2) << "headers, and partial rows with statuses";
  EXPECT_EQ(exchanges(DispatcherKind::Normal, 1), 3) << "counts come before rows";
  EXPECT_EQ(exchanges(DispatcherKind::Normal, 2), 4) << "slices of a group after the sums";
}

TEST(DeviceTransport, ExactSizesAreRefusedWhileAGraphIsCapturedAndTheRanksGoOn) {
  DispatchCase c;
  c.config = dispatch_config(64, 8, 2);
  std::atomic<int> refused = 0;
  run_local_ranks(2, [&](Communicator& comm) {
    HostLink* made = nullptr;
    const auto dispatcher = over_link(c, comm, make_cpu_backend(1), RowSizes::Exact,
                                      [&](HostLink& link) { made = &link; });
    made->capturing = true;
    try {
      dispatcher->check_stream(nullptr);
    } catch (const Error& e) {
      refused += e.code() == Errc::Unsupported;
    }
    made->capturing = false;
    dispatcher->check_stream(nullptr);
    EXPECT_EQ(comm.failure_reason(), "");
  });
  EXPECT_EQ(refused, 2);
}

// The word that a watcher sets while work is on its way.
TEST(DeviceTransport, OnceAPeerIsLostTheStatusSaysSoWhateverCame) {
  Buffer<int32_t> status({kStatusWords});
  for (int64_t i = 0; i < kStatusWords; ++i) status[i] = static_cast<int32_t>(7 + i);
  const auto backend = make_cpu_backend(1);
  int32_t ended = 0;
  backend->ops().run(NoteEnded{status.view(), &ended, 1}, nullptr);
  EXPECT_EQ(status[0], 7);
  ended = 1;
  backend->ops().run(NoteEnded{status.view(), &ended, 1}, nullptr);
  EXPECT_EQ(status.values(), (std::vector<int32_t>{static_cast<int32_t>(Errc::Transport),
                                                   static_cast<int32_t>(StatusDetail::PeerLost), 1,
                                                   kGivenUpByHost, 0}));
}

TEST(DeviceTransport, ARankThatFindsItsLinkOverNamesWhoIsMissingAndTellsThePeers) {
  std::vector<std::string> said(3);
  run_local_ranks(3,
                  [&](Communicator& comm) {
                    const auto link = std::make_shared<HostLink>(comm);
                    DeviceTransport ranks(comm, make_cpu_backend(1), RowSizes::Blocks, link);
                    if (comm.rank() == 2) return;  // leaves its peers
                    link->is_over = 1;
                    int32_t mine = 0;
                    std::vector<int32_t> all(3);
                    try {
                      ranks.gather(Tensor(all.data(), {3}), ConstTensor(&mine, {1}), nullptr);
                      ranks.send(nullptr);
                    } catch (const Error& e) {
                      said[static_cast<size_t>(comm.rank())] = e.what();
                    }
                  },
                  {.deadline = std::chrono::milliseconds(300)});
  for (int r = 0; r < 2; ++r)
    EXPECT_NE(said[static_cast<size_t>(r)].find("rank 2 did not come"), std::string::npos)
        << said[static_cast<size_t>(r)];
}

TEST(DeviceTransport, WhereEveryRankIsThereTheRollSaysThatTheirCallsDiffer) {
  std::vector<std::string> said(2);
  run_local_ranks(2, [&](Communicator& comm) {
    DeviceTransport ranks(comm, make_cpu_backend(1), RowSizes::Blocks,
                          std::make_shared<HostLink>(comm));
    said[static_cast<size_t>(comm.rank())] = ranks.why_lost();
  });
  for (const auto& text : said)
    EXPECT_NE(text.find("every rank is here"), std::string::npos) << text;
}

}  // namespace
}  // namespace switchyard::testing
