// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/report_command.cc -- switchyard report: results files as a page and as pictures.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <span>

#include "commands.h"
#include "layer_options.h"
#include "report/page.h"
#include "report/write.h"
#include "switchyard/file.h"

namespace switchyard::cli {
namespace {

namespace fs = std::filesystem;

struct ReportArguments {
  std::vector<std::string> results;
  std::string output, svg_dir;
};

struct File {
  std::string path, text;
};

void check(const std::vector<File>& files, const ReportArguments& a) {
  for (const File& file : files) {
    check_file_target(file.path);
    for (const auto& input : a.results) refuse_same_file(file.path, input, "a results file");
  }
}

void write(const File& file) {
  write_file(file.path, std::as_bytes(std::span(file.text)));
}

int report(const ReportArguments& a) {
  const bool to_stdout = a.output.empty() && a.svg_dir.empty();
  require_usage(
      !to_stdout || isatty(STDOUT_FILENO) == 0,
      "report: stdout is a terminal, which shows no page. Name a file: --output report.html");
  const Results results = read_results(a.results);
  std::vector<File> files;
  // Everything is made, and every target looked at, before the first file is written.
  if (!a.output.empty()) files.push_back({a.output, report_page(results)});
  if (!a.svg_dir.empty())
    for (const Chart& chart : report_charts(results))
      files.push_back({(fs::path(a.svg_dir) / (chart.file + ".svg")).string(), chart.svg.file()});
  check(files, a);
  for (const File& file : files) write(file);
  if (to_stdout) std::fputs(report_page(results).c_str(), stdout);
  for (const File& file : files) say("{:>7} bytes  {}\n", file.text.size(), file.path);
  return kGood;
}

}  // namespace

void check_report_target(const std::string& path) {
  check_file_target(path);
}

void write_report(const std::string& path, const nlohmann::json& run) {
  write({path, report_page(results_of("bench.json", run))});
}

Command add_report(CLI::App& app) {
  auto a = std::make_shared<ReportArguments>();
  auto& c = *app.add_subcommand("report", "Show results files as one page with pictures");
  c.add_option("results", a->results,
               "JSON of `switchyard bench --json`, of scripts/gpu_check.sh or of `switchyard run "
               "--json` (load of experts); tables of peers such as bench/results/h100_peers.tsv. "
               "Runs that several files have become a trend")
      ->required()
      ->type_name("FILE")
      ->default_str("");
  add_value(c, "-o,--output", a->output, "FILE",
            "The page, HTML that needs no network and no script; without it, to stdout");
  add_value(c, "--svg-dir", a->svg_dir, "DIR",
            "Writes each picture to this folder; without --output no page");
  c.footer(
      "Example:\n  switchyard report bench/results/h100.json bench/results/h100_peers.tsv \\\n"
      "    --output report.html\n"
      "  switchyard report old.json new.json --output trend.html\n"
      "  switchyard report bench/results/h100.json --svg-dir pictures");
  return [a] { return report(*a); };
}

}  // namespace switchyard::cli
