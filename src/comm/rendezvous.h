// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/rendezvous.h -- how ranks that are processes make sure of each other before anything that
// comes over a connection is believed:
//
//     who connects    Hello    magic, version, job, size, rank and channel, a nonce
//     who listens     Answer   a verdict, a nonce, a proof
//     who connects    Proof, and what is gathered from it
//     who listens     Welcome
//
// A proof is a keyed digest of both nonces and of all that was claimed. Its key is made of the job's
// secret and a number that a rank draws for its listener, so neither crosses the network here.
// Everything has a fixed size.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "comm/keyed_digest.h"
#include "comm/sockets.h"

namespace switchyard {

// What a rank says of itself.
struct Membership {
  uint32_t rank = 0;
  uint32_t size = 0;  // ranks of the job
  std::string job;    // names the job among those that may meet at a port
  std::string secret;
};

// Two connections join a pair of ranks.
enum class Channel : uint32_t { Data = 0, Notice = 1 };

// Where a rank is found.
struct Place {
  std::string host;
  uint16_t port = 0;
  uint64_t token = 0;  // of its listener; known to the job's ranks alone, 0 before they know it
  uint32_t rank = 0;
};

// Connects to the rank at `place`, which may begin to listen later; gives it `payload`. Throws
// Error(Transport) at the deadline, or at once if it is of another job, another size, has this rank
// already, or does not know the secret.
Socket join_rank(const Place& place, const Membership& me, Channel channel,
                 std::span<const std::byte> payload, Deadline deadline);

// The connections of ranks that come to a listener. Strangers are many at a time and none for long.
class Reception {
 public:
  // What is awaited: ranks from `first_rank` on, on `num_channels` channels each, with
  // `payload_bytes` each.
  struct Expected {
    uint32_t first_rank = 1;
    uint32_t num_channels = 1;
    size_t payload_bytes = 0;
  };
  Reception(Listener listener, Membership me, uint64_t token, const Expected& expected);
  ~Reception();

  // Returns once every rank is here. Throws Error(Transport) at the deadline, with those missing and
  // those that were turned away.
  void await_all(Deadline deadline);
  Socket& connection(uint32_t rank, Channel channel) { return guest(rank, channel).socket; }
  std::span<const std::byte> payload(uint32_t rank) { return guest(rank, Channel::Data).payload; }

 private:
  struct Visitor;
  struct Guest {
    Socket socket;
    std::vector<std::byte> payload;
  };

  Guest& guest(uint32_t rank, Channel channel);
  bool is_missing(uint32_t rank, Channel channel);
  void wait(Deadline deadline);
  void accept_all();
  bool make_room(bool at_once);
  enum class Step { Going, Gone };
  Step advance(Visitor& visitor);
  Step hear_hello(Visitor& visitor);
  Step hear_proof(Visitor& visitor);
  void turn_away(const Visitor& visitor, const std::string& why);
  [[noreturn]] void give_up();

  Listener listener_;
  Membership me_;
  DigestKey key_;
  Expected expected_;
  std::vector<Guest> guests_;  // by rank, then channel
  size_t num_missing_ = 0;
  std::vector<Visitor> visitors_;  // the oldest first
  bool lacks_descriptors_ = false;
  std::map<std::string, int> turned_away_;  // why: how often
};

}  // namespace switchyard
