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
#include "switchyard/backend.h"
#include "switchyard/communicator.h"
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

class Stream {
 public:
  explicit Stream(bool urgent) {
    int least = 0, greatest = 0;
    SWITCHYARD_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    SWITCHYARD_CUDA_CHECK(
        cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, urgent ? greatest : least));
  }
  ~Stream() { (void)cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void synchronize() const { SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { SWITCHYARD_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~Event() { (void)cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  // What comes on `to` waits for what is on `from`.
  void join(cudaStream_t from, cudaStream_t to) const {
    if (from == to) return;
    SWITCHYARD_CUDA_CHECK(cudaEventRecord(event_, from));
    SWITCHYARD_CUDA_CHECK(cudaStreamWaitEvent(to, event_, 0));
  }

 private:
  cudaEvent_t event_ = nullptr;
};

template <class T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

template <class T>
Owned<T> device_memory(size_t count) {
  void* p = nullptr;
  SWITCHYARD_CUDA_CHECK(cudaMalloc(&p, count * sizeof(T)));
  SWITCHYARD_CUDA_CHECK(cudaMemset(p, 0, count * sizeof(T)));
  SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(nullptr));  // no other stream would wait for it
  return {static_cast<T*>(p), [](T* t) { (void)cudaFree(t); }};
}

template <class T>
Owned<T> mapped_memory(size_t count) {
  void* p = nullptr;
  SWITCHYARD_CUDA_CHECK(cudaHostAlloc(&p, count * sizeof(T), cudaHostAllocMapped));
  return {new (p) T[count](), [](T* t) { (void)cudaFreeHost(t); }};
}

void meet(Communicator& comm) {
  int32_t mine = 1;
  std::vector<int32_t> all(static_cast<size_t>(comm.size()));
  comm.all_gather(Tensor(all.data(), {comm.size()}), ConstTensor(&mine, {1}), nullptr);
}

// The streams of one rank, and a call on them.
class Set {
 public:
  Set(const Options& options, const Board& board, Late* late, Communicator& comm)
      : options_(options),
        board_(board),
        late_(late),
        comm_(comm),
        main_(false),
        memory_(device_memory<int32_t>(kCopied)),
        host_(mapped_memory<int32_t>(kCopied)) {
    if (options.link_stream) link_.emplace(options.urgent);
    if (options.warm) {
      enqueue(false);
      main_.synchronize();
    }
    if (!options.graphs) return;
    cudaGraph_t graph = nullptr;
    SWITCHYARD_CUDA_CHECK(cudaStreamBeginCapture(main_.get(), cudaStreamCaptureModeThreadLocal));
    enqueue(true);
    SWITCHYARD_CUDA_CHECK(cudaStreamEndCapture(main_.get(), &graph));
    SWITCHYARD_CUDA_CHECK(cudaGraphInstantiate(&exec_, graph, 0));
    SWITCHYARD_CUDA_CHECK(cudaGraphDestroy(graph));
    SWITCHYARD_CUDA_CHECK(cudaGraphUpload(exec_, main_.get()));
    main_.synchronize();
  }
  ~Set() {
    if (exec_ != nullptr) (void)cudaGraphExecDestroy(exec_);
  }
  Set(const Set&) = delete;
  Set& operator=(const Set&) = delete;

  void call() {
    static std::mutex turn;
    std::unique_lock lock(turn, std::defer_lock);
    if (options_.in_turn) lock.lock();
    if (exec_ != nullptr)
      SWITCHYARD_CUDA_CHECK(cudaGraphLaunch(exec_, main_.get()));
    else
      enqueue(true);
    if (options_.in_turn) lock.unlock();
    while (options_.poll && !is_done(main_))
      if (link_) (void)is_done(*link_);
    main_.synchronize();
  }

 private:
  static constexpr int kCopied = kWorkBlocks * kWorkThreads;

  static bool is_done(const Stream& stream) {
    const cudaError_t code = cudaStreamQuery(stream.get());
    if (code != cudaErrorNotReady) SWITCHYARD_CUDA_CHECK(code);
    return code == cudaSuccess;
  }

  // With `meetings`, or with work in place of them.
  void enqueue(bool meetings) {
    const cudaStream_t link = link_ ? link_->get() : main_.get();
    for (int meeting = 0; meeting < kMeetings; ++meeting) {
      enqueue_work(memory_.get(), 300, main_.get());
      there_[meeting].join(main_.get(), link);
      meetings ? enqueue_meeting(meeting, link) : enqueue_work(memory_.get(), 10, link);
      back_[meeting].join(link, main_.get());
      if (options_.copies) copy();
    }
    enqueue_work(memory_.get(), 10, main_.get());
  }

  void enqueue_meeting(int meeting, cudaStream_t stream) {
    enqueue_tell(board_, meeting, stream);
    if (options_.in_order) meet(comm_);
    enqueue_await(board_, meeting, int64_t{options_.limit_ms} * 1'000'000, late_, stream);
  }

  // As a host that looks at what arrived, and gives it back.
  void copy() {
    const size_t bytes = kCopied * sizeof(int32_t);
    SWITCHYARD_CUDA_CHECK(
        cudaMemcpyAsync(host_.get(), memory_.get(), bytes, cudaMemcpyDeviceToHost, main_.get()));
    if (!options_.graphs) main_.synchronize();
    SWITCHYARD_CUDA_CHECK(
        cudaMemcpyAsync(memory_.get(), host_.get(), bytes, cudaMemcpyHostToDevice, main_.get()));
    if (!options_.graphs) main_.synchronize();
  }

  const Options& options_;
  Board board_;
  Late* late_;
  Communicator& comm_;
  Stream main_;
  std::optional<Stream> link_;
  Event there_[kMeetings], back_[kMeetings];
  Owned<int32_t> memory_, host_;
  cudaGraphExec_t exec_ = nullptr;
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
  const auto all_go_on = [&] {  // as rank 0 says
    int32_t mine = Clock::now() - begin < std::chrono::duration<double>(options.seconds) ? 1 : 0;
    std::vector<int32_t> all(static_cast<size_t>(comm.size()));
    comm.all_gather(Tensor(all.data(), {comm.size()}), ConstTensor(&mine, {1}), nullptr);
    return all[0] == 1;
  };
  while (all_go_on()) {
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
  const auto told = device_memory<int32_t>(static_cast<size_t>(kMeetings * options.num_ranks));
  run_local_ranks(options.num_ranks,
                  [&](Communicator& comm) { run_rank(options, comm, told.get(), outcome); });
  return outcome;
}

void print(const Options& options, const Outcome& outcome) {
  fmt::print("{} calls of {} ranks on one GPU, new streams every {}: in {} a rank was late\n",
             outcome.calls, options.num_ranks, options.calls_per_set, outcome.late.size());
  for (const auto& [call, late] : outcome.late)
    fmt::print("  call {} ({} of its streams), meeting {}: rank {} did not tell\n", call,
               (call - 1) % options.calls_per_set + 1, late.meeting + 1, late.missing);
}

nlohmann::json to_json(const Options& o, const Outcome& outcome) {
  auto late = nlohmann::json::array();
  for (const auto& [call, l] : outcome.late)
    late.push_back({{"call", call},
                    {"call_of_streams", (call - 1) % o.calls_per_set + 1},
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
