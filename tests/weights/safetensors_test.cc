// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/safetensors_test.cc -- files come back as written; damaged ones are refused.
#include "switchyard/safetensors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <random>
#include <set>
#include <thread>

#include "switchyard/error.h"
#include "testing/buffer.h"
#include "testing/error_of.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::TemporaryFolder;

// A file from a header and data, as the format says: 8 bytes of length, JSON, data.
std::string file_of(const std::string& header, size_t data_bytes) {
  const auto length = static_cast<uint64_t>(header.size());
  return std::string(reinterpret_cast<const char*>(&length), 8) + header +
         std::string(data_bytes, 'x');
}

std::string refusal(const std::string& content) {
  const TemporaryFolder folder;
  testing::write_file(folder / "x.safetensors", content);
  try {
    TensorFile::open(folder / "x.safetensors");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::BadFile);
    EXPECT_NE(std::string(e.what()).find("x.safetensors"), std::string::npos) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
    return e.what();
  }
  return "";
}

TEST(Safetensors, ComeBackAsWritten) {
  const TemporaryFolder folder;
  const auto a = testing::random_bf16({3, 8}, 1);
  const auto b = testing::random_f32({2, 2, 2}, 2);
  const Buffer<double> c({0, 5});
  Buffer<int64_t> d({1});
  d[0] = -7;
  const NamedTensor tensors[] = {{"z \"quoted\"", a.view()},
                                 {"b", b.view()},
                                 {"empty", c.view()},
                                 {"d", std::as_const(d).view()}};
  write_safetensors(folder / "t.safetensors", tensors);

  const auto file = TensorFile::open(folder / "t.safetensors");
  ASSERT_EQ(file->entries().size(), 4u);
  for (const auto& t : tensors) {
    const auto read = file->tensor(t.name);
    EXPECT_EQ(read.shape, t.tensor.shape) << t.name;
    EXPECT_EQ(read.dtype, t.tensor.dtype) << t.name;
    if (read.count() > 0) {
      EXPECT_EQ(std::memcmp(read.data, t.tensor.data, static_cast<size_t>(read.bytes())), 0);
    }
  }
}

TEST(Safetensors, WritingReplacesAtOnceOrLeavesNothing) {
  const TemporaryFolder folder;
  const auto a = testing::random_bf16({4, 4}, 1), b = testing::random_bf16({5, 4}, 2);
  const NamedTensor first{"t", a.view()}, second{"t", b.view()};
  write_safetensors(folder / "t.safetensors", {&first, 1});
  const auto open_before = TensorFile::open(folder / "t.safetensors");
  write_safetensors(folder / "t.safetensors", {&second, 1});
  EXPECT_EQ(open_before->tensor("t").dim(0), 4) << "a reader keeps the old file";
  EXPECT_EQ(TensorFile::open(folder / "t.safetensors")->tensor("t").dim(0), 5);
  EXPECT_THROW(write_safetensors(folder / "no" / "t.safetensors", {&first, 1}), Error);
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path()))
    ++files;
  EXPECT_EQ(files, 1u) << "no temporary file is left";
}

TEST(Safetensors, AMissingTensorNamesTheNearest) {
  const TemporaryFolder folder;
  const auto a = testing::random_bf16({4}, 1);
  const NamedTensor t{"model.layers.1.mlp.gate.weight", a.view()};
  write_safetensors(folder / "t.safetensors", {&t, 1});
  const auto file = TensorFile::open(folder / "t.safetensors");
  EXPECT_EQ(file->find("x"), nullptr);
  try {
    file->tensor("model.layers.1.mlp.gates.weight");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("model.layers.1.mlp.gate.weight"), std::string::npos);
  }
}

TEST(Safetensors, ADtypeThatIsNotLoadedSaysWhatItIs) {
  const TemporaryFolder folder;
  testing::write_file(folder / "x.safetensors",
                      file_of(R"({"q":{"dtype":"F8_E5M2","shape":[4],"data_offsets":[0,4]}})", 4));
  const auto file = TensorFile::open(folder / "x.safetensors");
  EXPECT_EQ(file->find("q")->dtype, "F8_E5M2");
  try {
    file->tensor("q");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Unsupported);
    EXPECT_NE(std::string(e.what()).find("F8_E5M2"), std::string::npos) << e.what();
  }
}

TEST(Safetensors, F8E4m3IsWrittenAndReadAsItIs) {
  const TemporaryFolder folder;
  testing::Buffer<F8E4m3> codes({2, 128});
  for (int64_t i = 0; i < codes.count(); ++i) codes[i] = F8E4m3::from_bits(static_cast<uint8_t>(i));
  const NamedTensor t{"w", codes.view()};
  write_safetensors(folder / "t.safetensors", {&t, 1});
  const auto file = TensorFile::open(folder / "t.safetensors");
  EXPECT_EQ(file->find("w")->dtype, "F8_E4M3");
  const ConstTensor read = file->tensor("w");
  EXPECT_EQ(read.dtype, DType::F8E4m3);
  EXPECT_EQ(read.shape, (Shape{2, 128}));
  EXPECT_EQ(std::memcmp(read.data, codes.data(), 256), 0);
}

TEST(Safetensors, ADtypeThatIsNotKnownIsRefusedByNameWhereItIsRead) {
  for (const std::string dtype : {"F4", "F6_E2M3", "F6_E3M2", "F33", "", "bf16"}) {
    const TemporaryFolder folder;
    testing::write_file(folder / "x.safetensors",
                        file_of(R"({"q":{"dtype":")" + dtype +
                                    R"(","shape":[4294967296,4294967296],"data_offsets":[4,7]},
                                    "c":{"dtype":"C64","shape":[1],"data_offsets":[8,16]},
                                    "f":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                                16));
    const auto file = TensorFile::open(folder / "x.safetensors");
    EXPECT_EQ(file->find("q")->num_bytes, 3);
    EXPECT_EQ(file->find("c")->num_bytes, 8);
    EXPECT_EQ(file->find("f")->num_bytes, 4);
    try {
      file->tensor("q");
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::Unsupported);
      EXPECT_NE(std::string(e.what()).find("tensor q: dtype=" + dtype + ", load BF16"),
                std::string::npos)
          << e.what();
    }
  }
}

TEST(Safetensors, DamagedHeadersAreRefused) {
  struct Damage {
    std::string content;
    const char* message;
  };
  const Damage all[] = {
      {"", "need at least 8"},
      {"1234567", "need at least 8"},
      {std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}"), "header bytes=18446744073709551615"},
      {std::string("\x64\0\0\0\0\0\0\0{}", 10), "header bytes=100"},
      {file_of("", 0), "no JSON object"},
      {file_of("[1]", 0), "no JSON object"},
      {file_of("{\"a\":", 0), "no JSON object"},
      {file_of(std::string(100000, '['), 0), "x.safetensors"},
      {file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                  "a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
               4),
       "occurs twice"},
      {file_of(R"({"a":7})", 0), "no JSON object"},
      {file_of(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4), "dtype is no string"},
      {file_of(R"({"a":{"dtype":"C64","shape":[1],"data_offsets":[0,4]}})", 4),
       "data has 4 bytes, dtype and shape need 8"},
      // Of a dtype that is not known, places are checked.
      {file_of(R"({"a":{"dtype":"F4","shape":[9],"data_offsets":[0,5]}})", 4), "truncated"},
      {file_of(R"({"a":{"dtype":"F4","shape":[9],"data_offsets":[2,1]}})", 4), "begin <= end"},
      {file_of(R"({"a":{"dtype":"F4","shape":["9"],"data_offsets":[0,4]}})", 4), "shape holds"},
      {file_of(R"({"a":{"dtype":"F4","shape":[9],"data_offsets":[0,3]},
                  "b":{"dtype":"?","shape":[9],"data_offsets":[2,4]}})",
               4),
       "tensors a and b overlap"},
      {file_of(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4), "shape is no array"},
      // What one tensor says is not said of the next.
      {file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                  "b":{"shape":[1],"data_offsets":[4,8]}})",
               8),
       "tensor b: dtype is no string"},
      {file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                  "b":{"dtype":"F32","data_offsets":[4,8]}})",
               8),
       "tensor b: shape is no array"},
      {file_of(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},
                  "b":{"dtype":"F32","shape":[0]}})",
               8),
       "tensor b: data_offsets is no array"},
      {file_of(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4), "shape holds -1"},
      {file_of(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4),
       "shape holds 1.5"},
      {file_of(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,4]}})",
               4),
       "overflows"},
      {file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 8), "data has 8 bytes"},
      {file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 8), "begin <= end"},
      {file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 8), "begin <= end"},
      {file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":["0","4"]}})", 4),
       "data_offsets holds \"0\""},
      {file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}})", 4),
       "data_offsets holds 18446744073709551616"},
      {file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[9223372036854775804,
                  9223372036854775807]}})",
               4),
       "truncated"},
      {file_of(R"({"line\nbreak\u0000":{"dtype":33,"shape":[1],"data_offsets":[0,4]}})", 4),
       "tensor line?break?: dtype is no string"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:4\nsize 4998694944\n",
       "is a Git LFS pointer; the file of size=4998694944 bytes is not here. Run git lfs pull"},
      {"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"},
      {file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7), "truncated"},
      {file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                  "b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
               6),
       "overlap"},
  };
  for (const auto& d : all) {
    const auto message = refusal(d.content);
    EXPECT_NE(message.find(d.message), std::string::npos) << d.message << " / " << message;
  }
}

TEST(Safetensors, AnyFlippedByteIsReadOrRefusedButNeverCrashes) {
  const TemporaryFolder folder;
  const auto a = testing::random_bf16({3, 8}, 1);
  const NamedTensor tensors[] = {{"a", a.view()}, {"b", a.view()}};
  write_safetensors(folder / "t.safetensors", tensors);
  const std::string good = testing::read_file(folder / "t.safetensors");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, good.data(), 8);
  int refused = 0;
  for (size_t at = 0; at < 8 + header_bytes; ++at)
    for (const char flip : {'\x01', '\x10', '\x80'}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ flip);
      testing::write_file(folder / "bad.safetensors", bad);
      try {
        const auto file = TensorFile::open(folder / "bad.safetensors");
        for (const auto& e : file->entries())
          if (e.num_bytes > 0) {
            EXPECT_LE(e.num_bytes, static_cast<int64_t>(good.size()));
            std::byte last;
            e.read({&last, 1}, e.num_bytes - 1);
          }
      } catch (const Error& e) {
        ++refused;
      }
    }
  EXPECT_GT(refused, 200);
  for (size_t length = 0; length < good.size(); length += 7)
    EXPECT_NE(refusal(good.substr(0, length)), "") << length;
}

TEST(Safetensors, AHeaderAboveTheFormatsLimitIsRefusedEvenWhereTheFileHoldsIt) {
  const TemporaryFolder folder;
  const auto path = folder / "x.safetensors";
  const uint64_t header_bytes = 100'000'001;
  testing::write_file(path, std::string(reinterpret_cast<const char*>(&header_bytes), 8));
  std::filesystem::resize_file(path, 8 + header_bytes);
  try {
    TensorFile::open(path);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("the limit is 100000000"), std::string::npos) << e.what();
  }
}

TEST(Safetensors, ALinkWhoseTargetIsGoneSaysSo) {
  const TemporaryFolder folder;
  std::filesystem::create_symlink("../blobs/gone", folder / "x.safetensors");
  try {
    TensorFile::open(folder / "x.safetensors");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("is a link to ../blobs/gone, which does not exist"),
              std::string::npos)
        << e.what();
  }
}

TEST(Safetensors, MissingFilesFoldersAndPipesAreRefused) {
  EXPECT_THROW(TensorFile::open("/nonexistent/x.safetensors"), Error);
  const TemporaryFolder folder;
  EXPECT_THROW(TensorFile::open(folder.path()), Error);
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THROW(TensorFile::open(folder / "pipe"), Error) << "and does not wait for a writer";
}

// ---- files that change under their reader

// What `call` is refused with; empty when it is not.
std::string message_of(const std::function<void()>& call) {
  return testing::message_of(Errc::BadFile, call);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Safetensors, AFileThatShrinksUnderItsReaderIsAnError) {
  const TemporaryFolder folder;
  const auto path = folder / "t.safetensors";
  const auto a = testing::random_f32({64, 64}, 1);
  const NamedTensor t{"t", a.view()};
  std::mt19937_64 rng(2);
  for (int i = 0; i < 100; ++i) {
    write_safetensors(path, {&t, 1});
    const auto file = TensorFile::open(path);
    const uint64_t left = rng() % (file->find("t")->begin + a.view().bytes());
    std::filesystem::resize_file(path, left);
    std::vector<std::byte> bytes(a.view().bytes());
    EXPECT_TRUE(contains(message_of([&] { file->tensor("t"); }), "when it was opened"));
    EXPECT_TRUE(contains(message_of([&] { file->find("t")->read(bytes); }), "when it was opened"));
  }
}

TEST(Safetensors, AFileThatIsWrittenUnderItsReaderIsAnError) {
  const TemporaryFolder folder;
  const auto path = folder / "t.safetensors";
  const auto a = testing::random_f32({4, 4}, 1);
  const NamedTensor tensors[] = {{"before", a.view()}, {"after", a.view()}};
  write_safetensors(path, tensors);
  // Far enough back for clocks that tick slowly.
  std::filesystem::last_write_time(
      path, std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  const auto file = TensorFile::open(path);
  const ConstTensor kept = file->tensor("before");
  testing::write_file(path, std::string(std::filesystem::file_size(path), 'x'));
  EXPECT_TRUE(contains(message_of([&] { file->tensor("after"); }), "was written since"));
  EXPECT_TRUE(contains(message_of([&] { file->check_unchanged(); }), "was written since"));
  EXPECT_EQ(std::memcmp(kept.data, a.view().data, a.view().bytes()), 0) << "it is a copy";
  EXPECT_EQ(file->tensor("before").data, kept.data);
}

TEST(Safetensors, ReadsStayInsideTheirTensor) {
  const TemporaryFolder folder;
  const auto a = testing::random_bf16({8}, 1), b = testing::random_bf16({8}, 2);
  const NamedTensor tensors[] = {{"a", a.view()}, {"b", b.view()}};
  write_safetensors(folder / "t.safetensors", tensors);
  const auto file = TensorFile::open(folder / "t.safetensors");
  const TensorEntry& entry = *file->find("a");
  std::vector<std::byte> bytes(6);
  entry.read(bytes, 10);
  EXPECT_EQ(std::memcmp(bytes.data(), a.view().as<Bf16>() + 5, 6), 0);
  for (const int64_t first : {int64_t{-1}, int64_t{11}, int64_t{17}, INT64_MAX})
    EXPECT_TRUE(contains(message_of([&] { entry.read(bytes, first); }), "it has 16"));
}

// ---- large headers

std::string header_of_tensors(int64_t count, const std::string& metadata) {
  std::string header = R"({"__metadata__":)" + metadata;
  for (int64_t i = 0; i < count; ++i)
    header += ",\"model.layers.0.mlp.experts." + std::to_string(i) +
              R"(.w":{"dtype":"U8","shape":[1],"data_offsets":[)" + std::to_string(i) + "," +
              std::to_string(i + 1) + "]}";
  return header + "}";
}

// In quadratic time, this takes minutes.
TEST(Safetensors, AHeaderIsReadOnceHoweverManyTensorsAndHoweverMuchMetadataItHas) {
  const TemporaryFolder folder;
  constexpr int64_t kTensors = 100'000;
  std::string metadata = "{";
  for (int i = 0; i < 100'000; ++i)
    metadata += (i == 0 ? "\"" : ",\"") + std::to_string(i) + R"(":"x")";
  testing::write_file(folder / "x.safetensors",
                      file_of(header_of_tensors(kTensors, metadata + "}"), kTensors));
  const auto file = TensorFile::open(folder / "x.safetensors");
  EXPECT_EQ(static_cast<int64_t>(file->entries().size()), kTensors);
  for (const int64_t i : {int64_t{0}, kTensors / 3, kTensors - 1}) {
    const auto* entry = file->find("model.layers.0.mlp.experts." + std::to_string(i) + ".w");
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(entry->begin - file->entries().front().begin, i);
  }
}

TEST(Safetensors, MetadataAndUnknownKeysAreAnyJson) {
  const TemporaryFolder folder;
  testing::write_file(
      folder / "x.safetensors",
      file_of(
          R"({"a":{"new":[{"shape":[7]},null,-1.5,true],"dtype":"U8","shape":[],"more":{"dtype":1},
                  "data_offsets":[0,1],"shape":[1]},
                  "__metadata__":{"a":{"dtype":3},"b":[[],{}],"c":-1}})",
          1));
  const auto file = TensorFile::open(folder / "x.safetensors");
  ASSERT_EQ(file->entries().size(), 1u);
  EXPECT_EQ(file->find("a")->shape, std::vector<int64_t>{1}) << "of two the last one counts";
  testing::write_file(folder / "x.safetensors", file_of(R"({"__metadata__":7})", 0));
  EXPECT_EQ(TensorFile::open(folder / "x.safetensors")->entries().size(), 0u);
}

// ---- what is replaced, and what is refused

TEST(WriteSafetensors, ReplacesFilesOnlyAndKeepsTheirMode) {
  const TemporaryFolder folder;
  const auto a = testing::random_bf16({4}, 1);
  const NamedTensor t{"t", a.view()};
  const auto write = [&](const char* name) {
    const auto refusal = message_of([&] { write_safetensors(folder / name, {&t, 1}); });
    EXPECT_EQ(message_of([&] { check_safetensors_target(folder / name); }), refusal);
    return refusal;
  };
  testing::write_file(folder / "file", "old");
  for (const mode_t mode : {0640, 0604}) {
    ASSERT_EQ(::chmod((folder / "file").c_str(), mode), 0);
    EXPECT_EQ(write("file"), "");
    struct stat info {};
    ASSERT_EQ(::stat((folder / "file").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, mode);
  }
  const mode_t before = ::umask(027);
  EXPECT_EQ(write("new"), "");
  EXPECT_EQ(::umask(before), mode_t{027}) << "stays as it was";
  struct stat created {};
  ASSERT_EQ(::stat((folder / "new").c_str(), &created), 0);
  EXPECT_EQ(created.st_mode & 07777, mode_t{0640}) << "as any new file's";
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  std::filesystem::create_directory(folder / "folder");
  testing::write_file(folder / "target", "precious");
  std::filesystem::create_symlink("target", folder / "link");
  std::filesystem::create_symlink("gone", folder / "dangling");
  EXPECT_TRUE(contains(write("pipe"), "is no regular file"));
  EXPECT_TRUE(contains(write("folder"), "is no regular file"));
  EXPECT_TRUE(contains(write("link"), "is a link to target"));
  EXPECT_TRUE(contains(write("dangling"), "is a link to gone"));
  EXPECT_TRUE(contains(write("no/file"), "its folder does not exist"));
  EXPECT_TRUE(contains(write("target/file"), "its folder does not exist"));
  EXPECT_TRUE(contains(message_of([] { check_safetensors_target("/dev/null"); }), "is no regular"));
  EXPECT_TRUE(std::filesystem::is_fifo(folder / "pipe"));
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(testing::read_file(folder / "target"), "precious");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 7);
}

TEST(WriteSafetensors, NamesAndTensorsThatNoFileHoldsAreRefused) {
  const TemporaryFolder folder;
  const auto a = testing::random_bf16({4}, 1);
  ConstTensor on_device = a.view();
  on_device.device = DeviceKind::Cuda;
  const struct {
    std::vector<NamedTensor> tensors;
    const char* message;
  } all[] = {
      {{{"a", a.view()}, {"b", a.view()}, {"a", a.view()}}, "tensor a: is given twice"},
      {{{"a", {}}}, "tensor a: is absent"},
      {{{"a", ConstTensor(nullptr, DType::Bf16, {4})}}, "tensor a: is absent"},
      {{{"bad\xff", a.view()}}, ": its name is no UTF-8"},
      {{{"\xc3", a.view()}}, ": its name is no UTF-8"},
      {{{"__metadata__", a.view()}}, "keeps this name for itself"},
      {{{"a", on_device}}, "tensor a: device=cuda, need cpu"},
  };
  for (const auto& bad : all) {
    const auto message = message_of([&] { write_safetensors(folder / "t", bad.tensors); });
    EXPECT_TRUE(contains(message, bad.message)) << bad.message << " / " << message;
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

// In a process of its own, which ends with what `body` gives.
int exit_status(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST(WriteSafetensors, ALimitOnFileSizeIsAnErrorAndLeavesTheOldFile) {
  const TemporaryFolder folder;
  const auto path = folder / "t.safetensors";
  const auto a = testing::random_f32({64, 64}, 1);
  const NamedTensor t{"t", a.view()};
  testing::write_file(path, "old");
  const int status = exit_status([&] {
    const rlimit limit{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    for (int i = 0; i < 2; ++i)
      if (!contains(message_of([&] { write_safetensors(path, {&t, 1}); }), "File too large"))
        return 1;
    sigset_t pending;
    ::sigpending(&pending);
    return ::sigismember(&pending, SIGXFSZ);
  });
  EXPECT_TRUE(WIFEXITED(status)) << "by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(testing::read_file(path), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(WriteSafetensors, AKilledProcessLeavesNoDraft) {
  const TemporaryFolder folder;
  const int unnamed = ::open(folder.path().c_str(), O_TMPFILE | O_WRONLY, 0600);
  if (unnamed < 0) GTEST_SKIP() << "this file system has no files without names";
  ::close(unnamed);
  const auto path = folder / "t.safetensors";
  const auto a = testing::random_f32({1024, 1024}, 1);
  const NamedTensor t{"t", a.view()};
  std::mt19937_64 rng(std::random_device{}());
  for (int i = 0; i < 10; ++i) {
    const pid_t child = ::fork();
    while (child == 0) {
      write_safetensors(path, {&t, 1});
      ::unlink(path.c_str());
    }
    std::this_thread::sleep_for(std::chrono::microseconds(10'000 + rng() % 10'000));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
      ASSERT_EQ(entry.path(), path);
      EXPECT_EQ(TensorFile::open(path)->tensor("t").shape, a.view().shape) << "whole or not there";
    }
  }
}

// As a process that was killed on a file system without unnamed files leaves them.
TEST(WriteSafetensors, TheNextWriteRemovesDraftsThatNobodyWrites) {
  const TemporaryFolder folder;
  const auto path = folder / "t.safetensors";
  const auto a = testing::random_f32({4}, 1);
  const NamedTensor t{"t", a.view()};
  const std::set<std::string> others = {"t.safetensors.12.draft.x", "t.safetensors..draft",
                                        "t.safetensors.1x.draft",   "u.safetensors.12.draft",
                                        "t.safetensors.draft",      "xt.safetensors.12.draft"};
  for (const std::string& name : others) testing::write_file(folder / name, "another's");
  testing::write_file(folder / "t.safetensors.12.draft", "left");
  testing::write_file(folder / "t.safetensors.4000000000.draft", "left");
  testing::write_file(folder / "t.safetensors.7.draft", "being written");
  std::filesystem::create_directory(folder / "t.safetensors.8.draft");
  std::filesystem::create_symlink(folder / "u.safetensors.12.draft",
                                  folder / "t.safetensors.9.draft");
  const int writer = ::open((folder / "t.safetensors.7.draft").c_str(), O_WRONLY);
  ASSERT_EQ(::flock(writer, LOCK_EX), 0);
  const auto names = [&] {
    std::set<std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
      all.insert(entry.path().filename().string());
    return all;
  };
  auto left = others;
  left.insert({"t.safetensors", "t.safetensors.8.draft", "t.safetensors.9.draft"});
  auto with_writer = left;
  with_writer.insert("t.safetensors.7.draft");
  write_safetensors(path, {&t, 1});
  EXPECT_EQ(names(), with_writer);
  ::close(writer);
  write_safetensors(path, {&t, 1});
  EXPECT_EQ(names(), left);
}

}  // namespace
}  // namespace switchyard
