// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/c_api/ranks_test.cc -- ranks in C: the bits of C++, and errors on every rank or on none.
#include <barrier>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "c_api/c_layer.h"
#include "testing/small_layer.h"

namespace switchyard {
namespace {

using namespace testing;

constexpr int kRanks = 2;

// What a program that knows its peers brings: here its threads.
struct Gathering {
  std::vector<char> all;
  std::barrier<> meeting{kRanks};
};
struct GatheringRank {
  Gathering* shared;
  size_t rank;
};

int gather(void* user, void* all, const void* mine, size_t bytes) {
  auto& [shared, rank] = *static_cast<GatheringRank*>(user);
  if (rank == 0) shared->all.resize(kRanks * bytes);
  shared->meeting.arrive_and_wait();
  std::memcpy(shared->all.data() + rank * bytes, mine, bytes);
  shared->meeting.arrive_and_wait();
  std::memcpy(all, shared->all.data(), kRanks * bytes);
  return 0;
}

swy_group_options within_seconds() {
  swy_group_options options;
  SWY_INIT(group_options, options);
  options.deadline_ms = 20000;
  return options;
}

// One rank of a C program; what it asserts, its main thread asserts.
struct Rank {
  explicit Rank(CGroup of) : group(std::move(of)), call(5, 0) {
    good(swy_group_place(group.get(), &rank, &size));
    call = SmallCall(5 + rank, static_cast<uint64_t>(rank) + 7);
    context = c_context(1);
    weights = c_random_weights(context.get(), small_layer(), 3, size, rank);
  }
  void make_layer() {
    layer = c_layer(context.get(), small_layer(), weights.get(), options, group.get());
  }
  swy_status forward(const swy_forward_args& args) {
    return told(swy_layer_forward(layer.get(), &args, nullptr));
  }
  swy_status wait() { return told(swy_layer_wait(layer.get(), nullptr)); }
  swy_status told(swy_status status) {
    text = swy_last_error();
    return status;
  }

  CGroup group;
  int32_t rank = -1, size = -1;
  SmallCall call;
  CContext context;
  CWeights weights;
  CLayer layer;
  swy_options options = c_options(64);
  std::string text;
};

// `body` on a thread for each rank.
void run(const std::function<void(Rank&)>& body, bool over_sockets = false) {
  Gathering gathering;
  const swy_group_options options = within_seconds();
  swy_group* groups[kRanks] = {};
  if (!over_sockets) good(swy_group_create_threads(kRanks, &options, groups));
  std::vector<std::jthread> threads;
  for (int r = 0; r < kRanks; ++r)
    threads.emplace_back([&, r] {
      GatheringRank mine{&gathering, static_cast<size_t>(r)};
      if (over_sockets) good(swy_group_create(r, kRanks, gather, &mine, &options, &groups[r]));
      Rank rank{CGroup(groups[r])};
      body(rank);
    });
}

std::vector<Buffer<Bf16>> expected() {
  std::vector<Buffer<Bf16>> outputs(kRanks);
  run_local_ranks(kRanks, [&](Communicator& comm) {
    LayerOptions options = small_options("auto");
    options.num_threads = 1;
    const auto weights = random_weights(small_layer(), comm.size(), comm.rank(), 3);
    const auto layer = MoeLayer::create(small_layer(), weights, comm, options);
    SmallCall call(5 + comm.rank(), static_cast<uint64_t>(comm.rank()) + 7);
    layer->forward(call.with_gate());
    layer->wait();
    outputs[static_cast<size_t>(comm.rank())] = call.output;
  });
  return outputs;
}

void expect_good_call(Rank& rank, const std::vector<Buffer<Bf16>>& wanted) {
  rank.call.output = Buffer<Bf16>(Shape{5 + rank.rank, 128});
  EXPECT_EQ(rank.forward(c_args(rank.call.with_gate())), SWY_OK) << rank.text;
  EXPECT_EQ(rank.wait(), SWY_OK) << rank.text;
  EXPECT_TRUE(same_bits(rank.call.output, wanted[static_cast<size_t>(rank.rank)]));
}

TEST(CRanks, GiveTheBitsOfCppOverThreadsAndSocketsAndKeepTheirGroup) {
  const auto wanted = expected();
  for (const bool over_sockets : {false, true})
    run(
        [&](Rank& rank) {
          EXPECT_EQ(rank.size, kRanks);
          rank.make_layer();
          rank.group.reset();
          rank.weights.reset();
          rank.context.reset();
          expect_good_call(rank, wanted);
        },
        over_sockets);
}

TEST(CRanks, ACreationThatOneRankRefusesFailsOnAllAndHangsNone) {
  const auto wanted = expected();
  run([&](Rank& rank) {
    const swy_config config = c_config(small_layer());
    swy_options bad = rank.options;
    bad.host_counts = 2;
    const swy_config* configs[] = {nullptr, &config};
    for (const swy_config* given : configs) {
      const bool wrong = rank.rank == 1;
      swy_layer* layer = nullptr;
      const swy_status status = rank.told(
          swy_layer_create(rank.context.get(), wrong ? given : &config, rank.weights.get(),
                           rank.group.get(), wrong ? &bad : &rank.options, &layer));
      EXPECT_EQ(status, wrong ? SWY_INVALID_ARGUMENT : SWY_SHAPE_MISMATCH);
      EXPECT_EQ(layer, nullptr);
      const std::string refused =
          given == nullptr ? "swy_layer_create: config=NULL" : "swy_layer_create: host_counts=2";
      EXPECT_TRUE(rank.text.starts_with(wrong ? refused : "create: rank 1 refused its arguments"))
          << rank.text;
    }
    rank.make_layer();
    expect_good_call(rank, wanted);
  });
}

// The layer names what differs: so every option arrives under its name.
TEST(CRanks, EveryOptionThatDiffersIsNamed) {
  const std::vector<std::pair<std::string, void (*)(swy_options&)>> changes{
      {"max_tokens", [](swy_options& o) { o.max_tokens = 65; }},
      {"strategy", [](swy_options& o) { o.strategy = "normal+contiguous"; }},
      {"masked_max_tokens", [](swy_options& o) { o.masked_max_tokens = 3; }},
      {"alignment", [](swy_options& o) { o.alignment = 8; }},
      {"allow_repeated_experts", [](swy_options& o) { o.allow_repeated_experts = 1; }},
      {"tp_size", [](swy_options& o) { o.tp_size = 2; }},
      {"use_all_gather", [](swy_options& o) { o.use_all_gather = 0; }},
      {"workspace_limit_bytes", [](swy_options& o) { o.workspace_limit_bytes = 1 << 28; }},
      {"token_pieces", [](swy_options& o) { o.token_pieces = 1; }},
      {"fetch_rows", [](swy_options& o) { o.fetch_rows = 0; }},
      {"host_counts", [](swy_options& o) { o.host_counts = 1; }},
      {"peer_memory", [](swy_options& o) { o.peer_memory = 0; }},
      {"sums_at_source", [](swy_options& o) { o.sums_at_source = 1; }},
      {"fp8_rows", [](swy_options& o) { o.fp8_rows = 0; }},
      {"host_ordered", [](swy_options& o) { o.host_ordered = 1; }}};
  run([&](Rank& rank) {
    const swy_config config = c_config(small_layer());
    for (const auto& [name, change] : changes) {
      swy_options options = rank.options;
      if (rank.rank == 1) change(options);
      swy_layer* layer = nullptr;
      EXPECT_EQ(rank.told(swy_layer_create(rank.context.get(), &config, rank.weights.get(),
                                           rank.group.get(), &options, &layer)),
                SWY_SHAPE_MISMATCH);
      EXPECT_TRUE(rank.text.starts_with("create: " + name + " of rank 1 differs")) << rank.text;
    }
  });
}

// Both texts arrive under their names; a CPU has no configurations, so this rank's own error comes first.
TEST(CRanks, ANamedConfigurationThatOneRankRefusesFailsOnAll) {
  using Change = void (*)(swy_options&);
  const std::pair<std::string, Change> changes[] = {
      {"gemm1=one", [](swy_options& o) { o.gemm1 = "one"; }},
      {"gemm2=two", [](swy_options& o) { o.gemm2 = "two"; }}};
  run([&](Rank& rank) {
    const swy_config config = c_config(small_layer());
    for (const auto& [seen, change] : changes) {
      swy_options options = rank.options;
      if (rank.rank == 1) change(options);
      swy_layer* layer = nullptr;
      EXPECT_EQ(rank.told(swy_layer_create(rank.context.get(), &config, rank.weights.get(),
                                           rank.group.get(), &options, &layer)),
                SWY_UNSUPPORTED);
      const std::string part = rank.rank == 1 ? seen + ", cpu" : "rank 1 refused its arguments";
      EXPECT_NE(rank.text.find(part), std::string::npos) << rank.text;
    }
  });
}

TEST(CRanks, ACallThatOneRankRefusesFailsOnAllAndHangsNone) {
  const auto wanted = expected();
  run([&](Rank& rank) {
    rank.make_layer();
    swy_forward_args args = c_args(rank.call.with_gate());
    if (rank.rank == 1) args.hidden.strides[0] = 999;
    EXPECT_EQ(rank.forward(args), rank.rank == 1 ? SWY_UNSUPPORTED : SWY_OK);
    const std::string of_forward = rank.text;
    EXPECT_EQ(rank.wait(), rank.rank == 1 ? SWY_OK : SWY_SHAPE_MISMATCH);
    const bool is_named = rank.rank == 1
                              ? of_forward.starts_with("swy_layer_forward: hidden.strides")
                              : rank.text.starts_with("forward: rank 1 refused its");
    EXPECT_TRUE(is_named) << of_forward << rank.text;

    const swy_forward_args* none = nullptr;
    args = c_args(rank.call.with_gate());
    EXPECT_EQ(swy_layer_forward(rank.layer.get(), rank.rank == 1 ? none : &args, nullptr),
              rank.rank == 1 ? SWY_INVALID_ARGUMENT : SWY_OK);
    EXPECT_EQ(rank.wait(), rank.rank == 1 ? SWY_OK : SWY_SHAPE_MISMATCH);
    expect_good_call(rank, wanted);
  });
}

TEST(CRanks, AnEarlierErrorComesBeforeWrongArguments) {
  const auto wanted = expected();
  run([&](Rank& rank) {
    rank.make_layer();
    if (rank.rank == 0) rank.call.ids[1] = 16;
    EXPECT_EQ(rank.forward(c_args(rank.call.with_ids())), SWY_OK) << rank.text;
    swy_forward_args args = c_args(rank.call.with_ids());
    if (rank.rank == 1) args.output.rank = 9;
    EXPECT_EQ(rank.forward(args), SWY_BAD_ROUTING);
    EXPECT_TRUE(rank.text.starts_with("forward: expert id=16 on rank 0")) << rank.text;
    expect_good_call(rank, wanted);
  });
}

TEST(CRanks, CallsGoOnWithoutARankThatIsLost) {
  run([&](Rank& rank) {
    rank.options.strategy = "low_latency+masked";
    rank.options.lost_rank_timeout_ms = 1500;
    rank.make_layer();
    EXPECT_EQ(rank.forward(c_args(rank.call.with_gate())), SWY_OK) << rank.text;
    if (rank.rank == 1) return;
    (void)rank.forward(c_args(rank.call.with_ids()));
    EXPECT_EQ(rank.wait(), SWY_TRANSPORT);
    EXPECT_TRUE(rank.text.starts_with("dispatch: rows of rank 1 did not come")) << rank.text;
    int32_t missing[2] = {-3, -3}, num_missing = -3;
    const int32_t self[] = {0}, other[] = {1};
    swy_layer* layer = rank.layer.get();
    good(swy_layer_missing_ranks(layer, nullptr, nullptr, 0, &num_missing));
    EXPECT_EQ(num_missing, 1);
    good(swy_layer_missing_ranks(layer, nullptr, missing, 2, &num_missing));
    EXPECT_EQ(missing[0], 1);
    EXPECT_EQ(missing[1], -3);
    EXPECT_EQ(swy_layer_set_active_ranks(layer, other, 1, nullptr), SWY_SHAPE_MISMATCH);
    good(swy_layer_set_active_ranks(layer, self, 1, nullptr));
    EXPECT_EQ(rank.forward(c_args(rank.call.with_ids())), SWY_OK) << rank.text;
    EXPECT_EQ(rank.wait(), SWY_OK) << rank.text;
    const int64_t num_experts = small_layer().num_experts;
    int64_t num_dropped = 0;
    for (int64_t i = 0; i < rank.call.ids.count(); ++i)
      num_dropped += rank.call.ids[i] >= num_experts / kRanks;
    EXPECT_GT(num_dropped, 0);
    swy_tensor dropped{};
    good(swy_layer_dropped_routes(layer, &dropped));
    EXPECT_EQ(*static_cast<const int64_t*>(dropped.data), num_dropped);
  });
}

TEST(CRanks, AbortEndsTheGroupWithItsReason) {
  run([&](Rank& rank) {
    if (rank.rank == 1) return good(swy_group_abort(rank.group.get(), "out of patience"));
    EXPECT_EQ(rank.told(swy_group_meet(rank.group.get())), SWY_TRANSPORT);
    EXPECT_NE(rank.text.find("out of patience"), std::string::npos) << rank.text;
  });
}

TEST(CRanks, AGatherThatFailsIsNamed) {
  swy_group* group = nullptr;
  const auto fails = [](void*, void*, const void*, size_t) { return -5; };
  EXPECT_EQ(swy_group_create(0, 2, fails, nullptr, nullptr, &group), SWY_TRANSPORT);
  EXPECT_TRUE(std::string(swy_last_error()).starts_with("swy_group_create: gather returned -5"))
      << swy_last_error();
  EXPECT_EQ(group, nullptr);
}

}  // namespace
}  // namespace switchyard
