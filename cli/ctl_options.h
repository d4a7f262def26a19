// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_CTL_OPTIONS_H_
#define CLOISTER_CLI_CTL_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace cloister::cli {

struct CtlOptions {
  std::string socket;  // either this
  std::string tcp;     // or this, and a token
  std::string token_file;
  // "get", "put", "patch", "post", "start", "pause", "resume", "stop",
  // "power-button", "ctrl-alt-del", "memory", "convert", "events", "top".
  std::string verb;
  std::string path;  // of get, put, patch, post
  std::string body;  // JSON; "-": from standard input
  // convert
  std::vector<std::string> ranges;  // "GPA,SIZE"
  std::string to = "shared";
  std::string reason = "exchange-window";
  // events
  uint64_t count = 0;  // leave after so many; 0: never
  // top
  uint64_t interval_ms = 1000;
  bool once = false;
};

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_CTL_OPTIONS_H_
