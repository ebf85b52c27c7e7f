// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/transformers/linear_attention_step.cc -- one step from a safetensors file to another, for
// linear_attention_test.py.
//
//   linear_attention_step IN OUT cpu|cuda
//
// IN: lengths, block_map [B, num_slots], settings i32 [2] (block_tokens, first_block), state, and
// x, weight, bias of a convolution (SiLU) or q, k, v, g, beta of the delta rule (L2 norm). OUT:
// output, state, status.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "switchyard/linear_attention.h"
#include "switchyard/safetensors.h"

namespace switchyard {
namespace {

class Step {
 public:
  Step(const std::string& path, const std::string& device)
      : file_(TensorFile::open(path)),
        kind_(device == "cuda" ? DeviceKind::Cuda : DeviceKind::Cpu),
        backend_(kind_ == DeviceKind::Cuda ? make_cuda_backend() : make_cpu_backend()) {}

  void run(const std::string& path) {
    const Tensor lengths = load("lengths"), block_map = load("block_map");
    const ConstTensor settings = file_->tensor("settings");
    const StateMap map{.sequence_lengths = lengths,
                       .block_map = block_map,
                       .num_slots = block_map.dim(1),
                       .row_stride = block_map.dim(1),
                       .block_tokens = settings.as<int32_t>()[0],
                       .first_block = settings.as<int32_t>()[1]};
    const auto attention = LinearAttention::create(backend_, lengths.dim(0));
    const Tensor state = load("state");
    Tensor output;
    if (file_->find("q") != nullptr) {
      DeltaRuleDecode step;
      const Tensor q = load("q"), k = load("k"), v = load("v");
      output = make(v.dtype, v.shape);
      step.output = output, step.state = state;
      step.q = q, step.k = k, step.v = v, step.g = load("g"), step.beta = load("beta");
      step.l2_normalize = true, step.map = map;
      attention->delta_rule_decode(step);
    } else {
      ConvDecode step;
      step.x = load("x");
      output = make(step.x.dtype, step.x.shape);
      step.output = output, step.state = state;
      step.weight = load("weight"), step.bias = load("bias");
      step.activation = ConvActivation::Silu, step.map = map;
      attention->conv_decode(step);
    }
    const std::vector<int32_t> words = attention->wait_status();
    const std::vector<NamedTensor> results = {
        {"output", on_host(output)},
        {"state", on_host(state)},
        {"status", ConstTensor(words.data(), {static_cast<int64_t>(words.size())})}};
    write_safetensors(path, results);
  }

 private:
  Tensor make(DType dtype, const Shape& shape) {
    Tensor t(nullptr, dtype, shape, kind_);
    memory_.push_back(allocate(*backend_, static_cast<size_t>(t.bytes())));
    t.data = memory_.back().get();
    return t;
  }
  Tensor load(const std::string& name) {
    const ConstTensor mapped = file_->tensor(name);
    const Tensor t = make(mapped.dtype, mapped.shape);
    copy_to_device(*backend_, t, mapped.data);
    return t;
  }
  ConstTensor on_host(const Tensor& t) {
    host_.emplace_back(static_cast<size_t>(t.bytes()));
    copy_to_host(*backend_, host_.back().data(), t);
    return {host_.back().data(), t.dtype, t.shape};
  }

  std::shared_ptr<const TensorFile> file_;
  DeviceKind kind_;
  std::shared_ptr<Backend> backend_;
  std::vector<std::shared_ptr<void>> memory_;
  std::vector<std::vector<std::byte>> host_;
};

}  // namespace
}  // namespace switchyard

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("linear_attention_step IN OUT cpu|cuda\n", stderr);
    return 2;
  }
  try {
    switchyard::Step(argv[1], argv[3]).run(argv[2]);
    return 0;
  } catch (const switchyard::Error& e) {
    std::fprintf(stderr, "linear_attention_step: %s\n", e.what());
    return 1;
  }
}
