// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/interrupts.cc
#include "interrupts.h"

#include <signal.h>
#include <unistd.h>

#include <cstring>

namespace switchyard::cli {
namespace {

constexpr int kInterrupts[] = {SIGINT, SIGTERM, SIGHUP};

void say_interrupted(int signal) {
  const char* text = signal == SIGINT    ? "switchyard: interrupted by SIGINT\n"
                     : signal == SIGTERM ? "switchyard: interrupted by SIGTERM\n"
                                         : "switchyard: interrupted by SIGHUP\n";
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text, std::strlen(text));
  ::raise(signal);  // whose default ends the process, once this returns
}

void handle(int signal, void (*handler)(int)) {
  struct sigaction action {
  }, before{};
  action.sa_handler = handler;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  if (::sigaction(signal, nullptr, &before) == 0 && before.sa_handler != SIG_IGN)
    ::sigaction(signal, &action, nullptr);
}

}  // namespace

void explain_interrupts() {
  for (const int signal : kInterrupts) handle(signal, say_interrupted);
}

void keep_interrupts_silent() {
  for (const int signal : kInterrupts) handle(signal, SIG_DFL);
}

void ignore_termination() {
  handle(SIGTERM, SIG_IGN);
}

}  // namespace switchyard::cli
