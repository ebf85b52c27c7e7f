// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/base/shared_library_test.cc -- libraries that are opened while the program runs.
#include "base/shared_library.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>

#include "switchyard/error.h"

namespace switchyard {
namespace {

using Cosine = double(double);

TEST(SharedLibrary, GivesTheFunctionsOfWhatIsThere) {
  SharedLibrary math({"libm.so.6"});
  Cosine* cosine = nullptr;
  math.find("cos", cosine);
  ASSERT_TRUE(math.is_open()) << math.why_not();
  ASSERT_NE(cosine, nullptr);
  EXPECT_EQ(cosine(0.5), std::cos(0.5));
}

TEST(SharedLibrary, SaysWhyWhatIsNotThereCannotBeOpened) {
  SharedLibrary none({"libswitchyard-none.so.7", "../none", "/none"});
  EXPECT_FALSE(none.is_open());
  EXPECT_NE(none.why_not().find("libswitchyard-none.so.7"), std::string::npos) << none.why_not();
  Cosine* cosine = &std::cos;
  const std::string before = none.why_not();
  none.find("cos", cosine);
  EXPECT_EQ(cosine, nullptr);
  EXPECT_EQ(none.why_not(), before);
}

TEST(SharedLibrary, IsNotOpenWithoutAFunctionThatIsWanted) {
  SharedLibrary math({"libm.so.6"});
  Cosine* cosine = &std::cos;
  math.find("switchyard_none", cosine);
  EXPECT_EQ(cosine, nullptr);
  EXPECT_FALSE(math.is_open());
  EXPECT_NE(math.why_not().find("switchyard_none"), std::string::npos) << math.why_not();
}

TEST(SharedLibrary, LooksIntoTheFolderThatItIsGiven) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "switchyard_shared_library";
  std::filesystem::create_directories(folder);
  const auto file = folder / "libswitchyard-here.so.1";
  std::filesystem::remove(file);
  EXPECT_FALSE(SharedLibrary({"libswitchyard-here.so.1", "", folder.c_str()}).is_open());
  // By another name, a library of every machine.
  Dl_info info{};
  ASSERT_NE(::dladdr(reinterpret_cast<void*>(static_cast<Cosine*>(&std::cos)), &info), 0);
  std::filesystem::create_symlink(info.dli_fname, file);
  EXPECT_TRUE(SharedLibrary({"libswitchyard-here.so.1", "", folder.c_str()}).is_open());
  std::filesystem::remove_all(folder);
}

// As packages that bring a library lie: in the folder of this code, or in one that is beside it.
TEST(SharedLibrary, LooksBesideTheCodeThatAsks) {
  namespace fs = std::filesystem;
  const fs::path own = fs::read_symlink("/proc/self/exe").parent_path();
  int num_names = 0;
  Dl_info info{}, self{};
  ASSERT_NE(::dladdr(reinterpret_cast<void*>(static_cast<Cosine*>(&std::cos)), &info), 0);
  ASSERT_NE(::dladdr(reinterpret_cast<void*>(&errc_name), &self), 0);
  if (*self.dli_fname != '/') GTEST_SKIP() << "started by a relative name, which is not followed";
  const auto found = [&](const fs::path& folder, const char* beside) {
    // A new name each time: what was opened once is found by its name again.
    const std::string soname = "libswitchyard-beside.so." + std::to_string(num_names++);
    fs::create_directories(folder);
    fs::create_symlink(info.dli_fname, folder / soname);
    const bool is_open = SharedLibrary({soname.c_str(), beside, ""}).is_open();
    fs::remove(folder / soname);
    return is_open;
  };
  EXPECT_TRUE(found(own, ""));
  EXPECT_TRUE(found(own / "switchyard_beside/lib", "switchyard_beside/lib"));
  EXPECT_FALSE(found(own / "switchyard_beside/lib", "switchyard_beside"));
  EXPECT_FALSE(found(own / "switchyard_beside/lib", ""));
  fs::remove_all(own / "switchyard_beside");
}

// A program that has a library open has chosen it: no second one with states of its own.
TEST(SharedLibrary, TakesWhatIsOpenBeforeAnotherCopyBesideTheCode) {
  namespace fs = std::filesystem;
  const fs::path copy = fs::read_symlink("/proc/self/exe").parent_path() / "libm.so.6";
  Dl_info info{};
  ASSERT_NE(::dladdr(reinterpret_cast<void*>(static_cast<Cosine*>(&std::cos)), &info), 0);
  fs::copy_file(info.dli_fname, copy, fs::copy_options::overwrite_existing);
  SharedLibrary math({"libm.so.6"});
  fs::remove(copy);
  Cosine* cosine = nullptr;
  math.find("cos", cosine);
  EXPECT_EQ(reinterpret_cast<void*>(cosine), ::dlsym(RTLD_DEFAULT, "cos"));
}

}  // namespace
}  // namespace switchyard
