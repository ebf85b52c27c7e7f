// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/transport_comm.cc -- every operation is one exchange: a header to each peer that says
// what is called, then the bytes; nothing is copied into a destination before the peer's header
// agrees.
#include "comm/byte_transport.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/checked.h"
#include "base/home_process.h"
#include "comm/handshake.h"
#include "comm/sockets.h"

namespace switchyard {
namespace {

using Clock = std::chrono::steady_clock;

enum class Op : uint32_t { AllGather = 1, AllToAllRows = 2, Split = 3 };

const char* op_name(Op op) {
  switch (op) {
    case Op::AllGather: return "all_gather";
    case Op::AllToAllRows: return "all_to_all_rows";
    case Op::Split: return "split";
  }
  return "nothing known";
}

// The head of every message. All ranks of a job run on machines of one byte order.
struct Header {
  uint64_t comm_id = 0;  // of the communicator or the split that it came from
  uint64_t sequence = 0;
  uint32_t op = 0;
  uint32_t num_kinds = 0;  // of rows
  uint64_t bytes = 0;      // that follow
};

// To or from one peer: the header, or rows of one kind.
struct Payload {
  std::byte* dst = nullptr;        // receiving: contiguous
  const std::byte* src = nullptr;  // sending: base address of all rows
  const int32_t* rows = nullptr;   // sending: which rows; null: [0, num_rows) of src
  int64_t num_rows = 0;
  int64_t row_bytes = 0;

  int64_t bytes() const { return num_rows * row_bytes; }
  const std::byte* row(int64_t r) const { return src + (rows ? int64_t{rows[r]} : r) * row_bytes; }
};

constexpr size_t kMaxKinds = 8;                   // a dispatch moves three kinds of rows
constexpr size_t kStageBytes = size_t{64} << 10;  // about what a socket takes at once

// One direction of one peer in one exchange.
struct Lane {
  Header header;
  std::array<Payload, 1 + kMaxKinds> payloads;  // the header is the first
  size_t num_payloads = 0;
  size_t payload = 0;
  int64_t payload_done = 0;  // bytes of payloads[payload]
  std::vector<std::byte> stage;
  size_t stage_size = 0, stage_done = 0;

  void begin() {
    num_payloads = payload = stage_size = stage_done = 0, payload_done = 0;
    auto* words = reinterpret_cast<std::byte*>(&header);
    add({words, words, nullptr, 1, sizeof header});
  }
  void add(const Payload& p) { payloads[num_payloads++] = p; }
  uint64_t bytes_of_rows() const {
    int64_t sum = 0;
    for (size_t i = 1; i < num_payloads; ++i) sum += payloads[i].bytes();
    return static_cast<uint64_t>(sum);
  }
  bool done() const { return payload == num_payloads && stage_done == stage_size; }
  // Passes empty payloads, too.
  void advance(int64_t bytes) {
    payload_done += bytes;
    while (payload < num_payloads && payload_done == payloads[payload].bytes())
      ++payload, payload_done = 0;
  }
};

// How a transport ends: why it failed, which peers left, and whom to notify of that while the rank's
// own thread is busy elsewhere.
class TransportState {
 public:
  TransportState(std::unique_ptr<ByteTransport> transport, std::chrono::milliseconds deadline)
      : transport_(std::move(transport)), deadline_(deadline) {
    left_.reserve(static_cast<size_t>(transport_->size()));
  }
  ~TransportState() {
    if (!home_.is_here()) (void)thread_.release();  // it is not in a child of fork
  }
  TransportState(const TransportState&) = delete;
  TransportState& operator=(const TransportState&) = delete;

  ByteTransport& transport() { return *transport_; }
  std::chrono::milliseconds deadline() const { return deadline_; }
  std::optional<Error> failure() const {
    const std::lock_guard lock(mutex_);
    return failure_;
  }
  // The first reason stays; peers get it if it is this rank's.
  void fail(const std::string& reason) {
    const std::lock_guard lock(mutex_);
    if (failure_) return;
    failure_ = lost_error(reason);
    if (home_.is_here()) transport_->notify(reason);  // else the connections are another's
    notify_watches();
  }
  // Not in a child of fork: it would take what its parent waits for.
  void require_home(const char* op) const { home_.require(op, "the communicator"); }
  // Takes in the notices of peers until now.
  void listen() {
    const std::lock_guard lock(mutex_);
    bool heard = false;
    try {
      while (const auto notice = transport_->notice()) {
        heard = true;
        if (!notice->reason)
          left_.push_back(notice->peer);
        else if (!failure_)
          failure_ = lost_error(*notice->reason);
      }
    } catch (const std::bad_alloc&) {  // for a notice that is lost with it
      heard = true;
      if (!failure_) failure_ = lost_error({});
    }
    if (heard) notify_watches();
  }
  // Of `peers` the one that is known to have left first, which is no failure until it is
  // needed.
  std::optional<size_t> first_left(const std::vector<int>& peers) const {
    const std::lock_guard lock(mutex_);
    return find_left(peers);
  }

  // `ended` is called on a failure, or when one of `peers` leaves; until `forget` gets what this
  // returned. A thread listens as long as there is a watch. Throws Error(Unsupported) without one.
  uint64_t watch(const std::vector<int>& peers, const std::function<void()>& ended) {
    const std::lock_guard thread_lock(thread_mutex_);
    if (!thread_) start();
    const std::lock_guard lock(mutex_);
    if (failure_ || find_left(peers)) ended();
    watches_.emplace(++last_watch_, Watch{peers, ended});
    return last_watch_;
  }
  void forget(uint64_t watch) {
    if (!home_.is_here()) return;
    const std::lock_guard thread_lock(thread_mutex_);
    bool last = false;
    {
      const std::lock_guard lock(mutex_);
      watches_.erase(watch);
      last = watches_.empty();
    }
    if (last) stop();
  }

 private:
  struct Watch {
    std::vector<int> peers;
    std::function<void()> ended;
  };

  std::optional<size_t> find_left(const std::vector<int>& peers) const {
    for (const int left : left_)
      if (const auto at = std::ranges::find(peers, left); at != peers.end())
        return static_cast<size_t>(at - peers.begin());
    return {};
  }
  void notify_watches() const {
    for (const auto& [number, watch] : watches_)
      if (failure_ || find_left(watch.peers)) watch.ended();
  }
  void start() {
    stop_ = FileDescriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    SWITCHYARD_REQUIRE(stop_.open(), Unsupported, "communicator: eventfd, ", errno_text(),
                       ". Raise the limit of open files.");
    try {
      thread_ = std::make_unique<std::jthread>([this, stop = stop_.fd()] {
        while (transport_->wait_for_notice(stop)) listen();
      });
    } catch (const std::system_error& e) {
      throw Error(Errc::Unsupported, cat("communicator: no thread to listen for peers (", e.what(),
                                         "). Raise the limit of threads."));
    }
  }
  void stop() {
    const uint64_t one = 1;
    (void)!write(stop_.fd(), &one, sizeof one);
    thread_.reset();  // joins it
    stop_ = {};
  }

  const HomeProcess home_;
  std::unique_ptr<ByteTransport> transport_;
  const std::chrono::milliseconds deadline_;
  mutable std::mutex mutex_;  // of all that follows, and of transport_->notice
  std::optional<Error> failure_;
  std::vector<int> left_;  // peers, as they were heard
  std::map<uint64_t, Watch> watches_;
  uint64_t last_watch_ = 0;

  std::mutex thread_mutex_;  // before mutex_
  FileDescriptor stop_;
  std::unique_ptr<std::jthread> thread_;  // first to go
};

// What another thread heard is seen after this long, though nothing moves.
constexpr std::chrono::milliseconds kGlance{50};

class TransportComm final : public Communicator {
 public:
  TransportComm(std::shared_ptr<TransportState> state, std::vector<int> members, uint64_t id)
      : state_(std::move(state)),
        members_(std::move(members)),
        id_(id),
        wanted_(static_cast<size_t>(state_->transport().size())),
        out_(members_.size()),
        in_(members_.size()) {
    const auto me = std::ranges::find(members_, wire().rank());
    rank_ = static_cast<int>(me - members_.begin());
    for (Lane& lane : out_) lane.stage.resize(kStageBytes);
  }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  const char* transport() const override { return wire().name(); }
  std::chrono::milliseconds deadline() const override { return state_->deadline(); }
  std::string failure_reason() const override {
    state_->listen();
    if (const auto failure = state_->failure()) return failure->what();
    const auto left = state_->first_left(members_);
    return left ? left_message("forward", *left) : "";  // only forward asks before a failure
  }
  std::shared_ptr<void> when_over(const std::function<void()>& ended) override {
    const uint64_t watch = state_->watch(members_, ended);
    return {nullptr, [state = state_, watch](void*) { state->forget(watch); }};
  }

  void all_gather(Tensor dst, ConstTensor src, CUstream_st*) override {
    peers_know(*this, [&] { gather(Op::AllGather, dst, src); });
  }

  void all_to_all_rows(std::span<const RowTransfer> transfers, ConstTensor send_rows,
                       ConstTensor counts, CUstream_st*) override {
    peers_know(*this, [&] { exchange_rows(transfers, send_rows, counts); });
  }

  std::unique_ptr<Communicator> split(int color) override {
    return peers_know(*this, [&] { return part_of(color); });
  }

  void abort(const std::string& reason) noexcept override { state_->fail(reason); }

 private:
  void exchange_rows(std::span<const RowTransfer> transfers, ConstTensor send_rows,
                     ConstTensor counts) {
    begin(Op::AllToAllRows, static_cast<uint32_t>(transfers.size()));
    if (auto misfit = misfit_of(transfers, send_rows, counts); !misfit.empty()) fail(misfit);
    const auto* count = counts.as<int32_t>();
    for (const RowTransfer& t : transfers) {
      const int64_t width = row_bytes(t.dst);
      int64_t sent = 0, received = 0;
      for (int p = 0; p < size(); ++p) {
        const int64_t num_sent = count[rank_ * size() + p],
                      num_received = count[p * size() + rank_];
        const auto* rows = send_rows.present() ? send_rows.as<int32_t>() + sent : nullptr;
        const auto* src = t.src.as<std::byte>() + (rows ? 0 : sent * width);
        out_[p].add({nullptr, src, rows, num_sent, width});
        in_[p].add(
            {t.dst.as<std::byte>() + received * width, nullptr, nullptr, num_received, width});
        sent += num_sent;
        received += num_received;
      }
    }
    exchange();
  }

  std::unique_ptr<Communicator> part_of(int color) {
    std::vector<int32_t> colors(members_.size());
    const auto mine = static_cast<int32_t>(color);
    gather(Op::Split, Tensor(colors.data(), {size()}), ConstTensor(&mine, {1}));
    std::vector<int> members;
    for (size_t r = 0; r < members_.size(); ++r)
      if (colors[r] == mine) members.push_back(members_[r]);
    // Equal on all members, since it follows from what they share; differs from its relatives'.
    const uint64_t id = (id_ * 0x9e3779b97f4a7c15u + sequence_) * 0xbf58476d1ce4e5b9u +
                        static_cast<uint32_t>(color) + 1;
    return std::make_unique<TransportComm>(state_, std::move(members), id);
  }

  ByteTransport& wire() const { return state_->transport(); }

  [[noreturn]] void fail(const std::string& reason) {
    state_->fail(reason);
    throw *state_->failure();
  }
  // A peer's reason is the first: what this rank sees may only follow from it.
  [[noreturn]] void fail_unless_known(const std::string& reason) {
    check_notice();
    fail(reason);
  }
  void check_notice() {
    state_->listen();
    if (const auto failure = state_->failure()) throw *failure;
  }
  static std::string left_message(const char* op, size_t member) {
    return cat(op, ": rank ", member,
               " left: its process ended or closed the connection. Make a new communicator without "
               "it.");
  }

  void begin(Op op, uint32_t num_kinds) {
    state_->require_home(op_name(op));
    check_notice();
    op_ = op;
    num_kinds_ = num_kinds;
    ++sequence_;
    for (Lane& lane : out_) lane.begin();
    for (Lane& lane : in_) lane.begin();
  }

  void gather(Op op, Tensor dst, ConstTensor src) {
    begin(op, 1);
    if (auto misfit = misfit_of_transfer(op_name(op), dst, src, rank_); !misfit.empty())
      fail(misfit);
    const int64_t bytes = src.bytes();
    if (dst.bytes() != bytes * size())
      fail(cat(op_name(op), ": dst bytes=", dst.bytes(), " on rank ", rank_, ", need ", size(),
               " times those of src (", bytes, ")."));
    for (int p = 0; p < size(); ++p) {
      out_[p].add({nullptr, src.as<std::byte>(), nullptr, 1, bytes});
      in_[p].add({dst.as<std::byte>() + p * bytes, nullptr, nullptr, 1, bytes});
    }
    exchange();
  }

  // Why this rank's own arguments cannot be exchanged; empty when they can.
  std::string misfit_of(std::span<const RowTransfer> transfers, ConstTensor send_rows,
                        ConstTensor counts) const {
    const std::string where = cat(" on rank ", rank_);
    if (transfers.size() > kMaxKinds)
      return cat("all_to_all_rows: transfers=", transfers.size(), where, ", at most ", kMaxKinds,
                 ".");
    if (std::string misfit = misfit_of_views(rank_, size(), transfers, send_rows, counts);
        !misfit.empty())
      return misfit;
    const auto* count = counts.as<int32_t>();
    for (int p = 0; p < size(); ++p)
      if (count[rank_ * size() + p] < 0 || count[p * size() + rank_] < 0)
        return cat("all_to_all_rows: a count", where, " is negative.");
    return misfit_of_rows(rank_, size(), transfers, send_rows, counts, [&](size_t i) {
      const auto& [dst, src] = transfers[i];
      return row_bytes(dst) == row_bytes(src)
                 ? ""
                 : cat("all_to_all_rows: rows of dst and src differ in width", where, ".");
    });
  }

  // Copies the next rows of a lane into its stage.
  static void fill_stage(Lane& lane) {
    lane.stage_done = lane.stage_size = 0;
    while (lane.payload < lane.num_payloads && lane.stage_size < kStageBytes) {
      const Payload& p = lane.payloads[lane.payload];
      const int64_t offset = lane.payload_done % p.row_bytes;
      const auto room = static_cast<int64_t>(kStageBytes - lane.stage_size);
      const int64_t num = std::min(room, p.row_bytes - offset);
      std::memcpy(lane.stage.data() + lane.stage_size,
                  p.row(lane.payload_done / p.row_bytes) + offset, num);
      lane.stage_size += static_cast<size_t>(num);
      lane.advance(num);
    }
  }

  static void copy_own_rows(const Lane& out, const Lane& in) {
    for (size_t i = 1; i < in.num_payloads; ++i) {
      const Payload& to = in.payloads[i];
      for (int64_t r = 0; r < to.num_rows && to.row_bytes > 0; ++r)
        std::memcpy(to.dst + r * to.row_bytes, out.payloads[i].row(r), to.row_bytes);
    }
  }

  // What the transport says that it moved; no peer may have left.
  int64_t moved(int64_t bytes, size_t member) {
    if (bytes == ByteTransport::kLeft) fail_unless_known(left_message(op_name(op_), member));
    return bytes;
  }

  // Sends what can be sent of a lane that is not done; whether anything moved.
  bool push(Lane& lane, size_t member) {
    if (lane.stage_done == lane.stage_size) fill_stage(lane);
    const std::span<const std::byte> stage(lane.stage.data(), lane.stage_size);
    const auto n = moved(wire().send(members_[member], stage.subspan(lane.stage_done)), member);
    lane.stage_done += static_cast<size_t>(n);
    return n > 0;
  }

  bool pull(Lane& lane, size_t member) {
    const bool is_header = lane.payload == 0;
    const Payload& p = lane.payloads[lane.payload];
    const auto rest = static_cast<size_t>(p.bytes() - lane.payload_done);
    const auto n =
        moved(wire().receive(members_[member], {p.dst + lane.payload_done, rest}), member);
    lane.advance(n);
    if (is_header && lane.payload > 0) check_header(lane, member);
    return n > 0;
  }

  void check_header(const Lane& lane, size_t member) {
    const Header& h = lane.header;
    const char* mine = op_name(op_);
    if (h.op != static_cast<uint32_t>(op_) || h.comm_id != id_ || h.sequence != sequence_)
      fail_unless_known(cat(mine, ": rank ", member, " called ", op_name(static_cast<Op>(h.op)),
                            " (call ", h.sequence, ") while rank ", rank_, " called ", mine,
                            " (call ", sequence_,
                            "). Every rank must make the same calls in the same order."));
    if (h.num_kinds != num_kinds_ || h.bytes != lane.bytes_of_rows())
      fail_unless_known(cat(mine, ": rank ", member, " sent ", h.bytes, " bytes, rank ", rank_,
                            " expected ", lane.bytes_of_rows(),
                            ". Did the ranks exchange counts first?"));
  }

  void exchange() {
    const auto me = static_cast<size_t>(rank_);
    for (size_t p = 0; p < members_.size(); ++p)
      out_[p].header = {id_, sequence_, static_cast<uint32_t>(op_), num_kinds_,
                        out_[p].bytes_of_rows()};
    copy_own_rows(out_[me], in_[me]);

    auto last_progress = Clock::now();
    while (true) {
      bool all_done = true, progress = false;
      for (size_t p = 0; p < members_.size(); ++p) {
        if (p == me) continue;
        while (!out_[p].done() && push(out_[p], p)) progress = true;
        while (!in_[p].done() && pull(in_[p], p)) progress = true;
        wanted_[members_[p]] = {!out_[p].done(), !in_[p].done()};
        all_done &= is_done(p);
      }
      if (all_done) return;
      const auto now = Clock::now();
      if (progress) {
        last_progress = now;
        continue;
      }
      const auto waited =
          std::chrono::duration_cast<std::chrono::milliseconds>(now - last_progress);
      if (waited >= state_->deadline()) fail_unless_known(absence());
      check_notice();
      wire().wait(wanted_, std::min(kGlance, state_->deadline() - waited));
    }
  }

  // After the last exchange this rank may end, so what it sent must not need it any more.
  bool is_done(size_t member) const {
    return in_[member].done() && out_[member].done() && wire().has_left(members_[member]);
  }

  std::string absence() const {
    std::string missing;
    for (size_t p = 0; p < members_.size(); ++p)
      if (static_cast<int>(p) != rank_ && !is_done(p))
        missing += cat(missing.empty() ? "" : ", ", p);
    return absence_message(op_name(op_), missing, state_->deadline());
  }

  std::shared_ptr<TransportState> state_;  // of all communicators over one transport
  std::vector<int> members_;               // rank here -> rank of the transport
  int rank_ = 0;
  uint64_t id_ = 0;
  uint64_t sequence_ = 0;
  Op op_ = Op::AllGather;
  uint32_t num_kinds_ = 0;
  std::vector<ByteTransport::Wanted> wanted_;  // by rank of the transport
  std::vector<Lane> out_, in_;
};

}  // namespace

std::unique_ptr<Communicator> make_transport_comm(std::unique_ptr<ByteTransport> transport,
                                                  std::chrono::milliseconds deadline) {
  check_deadline("communicator", deadline);
  std::vector<int> members(transport->size());
  for (size_t r = 0; r < members.size(); ++r) members[r] = static_cast<int>(r);
  auto state = std::make_shared<TransportState>(std::move(transport), deadline);
  return std::make_unique<TransportComm>(std::move(state), std::move(members), 1);
}

}  // namespace switchyard
