// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// bench/bench_waits_on_one_gpu.cc -- CUDA alone: do kernels that wait for each other, on streams of
// one GPU, all get to run? CUDA promises it to nobody; ranks that share a GPU depend on it.
//
// Each rank is a thread. A call is some work, then two meetings: a kernel tells all ranks, a kernel
// of one warp waits until all have told. A rank that is late at a meeting has kernels that did not
// begin, though the others leave the GPU all but empty.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "device/cuda_check.h"
#include "device/cuda_memory.h"
#include "switchyard/backend.h"
#include "switchyard/communicator.h"
#include "testing/cuda_graph.h"
#include "waiting_kernels.h"

namespace switchyard::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  int num_ranks = 4;
  int calls_per_set = 20;  // then all ranks make new streams and new memory
  double seconds = 10;
  int limit_ms = 3000;
  bool link_stream = false;  // meetings on a second stream, joined by events
  bool urgent = false;       // ... of the highest priority
  bool copies = false;       // between the meetings, each way
  bool graphs = false;
  bool in_order = false;      // no rank enqueues a wait before all have enqueued what it waits for
  bool in_turn = false;       // one rank at a time enqueues
  bool first_kernel = false;  // alone on each new stream, before its first call
  bool same_streams = false;  // not new ones for each set
  bool same_memory = false;
  bool poll = false;  // the host asks all its streams again and again, in place of waiting
};

using Stream = std::shared_ptr<CUstream_st>;

void synchronize(const Stream& stream) {
  SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream.get()));
}

bool is_done(const Stream& stream) {
  const cudaError_t code = cudaStreamQuery(stream.get());
  if (code != cudaErrorNotReady) SWITCHYARD_CUDA_CHECK(code);
  return code == cudaSuccess;
}

// What comes on `to` waits for what is on `from`.
void join(StreamEvent& event, const Stream& from, const Stream& to) {
  if (from == to) return;
  event.record(from.get());
  event.wait(to.get());
}

std::shared_ptr<int32_t> zeroed(Memory& memory, int count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(int32_t);
  auto owner = memory.allocate(bytes);
  SWITCHYARD_CUDA_CHECK(cudaMemset(owner.get(), 0, bytes));
  SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(nullptr));  // no other stream would wait for it
  return std::static_pointer_cast<int32_t>(owner);
}

template <class T>
using Mapped = std::unique_ptr<T, void (*)(T*)>;

template <class T>
Mapped<T> mapped_memory(size_t count) {
  void* p = nullptr;
  SWITCHYARD_CUDA_CHECK(cudaHostAlloc(&p, count * sizeof(T), cudaHostAllocMapped));
  return {new (p) T[count](), [](T* t) { (void)cudaFreeHost(t); }};
}

// As rank 0 says.
bool agree(Communicator& comm, bool mine) {
  const int32_t word = mine ? 1 : 0;
  std::vector<int32_t> all(static_cast<size_t>(comm.size()));
  comm.all_gather(Tensor(all.data(), {comm.size()}), ConstTensor(&word, {1}), nullptr);
  return all[0] == 1;
}

constexpr int kCopied = kWorkBlocks * kWorkThreads;

struct RankStreams {
  RankStreams(CudaMemory& cuda, const Options& options)
      : main(cuda.make_stream(false)),
        link(options.link_stream ? cuda.make_stream(options.urgent) : main) {}
  Stream main, link;  // the same without --link-stream
  bool worked = false;
};

struct RankMemory {
  explicit RankMemory(CudaMemory& cuda)
      : device(zeroed(cuda, kCopied)), host(mapped_memory<int32_t>(kCopied)) {}
  std::shared_ptr<int32_t> device;
  Mapped<int32_t> host;
};

// Calls of one rank, on the same streams.
class Calls {
 public:
  Calls(const Options& options, const Board& board, Late* late, Communicator& comm,
        RankStreams& streams, RankMemory& memory)
      : options_(options),
        board_(board),
        late_(late),
        comm_(comm),
        streams_(streams),
        memory_(memory),
        main_(streams.main),
        link_(streams.link) {
    for (int meeting = 0; meeting < kMeetings; ++meeting)
      there_[meeting] = cuda_.make_event(), back_[meeting] = cuda_.make_event();
    if (options.graphs) graph_.emplace(main_.get(), [&] { enqueue(); });
  }

  void call() {
    static std::mutex turn;
    if (options_.first_kernel && !streams_.worked) run_first_kernels();
    std::unique_lock lock(turn, std::defer_lock);
    if (options_.in_turn) lock.lock();
    graph_ ? graph_->launch(main_.get()) : enqueue();
    if (options_.in_turn) lock.unlock();
    while (options_.poll && !is_done(main_)) (void)is_done(link_);
    synchronize(main_);
  }

 private:
  void run_first_kernels() {
    for (const Stream& stream : {main_, link_}) {
      enqueue_work(memory_.device.get(), 1, stream.get());
      synchronize(stream);
    }
    streams_.worked = true;
  }

  void enqueue() {
    for (int meeting = 0; meeting < kMeetings; ++meeting) {
      enqueue_work(memory_.device.get(), 300, main_.get());
      join(*there_[meeting], main_, link_);
      enqueue_meeting(meeting);
      join(*back_[meeting], link_, main_);
      if (options_.copies) copy();
    }
    enqueue_work(memory_.device.get(), 10, main_.get());
  }

  void enqueue_meeting(int meeting) {
    enqueue_tell(board_, meeting, link_.get());
    if (options_.in_order) meet(comm_);
    enqueue_await(board_, meeting, int64_t{options_.limit_ms} * 1'000'000, late_, link_.get());
  }

  // As a host that looks at what arrived, and gives it back.
  void copy() {
    const size_t bytes = kCopied * sizeof(int32_t);
    int32_t *device = memory_.device.get(), *host = memory_.host.get();
    SWITCHYARD_CUDA_CHECK(
        cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, main_.get()));
    if (!options_.graphs) synchronize(main_);
    SWITCHYARD_CUDA_CHECK(
        cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, main_.get()));
    if (!options_.graphs) synchronize(main_);
  }

  const Options& options_;
  Board board_;
  Late* late_;
  Communicator& comm_;
  CudaMemory cuda_;
  RankStreams& streams_;
  RankMemory& memory_;
  const Stream &main_, &link_;
  std::unique_ptr<StreamEvent> there_[kMeetings], back_[kMeetings];
  std::optional<testing::Graph> graph_;
};

// By call: the first meeting in which somebody was late.
using LateCalls = std::map<int32_t, Late>;

struct Outcome {
  int64_t calls = 0;
  LateCalls late;
};

void run_rank(const Options& options, Communicator& comm, int32_t* told, Outcome& outcome) {
  static std::mutex mutex;
  const auto late = mapped_memory<Late>(1);
  const auto begin = Clock::now();
  const std::chrono::duration<double> length(options.seconds);
  CudaMemory cuda;
  std::optional<RankStreams> streams;
  std::optional<RankMemory> memory;
  while (agree(comm, Clock::now() - begin < length)) {
    if (!streams || !options.same_streams) streams.emplace(cuda, options);
    if (!memory || !options.same_memory) memory.emplace(cuda);
    Calls calls(options, {told, comm.size(), comm.rank()}, late.get(), comm, *streams, *memory);
    meet(comm);  // memory is there: no allocation waits for kernels that wait
    for (int i = 0; i < options.calls_per_set; ++i) {
      calls.call();
      const std::lock_guard lock(mutex);
      if (comm.rank() == 0) ++outcome.calls;
      if (late->call == 0) continue;
      const auto [seen, is_new] = outcome.late.try_emplace(late->call, *late);
      if (!is_new && late->meeting < seen->second.meeting) seen->second = *late;
      *late = {};
    }
    meet(comm);
  }
}

Outcome run(const Options& options) {
  const auto& gpu = describe_device(DeviceKind::Cuda);
  SWITCHYARD_REQUIRE(gpu.available, Unsupported, "bench_waits_on_one_gpu: device=cuda, ",
                     gpu.unavailable_reason, ". Run it where a GPU is.");
  Outcome outcome;
  CudaMemory cuda;
  const auto told = zeroed(cuda, kMeetings * options.num_ranks);
  run_local_ranks(options.num_ranks,
                  [&](Communicator& comm) { run_rank(options, comm, told.get(), outcome); });
  return outcome;
}

// From 1: how many calls its set had, this one included.
int call_of_set(const Options& options, int call) {
  return (call - 1) % options.calls_per_set + 1;
}

void print(const Options& options, const Outcome& outcome) {
  fmt::print("{} calls of {} ranks on one GPU, sets of {}: in {} a rank was late\n", outcome.calls,
             options.num_ranks, options.calls_per_set, outcome.late.size());
  for (const auto& [call, late] : outcome.late)
    fmt::print("  call {} ({} of its set), meeting {}: rank {} did not tell\n", call,
               call_of_set(options, call), late.meeting + 1, late.missing);
}

nlohmann::json to_json(const Options& o, const Outcome& outcome) {
  auto late = nlohmann::json::array();
  for (const auto& [call, l] : outcome.late)
    late.push_back({{"call", call},
                    {"call_of_set", call_of_set(o, call)},
                    {"meeting", l.meeting + 1},
                    {"missing", l.missing}});
  return {{"gpu", describe_device(DeviceKind::Cuda).name},
          {"ranks", o.num_ranks},
          {"calls_per_set", o.calls_per_set},
          {"limit_ms", o.limit_ms},
          {"link_stream", o.link_stream},
          {"urgent", o.urgent},
          {"copies", o.copies},
          {"graphs", o.graphs},
          {"in_order", o.in_order},
          {"in_turn", o.in_turn},
          {"first_kernel", o.first_kernel},
          {"same_streams", o.same_streams},
          {"same_memory", o.same_memory},
          {"poll", o.poll},
          {"calls", outcome.calls},
          {"late", late}};
}

}  // namespace
}  // namespace switchyard::bench

int main(int argc, char** argv) {
  CLI::App app{
      "Do kernels that wait for each other, on streams of one GPU, all get to run?\n\n"
      "  bench_waits_on_one_gpu\n"
      "  bench_waits_on_one_gpu --first-kernel\n\n"
      "Exits with 1 if a rank was late. CUDA_DEVICE_MAX_CONNECTIONS changes the queues."};
  switchyard::bench::Options o;
  bool json = false;
  app.add_option("--ranks", o.num_ranks, "Threads")
      ->check(CLI::Range(2, 32))
      ->capture_default_str();
  app.add_option("--calls", o.calls_per_set, "Of a set; then all make new streams and memory")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--seconds", o.seconds, "To go on for")->capture_default_str();
  app.add_option("--limit-ms", o.limit_ms, "After which a wait gives up")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--link-stream", o.link_stream, "Meet on a second stream, joined by events");
  app.add_flag("--urgent", o.urgent, "The second stream has the highest priority");
  auto* copies = app.add_flag("--copies", o.copies, "Copy to the host and back between meetings");
  auto* graphs = app.add_flag("--graphs", o.graphs, "Calls are graphs");
  auto* in_order =
      app.add_flag("--in-order", o.in_order,
                   "No rank enqueues a wait before all have enqueued what it waits for")
          ->excludes(graphs);
  app.add_flag("--in-turn", o.in_turn, "One rank at a time enqueues a call")
      ->excludes(in_order)
      ->excludes(copies);
  app.add_flag("--first-kernel", o.first_kernel,
               "The host waits for a kernel on each new stream before its first call");
  app.add_flag("--same-streams", o.same_streams, "All sets are on the same streams");
  app.add_flag("--same-memory", o.same_memory, "All sets have the same memory");
  app.add_flag("--poll", o.poll, "Ask all streams again and again, in place of waiting");
  app.add_flag("--json", json, "Print one JSON object");
  CLI11_PARSE(app, argc, argv);
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);  // loading one would wait for kernels that wait
  try {
    const auto outcome = switchyard::bench::run(o);
    if (json)
      fmt::print("{}\n", to_json(o, outcome).dump());
    else
      switchyard::bench::print(o, outcome);
    return outcome.late.empty() ? 0 : 1;
  } catch (const switchyard::Error& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 2;
  }
}
