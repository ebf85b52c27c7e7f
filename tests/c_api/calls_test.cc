// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/c_api/calls_test.cc -- every function with every null and with garbage; structs of other sizes; texts of threads.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "c_api/c_layer.h"
#include "switchyard/version.h"
#include "testing/small_layer.h"

namespace switchyard {
namespace {

using namespace testing;

int no_gather(void*, void*, const void*, size_t) {
  return 7;
}

template <class T>
T with_defaults(swy_status (*init)(T*, size_t)) {
  T value;
  good(init(&value, sizeof value));
  return value;
}

// Good handles and good structs, to be broken one at a time.
class CCalls : public ::testing::Test {
 protected:
  CCalls() {
    memory = made<CMemory>(
        [&](swy_memory** out) { return swy_memory_create(context.get(), 256, out, &address); });
    tensor = swy_matrix(address, 2, 4, SWY_F32, SWY_CPU);
    group =
        made<CGroup>([&](swy_group** out) { return swy_group_create_threads(1, nullptr, out); });
    doomed =
        made<CGroup>([&](swy_group** out) { return swy_group_create_threads(1, nullptr, out); });
    weights = c_random_weights(context.get(), small_layer(), 1);
    good(swy_weights_view(weights.get(), &views));
    shared = made<CSharedWorkspace>([&](swy_shared_workspace** out) {
      return swy_shared_workspace_create(context.get(), 64, out);
    });
    layer = c_layer(context.get(), small_layer(), weights.get(), c_options(64));
    attention = made<CAttention>(
        [&](swy_attention** out) { return swy_attention_create(context.get(), 2, out); });
    checkpoint = made<CCheckpoint>(
        [&](swy_checkpoint** out) { return swy_checkpoint_create(folder.c_str(), nullptr, out); });
    args.workspace = workspace.lent;
  }
  ~CCalls() override { swy_fused_experts_forget(); }

  // Refused with a text that begins with the function's name, and all places for results as they
  // were; or, if `may_succeed`, done.
  void expect_refused(const std::string& function, swy_status status, bool may_succeed = false) {
    const std::string text = swy_last_error();
    if (may_succeed && status == SWY_OK) return forget_handles();
    EXPECT_NE(status, SWY_OK) << function;
    EXPECT_FALSE(text.empty()) << function;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    EXPECT_TRUE(results == Results()) << function << ": " << text;
  }
  void expect_invalid(const std::string& function, swy_status status) {
    expect_refused(function, status);
    EXPECT_EQ(status, SWY_INVALID_ARGUMENT) << function << ": " << swy_last_error();
    EXPECT_TRUE(std::string(swy_last_error()).starts_with(function + ": ")) << swy_last_error();
  }

  void forget_handles() {
    swy_context_destroy(results.context);
    swy_memory_destroy(results.memory);
    swy_group_destroy(results.group);
    swy_weights_destroy(results.weights);
    swy_shared_workspace_destroy(results.shared);
    swy_layer_destroy(results.layer);
    swy_attention_destroy(results.attention);
    swy_checkpoint_destroy(results.checkpoint);
    results = {};
  }

  // Where calls leave their results.
  struct Results {
    swy_context* context = nullptr;
    swy_memory* memory = nullptr;
    swy_group* group = nullptr;
    swy_weights* weights = nullptr;
    swy_shared_workspace* shared = nullptr;
    swy_layer* layer = nullptr;
    swy_attention* attention = nullptr;
    swy_checkpoint* checkpoint = nullptr;
    void* data = nullptr;
    int32_t rank = -3, size = -3;
    int64_t count = -3;
    size_t bytes = 0;
    bool operator==(const Results&) const = default;
  } results;

  const std::string folder = SWITCHYARD_SOURCE_DIR "/data/tiny-code-moe";
  CContext context = c_context(1);
  void* address = nullptr;
  CMemory memory;
  swy_tensor tensor{};
  CGroup group, doomed;
  CWeights weights;
  CSharedWorkspace shared;
  CLayer layer;
  CAttention attention;
  CCheckpoint checkpoint;
  SmallCall call{5};
  swy_context_options context_options = with_defaults(swy_context_options_init);
  swy_group_options group_options = with_defaults(swy_group_options_init);
  swy_config config = c_config(small_layer());
  swy_options options = c_options(64);
  swy_weight_views views = with_defaults(swy_weight_views_init);
  swy_forward_args args = c_args(call.with_ids());
  const CWorkspace workspace{context.get(), config, options};
  swy_report report = with_defaults(swy_report_init);
  swy_conv_decode conv = with_defaults(swy_conv_decode_init);
  swy_conv_prefill_states prefill = with_defaults(swy_conv_prefill_states_init);
  swy_delta_rule_decode delta = with_defaults(swy_delta_rule_decode_init);
  std::vector<char> text = std::vector<char>(1 << 16);
  int32_t words[2] = {-3, -3}, slots[2] = {0, 1};
  int64_t layers[4] = {-3, -3, -3, -3};
  float host[8] = {};
  // Of calls that write a struct.
  struct Scratch {
    swy_config config = with_defaults(swy_config_init);
    swy_options options = with_defaults(swy_options_init);
    swy_weight_views views = with_defaults(swy_weight_views_init);
    swy_forward_args args = with_defaults(swy_forward_args_init);
    swy_tensor rows{};
    size_t bytes = 0;
  } scratch;

  // f(name, function, which of its arguments may be null, good arguments), for every one with a status.
  template <class F>
  void for_each_function(F&& f);
};

using Nulls = std::set<size_t>;
#define NAMED(function) #function, function

template <class F>
void CCalls::for_each_function(F&& f) {
  Results& r = results;
  swy_context* const c = context.get();
  f(NAMED(swy_context_options_init), Nulls{}, &context_options, sizeof context_options);
  f(NAMED(swy_group_options_init), Nulls{}, &group_options, sizeof group_options);
  f(NAMED(swy_config_init), Nulls{}, &scratch.config, sizeof config);
  f(NAMED(swy_options_init), Nulls{}, &scratch.options, sizeof options);
  f(NAMED(swy_weight_views_init), Nulls{}, &scratch.views, sizeof views);
  f(NAMED(swy_forward_args_init), Nulls{}, &scratch.args, sizeof args);
  f(NAMED(swy_report_init), Nulls{}, &report, sizeof report);
  f(NAMED(swy_conv_decode_init), Nulls{}, &conv, sizeof conv);
  f(NAMED(swy_conv_prefill_states_init), Nulls{}, &prefill, sizeof prefill);
  f(NAMED(swy_delta_rule_decode_init), Nulls{}, &delta, sizeof delta);

  f(NAMED(swy_context_create), Nulls{1}, SWY_VERSION, &context_options, &r.context);
  f(NAMED(swy_memory_create), Nulls{}, c, 8, &r.memory, &r.data);
  f(NAMED(swy_copy_to_device), Nulls{3}, c, &tensor, host, nullptr);
  f(NAMED(swy_copy_to_host), Nulls{3}, c, host, &tensor, nullptr);
  f(NAMED(swy_group_create), Nulls{3, 4}, 0, 1, no_gather, nullptr, &group_options, &r.group);
  f(NAMED(swy_group_create_from_env), Nulls{0}, &group_options, &r.group);
  f(NAMED(swy_group_create_from_mpi), Nulls{0}, &group_options, &r.group);
  f(NAMED(swy_group_create_threads), Nulls{1}, 1, &group_options, &r.group);
  f(NAMED(swy_group_place), Nulls{}, group.get(), &r.rank, &r.size);
  f(NAMED(swy_group_meet), Nulls{}, group.get());
  f(NAMED(swy_checkpoint_create), Nulls{1}, folder.c_str(), nullptr, &r.checkpoint);
  f(NAMED(swy_checkpoint_layers), Nulls{}, checkpoint.get(), layers, 4, &r.count);
  f(NAMED(swy_checkpoint_config), Nulls{}, checkpoint.get(), 1, &scratch.config);
  f(NAMED(swy_weights_create), Nulls{1, 2}, &views, nullptr, nullptr, &r.weights);
  f(NAMED(swy_weights_create_copy), Nulls{}, c, &config, 1, &views, &r.weights);
  f(NAMED(swy_weights_create_from_checkpoint), Nulls{}, c, checkpoint.get(), 1, 1, 0, &r.weights);
  f(NAMED(swy_weights_create_native), Nulls{}, c, checkpoint.get(), 1, 1, 0, &r.weights);
  f(NAMED(swy_weights_create_random), Nulls{}, c, &config, 1, 0, 3, &r.weights);
  f(NAMED(swy_weights_create_arranged), Nulls{}, c, &config, 1, weights.get(), &r.weights);
  f(NAMED(swy_weights_arranged_bytes), Nulls{}, weights.get(), &r.count);
  f(NAMED(swy_weights_view), Nulls{}, weights.get(), &scratch.views);
  f(NAMED(swy_shared_workspace_create), Nulls{}, c, 8, &r.shared);
  f(NAMED(swy_workspace_bytes), Nulls{3}, c, &config, 1, &options, &r.bytes);
  f(NAMED(swy_layer_create), Nulls{3, 4}, c, &config, weights.get(), group.get(), &options,
    &r.layer);
  f(NAMED(swy_layer_forward), Nulls{2}, layer.get(), &args, &report);
  f(NAMED(swy_fused_experts), Nulls{3, 5}, c, &config, weights.get(), &options, &args, &report);
  f(NAMED(swy_fused_experts_wait), Nulls{0}, nullptr);
  f(NAMED(swy_fused_experts_forget), Nulls{});
  f(NAMED(swy_layer_wait), Nulls{1}, layer.get(), nullptr);
  f(NAMED(swy_layer_grow), Nulls{2}, layer.get(), 64, nullptr);
  f(NAMED(swy_layer_set_placement), Nulls{3}, layer.get(), slots, 2, nullptr);
  f(NAMED(swy_layer_expert_loads), Nulls{}, layer.get(), &scratch.rows);
  f(NAMED(swy_layer_set_active_ranks), Nulls{3}, layer.get(), slots, 1, nullptr);
  f(NAMED(swy_layer_missing_ranks), Nulls{1}, layer.get(), nullptr, words, 2, &r.rank);
  f(NAMED(swy_layer_dropped_routes), Nulls{}, layer.get(), &scratch.rows);
  f(NAMED(swy_layer_input_rows), Nulls{}, layer.get(), &scratch.rows);
  f(NAMED(swy_layer_explain), Nulls{3}, layer.get(), text.data(), text.size(), &scratch.bytes);
  f(NAMED(swy_attention_create), Nulls{}, c, 2, &r.attention);
  f(NAMED(swy_attention_conv_decode), Nulls{}, attention.get(), &conv);
  f(NAMED(swy_attention_conv_prefill_states), Nulls{}, attention.get(), &prefill);
  f(NAMED(swy_attention_delta_rule_decode), Nulls{}, attention.get(), &delta);
  f(NAMED(swy_attention_wait), Nulls{1}, attention.get(), nullptr);
  f(NAMED(swy_attention_wait_words), Nulls{1}, attention.get(), nullptr, words, 2);
  f(NAMED(swy_group_abort), Nulls{}, doomed.get(), "enough");
}

template <class T>
concept IsHandle = std::is_class_v<T> && !requires {
  sizeof(T);
};
// A struct that grows.
template <class T>
concept IsVersioned = requires(T t) {
  t.size;
};

// f(index, argument) for each argument of a call.
template <class... P, class F>
void for_each_argument(std::tuple<P...>& arguments, F&& f) {
  const auto each = [&]<size_t... I>(std::index_sequence<I...>) {
    (f(I, std::get<I>(arguments)), ...);
  };
  each(std::index_sequence_for<P...>());
}

bool needs_mpi(const std::string& name) {
  return name == "swy_group_create_from_mpi";  // would begin a job
}

TEST_F(CCalls, GoodArgumentsAreGood) {
  const std::set<std::string> without_good_ones{
      "swy_group_create",
      "swy_group_create_from_env",
      "swy_attention_conv_decode",
      "swy_attention_conv_prefill_states",
      "swy_attention_delta_rule_decode",
      "swy_layer_set_placement",      // of a layer without slots
      "swy_layer_set_active_ranks"};  // of one rank
  for_each_function([&](const std::string& name, auto function, const Nulls&, auto... arguments) {
    if (needs_mpi(name)) return;
    const swy_status status = function(arguments...);
    EXPECT_EQ(status == SWY_OK, without_good_ones.count(name) == 0)
        << name << ": " << swy_last_error();
    forget_handles();
  });
}

TEST_F(CCalls, EveryFunctionIsCalled) {
  std::set<std::string> known{"swy_version",           "swy_version_string",
                              "swy_status_name",       "swy_last_error",
                              "swy_context_destroy",   "swy_memory_destroy",
                              "swy_group_destroy",     "swy_weights_destroy",
                              "swy_layer_destroy",     "swy_shared_workspace_destroy",
                              "swy_attention_destroy", "swy_checkpoint_destroy"};
  for_each_function([&](const std::string& name, auto&&...) { known.insert(name); });
  std::set<std::string> exported;
  std::ifstream file(SWITCHYARD_SOURCE_DIR "/scripts/c_symbols.txt");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("swy_")) exported.insert(line.substr(0, line.find('@')));
  EXPECT_EQ(known, exported);
}

// function(arguments...) with the parameters' own types.
template <class... P, class... Given>
std::tuple<P...> arguments_for(swy_status (*)(P...), Given... given) {
  return std::tuple<P...>(given...);
}

TEST_F(CCalls, EveryNullIsRefusedByName) {
  for_each_function([&](const std::string& name, auto function, const Nulls& may, auto... given) {
    auto arguments = arguments_for(function, given...);
    for_each_argument(arguments, [&](size_t index, auto& argument) {
      if constexpr (std::is_pointer_v<std::remove_reference_t<decltype(argument)>>) {
        if (may.count(index) > 0) return;
        const auto kept = std::exchange(argument, nullptr);
        expect_invalid(name, std::apply(function, arguments));
        argument = kept;
      }
    });
  });
}

TEST_F(CCalls, HandlesOfAnotherKindAreRefusedAndNotFreed) {
  for_each_function([&](const std::string& name, auto function, const Nulls&, auto... given) {
    auto arguments = arguments_for(function, given...);
    for_each_argument(arguments, [&](size_t, auto& argument) {
      using Argument = std::remove_reference_t<decltype(argument)>;
      if constexpr (std::is_pointer_v<Argument>)
        if constexpr (IsHandle<std::remove_const_t<std::remove_pointer_t<Argument>>>) {
          void* other = context.get();
          if (static_cast<const void*>(argument) == other) other = shared.get();
          const auto kept = std::exchange(argument, static_cast<Argument>(other));
          expect_invalid(name, std::apply(function, arguments));
          argument = kept;
        }
    });
  });
  void* other = context.get();
  swy_layer_destroy(static_cast<swy_layer*>(other));
  swy_group_destroy(static_cast<swy_group*>(other));
  forget_handles();
  good(swy_memory_create(context.get(), 8, &results.memory, &results.data));
  forget_handles();
}

TEST_F(CCalls, SizesThatNoHeaderHasAreRefused) {
  for_each_function([&](const std::string& name, auto function, const Nulls&, auto... given) {
    auto arguments = arguments_for(function, given...);
    if (name.find("_init") != std::string::npos) return;  // sets it
    for_each_argument(arguments, [&](size_t, auto& argument) {
      using Argument = std::remove_reference_t<decltype(argument)>;
      if constexpr (std::is_pointer_v<Argument>)
        if constexpr (IsVersioned<std::remove_pointer_t<Argument>>) {
          auto& size = const_cast<size_t&>(argument->size);
          const size_t kept = size;
          for (const size_t bad :
               {size_t{0}, size_t{8}, kept - 4, kept + 1, size_t{8192}, SIZE_MAX}) {
            size = bad;
            expect_invalid(name, std::apply(function, arguments));
          }
          size = kept;
        }
    });
  });
  for (const size_t bad : {size_t{0}, size_t{8}, sizeof config - 4, size_t{8192}, SIZE_MAX}) {
    const swy_config before = config;
    expect_invalid("swy_config_init", swy_config_init(&config, bad));
    EXPECT_EQ(std::memcmp(&before, &config, sizeof config), 0);
  }
}

// The struct of a header with `more` bytes after the fields that this one knows, or fewer; its memory ends with it.
template <class T>
struct Resized {
  Resized(const T& of, int64_t more) : bytes(new unsigned char[sizeof(T) + more]()) {
    std::memcpy(bytes.get(), &of, sizeof(T) + std::min<int64_t>(0, more));
    value().size = sizeof(T) + static_cast<size_t>(more);
  }
  T& value() { return *reinterpret_cast<T*>(bytes.get()); }
  std::unique_ptr<unsigned char[]> bytes;
};

TEST_F(CCalls, OldHeadersWorkAndNewOnesAreNamed) {
  for_each_function([&](const std::string& name, auto function, const Nulls&, auto... given) {
    if (needs_mpi(name) || name.find("_init") != std::string::npos) return;
    auto arguments = arguments_for(function, given...);
    const swy_status expected = std::apply(function, arguments);
    const std::string text = swy_last_error();
    forget_handles();
    for_each_argument(arguments, [&](size_t, auto& argument) {
      using Argument = std::remove_reference_t<decltype(argument)>;
      if constexpr (std::is_pointer_v<Argument>) {
        using Struct = std::remove_pointer_t<Argument>;
        if constexpr (IsVersioned<Struct>) {
          using Value = std::remove_const_t<Struct>;
          const auto kept = argument;
          // What the last field is when nobody sets it is its default.
          Resized<Value> older(*kept, -8), newer(*kept, 16);
          for (Resized<Value>* with : {&older, &newer}) {
            argument = &with->value();
            EXPECT_EQ(std::apply(function, arguments), expected) << name << swy_last_error();
            EXPECT_EQ(swy_last_error(), text) << name;
            EXPECT_EQ(with->value().size, sizeof(Value) + (with == &older ? -8 : 16)) << name;
            forget_handles();
          }
          newer.bytes[sizeof(Value) + 3] = 1;
          const swy_status status = std::apply(function, arguments);
          if (std::is_const_v<Struct>) {
            expect_refused(name, status);
            EXPECT_EQ(status, SWY_UNSUPPORTED) << name;
            EXPECT_NE(std::string(swy_last_error()).find("this library (version 1) knows"),
                      std::string::npos)
                << swy_last_error();
          } else {  // the library writes it all
            EXPECT_EQ(status, expected) << name;
            EXPECT_EQ(newer.bytes[sizeof(Value) + 3], 0) << name;
          }
          argument = kept;
        }
      }
    });
  });
  // Initialised by a header of either age.
  Resized<swy_config> older(config, -8), newer(config, 16);
  for (Resized<swy_config>* with : {&older, &newer}) {
    good(swy_config_init(&with->value(), with->value().size));
    EXPECT_EQ(with->value().num_groups, 1);
    EXPECT_EQ(with->value().shared_activation, SWY_ACTIVATION_OF_ROUTED);
  }
  EXPECT_TRUE(std::all_of(newer.bytes.get() + sizeof config, newer.bytes.get() + sizeof config + 16,
                          [](unsigned char byte) { return byte == 0; }));
}

TEST_F(CCalls, GarbageInAStructOrANumberIsRefusedOrDoesNothing) {
  for_each_function([&](const std::string& name, auto function, const Nulls&, auto... given) {
    if (needs_mpi(name)) return;
    auto arguments = arguments_for(function, given...);
    for_each_argument(arguments, [&](size_t, auto& argument) {
      using Argument = std::remove_reference_t<decltype(argument)>;
      if constexpr (std::is_integral_v<Argument>) {
        const auto kept = argument;
        for (const Argument value : {std::numeric_limits<Argument>::max(),
                                     static_cast<Argument>(-1), static_cast<Argument>(0)}) {
          argument = value;
          expect_refused(name, std::apply(function, arguments), true);
        }
        argument = kept;
      } else if constexpr (std::is_pointer_v<Argument>) {
        using Struct = std::remove_pointer_t<Argument>;
        if constexpr (IsVersioned<Struct> && std::is_const_v<Struct>) {
          Resized<std::remove_const_t<Struct>> garbage(*argument, 0);
          std::memset(garbage.bytes.get() + sizeof(size_t), 0xff, sizeof(Struct) - sizeof(size_t));
          const auto kept = std::exchange(argument, &garbage.value());
          expect_refused(name, std::apply(function, arguments));
          argument = kept;
        }
      }
    });
  });
}

// Calls `f` with each of the words of `value` in [begin, end) replaced by each bad one.
template <class T, class F>
void for_each_bad_word(T& value, size_t begin, size_t end, F&& f) {
  for (size_t at = begin; at < end; at += sizeof(uint32_t))
    for (const uint32_t bad : {0u, 2u, 0x7fffffffu, 0x80000000u, 0xffffffffu, 0x7fc00000u}) {
      uint32_t kept = 0;
      auto* word = reinterpret_cast<unsigned char*>(&value) + at;
      std::memcpy(&kept, word, sizeof kept);
      std::memcpy(word, &bad, sizeof bad);
      f();
      std::memcpy(word, &kept, sizeof kept);
    }
}

TEST_F(CCalls, EveryWordOfAConfigMayBeGarbage) {
  const auto create = [&] {
    expect_refused("swy_workspace_bytes",
                   swy_workspace_bytes(context.get(), &config, 1, &options, &results.bytes), true);
    expect_refused(
        "swy_layer_create",
        swy_layer_create(context.get(), &config, weights.get(), nullptr, &options, &results.layer),
        true);
  };
  for_each_bad_word(config, offsetof(swy_config, hidden), sizeof config, create);
  for_each_bad_word(options, offsetof(swy_options, max_tokens), offsetof(swy_options, strategy),
                    create);
  for_each_bad_word(options, offsetof(swy_options, tp_size), offsetof(swy_options, workspace),
                    create);
}

TEST_F(CCalls, EveryWordOfACallMayBeGarbageButAddresses) {
  for (swy_tensor* t :
       {&args.output, &args.hidden, &args.ids, &args.weights, &args.token_ids, &args.expert_map})
    for_each_bad_word(*t, offsetof(swy_tensor, shape), sizeof *t, [&] {
      expect_refused("swy_layer_forward", swy_layer_forward(layer.get(), &args, nullptr), true);
    });
  good(swy_layer_forward(layer.get(), &args, nullptr));
  EXPECT_TRUE(call.output.guards_intact());
}

TEST_F(CCalls, TensorsAreRefusedByName) {
  const auto refused = [&](swy_status status, const char* text) {
    EXPECT_EQ(swy_layer_forward(layer.get(), &args, nullptr), status);
    EXPECT_TRUE(
        std::string(swy_last_error()).starts_with(std::string("swy_layer_forward: ") + text))
        << swy_last_error();
  };
  const swy_forward_args kept = args;
  args.hidden.strides[0] = 100;
  args.hidden.strides[1] = 1;
  refused(SWY_SHAPE_MISMATCH, "hidden.strides[0]=100, need at least the 128");
  args.hidden.strides[0] = 0;  // one row for all
  refused(SWY_SHAPE_MISMATCH, "hidden.strides[0]=0, need at least the 128");
  args.hidden.strides[0] = 256;
  args.hidden.strides[1] = 2;
  refused(SWY_UNSUPPORTED, "hidden.strides[1]=2, need 1");
  args.hidden.strides[0] = 136;
  args.hidden.strides[1] = 1;
  EXPECT_EQ(swy_layer_forward(layer.get(), &args, nullptr), SWY_UNSUPPORTED);
  EXPECT_NE(std::string(swy_last_error()).find("strided_rows"), std::string::npos)
      << swy_last_error();
  args.hidden.strides[0] = 128;
  good(swy_layer_forward(layer.get(), &args, nullptr));
  args = kept;
  args.ids.dtype = 7;
  refused(SWY_INVALID_ARGUMENT, "ids.dtype=7, need 0 to 6");
  args = kept;
  args.weights.data = nullptr;
  refused(SWY_INVALID_ARGUMENT, "weights.data=NULL, need 80 bytes");
  args = kept;
  args.output.rank = 0;
  refused(SWY_INVALID_ARGUMENT, "output.rank=0 with data");
  args = kept;
  args.output.reserved[1] = 1;
  refused(SWY_UNSUPPORTED, "output.reserved=1");
}

TEST_F(CCalls, AddressesBelongToOneKindOfGroup) {
  group_options.address = "10.0.0.1";
  expect_invalid("swy_group_create_from_env",
                 swy_group_create_from_env(&group_options, &results.group));
  expect_invalid("swy_group_create_threads",
                 swy_group_create_threads(1, &group_options, &results.group));
}

TEST_F(CCalls, TheVersionIsCompared) {
  EXPECT_EQ(swy_version(), uint32_t{SWY_VERSION});
  EXPECT_STREQ(swy_version_string(), SWITCHYARD_VERSION);
  EXPECT_EQ(swy_context_create(SWY_VERSION + 1, nullptr, &results.context), SWY_UNSUPPORTED);
  EXPECT_TRUE(std::string(swy_last_error())
                  .starts_with("swy_context_create: version=2, the header is newer "
                               "than this library, which has version 1"))
      << swy_last_error();
  expect_invalid("swy_context_create", swy_context_create(0, nullptr, &results.context));
}

TEST_F(CCalls, StatusesHaveNames) {
  EXPECT_STREQ(swy_status_name(SWY_OK), "Ok");
  EXPECT_STREQ(swy_status_name(SWY_BAD_STATE), "BadState");
  EXPECT_STREQ(swy_status_name(SWY_INVALID_ARGUMENT), "InvalidArgument");
  EXPECT_STREQ(swy_status_name(SWY_STATUS_MAX), "unknown");
}

TEST_F(CCalls, DestroyingKeepsTheTextAndSuccessEmptiesIt) {
  expect_invalid("swy_layer_wait", swy_layer_wait(nullptr, nullptr));
  const std::string text = swy_last_error();
  swy_layer_destroy(layer.release());
  swy_layer_destroy(nullptr);
  swy_context_destroy(nullptr);
  EXPECT_EQ(swy_last_error(), text);
  good(swy_report_init(&report, sizeof report));
  EXPECT_STREQ(swy_last_error(), "");
}

TEST(CTexts, EachOfEightThreadsReadsItsOwn) {
  std::vector<std::jthread> threads;
  std::vector<int> wrong(8);
  for (uint32_t i = 0; i < 8; ++i)
    threads.emplace_back([i, &wrong] {
      const std::string expected = "swy_context_create: version=" + std::to_string(100 + i) + ",";
      for (int n = 0; n < 500; ++n) {
        swy_context* none = nullptr;
        const swy_status status = swy_context_create(100 + i, nullptr, &none);
        wrong[i] += status != SWY_UNSUPPORTED || none != nullptr ||
                    !std::string(swy_last_error()).starts_with(expected);
      }
    });
  threads.clear();
  EXPECT_EQ(wrong, std::vector<int>(8));
}

}  // namespace
}  // namespace switchyard
