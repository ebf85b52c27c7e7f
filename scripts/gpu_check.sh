#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Everything that needs a GPU, into one results file: builds, runs the GPU tests, compute-sanitizer and benchmarks.
#
#   scripts/gpu_check.sh [STEP...] [RESULTS.json]     steps: build tests peers sanitize bench ranks tune; default all
#                                                     but ranks and tune
#
# `peers` tests several ranks, on as many GPUs as there are. `ranks` times layers over several beside NCCL's collectives
# (scripts/bench_nccl.py, needs PyTorch):
#
#   scripts/gpu_check.sh build peers ranks bench/results/h100x2.json
#
# `tune` times the configurations of grouped GEMMs (switchyard bench --tune), of which scripts/gemm_table.py makes
# src/strategy/gemm_table.cc:
#
#   scripts/gpu_check.sh build tune bench/results/h200_tune.json && scripts/gemm_table.py
#
# Sections of steps that are not asked for stay in the file as they are. Needs cmake, nvcc, GoogleTest and python3.
# CMAKE_ARGS       more arguments of cmake, such as the places of libraries
# COMMIT           what is built, where there is no git
# RANKS            GPUs that `ranks` times layers over (2)
# MODELS, TOKENS   of the benchmarks; MODELS may say name:ep-size
# WEIGHTS          of `tune`: what experts are in (bf16), or "bf16 fp8"
# LAYOUTS          of the benchmarks, contiguous,masked,hybrid
# RUNS             of every benchmark but those of skew (3), medians of which are kept; each begins with another model and layout
# BUILD            folder of the programs, build/cuda
# SWITCHYARD       the program that is timed, if it is not the one in BUILD
# FILTER           --gtest_filter of `tests` or `peers`, in place of all that the step has
# GPUS             GPUs that the processes of `tests` take turns on (1)
# SHARDS           processes that `tests` are divided over (4). PEER_SHARDS of `peers`: 1, as kernels that wait for each other, with
#                  deadlines of seconds, want GPUs for themselves. 4 save time; what was seen to go wrong with 4 and 5: docs/decisions/0050
# TEST_LIMIT       seconds that each of these processes may take (1800)
# RANDOM_LAYERS    random shapes that the layer is compared with float64 on (200)
# RACE_FILTER, MEMCHECK_FILTER   --gtest_filter under compute-sanitizer
# LIMIT            seconds that one program may take under compute-sanitizer or as a benchmark
set -euo pipefail
cd "$(dirname "$0")/.."

results=bench/results/h100.json
steps=()
for argument in "$@"; do
  case $argument in
    build | tests | peers | sanitize | bench | ranks | tune) steps+=("$argument") ;;
    *.json) results=$argument ;;
    *) echo "gpu_check: $argument is no step (build, tests, peers, sanitize, bench, ranks, tune) and no .json file" >&2; exit 2 ;;
  esac
done
[ ${#steps[@]} -gt 0 ] || steps=(build tests peers sanitize bench)

build=${BUILD:-build/cuda}
test_cuda=$build/tests/test_cuda
switchyard=${SWITCHYARD:-$build/switchyard}
state=build/gpu_check  # what each step leaves for the results file
limit=${LIMIT:-240}
models=${MODELS:-qwen3-30b-a3b qwen3-235b-a22b qwen3-next-80b-a3b glm-4.5-air olmoe-1b-7b mixtral-8x7b deepseek-v3:8}
tokens=${TOKENS:-1,8,32,128,512,2048,8192}
commit=${COMMIT:-$(git describe --always --dirty 2>/dev/null || echo unknown)}
peer_tests='*PeerCuda.*:*PeerCudaFamilies.*:*PeerCudaLowLatency*:*PeerCudaPlaced*:PeerCudaConditions.*:*OfSeveralRanks*:*GpuProcess*:*Nccl*'
# Kernels that wait for a peer need both to run at once, which memcheck does not promise: PeerCudaOrdered runs instead.
memcheck_filter=${MEMCHECK_FILTER:--Measure.*:$peer_tests}
race_filter=${RACE_FILTER:-CudaPlanDispatch.*:CudaGroupRows.*:CudaGateTopk.Ties*:CudaPlanRows.Any*:HopperGroupedGemm.GivesFp32*:HopperGroupedGemm.MatchesTheCpuWithEvery*:CudaSmallOps.*:CudaConvDecode.TouchesNothing*:CudaConvPrefill.*:CudaDeltaRule.TouchesNothing*}
status=0

sanitizer() { command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer"; }

step_build() {
  local generator=()
  command -v ninja >/dev/null || generator=(-G "Unix Makefiles")
  # shellcheck disable=SC2086  # CMAKE_ARGS is meant to be split
  cmake --preset cuda "${generator[@]}" -DSWITCHYARD_TESTS=ON -DSWITCHYARD_MPI=OFF ${CMAKE_ARGS:-} >/dev/null &&
    cmake --build "$build" --parallel "$(nproc)" --target switchyard_cli test_cuda
}

test_shard() {  # step, filter, number, of how many
  local code=0 file=$state/$1/$3
  [ "$1" = peers ] || export CUDA_VISIBLE_DEVICES=$(($3 % ${GPUS:-1}))
  GTEST_SHARD_INDEX=$3 GTEST_TOTAL_SHARDS=$4 SWITCHYARD_RANDOM_LAYERS=${RANDOM_LAYERS:-200} timeout "${TEST_LIMIT:-1800}" \
    "$test_cuda" --gtest_filter="$2" >"$file.log" 2>&1 || code=$?
  echo "$code" >"$file.end"
}

ended_well() {  # step: the first line of each program's .end file is its exit code
  awk 'FNR == 1 && $0 != "0" { bad = 1 } END { exit bad }' "$state/$1"/*.end
}

run_tests() {  # step, filter, number of processes
  rm -rf "${state:?}/$1" && mkdir -p "$state/$1"
  local i
  echo "$2" >"$state/$1/filter"
  for ((i = 0; i < $3; ++i)); do test_shard "$1" "$2" "$i" "$3" & done
  wait
  ended_well "$1" || status=1
  grep -h ': Failure' -A 12 "$state/$1"/*.log || true
}

step_tests() {
  run_tests tests "${FILTER:--$peer_tests}" "${SHARDS:-4}"
  "$switchyard" check --device cuda >"$state/tests/check.log" 2>&1 || status=1
  grep -iE 'fail' "$state/tests/check.log" || true
}

step_peers() {
  run_tests peers "${FILTER:-$peer_tests}" "${PEER_SHARDS:-1}"
}

sanitize() {  # tool, filter, further options
  local tool=$1 filter=$2 log=$state/sanitize/$1.log code=0 start=$SECONDS
  shift 2
  SWITCHYARD_SMALL=1 timeout "$limit" "$(sanitizer)" --tool "$tool" --error-exitcode 99 "$@" \
    "$test_cuda" --gtest_filter="$filter" --gtest_brief=1 >"$log" 2>&1 || code=$?
  printf '%s\n%s\n%s\n' "$code" "$((SECONDS - start))" "$filter" >"$state/sanitize/$tool.end"
}

step_sanitize() {
  rm -rf "$state/sanitize" && mkdir -p "$state/sanitize"
  sanitize memcheck "$memcheck_filter" &
  sanitize racecheck "$race_filter" &
  sanitize synccheck "$race_filter" &
  wait
  ended_well sanitize || status=1
}

time_model() {  # folder of the runs, name of the result, further options
  local file=$state/$1/$run/$2
  shift 2
  # Shared experts are left out: the measured opponents have none.
  timeout "$limit" "$switchyard" bench --device cuda --routed-only --json --commit "$commit" "$@" \
    >"$file.json" 2>"$file.err" || { status=1; echo "${file##*/}: $(tail -n 1 "$file.err")"; }
}

step_bench() {
  rm -rf "$state/bench" "$state/linear_attention.json"
  local run model name share arguments order layouts=${LAYOUTS:-contiguous,masked,hybrid}
  read -ra order <<<"$models"
  for run in $(seq "${RUNS:-3}"); do
    mkdir -p "$state/bench/$run"
    for model in "${order[@]}"; do
      name=${model%%:*} share=${model#"$name"} share=${share#:}
      arguments=(--preset "$name")
      [ -z "$share" ] || arguments+=(--ep-size "$share")
      name=$name${share:+-ep$share}
      time_model bench "$name" --strategy "$layouts" --tokens "$tokens" "${arguments[@]}"
      [ "$run" = 1 ] || continue
      # Skew, at the largest number of tokens.
      arguments+=(--strategy contiguous --tokens "${tokens##*,}")
      time_model bench "$name-zipf" --routing zipf "${arguments[@]}"
      time_model bench "$name-balanced" --routing balanced "${arguments[@]}"
    done
    # Large layers are bound by power: what comes last meets a hot card, so models and layouts take turns at it.
    [ "${layouts/,/}" = "$layouts" ] || layouts=${layouts#*,},${layouts%%,*}
    order=("${order[@]:3}" "${order[@]:0:3}")
    python3 scripts/gpu_results.py bench "$state" "$results" "$commit" >/dev/null  # should the next one be cut off
  done
  timeout "$limit" "$switchyard" bench --linear-attention --device cuda --json --commit "$commit" \
    >"$state/linear_attention.json" || status=1
}

step_ranks() {
  rm -rf "$state/ranks"
  local run ranks=${RANKS:-2}
  for run in $(seq "${RUNS:-3}"); do
    mkdir -p "$state/ranks/$run"
    time_model ranks deepseek-v3 --ranks "$ranks" --preset deepseek-v3 --tokens 1,128,1024,4096 --strategy contiguous,all_gather+contiguous
    time_model ranks deepseek-v3-low-latency --ranks "$ranks" --preset deepseek-v3 --tokens 1,8,32,128,512 --strategy normal+masked,low_latency+masked
    time_model ranks deepseek-v3-fp8 --ranks "$ranks" --preset deepseek-v3 --weights fp8 --tokens 1,128,4096 --strategy contiguous
    time_model ranks qwen3-30b-a3b --ranks "$ranks" --preset qwen3-30b-a3b --tokens 1,128,1024,8192,16384 --strategy contiguous,masked
    time_model ranks qwen3-30b-a3b-pieces --ranks "$ranks" --preset qwen3-30b-a3b --tokens 8192,16384 --strategy contiguous --pieces 2
    # Tensor-parallel groups of all ranks, and the way between hosts.
    time_model ranks qwen3-30b-a3b-tp --ranks "$ranks" --tp-size "$ranks" --preset qwen3-30b-a3b --tokens 128,8192 --strategy local+contiguous,normal+contiguous
    time_model ranks qwen3-30b-a3b-over-nccl --ranks "$ranks" --no-peer-memory --preset qwen3-30b-a3b --tokens 128,8192 --strategy contiguous,all_gather+contiguous
    time_model ranks qwen3-30b-a3b-exact-sizes --ranks "$ranks" --no-peer-memory --host-counts --preset qwen3-30b-a3b --tokens 128,8192 --strategy contiguous
    # The same local work on one GPU.
    time_model ranks qwen3-30b-a3b-alone --preset qwen3-30b-a3b --ep-size "$ranks" --tokens 1,128,1024,8192,16384 --strategy contiguous
  done
  timeout "$limit" python3 scripts/bench_nccl.py --ranks "$ranks" --json >"$state/nccl.json" 2>"$state/nccl.err" ||
    { status=1; echo "nccl: $(tail -n 1 "$state/nccl.err")"; }
}

step_tune() {
  rm -rf "$state/tune" && mkdir -p "$state/tune"
  local model name share forms file
  for forms in ${WEIGHTS:-bf16}; do
    for model in $models; do
      name=${model%%:*} share=${model#"${model%%:*}"} share=${share#:}
      file=$state/tune/$name${share:+-ep$share}
      [ "$forms" = bf16 ] || file=$file-$forms
      timeout "$limit" "$switchyard" bench --tune --device cuda --json --commit "$commit" --preset "$name" --weights "$forms" \
        --ep-size "${share:-1}" ${TOKENS:+--tokens "$TOKENS"} >"$file.json" 2>"$file.err" ||
        { status=1; echo "${file##*/}: $(tail -n 1 "$file.err")"; }
    done
  done
}

for step in "${steps[@]}"; do
  echo "== $step"
  start=$SECONDS
  "step_$step" || { echo "gpu_check: $step failed"; exit 1; }
  [ "$step" = build ] || python3 scripts/gpu_results.py "$step" "$state" "$results" "$commit"
  echo "== $step took $((SECONDS - start)) s"
done
exit $status
