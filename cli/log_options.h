// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_LOG_OPTIONS_H_
#define CLOISTER_CLI_LOG_OPTIONS_H_

#include <string>

#include "cloister/base/log.h"

namespace cloister::cli {

// Where a process that runs a VM writes lines and numbers about it.
struct LogOptions {
  // Of every command: --log-level.
  base::LogLevel minimum = base::LogLevel::kInfo;
  std::string path;   // empty: standard error, or what --config-file says
  std::string level;  // Firecracker's name of it; empty: `minimum` holds
  bool show_level = false;
  std::string metrics_path;  // empty: none, or what --config-file says

  bool wants_logger() const {
    return !path.empty() || !level.empty() || show_level;
  }
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_LOG_OPTIONS_H_
