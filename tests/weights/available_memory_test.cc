// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/available_memory_test.cc -- the least limit counts, wherever it stands.
#include "weights/weight_block.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <fstream>
#include <string>

#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

// A tree of /proc and /sys/fs/cgroup.
class Machine {
 public:
  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root / path).parent_path());
    testing::write_file(root / path, text);
  }
  void group(const std::string& path, const std::string& max, const std::string& current,
             const std::string& inactive = "") const {
    write("sys/fs/cgroup" + path + "/memory.max", max + "\n");
    write("sys/fs/cgroup" + path + "/memory.current", current + "\n");
    if (!inactive.empty())
      write("sys/fs/cgroup" + path + "/memory.stat",
            "anon 7\ninactive_anon 5\ninactive_file " + inactive + "\nactive_file 3\n");
  }
  uint64_t bytes() const { return available_memory(root.path().string() + "/").bytes; }
  std::string of() const { return available_memory(root.path().string() + "/").of; }

  testing::TemporaryFolder root;
};

constexpr const char* kInfo =
    "MemTotal:       16000000 kB\nMemFree:         100 kB\nMemAvailable:    1000 kB\n";

TEST(AvailableMemory, OfAnUnknownMachineIsEnough) {
  EXPECT_EQ(Machine().bytes(), UINT64_MAX);
  const Machine broken;
  broken.write("proc/meminfo", "MemAvailable: many kB\n");
  broken.write("proc/self/cgroup", "nonsense\n0:\n:::\n");
  EXPECT_EQ(broken.bytes(), UINT64_MAX);
}

TEST(AvailableMemory, OfTheMachine) {
  const Machine m;
  m.write("proc/meminfo", kInfo);
  EXPECT_EQ(m.bytes(), 1000u * 1024);
  EXPECT_EQ(m.of(), "the machine");
}

TEST(AvailableMemory, TheTightestGroupAboveTheProcessCounts) {
  const Machine m;
  m.write("proc/meminfo", kInfo);
  m.write("proc/self/cgroup", "0::/a/b\n");
  m.group("/a/b", "max", "100");
  m.group("/a", "900000", "200000");
  EXPECT_EQ(m.bytes(), 700000u);
  EXPECT_NE(m.of().find("control group"), std::string::npos);
  m.group("/a/b", "300000", "100");
  EXPECT_EQ(m.bytes(), 299900u);
  m.group("", "150000", "1");  // as a container sees its own group
  EXPECT_EQ(m.bytes(), 149999u);
  m.group("/other", "1", "0");
  EXPECT_EQ(m.bytes(), 149999u) << "the group of somebody else";
  m.group("/a", "max", "0");
  m.group("/a/b", "2000000", "0");
  m.group("", "max", "0");
  EXPECT_EQ(m.bytes(), 1000u * 1024) << "groups above what the machine has";
}

TEST(AvailableMemory, FilesThatAGroupDoesNotUseAreFree) {
  const Machine m;
  m.write("proc/self/cgroup", "0::/\n");
  m.group("", "1000000", "900000", "600000");
  EXPECT_EQ(m.bytes(), 700000u);
  m.group("", "1000000", "2000000", "1");
  EXPECT_EQ(m.bytes(), 0u) << "more than allowed is in use";
  m.group("", "1000000", "500", "600");
  EXPECT_EQ(m.bytes(), 1000000u) << "never more than the limit";
}

TEST(AvailableMemory, APathThatIsNotThereLeadsToTheFoldersAboveIt) {
  for (const char* line :
       {"0::/system.slice/docker-1.scope\n", "0::/../../x\n", "0::\n", "0::/a/\n"}) {
    const Machine m;
    m.write("proc/self/cgroup", line);
    m.group("", "5000", "1000");
    EXPECT_EQ(m.bytes(), 4000u) << line;
  }
}

TEST(AvailableMemory, GroupsOfTheFirstVersion) {
  const Machine m;
  m.write("proc/self/cgroup",
          "12:cpu,cpuacct:/c\n5:memory:/docker/1\n3:hugetlb_memory:/x\n1:name=systemd:/\n0::/\n");
  m.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  m.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "12345\n");
  EXPECT_GT(m.bytes(), uint64_t{1} << 62) << "unlimited";
  m.write("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "8000\n");
  m.write("sys/fs/cgroup/memory/docker/1/memory.usage_in_bytes", "5000\n");
  m.write("sys/fs/cgroup/memory/docker/1/memory.stat",
          "inactive_file 4\ntotal_inactive_file 1000\n");
  EXPECT_EQ(m.bytes(), 4000u);
  m.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "13345\n");  // the container's own mount
  EXPECT_EQ(m.bytes(), 1000u);
}

TEST(AvailableMemory, LimitsOfTheProcess) {
  const Machine m;
  const auto limits = [&](const std::string& data, const std::string& space) {
    m.write("proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units     \n"
            "Max data size             " +
                data +
                "            unlimited            bytes     \n"
                "Max address space         " +
                space + "            unlimited            bytes     \n");
  };
  m.write("proc/self/status", "Name:\tx\nVmSize:\t    100 kB\nVmData:\t      10 kB\n");
  limits("unlimited", "unlimited");
  EXPECT_EQ(m.bytes(), UINT64_MAX);
  limits("20480", "unlimited");
  EXPECT_EQ(m.bytes(), 10240u);
  EXPECT_EQ(m.of(), "its limit RLIMIT_DATA");
  limits("unlimited", "103424");
  EXPECT_EQ(m.bytes(), 1024u);
  EXPECT_EQ(m.of(), "its limit RLIMIT_AS");
}

// What this process has taken of its RLIMIT_DATA.
uint64_t used_data() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmData:")) return std::stoull(line.substr(7)) * 1024;
  return 0;
}

// Room for what reading takes, sanitizers' memory included.
TEST(AvailableMemory, OfThisProcessFollowsItsLimit) {
  constexpr uint64_t kRoom = uint64_t{64} << 20;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_DATA, &before), 0);
  EXPECT_GT(available_memory().bytes, kRoom);
  const rlimit tight{rlim_t{used_data() + kRoom}, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_DATA, &tight), 0);
  const AvailableMemory seen = available_memory();
  ASSERT_EQ(::setrlimit(RLIMIT_DATA, &before), 0);
  EXPECT_LE(seen.bytes, kRoom);
  EXPECT_STREQ(seen.of, "its limit RLIMIT_DATA");
}

}  // namespace
}  // namespace switchyard
