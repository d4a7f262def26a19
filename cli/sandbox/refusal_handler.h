// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_SANDBOX_REFUSAL_HANDLER_H_
#define CLOISTER_CLI_SANDBOX_REFUSAL_HANDLER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cloister/base/unique_fd.h"

namespace cloister::cli {

// Handles SIGSYS, for the whole process: a system call that a filter of
// vmm/sandbox refused is named on stderr and in the RefusalLog, with the kind
// of thread and its first arguments, sockets are removed (crash_cleanup.h), and
// the process ends with kExitSeccomp. A SIGSYS of another origin has its usual
// effect. The handler is async-signal-safe; if RawMode is active its handler
// restores the terminal and calls this one.
absl::Status InstallRefusalHandler();

// Where a refusal is named besides: a line of this file, which is
// `before_time`, the time as "2026-11-21T05:41:31.123456Z", `before_message`,
// the message, of letters that JSON does not escape, and `after_message`. Each
// text is cut after 255 bytes.
struct RefusalLog {
  base::UniqueFd fd;  // appends, and does not block; not valid: nowhere
  std::string before_time;
  std::string before_message;
  std::string after_message;
};

// From now on, in place of the one before. Any thread, not from a handler.
void SetRefusalLog(RefusalLog log);

// How the handler writes a time in microseconds since 1970, UTC, up to the year
// 9999: without the C library, which locks.
std::string RefusalTime(uint64_t utc_us);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_SANDBOX_REFUSAL_HANDLER_H_
