// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/dispatcher/active_ranks_test.cc -- a rank that is lost between dispatch and combine of a call,
// of dispatchers that outlive it; whole layers: tests/layer/active_ranks_test.cc.
#include <gtest/gtest.h>

#include <functional>
#include <latch>
#include <optional>

#include "base/peer_control.h"
#include "base/status.h"
#include "testing/peer_dispatch.h"

namespace switchyard::testing {
namespace {

TEST(ActiveRanks, ARankThatIsLostBeforeItsPartialRowsIsNamedWithThem) {
  constexpr int kRanks = 3;
  constexpr int64_t kTokens = 6, kHidden = 16, kTopK = 2;
  for (const bool at_source : {false, true}) {
    std::latch done(2);
    run_local_ranks(kRanks, [&](Communicator& comm) {
      const auto backend = make_cpu_backend(1);
      Buffer<int64_t> active({1}), dropped({1});
      active[0] = static_cast<int64_t>(first_ranks(kRanks));
      dropped[0] = 0;
      const auto dispatcher = make_dispatcher(dispatch_config(kHidden, 6, kTopK),
                                              {.kind = DispatcherKind::LowLatency,
                                               .peer_memory = true,
                                               .sums_at_source = at_source,
                                               .lost_rank_timeout = std::chrono::milliseconds(1000),
                                               .active_ranks = active.view(),
                                               .dropped_routes = dropped.view()},
                                              comm, backend);
      const size_t bytes = dispatcher->workspace_bytes(kTokens);
      const auto memory = allocate(*backend, bytes);
      const Workspace workspace{memory.get(), bytes};
      dispatcher->connect(workspace, kTokens, memory);

      const auto x = random_bf16({kTokens, kHidden}, 3);
      const auto ids = random_ids(kTokens, 6, kTopK, Skew::Balanced, 4);
      const auto weights = random_f32({kTokens, kTopK}, 5, 0.1f, 1.0f);
      StatusWords words;
      const Tensor status(&words.code, {kStatusWords});
      const auto call = dispatcher->dispatch(workspace, x.view(), ids.view(), weights.view(),
                                             kTokens, status, nullptr);
      EXPECT_TRUE(words.good());
      if (comm.rank() == 2) return done.wait();
      const int64_t num_rows = dispatcher->max_rows(kTokens);
      const auto rows = random_bf16({num_rows, kHidden}, 7);
      Buffer<int32_t> row_of_slot({num_rows, kTopK});
      for (int64_t s = 0; s < row_of_slot.count(); ++s)
        row_of_slot[s] =
            call.received.ids.as<int32_t>()[s] < 0 ? kNoRow : static_cast<int32_t>(s / kTopK);
      Buffer<Bf16> out({kTokens, kHidden});
      std::fill_n(out.data(), out.count(), Bf16(1.0f));
      const SlotSums sums{rows.view(), row_of_slot.view(), call.received.weights};
      dispatcher->combine(out.view(), dispatcher->sum_experts(sums, call, {}, nullptr), call, {},
                          status, nullptr);
      EXPECT_EQ(words.code, static_cast<int32_t>(Errc::Transport));
      EXPECT_EQ(status_message(words).find("combine: partial rows of rank 2 did not come"), 0u)
          << status_message(words);
      EXPECT_EQ(*dispatcher->missing_ranks(workspace).as<uint64_t>(), rank_bit(2));
      for (int64_t i = 0; i < out.count(); ++i)
        ASSERT_NE(static_cast<float>(out[i]), static_cast<float>(out[i]));
      EXPECT_EQ(dropped[0], 0);
      done.count_down();
      done.wait();
    });
  }
}

TEST(ActiveRanks, DispatchersThatLackWhatTheyNeedAreRefused) {
  Buffer<int64_t> word({1});
  const auto code_with = [&](const std::function<void(DispatcherOptions&)>& change) {
    std::optional<Errc> code;
    run_local_ranks(2, [&](Communicator& comm) {
      DispatcherOptions options{.kind = DispatcherKind::LowLatency,
                                .lost_rank_timeout = std::chrono::milliseconds(1000),
                                .active_ranks = word.view(),
                                .dropped_routes = word.view()};
      change(options);
      try {
        make_dispatcher(dispatch_config(16, 6, 2), options, comm, make_cpu_backend(1));
      } catch (const Error& e) {
        if (comm.rank() == 0) code = e.code();
      }
    });
    return code;
  };
  EXPECT_EQ(code_with([](auto&) {}), std::nullopt);
  EXPECT_EQ(code_with([](auto& o) { o.active_ranks = {}; }), Errc::ShapeMismatch);
  EXPECT_EQ(code_with([](auto& o) { o.dropped_routes = {}; }), Errc::ShapeMismatch);
  EXPECT_EQ(code_with([](auto& o) { o.host_ordered = true; }), Errc::Unsupported);
  EXPECT_EQ(code_with([](auto& o) { o.kind = DispatcherKind::Normal; }), Errc::Unsupported);
  EXPECT_EQ(code_with([](auto& o) { o.peer_memory = false; }), Errc::Unsupported);
}

}  // namespace
}  // namespace switchyard::testing
