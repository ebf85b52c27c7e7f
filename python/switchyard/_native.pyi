# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Sequence
import enum
import os
from typing import Any

import switchyard._array


VERSION: str = '0.1.0'

class Scoring(enum.Enum):
    """How router logits become scores."""

    Softmax = 0
    """over all E experts, before the choice"""

    SoftmaxOfTopK = 1
    """over the K chosen logits"""

    Sigmoid = 2
    """of each logit alone"""

    SparseMixer = 3
    """phimoe: K = 2 masked softmaxes, each over logits close to the maximum"""

    SqrtSoftplus = 4
    """DeepSeek-V4: sqrt(log(1 + exp(logit))) of each logit alone"""

class GroupScore(enum.Enum):
    """How a group of experts is scored."""

    Max = 0
    """DeepSeek-V2, group_limited_greedy"""

    Top2Sum = 1
    """DeepSeek-V3: sum of the two best biased scores"""

class Activation:
    """
    The function between the two GEMMs of an expert, by its name: silu, gelu, gelu_tanh, clamped_swiglu, relu2, silu_of_clamped, clamped_silu, situ, relu2_gated. Raises Unsupported with the accepted names.
    """

    def __init__(self, name: str = 'silu', alpha: float = 1.7020000219345093, limit: float = 7.0) -> None: ...

    def __eq__(self, other: object, /) -> bool: ...

    @property
    def name(self) -> str: ...

    @property
    def alpha(self) -> float:
        """clamped_swiglu; situ: > 0"""

    @property
    def limit(self) -> float:
        """clamped_swiglu, silu_of_clamped, clamped_silu, situ; > 0"""

    @property
    def gated(self) -> bool:
        """W1 has 2I rows, else I."""

    def __repr__(self) -> str: ...

class GateConfig:
    """
    The gate: logits f32 [T, E] -> the K best experts of each token and their weights. Ties go to the lowest expert id; ids come in descending order of the score that chose them.
    """

    def __init__(self, *, scoring: Scoring = Scoring.Softmax, renormalize: bool = False, renormalize_epsilon: float = 0.0, clamp_renormalizer: bool = False, scale: float = 1.0, correction_bias: bool = False, num_groups: int = 1, num_groups_kept: int = 1, group_score: GroupScore = GroupScore.Top2Sum, jitter_epsilon: float = 0.009999999776482582, logit_softcap: float = 0.0, vocabulary: int = 0, num_zero_experts: int = 0, expert_scale: bool = False, rms_of_hidden: bool = False) -> None: ...

    @property
    def scoring(self) -> Scoring:
        """How logits become scores."""

    @scoring.setter
    def scoring(self, arg: Scoring, /) -> None: ...

    @property
    def renormalize(self) -> bool:
        """Divide the K weights by their sum."""

    @renormalize.setter
    def renormalize(self, arg: bool, /) -> None: ...

    @property
    def renormalize_epsilon(self) -> float:
        """Added to that sum."""

    @renormalize_epsilon.setter
    def renormalize_epsilon(self, arg: float, /) -> None: ...

    @property
    def clamp_renormalizer(self) -> bool:
        """The sum is at least renormalize_epsilon instead."""

    @clamp_renormalizer.setter
    def clamp_renormalizer(self, arg: bool, /) -> None: ...

    @property
    def scale(self) -> float:
        """routed_scaling_factor, the last factor of the weights."""

    @scale.setter
    def scale(self, arg: float, /) -> None: ...

    @property
    def correction_bias(self) -> bool:
        """f32 [E] added to the scores for the choice only."""

    @correction_bias.setter
    def correction_bias(self, arg: bool, /) -> None: ...

    @property
    def num_groups(self) -> int:
        """E is divided into so many consecutive groups."""

    @num_groups.setter
    def num_groups(self, arg: int, /) -> None: ...

    @property
    def num_groups_kept(self) -> int:
        """The choice is made inside the best of them."""

    @num_groups_kept.setter
    def num_groups_kept(self, arg: int, /) -> None: ...

    @property
    def group_score(self) -> GroupScore:
        """How groups are scored."""

    @group_score.setter
    def group_score(self, arg: GroupScore, /) -> None: ...

    @property
    def jitter_epsilon(self) -> float:
        """SparseMixer: logits further than 2 eps (relative) are masked."""

    @jitter_epsilon.setter
    def jitter_epsilon(self, arg: float, /) -> None: ...

    @property
    def logit_softcap(self) -> float:
        """c > 0: logits become c tanh(logit / c)."""

    @logit_softcap.setter
    def logit_softcap(self, arg: float, /) -> None: ...

    @property
    def vocabulary(self) -> int:
        """V > 0: a token's id in [0, V) chooses its experts, by a table."""

    @vocabulary.setter
    def vocabulary(self, arg: int, /) -> None: ...

    @property
    def num_zero_experts(self) -> int:
        """Z more experts, ids E to E + Z - 1, that return their input."""

    @num_zero_experts.setter
    def num_zero_experts(self, arg: int, /) -> None: ...

    @property
    def expert_scale(self) -> bool:
        """f32 [E], the very last factor."""

    @expert_scale.setter
    def expert_scale(self, arg: bool, /) -> None: ...

    @property
    def rms_of_hidden(self) -> bool:
        """Logits are of hidden / rms(hidden)."""

    @rms_of_hidden.setter
    def rms_of_hidden(self, arg: bool, /) -> None: ...

    def __eq__(self, other: object, /) -> bool: ...

class SharedExpertConfig:
    """Experts that see every token; their sum joins in fp32."""

    def __init__(self, *, intermediate: int = 0, sigmoid_gated: bool = False, activation: Activation | None = None, num_scored: int = 0) -> None: ...

    @property
    def intermediate(self) -> int:
        """0: none. Several shared experts are one wider expert."""

    @intermediate.setter
    def intermediate(self, arg: int, /) -> None: ...

    @property
    def sigmoid_gated(self) -> bool:
        """Scaled by sigmoid(hidden . shared_gate)."""

    @sigmoid_gated.setter
    def sigmoid_gated(self, arg: bool, /) -> None: ...

    @property
    def activation(self) -> Activation | None:
        """None: that of the routed experts."""

    @activation.setter
    def activation(self, arg: Activation | None, /) -> None: ...

    @property
    def num_scored(self) -> int:
        """S > 0: of S experts side by side, each weighed by the gate."""

    @num_scored.setter
    def num_scored(self, arg: int, /) -> None: ...

class RoutedPathConfig:
    """
    What stands around the routed experts: rows = down(norm(hidden)) go to them, up(norm(their sum)) comes back.
    """

    def __init__(self, *, input_norm: bool = False, latent: int = 0, output_norm: bool = False, norm_epsilon: float = 9.999999974752427e-07) -> None: ...

    @property
    def input_norm(self) -> bool:
        """RMS norm with a weight [H]."""

    @input_norm.setter
    def input_norm(self, arg: bool, /) -> None: ...

    @property
    def latent(self) -> int:
        """L > 0: experts work on rows of L."""

    @latent.setter
    def latent(self, arg: int, /) -> None: ...

    @property
    def output_norm(self) -> bool:
        """RMS norm of the sum, [L] or [H]."""

    @output_norm.setter
    def output_norm(self, arg: bool, /) -> None: ...

    @property
    def norm_epsilon(self) -> float:
        """Also of GateConfig.rms_of_hidden."""

    @norm_epsilon.setter
    def norm_epsilon(self, arg: float, /) -> None: ...

class MoeConfig:
    """
    One MoE layer: H hidden, I intermediate, E experts, K experts per token.
    """

    def __init__(self, *, hidden: int = 0, intermediate: int = 0, num_experts: int = 0, top_k: int = 0, activation: Activation = ..., gate: GateConfig = ..., shared: SharedExpertConfig = ..., expert_bias: bool = False, router_bias: bool = False, router_f32: bool = False, f32_sums: bool = False, path: RoutedPathConfig = ..., router_weight_on_input: bool = False, ids_are_given: bool = False) -> None: ...

    @property
    def hidden(self) -> int:
        """H, a multiple of 8."""

    @hidden.setter
    def hidden(self, arg: int, /) -> None: ...

    @property
    def intermediate(self) -> int:
        """I of one routed expert, a multiple of 8."""

    @intermediate.setter
    def intermediate(self, arg: int, /) -> None: ...

    @property
    def num_experts(self) -> int:
        """E, over all ranks, at most 4096."""

    @num_experts.setter
    def num_experts(self, arg: int, /) -> None: ...

    @property
    def top_k(self) -> int:
        """K >= 1; at most E where the gate chooses."""

    @top_k.setter
    def top_k(self, arg: int, /) -> None: ...

    @property
    def activation(self) -> Activation:
        """An Activation or its name."""

    @activation.setter
    def activation(self, arg: Activation, /) -> None: ...

    @property
    def gate(self) -> GateConfig:
        """How experts are chosen."""

    @gate.setter
    def gate(self, arg: GateConfig, /) -> None: ...

    @property
    def shared(self) -> SharedExpertConfig:
        """Shared experts."""

    @shared.setter
    def shared(self, arg: SharedExpertConfig, /) -> None: ...

    @property
    def expert_bias(self) -> bool:
        """
        b1 [E, 2I] joins the sums before the activation, b2 [E, H] before GEMM2's rounding.
        """

    @expert_bias.setter
    def expert_bias(self, arg: bool, /) -> None: ...

    @property
    def router_bias(self) -> bool:
        """f32 [E], added to the logits."""

    @router_bias.setter
    def router_bias(self, arg: bool, /) -> None: ...

    @property
    def router_f32(self) -> bool:
        """The router's weight is f32, not bf16."""

    @router_f32.setter
    def router_f32(self, arg: bool, /) -> None: ...

    @property
    def f32_sums(self) -> bool:
        """The layer's output is f32 [T, H]."""

    @f32_sums.setter
    def f32_sums(self, arg: bool, /) -> None: ...

    @property
    def path(self) -> RoutedPathConfig:
        """What stands around the routed experts."""

    @path.setter
    def path(self, arg: RoutedPathConfig, /) -> None: ...

    @property
    def router_weight_on_input(self) -> bool:
        """Llama-4: the router weight scales GEMM1's sums."""

    @router_weight_on_input.setter
    def router_weight_on_input(self, arg: bool, /) -> None: ...

    @property
    def ids_are_given(self) -> bool:
        """
        No gate and no router weights: every call brings ids and weights. K may exceed E.
        """

    @ids_are_given.setter
    def ids_are_given(self, arg: bool, /) -> None: ...

    def validate(self) -> None:
        """
        Raises ShapeMismatch or Unsupported for a layer that no strategy can run.
        """

    def __repr__(self) -> str: ...

class Backend:
    """
    Memory and operations of one device, with its threads. Share one between the layers of a model; one thread at a time calls them.
    """

    @property
    def device(self) -> str:
        """'cpu', 'cuda:0'."""

def make_cpu_backend(num_threads: int = 0) -> Backend:
    """
    Threads in all, the caller's included; 0: one per core. Raises ShapeMismatch for a number of threads that no machine has.
    """

def make_cuda_backend(device: int = 0, num_sms: int = 0) -> Backend:
    """
    CUDA device of this index, which becomes the calling thread's current one. num_sms: streaming multiprocessors that the grouped GEMMs may use; 0: all. Raises Unsupported where this build or machine has none.
    """

class SharedWorkspace:
    """
    One workspace for layers whose calls follow each other, as those of a model do. It has the size of the largest that was asked for.
    """

    def __init__(self, backend: Backend, bytes: int = 0) -> None:
        """Raises Unsupported with the bytes when there is no such memory."""

    @property
    def bytes(self) -> int: ...

class Tensor:
    """
    An array in memory of Switchyard's own, for programs without an array library: every function takes it, and torch.from_dlpack, jax.numpy.from_dlpack and numpy() take its memory without a copy.
    """

    @property
    def shape(self) -> tuple: ...

    @property
    def dtype(self) -> str:
        """'bf16', 'f16', 'f32', 'f64', 'i32', 'i64', 'f8_e4m3'."""

    @property
    def read_only(self) -> bool: ...

    def __dlpack__(self, **options: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...

    def __repr__(self) -> str: ...

    def numpy(self) -> Any:
        """
        A numpy array of the same memory; bf16 as ml_dtypes.bfloat16 and f8_e4m3 as ml_dtypes.float8_e4m3fn where that is installed, else their bits as uint16 and uint8. Raises Unsupported on a GPU.
        """

class TensorFile:
    """
    An open safetensors file. Raises BadFile for a damaged one, naming what is wrong.
    """

    def __init__(self, path: str | os.PathLike) -> None: ...

    @property
    def names(self) -> list[str]: ...

    def tensor(self, name: str) -> Tensor:
        """
        A read-only tensor. Raises BadFile for a missing name (with the nearest ones), Unsupported for a dtype that is not read.
        """

class Difference:
    """How far one result is from another."""

    @property
    def rel_error(self) -> float:
        """||actual - expected|| / ||expected||, of all."""

    @property
    def max_row_error(self) -> float:
        """The same of the worst row."""

    @property
    def worst_row(self) -> int: ...

    @property
    def max_abs_error(self) -> float: ...

    def __repr__(self) -> str: ...

def compare(actual: switchyard._array.Array, expected: switchyard._array.Array) -> Difference:
    """
    How far `actual` (bf16 or f32 [T, H]) is from `expected` (f64 [T, H]), on the CPU. NaN anywhere in `actual` gives NaN. Raises ShapeMismatch.
    """

def oracle_forward(config: MoeConfig, layer_weights: LayerWeights, hidden: switchyard._array.Array, *, ids: switchyard._array.Array | None = None, weights: switchyard._array.Array | None = None, token_ids: switchyard._array.Array | None = None) -> Tensor:
    """
    The whole layer in float64 on the CPU, without any rounding between: f64 [T, H] for hidden bf16 [T, H]. Arguments as of MoeLayer.forward. Raises ShapeMismatch, BadRouting.
    """

class ScaleBlock:
    """
    The values of an f8_e4m3 matrix that share a scale, fewer at its edges. 128 x 128 are DeepSeek's blocks, 1 x WHOLE is a row (per channel), WHOLE x WHOLE the matrix (per tensor).
    """

    def __init__(self, *, rows: int = 128, cols: int = 128) -> None: ...

    @property
    def rows(self) -> int:
        """Rows, or WHOLE."""

    @rows.setter
    def rows(self, arg: int, /) -> None: ...

    @property
    def cols(self) -> int:
        """Columns, a multiple of 128 or WHOLE."""

    @cols.setter
    def cols(self, arg: int, /) -> None: ...

    def __eq__(self, other: object, /) -> bool: ...

    WHOLE: int = 9223372036854775807

    def __repr__(self) -> str: ...

class ExpertFormat:
    """
    What routed experts are made of: bf16, or f8_e4m3 with scales of blocks.
    """

    def __init__(self, *, dtype: str = 'bf16', w1: ScaleBlock = ..., w2: ScaleBlock = ..., num_slots: int = 0) -> None: ...

    @property
    def dtype(self) -> str:
        """'bf16' or 'f8_e4m3'."""

    @dtype.setter
    def dtype(self, arg: str, /) -> None: ...

    @property
    def w1(self) -> ScaleBlock:
        """Of f8_e4m3, the blocks of w1."""

    @w1.setter
    def w1(self, arg: ScaleBlock, /) -> None: ...

    @property
    def w2(self) -> ScaleBlock:
        """Of f8_e4m3, the blocks of w2."""

    @w2.setter
    def w2(self, arg: ScaleBlock, /) -> None: ...

    @property
    def num_slots(self) -> int:
        """Of a layer with a placement: the weight slots of a rank; else 0."""

    @num_slots.setter
    def num_slots(self, arg: int, /) -> None: ...

    def __eq__(self, other: object, /) -> bool: ...

    def __repr__(self) -> str: ...

class GateUpOrder(enum.Enum):
    """
    How gate and up stand in w1. There is no default: the wrong one gives plausible numbers.
    """

    Unset = 0
    """refused for a gated activation"""

    GateUp = 1
    """rows [0, I) are gate, rows [I, 2I) are up"""

    UpGate = 2
    """rows [0, I) are up, rows [I, 2I) are gate"""

    Interleaved = 3
    """row 2i is gate, row 2i + 1 is up (gpt-oss)"""

class LayerWeights:
    """
    The weights of one layer on one rank: views, whose memory is kept. 16-byte aligned, row-major, all on the layer's device; they must not change while a forward runs. E_local = E on one rank.

      w1               bf16 or f8_e4m3 [E_local, 2I, H]; [E_local, I, H] without a gate
      w2               as w1 [E_local, H, I]
      order            how gate and up stand in w1
      b1, b2           f32 or bf16 [E_local, 2I], [E_local, H]; with MoeConfig.expert_bias
      transposed       w1 is [E_local, H, 2I], w2 [E_local, I, H] (gpt-oss, Llama-4)
      w1_scales, w2_scales   of f8_e4m3, f32: what the codes of a block are multiplied by,
                       [E_local, ceil(rows / block.rows), ceil(columns / block.cols)]
      w1_block, w2_block     the blocks: any rows, and all columns or a multiple of 128
      num_slots        of a layer with a placement: E_local, the S / P weight slots of this
                       rank, in their order; else 0
      router           bf16 [E, H], f32 with router_f32; None: callers bring ids and weights
      router_bias, correction_bias, expert_scale   f32 [E]
      token_experts    i32 [V, K]
      shared_w1, shared_w2, shared_gate            bf16 [2 Is, H], [H, Is], [1, H]
      input_norm, down, output_norm, up            f32 [H], bf16 [L, H], f32 [L], bf16 [H, L]

    bf16 is ml_dtypes.bfloat16, torch.bfloat16 or its bits as uint16; f8_e4m3 is ml_dtypes.float8_e4m3fn, torch.float8_e4m3fn or its bits as uint8. Shapes are checked when a layer is made.
    """

    def __init__(self, w1: switchyard._array.Array, w2: switchyard._array.Array, order: GateUpOrder, *, b1: switchyard._array.Array | None = None, b2: switchyard._array.Array | None = None, transposed: bool = False, router: switchyard._array.Array | None = None, router_bias: switchyard._array.Array | None = None, correction_bias: switchyard._array.Array | None = None, expert_scale: switchyard._array.Array | None = None, token_experts: switchyard._array.Array | None = None, shared_w1: switchyard._array.Array | None = None, shared_w2: switchyard._array.Array | None = None, shared_gate: switchyard._array.Array | None = None, shared_order: GateUpOrder = GateUpOrder.Unset, input_norm: switchyard._array.Array | None = None, down: switchyard._array.Array | None = None, output_norm: switchyard._array.Array | None = None, up: switchyard._array.Array | None = None, w1_scales: switchyard._array.Array | None = None, w2_scales: switchyard._array.Array | None = None, w1_block: ScaleBlock = ..., w2_block: ScaleBlock = ..., num_slots: int = 0) -> None: ...

    @property
    def device(self) -> str: ...

    @property
    def format(self) -> ExpertFormat:
        """What the routed experts are made of."""

def fp8_blocks(config: MoeConfig) -> ExpertFormat:
    """
    f8_e4m3 in blocks of 128 x 128, as most are published; of w1 in as many rows as no block has both gate and up.
    """

def random_weights(config: MoeConfig, seed: int = 0, *, num_ranks: int = 1, rank: int = 0, format: ExpertFormat = ...) -> LayerWeights:
    """
    Random weights of the config's shapes, for tests and benchmarks: those of `rank`. An expert's depend on seed and its id only, so every split over ranks is the same layer.
    """

def to_device(weights: LayerWeights, config: MoeConfig, backend: Backend, num_ranks: int = 1) -> LayerWeights:
    """
    A copy, arranged as kernels read it, in memory of the backend's device.
    """

def weights_of_slots(all: LayerWeights, expert_of_slot: Sequence[int]) -> LayerWeights:
    """
    Copies of experts of `all`, whose w1 has one for each id, on the CPU: slot s of the result has those of expert_of_slot[s], zeros for -1. Of the slots of a rank it makes what that rank of a layer with a placement needs. Everything else is that of `all`, which is kept. Raises ShapeMismatch for an id that `all` has no expert of.
    """

class Checkpoint:
    """
    A checkpoint folder: config.json and safetensors, one file or several. Reads config.json and headers, no weights. layer_json describes the layer by hand instead of a known family. Raises BadFile for missing or damaged files, Unsupported for an unknown family (with the known ones).
    """

    def __init__(self, directory: str | os.PathLike, layer_json: str | os.PathLike | None = None) -> None: ...

    @property
    def family(self) -> str:
        """model_type: 'qwen3_moe', ..."""

    @property
    def num_layers(self) -> int:
        """Of the model, dense ones included."""

    @property
    def moe_layers(self) -> list[int]:
        """Numbers of the MoE layers, ascending."""

    def module_path(self, layer: int) -> str:
        """The module path in transformers, e.g. 'model.layers.1.mlp'."""

    def config(self, layer: int) -> MoeConfig:
        """Raises BadFile naming the MoE layers when `layer` is none of them."""

    def stored_format(self, layer: int) -> str:
        """
        How the experts' weights are stored: 'bf16', 'fp8 in 128x128 blocks', 'mxfp4', ...
        """

    def native_format(self, layer: int) -> ExpertFormat:
        """
        The ExpertFormat that load_layer makes of this layer's experts with weights='native'.
        """

    @property
    def quant_method(self) -> str:
        """What quantization_config calls its method; empty without one."""

    def load_layer(self, layer: int, *, num_ranks: int = 1, rank: int = 0, weights: str = 'bf16') -> LayerWeights:
        """
        Reads the experts of a rank, router and shared experts into memory of the result, on the CPU. weights: 'bf16', everything else is dequantised; 'native', experts of fp8 stay so, and those of mxfp4 become fp8 with the same numbers: half the bytes. Raises BadFile for missing tensors or wrong shapes, Unsupported for a form it names, ShapeMismatch for a rank that is none of num_ranks.
        """

class Placement:
    """
    Which expert is in which weight slot, of L layers: S slots on P ranks, slot s on rank s // (S // P). Tables are lists with an entry for each layer.
    """

    @property
    def num_layers(self) -> int:
        """L."""

    @property
    def num_experts(self) -> int:
        """E."""

    @property
    def num_slots(self) -> int:
        """S."""

    @property
    def num_ranks(self) -> int:
        """P."""

    @property
    def max_replicas(self) -> int:
        """Of any expert of any layer, at most P."""

    @property
    def hierarchical(self) -> bool:
        """
        A group is on one node; else any expert may be on any rank, reason says why.
        """

    @property
    def reason(self) -> str:
        """One line."""

    @property
    def physical_to_logical(self) -> list[list[int]]:
        """[L][S] the expert in each slot: LayerOptions.placement of a layer."""

    @property
    def replica_counts(self) -> list[list[int]]:
        """[L][E] slots of each expert, from 1 on."""

    @property
    def logical_to_physical(self) -> list[list[list[int]]]:
        """[L][E] the list of an expert's slots, rising."""

    @property
    def rank_loads(self) -> list[list[float]]:
        """[L][P] in the unit of the loads."""

    @property
    def rank_loads_before(self) -> list[list[float]]:
        """[L][P] of `current`, else of experts in their order."""

    @property
    def imbalance(self) -> list[float]:
        """[L] the busiest rank's load over the mean, from 1 on."""

    @property
    def imbalance_before(self) -> list[float]:
        """[L] as rank_loads_before."""

    @property
    def num_moves(self) -> list[int]:
        """[L] slots whose weights change; empty without `current`."""

    def __repr__(self) -> str: ...

def plan_placement(loads: switchyard._array.Array | Sequence[Sequence[float]] | Sequence[float], *, num_slots: int = 0, num_ranks: int = 1, num_nodes: int = 1, num_groups: int = 1, current: Sequence[Sequence[int]] | None = None) -> Placement:
    """
    Weight slots for experts, so that all ranks have as much to do; each layer by itself.

      loads       in   [L, E], or [E] of one layer: what each expert has to do, in any
                       unit: an array f64, f32, i64 or i32 on the CPU, or lists of numbers.
                       MoeLayer.expert_loads, summed over ranks, are such. A layer of zeros:
                       all experts alike
      num_slots        S of a layer, over all ranks: a multiple of P, from E to E * P
      num_ranks        P
      num_nodes        N, a divisor of P; consecutive ranks share a node
      num_groups       G of the gate, a divisor of E; consecutive experts are a group
      current          physical_to_logical of what runs now, [L][S], -1: no expert; experts
                       keep their slots where they can, and *_before are of it

    Equal loads and sizes give equal tables everywhere. No device, no rank has to agree. Raises ShapeMismatch for sizes that break these rules, BadRouting for loads that are negative or not finite.
    """

class Communicator:
    """
    One rank of a fixed set of them. One thread at a time uses it; layers that are made with it keep it. After a Transport error it is over, on every rank.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def transport(self) -> str:
        """'threads', 'processes'."""

    @property
    def failure_reason(self) -> str:
        """Why it is over; '' while it works."""

    def meet(self) -> None:
        """Returns once every rank has come. Raises Transport if one is lost."""

    def abort(self, reason: str) -> None:
        """Ends the communicator for every rank, now. Not collective."""

def make_process_rank(rank: int | None = None, size: int | None = None, gather: Callable | None = None, *, deadline: float = 30.0, address: str = '127.0.0.1', job: str = '', secret: str = '') -> Communicator:
    """
    This process's rank among processes that TCP connects. Collective.

      rank, size, gather  together: gather(mine: bytes) returns the bytes of every rank, as a
                          list; called once on every rank. None: RANK, WORLD_SIZE,
                          MASTER_ADDR and MASTER_PORT, as torchrun sets them
      deadline            seconds that a rank waits for its peers
      address             how peers reach this process; with gather
      job, secret         equal on every rank; see SECURITY.md

    Raises Transport when a peer does not come within the deadline.
    """

def make_local_ranks(num_ranks: int, deadline: float = 30.0) -> list[Communicator]:
    """
    One Communicator for each of num_ranks threads of this process; element r is rank r.
    """

class OutOfRangeIds(enum.Enum):
    """What given ids are that name no expert of the layer and are not -1."""

    Error = 0
    """BadRouting, the output is NaN"""

    NoExpert = 1
    """as -1: engines pad with E or E_local"""

class LayerOptions:
    """Choices for one layer."""

    def __init__(self, *, max_tokens: int = 4096, strategy: str = 'auto', device: str = 'cpu', num_threads: int = 0, out_of_range_ids: OutOfRangeIds = OutOfRangeIds.Error, backend: Backend | None = None, shared_workspace: SharedWorkspace | None = None, workspace: switchyard._array.Array | None = None, communicator: Communicator | None = None, workspace_per_call: bool = False, strided_rows: bool = False, poison_workspace: bool = False, masked_max_tokens: int = 256, alignment: int = 1, allow_repeated_experts: bool = False, workspace_limit_bytes: int = 8589934592, num_sms: int = 0, host_counts: bool = False, fp8_rows: bool = True, tp_size: int = 1, use_all_gather: bool = True, sums_at_source: bool = False, token_pieces: int = 0, fetch_rows: bool = True, peer_memory: bool = True, num_link_blocks: int = 0, host_ordered: bool = False, placement: Sequence[int] = [], experts: str = 'bf16', lost_rank_timeout: float = 0.0, gemm1: str = '', gemm2: str = '', count_loads: bool = False) -> None: ...

    @property
    def max_tokens(self) -> int:
        """Capacity: most tokens in one call; >= 0."""

    @max_tokens.setter
    def max_tokens(self, arg: int, /) -> None: ...

    @property
    def strategy(self) -> str:
        """auto, [dispatcher+]executor[+provider], or a known name."""

    @strategy.setter
    def strategy(self, arg: str, /) -> None: ...

    @property
    def device(self) -> str:
        """'cpu' or 'cuda'; where weights are on a GPU, that GPU."""

    @device.setter
    def device(self, arg: str, /) -> None: ...

    @property
    def num_threads(self) -> int:
        """CPU: threads; 0: one per core."""

    @num_threads.setter
    def num_threads(self, arg: int, /) -> None: ...

    @property
    def out_of_range_ids(self) -> OutOfRangeIds:
        """Of given ids."""

    @out_of_range_ids.setter
    def out_of_range_ids(self, arg: OutOfRangeIds, /) -> None: ...

    @property
    def backend(self) -> Backend:
        """Shared with other layers of this thread; None: made here."""

    @backend.setter
    def backend(self, arg: Backend, /) -> None: ...

    @property
    def shared_workspace(self) -> SharedWorkspace:
        """
        Shared with layers whose calls follow each other; None: the layer's own.
        """

    @shared_workspace.setter
    def shared_workspace(self, arg: SharedWorkspace, /) -> None: ...

    @property
    def workspace(self) -> switchyard._array.Array | None:
        """
        An array of any dtype on the layer's device, workspace_bytes of it, at a multiple of 128: lent for the layer's life, which keeps it. At most one of workspace, shared_workspace and workspace_per_call.
        """

    @workspace.setter
    def workspace(self, arg: switchyard._array.Array | None, /) -> None: ...

    @property
    def communicator(self) -> Communicator:
        """
        This rank among those that share the layer, each with E / P experts; None: one rank. Making, calling and growing the layer are collective then, wrong arguments included.
        """

    @communicator.setter
    def communicator(self, arg: Communicator, /) -> None: ...

    @property
    def workspace_per_call(self) -> bool:
        """forward takes its workspace, or memory of the array's library."""

    @workspace_per_call.setter
    def workspace_per_call(self, arg: bool, /) -> None: ...

    @property
    def strided_rows(self) -> bool:
        """Rows of hidden and output may have gaps; such a call copies them."""

    @strided_rows.setter
    def strided_rows(self, arg: bool, /) -> None: ...

    @property
    def poison_workspace(self) -> bool:
        """For debugging: forward first fills the workspace with NaN."""

    @poison_workspace.setter
    def poison_workspace(self, arg: bool, /) -> None: ...

    @property
    def masked_max_tokens(self) -> int:
        """hybrid: masked layout up to this many rows, inclusive."""

    @masked_max_tokens.setter
    def masked_max_tokens(self, arg: int, /) -> None: ...

    @property
    def alignment(self) -> int:
        """Of contiguous groups, >= 1."""

    @alignment.setter
    def alignment(self, arg: int, /) -> None: ...

    @property
    def allow_repeated_experts(self) -> bool:
        """A token's ids may repeat; masked buffers grow by K."""

    @allow_repeated_experts.setter
    def allow_repeated_experts(self, arg: bool, /) -> None: ...

    @property
    def workspace_limit_bytes(self) -> int:
        """A larger workspace is refused, with its bytes."""

    @workspace_limit_bytes.setter
    def workspace_limit_bytes(self, arg: int, /) -> None: ...

    @property
    def num_sms(self) -> int:
        """CUDA: multiprocessors of the GEMMs; 0: all."""

    @num_sms.setter
    def num_sms(self, arg: int, /) -> None: ...

    @property
    def host_counts(self) -> bool:
        """
        CUDA: contiguous groups over cuBLAS may read counts on the host, and so may the normal dispatcher over NCCL; forward then waits and cannot be captured.
        """

    @host_counts.setter
    def host_counts(self, arg: bool, /) -> None: ...

    @property
    def fp8_rows(self) -> bool:
        """
        Several ranks, experts in f8_e4m3: rows travel quantised, half the bytes; else in bf16. Changes no bit.
        """

    @fp8_rows.setter
    def fp8_rows(self, arg: bool, /) -> None: ...

    @property
    def tp_size(self) -> int:
        """Consecutive ranks that hold the same tokens."""

    @tp_size.setter
    def tp_size(self, arg: int, /) -> None: ...

    @property
    def use_all_gather(self) -> bool:
        """Lets `auto` skip communication where tp_size is the number of ranks."""

    @use_all_gather.setter
    def use_all_gather(self, arg: bool, /) -> None: ...

    @property
    def sums_at_source(self) -> bool:
        """
        low_latency: rows of experts come back, one for each choice of a token, and its rank sums them: the bits of one rank.
        """

    @sums_at_source.setter
    def sums_at_source(self, arg: bool, /) -> None: ...

    @property
    def token_pieces(self) -> int:
        """
        Several ranks: pieces that the tokens of a call are cut into, so that one travels while another is computed (CUDA); 0: chosen, 1: whole. Changes no bit.
        """

    @token_pieces.setter
    def token_pieces(self, arg: int, /) -> None: ...

    @property
    def fetch_rows(self) -> bool:
        """
        CUDA, several ranks: rows stay with their source until they are fetched; else they are pushed, which is slower. Changes no bit.
        """

    @fetch_rows.setter
    def fetch_rows(self, arg: bool, /) -> None: ...

    @property
    def peer_memory(self) -> bool:
        """
        CUDA, several ranks: kernels may reach the memory of other ranks of the host; else rows travel over NCCL. Changes no bit.
        """

    @peer_memory.setter
    def peer_memory(self, arg: bool, /) -> None: ...

    @property
    def num_link_blocks(self) -> int:
        """
        CUDA, several ranks: most thread blocks that move rows between ranks; 0: chosen.
        """

    @num_link_blocks.setter
    def num_link_blocks(self, arg: int, /) -> None: ...

    @property
    def host_ordered(self) -> bool:
        """
        CUDA, peer memory: the host meets its peers before a kernel waits for them. For tools that run one kernel at a time; slow, no capture.
        """

    @host_ordered.setter
    def host_ordered(self, arg: bool, /) -> None: ...

    @property
    def placement(self) -> list[int]:
        """
        The expert in each of S weight slots over all ranks, -1: none, a row of Placement.physical_to_logical, equal on every rank. Rank p has slots [p S / P, (p + 1) S / P); S is a multiple of P, every expert has a slot. Empty: experts stand in their order.
        """

    @placement.setter
    def placement(self, arg: Sequence[int], /) -> None: ...

    @property
    def experts(self) -> str:
        """
        Of workspace_bytes: what the routed experts are, 'bf16' or 'f8_e4m3'. A layer looks at its weights.
        """

    @experts.setter
    def experts(self, arg: str, /) -> None: ...

    @property
    def lost_rank_timeout(self) -> float:
        """
        Several ranks, at most 64, over low_latency and memory that they reach in each other (on CPUs threads): seconds, up to a year; not 0, a rank that does not come within it ends one call with an error, not the layer. See MoeLayer.set_active_ranks.
        """

    @lost_rank_timeout.setter
    def lost_rank_timeout(self, arg: float, /) -> None: ...

    @property
    def gemm1(self) -> str:
        """
        Hopper: the configuration of the experts' first grouped GEMM, one that `explain` lists; '': chosen. Changes no bit.
        """

    @gemm1.setter
    def gemm1(self, arg: str, /) -> None: ...

    @property
    def gemm2(self) -> str:
        """The same of their second."""

    @gemm2.setter
    def gemm2(self, arg: str, /) -> None: ...

    @property
    def count_loads(self) -> bool:
        """Whether there are MoeLayer.expert_loads; ranks may differ."""

    @count_loads.setter
    def count_loads(self, arg: bool, /) -> None: ...

class Strategy:
    """Which dispatcher, executor and GEMM provider, and why."""

    @property
    def name(self) -> str:
        """'local+masked', ..."""

    @property
    def reason(self) -> str:
        """One line."""

    @property
    def workspace_bytes(self) -> int:
        """At the capacity."""

    @property
    def predicted_us(self) -> float:
        """By the cost model, of an even gate."""

    @property
    def rows(self) -> str:
        """What token rows travel as: 'bf16' or 'f8_e4m3'."""

    @property
    def warnings(self) -> list[str]: ...

    def __repr__(self) -> str: ...

class MoeLayer:
    """
    The expert part of one MoE layer: gate, experts, combine, shared experts. Keeps the memory of its weights. Options are those of LayerOptions. One thread at a time calls the layers of a backend; a forward that finds another one there raises Unsupported. Raises ShapeMismatch, Misaligned or Unsupported before it allocates.
    """

    def __init__(self, config: MoeConfig, weights: LayerWeights, **options) -> None: ...

    @staticmethod
    def from_pretrained(directory: str | os.PathLike, layer: int, layer_json: str | os.PathLike | None = None, *, weights: str = 'bf16', **options) -> MoeLayer:
        """
        Layer `layer` of a checkpoint folder with its weights. weights: 'bf16' or 'native', as of Checkpoint.load_layer. Options are those of LayerOptions; with a placement each rank reads all experts and copies those of its slots. Raises what Checkpoint and MoeLayer raise.
        """

    def forward(self, hidden: switchyard._array.Array, *, output: switchyard._array.Array | None = None, ids: switchyard._array.Array | None = None, weights: switchyard._array.Array | None = None, expert_map: switchyard._array.Array | None = None, token_ids: switchyard._array.Array | None = None, max_tokens: int = -1, stream: int | None = None, workspace: switchyard._array.Array | None = None) -> switchyard._array.Array:
        """
        Experts of each token, weighted and summed, plus shared experts.

          hidden      in   bf16 [T, H]; T may be 0
          output      out  bf16 [T, H], f32 with f32_sums; overlaps no input. None: a new array of the
                           library of hidden
          ids         in   i32 or i64 [T, K]; -1: no expert. None: the layer's gate chooses
          weights     in   f32 [T, K]; exactly if ids are given
          expert_map  in   i32 [M]: the layer's id, or -1, of each id the caller's ids choose from
          token_ids   in   i32 or i64 [T], for layers that choose by token id
          max_tokens       bound of T in this call; -1: the capacity
          stream           a cudaStream_t; None: the current stream of the library of hidden
          workspace   inout  any dtype, workspace_bytes; with workspace_per_call

        Returns output. The interpreter's lock is released. CUDA: enqueues and returns; arrays stay alive and unchanged until the work is done, errors that only the device knows are raised by wait() or the next call. CPU: the work is done, and such errors are raised here. Raises ShapeMismatch or Misaligned for these arguments, BadRouting for ids out of range, Unsupported where a gradient would be missing.
        """

    def __call__(self, hidden: switchyard._array.Array, *, output: switchyard._array.Array | None = None, ids: switchyard._array.Array | None = None, weights: switchyard._array.Array | None = None, expert_map: switchyard._array.Array | None = None, token_ids: switchyard._array.Array | None = None, max_tokens: int = -1, stream: int | None = None, workspace: switchyard._array.Array | None = None) -> switchyard._array.Array:
        """As forward."""

    def gate(self, hidden: switchyard._array.Array, *, token_ids: switchyard._array.Array | None = None, stream: int | None = None) -> tuple:
        """
        ids i32 [T, K] and weights f32 [T, K] that the layer's gate chooses for hidden bf16 [T, H]; also shared_weights f32 [T, S] where shared experts are scored. Raises Unsupported without a router.
        """

    def wait(self, stream: int = 0) -> None:
        """
        Waits for every forward on `stream`. Raises what they could not: BadRouting, Cuda.
        """

    def grow(self, max_tokens: int, stream: int = 0) -> None:
        """
        The capacity becomes at least max_tokens. Waits; graphs must be captured again.
        """

    def set_placement(self, expert_of_slot: Sequence[int], stream: int = 0) -> None:
        """
        From here on, in the order of `stream` (a cudaStream_t; 0: the default stream), ids go to the slots of another table of the layer's S weight slots (LayerOptions.placement), also those of graphs that were captured before. Not collective, but every rank calls it with the same table between the same two forwards: a forward in which tables differ raises ShapeMismatch on every rank. The host does not wait. Weights of a slot that no table in use names may be written. Raises Unsupported for a layer without a placement, or while `stream` is captured; ShapeMismatch for a table that breaks the rules, and the old one stays in use.
        """

    def set_active_ranks(self, ranks: Sequence[int], stream: int = 0) -> None:
        """
        From here on, in the order of `stream` (a cudaStream_t; 0: the default stream), calls have these ranks only, this one among them, also those of graphs that were captured before. For layers with LayerOptions.lost_rank_timeout whose call raised Transport. Not collective, but every rank that goes on calls it with the same ranks between the same two forwards. Choices of experts whose rank is left out add nothing and are counted (dropped_routes), unless a placement has a replica elsewhere. A rank that is left out has ended, or its forward raised; it never comes back. The host does not wait. Raises Unsupported without lost_rank_timeout, or while `stream` is captured; ShapeMismatch for ranks that are none, were left out before, or lack this one.
        """

    def missing_ranks(self, stream: int = 0) -> list[int]:
        """
        The active ranks that a call waited for in vain, rising. Waits for `stream`; empty without LayerOptions.lost_rank_timeout.
        """

    @property
    def dropped_routes(self, /) -> Tensor | None:
        """
        i64 [1] on the layer's device, in its memory: choices of this rank's tokens that were dropped since the layer was made, because the expert's rank is left out. Read or clear it in the order of the forwards' streams. None without LayerOptions.lost_rank_timeout.
        """

    @property
    def expert_loads(self, /) -> Tensor | None:
        """
        i64 [E] on the layer's device, in its memory: how often each expert was chosen by tokens that this rank routes, since the layer was made. Forwards add to it in the order of their streams; read or clear it in that order. It stays where it is when the layer grows. None without LayerOptions.count_loads.
        """

    @property
    def input_rows(self, /) -> Tensor | None:
        """
        Where hidden states are best written: bf16 [max_tokens, H] on the layer's device, a view of its workspace. A forward whose `hidden` is its first T rows copies none of them; other memory is read as well, but for such that overlaps this and begins elsewhere (ShapeMismatch). forward does not change the rows; they may be written again, in the order of its stream, once it is done. Take it again after grow: the old view keeps its memory, which is then like any other. None where no place is better than another: on CPUs, on one rank, and where ranks do not fetch rows from each other's memory (LayerOptions.fetch_rows). Ranks need not agree.
        """

    @property
    def config(self) -> MoeConfig: ...

    @property
    def strategy(self) -> Strategy: ...

    @property
    def device(self) -> str: ...

    @property
    def workspace_bytes(self) -> int: ...

    @property
    def state_bytes(self) -> int: ...

    @property
    def report(self) -> str | None:
        """The layout of the last forward and its reason; None before it."""

def workspace_bytes(config: MoeConfig, num_ranks: int = 1, **options) -> int:
    """
    Bytes of the workspace of a layer on one of num_ranks ranks, for callers who lend it. Options are those of LayerOptions; with a backend, of its device. Grows with max_tokens. Raises as MoeLayer.
    """

def gate(config: MoeConfig, weights: LayerWeights, hidden: switchyard._array.Array, *, token_ids: switchyard._array.Array | None = None, stream: int | None = None) -> tuple:
    """
    The gate of a layer alone: ids i32 [T, K] by descending score, weights f32 [T, K], and shared_weights f32 [T, S] where shared experts are scored, for hidden bf16 [T, H]. It makes a backend; MoeLayer.gate uses the layer's. Raises ShapeMismatch or Unsupported.
    """

def fused_experts(hidden: switchyard._array.Array, w1: switchyard._array.Array, w2: switchyard._array.Array, ids: switchyard._array.Array, weights: switchyard._array.Array, *, order: GateUpOrder, activation: Activation = ..., b1: switchyard._array.Array | None = None, b2: switchyard._array.Array | None = None, expert_map: switchyard._array.Array | None = None, out_of_range_ids: OutOfRangeIds = OutOfRangeIds.Error, output: switchyard._array.Array | None = None, max_tokens: int = -1, stream: int | None = None, workspace: switchyard._array.Array | None = None, w1_scales: switchyard._array.Array | None = None, w2_scales: switchyard._array.Array | None = None, w1_block: ScaleBlock = ..., w2_block: ScaleBlock = ...) -> switchyard._array.Array:
    """
    The routed experts of a layer as a function, for callers that have no place for a handle.

      hidden   in   bf16 [T, H]; T may be 0
      w1, w2   in   bf16 or f8_e4m3 [E, 2I, H] ([E, I, H] without a gate), [E, H, I]; 16-byte
                    aligned
      ids      in   i32 or i64 [T, K]; -1: no expert
      weights  in   f32 [T, K]
      order         how gate and up stand in w1
      b1, b2   in   f32 [E, 2I], [E, H], or None
      expert_map, output, stream, workspace   as of MoeLayer.forward
      out_of_range_ids   Error: BadRouting; NoExpert: as -1
      max_tokens    capacity of the kept layer; -1: the power of two from T on, at least 64
      w1_scales, w2_scales, w1_block, w2_block   of f8_e4m3, as of LayerWeights

    Returns output. The layer is made by the first call and kept: by sizes, capacity, and addresses of the weights. It has views and no copy, so memory that is used again for weights of the same shapes is read as it is then. Any thread; calls take turns. The interpreter's lock is released. CUDA graphs: call once with the same capacity before the capture. Raises as MoeLayer and forward; on CUDA wait_fused_experts raises what only the device knows.
    """

def wait_fused_experts(stream: int = 0) -> None:
    """Waits for `stream`, then raises the first error of the kept layers."""

def forget_fused_experts() -> None:
    """Frees every layer that is kept. None of their work may be under way."""

class LinearAttention:
    """
    Decode steps of linear attention whose states are in blocks of a cache, with a status word for each of at most max_batch sequences. One object serves one thread at a time. CUDA: each call enqueues one kernel; a graph may capture it.
    """

    def __init__(self, backend: Backend, max_batch: int) -> None: ...

    def conv_decode(self, *, output: switchyard._array.Array, x: switchyard._array.Array, state: switchyard._array.Array, weight: switchyard._array.Array, sequence_lengths: switchyard._array.Array, block_map: switchyard._array.Array, block_tokens: int, bias: switchyard._array.Array | None = None, activation: str = 'none', num_slots: int | None = None, first_block: int = 1, stream: int | None = None) -> None:
        """
        One step of a causal convolution over paged states, n tokens of B sequences; fp32, one rounding.

          output       out  like x; may be x itself
          x            in   bf16 or f32 [B, D], or [B, D, n] with n of 1 to 4
          state     inout   bf16 or f32 [num_blocks, D, w - 1]; gaps between blocks only
          weight       in   f32 [D, w], w of 2 to 6
          bias         in   f32 [D], or None
          activation        'none' or 'silu'
          sequence_lengths  in  i32 [B]: L, the length including the first token of the step
          block_map    in   i32 [B, num_slots]: block ids; rows may be those of a wider table
          block_tokens      S, tokens per block
          num_slots         bound of a slot; None: the columns of block_map
          first_block       the lowest valid id: 1 where block 0 is padding, or 0
          stream            a cudaStream_t; None: the current stream of the array's library

        Raises ShapeMismatch, Misaligned or Unsupported before anything is enqueued.
        """

    def conv_prefill_states(self, *, state: switchyard._array.Array, x: switchyard._array.Array, starts: switchyard._array.Array, prefix_lengths: switchyard._array.Array, block_map: switchyard._array.Array, block_tokens: int, sequence_lengths: switchyard._array.Array | None = None, num_slots: int | None = None, first_block: int = 1, stream: int | None = None) -> None:
        """
        The states that a convolution over whole prompts leaves behind.

          state     inout   as of conv_decode
          x            in   bf16 or f32 [T, D]
          starts       in   i32 [B + 1]: sequence b has the rows [starts[b], starts[b + 1]) of x
          prefix_lengths  in  i32 [B]: tokens that were there before; below 0: no sequence
          sequence_lengths  in  i32 [B]: L, the length including the first token of the step
          block_map    in   i32 [B, num_slots]: block ids; rows may be those of a wider table
          block_tokens      S, tokens per block
          num_slots         bound of a slot; None: the columns of block_map
          first_block       the lowest valid id: 1 where block 0 is padding, or 0
          stream            a cudaStream_t; None: the current stream of the array's library

        Raises ShapeMismatch, Misaligned or Unsupported before anything is enqueued.
        """

    def delta_rule_decode(self, *, output: switchyard._array.Array, q: switchyard._array.Array, k: switchyard._array.Array, v: switchyard._array.Array, g: switchyard._array.Array, beta: switchyard._array.Array, state: switchyard._array.Array, sequence_lengths: switchyard._array.Array, block_map: switchyard._array.Array, block_tokens: int, l2_normalize: bool = False, scale: float | None = None, num_slots: int | None = None, first_block: int = 1, stream: int | None = None) -> None:
        """
        One step of the gated delta rule over paged states, all fp32.

          output       out  bf16 or f32 [B, n, Hv, Dv]
          q, k         in   bf16 or f32 [B, n, Hk, Dk], any strides but 1 in the last dimension
          v            in   as q, [B, n, Hv, Dv]
          g            in   bf16 or f32 [B, n, Hv], logarithms of the decay
          beta         in   bf16 or f32 [B, n, Hv], or [B, n, Hv, Dv]
          state     inout   f32 [num_blocks, Hv, Dv, Dk]; gaps between blocks only
          scale             None: 1 / sqrt(Dk)
          sequence_lengths  in  i32 [B]: L, the length including the first token of the step
          block_map    in   i32 [B, num_slots]: block ids; rows may be those of a wider table
          block_tokens      S, tokens per block
          num_slots         bound of a slot; None: the columns of block_map
          first_block       the lowest valid id: 1 where block 0 is padding, or 0
          stream            a cudaStream_t; None: the current stream of the array's library

        Raises ShapeMismatch, Misaligned or Unsupported before anything is enqueued.
        """

    def wait(self, stream: int = 0) -> None:
        """
        Waits for the work on `stream`. Raises BadState with the first sequence at fault and the bounds it crossed. All words are good again afterwards.
        """

    def wait_status(self, stream: int = 0) -> list[int]:
        """
        As wait, without raising: the words as they were. Bits: 1 ReadSlot, 2 ReadBlock, 4 WriteSlot, 8 WriteBlock, 16 PrefillRows.
        """

    def status(self) -> Tensor:
        """
        i32 [max_batch] in memory of the backend's device: the words since the last wait.
        """
