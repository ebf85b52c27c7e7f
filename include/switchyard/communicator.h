// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/communicator.h -- public: ranks, and the three things they do together.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "switchyard/tensor.h"

namespace [[gnu::visibility("default")]] switchyard {

/// One kind of row in an exchange: rows of `src` on the senders become rows of `dst` here.
struct RowTransfer {
  Tensor dst;       // [at least the rows received, W]
  ConstTensor src;  // [at least the rows sent, W], same W and dtype on every rank
};

/// A fixed set of ranks. Every operation is collective: all ranks call it, in the same order, with
/// the same sizes. Operations are enqueued on a stream; on the CPU they run at once.
///
/// One rank's communicator is used by one thread at a time. It must outlive the layers made with
/// it.
///
/// Throws Error(Transport) when a peer is later than the deadline, left, or called something else.
/// The message names the rank and the operation. The communicator is over after that: each later
/// operation throws the same error at once, on every rank. Make a new one to go on.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// "threads", "processes", "mpi".
  virtual const char* transport() const = 0;

  /// dst[r, ...] = src of rank r. dst has size() times the bytes of src; equal sizes on every rank.
  virtual void all_gather(Tensor dst, ConstTensor src, CUstream_st* stream) = 0;

  /// Sends rows to every rank, its own included, and appends what arrives by source rank.
  ///
  ///   transfers  inout  the kinds of rows that travel alike (token rows, ids, weights)
  ///   send_rows  in     i32 [S] or absent: the i-th row sent is src[send_rows[i]], else src[i];
  ///                     rows for rank 0 come first, then those for rank 1, ...
  ///   counts     in     i32 [P, P], counts[s, d] rows go from s to d; the same on every rank
  ///
  /// Received rows stand in order of source rank, then in the order in which they were sent.
  virtual void all_to_all_rows(std::span<const RowTransfer> transfers, ConstTensor send_rows,
                               ConstTensor counts, CUstream_st* stream) = 0;

  /// The ranks that give the same color become a communicator, in order of rank.
  virtual std::unique_ptr<Communicator> split(int color) = 0;

  /// Whether every rank is a thread of this process, so that an address means the same to all.
  virtual bool shares_process() const { return false; }
  /// How long a rank waits for its peers in one operation.
  virtual std::chrono::milliseconds deadline() const { return std::chrono::milliseconds(30000); }
  /// Why the communicator is over; empty while it works, or where nobody can say.
  virtual std::string failure_reason() const { return {}; }
  /// `ended` is called once the communicator is over or one of its ranks left (at once, if so), on
  /// any thread and maybe more than once; it must only note that. Until the returned handle is
  /// gone. Null where nobody is told; over MPI this rank's own calls must find out.
  virtual std::shared_ptr<void> when_over(const std::function<void()>& ended) {
    (void)ended;
    return nullptr;
  }

  /// Ends the communicator for every rank, now: peers that wait get Error(Transport) with `reason`.
  /// Not collective. For a rank that cannot go on and must not leave its peers waiting.
  virtual void abort(const std::string& reason) noexcept = 0;
};

/// Collective: returns once every rank has come, whatever is enqueued on devices. Around what
/// allocates or frees memory of a device that ranks share, and before memory goes that peers may
/// still reach. Throws Error(Transport) if a peer is lost.
void meet(Communicator& communicator);

/// How long a rank waits for its peers in one operation before it gives up.
struct LocalRanksOptions {
  /// 30 s: longer than any layer takes on a loaded machine, short enough for a person to wait.
  std::chrono::milliseconds deadline{30000};
};

/// One communicator for each of `num_ranks` threads of this process; element r belongs to rank r.
std::vector<std::unique_ptr<Communicator>> make_local_ranks(int num_ranks,
                                                            LocalRanksOptions options = {});

/// Runs `body` on one thread per rank and joins them. A rank whose body throws ends the
/// communicator for its peers; the error of the lowest rank that failed by itself is rethrown here.
void run_local_ranks(int num_ranks, const std::function<void(Communicator&)>& body,
                     LocalRanksOptions options = {});

/// Ranks that are processes, connected by TCP.
struct ProcessRankOptions {
  /// Also bounds how long a rank waits for its peers to be born. 1 ms to a year.
  std::chrono::milliseconds deadline{30000};
  /// How peers reach this process, IPv4, IPv6 or a name of at most 255 characters; it listens there
  /// and nowhere else, until all ranks are connected. The default suits ranks of one machine only.
  std::string address = "127.0.0.1";
  /// Names the job among those that may meet at a port; equal on every rank.
  std::string job = {};
  /// What the ranks of the job know and nobody else: a connection is believed once its other end
  /// proved that it knows it. It does not cross the network; rows do, as they are. See SECURITY.md.
  std::string secret = {};
};

/// all[r] = `mine` of rank r, `bytes` bytes each: what a host program that already knows its peers
/// provides. Called once, by make_process_rank, on every rank.
using GatherCallback = std::function<void(void* all, const void* mine, size_t bytes)>;

/// Rank `rank` of `size`, in this process. Collective over the processes.
/// A killed peer is an Error(Transport) at once, a stopped one after the deadline; survivors make a
/// new communicator. Throws Error(Transport) when a peer cannot be reached within the deadline.
std::unique_ptr<Communicator> make_process_rank(int rank, int size, const GatherCallback& gather,
                                                const ProcessRankOptions& options = {});
/// The same from RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun sets them; the address
/// is found on the way to MASTER_ADDR, which is one of rank 0's machine. Rank 0 listens there at
/// MASTER_PORT + 1, since the launcher's own store may stand at MASTER_PORT. What options leave
/// empty: the job is SWITCHYARD_JOB, else TORCHELASTIC_RUN_ID or SLURM_JOB_ID; the secret is
/// SWITCHYARD_SECRET.
std::unique_ptr<Communicator> make_process_rank(const ProcessRankOptions& options = {});
/// What a program that calls it should tell its user, one line: that ranks of several machines meet
/// without SWITCHYARD_SECRET. Empty: nothing.
std::string process_rank_warning();

/// Ranks that are the processes of an MPI job, all of MPI_COMM_WORLD. Initialises MPI
/// (MPI_THREAD_SERIALIZED) unless the program did, and then finalises it at exit. MPI itself ends a
/// job whose process dies; a stopped one is an Error(Transport) after the deadline.
/// Throws Error(Unsupported) when this build has no MPI.
std::unique_ptr<Communicator> make_mpi_rank(
    std::chrono::milliseconds deadline = std::chrono::milliseconds(30000));
/// Whether make_mpi_rank can be called at all.
bool has_mpi() noexcept;

/// Whether ranks on CUDA can exchange rows over NCCL: the build has it, and it was found where
/// the program runs. Ranks of several hosts need it (see LayerOptions::forbid_peer_memory). Their
/// communicator only introduces them to each other.
bool has_nccl() noexcept;

}  // namespace switchyard
