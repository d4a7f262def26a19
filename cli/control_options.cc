// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/control_options.h"

#include <CLI/CLI.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cloister/api/request.h"
#include "cloister/api/schema.h"

namespace cloister::cli {
namespace {

constexpr char kOctal[] = "expected three octal digits, such as 660";

CLI::Option* AddCount(CLI::App* app, const char* name, uint64_t* value,
                      uint64_t minimum, uint64_t maximum, const char* text) {
  return app->add_option(name, *value, text)
      ->check(CLI::Range(minimum, maximum))
      ->type_name("N");
}

CLI::App* AddVerb(CLI::App* app, CtlOptions* options, const char* verb,
                  const char* text) {
  CLI::App* command = app->add_subcommand(verb, text);
  command->fallthrough();
  command->callback([options, verb] { options->verb = verb; });
  return command;
}

void AddRequestVerbs(CLI::App* app, CtlOptions* options) {
  const struct {
    const char* verb;
    api::Method method;
    const char* text;
  } kVerbs[] = {{"get", api::Method::kGet, "GET a path and print the answer"},
                {"put", api::Method::kPut, "PUT a body of JSON"},
                {"patch", api::Method::kPatch, "PATCH with a body of JSON"},
                {"post", api::Method::kPost, "POST a body of JSON"}};
  for (const auto& [verb, method, text] : kVerbs) {
    CLI::App* command = AddVerb(app, options, verb, text);
    command
        ->add_option(
            "path", options->path,
            absl::StrCat("One of ", absl::StrJoin(api::PathsOf(method), ", ")))
        ->required()
        ->type_name("PATH");
    if (method == api::Method::kGet) continue;
    command->add_option("body", options->body, "JSON; - reads standard input")
        ->required()
        ->type_name("JSON");
  }
}

}  // namespace

void AddApiOptions(CLI::App* app, ApiOptions* options) {
  app->add_option("--api-sock", options->socket,
                  "Unix socket that the API is served on")
      ->type_name("PATH");
  app->add_option_function<std::string>(
         "--api-sock-mode",
         [options](const std::string& text) {
           size_t used = 0;
           if (text.size() != 3 ||
               text.find_first_not_of("01234567") != std::string::npos) {
             throw CLI::ValidationError("--api-sock-mode", kOctal);
           }
           options->mode =
               static_cast<uint32_t>(std::stoul(text, &used, /*base=*/8));
         },
         "The socket's mode (default 600)")
      ->type_name("OCTAL");
  app->add_option("--api-tcp", options->tcp,
                  "Loopback address to serve the API on as well, such as "
                  "127.0.0.1:8080")
      ->type_name("ADDRESS");
  app->add_option("--api-token-file", options->token_file,
                  "File with the bearer token that --api-tcp asks for")
      ->type_name("FILE");
  AddCount(app, "--api-max-connections", &options->max_connections, 1, 4096,
           "Connections at a time (default 64)");
  AddCount(app, "--api-max-header", &options->max_header, 256, 1 << 20,
           "Bytes of a request's header (default 16384)");
  AddCount(app, "--api-max-body", &options->max_body, 64, 64 << 20,
           "Bytes of a request's body (default 51200)");
  AddCount(app, "--api-idle-ms", &options->idle_ms, 10, 3600000,
           "Milliseconds for a request to arrive (default 5000)");
}

void AddLogOptions(CLI::App* app, LogOptions* options) {
  app->add_option("--log-path", options->path,
                  "File or named pipe for log lines (default: what "
                  "--config-file says, else standard error)")
      ->type_name("FILE");
  app->add_option("--level", options->level,
                  "The least that is logged: Error, Warning, Info, Debug, "
                  "Trace or Off; goes before --log-level")
      ->check(
          CLI::IsMember({"Error", "Warning", "Info", "Debug", "Trace", "Off"},
                        CLI::ignore_case))
      ->type_name("LEVEL");
  app->add_flag("--show-level", options->show_level,
                "Lines of --log-path name their level");
  app->add_option("--metrics-path", options->metrics_path,
                  "File or named pipe that gets a line of metrics every "
                  "minute and at the end")
      ->type_name("FILE");
}

// One server, one way.
void RequireServer(const CtlOptions& options) {
  if (options.socket.empty() == options.tcp.empty()) {
    throw CLI::RequiredError("ctl: either --api-sock or --api-tcp");
  }
  if (options.tcp.empty() != options.token_file.empty()) {
    throw CLI::RequiredError("ctl: --api-tcp and --api-token-file together");
  }
}

void AddCtlCommands(CLI::App* app, CtlOptions* options) {
  app->require_subcommand(1);
  app->add_option("--api-sock", options->socket, "Unix socket of the API")
      ->type_name("PATH");
  app->add_option("--api-tcp", options->tcp,
                  "Address of the API instead, such as 127.0.0.1:8080")
      ->type_name("ADDRESS");
  app->add_option("--api-token-file", options->token_file,
                  "File with the bearer token for --api-tcp")
      ->type_name("FILE");
  app->callback([options] { RequireServer(*options); });
  AddRequestVerbs(app, options);
  AddVerb(app, options, "start", "Start the VM");
  AddVerb(app, options, "pause", "Pause the vCPUs");
  AddVerb(app, options, "resume", "Let the vCPUs go on");
  AddVerb(app, options, "stop", "End the VM at once");
  AddVerb(app, options, "power-button", "Ask the guest to shut down");
  AddVerb(app, options, "ctrl-alt-del", "Type Ctrl-Alt-Del");
  AddVerb(app, options, "flush-metrics", "Write a line of metrics");
  AddVerb(app, options, "memory", "Show the memory map and conversions");
  CLI::App* convert =
      AddVerb(app, options, "convert",
              "Convert pages of an exchange window, or given up by the guest");
  convert->add_option("ranges", options->ranges, "GPA,SIZE ...")
      ->required()
      ->type_name("GPA,SIZE");
  convert->add_option("--to", options->to, "shared (default) or private")
      ->check(CLI::IsMember({"shared", "private"}))
      ->type_name("STATE");
  convert
      ->add_option("--reason", options->reason,
                   "exchange-window (default) or given-up")
      ->check(CLI::IsMember({"exchange-window", "given-up"}))
      ->type_name("WHY");
  AddVerb(app, options, "events", "Print events as they come")
      ->add_option("--count", options->count, "Leave after so many")
      ->type_name("N");
  CLI::App* top = AddVerb(app, options, "top",
                          "A live screen of memory, conversions and exits");
  AddCount(top, "--interval-ms", &options->interval_ms, 100, 60000,
           "Milliseconds between screens (default 1000)");
  top->add_flag("--once", options->once, "Print one screen and leave");
}

}  // namespace cloister::cli
