// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/base/error_test.cc -- a message is one line, whatever went into it.
#include "switchyard/error.h"

#include <gtest/gtest.h>

#include <functional>
#include <locale>
#include <string>
#include <string_view>
#include <system_error>

#include "base/as_error.h"
#include "base/peer_control.h"
#include "base/require.h"
#include "base/status.h"
#include "switchyard/strategy.h"
#include "switchyard/tensor.h"
#include "testing/error_of.h"

namespace switchyard {
namespace {

TEST(Error, AMessageIsOneLineWithoutControlCharacters) {
  const std::string_view name("a\nb\r\tc\0d\x1b[31m\x7f\xc3\xa9", 16);
  EXPECT_STREQ(Error(Errc::BadFile, std::string(name)).what(), "a?b??c?d?[31m?\xc3\xa9");
}

TEST(Error, AMessageEndsAfter2000Bytes) {
  const std::string longest(2000, 'x');
  EXPECT_EQ(Error(Errc::BadFile, longest).what(), longest);
  EXPECT_EQ(Error(Errc::BadFile, longest + "x").what(), longest.substr(3) + "...");
}

// A host program may set any locale for all its threads.
TEST(Messages, AreTheSameInEveryLocale) {
  struct Grouped : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
    std::string do_truename() const override { return "wahr"; }
  };
  const std::locale before = std::locale::global(std::locale(std::locale(), new Grouped));
  const std::string text = cat("/proc/", 1234567, " ", int64_t{-4096}, " ", SIZE_MAX, " ", 1.5f,
                               " ", 1e20, " ", 1234567.0, " ", true, 'c', std::string("s"));
  StrategyRequest request;
  request.config = {.hidden = 4096, .intermediate = 2048, .num_experts = 64, .top_k = 2};
  request.workspace_limit_bytes = 1 << 20;
  std::string refused;
  try {
    choose_strategy(request);
  } catch (const Error& e) {
    refused = e.what();
  }
  std::locale::global(before);
  EXPECT_EQ(text, "/proc/1234567 -4096 18446744073709551615 1.5 1e+20 1.23457e+06 1cs");
  EXPECT_NE(refused.find(", limit 1048576)"), std::string::npos) << refused;
  EXPECT_EQ(refused.find(','), refused.find(", no strategy")) << refused;
}

TEST(Error, EveryCodeTypeAndDeviceHasItsName) {
  const std::pair<Errc, const char*> codes[] = {{Errc::ShapeMismatch, "ShapeMismatch"},
                                                {Errc::Misaligned, "Misaligned"},
                                                {Errc::Unsupported, "Unsupported"},
                                                {Errc::BadFile, "BadFile"},
                                                {Errc::Cuda, "Cuda"},
                                                {Errc::Transport, "Transport"},
                                                {Errc::BadRouting, "BadRouting"},
                                                {Errc::BadState, "BadState"},
                                                {static_cast<Errc>(99), "unknown"}};
  for (const auto& [code, name] : codes) EXPECT_STREQ(errc_name(code), name);
  const std::pair<DType, const char*> dtypes[] = {{DType::Bf16, "bf16"},
                                                  {DType::F16, "f16"},
                                                  {DType::F32, "f32"},
                                                  {DType::F64, "f64"},
                                                  {DType::I32, "i32"},
                                                  {DType::I64, "i64"},
                                                  {static_cast<DType>(99), "unknown"}};
  for (const auto& [dtype, name] : dtypes) EXPECT_STREQ(dtype_name(dtype), name);
  EXPECT_STREQ(device_name(DeviceKind::Cpu), "cpu");
  EXPECT_STREQ(device_name(DeviceKind::Cuda), "cuda");
}

TEST(AsErrors, EveryExceptionOfTheStandardLibraryBecomesAnErrorThatNamesTheOperation) {
  const std::pair<std::function<void()>, const char*> rows[] = {
      {[] { throw std::bad_alloc(); }, "load: memory=none left, an allocation failed. Free some"},
      {[] { throw std::length_error("too long"); },
       "load: memory, a size is beyond any (too long). Use smaller sizes."},
      {[] { throw std::system_error(EAGAIN, std::generic_category()); },
       "load: the system refused (Resource temporarily unavailable). Raise its limits"},
      {[] { throw std::out_of_range("place"); }, "load: place."}};
  for (const auto& [act, message] : rows) {
    const Error e = testing::error_of([&] { as_errors("load", act); });
    EXPECT_EQ(e.code(), Errc::Unsupported);
    EXPECT_TRUE(std::string_view(e.what()).starts_with(message)) << e.what();
    std::string told;
    testing::error_of([&] { as_errors("load", act, [&](const char* what) { told = what; }); });
    EXPECT_EQ(told, e.what());
  }
  EXPECT_EQ(as_errors("load", [] { return 7; }), 7);
}

TEST(AsErrors, AnErrorStaysWhatItIsAndIsNotToldTwice) {
  const Error e = testing::error_of([] {
    as_errors(
        "load", [] { throw Error(Errc::Cuda, "a kernel"); },
        [](const char*) { ADD_FAILURE() << "who threw it has told it"; });
  });
  EXPECT_EQ(e.code(), Errc::Cuda);
  EXPECT_STREQ(e.what(), "a kernel");
}

std::string status_of(StatusDetail detail, int64_t value = 0, Errc code = Errc::BadRouting) {
  return status_message({.code = static_cast<int32_t>(code),
                         .detail = static_cast<int32_t>(detail),
                         .rank = 3,
                         .value = low_half(value),
                         .value_high = high_half(value)});
}

TEST(Status, EachOneNamesTheRankAndWhatWasSeenThere) {
  const std::pair<std::string, const char*> rows[] = {
      {status_of(StatusDetail::IdOutOfRange, -7),
       "forward: expert id=-7 on rank 3, ids are -1 (no expert) or in [0, E)."},
      {status_of(StatusDetail::IdOutOfRange, INT32_MIN),
       "forward: expert id=-2147483648 on rank 3, of a gate that chooses by token id:"},
      {status_of(StatusDetail::MaskedOverflow, 65),
       "forward: rows of one expert=65 on rank 3, more than the masked capacity;"},
      {status_of(StatusDetail::PeerArguments, 0, Errc::Misaligned),
       "forward: rank 3 refused its arguments (Misaligned). See the error thrown there."},
      {status_of(StatusDetail::MaxTokensDiffer, int64_t{1} << 40),
       "forward: max_tokens=1099511627776 on rank 3, must be equal on every rank."},
      {status_of(StatusDetail::SliceTokensDiffer, 9),
       "forward: tokens=9 on rank 3, ranks of one tensor-parallel group hold the same tokens."},
      {status_of(StatusDetail::RowsNotGrouped, 5), "group_rows: row=5 on rank 3, is neither -1"},
      {status_of(StatusDetail::PeerLost, 1), "dispatch: rows of rank 3 did not come within"},
      {status_of(StatusDetail::PeerLost, 2), "combine: partial rows of rank 3 did not come within"},
      {status_of(StatusDetail::PeerLost, 3), "combine: the slice of rank 3 did not come within"},
      {status_of(StatusDetail::PeerLost, kGivenUpByHost),
       "forward: the communicator was ended while rank 3 waited for its peers."},
      {status_of(StatusDetail::PeerLost, 0), "forward: rank 3 is lost. Make a new communicator"},
      {status_of(StatusDetail::PeerLost, -1), "forward: rank 3 is lost. Make a new communicator"},
      {status_of(StatusDetail::PeerLost, 5), "forward: rank 3 is lost. Make a new communicator"},
      {status_of(StatusDetail::None), "forward: status code 7 on rank 3."},
      {status_of(static_cast<StatusDetail>(99)), "forward: status code 7 on rank 3."}};
  for (const auto& [text, begin] : rows)
    EXPECT_TRUE(std::string_view(text).starts_with(begin)) << text;
}

}  // namespace
}  // namespace switchyard
