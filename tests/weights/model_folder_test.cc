// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/model_folder_test.cc -- a cache's folders lead to a snapshot, or say which there
// are.
#include "weights/checkpoint_files.h"

#include <gtest/gtest.h>

#include "switchyard/error.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryFolder;

std::string refusal(const fs::path& path) {
  try {
    const auto found = find_model_folder(path);
    ADD_FAILURE() << path << " is " << found;
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::BadFile);
    return e.what();
  }
  return "";
}

void expect_refused(const fs::path& path, std::initializer_list<const char*> parts) {
  const auto message = refusal(path);
  for (const char* part : parts) EXPECT_NE(message.find(part), std::string::npos) << message;
}

// models--org--name with some snapshots.
struct Cache {
  explicit Cache(std::initializer_list<const char*> commits, const char* main = nullptr) {
    fs::create_directories(model / "blobs");
    fs::create_directories(model / "refs");
    fs::create_directories(model / "snapshots");
    for (const char* commit : commits) {
      fs::create_directories(model / "snapshots" / commit);
      fs::create_symlink("../../blobs/x", model / "snapshots" / commit / "config.json");
    }
    if (main) testing::write_file(model / "refs" / "main", main);
  }
  TemporaryFolder folder;
  fs::path model = folder / "models--org--name";
};

TEST(ModelFolder, AFolderWithAModelIsTakenAsItIs) {
  for (const char* file : {"config.json", "model.safetensors", "model.safetensors.index.json"}) {
    const TemporaryFolder folder;
    fs::create_directories(folder / "snapshots");  // a folder of the model's own
    testing::write_file(folder / file, "");
    EXPECT_EQ(find_model_folder(folder.path()), folder.path());
  }
  const TemporaryFolder empty;
  EXPECT_EQ(find_model_folder(empty.path()), empty.path()) << "what it lacks is said later";
}

TEST(ModelFolder, ACacheLeadsToTheSnapshotOfMain) {
  for (const char* main : {"aaa", "aaa\n"}) {
    const Cache cache({"aaa", "bbb"}, main);
    EXPECT_EQ(find_model_folder(cache.model), cache.model / "snapshots" / "aaa");
    const auto snapshot = cache.model / "snapshots" / "bbb";
    EXPECT_EQ(find_model_folder(snapshot), snapshot);
  }
}

TEST(ModelFolder, ACacheWithoutMainListsItsSnapshots) {
  expect_refused(Cache({"aaa", "bbb"}).model, {"without refs/main", "aaa, bbb", "Pass one of"});
  expect_refused(Cache({"aaa"}, "ccc").model, {"refs/main names the snapshot ccc", ": aaa."});
  expect_refused(Cache({}, "ccc").model, {"ccc", "holds no snapshot", "Download"});
  expect_refused(Cache({"aaa"}, "../snapshots/aaa").model, {"which is not there"});
  expect_refused(Cache({"aaa"}, "..").model, {"which is not there"});
}

TEST(ModelFolder, TheFolderOfSnapshotsLeadsToTheOnlyOne) {
  const Cache one({"aaa"});
  EXPECT_EQ(find_model_folder(one.model / "snapshots"), one.model / "snapshots" / "aaa");
  EXPECT_EQ(find_model_folder(one.model / "snapshots" / ""), one.model / "snapshots" / "aaa");
  expect_refused(Cache({"aaa", "bbb"}, "aaa").model / "snapshots",
                 {"holds 2 snapshots", "aaa, bbb"});
  expect_refused(Cache({}).model / "snapshots", {"holds 0 snapshots", "holds no snapshot"});
}

TEST(ModelFolder, WhatIsNoFolderSaysHowToGetOne) {
  expect_refused("Qwen/Qwen3-30B-A3B",
                 {"is no folder", "hf download Qwen/Qwen3-30B-A3B --local-dir DIR"});
  for (const char* path : {"/no/such", "./org/name", "../name", "a/b/c", "name", "org/"}) {
    const auto message = refusal(path);
    EXPECT_NE(message.find("is no folder. Pass the folder"), std::string::npos) << message;
  }
  const TemporaryFolder folder;
  testing::write_file(folder / "file", "");
  expect_refused(folder / "file", {"is no folder. Pass the folder"});
  fs::create_symlink("gone", folder / "link");
  expect_refused(folder / "link", {"is a link to gone, which does not exist"});
}

}  // namespace
}  // namespace switchyard
