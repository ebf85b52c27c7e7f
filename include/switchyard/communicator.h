// include/switchyard/communicator.h -- public: ranks, and the three things they do together.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "switchyard/tensor.h"

namespace switchyard {

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
  /// "threads", later "mpi", "nccl".
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

  /// Ends the communicator for every rank, now: peers that wait get Error(Transport) with `reason`.
  /// Not collective. For a rank that cannot go on and must not leave its peers waiting.
  virtual void abort(const std::string& reason) noexcept = 0;
};

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

}  // namespace switchyard
