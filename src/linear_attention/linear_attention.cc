// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/linear_attention/linear_attention.cc -- arguments checked, one operation, status words.
#include "switchyard/linear_attention.h"

#include <algorithm>

#include "base/as_error.h"
#include "base/backend.h"
#include "base/checked.h"
#include "device/memory.h"
#include "linear_attention/checks.h"
#include "ops/ops.h"
#include "plan/state_slots.h"

namespace switchyard {
namespace {

// "the read slot is at or past num_slots; ..."
std::string faults_text(int32_t faults) {
  struct Line {
    StateFault fault;
    const char* text;
  };
  constexpr Line kLines[] = {
      {StateFault::ReadSlot, "the read slot is at or past num_slots"},
      {StateFault::ReadBlock, "the read block is outside [first_block, num_blocks)"},
      {StateFault::WriteSlot, "a write slot is at or past num_slots"},
      {StateFault::WriteBlock, "a write block is outside [first_block, num_blocks)"},
      {StateFault::PrefillRows, "its rows are not inside x"},
  };
  std::string text;
  for (const Line& line : kLines)
    if ((faults & bit(line.fault)) != 0) text += cat(text.empty() ? "" : "; ", line.text);
  return text;
}

class BackendLinearAttention final : public LinearAttention {
 public:
  BackendLinearAttention(std::shared_ptr<Backend> backend, int64_t max_batch)
      : backend_(std::move(backend)), max_batch_(max_batch) {
    const auto words = std::vector<int32_t>(static_cast<size_t>(max_batch));
    // An allocation of nothing has no address; a word more is not worth a case.
    memory_ = backend_->memory().allocate((words.size() + 1) * sizeof(int32_t));
    status_ = Tensor(static_cast<int32_t*>(memory_.get()), {max_batch}, backend_->kind());
    if (max_batch > 0) backend_->memory().copy_in(status_, words.data(), nullptr);
  }

  void conv_decode(const ConvDecode& step) override {
    check(step, max_batch_, backend_->kind());
    if (step.x.dim(0) > 0 && step.x.dim(1) > 0)
      backend_->ops().run(ConvDecodeStep{step, status_}, step.stream);
  }
  void conv_prefill_states(const ConvPrefillStates& step) override {
    check(step, max_batch_, backend_->kind());
    if (step.prefix_lengths.dim(0) > 0 && step.x.dim(1) > 0)
      backend_->ops().run(ConvPrefillStatesStep{step, status_}, step.stream);
  }
  void delta_rule_decode(const DeltaRuleDecode& step) override {
    check(step, max_batch_, backend_->kind());
    if (step.v.dim(0) > 0) backend_->ops().run(DeltaRuleDecodeStep{step, status_}, step.stream);
  }

  ConstTensor status() const override { return status_; }

  std::vector<int32_t> wait_status(CUstream_st* stream) override {
    auto words = as_errors("linear_attention",
                           [&] { return std::vector<int32_t>(static_cast<size_t>(max_batch_)); });
    if (words.empty()) return words;
    backend_->memory().read_back(words.data(), status_, stream);
    if (std::any_of(words.begin(), words.end(), [](int32_t w) { return w != 0; }))
      backend_->ops().run(FillI32{status_, 0}, stream);
    return words;
  }

  void wait(CUstream_st* stream) override {
    const auto words = wait_status(stream);
    const auto first = std::find_if(words.begin(), words.end(), [](int32_t w) { return w != 0; });
    if (first == words.end()) return;
    const auto at_fault = std::count_if(first, words.end(), [](int32_t w) { return w != 0; });
    throw Error(Errc::BadState, cat("linear_attention: sequence=", first - words.begin(), " (",
                                    at_fault, " at fault), ", faults_text(*first),
                                    ". Give the sequence blocks for all its tokens."));
  }

 private:
  std::shared_ptr<Backend> backend_;
  int64_t max_batch_;
  std::shared_ptr<void> memory_;
  Tensor status_;
};

}  // namespace

std::unique_ptr<LinearAttention> LinearAttention::create(std::shared_ptr<Backend> backend,
                                                         int64_t max_batch) {
  require_backend("linear_attention", backend);
  SWITCHYARD_REQUIRE(max_batch >= 0 && max_batch <= INT32_MAX, ShapeMismatch,
                     "linear_attention: max_batch=", max_batch, ", need 0 to ", INT32_MAX,
                     ". Pass the most sequences of one call.");
  return as_errors("linear_attention", [&] {
    return std::make_unique<BackendLinearAttention>(std::move(backend), max_batch);
  });
}

ConvActivation conv_activation_from(std::string_view name) {
  if (name.empty() || name == "none") return ConvActivation::None;
  SWITCHYARD_REQUIRE(name == "silu" || name == "swish" || name == "true", Unsupported,
                     "conv_activation_from: name=", name,
                     ", need none, silu, swish or true. Use one of them.");
  return ConvActivation::Silu;
}

}  // namespace switchyard
