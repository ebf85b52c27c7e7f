// src/ops/ops.h -- THE list of numeric operations. Each backend implements this class and nothing
// else; gates, dispatchers and executors call it and know no backend.
//
// Every operation is enqueued on `stream` (the CPU runs it at once), allocates nothing, and reads
// counts from device memory: sizes in the arguments are capacities. Destination first. Arguments
// were checked by the caller at creation; operations throw only for what a caller cannot know.
#pragma once

#include "base/peer_control.h"
#include "switchyard/config.h"
#include "switchyard/dispatcher.h"
#include "switchyard/linear_attention.h"
#include "switchyard/strategy.h"
#include "switchyard/tensor.h"
#include "switchyard/weights.h"

namespace switchyard {

inline constexpr int32_t kNoRow = -1;     // row_of_slot: the slot has no row here
inline constexpr int32_t kNoExpert = -1;  // ids, row_expert

// Where each local expert's rows stand in an expert buffer, both layouts alike: expert e owns rows
// [first_row[e], first_row[e] + counts[e]). Rows between two groups are padding and never touched.
// Groups never overlap; those of group_rows stand in any order.
struct RowGroups {
  Tensor counts;     // i32 [E_local] valid slots
  Tensor first_row;  // i64 [E_local + 1]; contiguous: prefix sum of aligned counts; masked: e *
                     // capacity
  // CUDA: i32 [1], 0 between calls; calls of grouped_gemm, one after the other, draw their work
  // from it. Absent: work is divided beforehand, slower where groups differ.
  Tensor next_step = {};
};

// plan_rows: from local ids to places. C rows in the buffer.
struct RowPlan {
  Layout layout = Layout::Contiguous;
  int64_t alignment = 1;  // contiguous
  int64_t capacity = 0;   // masked: rows per expert
  RowGroups groups;
  Tensor row_of_slot;  // i32 [R_cap, K]; kNoRow where the slot has no local expert (or R <= row)
  // i32 [C]; kNoRow on padding and unused rows of every group, and past the last. Absent: not
  // wanted
  Tensor slot_of_row;
  // i32 [C] ("m_indices"); kNoExpert on the same rows. Absent: not wanted
  Tensor row_expert;
  Tensor scratch{};  // i32 [kPlanBlocks, E_local]; what it holds afterwards means nothing
};

// plan_dispatch: from global ids to what travels.
struct DispatchPlan {
  Tensor send_rows;    // i32 [P * T_cap] tokens in order of (destination rank, token); S = sum of
                       // send_counts
  Tensor send_counts;  // i32 [P]
  Tensor return_row;   // i32 [T_cap, P] index of (token, rank) among the rows that come back, by
                       // rank then token, which is its index in send_rows; kNoRow: the rank owns
                       // none of its experts
};

// grouped_gemm: dst[r, :] = epilogue(src[r, :] * weights[e]^T) for the rows r of each expert e.
struct GroupedGemm {
  const char* name =
      "grouped_gemm";   // for traces: grouped_gemm1, grouped_gemm2, router, shared1, shared2
  Tensor dst;           // bf16 or f32 [C, N], or [C, N / 2] when the activation is gated
  ConstTensor src;      // bf16 [C, K_inner]
  ConstTensor weights;  // bf16 [E_local, N, K_inner]
  ConstTensor bias;     // f32 [E_local, N] or absent; joins the fp32 sums
  RowGroups groups;
  Layout layout = Layout::Contiguous;
  int64_t max_rows = 0;                    // bound of the sum of counts
  const Activation* activation = nullptr;  // absent: none
  GateUpOrder order = GateUpOrder::Unset;  // of weights and bias, when gated
  // Weight on the input: sums of row r are scaled by row_weights.flat[slot_of_row[r]] before bias
  // and activation. Both or neither.
  ConstTensor row_weights;  // f32 [R_cap, K]
  ConstTensor slot_of_row;  // i32 [C]

  // CUDA only; the CPU has one provider.
  GemmProvider provider = GemmProvider::Hopper;
  // Cublas: f32 [C, N], where bias, activation and row weights read the sums. Not needed where dst
  // itself can hold them (f32, no gate) or nothing reads them. Absent for every other provider.
  Tensor scratch;
  bool host_counts = false;  // Cublas: contiguous groups may wait for the stream to read counts
  // Hopper: multiprocessors that this call may use, at most the device's; 0: the backend's. Changes
  // no bit. Tiles of clusters of two leave an odd one idle.
  int num_sms = 0;
};

// Memory of every rank that is cut alike: what stands at an offset in this rank's window stands at
// the same offset in every other one. It begins with the words of base/peer_control.h.
struct PeerWindow {
  int rank = 0;
  int num_ranks = 1;
  ConstTensor bases;  // i64 [P], on the device: the address of every rank's window, seen from here
  Tensor control;     // i64 [control_words(P)]: this rank's window begins here
  Tensor headers;     // i32 [P, told_width(Rows)] what the ranks told last, unpacked
  int32_t* ended = nullptr;    // set once the host gave up; the device reads it
  int64_t deadline_ns = 0;     // of one wait
  int max_blocks = 0;          // CUDA: of the kernels that move rows; 0: chosen
  bool shares_device = false;  // with another rank, whose kernels need room while this one waits
};

// Which ranks get the row of a token.
enum class PeerRoute : int32_t {
  Owners,  // those that own one of its experts
  Everyone,
  Offered,  // nobody yet: it stands in this rank's window, where owners fetch it
  Nobody,   // all have it already
};

// Rows on their way to the ranks that own their experts. Every source rank has a block of rows on
// every rank, token after token, so that nobody has to know how many come from others: row
// rank * block + t is token t of `rank`. Rows that do not come are gaps, without an expert.
struct PeerPush {
  ConstTensor rows;     // bf16 [T, H]; not read with Nobody. Offered: may stand in dst_rows
  ConstTensor ids;      // i32 [T, K] global
  ConstTensor weights;  // f32 [T, K]; not read with Nobody
  int64_t num_experts = 0;
  int64_t block = 0;  // at least T of every rank; with Nobody all ranks' tokens are one block
  PeerRoute route = PeerRoute::Owners;

  // This rank's own buffers, of which peers have their like at the same offsets.
  Tensor dst_rows;     // bf16 [P * block, H]; Offered: [block, H]
  Tensor dst_ids;      // i32 [P * block, K] local; Nobody: [block, K]
  Tensor dst_weights;  // f32 [P * block, K]
  // i32 [T, P] the row of token t on rank p, kNoRow where p owns none of its experts
  Tensor return_row;

  bool stand_there() const { return route == PeerRoute::Offered && rows.data == dst_rows.data; }
};

// What a rank says before its rows are used, and what it learns.
struct PeerArrival {
  int64_t max_tokens = 0;  // the call's bound
  int64_t num_tokens = 0;  // T, equal inside a tensor-parallel group
  int tp_size = 1;
  Tensor num_rows;  // i32 [1] <- rows, or 0 with a status
  int64_t rows = 0;
};

// The part of a meeting that runs: both, unless the host orders them.
enum class PeerMeet : int32_t { Both, Tell, Wait };

// gate_topk: the rule of `gate` on logits -> ids and weights. N = the choices, of which there are E
// and the zero experts, and then S scored shared experts.
struct GateTopk {
  Tensor ids;             // i32 [T, K]
  Tensor weights;         // f32 [T, K]
  Tensor shared_weights;  // f32 [T, S]; absent: no shared expert is scored
  // f32 [T, logit_parts * N]. logit(t, e) = row_scale[t] * sum of logits[t, part * N + e] + bias[e]
  ConstTensor logits;
  int logit_parts = 1;
  ConstTensor row_scale;        // f32 [T]; absent: 1
  ConstTensor bias;             // f32 [N]; absent: 0
  ConstTensor correction_bias;  // f32 [choices]; absent: 0
  ConstTensor expert_scale;     // f32 [N]; absent: 1
  // Both or neither: ids[t, :] = token_experts[token_ids[t], :], or INT32_MIN, which is out of
  // range, where there is no such token.
  ConstTensor token_ids;      // i32 or i64 [T]
  ConstTensor token_experts;  // i32 [V, K]
  GateConfig gate;
};

// norm_rows: dst[t, :] = bf16(src[t, :] * inverse[t] * weight), inverse = 1 / sqrt(mean of squares
// + epsilon).
struct NormRows {
  Tensor dst;          // bf16 [T, N]; absent: only `inverse` is wanted. May be src
  Tensor inverse;      // f32 [T]; absent: not wanted
  ConstTensor src;     // bf16 or f32 [T, N]
  ConstTensor weight;  // f32 [N], with dst
  float epsilon = 0;
};

// Rows that stay as they are.
struct KeptRows {
  bool empty = false;  // those without any term, which are zero otherwise
  RowRange range;
};

class Ops {
 public:
  virtual ~Ops() = default;

  // ---- gate
  virtual void gate_topk(const GateTopk& gate, CUstream_st* stream) = 0;
  // dst bf16 [3, N, H] from src f32 [N, H]: src = dst[0] + dst[1] + dst[2], each the rounded rest,
  // so a router in f32 is three in bf16. Exact but for what lies below bf16's smallest number.
  virtual void split_f32(Tensor dst, ConstTensor src, CUstream_st* stream) = 0;
  // Zero experts, ids >= num_experts: dst_ids is ids with kNoExpert for them, identity[t] the sum
  // of their weights. ids i32 [T, K], which dst_ids may be; weights f32 [T, K]; identity f32 [T].
  // Ids of num_ids and more stay as they are, for others to refuse.
  virtual void split_zero_experts(Tensor dst_ids, Tensor identity, ConstTensor ids,
                                  ConstTensor weights, int64_t num_experts, int64_t num_ids,
                                  CUstream_st* stream) = 0;

  // ---- dispatch
  // dst i32 [T, K] from i32 or i64 [T, K]; ids outside int32 become INT32_MIN, which is out of
  // range. The first id outside [-1, E) is noted in status (rank `rank`), as it came.
  virtual void narrow_ids(Tensor dst, ConstTensor src, int64_t num_experts, int rank, Tensor status,
                          CUstream_st* stream) = 0;
  // ids i32 [T, K] global; owner of id is id / experts_of_rank. Ids outside [-1, E) are noted in
  // status (rank `rank`) and count as no expert. With a status already set nothing is sent.
  virtual void plan_dispatch(const DispatchPlan& plan, ConstTensor ids, int64_t num_experts,
                             int num_ranks, int rank, Tensor status, CUstream_st* stream) = 0;
  // dst[r, k] = src[r, k] - first if that is in [0, num_local), else kNoExpert, for the first
  // num_rows[0] rows. num_rows absent: all. Ids outside [-1, num_experts) are noted in status.
  virtual void localize_ids(Tensor dst, ConstTensor src, ConstTensor num_rows, int64_t first,
                            int64_t num_local, int64_t num_experts, int rank, Tensor status,
                            CUstream_st* stream) = 0;
  // Merges what the ranks said: headers i32 [P, W], the first kStatusWords words of each a status;
  // that of the lowest rank with an error is noted in status.
  virtual void merge_status(Tensor status, ConstTensor headers, CUstream_st* stream) = 0;

  // dst[t, p] = p * stride + t: rows that come back in equal blocks, one per rank.
  virtual void block_rows(Tensor dst, int64_t stride, CUstream_st* stream) = 0;
  // What the headers of a dispatch (base/buffers.h) tell: merges their statuses as merge_status
  // does, then notes a rank whose max_tokens differs from rank 0's, or whose T differs from that of
  // the first rank of its group of tp_size.
  virtual void check_headers(Tensor status, ConstTensor headers, int tp_size,
                             CUstream_st* stream) = 0;
  // counts[s, d] from the headers, counts_back its transpose, num_rows what rank `rank` receives.
  // All 0 once status is set: it is the same on every rank by then, so no rank sends.
  virtual void read_counts(Tensor counts, Tensor counts_back, Tensor num_rows, ConstTensor headers,
                           int rank, ConstTensor status, CUstream_st* stream) = 0;
  // Rows on their way between ranks that do not share memory. counts i32 [P, P] as in
  // Communicator::all_to_all_rows; rows are of any dtype and at least 4 bytes.
  // The i-th row for rank d, the n-th that `rank` sends, is src[send_rows[n], :], or src[n, :]
  // where send_rows is absent; it becomes dst[d * block + i, :], or dst[n, :] with block 0.
  // counts[rank, d] <= block unless that is 0. Other rows of dst stay.
  virtual void pack_rows(Tensor dst, ConstTensor src, ConstTensor send_rows, ConstTensor counts,
                         int rank, int64_t block, CUstream_st* stream) = 0;
  // The n-th row that `rank` gets, the i-th from rank s, is blocks[s * block + i, :], but its own
  // ones stand in `own`, where pack_rows left all that it sends; it becomes dst[n, :].
  virtual void unpack_rows(Tensor dst, ConstTensor blocks, ConstTensor own, ConstTensor counts,
                           int rank, int64_t block, CUstream_st* stream) = 0;
  // Once the host has set the word `ended`, which the device can read, status becomes Transport,
  // PeerLost, rank `rank`, whatever it was: what came from peers may mean nothing.
  virtual void note_ended(Tensor status, const int32_t* ended, int rank, CUstream_st* stream) = 0;

  // ---- execute
  // Stable counting sort of the slots of the first num_rows[0] rows by local expert. Notes
  // MaskedOverflow (rank `rank`) when an expert has more rows than capacity; such slots get kNoRow
  // and counts stop at the capacity.
  virtual void plan_rows(const RowPlan& plan, ConstTensor ids, ConstTensor num_rows, int rank,
                         Tensor status, CUstream_st* stream) = 0;
  // Groups from "m_indices": row_expert i32 [C] has the expert of every row of a contiguous buffer,
  // kNoExpert on padding, wherever it stands. The rows of one expert are consecutive; experts stand
  // in any order, at any row. An expert without rows has count 0 and first row 0; first_row[E] = C.
  // Notes RowsNotGrouped (rank `rank`) with the lowest row that has neither an expert nor
  // kNoExpert, or resumes an expert whose rows had ended; all counts and first rows are 0 then.
  virtual void group_rows(const RowGroups& groups, ConstTensor row_expert, int rank, Tensor status,
                          CUstream_st* stream) = 0;
  // dst[row_of_slot[r, k], :] = src[r, :] where there is a row.
  virtual void scatter_rows(Tensor dst, ConstTensor src, ConstTensor row_of_slot,
                            ConstTensor num_rows, CUstream_st* stream) = 0;
  // Masked groups by Cublas without a scratch: dst's rows past counts hold anything afterwards.
  // Throws Unsupported for contiguous groups of several experts by Cublas without host_counts, or
  // on a stream that is being captured.
  virtual void grouped_gemm(const GroupedGemm& gemm, CUstream_st* stream) = 0;
  // dst[r, :] = row r of the sums + addend.scale[r] * addend.rows[r, :], rounded where dst is bf16,
  // not f32. Rows at or past num_rows stay, too.
  virtual void gather_rows(Tensor dst, const SlotSums& sums, const Addend& addend,
                           ConstTensor num_rows, const KeptRows& kept, CUstream_st* stream) = 0;

  // ---- combine
  // dst[t, :] = sum over ranks p ascending of src[return_row[t, p], :] + addend, fp32, rounded
  // where dst is bf16, not f32.
  virtual void sum_partials(Tensor dst, ConstTensor src, ConstTensor return_row,
                            const Addend& addend, CUstream_st* stream) = 0;

  // ---- paged linear attention: the steps of linear_attention.h, whose `stream` is not used here.
  // status i32 [at least B]: bits of StateFault are added to the words of sequences at fault. The
  // guard is base/state_slots.h.
  virtual void conv_decode(const ConvDecode& step, Tensor status, CUstream_st* stream) = 0;
  virtual void conv_prefill_states(const ConvPrefillStates& step, Tensor status,
                                   CUstream_st* stream) = 0;
  virtual void delta_rule_decode(const DeltaRuleDecode& step, Tensor status,
                                 CUstream_st* stream) = 0;

  // ---- ranks that reach into each other's memory; dispatcher/peer.cc has the protocol
  // Token t becomes row rank * block + t (Nobody: t) of dst on every rank, as PeerPush says: its
  // ids there are local (kNoExpert for experts of others, and for the block's rows past T). The row
  // itself goes where the route says. Ids outside [-1, E) count as no expert, and await_rows notes
  // the first. Nothing at all with a status.
  virtual void push_rows(const PeerWindow& window, const PeerPush& push, ConstTensor status,
                         CUstream_st* stream) = 0;
  // Begins the next call, whose epoch is that of the last one + 1: tells every rank status,
  // max_tokens and num_tokens, and that what was enqueued before has happened; waits for all of
  // them. status is as check_headers leaves it. A rank that does not come within the deadline, or a
  // peer or host that gave up, is noted as Transport, PeerLost, and ends the window for every rank.
  // The part Wait ends what Tell began.
  virtual void await_rows(const PeerWindow& window, const PeerArrival& arrival, PeerMeet part,
                          Tensor status, CUstream_st* stream) = 0;
  // scatter_rows, of rows that were Offered: row r is row r % block of `rows` on rank r / block.
  virtual void fetch_rows(const PeerWindow& window, Tensor dst, ConstTensor rows, int64_t block,
                          ConstTensor row_of_slot, ConstTensor num_rows, CUstream_st* stream) = 0;
  // Tells ranks [first, first + num) that this one has come to `phase` of the call, with its
  // status, and waits for all of them; status is then that of the lowest with an error. What was
  // enqueued before is visible to whoever waited. Lost ranks as in await_rows.
  virtual void meet_peers(const PeerWindow& window, PeerPhase phase, PeerMeet part, int first,
                          int num, Tensor status, CUstream_st* stream) = 0;
  // sum_partials, over rows of peers: rank p's term of token t is row return_row[t, p] of its
  // `partial`; this rank's, if `own` has rows, row t of `own`, rounded to bf16. Nothing is read
  // with a status.
  virtual void pull_sums(const PeerWindow& window, Tensor dst, ConstTensor partial,
                         ConstTensor return_row, const SlotSums& own, const Addend& addend,
                         ConstTensor status, CUstream_st* stream) = 0;
  // dst[t, :] = row t % C of `slice` on rank first + t / C, with C = ceil(T / num). Nothing is read
  // with a status.
  virtual void pull_slices(const PeerWindow& window, Tensor dst, ConstTensor slice, int first,
                           int num, ConstTensor status, CUstream_st* stream) = 0;

  // ---- around the experts
  virtual void norm_rows(const NormRows& norm, CUstream_st* stream) = 0;
  // dst[t, :] = sum over s ascending of weights[t, s] * src[s, t, :]; f32 [T, H], [T, S], [S, T,
  // H].
  virtual void weigh_shared(Tensor dst, ConstTensor src, ConstTensor weights,
                            CUstream_st* stream) = 0;
  // dst bf16 [T, H] = bf16(src + addend.scale * addend.rows); src f32 [T, H].
  virtual void add_rows(Tensor dst, ConstTensor src, const Addend& addend, CUstream_st* stream) = 0;

  // ---- small things
  virtual void widen(Tensor dst, ConstTensor src, CUstream_st* stream) = 0;  // bf16 -> f32
  // Groups of one expert that owns rows [0, num_rows): the router, shared experts.
  virtual void single_group(const RowGroups& groups, int64_t num_rows, CUstream_st* stream) = 0;
  virtual void sigmoid(Tensor dst, ConstTensor src, CUstream_st* stream) = 0;  // f32 -> f32
  virtual void fill_i32(Tensor dst, int32_t value, CUstream_st* stream) = 0;
  virtual void copy(Tensor dst, ConstTensor src, CUstream_st* stream) = 0;  // equal bytes
  // dst, bf16 or f32, becomes NaN if status is set.
  virtual void poison(Tensor dst, ConstTensor status, CUstream_st* stream) = 0;
};

}  // namespace switchyard
