// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/torch_op.cc -- switchyard::fused_experts as a kernel of torch's dispatcher, without Python.
//
// It takes the plain call: dense tensors of the types that C++ reads, no gradients. Whatever else a call
// is, and a call that failed, goes to the operation of Python, which has the same schema: there are its
// errors. Neither needs the interpreter's lock, which torch releases before a kernel.
#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "arrays.h"
#include "bind.h"
#include "fused_call.h"
#include "host.h"
#include "scratch.h"
#include "torch_shim.h"

// What torch calls an error of Python on its way through C++ (torch/csrc/Exceptions.h). It is caught by
// its name, outside of any namespace, and its members are read by their places.
struct python_error : public std::exception {
  // Takes the reference; the interpreter's lock is held.
  explicit python_error(PyObject* error)
      : type(nb::handle(error).type().inc_ref().ptr()),
        value(error),
        traceback(PyException_GetTraceback(error)) {}
  python_error(const python_error&) = delete;
  python_error(python_error&& other) noexcept
      : type(std::exchange(other.type, nullptr)),
        value(std::exchange(other.value, nullptr)),
        traceback(std::exchange(other.traceback, nullptr)),
        message(std::move(other.message)) {}
  ~python_error() override {
    if (type == nullptr && value == nullptr && traceback == nullptr) return;
    const nb::gil_scoped_acquire locked;
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
  }
  const char* what() const noexcept override { return message.c_str(); }

  PyObject* type;
  PyObject* value;
  PyObject* traceback;
  std::string message = "an error of Python";
};

namespace switchyard::python {
namespace {

using torch_shim::TensorHandle;
using torch_shim::Value;

torch_shim::Functions torch_;

template <class T>
T as(Value value) {
  static_assert(sizeof(T) <= sizeof(Value) && std::endian::native == std::endian::little);
  T result;
  std::memcpy(&result, &value, sizeof(T));
  return result;
}

bool good(int32_t status) {
  return status == 0;
}

// ---- tensors

struct Delete {
  void operator()(torch_shim::TensorOpaque* tensor) const { torch_.delete_tensor(tensor); }
};
using OwnHandle = std::unique_ptr<torch_shim::TensorOpaque, Delete>;

std::optional<DType> dtype_of(int32_t code) {
  if (code == torch_.bf16) return DType::Bf16;
  if (code == torch_.f8_e4m3) return DType::F8E4m3;
  if (code == torch_.f32) return DType::F32;
  if (code == torch_.i32) return DType::I32;
  if (code == torch_.i64) return DType::I64;
  return {};
}

std::optional<DeviceIndex> device_of(TensorHandle tensor) {
  int32_t type = 0, index = 0;
  if (!good(torch_.get_device_type(tensor, &type))) return {};
  if (type == torch_.cpu) return DeviceIndex{};
  if (type != torch_.cuda || !good(torch_.get_device_index(tensor, &index))) return {};
  return DeviceIndex{DeviceKind::Cuda, index};
}

// A dense tensor with memory; else none.
std::optional<ArrayView> view_of(TensorHandle tensor) {
  int64_t rank = 0, *sizes = nullptr, *strides = nullptr;
  int32_t code = 0;
  ArrayView view;
  view.present = true;
  if (!good(torch_.get_dim(tensor, &rank)) || rank < 1 || rank > Shape::kMaxRank) return {};
  if (!good(torch_.get_sizes(tensor, &sizes)) || !good(torch_.get_strides(tensor, &strides)) ||
      !good(torch_.get_dtype(tensor, &code)) || !good(torch_.get_data_ptr(tensor, &view.data)))
    return {};
  const std::optional<DType> dtype = dtype_of(code);
  const std::optional<DeviceIndex> device = device_of(tensor);
  if (!dtype || !device) return {};
  view.dtype = *dtype;
  view.device = *device;
  view.rank = static_cast<int>(rank);
  std::copy_n(sizes, rank, view.shape.begin());
  std::copy_n(strides, rank, view.strides.begin());
  if (view.has_gaps() || (view.data == nullptr && view.extent().count() > 0)) return {};
  return view;
}

OwnHandle make_tensor(Shape shape, int32_t dtype, DeviceIndex device) {
  int64_t sizes[Shape::kMaxRank], strides[Shape::kMaxRank], dense = 1;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    sizes[d] = shape[d];
    strides[d] = dense;
    dense *= std::max<int64_t>(shape[d], 1);
  }
  TensorHandle made = nullptr;
  const int32_t type = device.kind == DeviceKind::Cpu ? torch_.cpu : torch_.cuda;
  if (!good(torch_.empty_strided(shape.rank(), sizes, strides, dtype, type, device.index, &made)))
    throw std::bad_alloc();
  return OwnHandle(made);
}

// ---- the arguments of a call

enum class Form { Returns, Out };  // fused_experts, fused_experts_out

// Places in the schema (switchyard/torch.py).
enum Place { kHidden, kW1, kW2, kIds, kWeights, kOrder, kOut };
// Counted from the first of the options, which follow `order` or `out`.
enum Option {
  kActivation,
  kAlpha,
  kLimit,
  kB1,
  kB2,
  kExpertMap,
  kNoExpert,
  kMaxTokens,
  kW1Scales,
  kW2Scales,
  kW1Block,
  kW2Block
};

// Values that torch has handed over.
class Arguments {
 public:
  Arguments(Value* stack, Form form)
      : stack_(stack), options_(stack + (form == Form::Out ? kOut + 1 : kOut)), form_(form) {}

  TensorHandle tensor(Place place) const { return as<TensorHandle>(stack_[place]); }
  std::string_view text(Place place) const { return text_of(stack_[place]); }
  std::string_view text(Option option) const { return text_of(options_[option]); }
  template <class T>
  T number(Option option) const {
    return as<T>(options_[option]);
  }
  // Null for None.
  const Value* optional(Option option) const { return as<const Value*>(options_[option]); }

  void free() const {
    for (const int place : {kHidden, kW1, kW2, kIds, kWeights}) free_tensor(stack_[place]);
    if (form_ == Form::Out) free_tensor(stack_[kOut]);
    free_text(stack_[kOrder]);
    free_text(options_[kActivation]);
    for (const int option : {kB1, kB2, kExpertMap, kW1Scales, kW2Scales})
      free_optional(options_[option], free_tensor);
    for (const int option : {kW1Block, kW2Block}) free_optional(options_[option], free_list);
  }

 private:
  static std::string_view text_of(Value value) {
    const char* data = nullptr;
    size_t length = 0;
    const auto handle = as<torch_shim::StringHandle>(value);
    if (!good(torch_.string_c_str(handle, &data)) || !good(torch_.string_length(handle, &length)))
      return {};
    return {data, length};
  }
  static void free_tensor(Value value) { torch_.delete_tensor(as<TensorHandle>(value)); }
  static void free_text(Value value) { torch_.delete_string(as<torch_shim::StringHandle>(value)); }
  static void free_list(Value value) { torch_.delete_list(as<torch_shim::ListHandle>(value)); }
  static void free_optional(Value value, void (*free_value)(Value)) {
    auto* const held = as<Value*>(value);
    if (held == nullptr) return;
    free_value(*held);
    torch_.delete_value != nullptr ? void(torch_.delete_value(held)) : delete held;
  }

  Value* stack_;
  Value* options_;
  Form form_;
};

// Reads the tensors of a call, which are all on one device; remembers that one was not plain.
class Reader {
 public:
  Reader(const Arguments& arguments, DeviceIndex device) : arguments_(arguments), device_(device) {}

  Tensor operator()(Place place) { return view(arguments_.tensor(place)); }
  Tensor operator()(Option option) {
    const Value* const value = arguments_.optional(option);
    return value != nullptr ? view(as<TensorHandle>(*value)) : Tensor();
  }
  bool plain() const { return plain_; }

 private:
  Tensor view(TensorHandle tensor) {
    const std::optional<ArrayView> seen = view_of(tensor);
    plain_ &= seen.has_value() && seen->device == device_;
    return plain_ ? tensor_of(*seen) : Tensor();
  }

  const Arguments& arguments_;
  DeviceIndex device_;
  bool plain_ = true;
};

std::optional<GateUpOrder> order_of(std::string_view name) {
  if (name == "gate_up") return GateUpOrder::GateUp;
  if (name == "up_gate") return GateUpOrder::UpGate;
  return {};
}

// 128 x 128 for None; none for what is no pair.
std::optional<ScaleBlock> block_of(const Value* value) {
  if (value == nullptr) return ScaleBlock{};
  const auto list = as<torch_shim::ListHandle>(*value);
  size_t size = 0;
  Value rows = 0, cols = 0;
  if (!good(torch_.list_size(list, &size)) || size != 2 ||
      !good(torch_.list_get_item(list, 0, &rows)) || !good(torch_.list_get_item(list, 1, &cols)))
    return {};
  const auto extent = [](Value n) {
    return as<int64_t>(n) == -1 ? ScaleBlock::kWhole : as<int64_t>(n);
  };
  return ScaleBlock{extent(rows), extent(cols)};
}

FusedOptions options_of(const Arguments& arguments) {
  Activation activation = activation_from_name(arguments.text(kActivation));
  activation.alpha = static_cast<float>(arguments.number<double>(kAlpha));
  activation.limit = static_cast<float>(arguments.number<double>(kLimit));
  return {activation,
          arguments.number<bool>(kNoExpert) ? OutOfRangeIds::NoExpert : OutOfRangeIds::Error,
          arguments.number<int64_t>(kMaxTokens)};
}

// What models give in bf16, as most do, C++ takes in f32; none where torch fails.
OwnHandle in_f32(TensorHandle tensor) {
  TensorHandle lent = nullptr;  // the dispatcher frees what it is handed
  if (!good(torch_.new_handle(tensor, &lent))) return {};
  Value stack[] = {reinterpret_cast<uintptr_t>(lent), static_cast<Value>(torch_.f32), 0, 0, 0};
  if (!good(torch_.call_dispatcher("aten::to", "dtype", stack, torch_shim::kAbiVersion))) return {};
  return OwnHandle(as<TensorHandle>(stack[0]));
}

// The routing weights of `call` in f32; `made` holds them where they were not. False: neither.
bool convert_weights(const Arguments& arguments, ConstTensor& weights, OwnHandle& made) {
  if (weights.dtype == DType::F32) return true;
  if (weights.dtype != DType::Bf16) return false;
  made = in_f32(arguments.tensor(kWeights));
  const std::optional<ArrayView> seen = made ? view_of(made.get()) : std::nullopt;
  if (seen) weights = tensor_of(*seen);
  return seen.has_value();
}

// Everything but output, stream and workspace; false for a call that is not plain.
bool read_call(const Arguments& arguments, DeviceIndex device, FusedCall& call) {
  const std::optional<GateUpOrder> order = order_of(arguments.text(kOrder));
  const std::optional<ScaleBlock> w1_block = block_of(arguments.optional(kW1Block));
  const std::optional<ScaleBlock> w2_block = block_of(arguments.optional(kW2Block));
  if (!order || !w1_block || !w2_block) return false;
  Reader read(arguments, device);
  call.args.hidden = read(kHidden);
  call.args.ids = read(kIds);
  call.args.weights = read(kWeights);
  call.args.expert_map = read(kExpertMap);
  call.weights.experts = {.order = *order,
                          .w1 = read(kW1),
                          .w2 = read(kW2),
                          .b1 = read(kB1),
                          .b2 = read(kB2),
                          .w1_scales = scales_of(read(kW1Scales), *w1_block),
                          .w2_scales = scales_of(read(kW2Scales), *w2_block)};
  if (!read.plain()) return false;
  complete(call, options_of(arguments), device.kind);
  return true;
}

// ---- the kernels

// A tensor that has the scratch of a call on CUDA; none on a CPU.
OwnHandle lend_scratch(FusedCall& call, DeviceIndex device) {
  const size_t bytes = workspace_bytes(call);
  if (device.kind == DeviceKind::Cpu) {
    call.args.workspace = scratch_of_thread(bytes);
    return {};
  }
  const auto elements = static_cast<int64_t>(bytes_with_alignment(bytes) / sizeof(int32_t));
  OwnHandle memory = make_tensor({elements}, torch_.i32, device);
  void* data = nullptr;
  if (!good(torch_.get_data_ptr(memory.get(), &data))) throw std::bad_alloc();
  call.args.workspace = aligned_part(data, bytes);
  return memory;
}

bool find_stream(DeviceIndex device, ForwardArgs& args) {
  if (device.kind == DeviceKind::Cpu) return true;
  void* stream = nullptr;
  if (!good(torch_.current_cuda_stream(device.index, &stream))) return false;
  args.stream = static_cast<CUstream_st*>(stream);
  return true;
}

// The output of a plain call, which has run; none, with nothing changed, for another.
std::optional<OwnHandle> run_plain(const Arguments& arguments, Form form) {
  check_not_forked("fused_experts");
  const std::optional<DeviceIndex> device = device_of(arguments.tensor(kHidden));
  FusedCall call;
  if (!device || !read_call(arguments, *device, call)) return {};
  OwnHandle made, weights;
  if (!convert_weights(arguments, call.args.weights, weights)) return {};
  if (form == Form::Returns) made = make_tensor(call.args.hidden.shape, torch_.bf16, *device);
  const std::optional<ArrayView> output =
      view_of(form == Form::Returns ? made.get() : arguments.tensor(kOut));
  if (!output || output->device != *device || !find_stream(*device, call.args)) return {};
  call.args.output = tensor_of(*output);
  const OwnHandle scratch = lend_scratch(call, *device);
  run(call);
  return made;
}

// What Python's operation raised in this thread, until torch has it.
thread_local PyObject* kept_error = nullptr;

void throw_kept_error() {
  const nb::gil_scoped_acquire locked;
  throw python_error(std::exchange(kept_error, nullptr));
}

void run_in_python(Value* stack, Form form) {
  const char* const name = form == Form::Out ? "switchyard::fused_experts_out_python"
                                             : "switchyard::fused_experts_python";
  const bool called = good(torch_.call_dispatcher(name, "", stack, torch_shim::kAbiVersion));
  if (kept_error != nullptr) {
    if (called && form == Form::Returns) torch_.delete_tensor(as<TensorHandle>(stack[0]));
    throw_kept_error();
  }
  if (!called) throw std::runtime_error(std::string(name) + " failed, as the log of torch says");
}

template <Form form>
void kernel(Value* stack, uint64_t, uint64_t) {
  std::optional<OwnHandle> output;
  const Arguments arguments(stack, form);
  // Whether a tensor requires grad is Python's to find out, and what an error says.
  try {
    if (!torch_.grad_mode_is_enabled()) output = run_plain(arguments, form);
  } catch (const std::exception&) {
    output.reset();
  }
  if (!output) return run_in_python(stack, form);
  arguments.free();
  if (form == Form::Returns) stack[0] = reinterpret_cast<uintptr_t>(output->release());
}

void probe_kernel(Value*, uint64_t, uint64_t) {
  throw_kept_error();
}

// A library that is freed takes its kernels with it.
void implement(const char* key, const char* name, torch_shim::Kernel kernel) {
  torch_shim::LibraryHandle library = nullptr;
  if (!good(torch_.library_init_impl("switchyard", key, __FILE__, __LINE__, &library)) ||
      !good(torch_.library_impl(library, name, kernel, torch_shim::kAbiVersion)))
    throw std::runtime_error(std::string("torch takes no kernel of ") + name);
}

}  // namespace

void bind_torch_op(nb::module_& m) {
  m.def(
      "_load_torch", [] { return torch_shim::load(torch_); },
      "Finds libtorch's stable interface. Returns '', or the name of what is missing.");
  m.def(
      "_implement_torch_probe",
      [] { implement("CompositeExplicitAutograd", "raise_kept_error", &probe_kernel); },
      "Makes switchyard::raise_kept_error throw what _keep_torch_error was given.");
  m.def(
      "_implement_torch_ops",
      [] {
        nb::list keys;
        for (const char* key : {"CPU", "CUDA"}) {
          if (std::string_view(key) == "CUDA" && torch_.current_cuda_stream == nullptr) continue;
          implement(key, "fused_experts", &kernel<Form::Returns>);
          implement(key, "fused_experts_out", &kernel<Form::Out>);
          keys.append(key);
        }
        return keys;
      },
      nb::sig("def _implement_torch_ops() -> list[str]"),
      "Kernels of switchyard::fused_experts and fused_experts_out. Returns their dispatch keys.");
  m.def(
      "_keep_torch_error",
      [](nb::handle error) { Py_XDECREF(std::exchange(kept_error, error.inc_ref().ptr())); },
      nb::sig("def _keep_torch_error(error: BaseException) -> None"),
      "What the kernel that called this operation in this thread throws.");
}

}  // namespace switchyard::python
