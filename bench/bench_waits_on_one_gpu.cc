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
  int calls_per_set = 20;  // with the same streams; then all ranks make new ones
  double seconds = 10;
  int limit_ms = 3000;
  bool link_stream = false;  // meetings on a second stream, joined by events
  bool urgent = false;       // ... of the highest priority
  bool copies = false;       // between the meetings, each way
  bool graphs = false;
  bool in_order = false;  // no rank enqueues a wait before all have enqueued what it waits for
  bool in_turn = false;   // one rank at a time enqueues
  bool warm = false;      // streams have worked, and waited for each other, before ranks meet
  bool poll = false;      // the host asks all its streams again and again, in place of waiting
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

void meet(Communicator& comm) {
  (void)agree(comm, true);
}

// The streams of one rank, and a call on them.
class Set {
 public:
  Set(const Options& options, const Board& board, Late* late, Communicator& comm)
      : options_(options),
        board_(board),
        late_(late),
        comm_(comm),
        main_(cuda_.make_stream(false)),
        link_(options.link_stream ? cuda_.make_stream(options.urgent) : main_),
        memory_(zeroed(cuda_, kCopied)),
        host_(mapped_memory<int32_t>(kCopied)) {
    for (int meeting = 0; meeting < kMeetings; ++meeting)
      there_[meeting] = cuda_.make_event(), back_[meeting] = cuda_.make_event();
    if (options.warm) {
      enqueue(false);
      synchronize(main_);
    }
    if (options.graphs) graph_.emplace(main_.get(), [&] { enqueue(true); });
  }

  void call() {
    static std::mutex turn;
    std::unique_lock lock(turn, std::defer_lock);
    if (options_.in_turn) lock.lock();
    graph_ ? graph_->launch(main_.get()) : enqueue(true);
    if (options_.in_turn) lock.unlock();
    while (options_.poll && !is_done(main_)) (void)is_done(link_);
    synchronize(main_);
  }

 private:
  static constexpr int kCopied = kWorkBlocks * kWorkThreads;

  // With `meetings`, or with work in place of them.
  void enqueue(bool meetings) {
    for (int meeting = 0; meeting < kMeetings; ++meeting) {
      enqueue_work(memory_.get(), 300, main_.get());
      join(*there_[meeting], main_, link_);
      meetings ? enqueue_meeting(meeting) : enqueue_work(memory_.get(), 10, link_.get());
      join(*back_[meeting], link_, main_);
      if (options_.copies) copy();
    }
    enqueue_work(memory_.get(), 10, main_.get());
  }

  void enqueue_meeting(int meeting) {
    enqueue_tell(board_, meeting, link_.get());
    if (options_.in_order) meet(comm_);
    enqueue_await(board_, meeting, int64_t{options_.limit_ms} * 1'000'000, late_, link_.get());
  }

  // As a host that looks at what arrived, and gives it back.
  void copy() {
    const size_t bytes = kCopied * sizeof(int32_t);
    SWITCHYARD_CUDA_CHECK(
        cudaMemcpyAsync(host_.get(), memory_.get(), bytes, cudaMemcpyDeviceToHost, main_.get()));
    if (!options_.graphs) synchronize(main_);
    SWITCHYARD_CUDA_CHECK(
        cudaMemcpyAsync(memory_.get(), host_.get(), bytes, cudaMemcpyHostToDevice, main_.get()));
    if (!options_.graphs) synchronize(main_);
  }

  const Options& options_;
  Board board_;
  Late* late_;
  Communicator& comm_;
  CudaMemory cuda_;
  Stream main_, link_;  // the same without --link-stream
  std::unique_ptr<StreamEvent> there_[kMeetings], back_[kMeetings];
  std::shared_ptr<int32_t> memory_;
  Mapped<int32_t> host_;
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
  while (agree(comm, Clock::now() - begin < length)) {
    Set set(options, {told, comm.size(), comm.rank()}, late.get(), comm);
    meet(comm);  // memory is there: no allocation waits for kernels that wait
    for (int i = 0; i < options.calls_per_set; ++i) {
      set.call();
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

// From 1: how many calls its streams had, this one included.
int call_of_streams(const Options& options, int call) {
  return (call - 1) % options.calls_per_set + 1;
}

void print(const Options& options, const Outcome& outcome) {
  fmt::print("{} calls of {} ranks on one GPU, new streams every {}: in {} a rank was late\n",
             outcome.calls, options.num_ranks, options.calls_per_set, outcome.late.size());
  for (const auto& [call, late] : outcome.late)
    fmt::print("  call {} ({} of its streams), meeting {}: rank {} did not tell\n", call,
               call_of_streams(options, call), late.meeting + 1, late.missing);
}

nlohmann::json to_json(const Options& o, const Outcome& outcome) {
  auto late = nlohmann::json::array();
  for (const auto& [call, l] : outcome.late)
    late.push_back({{"call", call},
                    {"call_of_streams", call_of_streams(o, call)},
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
          {"warm", o.warm},
          {"poll", o.poll},
          {"calls", outcome.calls},
          {"late", late}};
}

}  // namespace
}  // namespace switchyard::bench

int main(int argc, char** argv) {
  CLI::App app{
      "Do kernels that wait for each other, on streams of one GPU, all get to run?\n\n"
      "  bench_waits_on_one_gpu --link-stream --seconds 30\n\n"
      "Exits with 1 if a rank was late. CUDA_DEVICE_MAX_CONNECTIONS changes the queues."};
  switchyard::bench::Options o;
  bool json = false;
  app.add_option("--ranks", o.num_ranks, "Threads")
      ->check(CLI::Range(2, 32))
      ->capture_default_str();
  app.add_option("--calls", o.calls_per_set, "With the same streams, then all make new ones")
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
  app.add_flag("--warm", o.warm, "Streams work and wait for each other before ranks meet on them");
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
