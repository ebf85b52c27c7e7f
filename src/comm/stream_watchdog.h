// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/stream_watchdog.h -- whether work on streams goes on. Marks are set behind it; the
// device reaches them one by one, and it is late when it has not reached one for too long.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <optional>
#include <vector>

namespace switchyard {

class StreamWatchdog {
 public:
  using Clock = std::chrono::steady_clock;

  explicit StreamWatchdog(size_t num_marks) : set_at_(num_marks) {}

  // The mark to set behind the work now: a free one, or else the newest anew, so that the newest
  // is behind everything of one stream, and of several behind what came last.
  size_t set(Clock::time_point now) {
    if (num_pending_ == set_at_.size()) return (oldest_ + num_pending_ - 1) % set_at_.size();
    const size_t mark = (oldest_ + num_pending_++) % set_at_.size();
    set_at_[mark] = now;
    return mark;
  }
  // That has not been reached yet.
  std::optional<size_t> oldest() const {
    return num_pending_ == 0 ? std::nullopt : std::optional(oldest_);
  }
  void reach_oldest(Clock::time_point now) {
    oldest_ = (oldest_ + 1) % set_at_.size();
    --num_pending_;
    last_reached_ = now;
  }
  bool is_late(Clock::time_point now, std::chrono::milliseconds deadline) const {
    return num_pending_ > 0 && now - std::max(set_at_[oldest_], last_reached_) > deadline;
  }

 private:
  std::vector<Clock::time_point> set_at_;
  size_t oldest_ = 0, num_pending_ = 0;
  Clock::time_point last_reached_{};
};

}  // namespace switchyard
