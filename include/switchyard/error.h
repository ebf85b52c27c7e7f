// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/error.h -- public: what can go wrong, and how it is said.
#pragma once

#include <stdexcept>
#include <string>

namespace [[gnu::visibility("default")]] switchyard {

/// One list of errors, a line of meaning each. The values cross ranks and never change.
enum class Errc {
  ShapeMismatch = 1,  // a size, a dtype or a dimension breaks a rule
  Misaligned = 2,     // an address or a width is not a multiple of what the kernels copy
  Unsupported = 3,    // recognised, but this build, device or release cannot do it
  BadFile = 4,        // a file is missing, damaged or not what its header says
  Cuda = 5,           // the CUDA runtime or a kernel reported a fault
  Transport = 6,      // a peer is lost, late, or called something else; the communicator is over
  BadRouting = 7,     // expert ids or per-expert counts that no layer can serve
  BadState = 8,       // a sequence whose state stands outside its block map or outside the pool
};

/// "ShapeMismatch", ...; never null.
const char* errc_name(Errc code) noexcept;

/// Every error that Switchyard throws.
///
/// The message reads `<operation>: <name>=<value>, <the rule>. <What to do instead.>` on one line
/// of at most 2000 bytes, whatever a damaged file says: control characters become '?'. An error
/// that concerns several ranks is thrown on each of them, with the same code.
class Error : public std::runtime_error {
 public:
  Error(Errc code, const std::string& message)
      : std::runtime_error(one_line(message)), code_(code) {}
  Errc code() const noexcept { return code_; }

 private:
  static std::string one_line(std::string message);

  Errc code_;
};

}  // namespace switchyard
