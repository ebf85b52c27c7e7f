// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/dispatcher/f8_rows_test.cc -- rows that travel in f8_e4m3: the codes and scales of rows that
// are quantised where they arrive, and half the bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <string_view>

#include "switchyard/error.h"
#include "testing/forked_ranks.h"
#include "testing/peer_dispatch.h"

namespace switchyard::testing {
namespace {

class F8Rows : public ::testing::TestWithParam<DispatchCase> {};
std::vector<DispatchCase> cases() {
  std::vector<DispatchCase> all;
  for (const int num_ranks : {2, 4})
    for (const int64_t hidden : {64, 264}) {
      for (auto& c : f8_dispatch_cases(num_ranks, hidden))
        if (!c.options.fetch_rows) all.push_back(std::move(c));  // else of peer memory
      for (auto& c : f8_low_latency_cases(num_ranks, hidden)) all.push_back(std::move(c));
    }
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, F8Rows, ::testing::ValuesIn(cases()), [](const auto& info) {
  return name_of(info.param) + "_H" + std::to_string(info.param.config.hidden);
});

TEST_P(F8Rows, AreThoseThatTheirOwnersWouldQuantise) {
  const DispatchCase& c = GetParam();
  AllOutcomes all(static_cast<size_t>(c.num_ranks));
  run_local_ranks(c.num_ranks, [&](Communicator& comm) {
    all[static_cast<size_t>(comm.rank())] = run_dispatch(c, comm, make_cpu_backend(1), nullptr);
  });
  EXPECT_EQ(difference(c, expected_outcomes(c), all), "");
}

TEST_P(F8Rows, AreTheSameBetweenProcesses) {
  const DispatchCase& c = GetParam();
  const auto expected = expected_outcomes(c);
  const SharedGather gather;
  SharedArray<char> same(static_cast<size_t>(c.num_ranks));
  ForkedRanks children(c.num_ranks, [&](int rank) {
    const auto mine = static_cast<size_t>(rank);
    const auto comm = make_process_rank(rank, c.num_ranks, gather.of(rank, c.num_ranks));
    const auto outcomes = run_dispatch(c, *comm, make_cpu_backend(1), nullptr);
    same[mine] = difference(c, {expected[mine]}, {outcomes}).empty();
  });
  for (int r = 0; r < c.num_ranks; ++r) {
    EXPECT_TRUE(children.finished(r));
    EXPECT_TRUE(same[static_cast<size_t>(r)]) << "rank " << r;
  }
}

// ---- bytes

constexpr DispatcherKind kTravelling[] = {DispatcherKind::Normal, DispatcherKind::AllGather,
                                          DispatcherKind::LowLatency};

DispatchCase wide_case(DispatcherKind kind, DType rows) {
  DispatchCase c;
  c.config = dispatch_config(2048, 8, 4);
  c.options.kind = kind;
  c.options.rows = rows;
  c.f8_experts = true;
  c.calls.push_back({{40, 24}, Skew::Balanced, 3});
  return c;
}

// What operations before combine say that crosses links.
class LinkBytes final : public Ops {
 public:
  LinkBytes(Ops& ops, double& bytes) : ops_(ops), bytes_(bytes) {}

  void run(const AnyOp& op, CUstream_st* stream) override {
    ops_.run(op, stream);
    const std::string_view name = name_of(op);
    if (name == PushRows::kName || name == ScatterRows::kName || name == DeliverRows::kName)
      bytes_ += work_of(op, [](ConstTensor t) {
                  const auto* words = t.as<int32_t>();
                  return std::vector<int32_t>(words, words + t.count());
                }).link_bytes;
  }

 private:
  Ops& ops_;
  double& bytes_;
};

// Of rank 0 over peer memory.
double link_bytes(DispatchCase c) {
  c.options.peer_memory = true;
  double bytes = 0;
  run_local_ranks(c.num_ranks, [&](Communicator& comm) {
    const auto backend = make_cpu_backend(1);
    double mine = 0;
    LinkBytes counted(backend->ops(), mine);
    backend->divert(&counted);
    run_dispatch(c, comm, backend, nullptr);
    backend->divert(nullptr);
    if (comm.rank() == 0) bytes = mine;
  });
  return bytes;
}

TEST(F8RowsBytes, OverPeerMemoryAreHalfOfThoseOfBf16) {
  for (const auto kind : kTravelling)
    for (const bool fetch : {false, true}) {
      if (fetch && kind != DispatcherKind::Normal) continue;
      auto bf16 = wide_case(kind, DType::Bf16), f8 = wide_case(kind, DType::F8E4m3);
      bf16.options.fetch_rows = f8.options.fetch_rows = fetch;
      const double of_bf16 = link_bytes(bf16), of_f8 = link_bytes(f8);
      EXPECT_GT(of_f8, 0);
      EXPECT_LE(of_f8, 0.53 * of_bf16) << dispatcher_name(kind) << (fetch ? ", fetched" : "");
    }
}

// Forwards to the communicator of a rank, and counts what the rank gives to others of rows, ids and
// weights there.
class CountingComm final : public Communicator {
 public:
  explicit CountingComm(Communicator& comm) : comm_(comm) {}
  double bytes = 0;

  int rank() const override { return comm_.rank(); }
  int size() const override { return comm_.size(); }
  const char* transport() const override { return comm_.transport(); }
  void all_gather(Tensor dst, ConstTensor src, CUstream_st* stream) override {
    bytes += static_cast<double>(src.bytes() * (size() - 1));
    comm_.all_gather(dst, src, stream);
  }
  void all_to_all_rows(std::span<const RowTransfer> transfers, ConstTensor send_rows,
                       ConstTensor counts, CUstream_st* stream) override {
    for (const RowTransfer& t : transfers)
      for (int p = 0; p < size() && transfers.size() > 1; ++p)  // partial rows come alone
        if (p != rank())
          bytes += static_cast<double>(counts.as<int32_t>()[rank() * size() + p] * t.src.dim(1) *
                                       dtype_bytes(t.src.dtype));
    comm_.all_to_all_rows(transfers, send_rows, counts, stream);
  }
  std::unique_ptr<Communicator> split(int color) override { return comm_.split(color); }
  bool shares_process() const override { return comm_.shares_process(); }
  std::chrono::milliseconds deadline() const override { return comm_.deadline(); }
  std::string failure_reason() const override { return comm_.failure_reason(); }
  std::shared_ptr<void> when_over(const std::function<void()>& ended) override {
    return comm_.when_over(ended);
  }
  void abort(const std::string& reason) noexcept override { comm_.abort(reason); }

 private:
  Communicator& comm_;
};

double communicator_bytes(const DispatchCase& c) {
  double bytes = 0;
  run_local_ranks(c.num_ranks, [&](Communicator& comm) {
    CountingComm counted(comm);
    run_dispatch(c, counted, make_cpu_backend(1), nullptr);
    if (comm.rank() == 0) bytes = counted.bytes;
  });
  return bytes;
}

TEST(F8RowsBytes, OverTheCommunicatorAreHalfOfThoseOfBf16) {
  for (const auto kind : kTravelling) {
    const double of_bf16 = communicator_bytes(wide_case(kind, DType::Bf16)),
                 of_f8 = communicator_bytes(wide_case(kind, DType::F8E4m3));
    EXPECT_GT(of_f8, 0);
    EXPECT_LE(of_f8, 0.53 * of_bf16) << dispatcher_name(kind);
  }
}

// ---- refusals

void expect_refused(Communicator& comm, const DispatcherOptions& options, const char* says) {
  try {
    make_dispatcher(dispatch_config(64, 8, 2), options, comm, make_cpu_backend(1));
    ADD_FAILURE() << "nothing was refused, need " << says;
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Unsupported);
    EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
  }
}

TEST(F8RowsRefusals, RowsThatDoNotTravelAndOtherTypesAreRefused) {
  run_local_ranks(2, [](Communicator& comm) {
    DispatcherOptions options;
    options.rows = DType::F16;
    expect_refused(comm, options, "rows travel as bf16 or f8_e4m3 (saw f16)");
    options.rows = DType::F8E4m3;
    options.kind = DispatcherKind::Local;
    options.tp_size = 2;
    expect_refused(comm, options, "over which rows travel");
  });
}

TEST(F8RowsRefusals, HiddenStatesHaveNoPlaceOfTheirOwn) {
  run_local_ranks(2, [](Communicator& comm) {
    const auto backend = make_cpu_backend(1);
    DispatcherOptions options;
    options.rows = DType::F8E4m3;
    options.peer_memory = options.fetch_rows = true;
    const auto dispatcher = make_dispatcher(dispatch_config(64, 8, 2), options, comm, backend);
    const size_t bytes = dispatcher->workspace_bytes(8);
    const auto memory = allocate(*backend, bytes);
    dispatcher->connect({memory.get(), bytes}, 8, memory);
    EXPECT_FALSE(dispatcher->input_rows({memory.get(), bytes}).present());
    meet(comm);
  });
}

}  // namespace
}  // namespace switchyard::testing
