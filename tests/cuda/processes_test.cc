// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/processes_test.cc -- several ranks on GPUs as processes: the bits of thread ranks, and
// every way in which a rank can fail, ten times each, while the others' processes go on. A test
// starts this program anew for each rank (GpuProcess.IsARankOfAnotherTest) and kills whatever is
// left of them after a limit.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "testing/gpu_ranks.h"
#include "testing/spawned_ranks.h"

namespace switchyard::testing {
namespace {

constexpr int kMaxRanks = 8, kRounds = 10;
constexpr auto kDeadline = std::chrono::milliseconds(3000);

struct Round {
  GatherTable gather, gather_of_survivors;
  std::atomic<int> ready{0};
  Seen seen[kMaxRanks];
};

// What parent and children share.
struct Board : SpawnedBoard {
  Round rounds[kRounds];
};

// One rank, in its process.
struct Child {
  Board& board;
  int rank, num_ranks;

  Placement place(int ranks) const { return {ranks, board.num_devices}; }
  // All, since ranks reach into each other's memory; its own comes last.
  std::vector<int> devices() const {
    std::vector<int> all;
    for (int i = 1; i <= board.num_devices; ++i) all.push_back((rank + i) % board.num_devices);
    return all;
  }
  std::unique_ptr<Communicator> connect(Round& round) const {
    ProcessRankOptions options;
    options.deadline = kDeadline;
    return make_process_rank(rank, num_ranks, round.gather.of(rank, num_ranks), options);
  }
};

uint64_t hash(const std::vector<uint16_t>& bits) {
  uint64_t h = 0xcbf29ce484222325u + bits.size();
  for (const uint16_t b : bits) h = (h ^ b) * 0x100000001b3u;
  return h;
}

// ---- bits

MoeConfig config_of(int num_ranks) {
  MoeConfig c = small_config();
  c.num_experts = 4 * num_ranks;
  return c;
}

// One call of `tokens` on this rank; the output's bits.
std::vector<uint16_t> call(GpuRank& g, MoeLayer& layer, int64_t tokens, uint64_t seed) {
  const int64_t h = layer.config().hidden;
  const OnDevice hidden(*g.backend, random_bf16({tokens, h}, seed).view());
  const OnDevice output(*g.backend, DType::Bf16, {tokens, h});
  g.everyone();
  layer.forward({.output = output.view(), .hidden = hidden.view(), .stream = g.stream});
  layer.wait(g.stream);
  auto bits = read<uint16_t>(*g.backend, output.view(), g.stream);
  g.everyone();
  return bits;
}

std::unique_ptr<MoeLayer> make_layer(GpuRank& g, const std::string& strategy, int tp_size,
                                     Workspace workspace = {}) {
  const MoeConfig config = config_of(g.comm.size());
  LayerOptions o;
  o.max_tokens = 600;
  o.strategy = strategy;
  o.tp_size = tp_size;
  o.device = DeviceKind::Cuda;
  o.backend = g.backend;
  o.workspace = workspace;
  const auto weights = to_device(random_weights(config, g.comm.size(), g.rank(), 9), config,
                                 g.comm.size(), *g.backend);
  return MoeLayer::create(config, weights, g.comm, o);
}

// Every strategy, small and large calls, uneven ranks, tensor parallelism; then two layers whose
// workspaces lie in one allocation.
uint64_t outputs(GpuRank& g) {
  std::vector<uint16_t> all;
  const auto add = [&](MoeLayer& layer, int tp_size) {
    const int group = g.rank() / tp_size;
    for (const int64_t tokens : {int64_t{20} + 7 * group, int64_t{500}}) {
      const auto bits = call(g, layer, tokens, static_cast<uint64_t>(10 + group));
      all.insert(all.end(), bits.begin(), bits.end());
    }
  };
  for (const std::string strategy :
       {"normal+contiguous", "normal+masked", "all_gather+hybrid", "low_latency+masked"}) {
    add(*make_layer(g, strategy, 1), 1);
    g.everyone();
  }
  if (g.comm.size() % 2 == 0) add(*make_layer(g, "normal+contiguous", 2), 2);
  g.everyone();

  LayerOptions o;
  o.max_tokens = 600;
  o.device = DeviceKind::Cuda;
  o.strategy = "normal+masked";
  const size_t bytes = MoeLayer::workspace_bytes(config_of(g.comm.size()), g.comm.size(), o);
  const size_t stride = (bytes + 4095) / 4096 * 4096;
  const auto memory = allocate(*g.backend, 2 * stride);
  auto first = make_layer(g, o.strategy, 1, {memory.get(), bytes});
  auto second =
      make_layer(g, o.strategy, 1, {static_cast<std::byte*>(memory.get()) + stride, bytes});
  add(*first, 1);
  add(*second, 1);
  g.everyone();
  first.reset();
  add(*second, 1);
  second.reset();
  g.everyone();  // lent memory stays until nobody has it open
  return hash(all);
}

std::vector<uint64_t> thread_outputs(const Placement& place) {
  std::vector<uint64_t> all(static_cast<size_t>(place.num_ranks));
  run_gpu_ranks(place, [&](GpuRank& g) { all[static_cast<size_t>(g.rank())] = outputs(g); });
  return all;
}

void body_bits(const Child& child, std::unique_ptr<Communicator> comm) {
  run_gpu_rank(child.place(child.num_ranks), *comm,
               [&](GpuRank& g) { child.board.rounds[0].seen[child.rank].bits = outputs(g); });
}

// ---- faults of rank 1

struct Call {
  explicit Call(GpuRank& g, int64_t hidden_size = 256, int64_t capacity = 64)
      : gpu(g), config(config_of(g.comm.size())) {
    config.hidden = hidden_size;
    LayerOptions o;
    o.max_tokens = capacity;
    o.device = DeviceKind::Cuda;
    o.backend = g.backend;
    const auto weights = to_device(random_weights(config, g.comm.size(), g.rank(), 4), config,
                                   g.comm.size(), *g.backend);
    layer = MoeLayer::create(config, weights, g.comm, o);
    hidden.emplace(*g.backend, random_bf16({12, hidden_size}, 3).view());
    output.emplace(*g.backend, DType::Bf16, Shape{12, hidden_size});
  }
  void forward(int64_t max_tokens = 64) {
    layer->forward({.output = output->view(),
                    .hidden = hidden->view(),
                    .max_tokens = max_tokens,
                    .stream = gpu.stream});
    layer->wait(gpu.stream);
  }
  GpuRank& gpu;
  MoeConfig config;
  std::unique_ptr<MoeLayer> layer;
  std::optional<OnDevice> hidden, output;
};

void forward_until_failure(GpuRank& g) {
  Call call(g);
  while (true) call.forward();
}

// Two layers in turns: a rank that calls them the other way round meets nobody.
void alternate_until_failure(GpuRank& g, bool other_way) {
  Call first(g), second(g);
  g.everyone();
  while (true) {
    (other_way ? second : first).forward();
    (other_way ? first : second).forward();
  }
}

struct Fault {
  const char* name;
  std::function<void(GpuRank&)> rank1;
  std::vector<const char*> message;  // what every other rank must see: any of these parts
  std::function<void(GpuRank&)> others = forward_until_failure;
};

const Fault kFaults[] = {
    {"KilledBefore", [](GpuRank&) { raise(SIGKILL); }, {"rank 1 left"}},
    {"KilledDuring", forward_until_failure, {"rank 1 left"}},
    {"KilledAfter",
     [](GpuRank& g) {
       Call call(g);
       call.forward();
       raise(SIGKILL);
     },
     {"rank 1 left"}},
    {"Stopped",
     [](GpuRank& g) {
       Call call(g);
       call.forward();
       raise(SIGSTOP);
     },
     {"dispatch: rows of rank 1 did not come"}},
    {"NeverEnters",
     [](GpuRank& g) {
       Call call(g);
       call.forward();
       std::this_thread::sleep_for(kSpawnLimit);
     },
     {"dispatch: rows of rank 1 did not come"}},
    {"AnotherShape",
     [](GpuRank& g) { Call call(g, 264); },
     {"of rank 1 differs from that of rank 0"}},
    {"AnotherCapacity",
     [](GpuRank& g) { Call call(g, 256, 65); },
     {"of rank 1 differs from that of rank 0"}},
    {"AnotherBound",
     [](GpuRank& g) {
       Call call(g);
       while (true) call.forward(63);
     },
     {"max_tokens=63 on rank 1"}},
    {"AnotherCall",
     [](GpuRank& g) {
       Call call(g);
       g.comm.split(0);
     },
     {"dispatch: rows of rank 1 did not come", "split: rank "}},
    {"AnotherOrder",
     [](GpuRank& g) { alternate_until_failure(g, true); },
     {"did not come within the deadline"},
     [](GpuRank& g) { alternate_until_failure(g, false); }},
};

const Fault& fault_named(const std::string& name) {
  return *std::find_if(std::begin(kFaults), std::end(kFaults),
                       [&](const Fault& f) { return f.name == name; });
}

// The survivors go on with a new communicator, in the same processes.
void recover(const Child& child, Round& round) {
  const int survivor = child.rank == 0 ? 0 : child.rank - 1, survivors = child.num_ranks - 1;
  ProcessRankOptions options;
  options.deadline = kDeadline;
  const auto comm = make_process_rank(survivor, survivors,
                                      round.gather_of_survivors.of(survivor, survivors), options);
  run_gpu_rank(child.place(survivors), *comm, [&](GpuRank& g) {
    Call call(g);
    call.forward();
    g.everyone();
  });
  round.seen[child.rank].recovered = true;
}

void run_round(const Child& child, const Fault& fault, Round& round) {
  Seen& seen = round.seen[child.rank];
  const auto comm = child.connect(round);
  const auto start = std::chrono::steady_clock::now();
  try {
    run_gpu_rank(child.place(child.num_ranks), *comm, [&](GpuRank& g) {
      g.everyone();
      ++round.ready;
      child.rank == 1 ? fault.rank1(g) : fault.others(g);
    });
  } catch (const Error& e) {
    seen.say(e);
  }
  seen.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The survivors live through all rounds, rank 1 is another process in each.
void body_fault(const Child& child, const Fault& fault, const char* only_round) {
  if (only_round != nullptr)
    return run_round(child, fault, child.board.rounds[std::atoi(only_round)]);
  for (Round& round : child.board.rounds) {
    run_round(child, fault, round);
    recover(child, round);
  }
}

// ---- the two sides

constexpr const char* kRound = "SWITCHYARD_TEST_ROUND";

TEST(GpuProcess, IsARankOfAnotherTest) {
  const char* body = std::getenv(kSpawnBody);
  if (body == nullptr) GTEST_SKIP() << "other tests start it";
  const SpawnedMemory<Board> board(std::getenv(kSpawnMemory));
  const Child child{*board, std::atoi(std::getenv("RANK")), std::atoi(std::getenv("WORLD_SIZE"))};
  const std::string name = body;
  try {
    start_cuda_with_the_others(child.board, child.devices());
    if (name == "bits")
      body_bits(child, child.connect(board->rounds[0]));
    else if (name == "torchrun")
      body_bits(child, make_process_rank());
    else
      body_fault(child, fault_named(name), std::getenv(kRound));
  } catch (const std::exception& e) {
    board->rounds[0].seen[child.rank].say(e);
    FAIL() << e.what();
  }
}

constexpr const char* kChild = "GpuProcess.IsARankOfAnotherTest";

class GpuProcesses : public ::testing::TestWithParam<Placement> {};
INSTANTIATE_TEST_SUITE_P(Places, GpuProcesses,
                         ::testing::Values(Placement{2, 1}, Placement{4, 1}, Placement{2, 2},
                                           Placement{4, 2}, Placement{4, 4}, Placement{8, 8}),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(GpuProcesses, GiveTheBitsOfThreads) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const auto expected = thread_outputs(GetParam());
  const std::string port = std::to_string(free_master_port());
  for (const std::string body : {"bits", "torchrun"}) {
    const SpawnedMemory<Board> board;
    board->num_devices = GetParam().num_devices;
    SpawnedRanks children(GetParam().num_ranks, kChild, board, body, [&](int) {
      return SpawnedRanks::Variables{"MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + port};
    });
    for (int r = 0; r < GetParam().num_ranks; ++r) {
      EXPECT_TRUE(children.finished(r, kSpawnLimit)) << body << ", rank " << r;
      EXPECT_STREQ(board->rounds[0].seen[r].message, "") << body << ", rank " << r;
      EXPECT_EQ(board->rounds[0].seen[r].bits, expected[static_cast<size_t>(r)])
          << body << ", rank " << r;
    }
  }
}

// Each process sees its own GPU alone. The driver may let it open the other's memory or not; every
// rank must find the same.
TEST(GpuProcessesApart, WorkOrAreRefusedOnEveryRank) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(2);
  const auto expected = thread_outputs({2, 2});
  const SpawnedMemory<Board> board;
  SpawnedRanks children(2, kChild, board, "bits", SpawnedRanks::with_its_own_gpu);
  int num_good = 0;
  for (int r = 0; r < 2; ++r) {
    num_good += children.finished(r, kSpawnLimit) ? 1 : 0;
    const std::string message = board->rounds[0].seen[r].message;
    if (message.empty())
      EXPECT_EQ(board->rounds[0].seen[r].bits, expected[static_cast<size_t>(r)]) << "rank " << r;
    else
      EXPECT_NE(message.find("peer memory"), std::string::npos) << message;
    RecordProperty("rank" + std::to_string(r), message);
  }
  EXPECT_TRUE(num_good == 0 || num_good == 2)
      << board->rounds[0].seen[0].message << board->rounds[0].seen[1].message;
}

using FaultAt = std::tuple<size_t, int>;  // index of the fault, number of GPUs
class GpuProcessFaults : public ::testing::TestWithParam<FaultAt> {};
INSTANTIATE_TEST_SUITE_P(OfRankOne, GpuProcessFaults,
                         ::testing::Combine(::testing::Range(size_t{0}, std::size(kFaults)),
                                            ::testing::Values(1, 2)),
                         [](const auto& info) {
                           return kFaults[std::get<0>(info.param)].name + std::string("On") +
                                  std::to_string(std::get<1>(info.param)) + "Gpus";
                         });

constexpr int kRanks = 3, kSurvivors = 2;

// Processes 0 and 1 are ranks 0 and 2; then comes a rank 1 for each round.
SpawnedRanks::Variables part_of(int process) {
  SpawnedRanks::Variables all = {"WORLD_SIZE=" + std::to_string(kRanks)};
  const bool survivor = process < kSurvivors;
  all.push_back("RANK=" + std::to_string(survivor ? 2 * process : 1));
  if (!survivor) all.push_back(std::string(kRound) + "=" + std::to_string(process - kSurvivors));
  return all;
}

void kill_during_each_round(SpawnedMemory<Board>& board, SpawnedRanks& children) {
  const auto end = std::chrono::steady_clock::now() + kSpawnLimit;
  for (int round = 0; round < kRounds; ++round) {
    while (board->rounds[round].ready < kRanks && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(50 * round));
    children.kill_rank(kSurvivors + round);
  }
}

void expect_seen(const Fault& fault, const Seen& seen) {
  EXPECT_TRUE(seen.recovered) << seen.message;
  EXPECT_LT(seen.seconds, 60.0);
  EXPECT_TRUE(std::any_of(fault.message.begin(), fault.message.end(), [&](const char* part) {
    return seen.says(part);
  })) << seen.message;
}

// Three ranks on one GPU, or the first and the last on one of two.
TEST_P(GpuProcessFaults, AreSeenByEveryOtherRankTenTimesInARow) {
  const auto [index, num_devices] = GetParam();
  const Fault& fault = kFaults[index];
  SWITCHYARD_SKIP_WITHOUT_GPUS(num_devices);
  SpawnedMemory<Board> board;
  board->num_devices = num_devices;
  SpawnedRanks children(kSurvivors + kRounds, kChild, board, fault.name, part_of);
  if (std::string(fault.name) == "KilledDuring") kill_during_each_round(board, children);
  for (int survivor = 0; survivor < kSurvivors; ++survivor) {
    EXPECT_TRUE(children.finished(survivor, kSpawnLimit)) << "rank " << 2 * survivor;
    for (int round = 0; round < kRounds; ++round) {
      SCOPED_TRACE("rank " + std::to_string(2 * survivor) + ", round " + std::to_string(round));
      expect_seen(fault, board->rounds[round].seen[2 * survivor]);
      if (HasFailure()) break;  // what follows, follows from it
    }
  }
}

}  // namespace
}  // namespace switchyard::testing
