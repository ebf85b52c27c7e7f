// cli/main.cc -- switchyard: runs, explains and verifies MoE layers.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "commands.h"
#include "switchyard/error.h"

namespace switchyard::cli {
namespace {

int complain(int code, std::string message) {
  std::ranges::replace(message, '\n', ' ');
  std::fputs(fmt::format("switchyard: {}\n", message).c_str(), stderr);
  return code;
}

int run(int argc, char** argv) {
  CLI::App app{
      "Switchyard runs the expert part of Mixture-of-Experts layers, explains what it chose and "
      "checks itself."};
  app.set_version_flag("--version", SWITCHYARD_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Start with:  switchyard check\n"
      "then:        switchyard run --preset olmoe-1b-7b --tokens 64 --ranks 2\n"
      "Exit codes: 0 good, 1 mismatch or failure, 2 wrong usage or bad input.");
  std::vector<std::pair<CLI::App*, Command>> commands;
  for (const auto add : {add_run, add_models, add_explain, add_check, add_bench, add_plan}) {
    Command command = add(app);
    commands.emplace_back(app.get_subcommands({}).back(), std::move(command));
  }
  const bool known =
      argc < 2 || argv[1][0] == '-' ||
      std::ranges::any_of(commands, [&](const auto& c) { return c.first->get_name() == argv[1]; });
  if (!known)
    return complain(kBadInput, fmt::format("{} is no command (see switchyard --help)", argv[1]));
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help, --version
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    return complain(kBadInput, fmt::format("{} (see switchyard --help)", e.what()));
  }
  for (const auto& [subcommand, command] : commands)
    if (subcommand->parsed()) return command();
  return kBadInput;
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
  try {
    return cli::run(argc, argv);
  } catch (const std::exception& e) {
    return cli::complain(cli::exit_code(e), e.what());
  }
}
