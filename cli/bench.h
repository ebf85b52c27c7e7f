// cli/bench.h -- what `switchyard bench` was asked, and its forms by device.
#pragma once

#include <string>
#include <vector>

#include "layer_options.h"

namespace switchyard::cli {

struct BenchArguments {
  LayerSource source;
  RunOptions run;
  std::vector<int64_t> tokens;  // empty: the device's usual ones
  int repeat = 20;
  bool linear_attention = false;  // its steps in place of a layer
  std::vector<int64_t> batch;     // of them; empty: the usual ones
  bool json = false;
  // CUDA only
  std::string routing = "random";
  std::string commit;
  bool routed_only = false;
};

// Prints a table or one JSON object; the exit code.
int bench_on_cpu(const BenchArguments& arguments);
int bench_on_cuda(const BenchArguments& arguments);
// Several ranks on CUDA.
int bench_over_ranks(const BenchArguments& arguments);
int bench_linear_attention(const BenchArguments& arguments);

}  // namespace switchyard::cli
