// tests/cuda/crash.cc -- a test program that crashes says where; addr2line reads the places.
#include <execinfo.h>
#include <unistd.h>

#include <csignal>
#include <initializer_list>

namespace switchyard::testing {
namespace {

void say_where(int signal) {
  void* frames[64];
  backtrace_symbols_fd(frames, backtrace(frames, 64), STDERR_FILENO);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

[[maybe_unused]] const bool kSaysWhere = [] {
  void* frame[1];
  (void)backtrace(frame, 1);  // loads what it needs while the heap is whole
  for (const int crash : {SIGABRT, SIGSEGV, SIGBUS}) std::signal(crash, say_where);
  return true;
}();

}  // namespace
}  // namespace switchyard::testing
