// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_MONITOR_LOG_H_
#define CLOISTER_CLI_MONITOR_LOG_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cloister/api/event_hub.h"
#include "cloister/api/json.h"
#include "cloister/api/log_target.h"
#include "cloister/base/log.h"
#include "cloister/cli/log_options.h"

namespace cloister::cli {

// The log of a process that runs a VM: a rate-limited logger whose lines go to
// standard error or to the file that the options, --config-file or PUT /logger
// name, and whose warnings and errors are events of the API. A refused system
// call (InstallRefusalHandler) is named in that file as well. Thread-safe; one
// at a time in a process.
class MonitorLog {
 public:
  // Opens nothing. `id` is the VM's.
  MonitorLog(std::string id, base::LogLevel minimum);
  // From here on refusals are named on standard error alone.
  ~MonitorLog();
  MonitorLog(const MonitorLog&) = delete;
  MonitorLog& operator=(const MonitorLog&) = delete;

  base::Logger& log() { return log_; }
  api::EventHub& events() { return events_; }

  // Puts a Logger object (of the API's schema) into effect. InvalidArgument,
  // naming log_path, if its file cannot be opened.
  absl::Status Configure(const api::Json& logger);

  // What ends the process: to the log and, if that is a file, to standard error
  // too, where whoever started it looks.
  void Fail(absl::string_view message);

 private:
  const std::string id_;
  api::EventHub events_;
  api::LogTarget target_;
  base::Logger log_;
};

// `config`, the text of a --config-file ("{}" without one), with what the
// options say of log and metrics in place of what it says. A text that is not
// an object stays as it is: whoever reads it finds the mistake.
std::string WithLogOptions(const std::string& config,
                           const LogOptions& options);

// `status` with the names of the options that set these fields, if they did.
absl::Status NameLogOptions(const absl::Status& status,
                            const LogOptions& options);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_MONITOR_LOG_H_
