// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/local.cc -- ranks are threads of one process: they meet, copy from each other's memory,
// and meet again before a buffer is reused.
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <tuple>

#include "base/as_error.h"
#include "base/home_process.h"
#include "comm/handshake.h"
#include "switchyard/communicator.h"
#include "switchyard/error.h"

namespace switchyard {
namespace {

// What one rank brings to an operation. The pointers are valid until the operation's second
// meeting.
struct Offer {
  const char* op = nullptr;
  Tensor dst{};                              // all_gather
  ConstTensor src{};                         // all_gather
  std::span<const RowTransfer> transfers{};  // all_to_all_rows
  ConstTensor send_rows{};
  ConstTensor counts{};
  int color = 0;  // split
};

// ---- what must agree before anything is copied; an empty string is agreement

std::string disagreement_of_gather(const std::vector<Offer>& offers) {
  const auto num_ranks = static_cast<int64_t>(offers.size());
  for (size_t r = 0; r < offers.size(); ++r)
    if (auto misfit =
            misfit_of_transfer("all_gather", offers[r].dst, offers[r].src, static_cast<int>(r));
        !misfit.empty())
      return misfit;
  for (size_t r = 0; r < offers.size(); ++r) {
    const int64_t bytes = offers[r].src.bytes();
    if (bytes != offers[0].src.bytes())
      return cat("all_gather: bytes=", bytes, " on rank ", r, ", rank 0 has ",
                 offers[0].src.bytes(), ". Every rank must give as much.");
    if (offers[r].dst.bytes() != num_ranks * bytes)
      return cat("all_gather: dst bytes=", offers[r].dst.bytes(), " on rank ", r, ", need ",
                 num_ranks, " times those of src (", bytes, ").");
  }
  return {};
}

std::string misfit_of_rank(const std::vector<Offer>& offers, int r) {
  const Offer& offer = offers[r];
  const auto num_ranks = static_cast<int>(offers.size());
  return misfit_of_rows(
      r, num_ranks, offer.transfers, offer.send_rows, offer.counts, [&](size_t i) {
        const auto& [dst, src] = offer.transfers[i];
        const int64_t first = row_bytes(offers[0].transfers[i].src);
        return row_bytes(src) == first && row_bytes(dst) == first
                   ? ""
                   : cat("all_to_all_rows: row bytes=", row_bytes(src), " on rank ", r,
                         ", rank 0 has ", first, ". Rows must be equally wide.");
      });
}

std::string disagreement_of_rows(const std::vector<Offer>& offers) {
  const size_t num_ranks = offers.size();
  const Offer& first = offers[0];
  for (size_t r = 0; r < num_ranks; ++r) {
    const Offer& offer = offers[r];
    if (auto misfit = misfit_of_views(static_cast<int>(r), static_cast<int>(num_ranks),
                                      offer.transfers, offer.send_rows, offer.counts);
        !misfit.empty())
      return misfit;
    if (std::memcmp(offer.counts.data, first.counts.data, first.counts.bytes()) != 0)
      return cat("all_to_all_rows: counts on rank ", r,
                 " differ from those on rank 0. Exchange them first.");
    if (offer.transfers.size() != first.transfers.size())
      return cat("all_to_all_rows: transfers=", offer.transfers.size(), " on rank ", r,
                 ", rank 0 has ", first.transfers.size(), ".");
  }
  const auto* counts = first.counts.as<int32_t>();
  for (size_t i = 0; i < num_ranks * num_ranks; ++i)
    if (counts[i] < 0) return cat("all_to_all_rows: count=", counts[i], ", must not be negative.");
  for (size_t r = 0; r < num_ranks; ++r)
    if (auto misfit = misfit_of_rank(offers, static_cast<int>(r)); !misfit.empty()) return misfit;
  return {};
}

constexpr const char* kAllGather = "all_gather";
constexpr const char* kAllToAllRows = "all_to_all_rows";
constexpr const char* kSplit = "split";

std::string disagreement(const std::vector<Offer>& offers) {
  for (size_t r = 0; r < offers.size(); ++r)
    if (offers[r].op != offers[0].op)
      return cat(offers[r].op, ": rank ", r, " called it while rank 0 called ", offers[0].op,
                 ". Every rank must make the same calls in the same order.");
  if (offers[0].op == kAllGather) return disagreement_of_gather(offers);
  if (offers[0].op == kAllToAllRows) return disagreement_of_rows(offers);
  return {};
}

// ---- the meeting place of one communicator

class World {
 public:
  World(int num_ranks, std::chrono::milliseconds deadline)
      : deadline_(deadline),
        offers_(static_cast<size_t>(num_ranks)),
        here_(static_cast<size_t>(num_ranks)) {}

  int size() const { return static_cast<int>(offers_.size()); }
  const Offer& offer(int rank) const { return offers_[rank]; }

  // Returns once every rank has made its offer and the offers agree. Each rank that returns counts
  // as reading its peers' memory until it calls leave.
  void enter(int rank, const Offer& offer) {
    home_.require(offer.op, "the communicator");
    std::unique_lock lock(mutex_);
    if (failure_) throw *failure_;
    offers_[rank] = offer;
    const uint64_t before = generation_;
    meet(lock, rank, offer.op, [this] {
      std::string text;
      try {
        text = disagreement(offers_);
      } catch (const std::bad_alloc&) {
        return fail(text);
      }
      if (!text.empty()) return fail(text);
      readers_ = size();
      agreed_in_ = generation_;
    });
    // An abort after the agreement is seen in leave: this rank counts as a reader by now.
    if (agreed_in_ != before + 1) throw *failure_;
  }

  // Returns once every rank has read what it came for, so that offers may be reused.
  void leave(int rank) {
    std::unique_lock lock(mutex_);
    --readers_;
    changed_.notify_all();
    if (!failure_) meet(lock, rank, offers_[rank].op, [] {});
    if (!failure_) return;
    // Peers may still copy from this memory. Copying always ends; waiting may not.
    changed_.wait(lock, [this] { return readers_ == 0; });
    throw *failure_;
  }

  void abort(const std::string& reason) {
    std::vector<std::shared_ptr<World>> children;
    {
      std::lock_guard lock(mutex_);
      fail(reason);
      for (const auto& [color, child] : children_)
        if (child) children.push_back(child);
    }
    for (const auto& child : children) child->abort(reason);
  }

  std::optional<Error> failure() {
    std::lock_guard lock(mutex_);
    return failure_;
  }

  std::chrono::milliseconds deadline() const { return deadline_; }

  // Until `forget` gets what this returned.
  uint64_t when_over(const std::function<void()>& ended) {
    std::lock_guard lock(mutex_);
    if (failure_) ended();
    ended_.emplace(++last_watch_, ended);
    return last_watch_;
  }
  void forget(uint64_t watch) {
    std::lock_guard lock(mutex_);
    ended_.erase(watch);
  }

  // Between enter and leave of a split: the world of this rank's color, and its rank there.
  std::pair<std::shared_ptr<World>, int> child_of(int rank) {
    std::lock_guard lock(mutex_);
    const int color = offer(rank).color;
    int num_members = 0, child_rank = 0;
    for (int r = 0; r < size(); ++r) {
      if (offer(r).color != color) continue;
      child_rank += r < rank;
      ++num_members;
    }
    // The first member to ask makes the world; a later split makes new ones.
    std::shared_ptr<World>& known = children_[color];
    if (known && known->born_in_ == generation_) return {known, child_rank};
    const auto child = std::make_shared<World>(num_members, deadline_);
    child->born_in_ = generation_;
    known = child;
    return {child, child_rank};
  }

 private:
  void fail(const std::string& reason) {
    if (!failure_) failure_ = lost_error(reason);
    for (const auto& [watch, ended] : ended_) ended();
    changed_.notify_all();
  }

  // The last rank to come runs `complete` and opens the door. Lock held throughout, but for the
  // wait.
  template <class F>
  void meet(std::unique_lock<std::mutex>& lock, int rank, const char* op, F complete) {
    here_[rank] = 1;
    if (++num_here_ == size()) {
      num_here_ = 0;
      here_.assign(here_.size(), 0);
      ++generation_;
      complete();
      changed_.notify_all();
      return;
    }
    const uint64_t mine = generation_;
    const bool met =
        changed_.wait_for(lock, deadline_, [&] { return generation_ != mine || failure_; });
    if (!met) fail(absence(op));
  }

  std::string absence(const char* op) const {
    std::string missing;
    for (size_t r = 0; r < here_.size(); ++r)
      if (!here_[r]) missing += (missing.empty() ? "" : ", ") + std::to_string(r);
    return absence_message(op, missing, deadline_);
  }

  const HomeProcess home_;
  const std::chrono::milliseconds deadline_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Offer> offers_;
  std::vector<char> here_;  // ranks that wait in the current meeting
  int num_here_ = 0;
  int readers_ = 0;          // ranks between enter and leave
  uint64_t generation_ = 0;  // meetings held
  uint64_t agreed_in_ = 0;
  uint64_t born_in_ = 0;  // the parent's generation
  std::map<int, std::shared_ptr<World>> children_;
  std::map<uint64_t, std::function<void()>> ended_;  // called on a failure
  uint64_t last_watch_ = 0;
  std::optional<Error> failure_;
};

class LocalComm final : public Communicator {
 public:
  LocalComm(std::shared_ptr<World> world, int rank) : world_(std::move(world)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return world_->size(); }
  const char* transport() const override { return "threads"; }
  bool shares_process() const override { return true; }
  std::chrono::milliseconds deadline() const override { return world_->deadline(); }
  std::string failure_reason() const override {
    const auto failed = world_->failure();
    return failed ? failed->what() : "";
  }
  std::shared_ptr<void> when_over(const std::function<void()>& ended) override {
    const uint64_t watch = world_->when_over(ended);
    return {nullptr, [world = world_, watch](void*) { world->forget(watch); }};
  }

  void all_gather(Tensor dst, ConstTensor src, CUstream_st*) override {
    enter({.op = kAllGather, .dst = dst, .src = src});
    const auto bytes = static_cast<size_t>(src.bytes());
    for (int r = 0; r < size() && bytes > 0; ++r)
      std::memcpy(dst.as<std::byte>() + static_cast<size_t>(r) * bytes, world_->offer(r).src.data,
                  bytes);
    world_->leave(rank_);
  }

  void all_to_all_rows(std::span<const RowTransfer> transfers, ConstTensor send_rows,
                       ConstTensor counts, CUstream_st*) override {
    enter({.op = kAllToAllRows, .transfers = transfers, .send_rows = send_rows, .counts = counts});
    for (size_t i = 0; i < transfers.size(); ++i) pull_rows(i, transfers[i].dst);
    world_->leave(rank_);
  }

  std::unique_ptr<Communicator> split(int color) override {
    auto child = peers_know(*this, [] { return std::make_unique<LocalComm>(nullptr, 0); });
    enter({.op = kSplit, .color = color});
    try {
      std::tie(child->world_, child->rank_) = world_->child_of(rank_);
    } catch (const std::bad_alloc&) {  // peers count on leave, which throws this
      abort({});
    }
    world_->leave(rank_);
    return child;
  }

  void abort(const std::string& reason) noexcept override {
    try {
      world_->abort(reason);
    } catch (...) {  // no memory for the message: peers still end at their deadline
    }
  }

  std::optional<Error> failure() const { return world_->failure(); }

 private:
  void enter(const Offer& offer) {
    peers_know(*this, [&] { world_->enter(rank_, offer); });
  }

  // Appends what every rank sends here in the i-th transfer, by source rank.
  void pull_rows(size_t i, Tensor dst) {
    const auto bytes = static_cast<size_t>(row_bytes(dst));
    std::byte* to = dst.as<std::byte>();
    for (int s = 0; s < size(); ++s) {
      const Offer& from = world_->offer(s);
      const auto* counts = from.counts.as<int32_t>() + int64_t{s} * size();
      int64_t first = 0;
      for (int d = 0; d < rank_; ++d) first += counts[d];
      const auto* rows = from.transfers[i].src.as<std::byte>();
      for (int64_t n = first; n < first + counts[rank_]; ++n, to += bytes) {
        const int64_t row = from.send_rows.present() ? from.send_rows.as<int32_t>()[n] : n;
        std::memcpy(to, rows + static_cast<size_t>(row) * bytes, bytes);
      }
    }
  }

  std::shared_ptr<World> world_;
  int rank_;
};

// Whether a rank threw because the communicator failed.
bool follows_from(const std::optional<Error>& failure, const std::exception& thrown) {
  const auto* error = dynamic_cast<const Error*>(&thrown);
  return failure && error && error->code() == failure->code() &&
         std::string_view(error->what()) == failure->what();
}

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_local_ranks(int num_ranks,
                                                            LocalRanksOptions options) {
  // 4096: more threads than any machine has cores; a larger number is a mistake, not a wish.
  SWITCHYARD_REQUIRE(num_ranks >= 1 && num_ranks <= 4096, ShapeMismatch,
                     "make_local_ranks: num_ranks=", num_ranks,
                     ", need 1 to 4096. Each rank is one thread of this process.");
  check_deadline("make_local_ranks", options.deadline);
  return as_errors("make_local_ranks", [&] {
    auto world = std::make_shared<World>(num_ranks, options.deadline);
    std::vector<std::unique_ptr<Communicator>> ranks;
    ranks.reserve(num_ranks);
    for (int r = 0; r < num_ranks; ++r) ranks.push_back(std::make_unique<LocalComm>(world, r));
    return ranks;
  });
}

void run_local_ranks(int num_ranks, const std::function<void(Communicator&)>& body,
                     LocalRanksOptions options) {
  auto ranks = make_local_ranks(num_ranks, options);
  std::vector<std::exception_ptr> causes, consequences;
  as_errors("run_local_ranks", [&] {
    causes.resize(ranks.size());
    consequences.resize(ranks.size());
  });

  const auto run_rank = [&](size_t r) {
    auto& comm = static_cast<LocalComm&>(*ranks[r]);
    const auto fail = [&](const char* what) {
      causes[r] = std::current_exception();
      try {
        comm.abort(cat("run_local_ranks: rank ", r, " failed: ", what));
      } catch (const std::bad_alloc&) {
        comm.abort({});
      }
    };
    try {
      body(comm);
    } catch (const std::exception& e) {
      if (follows_from(comm.failure(), e))
        consequences[r] = std::current_exception();
      else
        fail(e.what());
    } catch (...) {
      fail("unknown error");
    }
  };
  {
    std::vector<std::jthread> threads;
    const auto start_threads = [&] {
      threads.reserve(ranks.size());
      while (threads.size() + 1 < ranks.size()) threads.emplace_back(run_rank, threads.size() + 1);
    };
    try {
      as_errors("run_local_ranks", start_threads, [&](const char* why) { ranks[0]->abort(why); });
      run_rank(0);
    } catch (const Error&) {
      causes[0] = std::current_exception();
    }
  }
  for (const auto* thrown : {&causes, &consequences})
    for (const auto& of_rank : *thrown)
      if (of_rank) std::rethrow_exception(of_rank);
}

}  // namespace switchyard
