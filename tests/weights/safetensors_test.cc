// tests/weights/safetensors_test.cc -- files come back as written; damaged ones are refused.
#include "switchyard/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "switchyard/error.h"
#include "testing/buffer.h"
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
                      file_of(R"({"q":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})", 4));
  const auto file = TensorFile::open(folder / "x.safetensors");
  EXPECT_EQ(file->find("q")->dtype, "F8_E4M3");
  try {
    file->tensor("q");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Unsupported);
    EXPECT_NE(std::string(e.what()).find("F8_E4M3"), std::string::npos) << e.what();
  }
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
    EXPECT_EQ(file->find("q")->bytes.size(), 3u);
    EXPECT_EQ(file->find("c")->bytes.size(), 8u);
    EXPECT_EQ(file->find("f")->bytes.size(), 4u);
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
       "data_offsets holds 1.8"},
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
          if (!e.bytes.empty()) {
            EXPECT_LE(e.bytes.size(), good.size());
            [[maybe_unused]] volatile auto last = e.bytes.back();
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

}  // namespace
}  // namespace switchyard
