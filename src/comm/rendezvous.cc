// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/rendezvous.cc
#include "comm/rendezvous.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "base/require.h"
#include "comm/nonce.h"

namespace switchyard {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// A stranger is turned away after the first, a rank that said who it is after the second; both are
// more than a loaded machine takes for a few bytes.
constexpr milliseconds kSilence{2000}, kPatience{5000};
constexpr milliseconds kOwnPatience{10000};  // longer than a listener's
// Beyond so many at once the oldest silent one makes room, once it had this time.
constexpr size_t kMostVisitors = 128;
constexpr milliseconds kLeastTime{50};
constexpr size_t kMostReasons = 8;

constexpr uint64_t kMagic = 0x4452415948435753;  // "SWCHYARD"
constexpr uint32_t kVersion = 2;

struct Hello {
  uint64_t magic = kMagic;
  uint32_t version = kVersion;
  uint32_t size = 0;
  uint32_t rank = 0;
  Channel channel = Channel::Data;
  uint64_t job = 0;
  uint64_t nonce = 0;
};
static_assert(sizeof(Hello) == 40);

enum class Verdict : uint32_t { ComeIn, OtherVersion, OtherJob, OtherSize, NotAwaited, RankTaken };

struct Answer {
  uint64_t magic = kMagic;
  uint32_t version = kVersion;
  Verdict verdict = Verdict::ComeIn;
  uint32_t size = 0;
  uint32_t rank = 0;
  uint64_t nonce = 0;
  uint64_t proof = 0;
};
static_assert(sizeof(Answer) == 40);

enum class Side : uint64_t { Listener = 1, Caller = 2 };

DigestKey key_of(const std::string& secret, uint64_t token) {
  std::string text = secret;
  text.append(reinterpret_cast<const char*>(&token), sizeof token);
  const auto bytes = std::as_bytes(std::span(text));
  return {keyed_digest({1, 2}, bytes), keyed_digest({3, 4}, bytes)};
}

uint64_t digest_of(const std::string& job) {
  return keyed_digest({5, 6}, std::as_bytes(std::span(job)));
}

// What only who knows the key can say of this conversation.
uint64_t proof_of(const DigestKey& key, Side side, const Hello& hello, const Answer& answer,
                  std::span<const std::byte> payload = {}) {
  const uint64_t words[] = {static_cast<uint64_t>(side), answer.rank, answer.size, answer.nonce};
  std::vector<std::byte> said(payload.begin(), payload.end());
  const auto add = [&](std::span<const std::byte> part) {
    said.insert(said.end(), part.begin(), part.end());
  };
  add(std::as_bytes(std::span(words)));
  add(bytes_of(hello));
  return keyed_digest(key, said);
}

// ---- who connects

std::string rank_at(const Place& place) {
  return cat("rank ", place.rank, " at ", place_text(place.host, place.port));
}

// Why the listener turns this rank away.
std::string objection_of(const Answer& answer, const Place& place, const Membership& me) {
  const std::string there = rank_at(place);
  switch (answer.verdict) {
    case Verdict::ComeIn: return {};
    case Verdict::OtherVersion:
      return cat("version=", kVersion, " on rank ", me.rank, ", ", there, " has ", answer.version,
                 ". Run the same release on every rank.");
    case Verdict::OtherJob:
      return cat("job=", me.job.empty() ? "none" : me.job, " on rank ", me.rank, ", ", there,
                 " is of another job. Use another MASTER_PORT, or the same SWITCHYARD_JOB on every "
                 "rank.");
    case Verdict::OtherSize:
      return cat("ranks=", me.size, " on rank ", me.rank, ", ", there, " has ", answer.size,
                 ". Start every rank with the same WORLD_SIZE.");
    case Verdict::RankTaken:
      return cat("rank=", me.rank, ", ", there,
                 " has this one already. Start each rank once, and end those of earlier runs.");
    case Verdict::NotAwaited: break;
  }
  return cat("rank=", me.rank, ", ", there, " does not await it. Number ranks from 0 to size-1.");
}

// Why it may be worth another try; empty once both are sure of each other.
std::string greet(const Socket& socket, const Place& place, const Membership& me, Channel channel,
                  std::span<const std::byte> payload, Deadline deadline) {
  const DigestKey key = key_of(me.secret, place.token);
  const Hello hello{.size = me.size,
                    .rank = me.rank,
                    .channel = channel,
                    .job = digest_of(me.job),
                    .nonce = draw_nonce()};
  Answer answer;
  const auto talk = [&](const auto& say_and_hear) {
    try {
      say_and_hear();
    } catch (const Error&) {
      return false;
    }
    return true;
  };
  const std::string who = rank_at(place);
  if (!talk([&] {
        send_all(socket, bytes_of(hello), deadline, who);
        receive_all(socket, writable_bytes_of(answer), deadline, who);
      }))
    return "it closed the connection or did not answer";
  if (answer.magic != kMagic) return "something else answers there";
  if (const std::string objection = objection_of(answer, place, me); !objection.empty())
    throw Error(Errc::Transport, cat("communicator: ", objection));
  if (answer.rank != place.rank || answer.proof != proof_of(key, Side::Listener, hello, answer))
    throw Error(Errc::Transport,
                cat("communicator: who listens as ", who,
                    " does not prove that it is one of this "
                    "job. Set the same SWITCHYARD_SECRET on every rank, and use a free port."));
  const uint64_t proof = proof_of(key, Side::Caller, hello, answer, payload);
  uint64_t welcome = 0;
  const bool is_in = talk([&] {
    send_all(socket, bytes_of(proof), deadline, who);
    send_all(socket, payload, deadline, who);
    receive_all(socket, writable_bytes_of(welcome), deadline, who);
  });
  return is_in && welcome == kMagic ? "" : "it closed the connection";
}

}  // namespace

Socket join_rank(const Place& place, const Membership& me, Channel channel,
                 std::span<const std::byte> payload, Deadline deadline) {
  constexpr milliseconds kLongestPause{200};
  milliseconds pause{5};
  while (true) {
    std::string why;
    Socket socket = try_connect(place.host, place.port, deadline, why);
    if (socket.open())
      why = greet(socket, place, me, channel, payload,
                  std::min(deadline, Clock::now() + kOwnPatience));
    if (why.empty()) return socket;
    if (Clock::now() >= deadline) refuse(cat("no connection to ", rank_at(place)), why);
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, kLongestPause);
  }
}

// ---- who listens

struct Reception::Visitor {
  Socket socket;
  Deadline since, until;
  std::vector<std::byte> heard;  // of the message at hand
  size_t wanted = sizeof(Hello);
  Hello hello;
  std::optional<Answer> answer;  // given
};

Reception::Reception(Listener listener, Membership me, uint64_t token, const Expected& expected)
    : listener_(std::move(listener)),
      me_(std::move(me)),
      key_(key_of(me_.secret, token)),
      expected_(expected),
      guests_(size_t{me_.size - expected.first_rank} * expected.num_channels),
      num_missing_(guests_.size()) {}

Reception::~Reception() = default;

Reception::Guest& Reception::guest(uint32_t rank, Channel channel) {
  return guests_[size_t{rank - expected_.first_rank} * expected_.num_channels +
                 static_cast<size_t>(channel)];
}

void Reception::await_all(Deadline deadline) {
  while (num_missing_ > 0) {
    if (Clock::now() >= deadline) give_up();
    wait(deadline);
    accept_all();
    const auto now = Clock::now();
    std::erase_if(visitors_, [&](Visitor& visitor) {
      if (advance(visitor) == Step::Gone) return true;
      if (now < visitor.until) return false;
      turn_away(visitor, "which said nothing more");
      return true;
    });
  }
  visitors_.clear();
}

// Until there is something to do.
void Reception::wait(Deadline deadline) {
  constexpr milliseconds kPause{10};
  Deadline until = deadline;
  std::vector<pollfd> polled;
  for (const Visitor& visitor : visitors_) {
    polled.push_back({visitor.socket.fd(), POLLIN, 0});
    until = std::min(until, visitor.until);
  }
  const bool accepts = !lacks_descriptors_ && visitors_.size() < kMostVisitors;
  if (accepts)
    polled.push_back({listener_.socket.fd(), POLLIN, 0});
  else
    until = std::min<Deadline>(until, Clock::now() + kPause);
  lacks_descriptors_ = false;
  poll(polled.data(), polled.size(), milliseconds_left(until) + 1);
}

void Reception::accept_all() {
  while (visitors_.size() < kMostVisitors || make_room(false)) {
    Socket socket = try_accept(listener_);
    if (socket.open()) {
      const auto now = Clock::now();
      visitors_.push_back({std::move(socket), now, now + kSilence, {}, sizeof(Hello), {}, {}});
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;  // it went away again
    if (errno == EAGAIN) return;
    // Without a descriptor accept does not say whether anybody waits for one.
    pollfd waits{listener_.socket.fd(), POLLIN, 0};
    if (poll(&waits, 1, 0) > 0) lacks_descriptors_ = !make_room(true);
    return;
  }
}

// The oldest of those that did not say who they are goes, else the oldest.
bool Reception::make_room(bool at_once) {
  auto victim = std::ranges::find_if(visitors_, [](const Visitor& v) { return !v.answer; });
  if (victim == visitors_.end()) victim = visitors_.begin();
  if (victim == visitors_.end()) return false;
  if (!at_once && Clock::now() < victim->since + kLeastTime) return false;
  turn_away(*victim, "for many at once");
  visitors_.erase(victim);
  return true;
}

// Takes what has come.
Reception::Step Reception::advance(Visitor& visitor) {
  while (true) {
    const size_t before = visitor.heard.size();
    visitor.heard.resize(visitor.wanted);
    const auto n =
        recv(visitor.socket.fd(), visitor.heard.data() + before, visitor.wanted - before, 0);
    const bool has_come = n > 0;
    visitor.heard.resize(before + (has_come ? static_cast<size_t>(n) : 0));
    if (!has_come) {
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) return Step::Going;
      turn_away(visitor, visitor.answer ? "which left (another SWITCHYARD_SECRET?)" : "which left");
      return Step::Gone;
    }
    uint64_t magic = 0;
    if (!visitor.answer && visitor.heard.size() >= sizeof magic) {
      std::memcpy(&magic, visitor.heard.data(), sizeof magic);
      if (magic != kMagic) return turn_away(visitor, "of another protocol"), Step::Gone;
    }
    if (visitor.heard.size() < visitor.wanted) continue;
    const Step step = visitor.answer ? hear_proof(visitor) : hear_hello(visitor);
    if (step == Step::Gone) return step;
  }
}

Reception::Step Reception::hear_hello(Visitor& visitor) {
  Hello& hello = visitor.hello;
  std::memcpy(&hello, visitor.heard.data(), sizeof hello);
  const bool is_awaited = hello.rank >= expected_.first_rank && hello.rank < me_.size &&
                          static_cast<uint32_t>(hello.channel) < expected_.num_channels;
  Answer answer{.size = me_.size, .rank = me_.rank, .nonce = draw_nonce()};
  if (hello.version != kVersion)
    answer.verdict = Verdict::OtherVersion;
  else if (hello.job != digest_of(me_.job))
    answer.verdict = Verdict::OtherJob;
  else if (hello.size != me_.size)
    answer.verdict = Verdict::OtherSize;
  else if (!is_awaited)
    answer.verdict = Verdict::NotAwaited;
  else if (!is_missing(hello.rank, hello.channel))
    answer.verdict = Verdict::RankTaken;
  answer.proof = proof_of(key_, Side::Listener, hello, answer);
  const auto sent =
      send(visitor.socket.fd(), &answer, sizeof answer, MSG_NOSIGNAL);  // fits an empty buffer
  visitor.answer = answer;
  switch (answer.verdict) {
    case Verdict::ComeIn: break;
    case Verdict::OtherVersion: turn_away(visitor, cat("of version ", hello.version)); break;
    case Verdict::OtherJob: turn_away(visitor, "of another job"); break;
    case Verdict::OtherSize: turn_away(visitor, cat("of ", hello.size, " ranks")); break;
    case Verdict::NotAwaited: turn_away(visitor, "which is not awaited"); break;
    case Verdict::RankTaken: turn_away(visitor, "which is here already"); break;
  }
  if (answer.verdict != Verdict::ComeIn || sent != sizeof answer) return Step::Gone;
  visitor.heard.clear();
  visitor.wanted = sizeof(uint64_t) + expected_.payload_bytes;
  visitor.until = Clock::now() + kPatience;
  return Step::Going;
}

Reception::Step Reception::hear_proof(Visitor& visitor) {
  uint64_t proof = 0;
  std::memcpy(&proof, visitor.heard.data(), sizeof proof);
  const auto payload = std::span(visitor.heard).subspan(sizeof proof);
  const Hello& hello = visitor.hello;
  if (proof != proof_of(key_, Side::Caller, hello, *visitor.answer, payload))
    return turn_away(visitor, "with another secret"), Step::Gone;
  // Another one may have been faster.
  if (!is_missing(hello.rank, hello.channel)) return Step::Gone;
  if (send(visitor.socket.fd(), &kMagic, sizeof kMagic, MSG_NOSIGNAL) != sizeof kMagic)
    return Step::Gone;
  guest(hello.rank, hello.channel) = {std::move(visitor.socket), {payload.begin(), payload.end()}};
  --num_missing_;
  return Step::Gone;
}

// A rank whose process ended meanwhile may come anew.
bool Reception::is_missing(uint32_t rank, Channel channel) {
  Socket& socket = guest(rank, channel).socket;
  if (!socket.open()) return true;
  char byte = 0;
  if (recv(socket.fd(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) != 0) return false;
  socket = {};
  ++num_missing_;
  return true;
}

void Reception::turn_away(const Visitor& visitor, const std::string& why) {
  const std::string who = visitor.answer ? cat("rank ", visitor.hello.rank) : "a connection";
  std::string reason = cat(who, " from ", peer_address(visitor.socket), " ", why);
  const bool is_new = !turned_away_.contains(reason);
  ++turned_away_[is_new && turned_away_.size() >= kMostReasons ? "others" : std::move(reason)];
}

void Reception::give_up() {
  std::vector<uint32_t> missing;
  for (uint32_t r = expected_.first_rank; r < me_.size; ++r)
    for (uint32_t c = 0; c < expected_.num_channels; ++c)
      if (!guest(r, static_cast<Channel>(c)).socket.open() &&
          (missing.empty() || missing.back() != r))
        missing.push_back(r);
  std::vector<std::string> reasons;
  for (const auto& [reason, times] : turned_away_)
    reasons.push_back(times == 1 ? reason : cat(reason, " (", times, " times)"));
  refuse(cat("rank ", joined(missing), " of ", me_.size, " at ", listener_.place),
         cat("it did not come within the deadline",
             reasons.empty() ? "" : cat("; turned away: ", joined(reasons, "; "))));
}

}  // namespace switchyard
