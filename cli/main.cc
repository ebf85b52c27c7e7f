// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/main.cc -- switchyard: runs, explains and verifies MoE layers.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "commands.h"
#include "interrupts.h"
#include "options.h"
#include "switchyard/error.h"
#include "switchyard/version.h"

namespace switchyard::cli {
namespace {

int complain(int code, std::string message) {
  std::ranges::replace(message, '\n', ' ');
  std::fputs(fmt::format("{} {}\n", painted(Mood::Bad, "switchyard:", stderr), message).c_str(),
             stderr);
  return code;
}

// ---- the process

// A file or a connection that is opened must not get the number of a closed stdout.
void keep_standard_streams() {
  for (int fd = ::open("/dev/null", O_RDONLY); fd >= 0; fd = ::open("/dev/null", O_RDONLY))
    if (fd > STDERR_FILENO) {
      ::close(fd);
      return;
    }
}

// A result that did not arrive is a failure.
int flushed(int code) {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  return complain(kFailed, fmt::format("stdout: cannot be written ({})",
                                       errno != 0 ? std::strerror(errno) : "an earlier write"));
}

// ---- wrong usage

struct Commands {
  CLI::App& app;
  std::vector<std::pair<CLI::App*, Command>> all;

  std::vector<std::string> names() const {
    std::vector<std::string> names = {"help", "version"};
    for (const auto& [subcommand, command] : all) names.push_back(subcommand->get_name());
    return names;
  }
  // The one on the command line; without one, what all have in common.
  const CLI::App& chosen() const {
    const auto parsed = app.get_subcommands();
    return parsed.empty() ? app : *parsed.front();
  }
};

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options())
    for (const auto& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

// What no option or command took.
std::string describe_extra(const Commands& commands) {
  const CLI::App& command = commands.chosen();
  const auto extras = commands.app.remaining(/*recurse=*/true);
  const auto option =
      std::ranges::find_if(extras, [](const auto& word) { return word.starts_with('-'); });
  if (option == extras.end())
    return fmt::format("{} is no option of {}", extras.front(), command.get_name());
  const std::string word = option->substr(0, option->find('='));
  return fmt::format("{} is no option of {}{}", word, command.get_name(),
                     suggestion(word, option_names(command)));
}

// Options that the environment gives, by their names here. A message about their value names it.
struct EnvironmentOption {
  const char* variable;
  std::array<std::string_view, 2> options;
};
constexpr EnvironmentOption kFromEnvironment[] = {
    {"MOE_STRATEGY", {"--strategy", "--moe_strategy"}},
    {"MASKED_MAX_TOKEN_NUM", {"--masked-max-tokens", "--masked_max_token_num"}},
};

std::string with_environment(std::string message, const std::vector<std::string>& words) {
  for (const EnvironmentOption& known : kFromEnvironment) {
    const char* value = std::getenv(known.variable);
    const bool on_command_line = std::ranges::any_of(words, [&](std::string_view word) {
      return std::ranges::count(known.options, word.substr(0, word.find('='))) > 0;
    });
    if (value == nullptr || *value == '\0' || on_command_line) continue;
    if (message.find(fmt::format("={},", value)) == std::string::npos) continue;
    message += fmt::format(" (from the environment: {}={})", known.variable, value);
  }
  return message;
}

// "help run" means "run --help", "version" means "--version".
std::vector<std::string> words_of(int argc, char** argv) {
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  if (!words.empty() && words.front() == "version") words.front() = "--version";
  if (!words.empty() && words.front() == "help") {
    words.erase(words.begin());
    words.resize(std::min<size_t>(words.size(), 1));
    words.emplace_back("--help");
  }
  return words;
}

int parse_and_run(Commands& commands, const std::vector<std::string>& words) {
  const auto names = commands.names();
  if (!words.empty() && !words.front().starts_with('-') &&
      std::ranges::count(names, words.front()) == 0)
    return complain(kBadInput, fmt::format("{} is no command{} (see switchyard --help)",
                                           words.front(), suggestion(words.front(), names)));
  try {
    commands.app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const CLI::CallForHelp&) {
    print(commands.app.help());
    return kGood;
  } catch (const CLI::CallForVersion& e) {
    say("{}\n", e.what());
    return kGood;
  } catch (const CLI::ParseError& e) {
    const std::string what =
        dynamic_cast<const CLI::ExtrasError*>(&e) ? describe_extra(commands) : e.what();
    const std::string name = commands.chosen().get_name();
    return complain(
        kBadInput,
        with_environment(fmt::format("{} (see switchyard{} --help)", what,
                                     &commands.chosen() == &commands.app ? "" : " " + name),
                         words));
  }
  for (const auto& [subcommand, command] : commands.all)
    if (subcommand->parsed()) return command();
  return kBadInput;
}

int run(int argc, char** argv) {
  CLI::App app{
      "Switchyard runs the expert part of Mixture-of-Experts layers, explains what it chose and "
      "checks itself.",
      "switchyard"};
  app.option_defaults()->always_capture_default();
  app.set_version_flag("-v,--version", SWITCHYARD_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Start with:  switchyard check\n"
      "then:        switchyard run --preset olmoe-1b-7b --tokens 64 --ranks 2\n"
      "Exit codes: 0 good, 1 mismatch or failure, 2 wrong usage or bad input.");
  Commands commands{app, {}};
  for (const auto add :
       {add_run, add_models, add_explain, add_check, add_bench, add_plan, add_report}) {
    Command command = add(app);
    commands.all.emplace_back(app.get_subcommands({}).back(), std::move(command));
  }
  const auto words = words_of(argc, argv);
  try {
    return parse_and_run(commands, words);
  } catch (const std::exception& e) {
    if (std::ferror(stdout)) return kFailed;  // said when it is flushed
    return complain(exit_code(e), with_environment(e.what(), words));
  }
}

}  // namespace

int exit_code(const std::exception& e) {
  if (dynamic_cast<const UsageError*>(&e)) return kBadInput;
  const auto* error = dynamic_cast<const Error*>(&e);
  if (!error) return kFailed;
  switch (error->code()) {
    case Errc::ShapeMismatch:
    case Errc::Misaligned:
    case Errc::Unsupported:
    case Errc::BadFile: return kBadInput;
    case Errc::Cuda:
    case Errc::Transport:
    case Errc::BadRouting:
    case Errc::BadState: break;
  }
  return kFailed;
}

}  // namespace switchyard::cli

int main(int argc, char** argv) {
  using namespace switchyard;
  cli::keep_standard_streams();
  cli::explain_interrupts();
  return cli::flushed(cli::run(argc, argv));
}
