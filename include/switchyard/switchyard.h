/* SPDX-FileCopyrightText: The Switchyard authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* include/switchyard/switchyard.h -- public: the C API, of libswitchyard_c. C99; no other header of Switchyard. The
 * guide: docs/guide/c_api.md. What a field means beyond its line here: the C++ header that its struct names. */
#ifndef SWITCHYARD_SWITCHYARD_H
#define SWITCHYARD_SWITCHYARD_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SWY_API __attribute__((visibility("default")))
#else
#define SWY_API
#endif

/* Of this header. It grows with every addition; nothing that exists ever changes. */
#define SWY_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

/* ---- rules
 *
 * Errors: a function that returns a status sets the text of swy_last_error, to "" after success. Nothing is printed,
 * and no C++ exception leaves the library. A wrong call changes nothing and writes nothing.
 *
 * Structs that begin with `size` grow at their end. SWY_INIT sets the size and every default; a library newer than the
 * header takes its defaults for what the header does not know, and an older one refuses what it does not know unless
 * it is 0. Structs without `size` never change. Fields named reserved must be 0.
 *
 * Handles are made by _create and the like, and freed by _destroy, in any order: what a layer needs lives as long as
 * the layer. _destroy takes NULL, never fails and leaves the text of swy_last_error. Not while another thread uses the
 * handle.
 *
 * Threads: one at a time for the layers and attentions of a context, one for a group; everything else from any thread.
 *
 * Flags are 0 or 1. Strings are read in the call and not kept. Callbacks must neither throw nor longjmp.
 */

typedef struct swy_context swy_context; /* a device with its threads: Backend */
typedef struct swy_memory swy_memory;   /* memory of a device */
typedef struct swy_group swy_group;     /* one rank's place among ranks: Communicator */
typedef struct swy_weights swy_weights; /* of one layer and rank: LayerWeights */
typedef struct swy_shared_workspace swy_shared_workspace;
typedef struct swy_layer swy_layer;           /* MoeLayer */
typedef struct swy_attention swy_attention;   /* LinearAttention */
typedef struct swy_checkpoint swy_checkpoint; /* Checkpoint */

typedef enum swy_status {
  SWY_OK = 0,
  SWY_SHAPE_MISMATCH = 1, /* a size, a dtype or a dimension breaks a rule */
  SWY_MISALIGNED = 2,     /* an address or a width is not a multiple of what the kernels copy */
  SWY_UNSUPPORTED = 3,    /* recognised, but this build, device or release cannot do it */
  SWY_BAD_FILE = 4,       /* a file is missing, damaged or not what its header says */
  SWY_CUDA_FAULT = 5,     /* the CUDA runtime or a kernel reported a fault */
  SWY_TRANSPORT = 6,      /* a peer is lost, late, or called something else; the group is over */
  SWY_BAD_ROUTING = 7,    /* expert ids or per-expert counts that no layer can serve */
  SWY_BAD_STATE = 8,      /* a sequence whose state stands outside its block map or the pool */
  SWY_INVALID_ARGUMENT = 100, /* NULL, no such enumerator or size, another kind of handle */
  SWY_OUT_OF_MEMORY = 101,    /* of the host */
  SWY_INTERNAL = 102,         /* a fault of the library or of the system beneath it */
  SWY_STATUS_MAX = 0x7fffffff /* never returned */
} swy_status;

enum {
  SWY_BF16 = 0,
  SWY_F16 = 1,
  SWY_F32 = 2,
  SWY_F64 = 3,
  SWY_I32 = 4,
  SWY_I64 = 5,
  SWY_F8_E4M3 = 6
};                                  /* DType */
enum { SWY_CPU = 0, SWY_CUDA = 1 }; /* DeviceKind */

/* ---- version, errors */

SWY_API uint32_t swy_version(void);           /* SWY_VERSION of the library */
SWY_API const char* swy_version_string(void); /* of the release: "0.1.0" */
/* "ShapeMismatch", ...; never NULL. */
SWY_API const char* swy_status_name(swy_status status);
/* Of this thread, on one line; never NULL. Valid until the thread's next call that returns a status.
 * `<operation>: <name>=<value>, <the rule>. <What to do instead.>` */
SWY_API const char* swy_last_error(void);

/* Sets the defaults of a struct: swy_config config; SWY_INIT(config, config); */
#define SWY_INIT(type, value) swy_##type##_init(&(value), sizeof(value))

/* ---- tensors */

/* A view of memory that the caller keeps alive until the work is done (swy_layer_wait). rank 0: absent. */
typedef struct swy_tensor {
  void* data;
  int64_t shape[4];   /* outermost first */
  int64_t strides[4]; /* elements; all 0: row-major without gaps. Others where a field says so */
  int32_t rank, dtype, device;
  uint32_t reserved[3];
} swy_tensor;

static inline swy_tensor swy_tensor_of(const void* data, int32_t dtype, int32_t device,
                                       int32_t rank, const int64_t* shape) {
  /* NOLINTNEXTLINE(modernize-use-nullptr): C has none */
  swy_tensor t = {0, {0, 0, 0, 0}, {0, 0, 0, 0}, 0, 0, 0, {0, 0, 0}};
  int32_t d;
  t.data = (void*)(uintptr_t)data; /* what is only read is never written */
  for (d = 0; d < rank && d < 4; ++d) t.shape[d] = shape[d];
  t.rank = rank;
  t.dtype = dtype;
  t.device = device;
  return t;
}
static inline swy_tensor swy_matrix(const void* data, int64_t rows, int64_t columns, int32_t dtype,
                                    int32_t device) {
  int64_t shape[2];
  shape[0] = rows;
  shape[1] = columns;
  return swy_tensor_of(data, dtype, device, 2, shape);
}

/* Memory that is lent: at least `bytes` bytes, aligned to 128. NULL: none. */
typedef struct swy_workspace {
  void* data;
  size_t bytes;
} swy_workspace;

/* ---- a device */

/* Memory and threads of the program's own: Allocator, TaskRunner of backend.h, which say what each must do. Called from
 * any thread; `release` (or NULL) once nothing needs them any more, never if the call that got them fails. */
typedef struct swy_allocator {
  void* (*allocate)(void* user, size_t bytes); /* aligned to 128; NULL: there is no such memory */
  void (*free)(void* user, void* address, size_t bytes);
  void (*release)(void* user);
  void* user;
} swy_allocator;
typedef struct swy_task_runner {
  void (*run)(void* user, int64_t num_tasks, void (*task)(void* context, int64_t i), void* context);
  void (*release)(void* user);
  void* user;
  int32_t num_threads; /* at most so many tasks run at a time; at least 1 */
  int32_t reserved;
} swy_task_runner;

typedef struct swy_context_options { /* backend.h */
  size_t size;
  int32_t device;                     /* SWY_CPU */
  int32_t device_index;               /* SWY_CUDA: -1, the calling thread's current device */
  int32_t num_threads;                /* SWY_CPU: the caller's included; 0: one per core */
  int32_t num_sms;                    /* SWY_CUDA: multiprocessors that GEMMs may use; 0: all */
  const swy_allocator* allocator;     /* NULL: the library's; read in the call, as the next one */
  const swy_task_runner* task_runner; /* SWY_CPU, with num_threads 0; NULL: threads of its own */
} swy_context_options;
SWY_API swy_status swy_context_options_init(swy_context_options* options, size_t size);

/* The first call of a program, with SWY_VERSION: a library older than the header is SWY_UNSUPPORTED. options NULL: the
 * CPU. A CUDA device becomes the calling thread's current one. */
SWY_API swy_status swy_context_create(uint32_t version, const swy_context_options* options,
                                      swy_context** out);
SWY_API void swy_context_destroy(swy_context* context);

/* Memory of the context's device, 128-byte aligned. `data` is its address. */
SWY_API swy_status swy_memory_create(swy_context* context, size_t bytes, swy_memory** out,
                                     void** data);
SWY_API void swy_memory_destroy(swy_memory* memory);
/* dst (of the context's device) = src (of the host), of equal bytes; waits for the copy. Streams are cudaStream_t;
 * NULL: the default one. A CPU ignores them. */
SWY_API swy_status swy_copy_to_device(swy_context* context, const swy_tensor* dst, const void* src,
                                      void* stream);
/* Waits for the stream, then dst (of the host) = src (of the context's device). */
SWY_API swy_status swy_copy_to_host(swy_context* context, void* dst, const swy_tensor* src,
                                    void* stream);

/* ---- ranks. A layer of one rank needs none of this. */

typedef struct swy_group_options { /* communicator.h */
  size_t size;
  int64_t deadline_ms; /* 30000: how long a rank waits for its peers in one operation */
  const char* address; /* swy_group_create: how peers reach this process; NULL: 127.0.0.1 */
} swy_group_options;
SWY_API swy_status swy_group_options_init(swy_group_options* options, size_t size);

/* all[r] = `mine` of rank r, `bytes` bytes each: what a program that knows its peers provides. 0: done. */
typedef int (*swy_gather)(void* user, void* all, const void* mine, size_t bytes);

/* options NULL: the defaults. */

/* Rank `rank` of `size`, over TCP. Collective. `gather` is called once, in the call. */
SWY_API swy_status swy_group_create(int32_t rank, int32_t size, swy_gather gather, void* user,
                                    const swy_group_options* options, swy_group** out);
/* The same from RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. */
SWY_API swy_status swy_group_create_from_env(const swy_group_options* options, swy_group** out);
/* The processes of an MPI job, all of MPI_COMM_WORLD. */
SWY_API swy_status swy_group_create_from_mpi(const swy_group_options* options, swy_group** out);
/* `size` ranks that are threads of this process: group r of the array is for the thread of rank r. */
SWY_API swy_status swy_group_create_threads(int32_t size, const swy_group_options* options,
                                            swy_group** out);
SWY_API swy_status swy_group_place(const swy_group* group, int32_t* rank, int32_t* size);
/* Collective: returns once every rank has come. Around what allocates or frees memory of a GPU that ranks share. */
SWY_API swy_status swy_group_meet(swy_group* group);
/* Ends the group for every rank, from any thread: peers that wait get SWY_TRANSPORT with `reason`. */
SWY_API swy_status swy_group_abort(swy_group* group, const char* reason);
SWY_API void swy_group_destroy(swy_group* group);

/* ---- what a layer computes */

/* ActivationKind */
enum {
  SWY_SILU_GATED = 0,
  SWY_GELU_GATED = 1,
  SWY_GELU_TANH_GATED = 2,
  SWY_CLAMPED_SWIGLU = 3,
  SWY_RELU2 = 4,
  SWY_SILU_OF_CLAMPED = 5,
  SWY_CLAMPED_SILU = 6,
  SWY_SITU = 7,
  SWY_RELU2_GATED = 8,
  SWY_ACTIVATION_OF_ROUTED = -1 /* of shared experts */
};
/* Scoring */
enum {
  SWY_SOFTMAX = 0,
  SWY_SOFTMAX_OF_TOP_K = 1,
  SWY_SIGMOID = 2,
  SWY_SPARSE_MIXER = 3,
  SWY_SQRT_SOFTPLUS = 4
};
enum { SWY_GROUP_MAX = 0, SWY_GROUP_TOP2_SUM = 1 }; /* GroupScore */

/* config.h: MoeConfig, GateConfig, SharedExpertConfig, RoutedPathConfig */
typedef struct swy_config {
  size_t size;
  int64_t hidden, intermediate, num_experts, top_k; /* H, I, E, K */
  int32_t activation;
  float activation_alpha, activation_limit;
  int32_t scoring;
  int32_t renormalize, clamp_renormalizer;
  float renormalize_epsilon, scale;
  int64_t num_groups, num_groups_kept;
  int32_t group_score, correction_bias;
  float jitter_epsilon, logit_softcap;
  int64_t vocabulary, num_zero_experts;
  int32_t expert_scale, rms_of_hidden;
  int64_t shared_intermediate, shared_num_scored;
  int32_t shared_sigmoid_gated, shared_activation;
  float shared_activation_alpha, shared_activation_limit; /* unless SWY_ACTIVATION_OF_ROUTED */
  int32_t expert_bias, router_bias, router_f32, f32_sums;
  int64_t path_latent;
  int32_t path_input_norm, path_output_norm;
  float path_norm_epsilon;
  int32_t router_weight_on_input;
  int32_t ids_are_given; /* no router, ids in every call; then top_k may exceed num_experts */
} swy_config;
SWY_API swy_status swy_config_init(swy_config* config, size_t size);

/* ---- checkpoints */

/* A folder of Hugging Face's format; layer_json (or NULL) describes a layer by hand. */
SWY_API swy_status swy_checkpoint_create(const char* directory, const char* layer_json,
                                         swy_checkpoint** out);
/* The layers that are MoE, ascending: the first `capacity` of them, and how many there are. */
SWY_API swy_status swy_checkpoint_layers(const swy_checkpoint* checkpoint, int64_t* layers,
                                         int64_t capacity, int64_t* count);
/* The size of `config` is the caller's: SWY_INIT it before. */
SWY_API swy_status swy_checkpoint_config(const swy_checkpoint* checkpoint, int64_t layer,
                                         swy_config* config);
SWY_API void swy_checkpoint_destroy(swy_checkpoint* checkpoint);

/* ---- weights */

/* GateUpOrder: which half of W1 comes first */
enum { SWY_ORDER_UNSET = 0, SWY_GATE_UP = 1, SWY_UP_GATE = 2, SWY_INTERLEAVED = 3 };

/* weights.h has shapes and dtypes. Of one device, 16-byte aligned. What the config does not have is absent. */
typedef struct swy_weight_views {
  size_t size;
  int32_t order, shared_order; /* no default */
  swy_tensor w1, w2, b1, b2;
  swy_tensor router, router_bias, correction_bias, expert_scale, token_experts;
  swy_tensor shared_w1, shared_w2, shared_gate;
  swy_tensor path_input_norm, path_down, path_output_norm, path_up;
  int32_t transposed; /* w1 [E_local, H, 2I], w2 [E_local, I, H] */
  int32_t reserved;
  /* Of w1 and w2 in SWY_F8_E4M3: f32, a scale for each block of so many rows and columns; 0: all of them. */
  swy_tensor w1_scales, w2_scales;
  int64_t w1_block_rows, w1_block_cols, w2_block_rows, w2_block_cols;
  int64_t num_slots; /* of a layer with a placement: E_local, the weight slots of a rank; else 0 */
} swy_weight_views;
SWY_API swy_status swy_weight_views_init(swy_weight_views* views, size_t size);

/* Views of the caller's memory. `release` (or NULL) is called with `owner` once no layer and no handle needs them, on
 * the thread that let go last; never if this call fails. */
SWY_API swy_status swy_weights_create(const swy_weight_views* views, void (*release)(void* owner),
                                      void* owner, swy_weights** out);
/* A copy of views of the host in memory of the context's device. */
SWY_API swy_status swy_weights_create_copy(swy_context* context, const swy_config* config,
                                           int32_t num_ranks, const swy_weight_views* host,
                                           swy_weights** out);
/* Those of `rank` among `num_ranks`, in memory of the context's device. */
SWY_API swy_status swy_weights_create_from_checkpoint(swy_context* context,
                                                      const swy_checkpoint* checkpoint,
                                                      int64_t layer, int32_t num_ranks,
                                                      int32_t rank, swy_weights** out);
/* The same with experts in SWY_F8_E4M3 where the checkpoint's can be: WeightForms::Native. */
SWY_API swy_status swy_weights_create_native(swy_context* context, const swy_checkpoint* checkpoint,
                                             int64_t layer, int32_t num_ranks, int32_t rank,
                                             swy_weights** out);
/* For tests: those of an expert depend on `seed` and its id only, so every split over ranks is the same layer. */
SWY_API swy_status swy_weights_create_random(swy_context* context, const swy_config* config,
                                             int32_t num_ranks, int32_t rank, uint64_t seed,
                                             swy_weights** out);
/* The same with routed experts as kernels read them: copies in memory of the context's device where they are
 * SWY_INTERLEAVED, transposed or have biases in bf16. A layer makes such copies for itself: this is for many layers of
 * the same weights, and to let go of what was given: what needs no copy is a view of it, and only that keeps it. */
SWY_API swy_status swy_weights_create_arranged(swy_context* context, const swy_config* config,
                                               int32_t num_ranks, const swy_weights* weights,
                                               swy_weights** out);
/* Bytes that those copies take; 0: none is needed. */
SWY_API swy_status swy_weights_arranged_bytes(const swy_weights* weights, int64_t* bytes);
/* Views that are valid as long as the handle. */
SWY_API swy_status swy_weights_view(const swy_weights* weights, swy_weight_views* views);
SWY_API void swy_weights_destroy(swy_weights* weights);

/* ---- the layer */

/* One workspace for layers whose calls follow each other, as those of a model do: SharedWorkspace. */
SWY_API swy_status swy_shared_workspace_create(swy_context* context, size_t bytes,
                                               swy_shared_workspace** out);
SWY_API void swy_shared_workspace_destroy(swy_shared_workspace* workspace);

enum { SWY_IDS_ERROR = 0, SWY_IDS_NO_EXPERT = 1 }; /* OutOfRangeIds */

typedef struct swy_options { /* layer.h: LayerOptions; strategy.h: PlanOptions */
  size_t size;
  int64_t max_tokens, masked_max_tokens, alignment, workspace_limit_bytes;
  const char* strategy; /* NULL: "auto" */
  int32_t tp_size, num_link_blocks, token_pieces, allow_repeated_experts;
  int32_t use_all_gather, fetch_rows, host_counts, peer_memory;
  int32_t host_ordered, poison_workspace;
  /* At most one of these three; none: the layer allocates its own. */
  int32_t workspace_per_call; /* one rank: swy_forward_args.workspace */
  int32_t sums_at_source;
  swy_workspace workspace; /* lent for the layer's life */
  swy_shared_workspace* shared_workspace;
  int32_t out_of_range_ids; /* SWY_IDS_ERROR */
  int32_t strided_rows; /* hidden and output may have gaps between their rows; costs workspace */
  int32_t fp8_rows;     /* several ranks, experts in f8_e4m3: rows travel quantised; 1 by default */
  int32_t
      experts; /* of swy_workspace_bytes: SWY_BF16 or SWY_F8_E4M3; a layer looks at its weights */
  const int32_t* placement; /* [num_slots] the expert in each weight slot, -1: none; read at once */
  int64_t num_slots;        /* over all ranks; 0: no placement, experts are in their order */
  int32_t count_loads;      /* for swy_layer_expert_loads */
  int32_t lost_rank_timeout_ms; /* not 0: calls can go on without a rank that is later than this */
  /* Hopper: configurations of the experts' two GEMMs, as `switchyard explain` lists them. NULL: chosen. */
  const char* gemm1;
  const char* gemm2;
} swy_options;
SWY_API swy_status swy_options_init(swy_options* options, size_t size);

/* What to lend: bytes of the workspace of a layer on one of `num_ranks` ranks. options NULL: the defaults. */
SWY_API swy_status swy_workspace_bytes(swy_context* context, const swy_config* config,
                                       int32_t num_ranks, const swy_options* options,
                                       size_t* bytes);

/* group NULL: one rank. options NULL: the defaults. Collective over the group, wrong arguments included: then every
 * rank fails. */
SWY_API swy_status swy_layer_create(swy_context* context, const swy_config* config,
                                    const swy_weights* weights, const swy_group* group,
                                    const swy_options* options, swy_layer** out);

typedef struct swy_forward_args { /* layer.h: ForwardArgs */
  size_t size;
  /* strides[0] of these two may be larger than H with strided_rows. */
  swy_tensor output;    /* out  bf16, or with f32_sums f32 [T, H]; must not overlap hidden */
  swy_tensor hidden;    /* in   bf16 [T, H]; T may be 0 and may differ by rank */
  swy_tensor ids;       /* in   i32 or i64 [T, K], -1: no expert; absent: the gate runs */
  swy_tensor weights;   /* in   f32 [T, K]; present exactly if ids is */
  swy_tensor token_ids; /* in   i32 or i64 [T], of layers whose vocabulary chooses */
  int64_t max_tokens;   /* bound of T in this call, equal on every rank; -1: the capacity */
  void* stream;
  swy_workspace workspace; /* of layers with workspace_per_call */
  swy_tensor expert_map;   /* in   i32 [M]: the layer's id, or -1, of each id that `ids` may hold */
} swy_forward_args;
SWY_API swy_status swy_forward_args_init(swy_forward_args* args, size_t size);

enum { SWY_CONTIGUOUS = 0, SWY_MASKED = 1 }; /* Layout */

typedef struct swy_report { /* layer.h: ForwardReport */
  size_t size;
  int64_t max_rows, masked_max_tokens;
  int32_t layout, reserved;
} swy_report;
SWY_API swy_status swy_report_init(swy_report* report, size_t size);

/* Enqueues and returns; on a CPU the work is done then. report may be NULL. Collective, also with T = 0, and wrong
 * arguments included: the other ranks learn of them in swy_layer_wait. */
SWY_API swy_status swy_layer_forward(swy_layer* layer, const swy_forward_args* args,
                                     swy_report* report);
/* Waits for every forward on `stream`, and says what only a device or a peer could know. On every rank. */
SWY_API swy_status swy_layer_wait(swy_layer* layer, void* stream);
/* The capacity becomes at least max_tokens: MoeLayer::grow. Collective; waits; graphs captured before are stale. */
SWY_API swy_status swy_layer_grow(swy_layer* layer, int64_t max_tokens, void* stream);
/* From here on, in the order of `stream`, ids go to the slots of another table: MoeLayer::set_placement. num_slots is
 * that of the options. Not collective, but every rank calls it with the same table between the same two forwards. */
SWY_API swy_status swy_layer_set_placement(swy_layer* layer, const int32_t* placement,
                                           int64_t num_slots, void* stream);
/* i64 [E] on the layer's device, how often this rank's tokens chose each expert; rank 0 without count_loads. It stays
 * where it is when the layer grows. */
SWY_API swy_status swy_layer_expert_loads(const swy_layer* layer, swy_tensor* loads);
/* From here on, in the order of `stream`, calls have these ranks only: MoeLayer::set_active_ranks. For layers with
 * lost_rank_timeout_ms. Not collective, but every rank that goes on calls it with the same ranks between the same two
 * forwards. */
SWY_API swy_status swy_layer_set_active_ranks(swy_layer* layer, const int32_t* ranks,
                                              int32_t num_ranks, void* stream);
/* The active ranks that a call waited for in vain, rising: at most `capacity` of them are written, `num_ranks` is how
 * many there are. Waits for `stream`. ranks NULL with capacity 0: their number alone. MoeLayer::missing_ranks. */
SWY_API swy_status swy_layer_missing_ranks(swy_layer* layer, void* stream, int32_t* ranks,
                                           int32_t capacity, int32_t* num_ranks);
/* i64 [1] on the layer's device: choices of this rank's tokens that were dropped, because the expert's rank is left out;
 * rank 0 (of the tensor) without lost_rank_timeout_ms. */
SWY_API swy_status swy_layer_dropped_routes(const swy_layer* layer, swy_tensor* routes);
/* A layer of one rank as a function, for programs that have no place for a handle: fused_experts.h. The first call with
 * this context, config, options, and addresses and shapes of the weights makes the layer, which is kept; `weights` may
 * be destroyed, their memory may not. args->workspace is needed: swy_workspace_bytes of it. Weights that would be copied
 * are refused. Any thread; calls take turns. On a CPU a call says what swy_layer_wait would. */
SWY_API swy_status swy_fused_experts(swy_context* context, const swy_config* config,
                                     const swy_weights* weights, const swy_options* options,
                                     const swy_forward_args* args, swy_report* report);
/* Waits for `stream`, then says the first error of the kept layers. */
SWY_API swy_status swy_fused_experts_wait(void* stream);
/* Frees what is kept. None of its work may be under way, and graphs that were captured of it must not run again. */
SWY_API swy_status swy_fused_experts_forget(void);
/* Where hidden states are best written; rank 0 where no place is better than another. MoeLayer::input_rows. */
SWY_API swy_status swy_layer_input_rows(const swy_layer* layer, swy_tensor* rows);
/* The strategy, its reason and its conditions, in lines. Writes at most `capacity` bytes, terminated by 0; `needed`
 * (or NULL) is what all of it takes. text NULL with capacity 0: `needed` alone. */
SWY_API swy_status swy_layer_explain(const swy_layer* layer, char* text, size_t capacity,
                                     size_t* needed);
/* Over several ranks: on every rank, as its creation. */
SWY_API void swy_layer_destroy(swy_layer* layer);

/* ---- linear attention over paged states: linear_attention.h has shapes, formulas and bounds */

typedef struct swy_state_map { /* StateMap */
  swy_tensor sequence_lengths, block_map;
  int64_t num_slots, row_stride; /* row_stride 0: num_slots */
  int64_t block_tokens, first_block;
  uint64_t reserved[2];
} swy_state_map;

enum { SWY_CONV_NONE = 0, SWY_CONV_SILU = 1 }; /* ConvActivation */

typedef struct swy_conv_decode {
  size_t size;
  swy_tensor output, x, state, weight, bias; /* state: gaps between blocks only */
  swy_state_map map;
  void* stream;
  int32_t activation, reserved;
} swy_conv_decode;
SWY_API swy_status swy_conv_decode_init(swy_conv_decode* step, size_t size);

typedef struct swy_conv_prefill_states {
  size_t size;
  swy_tensor state, x, starts, prefix_lengths;
  swy_state_map map;
  void* stream;
} swy_conv_prefill_states;
SWY_API swy_status swy_conv_prefill_states_init(swy_conv_prefill_states* step, size_t size);

typedef struct swy_delta_rule_decode {
  size_t size;
  swy_tensor output, q, k, v, g, beta, state; /* q, k, v: any strides but 1 in the last dimension */
  swy_state_map map;
  void* stream;
  int32_t l2_normalize, has_scale; /* has_scale 0: 1 / sqrt(Dk) */
  float scale;
  int32_t reserved;
} swy_delta_rule_decode;
SWY_API swy_status swy_delta_rule_decode_init(swy_delta_rule_decode* step, size_t size);

/* Bits of a sequence's status word: StateFault. */
enum {
  SWY_READ_SLOT = 1,
  SWY_READ_BLOCK = 2,
  SWY_WRITE_SLOT = 4,
  SWY_WRITE_BLOCK = 8,
  SWY_PREFILL_ROWS = 16
};

SWY_API swy_status swy_attention_create(swy_context* context, int64_t max_batch,
                                        swy_attention** out);
SWY_API swy_status swy_attention_conv_decode(swy_attention* attention, const swy_conv_decode* step);
SWY_API swy_status swy_attention_conv_prefill_states(swy_attention* attention,
                                                     const swy_conv_prefill_states* step);
SWY_API swy_status swy_attention_delta_rule_decode(swy_attention* attention,
                                                   const swy_delta_rule_decode* step);
/* Waits until the work on `stream` is done. SWY_BAD_STATE names the first sequence that crossed a bound. */
SWY_API swy_status swy_attention_wait(swy_attention* attention, void* stream);
/* The same, but it is no error: the words of all `count` = max_batch sequences, 0 if good. */
SWY_API swy_status swy_attention_wait_words(swy_attention* attention, void* stream, int32_t* words,
                                            int64_t count);
SWY_API void swy_attention_destroy(swy_attention* attention);

#ifdef __cplusplus
}
#endif
#endif
