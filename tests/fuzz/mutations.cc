// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/fuzz/mutations.cc -- random damage to valid files: each is read or refused, in little
// memory, and none hangs.
//
//   mutations SOURCE [COUNT [SEED [FIRST]]]
//
// Damages the corpus of the fuzz targets and real checkpoints, COUNT times. What ends the process
// is named by its number; COUNT=1 and FIRST=that number run it alone.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <nlohmann/json.hpp>
#include <vector>

#include "mutation.h"
#include "parsers.h"
#include "switchyard/checkpoint.h"
#include "switchyard/error.h"
#include "switchyard/safetensors.h"
#include "testing/temporary_folder.h"

namespace switchyard::fuzz {
namespace {

namespace fs = std::filesystem;
using switchyard::testing::read_file;
using switchyard::testing::TemporaryFolder;
using switchyard::testing::write_file;

// A safetensors file without its numbers, which no parser reads.
struct TensorFileParts {
  std::string header;
  size_t data_bytes = 0;
};

TensorFileParts parts_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  uint64_t header_bytes = 0;
  in.read(reinterpret_cast<char*>(&header_bytes), sizeof(header_bytes));
  TensorFileParts parts{std::string(header_bytes, '\0'),
                        fs::file_size(path) - sizeof(header_bytes) - header_bytes};
  in.read(parts.header.data(), static_cast<std::streamsize>(header_bytes));
  return parts;
}

// Length and header. The length is true, but for one file in eight.
std::string head_of(const std::string& header, Mutator& mutator) {
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  if (mutator.below(8) == 0) mutator.change(bytes);
  return bytes + header;
}

// All of the data, but for one file in eight.
size_t data_bytes_of(const TensorFileParts& parts, Mutator& mutator) {
  return mutator.below(8) == 0 ? mutator.below(parts.data_bytes + 1) : parts.data_bytes;
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::vector<std::string> texts_in(const fs::path& folder) {
  std::vector<std::string> texts;
  for (const auto& path : entries_of(folder)) texts.push_back(read_file(path));
  return texts;
}

constexpr const char* kShard = "model-00001-of-00001.safetensors";

// A real checkpoint, in one file or as an index and its shard.
struct Model {
  explicit Model(const fs::path& folder)
      : Model(read_file(folder / "config.json"), parts_of(folder / "model.safetensors")) {}
  Model(std::string its_config, TensorFileParts its_file)
      : config(std::move(its_config)), file(std::move(its_file)) {
    nlohmann::json map;
    const auto header = nlohmann::json::parse(file.header);
    for (const auto& [name, entry] : header.items())
      if (name != "__metadata__") map[name] = kShard;
    index = nlohmann::json{{"weight_map", map}}.dump();
  }
  std::string config, index;
  TensorFileParts file;
};

// gpt-oss with its experts in MXFP4, as it is published: transposed, and in blocks.
Model in_mxfp4(const Model& bf16) {
  using nlohmann::json;
  json config = json::parse(bf16.config), header;
  config["quantization_config"] = {{"quant_method", "mxfp4"}};
  size_t end = 0;
  const auto add = [&](const std::string& name, const json& dtype, const json& shape,
                       size_t bytes) {
    header[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {end, end + bytes}}};
    end += bytes;
  };
  const json tensors = json::parse(bf16.file.header);
  for (const auto& [name, entry] : tensors.items()) {
    if (name == "__metadata__") continue;
    const json& at = entry.at("data_offsets");
    const size_t bytes = at[1].get<size_t>() - at[0].get<size_t>();
    if (!name.ends_with("_proj")) {
      add(name, entry.at("dtype"), entry.at("shape"), bytes);
      continue;
    }
    const auto shape = entry.at("shape").get<std::vector<size_t>>();  // [E, K, N]
    const size_t groups = shape[1] / 32, scales = shape[0] * shape[2] * groups;
    add(name + "_blocks", "U8", {shape[0], shape[2], groups, 16}, 16 * scales);
    add(name + "_scales", "U8", {shape[0], shape[2], groups}, scales);
  }
  return {config.dump(), {header.dump(), end}};
}

class Damages {
 public:
  explicit Damages(const fs::path& source)
      : configs_(texts_in(source / "tests/fuzz/corpus/config")),
        layers_(texts_in(source / "tests/fuzz/corpus/layer")),
        indexes_(texts_in(source / "tests/fuzz/corpus/index")) {
    for (const auto& path : entries_of(source / "tests/fuzz/corpus/header"))
      headers_.push_back(parts_of(path));
    for (const auto& folder : entries_of(source / "tests/data")) models_.emplace_back(folder);
    models_.emplace_back(source / "data/tiny-code-moe");
    models_.push_back(in_mxfp4(Model(source / "tests/data/gpt_oss")));
    for (const auto& model : models_) {
      configs_.push_back(model.config);
      headers_.push_back(model.file);
    }
    file_.resize(std::max_element(headers_.begin(), headers_.end(), shorter)->data_bytes + kHeads);
  }

  bool header(Mutator& mutator) {
    TensorFileParts parts = headers_[mutator.below(headers_.size())];
    mutator.damage(parts.header);
    const std::string head = head_of(parts.header, mutator);
    // It ends where memory ends, so that a sanitizer sees who reads on.
    const auto file = std::span(file_).last(head.size() + data_bytes_of(parts, mutator));
    std::memcpy(file.data(), head.data(), head.size());
    return read_header(file);
  }
  bool index(Mutator& mutator) {
    std::string text = indexes_[mutator.below(indexes_.size())];
    mutator.damage(text);
    return read_index(text);
  }
  bool config(Mutator& mutator) {
    std::string text = configs_[mutator.below(configs_.size())];
    mutator.damage(text);
    return read_config(text);
  }
  bool layer(Mutator& mutator) {
    std::string text = layers_[mutator.below(layers_.size())];
    mutator.damage(text);
    return read_layer(text);
  }
  // One of its files is damaged, then it is opened and loaded.
  bool checkpoint(Mutator& mutator) {
    Model model = models_[mutator.below(models_.size())];
    const bool in_shards = mutator.below(2) == 0;
    std::string* texts[] = {&model.config, &model.file.header, &model.index};
    mutator.damage(*texts[mutator.below(in_shards ? 3 : 2)]);
    const TemporaryFolder folder;
    write_file(folder / "config.json", model.config);
    if (in_shards) write_file(folder / "model.safetensors.index.json", model.index);
    const auto file = folder / (in_shards ? kShard : "model.safetensors");
    const std::string head = head_of(model.file.header, mutator);
    write_file(file, head);
    fs::resize_file(file, head.size() + data_bytes_of(model.file, mutator));
    const bool file_is_read = read_or_refused([&] { view_tensors(file); });
    return read_or_refused([&] { load_layers(folder.path()); }) && file_is_read;
  }

 private:
  static constexpr size_t kHeads = 1 << 20;  // more than the longest header and what it grows by

  static bool shorter(const TensorFileParts& a, const TensorFileParts& b) {
    return a.data_bytes < b.data_bytes;
  }
  static void view_tensors(const fs::path& path) {
    const auto file = TensorFile::open(path);
    for (const auto& entry : file->entries()) (void)file->tensor(entry.name);
  }
  static void load_layers(const fs::path& folder) {
    const auto checkpoint = Checkpoint::open(folder);
    for (size_t i = 0; i < std::min<size_t>(2, checkpoint->moe_layers().size()); ++i) try {
        const int64_t layer = checkpoint->moe_layers()[i];
        (void)checkpoint->load_layer(layer, 1, 0);
        (void)checkpoint->load_layer(layer, 1, 0, {}, WeightForms::Native);
      } catch (const Error& e) {
        // No file of some MB holds a layer that this process has no memory for.
        if (std::string_view(e.what()).starts_with("weights: bytes=")) throw std::bad_alloc();
        throw;
      }
  }

  std::vector<std::string> configs_, layers_, indexes_;
  std::vector<TensorFileParts> headers_;
  std::vector<Model> models_;
  std::vector<std::byte> file_;
};

struct Kind {
  const char* name;
  bool (Damages::*run)(Mutator&);
};
// Of 20 files, 5 are headers, 5 indexes, 6 configs, 3 layers by hand and 1 a checkpoint.
constexpr Kind kKinds[] = {{"headers", &Damages::header},
                           {"indexes", &Damages::index},
                           {"configs", &Damages::config},
                           {"layers", &Damages::layer},
                           {"checkpoints", &Damages::checkpoint}};
constexpr size_t kKindOf[20] = {0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4};

// Shared with the parent.
struct State {
  int64_t at;
  int64_t read[std::size(kKinds)], refused[std::size(kKinds)];
};

// What is mapped now and 64 MiB more, several times what the largest of these files may take. A
// sanitizer maps terabytes; there max_allocation_size_mb holds the limit (tests/CMakeLists.txt).
void limit_memory() {
#ifndef SWITCHYARD_SANITIZED
  size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t bytes = pages * static_cast<size_t>(::sysconf(_SC_PAGESIZE)) + (size_t{64} << 20);
  const rlimit limit{bytes, bytes};
  ::setrlimit(RLIMIT_AS, &limit);
#endif
}

void run(Damages& damages, State& state, uint64_t seed, int64_t count) {
  constexpr unsigned kHangSeconds = 60;  // each takes milliseconds
  limit_memory();
  for (const int64_t end = state.at + count; state.at < end; ++state.at) {
    ::alarm(kHangSeconds);
    Mutator mutator(seed + static_cast<uint64_t>(state.at));
    const size_t kind = kKindOf[mutator.below(std::size(kKindOf))];
    const bool read = (damages.*kKinds[kind].run)(mutator);
    ++(read ? state.read : state.refused)[kind];
  }
}

int report(const State& state, int status, uint64_t seed, int64_t count) {
  if (status != 0) {
    std::printf("mutation %lld of seed %llu ended the process (status %d)\n",
                static_cast<long long>(state.at), static_cast<unsigned long long>(seed), status);
    return 1;
  }
  bool all_seen = true;
  for (size_t k = 0; k < std::size(kKinds); ++k) {
    std::printf("%-12s %lld read, %lld refused\n", kKinds[k].name,
                static_cast<long long>(state.read[k]), static_cast<long long>(state.refused[k]));
    all_seen = all_seen && state.read[k] > 0 && state.refused[k] > 0;
  }
  return all_seen || count < 1000 ? 0 : 1;  // a kind that is always refused tests nothing
}

}  // namespace
}  // namespace switchyard::fuzz

int main(int argc, char** argv) {
  using namespace switchyard::fuzz;
  if (argc < 2) return std::fprintf(stderr, "mutations SOURCE [COUNT [SEED [FIRST]]]\n"), 2;
  const int64_t count = argc > 2 ? std::atoll(argv[2]) : 100'000;
  const uint64_t seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1;
  void* shared =
      ::mmap(nullptr, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return 2;
  auto& state = *new (shared) State{};
  state.at = argc > 4 ? std::atoll(argv[4]) : 0;
  std::printf("%lld mutations from %lld, seed %llu\n", static_cast<long long>(count),
              static_cast<long long>(state.at), static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    Damages damages(argv[1]);
    run(damages, state, seed, count);
    return 0;
  }
  int status = 1;
  if (child > 0) ::waitpid(child, &status, 0);
  return report(state, status, seed, count);
}
