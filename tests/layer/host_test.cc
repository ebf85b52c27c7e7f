// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/host_test.cc -- what a program that embeds the library may count on: whatever runs out
// is an Error, and what is the process's own stays as it was.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <cfenv>
#include <csignal>

#include "switchyard/layer.h"
#include "testing/allocations.h"
#include "testing/forked_ranks.h"
#include "testing/small_layer.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace switchyard {
namespace {

using testing::ForkedRanks;
using testing::g_allocations;
using testing::g_failing_allocation;
using testing::Seen;
using testing::SharedArray;

// Everything of a layer's life; what is the test's own was made before.
struct Life {
  MoeConfig config = testing::small_layer();
  LayerOptions options = testing::small_options("auto");
  std::vector<testing::SmallCall> calls;  // by rank

  explicit Life(int num_ranks) {
    for (int r = 0; r < num_ranks; ++r) calls.emplace_back(5);
  }
  void operator()(Communicator& comm) {
    const auto weights = random_weights(config, comm.size(), comm.rank(), 3);
    const auto layer = MoeLayer::create(config, weights, comm, options);
    layer->forward(calls[static_cast<size_t>(comm.rank())].with_gate());
    layer->wait();
  }
};

#if defined(__SANITIZE_THREAD__)
constexpr int64_t kEveryAllocation = 7;  // 50 ms each there
#else
constexpr int64_t kEveryAllocation = 1;
#endif

struct Outcome {
  bool failed;          // there was such an allocation
  std::string message;  // of the Error that came of it
};

template <class F>
Outcome with_failing_allocation(int64_t n, F body) {
  std::string message;
  g_failing_allocation = g_allocations + n;
  try {
    body();
  } catch (const Error& e) {
    message = e.what();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "allocation " << n << ": " << e.what() << " is no Error";
  }
  const bool failed = g_allocations >= g_failing_allocation;
  g_failing_allocation = 0;
  return {failed, message};
}

// It says that memory ran out; peers say who refused, or why they know.
bool is_of_memory(const std::string& message) {
  return message.find("memory") != std::string::npos ||
         message.find("refused its arguments (Unsupported)") != std::string::npos;
}

TEST(Host, AnAllocationThatFailsIsAnErrorWhicheverItIs) {
  for (const int num_ranks : {1, 2}) {
    Life life(num_ranks);
    const std::function<void(Communicator&)> live = std::ref(life);
    const auto body = [&] {
      run_local_ranks(num_ranks, live, {.deadline = std::chrono::seconds(5)});
    };
    body();
    int64_t num_failed = 0, num_errors = 0;
    // Of two ranks, which allocate in any order, one in seven.
    for (int64_t n = 1;; n += num_ranks == 1 ? kEveryAllocation : 7) {
      const Outcome outcome = with_failing_allocation(n, body);
      if (!outcome.failed) break;
      ++num_failed;
      num_errors += !outcome.message.empty();
      EXPECT_TRUE(outcome.message.empty() || is_of_memory(outcome.message))
          << "allocation " << n << ": " << outcome.message;
    }
    EXPECT_GT(num_errors, num_failed / 2) << "of " << num_failed;  // some can be done without
    body();
  }
}

TEST(Host, AChildOfForkGetsAnErrorFromWhatWasMadeBefore) {
  const MoeConfig config = testing::small_layer();
  const auto weights = random_weights(config, 1, 0, 3);
  auto layer = MoeLayer::create(config, weights, testing::small_options("auto"));
  testing::SmallCall call(5);
  layer->forward(call.with_gate());
  testing::GatherTable table;
  std::unique_ptr<Communicator> pair[2];
  {
    std::jthread other([&] { pair[1] = make_process_rank(1, 2, table.of(1, 2)); });
    pair[0] = make_process_rank(0, 2, table.of(0, 2));
  }
  SharedArray<Seen> seen(2);
  ForkedRanks child(1, [&](int) {
    const auto note = [&](size_t i, const std::function<void()>& f) {
      try {
        f();
      } catch (const Error& e) {
        seen[i].say(e);
      }
    };
    note(0, [&] { layer->forward(call.with_gate()); });
    note(1, [&] { meet(*pair[0]); });
    pair[0]->abort("the child ends");
    layer.reset();
    auto options = testing::small_options("auto");
    options.num_threads = 1;  // the thread sanitizer allows no new ones here
    const auto own = MoeLayer::create(config, weights, options);
    own->forward(call.with_gate());
    own->wait();
  });
  EXPECT_TRUE(child.finished(0, std::chrono::seconds(20)));
  for (size_t i = 0; i < 2; ++i)
    EXPECT_TRUE(seen[i].says("Make what the child needs after the fork")) << seen[i].message;
  // The parent's are as they were.
  layer->forward(call.with_gate());
  layer->wait();
  std::jthread other([&] { meet(*pair[1]); });
  meet(*pair[0]);
}

TEST(Host, ModesOfTheProcessAndTheThreadStayAsTheyWere) {
  const auto modes = [] {
    std::vector<int64_t> all{std::fegetround()};
#if defined(__x86_64__)
    all.push_back(_mm_getcsr() & ~0x3fu);  // without the flags of what happened
#endif
    const mode_t mask = ::umask(0);
    ::umask(mask);
    all.push_back(mask);
    for (const int signal : {SIGPIPE, SIGINT, SIGTERM, SIGSEGV, SIGCHLD, SIGABRT}) {
      struct sigaction action {};
      sigaction(signal, nullptr, &action);
      all.push_back(reinterpret_cast<int64_t>(action.sa_handler));
    }
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    for (int signal = 1; signal < 32; ++signal) all.push_back(sigismember(&blocked, signal));
    return all;
  };
  std::fesetround(FE_UPWARD);
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() | 0x8040);  // denormal numbers are zero
#endif
  const auto comm = std::move(make_local_ranks(1).front());
  Life life(1);
  const auto before = modes();
  life(*comm);
  EXPECT_EQ(modes(), before);
  std::fesetround(FE_TONEAREST);
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() & ~0x8040u);
#endif
}

}  // namespace
}  // namespace switchyard
