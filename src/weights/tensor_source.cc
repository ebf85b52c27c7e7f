// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/tensor_source.cc
#include "weights/stored_tensor.h"

#include <algorithm>
#include <array>

#include "base/checked.h"
#include "base/shape_text.h"

namespace switchyard {
namespace {

constexpr std::string_view kWeight = ".weight";

bool is_plain(const std::string& dtype) {
  return dtype == "BF16" || dtype == "F16" || dtype == "F32";
}

// By dtype alone. U8 is exponents only where quantization_config leaves no doubt.
ScaleBits bits_of(const TensorEntry& scales, const WeightForm& form) {
  if (scales.dtype == "F32") return ScaleBits::F32;
  if (scales.dtype == "F16") return ScaleBits::F16;
  if (scales.dtype == "BF16") return ScaleBits::Bf16;
  if (scales.dtype == "F8_E8M0") return ScaleBits::E8m0;
  SWITCHYARD_REQUIRE(scales.dtype == "U8" && form.powers_of_two, Unsupported, "checkpoint: tensor ",
                     scales.name, ": dtype=", scales.dtype,
                     ", scales are F32, BF16, F16, F8_E8M0, or U8 where quantization_config says "
                     "that they are exponents (scale_fmt ue8m0, mxfp8, mxfp4).");
  return ScaleBits::E8m0;
}

const char* kind_text(Elements elements, bool is_nvfp4) {
  switch (elements) {
    case Elements::E4m3: return "fp8";
    case Elements::E2m1: return is_nvfp4 ? "nvfp4" : "mxfp4";
    case Elements::Int4: return "int4";
  }
  return "";
}

// What of a block lies in the matrix.
ScaleBlock cut(ScaleBlock block, const std::vector<int64_t>& shape) {
  return {std::min(block.rows, shape[shape.size() - 2]), std::min(block.cols, shape.back())};
}

// What a matrix is stored in.
struct Parts {
  std::string name;                      // of the matrix
  const TensorEntry* values = nullptr;   // never null
  const TensorEntry* scales = nullptr;   // null: there are none
  const TensorEntry* overall = nullptr;  // null: there is none
  const TensorEntry* shape = nullptr;    // of int4
  bool is_packed = false, in_blocks = false, overall_divides = false;
};

class TensorSource {
 public:
  TensorSource(const CheckpointFiles& files, const Quantization& quantization)
      : files_(files), quantization_(quantization) {}

  StoredTensor open(const std::string& name) const {
    if (!quantization_.refusal.empty()) throw Error(Errc::Unsupported, quantization_.refusal);
    const Parts parts = parts_of(name);
    const bool plain = is_plain(parts.values->dtype) && parts.values->name == name;
    if (!plain) return open_scaled(parts);
    for (const TensorEntry* beside : {parts.scales, parts.overall})
      SWITCHYARD_REQUIRE(beside == nullptr, Unsupported, "checkpoint: tensor ", name, ": is ",
                         parts.values->dtype, ", but ", beside->name,
                         " stands beside it. A plain tensor has no scale: remove the one that is "
                         "not of this checkpoint.");
    return StoredTensor::plain(*parts.values);
  }

 private:
  Parts parts_of(const std::string& name) const {
    const bool has_module = name.ends_with(kWeight);
    const std::string module = has_module ? name.substr(0, name.size() - kWeight.size()) : "";
    refuse_foreign(name, module);
    Parts p;
    p.name = name;
    const std::string packed = name + "_packed", blocks = name + kMxfp4Blocks;
    p.values = one_of({name, packed, blocks});
    if (p.values == nullptr) p.values = &files_.entry(name);  // throws, with the nearest name
    p.is_packed = p.values->name == packed;
    p.in_blocks = p.values->name == blocks;
    const std::string divisor = name + "_global_scale";
    p.scales = one_of({name + "_scale_inv", name + "_scale", has_module ? module + ".scale" : "",
                       p.in_blocks ? name + "_scales" : ""});
    p.overall = one_of({name + "_scale_2", divisor});
    p.overall_divides = p.overall != nullptr && p.overall->name == divisor;
    p.shape = one_of({name + "_shape"});
    return p;
  }
  // Null when there is none of them. Two would be two answers.
  const TensorEntry* one_of(std::initializer_list<std::string> names) const {
    const TensorEntry* found = nullptr;
    for (const std::string& name : names) {
      if (name.empty() || !files_.has(name)) continue;
      SWITCHYARD_REQUIRE(found == nullptr, Unsupported, "checkpoint: tensors ", found->name,
                         " and ", name, ": both are there, need one of them.");
      found = &files_.entry(name);
    }
    return found;
  }
  // Tensors that no form here has, each of which changes what the others mean.
  void refuse_foreign(const std::string& name, const std::string& module) const {
    constexpr std::array kOfModule = {".qweight", ".qzeros", ".g_idx",
                                      ".W_q",     ".SCB",    ".pre_quant_scale"};
    constexpr std::array kOfWeight = {"_zero_point", "_g_idx", ".absmax", ".quant_map"};
    const auto refuse_if_there = [&](const std::string& part) {
      SWITCHYARD_REQUIRE(!files_.has(part), Unsupported, "checkpoint: tensor ", part,
                         ": is of a quantised form that is not read (GPTQ, AWQ, bitsandbytes, HQQ, "
                         "zero points, reordered columns). Convert the checkpoint or use its bf16 "
                         "form.");
    };
    for (const char* part : kOfModule)
      if (!module.empty()) refuse_if_there(module + part);
    for (const char* part : kOfWeight) refuse_if_there(name + part);
  }
  // The scales decide which fp4 it is: e4m3 with one for the tensor, or exponents.
  StoredTensor open_scaled(const Parts& p) const {
    const std::string& dtype = p.values->dtype;
    if (p.scales == nullptr) refuse(p, "has no scale beside it");
    const bool is_fp4 = p.in_blocks || dtype == "U8" || (dtype == "I8" && !p.is_packed);
    const bool is_nvfp4 = is_fp4 && p.scales->dtype == "F8_E4M3";
    const std::string only_nvfp4 =
        p.overall == nullptr || is_nvfp4 ? "" : cat("only nvfp4 has ", p.overall->name);
    if (!is_fp4 && !only_nvfp4.empty()) refuse(p, only_nvfp4);
    if (!is_fp4 && dtype != (p.is_packed ? "I32" : "F8_E4M3"))
      refuse(p, "a dtype that is not read");
    const Elements elements = is_fp4        ? Elements::E2m1
                              : p.is_packed ? Elements::Int4
                                            : Elements::E4m3;
    const WeightForm form = form_of(p, elements, is_nvfp4);
    if (!only_nvfp4.empty()) refuse(p, only_nvfp4);
    if (p.in_blocks) return StoredTensor::mxfp4(*p.values, *p.scales);
    if (is_nvfp4 && p.overall == nullptr)
      refuse(p, "nvfp4 needs weight_scale_2 or weight_global_scale");
    const ScaleBits bits = is_nvfp4 ? ScaleBits::E4m3 : bits_of(*p.scales, form);
    if (form.only_powers_of_two && bits != ScaleBits::E8m0)
      refuse(p, cat(p.scales->name, " is ", p.scales->dtype, ", need F8_E8M0 or U8"));
    auto matrix = StoredTensor::scaled(elements, *p.values,
                                       {*p.scales, bits, form.block, p.overall, p.overall_divides});
    if (elements == Elements::Int4) check_shape_of(p, matrix);
    return matrix;
  }
  // weight_shape, where there is one, tells how many of the packed values count: all of them.
  void check_shape_of(const Parts& p, const StoredTensor& matrix) const {
    if (p.shape == nullptr) return;
    const auto expected = matrix.shape();
    const bool good = p.shape->dtype == "I64" &&
                      p.shape->shape == std::vector<int64_t>{static_cast<int64_t>(expected.size())};
    SWITCHYARD_REQUIRE(good, Unsupported, "checkpoint: tensor ", p.shape->name, ": is ",
                       p.shape->dtype, " ", shape_text(p.shape->shape), ", need I64 [",
                       expected.size(), "].");
    std::vector<int64_t> stated(expected.size());
    p.shape->read(std::as_writable_bytes(std::span(stated)));
    SWITCHYARD_REQUIRE(std::ranges::equal(stated, expected), BadFile, "checkpoint: tensor ",
                       p.shape->name, ": says ", shape_text(stated), ", ", p.values->name,
                       " holds ", shape_text(expected), ". The file is damaged.");
  }
  // The form that the config admits and whose scales have this shape.
  WeightForm form_of(const Parts& p, Elements elements, bool is_nvfp4) const {
    std::vector<WeightForm> of_kind;
    for (const WeightForm& f : quantization_.forms)
      if (f.elements == elements && f.is_nvfp4 == is_nvfp4) of_kind.push_back(f);
    if (of_kind.empty())
      refuse(p, cat("with ", p.scales->name, " of ", p.scales->dtype, " it is ",
                    kind_text(elements, is_nvfp4)));
    if (of_kind.size() == 1 || p.in_blocks) return of_kind.front();  // reading checks the shape
    std::vector<int64_t> shape = p.values->shape;
    if (shape.size() < 2) refuse(p, "quantised weights are matrices");
    shape.back() = checked_mul(shape.back(), values_per_element(elements), "checkpoint: row");
    std::erase_if(
        of_kind, [&](const WeightForm& f) { return !scales_fit(p.scales->shape, shape, f.block); });
    const std::string scales = cat(p.scales->name, " ", shape_text(p.scales->shape));
    if (of_kind.empty()) refuse(p, scales + " fits no form of it");
    for (const WeightForm& f : of_kind)
      if (cut(f.block, shape) != cut(of_kind.front().block, shape))
        refuse(p, scales + " fits several forms of it");
    return of_kind.front();
  }
  [[noreturn]] void refuse(const Parts& parts, const std::string& what) const {
    if (!quantization_.unread.empty()) throw Error(Errc::Unsupported, quantization_.unread);
    const std::string& method = quantization_.method;
    throw Error(Errc::Unsupported,
                cat("checkpoint: tensor ", parts.values->name, ": dtype=", parts.values->dtype, " ",
                    shape_text(parts.values->shape), ", ", what, "; ",
                    method.empty() ? "without quantization_config tensors may be "
                                   : cat("quantization_config: quant_method=", method, ", says "),
                    forms_text(quantization_.forms),
                    ". docs/guide/checkpoints.md lists the forms that are read."));
  }

  const CheckpointFiles& files_;
  const Quantization& quantization_;
};

}  // namespace

StoredTensor open_tensor(const CheckpointFiles& files, const Quantization& quantization,
                         const std::string& name) {
  return TensorSource(files, quantization).open(name);
}

}  // namespace switchyard
