// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/crash.cc -- a test program that crashes, or is overdue, says where, in every thread;
// addr2line reads the places.
#include <dirent.h>
#include <execinfo.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <csignal>
#include <ctime>
#include <initializer_list>
#include <string_view>

#include "testing/overdue.h"

namespace switchyard::testing {
namespace {

// Nothing here allocates: what crashed may be the heap, and hold its lock.
std::atomic<pid_t> g_crashed{0};  // the first thread that did
std::atomic<bool> g_answered{false};

void say(std::string_view text) {
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text.data(), text.size());
}

void say_where_i_am() {
  void* frames[64];
  backtrace_symbols_fd(frames, backtrace(frames, 64), STDERR_FILENO);
}

void answer(int) {
  say_where_i_am();
  g_answered = true;
}

// A thread that blocks signals, as those of the driver do, is passed over.
void ask(std::string_view name) {
  pid_t thread = 0;
  std::from_chars(name.begin(), name.end(), thread);
  if (thread == 0 || thread == gettid()) return;
  say("thread "), say(name), say("\n");
  g_answered = false;
  if (syscall(SYS_tgkill, getpid(), thread, SIGUSR1) != 0) return;
  for (int i = 0; i < 200 && !g_answered; ++i) {
    const timespec millisecond{0, 1'000'000};
    nanosleep(&millisecond, nullptr);
  }
}

void ask_the_others() {
  const int folder = open("/proc/self/task", O_RDONLY | O_DIRECTORY);
  alignas(dirent64) char entries[4096];
  for (long size; (size = syscall(SYS_getdents64, folder, entries, sizeof entries)) > 0;)
    for (long at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const dirent64*>(entries + at);
      ask(entry->d_name);
      at += entry->d_reclen;
    }
}

void say_where(int signal) {
  pid_t first = 0;
  if (g_crashed.compare_exchange_strong(first, gettid())) say_where_all_are();
  // It ends the process, also when it crashes while it speaks; the others wait to be asked.
  while (first != 0 && first != gettid()) pause();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

[[maybe_unused]] const bool kSaysWhere = [] {
  void* frame[1];
  (void)backtrace(frame, 1);  // loads what it needs while the heap is whole
  std::signal(SIGUSR1, answer);
  for (const int crash : {SIGABRT, SIGSEGV, SIGBUS}) std::signal(crash, say_where);
  return true;
}();

}  // namespace

void say_where_all_are() {
  say_where_i_am();
  ask_the_others();
}

}  // namespace switchyard::testing
