// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/errors_test.cc -- errors reach every rank or none, and nothing hangs.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <thread>

#include "layer/agreement.h"
#include "switchyard/dispatcher.h"
#include "switchyard/executor.h"
#include "switchyard/layer.h"
#include "testing/routing.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::Skew;

MoeConfig small_config() {
  MoeConfig config;
  config.hidden = 64;
  config.intermediate = 32;
  config.num_experts = 24;
  config.top_k = 2;
  return config;
}

LayerOptions small_options(const std::string& strategy = "auto") {
  LayerOptions options;
  options.max_tokens = 16;
  options.strategy = strategy;
  options.num_threads = 1;
  return options;
}

// One rank's layer and good arguments for it, to be broken by a test.
struct Rank {
  explicit Rank(Communicator& comm, const LayerOptions& options = small_options())
      : layer(MoeLayer::create(small_config(),
                               random_weights(small_config(), comm.size(), comm.rank(), 5), comm,
                               options)),
        hidden(testing::random_bf16({6, 64}, static_cast<uint64_t>(comm.rank()))),
        ids(testing::random_ids(6, 24, 2, Skew::Balanced, 9)),
        weights(testing::random_f32({6, 2}, 3, 0.1f, 1.0f)),
        output({6, 64}) {}

  ForwardArgs args() {
    return {.output = output.view(),
            .hidden = hidden.view(),
            .ids = ids.view(),
            .weights = weights.view()};
  }
  bool poisoned() const {
    for (int64_t i = 0; i < output.count(); ++i)
      if (!std::isnan(static_cast<float>(output[i]))) return false;
    return true;
  }
  bool finite() const {
    for (int64_t i = 0; i < output.count(); ++i)
      if (!std::isfinite(static_cast<float>(output[i]))) return false;
    return true;
  }

  std::unique_ptr<MoeLayer> layer;
  Buffer<Bf16> hidden;
  Buffer<int32_t> ids;
  Buffer<float> weights;
  Buffer<Bf16> output;
};

struct Seen {
  std::string forward, wait;  // messages; empty: no error
  int code = 0;
  bool poisoned = false;
};

template <class F>
std::string message_of(F&& f, int& code) {
  try {
    f();
  } catch (const Error& e) {
    code = static_cast<int>(e.code());
    return e.what();
  }
  return "";
}

// Every rank runs forward and wait with arguments that `breaks` may break, then a good forward.
std::vector<Seen> run(int num_ranks, const std::function<void(int, Rank&, ForwardArgs&)>& breaks,
                      const LayerOptions& options = small_options()) {
  std::vector<Seen> seen(static_cast<size_t>(num_ranks));
  std::vector<char> recovered(static_cast<size_t>(num_ranks), 0);
  run_local_ranks(num_ranks, [&](Communicator& comm) {
    Rank rank(comm, options);
    auto args = rank.args();
    breaks(comm.rank(), rank, args);
    Seen& mine = seen[static_cast<size_t>(comm.rank())];
    mine.forward = message_of([&] { rank.layer->forward(args); }, mine.code);
    if (mine.forward.empty()) mine.wait = message_of([&] { rank.layer->wait(); }, mine.code);
    mine.poisoned = rank.poisoned();

    Rank fresh_buffers = Rank(comm, options);
    fresh_buffers.layer->forward(fresh_buffers.args());
    fresh_buffers.layer->wait();
    auto good = fresh_buffers.args();
    rank.layer->forward(good);  // the same layer goes on
    rank.layer->wait();
    recovered[static_cast<size_t>(comm.rank())] = fresh_buffers.finite();
  });
  for (const char r : recovered) EXPECT_TRUE(r);
  return seen;
}

TEST(LayerErrors, WrongArgumentsOnOneRankFailEveryRankAndHangNone) {
  const Buffer<Bf16> narrow({6, 56});
  for (const char* strategy : {"normal+contiguous", "all_gather+masked"}) {
    const auto seen = run(
        4,
        [&](int rank, Rank&, ForwardArgs& args) {
          if (rank == 1) args.hidden = narrow.view();
        },
        small_options(strategy));
    EXPECT_EQ(seen[1].forward,
              "forward: hidden is not bf16 [6, 64]. Pass rows of the layer's hidden size.");
    for (const int r : {0, 2, 3}) {
      const auto& s = seen[static_cast<size_t>(r)];
      EXPECT_EQ(s.forward, "");
      EXPECT_EQ(
          s.wait,
          "forward: rank 1 refused its arguments (ShapeMismatch). See the error thrown there.");
      EXPECT_EQ(s.code, static_cast<int>(Errc::ShapeMismatch));
      EXPECT_TRUE(s.poisoned);
    }
  }
}

// As a binding does whose caller gave what no ForwardArgs can hold.
TEST(LayerErrors, ARankThatRefusesACallTakesPartWithoutRows) {
  for (const char* strategy : {"normal+contiguous", "all_gather+masked"})
    for (const int64_t bound : {int64_t{-1}, int64_t{8}, int64_t{-7}, INT64_MAX}) {
      std::vector<Seen> seen(3);
      run_local_ranks(3, [&](Communicator& comm) {
        Rank rank(comm, small_options(strategy));
        Seen& mine = seen[static_cast<size_t>(comm.rank())];
        ForwardArgs args = rank.args();
        args.max_tokens = bound == 8 ? 8 : -1;  // what is no bound is taken for the capacity
        if (comm.rank() == 1)
          rank.layer->refuse_forward(bound, nullptr);
        else
          rank.layer->forward(args);
        mine.wait = message_of([&] { rank.layer->wait(); }, mine.code);
        mine.poisoned = rank.poisoned();
        rank.layer->forward(rank.args());  // the same layer goes on
        rank.layer->wait();
        if (!rank.finite()) mine.forward = "not finite";
      });
      EXPECT_EQ(seen[1].wait, "") << "its caller knows";
      for (const Seen& s : seen) EXPECT_EQ(s.forward, "");
      for (const size_t r : {0, 2}) {
        EXPECT_EQ(
            seen[r].wait,
            "forward: rank 1 refused its arguments (ShapeMismatch). See the error thrown there.");
        EXPECT_EQ(seen[r].code, static_cast<int>(Errc::ShapeMismatch));
        EXPECT_TRUE(seen[r].poisoned);
      }
    }
}

TEST(LayerErrors, AnEarlierErrorComesBeforeARefusal) {
  run_local_ranks(2, [](Communicator& comm) {
    Rank rank(comm);
    if (comm.rank() == 0) rank.ids[5] = 24;
    rank.layer->forward(rank.args());
    int code = 0;
    const std::string text = message_of(
        [&] {
          if (comm.rank() == 1)
            rank.layer->refuse_forward(-1, nullptr);
          else
            rank.layer->forward(rank.args());
        },
        code);
    EXPECT_TRUE(text.starts_with("forward: expert id=24 on rank 0")) << text;
    EXPECT_EQ(code, static_cast<int>(Errc::BadRouting));
  });
}

TEST(LayerErrors, OneRankAloneHasNobodyToRefuseFor) {
  auto comm = std::move(make_local_ranks(1).front());
  MoeLayer::refuse_create(*comm);
  Rank rank(*comm);
  rank.ids[5] = 24;
  rank.layer->forward(rank.args());
  rank.layer->refuse_forward(-1, nullptr);  // the sticky error stays
  EXPECT_THROW(rank.layer->wait(), Error);
}

TEST(LayerErrors, EachWrongArgumentIsRefusedWithItsName) {
  struct Wrong {
    const char* what;
    std::function<void(Rank&, ForwardArgs&)> make;
  };
  Buffer<Bf16> other({7, 64});
  Buffer<float> floats({6, 2});
  const Wrong all[] = {
      {"max_tokens=17", [](Rank&, ForwardArgs& a) { a.max_tokens = 17; }},
      {"max_tokens=-2", [](Rank&, ForwardArgs& a) { a.max_tokens = -2; }},
      {"tokens=6, at most max_tokens=5", [](Rank&, ForwardArgs& a) { a.max_tokens = 5; }},
      {"output is not bf16 [6, 64]", [&](Rank&, ForwardArgs& a) { a.output = other.view(); }},
      {"hidden is not bf16 [6, 64]", [](Rank&, ForwardArgs& a) { a.hidden.dtype = DType::F16; }},
      {"output overlaps hidden", [](Rank& r, ForwardArgs& a) { a.output = r.hidden.view(); }},
      {"ids and weights must be given together", [](Rank&, ForwardArgs& a) { a.weights = {}; }},
      {"ids is not i32 or i64 [6, 2]",
       [&](Rank&, ForwardArgs& a) { a.ids = std::as_const(floats).view(); }},
      {"weights is not f32 [6, 2]",
       [](Rank& r, ForwardArgs& a) { a.weights = std::as_const(r.ids).view(); }},
      {"hidden address is not a multiple of 16",
       [](Rank& r, ForwardArgs& a) { a.hidden.data = r.hidden.data() + 1; }},
      {"hidden is null", [](Rank&, ForwardArgs& a) { a.hidden.data = nullptr; }},
      {"output is on cuda", [](Rank&, ForwardArgs& a) { a.output.device = DeviceKind::Cuda; }},
      {"ids is on cuda", [](Rank&, ForwardArgs& a) { a.ids.device = DeviceKind::Cuda; }},
      {"weights is on cuda", [](Rank&, ForwardArgs& a) { a.weights.device = DeviceKind::Cuda; }},
  };
  for (const auto& wrong : all) {
    const auto seen = run(1, [&](int, Rank& r, ForwardArgs& a) { wrong.make(r, a); });
    EXPECT_NE(seen[0].forward.find(wrong.what), std::string::npos)
        << wrong.what << " / " << seen[0].forward;
  }
}

TEST(LayerErrors, AnOutputOverAnyInputOrTheWorkspaceIsRefused) {
  alignas(128) std::array<std::byte, 4096> ids_and_output{};
  const auto name_of = [&](const std::function<void(Rank&, ForwardArgs&)>& breaks,
                           const LayerOptions& options = small_options()) {
    return run(
               1, [&](int, Rank& r, ForwardArgs& a) { breaks(r, a); }, options)[0]
        .forward;
  };
  const auto at = [&](size_t offset) { return ids_and_output.data() + offset; };
  EXPECT_EQ(name_of([&](Rank&, ForwardArgs& a) {
              a.ids.data = at(760);  // its last 8 bytes are the output's first
              a.output.data = at(800);
            }),
            "forward: output overlaps ids. Give it memory of its own.");
  EXPECT_EQ(name_of([&](Rank&, ForwardArgs& a) {
              a.output.data = at(0);
              a.weights.data = at(6 * 64 * 2 - 4);
            }),
            "forward: output overlaps weights. Give it memory of its own.");
  EXPECT_EQ(name_of([&](Rank&, ForwardArgs& a) {  // neighbours
              a.output.data = at(128);
              a.ids.data = at(128 - 6 * 2 * 4);
              a.weights.data = at(128 + 6 * 64 * 2);
              std::memset(at(0), 0, 4096);
            }),
            "");
  auto options = small_options();
  options.shared_workspace = std::make_shared<SharedWorkspace>(make_cpu_backend(1));
  const auto in_workspace = [&] {
    return static_cast<std::byte*>(options.shared_workspace->reserve(1).workspace.data) + 128;
  };
  for (const auto& [name, view] :
       std::initializer_list<std::pair<std::string, std::function<void(ForwardArgs&)>>>{
           {"output", [&](ForwardArgs& a) { a.output.data = in_workspace(); }},
           {"hidden", [&](ForwardArgs& a) { a.hidden.data = in_workspace(); }},
           {"ids", [&](ForwardArgs& a) { a.ids.data = in_workspace(); }},
           {"weights", [&](ForwardArgs& a) { a.weights.data = in_workspace(); }}})
    EXPECT_EQ(name_of([&view = view](Rank&, ForwardArgs& a) { view(a); }, options),
              "forward: " + name + " overlaps the workspace. Give it memory of its own.");
}

TEST(LayerErrors, ANegativeNumberOfTokensIsRefusedAndTheCommunicatorGoesOn) {
  for (const bool with_ids : {false, true})
    for (const int num_ranks : {1, 3}) {
      const auto seen = run(num_ranks, [&](int rank, Rank&, ForwardArgs& a) {
        if (!with_ids) a.ids = a.weights = {};
        if (rank > 0) return;
        a.hidden.shape = a.output.shape = {-1, 64};
        if (with_ids) a.ids.shape = a.weights.shape = {-1, 2};
      });
      EXPECT_EQ(seen[0].forward, "forward: tokens=-1, must not be negative. Pass 0 for none.");
      for (size_t r = 1; r < seen.size(); ++r)
        EXPECT_EQ(seen[r].wait,
                  "forward: rank 0 refused its arguments (ShapeMismatch). See the error thrown "
                  "there.");
    }
}

TEST(LayerErrors, AnOddAddressOfIdsOrWeightsIsRefused) {
  alignas(16) std::array<std::byte, 128> bytes{};
  const auto misaligned = [&](const std::function<void(ForwardArgs&)>& breaks) {
    return run(1, [&](int, Rank&, ForwardArgs& a) { breaks(a); })[0].forward;
  };
  EXPECT_EQ(misaligned([&](ForwardArgs& a) { a.ids.data = &bytes[2]; }),
            "forward: ids address is not a multiple of 4, the bytes of i32. Align it.");
  EXPECT_EQ(misaligned([&](ForwardArgs& a) {
              a.ids = ConstTensor(&bytes[4], DType::I64, {6, 2});
            }),
            "forward: ids address is not a multiple of 8, the bytes of i64. Align it.");
  EXPECT_EQ(misaligned([&](ForwardArgs& a) { a.weights.data = &bytes[1]; }),
            "forward: weights address is not a multiple of 4, the bytes of f32. Align it.");
}

TEST(LayerErrors, IdsOutOfRangePoisonAndThrowInWaitOnEveryRank) {
  for (const int32_t bad : {24, -2, 1 << 30}) {
    for (const int num_ranks : {1, 2, 4}) {
      const auto seen = run(num_ranks, [&](int rank, Rank& r, ForwardArgs&) {
        if (rank == num_ranks - 1) r.ids[5] = bad;
      });
      for (const auto& s : seen) {
        EXPECT_EQ(s.forward, "");
        EXPECT_NE(s.wait.find("expert id=" + std::to_string(bad) + " on rank " +
                              std::to_string(num_ranks - 1)),
                  std::string::npos)
            << s.wait;
        EXPECT_EQ(s.code, static_cast<int>(Errc::BadRouting));
        EXPECT_TRUE(s.poisoned);
      }
    }
  }
}

TEST(LayerErrors, AnIdGivenAsI64IsShownAsItCame) {
  struct Ids {
    Buffer<int64_t> wide = Buffer<int64_t>({6, 2});
  };
  for (const std::string strategy : {"auto", "all_gather+contiguous", "normal+masked"})
    for (const int pieces : {1, 3})
      for (const int num_ranks : {1, 2, 4}) {
        if (num_ranks == 1 && (pieces > 1 || strategy != "auto")) continue;
        for (const int64_t bad : {int64_t{24}, int64_t{-2}, int64_t{1} << 31, int64_t{1} << 32,
                                  -(int64_t{1} << 40), INT64_MAX, INT64_MIN}) {
          auto options = small_options(strategy);
          options.token_pieces = pieces;
          std::vector<Ids> ids(static_cast<size_t>(num_ranks));
          const auto seen = run(
              num_ranks,
              [&](int rank, Rank& r, ForwardArgs& args) {
                auto& wide = ids[static_cast<size_t>(rank)].wide;
                for (int64_t i = 0; i < wide.count(); ++i) wide[i] = r.ids[i];
                if (rank == num_ranks - 1) {
                  wide[5] = bad;
                  wide[6] = int64_t{1} << 50;  // a later one
                }
                args.ids = std::as_const(wide).view();
              },
              options);
          for (const auto& s : seen) {
            EXPECT_EQ(s.forward, "");
            EXPECT_NE(s.wait.find("expert id=" + std::to_string(bad) + " on rank " +
                                  std::to_string(num_ranks - 1) + ","),
                      std::string::npos)
                << s.wait << " / " << strategy << ", " << pieces << " pieces";
            EXPECT_EQ(s.code, static_cast<int>(Errc::BadRouting));
            EXPECT_TRUE(s.poisoned);
          }
        }
      }
}

TEST(LayerErrors, OfSeveralBadIdsBothWidthsNameTheSame) {
  for (const int pieces : {1, 3})
    for (const int num_ranks : {1, 2, 3}) {
      if (num_ranks == 1 && pieces > 1) continue;
      std::string messages[2];
      for (const bool as_i64 : {false, true}) {
        auto options = small_options("auto");
        options.token_pieces = pieces;
        std::vector<Buffer<int64_t>> ids;
        for (int r = 0; r < num_ranks; ++r) ids.emplace_back(Shape{6, 2});
        const auto seen = run(
            num_ranks,
            [&](int rank, Rank& r, ForwardArgs& args) {
              // Rank 0 errs late, in another piece; all of them several times.
              r.ids[rank == 0 ? 11 : 4 - rank] = 100 + rank;
              r.ids[rank == 0 ? 10 : 5] = 200 + rank;
              auto& wide = ids[static_cast<size_t>(rank)];
              for (int64_t i = 0; i < wide.count(); ++i) wide[i] = r.ids[i];
              if (as_i64) args.ids = std::as_const(wide).view();
            },
            options);
        for (const auto& s : seen) EXPECT_EQ(s.wait, seen.front().wait);
        messages[as_i64] = seen.front().wait;
      }
      EXPECT_NE(messages[0].find("expert id="), std::string::npos);
      EXPECT_EQ(messages[0], messages[1]) << pieces << " pieces, " << num_ranks << " ranks";
    }
}

TEST(LayerErrors, AMaskedOverflowOnOneRankThrowsInWaitOnEveryRank) {
  const auto seen = run(
      2,
      [](int, Rank& r, ForwardArgs& args) {
        args.max_tokens = 6;
        for (int64_t i = 0; i < r.ids.count(); ++i)
          r.ids[i] = 13;  // 24 slots of an expert of rank 1, 12 rows
      },
      small_options("masked"));
  for (const auto& s : seen) {
    EXPECT_NE(s.wait.find("rows of one expert=24 on rank 1"), std::string::npos) << s.wait;
    EXPECT_TRUE(s.poisoned);
  }
}

TEST(LayerErrors, DifferentBoundsAreNamedOnEveryRank) {
  const auto seen = run(
      2, [](int rank, Rank&, ForwardArgs& args) { args.max_tokens = rank == 1 ? 7 : 8; },
      small_options("normal+contiguous"));
  for (const auto& s : seen)
    EXPECT_NE(s.wait.find("max_tokens=7 on rank 1"), std::string::npos) << s.wait;
}

TEST(LayerErrors, TheNextForwardThrowsWhatNobodyWaitedFor) {
  auto alone = make_local_ranks(1);
  Rank rank(*alone[0]);
  rank.ids[0] = 99;
  rank.layer->forward(rank.args());
  rank.ids[0] = 23;
  EXPECT_THROW(rank.layer->forward(rank.args()), Error);
  rank.layer->forward(rank.args());  // thrown once, cleared
  rank.layer->wait();
  EXPECT_TRUE(rank.finite());
}

TEST(LayerErrors, AStalledRankBecomesAnErrorOnTheOthersWithinTheDeadline) {
  auto ranks = make_local_ranks(3, {.deadline = std::chrono::milliseconds(300)});
  std::vector<Seen> seen(3);
  std::vector<double> seconds(3, 0);
  const auto body = [&](size_t r) {
    Rank rank(*ranks[r]);
    if (r == 1) return;  // made its layer, never comes to forward
    const auto start = std::chrono::steady_clock::now();
    seen[r].forward = message_of([&] { rank.layer->forward(rank.args()); }, seen[r].code);
    seen[r].wait = message_of([&] { rank.layer->wait(); }, seen[r].code);
    seconds[r] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    seen[r].poisoned = rank.poisoned();
    EXPECT_THROW(rank.layer->forward(rank.args()), Error);  // the communicator stays over
    EXPECT_THROW(rank.layer->wait(), Error);
  };
  {
    std::vector<std::jthread> threads;
    for (size_t r = 0; r < 3; ++r) threads.emplace_back(body, r);
  }
  for (const size_t r : {0u, 2u}) {
    EXPECT_EQ(seen[r].forward, "");
    EXPECT_NE(seen[r].wait.find("rank 1 did not come within 300 ms"), std::string::npos)
        << seen[r].wait;
    EXPECT_EQ(seen[r].code, static_cast<int>(Errc::Transport));
    EXPECT_TRUE(seen[r].poisoned);
    EXPECT_LT(seconds[r], 20.0);
  }
  // The process goes on: a new communicator works.
  run_local_ranks(3, [](Communicator& comm) {
    Rank rank(comm);
    rank.layer->forward(rank.args());
    rank.layer->wait();
    if (!rank.finite()) throw Error(Errc::Transport, "not finite");
  });
}

TEST(Create, FailsOnEveryRankWhenOneRanksWeightsAreWrong) {
  std::vector<std::string> messages(3);
  run_local_ranks(3, [&](Communicator& comm) {
    const auto config = small_config();
    auto weights = random_weights(config, 3, comm.rank(), 1);
    if (comm.rank() == 2) weights.experts.order = GateUpOrder::Unset;
    int code = 0;
    messages[static_cast<size_t>(comm.rank())] =
        message_of([&] { MoeLayer::create(config, weights, comm, small_options()); }, code);
    EXPECT_EQ(code, static_cast<int>(Errc::ShapeMismatch));
  });
  EXPECT_EQ(messages[0],
            "create: rank 2 refused its arguments (ShapeMismatch). See the error thrown there.");
  EXPECT_EQ(messages[1], messages[0]);
  EXPECT_NE(messages[2].find("w1 order is unset"), std::string::npos) << messages[2];
}

TEST(Create, FailsOnThePeersOfARankThatRefuses) {
  std::vector<std::string> messages(3);
  run_local_ranks(3, [&](Communicator& comm) {
    int code = 0;
    messages[static_cast<size_t>(comm.rank())] = message_of(
        [&] {
          if (comm.rank() == 2) return MoeLayer::refuse_create(comm);
          MoeLayer::create(small_config(), random_weights(small_config(), 3, comm.rank(), 1), comm,
                           small_options());
        },
        code);
    EXPECT_EQ(code, comm.rank() == 2 ? 0 : static_cast<int>(Errc::ShapeMismatch));
    Rank rank(comm);  // the communicator goes on
    rank.layer->forward(rank.args());
    rank.layer->wait();
    EXPECT_TRUE(rank.finite());
  });
  EXPECT_EQ(messages[0],
            "create: rank 2 refused its arguments (ShapeMismatch). See the error thrown there.");
  EXPECT_EQ(messages[1], messages[0]);
  EXPECT_EQ(messages[2], "");
}

TEST(Create, ARefusalOverALostCommunicatorSaysSo) {
  run_local_ranks(2, [](Communicator& comm) {
    comm.abort("out of patience");
    int code = 0;
    const std::string text = message_of([&] { MoeLayer::refuse_create(comm); }, code);
    EXPECT_EQ(code, static_cast<int>(Errc::Transport));
    EXPECT_NE(text.find("out of patience"), std::string::npos) << text;
  });
}

TEST(Create, FailsOnEveryRankWhenOptionsDiffer) {
  std::vector<std::string> messages(2);
  run_local_ranks(2, [&](Communicator& comm) {
    auto options = small_options();
    options.max_tokens = 16 + comm.rank();
    int code = 0;
    messages[static_cast<size_t>(comm.rank())] = message_of(
        [&] {
          MoeLayer::create(small_config(), random_weights(small_config(), 2, comm.rank(), 1), comm,
                           options);
        },
        code);
  });
  EXPECT_NE(messages[0].find("max_tokens of rank 1 differs from that of rank 0"), std::string::npos)
      << messages[0];
  EXPECT_EQ(messages[1], messages[0]);
}

// No device is needed to say so.
TEST(Create, RanksAgreeOnTheConfigurationsOfTheirGemms) {
  for (const auto member : {&PlanOptions::gemm1, &PlanOptions::gemm2}) {
    const std::string name = member == &PlanOptions::gemm1 ? "gemm1" : "gemm2";
    for (const std::string of_rank_1 : {"64x128x64, 7 stages, cluster of 1", "same"}) {
      std::vector<std::string> messages(2);
      run_local_ranks(2, [&](Communicator& comm) {
        LayerOptions options;
        options.*member = comm.rank() == 1 ? of_rank_1 : "same";
        int code = 0;
        messages[static_cast<size_t>(comm.rank())] =
            message_of([&] { agree_or_throw({}, LayerPlan({}, 2, options), comm); }, code);
      });
      const std::string expected =
          of_rank_1 == "same" ? "" : "create: " + name + " of rank 1 differs from that of rank 0";
      EXPECT_EQ(messages[0].substr(0, expected.size()), expected);
      EXPECT_EQ(messages[0].empty(), expected.empty()) << messages[0];
      EXPECT_EQ(messages[1], messages[0]);
    }
  }
}

// One rank alone has them: the others must not wait for it.
TEST(Create, RefusesNegativeNumbersAndStrangeEnumeratorsOnEveryRank) {
  struct Wrong {
    const char* what;
    std::function<void(MoeConfig&, LayerOptions&, LayerWeights&)> make;
  };
  const Wrong all[] = {
      {"create: num_threads=-1,", [](auto&, auto& o, auto&) { o.num_threads = -1; }},
      {"make_cpu_backend: num_threads=5000,", [](auto&, auto& o, auto&) { o.num_threads = 5000; }},
      {"create: token_pieces=-2,", [](auto&, auto& o, auto&) { o.token_pieces = -2; }},
      {"create: num_link_blocks=-1,", [](auto&, auto& o, auto&) { o.num_link_blocks = -1; }},
      {"create: num_sms=-1,", [](auto&, auto& o, auto&) { o.num_sms = -1; }},
      {"create: device=7,", [](auto&, auto& o, auto&) { o.device = DeviceKind(7); }},
      {"config: scoring=9,", [](auto& c, auto&, auto&) { c.gate.scoring = Scoring(9); }},
      {"config: scoring=-1,", [](auto& c, auto&, auto&) { c.gate.scoring = Scoring(-1); }},
      {"config: group_score=2,", [](auto& c, auto&, auto&) { c.gate.group_score = GroupScore(2); }},
      {"gemm1=64x128x64, 7 stages, cluster of 1, cpu has no configurations)",
       [](auto&, auto& o, auto&) { o.gemm1 = "64x128x64, 7 stages, cluster of 1"; }},
      {"gemm2=anything, cpu has no configurations)",
       [](auto&, auto& o, auto&) { o.gemm2 = "anything"; }},
      {"w1 order=9,", [](auto&, auto&, auto& w) { w.experts.order = GateUpOrder(9); }},
  };
  for (const Wrong& wrong : all) {
    std::vector<std::string> messages(2);
    run_local_ranks(2,
                    [&](Communicator& comm) {
                      auto config = small_config();
                      auto options = small_options();
                      auto weights = random_weights(config, 2, comm.rank(), 1);
                      if (comm.rank() == 1) wrong.make(config, options, weights);
                      int code = 0;
                      messages[static_cast<size_t>(comm.rank())] = message_of(
                          [&] { MoeLayer::create(config, weights, comm, options); }, code);
                    },
                    {.deadline = std::chrono::seconds(20)});
    EXPECT_NE(messages[0].find("rank 1 refused its arguments"), std::string::npos) << messages[0];
    EXPECT_NE(messages[1].find(wrong.what), std::string::npos) << messages[1];
  }
}

TEST(Create, PartsRefuseStrangeKindsAndRanks) {
  const auto config = small_config();
  const auto weights = random_weights(config, 1, 0, 1);
  const auto backend = make_cpu_backend(1);
  const auto comm = std::move(make_local_ranks(1).front());
  int code = 0;
  const auto executor_of = [&](ExecutorKind kind, int num_ranks, int rank) {
    ExecutorOptions options;
    options.kind = kind;
    return message_of(
        [&] { make_executor(config, options, weights.experts, num_ranks, rank, backend); }, code);
  };
  for (const auto member : {&ExecutorOptions::gemm1, &ExecutorOptions::gemm2}) {
    ExecutorOptions options;
    options.*member = "64x128x64, 7 stages, cluster of 1";
    EXPECT_NE(
        message_of([&] { make_executor(config, options, weights.experts, 1, 0, backend); }, code)
            .find("64x128x64, 7 stages, cluster of 1, cpu has no configurations)"),
        std::string::npos);
  }
  EXPECT_EQ(executor_of(ExecutorKind(9), 1, 0),
            "make_executor: kind=9, is none of ExecutorKind. Pass one of them.");
  for (const auto& [num_ranks, rank] : {std::pair{0, 0}, {-1, 0}, {1, -1}, {1, 1}})
    EXPECT_NE(executor_of(ExecutorKind::Masked, num_ranks, rank).find("make_executor: rank="),
              std::string::npos);
  EXPECT_EQ(message_of(
                [&] {
                  make_dispatcher(config, {DispatcherKind(-1), 1}, *comm, backend);
                },
                code),
            "make_dispatcher: kind=-1, is none of DispatcherKind. Pass one of them.");
  EXPECT_EQ(message_of([&] { make_cpu_backend(1, CpuForm(5)); }, code),
            "make_cpu_backend: form=5, is none of CpuForm. Pass Fast or Plain.");
  for (const int rank : {-1, 2})
    EXPECT_NE(message_of([&] { random_weights(config, 2, rank, 1); }, code).find("rank="),
              std::string::npos);
}

TEST(Create, NamesWeightsOfAnotherNumberOfRanks) {
  run_local_ranks(5, [&](Communicator& comm) {
    int code = 0;
    const auto message = message_of(
        [&] {
          MoeLayer::create(small_config(), random_weights(small_config(), 1, 0, 1), comm,
                           small_options());
        },
        code);
    EXPECT_NE(message.find("w1 is bf16 [24, 64, 64], need bf16 [5, 64, 64]"), std::string::npos)
        << message;
  });
}

TEST(Create, RefusesABackendOrWeightsOfAnotherDevice) {
  const auto create = [](const LayerOptions& options, DeviceKind weights_device) {
    auto weights = random_weights(small_config(), 1, 0, 1);
    weights.experts.w2.device = weights_device;
    int code = 0;
    return message_of([&] { MoeLayer::create(small_config(), weights, options); }, code);
  };
  auto options = small_options();
  EXPECT_EQ(create(options, DeviceKind::Cuda),
            "weights: w2 is on cuda, need cpu. Pass the ones on the host.");
  options.device = DeviceKind::Cuda;
  options.backend = make_cpu_backend(1);
  EXPECT_EQ(create(options, DeviceKind::Cpu),
            "create: backend is on cpu, device=cuda. Pass a backend of the layer's device.");
}

TEST(Create, RefusesAMaskedWorkspaceThatIsTooLargeWithItsBytes) {
  auto options = small_options("masked");
  options.max_tokens = 4096;
  options.workspace_limit_bytes = 1 << 20;
  int code = 0;
  const auto message = message_of(
      [&] { MoeLayer::create(small_config(), random_weights(small_config(), 1, 0, 1), options); },
      code);
  EXPECT_EQ(code, static_cast<int>(Errc::Unsupported));
  EXPECT_NE(message.find("the workspace is within the limit (saw "), std::string::npos) << message;
  options.strategy = "hybrid";  // masked only up to its threshold
  options.workspace_limit_bytes = 16 << 20;
  MoeLayer::create(small_config(), random_weights(small_config(), 1, 0, 1), options);
}

}  // namespace
}  // namespace switchyard
