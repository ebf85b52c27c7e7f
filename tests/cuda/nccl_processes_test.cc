// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/nccl_processes_test.cc -- ranks over NCCL as processes, with a GPU each: the bits of
// thread ranks, over NVLink and over sockets as between hosts, and every way in which a rank can
// fail. A test starts this program anew for each rank (NcclProcess.IsARankOfAnotherTest) and kills
// whatever is left of them after a limit.
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "testing/gpu_layers.h"
#include "testing/nccl.h"
#include "testing/spawned_ranks.h"

namespace switchyard::testing {
namespace {

constexpr int kRanks = 2;
constexpr auto kDeadline = std::chrono::milliseconds(12000);  // NCCL has to start within it

// What parent and children share.
struct Board : SpawnedBoard {
  GatherTable gather;
  std::atomic<int> ready{0};
  Seen seen[kRanks];
};

LayerProblem problem(int tp_size = 1) {
  auto p = random_problem(
      small_config(), kRanks,
      [&](int r) { return tp_size > 1 ? int64_t{33} : int64_t{33} + 100 * r; }, Skew::Zipf, 7);
  p.tp_size = tp_size;
  for (int r = 1; r < tp_size; ++r) {  // the same tokens
    const auto at = static_cast<size_t>(r);
    p.hidden[at] = p.hidden[0], p.ids[at] = p.ids[0], p.router_weights[at] = p.router_weights[0];
  }
  return p;
}

LayerOptions over_nccl(const LayerProblem& p, const GpuRank& g, const std::string& strategy) {
  auto o = options_of(p, g, strategy);
  o.peer_memory = false;
  return o;
}

// ---- bits

uint64_t outputs(GpuRank& g) {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](const LayerProblem& p, const std::string& strategy, bool exact) {
    auto options = over_nccl(p, g, strategy);
    options.host_counts = exact;
    const RankLayer rank(p, g, options);
    g.everyone();
    for (const uint16_t b : rank.run()) hash = (hash ^ b) * 0x100000001b3u;
    g.everyone();
  };
  for (const std::string strategy : {"normal+contiguous", "normal+masked", "all_gather+hybrid"})
    add(problem(), strategy, false);
  add(problem(), "normal+masked", true);
  add(problem(kRanks), "local+contiguous", false);
  add(problem(kRanks), "normal+masked", false);
  return hash;
}

// ---- faults of rank 1

void forward_until_failure(GpuRank& g) {
  const auto p = problem();
  const RankLayer rank(p, g, over_nccl(p, g, "normal+contiguous"));
  while (true) {
    rank.layer->forward(rank.args());
    rank.layer->wait(g.stream);
  }
}

void replay_until_failure(GpuRank& g) {
  const auto p = problem();
  const RankLayer rank(p, g, over_nccl(p, g, "normal+contiguous"));
  rank.run();
  Graph graph(g.stream, [&] { rank.layer->forward(rank.args()); });
  while (true) {
    graph.launch(g.stream);
    rank.layer->wait(g.stream);
  }
}

// After one good call.
template <class F>
std::function<void(GpuRank&)> then(F f) {
  return [f](GpuRank& g) {
    const auto p = problem();
    const RankLayer rank(p, g, over_nccl(p, g, "normal+contiguous"));
    rank.run();
    f();
  };
}

struct Fault {
  const char* name;
  std::function<void(GpuRank&)> rank1;
  const char* message;            // what rank 0 must see, a part
  bool killed_by_parent = false;  // while it works
  std::function<void(GpuRank&)> rank0 = forward_until_failure;
};

const Fault kFaults[] = {
    {"KilledBeforeItsLayer", [](GpuRank&) { raise(SIGKILL); }, "rank 1 left"},
    {"NeverMakesALayer", [](GpuRank&) { std::this_thread::sleep_for(kSpawnLimit); },
     "rank 1 did not come"},
    {"KilledBetweenCalls", then([] { raise(SIGKILL); }), "rank 1 left"},
    {"KilledDuringCalls", forward_until_failure, "rank 1 left", true},
    {"KilledWhileGraphsReplay", replay_until_failure, "rank 1 left", true, replay_until_failure},
    {"Stopped", then([] { raise(SIGSTOP); }), "rank 1 did not come"},
    {"NeverEnters", then([] { std::this_thread::sleep_for(kSpawnLimit); }), "rank 1 did not come"},
};

const Fault& fault_named(const std::string& name) {
  return *std::find_if(std::begin(kFaults), std::end(kFaults),
                       [&](const Fault& f) { return f.name == name; });
}

// The process goes on, and its GPU with it.
bool works_alone() {
  const auto alone = make_local_ranks(1);
  const auto p = random_problem(
      small_config(), 1, [](int) { return int64_t{20}; }, Skew::Balanced, 9);
  bool good = false;
  run_gpu_rank({1, 1}, *alone[0], [&](GpuRank& g) {
    const RankLayer rank(p, g, options_of(p, g, "contiguous"));
    const auto bits = rank.run();
    good = bits == rank.run();
  });
  return good;
}

void run_fault(Board& board, int rank, const Fault& fault) {
  Seen& seen = board.seen[rank];
  ProcessRankOptions options;
  options.deadline = kDeadline;
  const auto comm = make_process_rank(rank, kRanks, board.gather.of(rank, kRanks), options);
  auto start = std::chrono::steady_clock::now();
  try {
    run_gpu_rank({kRanks, board.num_devices}, *comm, [&](GpuRank& g) {
      g.everyone();
      ++board.ready;
      start = std::chrono::steady_clock::now();
      rank == 1 ? fault.rank1(g) : fault.rank0(g);
    });
  } catch (const Error& e) {
    seen.say(e);
  }
  seen.seconds = seconds_since(start);  // with the end of the layer
  seen.recovered = works_alone();
}

// ---- the two sides

TEST(NcclProcess, IsARankOfAnotherTest) {
  const char* body = std::getenv(kSpawnBody);
  if (body == nullptr) GTEST_SKIP() << "other tests start it";
  const SpawnedMemory<Board> board(std::getenv(kSpawnMemory));
  const int rank = std::atoi(std::getenv("RANK"));
  try {
    start_cuda_with_the_others(*board, {rank % board->num_devices});
    if (std::string(body) != "bits") return run_fault(*board, rank, fault_named(body));
    const auto comm = make_process_rank(rank, kRanks, board->gather.of(rank, kRanks));
    run_gpu_rank({kRanks, board->num_devices}, *comm,
                 [&](GpuRank& g) { board->seen[rank].bits = outputs(g); });
  } catch (const std::exception& e) {
    board->seen[rank].say(e);
    FAIL() << e.what();
  }
}

constexpr const char* kChild = "NcclProcess.IsARankOfAnotherTest";

// How NCCL goes from process to process.
struct Way {
  const char* name;
  std::function<SpawnedRanks::Variables(int process)> variables;
  int num_devices = kRanks;  // that a process sees
};
const Way kWays[] = {
    {"AsNcclChooses", {}},
    {"OverSockets",
     [](int) {
       return SpawnedRanks::Variables{"NCCL_P2P_DISABLE=1", "NCCL_SHM_DISABLE=1",
                                      "NCCL_NET=Socket"};
     }},
    // As a launcher has it that gives each process its own: no memory of the other can be opened.
    {"EachSeesItsOwnGpu", SpawnedRanks::with_its_own_gpu, 1},
};
class NcclProcesses : public ::testing::TestWithParam<size_t> {};
INSTANTIATE_TEST_SUITE_P(Ways, NcclProcesses, ::testing::Range(size_t{0}, std::size(kWays)),
                         [](const auto& info) { return std::string(kWays[info.param].name); });

TEST_P(NcclProcesses, GiveTheBitsOfThreads) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(kRanks);
  const Way& way = kWays[GetParam()];
  uint64_t expected[kRanks] = {};
  run_gpu_ranks({kRanks, kRanks}, [&](GpuRank& g) { expected[g.rank()] = outputs(g); });
  const SpawnedMemory<Board> board;
  board->num_devices = way.num_devices;
  SpawnedRanks children(kRanks, kChild, board, "bits", way.variables);
  for (int r = 0; r < kRanks; ++r) {
    EXPECT_TRUE(children.finished(r, kSpawnLimit)) << "rank " << r;
    EXPECT_STREQ(board->seen[r].message, "") << "rank " << r;
    EXPECT_EQ(board->seen[r].bits, expected[r]) << "rank " << r;
  }
}

class NcclProcessFaults : public ::testing::TestWithParam<size_t> {};
INSTANTIATE_TEST_SUITE_P(OfRankOne, NcclProcessFaults,
                         ::testing::Range(size_t{0}, std::size(kFaults)),
                         [](const auto& info) { return std::string(kFaults[info.param].name); });

TEST_P(NcclProcessFaults, AreAnErrorOnTheOtherRankAndItsProcessGoesOn) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(kRanks);
  const Fault& fault = kFaults[GetParam()];
  const SpawnedMemory<Board> board;
  board->num_devices = kRanks;
  SpawnedRanks children(kRanks, kChild, board, fault.name);
  if (fault.killed_by_parent) {
    comes([&] { return board->ready >= kRanks; }, std::chrono::seconds(60));
    std::this_thread::sleep_for(std::chrono::seconds(6));  // NCCL connects first
    children.kill_rank(1);
  }
  EXPECT_TRUE(children.finished(0, kSpawnLimit)) << "rank 0";
  const Seen& seen = board->seen[0];
  EXPECT_TRUE(seen.says(fault.message))
      << "\"" << seen.message << "\", need \"" << fault.message << "\"";
  EXPECT_TRUE(seen.recovered);
  EXPECT_LT(seen.seconds, 90) << seen.message;
  RecordProperty("seconds", std::to_string(seen.seconds));
}

}  // namespace
}  // namespace switchyard::testing
