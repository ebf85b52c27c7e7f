// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/interrupts.h -- what SIGINT, SIGTERM and SIGHUP do to this process.
#pragma once

namespace switchyard::cli {

// From here on each of the three is said in a line and ends the process; nohup's wish stands.
void explain_interrupts();
// They end this process without a word: another one speaks for all.
void keep_interrupts_silent();
// The exit code is known, its reason may be unsaid. Launchers send SIGTERM to the other ranks as
// soon as one has failed; it must come before neither the reason nor the result.
void ignore_termination();

}  // namespace switchyard::cli
