// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/json_file_test.cc -- JSON as Python writes it is read; broken JSON says where.
#include "weights/json_file.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "switchyard/error.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

using nlohmann::json;

std::string refusal(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::BadFile) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

TEST(QuotedJson, PutsQuotesAroundWhatIsNoFiniteNumberAndNothingElse) {
  const std::string big(400, '9');
  const std::pair<std::string, std::string> all[] = {
      {"", ""},
      {"NaN", R"("NaN")"},
      {"Infinity", R"("Infinity")"},
      {"-Infinity", R"("-Infinity")"},
      {"[NaN,NaN]", R"(["NaN","NaN"])"},
      {"{\"a\":-Infinity}", R"({"a":"-Infinity"})"},
      {"[ Infinity\n, 1]", "[ \"Infinity\"\n, 1]"},
      // In strings, keys among them, and behind a quote that is escaped.
      {R"({"NaN":"Infinity"})", R"({"NaN":"Infinity"})"},
      {R"(["a\"NaN", NaN])", R"(["a\"NaN", "NaN"])"},
      {R"(["a\\", NaN])", R"(["a\\", "NaN"])"},
      // Words that only begin or end like one.
      {"[NaNs, xNaN, Infinit, +Infinity, nan, -NaN]",
       "[NaNs, xNaN, Infinit, +Infinity, nan, -NaN]"},
      {"{NaN:1, 1e999 \n: Infinity}", "{NaN:1, 1e999 \n: \"Infinity\"}"},
      // Numbers beyond a double; what is too small is 0 everywhere.
      {"[1e999,-1E+400, 1e308]", R"(["1e999","-1E+400", 1e308])"},
      {"[1e-999, -1E-400, 1e99999999999999999999]",
       R"([1e-999, -1E-400, "1e99999999999999999999"])"},
      {"[" + big + "," + big.substr(0, 100) + "]", "[\"" + big + "\"," + big.substr(0, 100) + "]"},
      {"[0." + std::string(400, '0') + "1]", "[0." + std::string(400, '0') + "1]"},
      {"[1e, 1e+, e, -, 1.5]", "[1e, 1e+, e, -, 1.5]"},
  };
  for (const auto& [text, expected] : all) EXPECT_EQ(QuotedJson(text).text(), expected);
}

TEST(QuotedJson, AHugeNumberTakesTimeOnce) {
  const std::string text = "[" + std::string(8 << 20, '1') + "]";
  EXPECT_EQ(QuotedJson(text).text().size(), text.size() + 2);
}

TEST(JsonFile, WhatNobodyReadsMayBeNoNumber) {
  const auto config = parse_json_object(
      R"({"limit":[0.0,Infinity],"low":-Infinity,"nan":NaN,"big":1e999,
          "as_5":{"__float__":"Infinity"},"hidden_size":16,"scale":2.5})",
      "config.json");
  const ConfigReader reader(config, "config.json");
  EXPECT_EQ(reader.integer({"hidden_size"}), 16);
  EXPECT_EQ(reader.number_or({"scale"}, 0), 2.5);
  for (const char* key : {"limit", "low", "nan", "big", "as_5"}) {
    EXPECT_NE(refusal([&] { (void)reader.number_or({key}, 0); }).find("need a finite number"),
              std::string::npos);
    EXPECT_NE(refusal([&] { (void)reader.integer({key}); }).find("need an integer"),
              std::string::npos);
    EXPECT_NE(refusal([&] { (void)reader.boolean_or({key}, false); }).find("need true or false"),
              std::string::npos);
  }
  EXPECT_NE(refusal([&] { (void)reader.number_or({"low"}, 0); }).find("low=\"-Infinity\""),
            std::string::npos);
}

TEST(JsonFile, OfAKeyThatOccursTwiceTheLastCounts) {
  EXPECT_EQ(parse_json_object(R"({"a":1,"b":2,"a":3})", "x"), (json{{"a", 3}, {"b", 2}}));
}

TEST(JsonFile, BrokenJsonSaysLineAndWhatStandsThere) {
  const std::pair<const char*, const char*> all[] = {
      {"{\n \"a\": 1,\n}", "c.json, line 3: no JSON at the end of '}'. "},
      {"{\"a\": nan}", "line 1: no JSON at the end of '{\"a\": nan'"},
      {"{\n\n\"a\": Infinit,\n\"b\":1}", "line 3: no JSON at the end of '\"a\": Infinit'"},
      {"{\"a\": [Infinity,\nNaN,\n+Infinity]}", "line 3: no JSON at the end of '+Infinity'"},
      {"{\"a\": 'x'}", "line 1: no JSON at the end of '{\"a\": 'x'"},
      {"{\"a\": True}", "line 1: no JSON at the end of '{\"a\": True'"},
      {"{\"a\": 1}\n{", "line 2: no JSON at the end of '{'"},
      {"{\"a\": 1} // why", "line 1: no JSON at the end of '{\"a\": 1} /'"},
      {"{\"a\"\n:\n1 \"b\"}", "line 3: no JSON at the end of '1 \"b\"'"},
      {"", "line 1: the text ends inside its JSON"},
      {"{\n\"a\": ", "line 2: the text ends inside its JSON"},
      {"{\n\"a\": \"xyz", "line 2: the text ends inside its JSON"},
      {"{\"a\": Infinity", "line 1: the text ends inside its JSON"},
      {"{\n  \"a\": \"x\n\"}", "line 2: no JSON at the end of '\"a\": \"x'"},
      {"\n\n", "line 3: the text ends inside its JSON"},
      {"{\"a\": 1}\n\x01", "line 2: no JSON at the end of"},
      {"{\"a\": \"\xff\"}", "line 1: no JSON at the end of"},
      {"{\"a\":1 Infinity", "line 1: no JSON at the end of '{\"a\":1 Infinity'"},
      {"1\nNaN", "line 2: no JSON at the end of 'NaN'"},
      {"{NaN:1}", "line 1: no JSON at the end of '{NaN'"},
      {"[1]", "c.json, is no JSON object"},
      {"NaN", "c.json, is no JSON object"},
      {"7", "c.json, is no JSON object"},
  };
  for (const auto& [text, expected] : all) {
    const auto message = refusal([&, text = text] { (void)parse_json_object(text, "c.json"); });
    EXPECT_NE(message.find(expected), std::string::npos) << message << " / " << expected;
  }
}

TEST(JsonFile, LongTextThatIsBrokenIsShownInPart) {
  const auto message = refusal(
      [] { (void)parse_json_object("{\"" + std::string(5000, 'x') + "\n\":1}", "c.json"); });
  EXPECT_LT(message.size(), 200u) << message;
}

TEST(JsonFile, ConfigsOfMoreThan16MiBAreRefusedUnread) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "c.json", "{}");
  EXPECT_EQ(*read_json_object(folder / "c.json"), json::object());
  std::filesystem::resize_file(folder / "c.json", (16 << 20) + 1);
  EXPECT_NE(refusal([&] { (void)read_json_object(folder / "c.json"); }).find("at most 16777216"),
            std::string::npos);
  testing::write_file(folder / "empty.json", "");
  EXPECT_NE(
      refusal([&] { (void)read_json_object(folder / "empty.json"); }).find("line 1: the text"),
      std::string::npos);
}

}  // namespace
}  // namespace switchyard
