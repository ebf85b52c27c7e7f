// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/nccl_state.cc
#include "comm/nccl_state.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/require.h"
#include "device/cuda_check.h"
#include "device/memory.h"

namespace switchyard {
namespace {

using Clock = StreamWatchdog::Clock;
using std::chrono::milliseconds;

// More calls than a stream holds work of (1024 launches, several for each call); with more, the
// newest mark moves on.
constexpr size_t kMarks = 64;
// A moment that a call of NCCL may take, though it should never wait.
constexpr milliseconds kCallPatience{2000};
// Beside the deadline, for what NCCL does when it ends.
constexpr milliseconds kClosePatience{5000};
// How long the driver has to answer promptly until NCCL's service threads have surely ended.
constexpr milliseconds kQuiet{250}, kPrompt{50};

constexpr const char* kOver =
    "nccl: the communicator is over, or one of its ranks left. Make a new communicator and layer.";

std::string message_of(const char* name, ncclResult_t answer, ncclComm_t comm) {
  const NcclLibrary& nccl = nccl_library();
  const char* last = nccl.last_error(comm);
  return cat(
      "nccl: ", name, "=", nccl.error_string(answer), ", ",
      last != nullptr && *last != '\0' ? last : "no more is known",
      ". Set NCCL_DEBUG=INFO and look at every rank, then make a new communicator and layer.");
}

bool is_good(ncclResult_t answer) {
  return answer == ncclSuccess || answer == ncclInProgress;
}

}  // namespace

NcclState::NcclState(std::shared_ptr<Backend> backend, milliseconds deadline)
    : backend_(std::move(backend)),
      ended_(backend_->memory().shared_word()),
      deadline_(deadline),
      watchdog_(kMarks) {
  for (size_t i = 0; i < kMarks; ++i) {
    cudaEvent_t mark = nullptr;
    SWITCHYARD_CUDA_CHECK(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming));
    marks_.push_back(mark);
  }
}

NcclState::~NcclState() {
  for (cudaEvent_t mark : marks_) (void)cudaEventDestroy(mark);
}

// ---- of the rank's own thread

void NcclState::connect(const ncclUniqueId& id, int num_ranks, int rank) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  {
    const std::lock_guard lock(mutex_);
    const ncclResult_t answer = nccl_library().comm_init(&comm_, num_ranks, id, rank, &config);
    take_answer_locked("ncclCommInitRankConfig", answer);
  }
  await("ncclCommInitRankConfig");
}

void NcclState::note_siblings() {
  const std::lock_guard lock(mutex_);
  has_siblings_ = true;
}

void NcclState::require_open() {
  const std::lock_guard lock(mutex_);
  require_open_locked();
}

bool NcclState::is_open() {
  if (is_over()) return false;
  const std::lock_guard lock(mutex_);
  return why_.empty();
}

void NcclState::require_open_locked() const {
  SWITCHYARD_REQUIRE(why_.empty(), Transport, why_);
}

void NcclState::take_answer_locked(const char* name, ncclResult_t answer) const {
  SWITCHYARD_REQUIRE(is_good(answer), Transport, message_of(name, answer, comm_));
}

ncclResult_t NcclState::answer_locked() const {
  ncclResult_t answer = ncclSuccess;
  const ncclResult_t asked = nccl_library().comm_async_error(comm_, &answer);
  return asked == ncclSuccess ? answer : asked;
}

// A few microseconds as a rule; longer while ranks connect, which they did when the link was made.
void NcclState::await(const char* name) {
  const auto end_at = Clock::now() + deadline_;
  for (unsigned polls = 0;; ++polls) {
    {
      const std::lock_guard lock(mutex_);
      require_open_locked();
      const ncclResult_t answer = answer_locked();
      take_answer_locked(name, answer);
      if (answer == ncclSuccess) return;
    }
    if (is_over()) end(kOver);
    if (Clock::now() > end_at)
      end(cat("nccl: ", name, " did not end within ", deadline_.count(),
              " ms, the deadline of the communicator. Look at the other ranks."));
    if (polls < 1000)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

bool NcclState::is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream, &capture) != cudaSuccess) (void)cudaGetLastError();
  return capture != cudaStreamCaptureStatusNone;
}

void NcclState::set_mark(cudaStream_t stream) {
  if (is_capturing(stream)) return;
  const std::lock_guard lock(mutex_);
  SWITCHYARD_CUDA_CHECK(cudaEventRecord(marks_[watchdog_.set(Clock::now())], stream));
}

void NcclState::drain() {
  while (true) {
    look();
    {
      const std::lock_guard lock(mutex_);
      require_open_locked();
      if (!watchdog_.oldest()) return;
    }
    if (is_over()) end(kOver);
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

bool NcclState::close() {
  std::unique_lock lock(wake_mutex_);
  closing_ = true;
  wake_.notify_all();
  return wake_.wait_for(lock, deadline_ + kClosePatience, [this] { return closed_; });
}

// ---- of any thread

void NcclState::note_over() {
  const std::lock_guard lock(wake_mutex_);
  over_ = true;
  wake_.notify_all();
}

bool NcclState::is_over() {
  if (std::atomic_ref(*ended_).load(std::memory_order_relaxed) != 0) return true;
  const std::lock_guard lock(wake_mutex_);
  return over_;
}

// If a call of NCCL does not come back, it keeps the lock; then without: the abort ends that call.
std::unique_lock<std::mutex> NcclState::lock_soon() {
  std::unique_lock lock(mutex_, std::defer_lock);
  const auto end_at = Clock::now() + kCallPatience;
  while (!lock.try_lock() && Clock::now() < end_at)
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  return lock;
}

void NcclState::end(const std::string& why) {
  // First: kernels that end because of the abort are followed by one that looks at this.
  std::atomic_ref(*ended_).store(1);
  {
    const auto lock = lock_soon();
    if (why_.empty()) why_ = why;
  }
  note_over();
}

// ---- of the thread that watches

void NcclState::watch() {
  backend_->memory().make_current();
  // Looking at marks does not disturb a capture of another thread.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  (void)cudaThreadExchangeStreamCaptureMode(&mode);
  bool aborted = false;
  while (true) {
    const milliseconds until = next_look();
    {
      std::unique_lock lock(wake_mutex_);
      wake_.wait_for(lock, until, [&] { return closing_ || (over_ && !aborted); });
      if (closing_) break;
    }
    look();
    if (aborted || !is_over()) continue;
    abort();
    aborted = true;
  }
  finish();
  const std::lock_guard lock(wake_mutex_);
  closed_ = true;
  wake_.notify_all();
}

milliseconds NcclState::next_look() {
  constexpr milliseconds kIdle{500};
  const std::lock_guard lock(mutex_);
  if (!watchdog_.oldest()) return kIdle;
  return std::clamp(deadline_ / 20, milliseconds(1), milliseconds(50));
}

void NcclState::look() {
  std::string why;
  {
    const std::lock_guard lock(mutex_);
    if (!why_.empty() || comm_ == nullptr) return;
    why = fault_locked();
  }
  if (!why.empty()) end(why);
}

// Takes in which marks are reached. Empty: nothing is wrong.
std::string NcclState::fault_locked() {
  while (const auto mark = watchdog_.oldest()) {
    const cudaError_t reached = cudaEventQuery(marks_[*mark]);
    if (reached == cudaErrorNotReady) break;
    if (reached != cudaSuccess) {
      (void)cudaGetLastError();
      return cat("nccl: cudaEventQuery=", cudaGetErrorName(reached), ", ",
                 cudaGetErrorString(reached), ". Is the device healthy and free?");
    }
    watchdog_.reach_oldest(Clock::now());
  }
  if (const ncclResult_t answer = answer_locked(); !is_good(answer))
    return message_of("ncclCommGetAsyncError", answer, comm_);
  if (!watchdog_.is_late(Clock::now(), deadline_)) return {};
  return cat("nccl: work did not end within ", deadline_.count(),
             " ms, the deadline of the communicator. Look at the other ranks.");
}

void NcclState::abort() {
  end(kOver);
  ncclComm_t comm = nullptr;
  {
    const auto lock = lock_soon();
    comm = std::exchange(comm_, nullptr);
  }
  if (comm != nullptr) (void)nccl_library().comm_abort(comm);
}

// No other thread uses the communicator any more.
void NcclState::finish() {
  if (is_over()) return abort();
  const auto end_at = Clock::now() + deadline_;
  const std::lock_guard lock(mutex_);
  if (comm_ == nullptr) return;
  const NcclLibrary& nccl = nccl_library();
  ncclResult_t answer = nccl.comm_finalize(comm_);
  while (answer == ncclInProgress && !is_over() && Clock::now() < end_at) {
    std::this_thread::sleep_for(milliseconds(1));
    answer = answer_locked();
  }
  if (answer == ncclSuccess && has_siblings_) let_service_threads_end();
  ncclComm_t comm = std::exchange(comm_, nullptr);
  (void)(answer == ncclSuccess ? nccl.comm_destroy(comm) : nccl.comm_abort(comm));
}

// NCCL maps buffers of a rank a second time for other ranks of its process. Finalize tells the
// rank's service thread to unmap the first mappings, and no call waits for that thread; the last
// sibling that destroys unmaps the second ones. A driver that unmaps both at once breaks the heap
// (docs/decisions/0046), so every sibling lets a while pass between the two.
// Another process that starts CUDA holds up the driver: such times do not count.
void NcclState::let_service_threads_end() const {
  const auto end_at = Clock::now() + kClosePatience / 2;
  for (auto quiet_since = Clock::now(); Clock::now() < std::min(quiet_since + kQuiet, end_at);) {
    const auto asked_at = Clock::now();
    size_t free = 0, total = 0;
    if (cudaMemGetInfo(&free, &total) != cudaSuccess) (void)cudaGetLastError();
    if (Clock::now() - asked_at > kPrompt) quiet_since = Clock::now();
    std::this_thread::sleep_for(milliseconds(10));
  }
}

}  // namespace switchyard
