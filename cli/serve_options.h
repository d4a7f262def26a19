// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_SERVE_OPTIONS_H_
#define CLOISTER_CLI_SERVE_OPTIONS_H_

#include <string>

#include "cloister/cli/api_options.h"
#include "cloister/cli/log_options.h"
#include "cloister/cli/sandbox/sandbox.h"

namespace cloister::cli {

struct ServeOptions {
  ApiOptions api;
  std::string config_file;  // empty: wait for InstanceStart
  bool no_api = false;
  std::string id = "anonymous-instance";
  bool boot_timer = false;
  SandboxOptions sandbox;
  LogOptions log;
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_SERVE_OPTIONS_H_
