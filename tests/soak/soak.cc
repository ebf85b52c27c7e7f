// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/soak/soak.cc -- hours of a host's life: forwards, layers that are made and destroyed, ranks
// that come and go as threads and as processes, files that are read and written. Says whether memory,
// descriptors, threads and files stay flat, and whether each round gives the bits of the first.
//
//   soak SOURCE [--seconds N] [--json FILE] [--leak descriptor|file|memory]
//
// --leak loses one per round, so that a test can see that it is found.
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>

#include "flat.h"
#include "layer/rank_outputs.h"
#include "switchyard/checkpoint.h"
#include "switchyard/safetensors.h"
#include "testing/forked_ranks.h"
#include "testing/small_layer.h"
#include "testing/temporary_folder.h"

namespace switchyard::soak {
namespace {

namespace fs = std::filesystem;
using testing::Buffer;
using Bits = std::vector<uint16_t>;

struct Arguments {
  fs::path source, json;
  int64_t seconds = 3600;
  std::string leak;
};

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "soak: %s\n", what);
  std::exit(1);
}

Bits bits_of(const Buffer<Bf16>& rows) {
  Bits bits(static_cast<size_t>(rows.count()));
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = rows[static_cast<int64_t>(i)].bits();
  return bits;
}

// Kept from the first round, compared in every later one.
class Same {
 public:
  explicit Same(const char* what) : what_(what) {}
  void check(Bits bits) {
    if (!first_)
      first_ = std::move(bits);
    else
      expect(bits == *first_, what_);
  }

 private:
  const char* what_;
  std::optional<Bits> first_;
};

// A layer that lives as long as the program.
class Steady {
 public:
  Steady() : call_(48) {
    layer_ =
        MoeLayer::create(testing::small_layer(), random_weights(testing::small_layer(), 1, 0, 7),
                         testing::small_options("auto"));
  }
  void run() {
    for (int i = 0; i < 20; ++i) {
      layer_->forward(i % 2 ? call_.with_ids() : call_.with_gate());
      layer_->wait();
    }
    same_.check(bits_of(call_.output));
  }

 private:
  testing::SmallCall call_;
  std::unique_ptr<MoeLayer> layer_;
  Same same_{"a layer that stays gave other bits"};
};

class MadeAndDestroyed {
 public:
  void run() {
    Bits all;
    for (const char* strategy : {"contiguous", "masked", "hybrid"}) {
      const auto layer =
          MoeLayer::create(testing::small_layer(), weights_, testing::small_options(strategy, 32));
      testing::SmallCall call(24);
      layer->forward(call.with_gate());
      layer->wait();
      layer->grow(64);
      const Bits bits = bits_of(call.output);
      all.insert(all.end(), bits.begin(), bits.end());
    }
    same_.check(std::move(all));
  }

 private:
  LayerWeights weights_ = random_weights(testing::small_layer(), 1, 0, 8);
  Same same_{"a new layer gave other bits"};
};

Bits outputs_of_threads(int num_ranks) {
  Bits all;
  for (const Bits& one : testing::thread_outputs(num_ranks))
    all.insert(all.end(), one.begin(), one.end());
  return all;
}

// One of the ranks gives up: the others get an error, and everything ends.
void lose_a_thread() {
  bool failed = false;
  try {
    run_local_ranks(2, [](Communicator& comm) {
      if (comm.rank() == 1) throw Error(Errc::Unsupported, "soak: this rank gives up");
      while (true) (void)testing::rank_outputs(comm);
    });
  } catch (const Error&) {
    failed = true;
  }
  expect(failed, "a lost thread was no error");
}

// Ranks as processes; `lost` of them is killed, and the others say so.
void run_processes(int num_ranks, int lost, Bits* bits) {
  const testing::SharedGather gather;
  constexpr size_t kMost = size_t{1} << 22;
  constexpr std::chrono::minutes kLimit(5);  // also on a machine that stands still for a while
  const testing::SharedArray<uint16_t> shared(kMost);
  const testing::SharedArray<size_t> counts(static_cast<size_t>(num_ranks));
  testing::ForkedRanks children(num_ranks, [&](int rank) {
    const auto comm = make_process_rank(rank, num_ranks, gather.of(rank, num_ranks));
    const auto r = static_cast<size_t>(rank);
    try {
      do {
        const Bits mine = testing::rank_outputs(*comm);
        if (rank == 0) std::copy(mine.begin(), mine.end(), shared.data());
        counts[r] = mine.size();
        if (rank == lost) raise(SIGKILL);
      } while (lost >= 0);
    } catch (const Error& e) {  // peers may still be in the call that the lost one has left
      if (lost < 0 || e.code() != Errc::Transport) throw;
    }
  });
  for (int r = 0; r < num_ranks; ++r)
    expect(children.finished(r, kLimit) == (r != lost), "a process did not end as it should");
  if (bits) bits->assign(shared.data(), shared.data() + counts[0]);
}

// Reads a checkpoint, writes a file and replaces it, and meets files that are refused.
void use_files(const fs::path& source, const fs::path& folder) {
  const auto checkpoint = Checkpoint::open(source / "data/tiny-code-moe");
  const LayerWeights weights = checkpoint->load_layer(checkpoint->moe_layers().front(), 1, 0);
  const Buffer<Bf16> rows({16, 64});
  const NamedTensor tensors[] = {{"rows", rows.view()}};
  const fs::path path = folder / "rows.safetensors";
  for (int i = 0; i < 2; ++i) write_safetensors(path, tensors);
  (void)TensorFile::open(path)->tensor("rows");
  fs::resize_file(path, 40);
  bool refused = false;
  try {
    TensorFile::open(path);
  } catch (const Error&) {
    refused = true;
  }
  expect(refused, "a file that was cut was read");
  fs::remove(path);
}

void lose(const std::string& what, const fs::path& folder, int64_t round) {
  if (what == "descriptor") expect(open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0, "no descriptor");
  if (what == "file") testing::write_file(folder / std::to_string(round), "lost");
  if (what == "memory") {
    auto* bytes = static_cast<volatile char*>(std::malloc(1 << 20));
    for (size_t i = 0; i < (1 << 20); i += 512) bytes[i] = 1;
  }
}

int64_t entries_of(const fs::path& folder) {
  int64_t count = 0;
  for (auto it = fs::recursive_directory_iterator(folder); it != fs::end(it); ++it) ++count;
  return count;
}

Sample sample(int64_t seconds, int64_t rounds, const fs::path& folder) {
  malloc_trim(0);
  const auto heap = mallinfo2();
  Sample s{.seconds = seconds, .rounds = rounds};
  s.heap_kib = static_cast<int64_t>((heap.uordblks + heap.hblkhd) / 1024);
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == "VmRSS:") status >> s.rss_kib;
    if (word == "Threads:") status >> s.threads;
  }
  status.close();
  s.descriptors = entries_of("/proc/self/fd") - 1;  // the one that lists them
  s.files = entries_of(folder);
  return s;
}

class Soak {
 public:
  explicit Soak(const Arguments& arguments) : arguments_(arguments) {
    samples_.reserve(static_cast<size_t>(arguments.seconds) + 2);  // so that they do not grow
  }

  const std::vector<Sample>& run() {
    // Drafts and sockets of the library would lie here.
    setenv("TMPDIR", folder_.path().c_str(), 1);
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t rounds = 1;; ++rounds) {
      round(rounds);
      const auto spent =
          std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - begin)
              .count();
      if (samples_.empty() || spent > samples_.back().seconds)
        samples_.push_back(sample(spent, rounds, folder_.path()));
      if (isatty(STDERR_FILENO))
        std::fprintf(stderr, "\r%lld of %lld s, %lld rounds, %lld KiB", as_long(spent),
                     as_long(arguments_.seconds), as_long(rounds),
                     as_long(samples_.back().rss_kib));
      if (spent >= arguments_.seconds) break;
    }
    if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\r\033[K");
    return samples_;
  }
  static long long as_long(int64_t n) { return n; }

 private:
  void round(int64_t number) {
    steady_.run();
    layers_.run();
    threads_.check(outputs_of_threads(2));
    lose_a_thread();
    Bits bits;
    run_processes(2, -1, &bits);
    processes_.check(std::move(bits));
    if (number % 4 == 0) run_processes(4, 1, nullptr);
    use_files(arguments_.source, folder_.path());
    lose(arguments_.leak, folder_.path(), number);
  }

  const Arguments& arguments_;
  testing::TemporaryFolder folder_;
  std::vector<Sample> samples_;
  Steady steady_;
  MadeAndDestroyed layers_;
  Same threads_{"ranks that are threads gave other bits"};
  Same processes_{"ranks that are processes gave other bits"};
};

void print(const std::vector<Sample>& samples) {
  constexpr size_t kRows = 20;
  std::printf("%8s %8s %9s %9s %12s %8s %6s\n", "seconds", "rounds", "RSS KiB", "heap KiB",
              "descriptors", "threads", "files");
  const size_t step = std::max<size_t>(1, samples.size() / kRows);
  for (size_t i = 0; i < samples.size(); i += step) {
    const Sample& s = samples[i];
    std::printf("%8lld %8lld %9lld %9lld %12lld %8lld %6lld\n", Soak::as_long(s.seconds),
                Soak::as_long(s.rounds), Soak::as_long(s.rss_kib), Soak::as_long(s.heap_kib),
                Soak::as_long(s.descriptors), Soak::as_long(s.threads), Soak::as_long(s.files));
  }
}

// Whether all are flat.
bool report(const std::vector<Sample>& samples, const fs::path& json_path) {
  print(samples);
  std::printf("\n%-12s %15s %15s %7s\n", "largest of", "first half", "second half", "allowed");
  bool all_flat = true;
  nlohmann::json verdicts = nlohmann::json::object(), rows = nlohmann::json::array();
  for (const Quantity& q : kQuantities) {
    const Verdict v = judge(samples, q);
    all_flat = all_flat && v.flat;
    std::printf("%-12s %15lld %15lld %+7lld  %s\n", q.name, Soak::as_long(v.first),
                Soak::as_long(v.second), Soak::as_long(q.slack), v.flat ? "flat" : "GROWS");
    verdicts[q.name] = {
        {"first_half", v.first}, {"second_half", v.second}, {"allowed", q.slack}, {"flat", v.flat}};
  }
  for (const Sample& s : samples)
    rows.push_back({s.seconds, s.rounds, s.rss_kib, s.heap_kib, s.descriptors, s.threads, s.files});
  const nlohmann::json all = {
      {"flat", all_flat},
      {"largest", verdicts},
      {"samples", rows},
      {"columns", {"seconds", "rounds", "rss_kib", "heap_kib", "descriptors", "threads", "files"}}};
  if (!json_path.empty()) testing::write_file(json_path, all.dump() + "\n");
  return all_flat;
}

std::optional<Arguments> arguments_of(int argc, char** argv) {
  if (argc < 2 || argc % 2 != 0) return {};
  Arguments a{.source = argv[1], .json = {}, .leak = {}};
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string option = argv[i], value = argv[i + 1];
    if (option == "--seconds")
      a.seconds = std::atoll(value.c_str());
    else if (option == "--json")
      a.json = value;
    else if (option == "--leak")
      a.leak = value;
    else
      return {};
  }
  if (a.seconds < 1 || a.seconds > 1'000'000) return {};
  return a;
}

}  // namespace
}  // namespace switchyard::soak

int main(int argc, char** argv) {
  using namespace switchyard::soak;
  const auto arguments = arguments_of(argc, argv);
  if (!arguments)
    return std::fprintf(stderr, "soak SOURCE [--seconds N] [--json FILE] [--leak KIND]\n"), 2;
  Soak soak(*arguments);
  return report(soak.run(), arguments->json) ? 0 : 1;
}
