// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/cublas_lt_rate.cc -- the rate of cuBLASLt with numbers of a byte, which cuBLAS itself does
// not multiply.
#include <cublasLt.h>

#include <algorithm>
#include <memory>

#include "base/shared_library.h"
#include "cuda/cublas_library.h"
#include "cuda/measure.h"

#define SWITCHYARD_TEXT_OF(x) #x
#define SWITCHYARD_TEXT(x) SWITCHYARD_TEXT_OF(x)

namespace switchyard::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{64} << 20;

struct CublasLt {
  SharedLibrary file{{"libcublasLt.so." SWITCHYARD_TEXT(CUBLAS_VER_MAJOR),
                      "../nvidia/cu" SWITCHYARD_TEXT(CUBLAS_VER_MAJOR) "/lib",
                      SWITCHYARD_CUDA_FOLDER}};
  decltype(&::cublasLtCreate) create;
  decltype(&::cublasLtDestroy) destroy;
  decltype(&::cublasLtMatmulDescCreate) create_product;
  decltype(&::cublasLtMatmulDescDestroy) destroy_product;
  decltype(&::cublasLtMatmulDescSetAttribute) set_of_product;
  decltype(&::cublasLtMatrixLayoutCreate) create_layout;
  decltype(&::cublasLtMatrixLayoutDestroy) destroy_layout;
  decltype(&::cublasLtMatmulPreferenceCreate) create_preference;
  decltype(&::cublasLtMatmulPreferenceDestroy) destroy_preference;
  decltype(&::cublasLtMatmulPreferenceSetAttribute) set_of_preference;
  decltype(&::cublasLtMatmulAlgoGetHeuristic) find;
  decltype(&::cublasLtMatmul) multiply;

  CublasLt() {
    file.find("cublasLtCreate", create);
    file.find("cublasLtDestroy", destroy);
    file.find("cublasLtMatmulDescCreate", create_product);
    file.find("cublasLtMatmulDescDestroy", destroy_product);
    file.find("cublasLtMatmulDescSetAttribute", set_of_product);
    file.find("cublasLtMatrixLayoutCreate", create_layout);
    file.find("cublasLtMatrixLayoutDestroy", destroy_layout);
    file.find("cublasLtMatmulPreferenceCreate", create_preference);
    file.find("cublasLtMatmulPreferenceDestroy", destroy_preference);
    file.find("cublasLtMatmulPreferenceSetAttribute", set_of_preference);
    file.find("cublasLtMatmulAlgoGetHeuristic", find);
    file.find("cublasLtMatmul", multiply);
  }
};

// c = a^T * b, all n x n: what is kept of a product while it is timed.
class F8Product {
 public:
  F8Product(const CublasLt& lt, int n, Backend& backend)
      : lt_(lt), workspace_(allocate(backend, kWorkspaceBytes)) {
    const auto side = static_cast<uint64_t>(n);
    good_ = is_good(lt.create(&handle_)) &&
            is_good(lt.create_product(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
            set(lt.set_of_product, product_, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T) &&
            set(lt.set_of_product, product_, CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1}) &&
            is_good(lt.create_layout(&codes_, CUDA_R_8F_E4M3, side, side, n)) &&
            is_good(lt.create_layout(&sums_, CUDA_R_16BF, side, side, n)) &&
            is_good(lt.create_preference(&preference_)) &&
            set(lt.set_of_preference, preference_, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                kWorkspaceBytes) &&
            finds_algorithm();
  }
  ~F8Product() {
    if (preference_ != nullptr) (void)lt_.destroy_preference(preference_);
    if (sums_ != nullptr) (void)lt_.destroy_layout(sums_);
    if (codes_ != nullptr) (void)lt_.destroy_layout(codes_);
    if (product_ != nullptr) (void)lt_.destroy_product(product_);
    if (handle_ != nullptr) (void)lt_.destroy(handle_);
  }
  F8Product(const F8Product&) = delete;
  F8Product& operator=(const F8Product&) = delete;

  bool good() const { return good_; }
  bool enqueue(void* c, const void* a, const void* b, CUstream_st* stream) const {
    const float one = 1, zero = 0;
    return is_good(lt_.multiply(handle_, product_, &one, a, codes_, b, codes_, &zero, c, sums_, c,
                                sums_, &chosen_.algo, workspace_.get(), kWorkspaceBytes, stream));
  }

 private:
  static bool is_good(cublasStatus_t status) { return status == CUBLAS_STATUS_SUCCESS; }
  template <class Set, class Of, class Name, class Value>
  static bool set(Set function, Of of, Name name, Value value) {
    return is_good(function(of, name, &value, sizeof value));
  }
  bool finds_algorithm() {
    int found = 0;
    return is_good(lt_.find(handle_, product_, codes_, codes_, sums_, sums_, preference_, 1,
                            &chosen_, &found)) &&
           found > 0;
  }

  const CublasLt& lt_;
  std::shared_ptr<void> workspace_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t codes_ = nullptr, sums_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  cublasLtMatmulHeuristicResult_t chosen_{};
  bool good_ = false;
};

}  // namespace

double cublas_lt_f8_tflops(void* c, const void* a, const void* b, int n, int repeat,
                           Backend& backend, Stopwatch& watch) {
  static const CublasLt lt;
  if (!lt.file.is_open()) return 0;
  const F8Product product(lt, n, backend);
  // Once before anything is captured: it loads its kernel.
  if (!product.good() || !product.enqueue(c, a, b, watch.stream())) return 0;
  auto us = watch.replay([&](CUstream_st* stream) { (void)product.enqueue(c, a, b, stream); },
                         repeat, Cache::Warm);
  std::sort(us.begin(), us.end());
  const double side = n;
  return 2 * side * side * side / us[us.size() / 2] * 1e-6;
}

}  // namespace switchyard::cuda
