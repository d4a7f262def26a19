// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/options.h"

#include <algorithm>
#include <string>
#include <vector>

#include "cloister/cli/exit_code.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::HasSubstr;

ParseResult Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "cloister");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
}

TEST(OptionsTest, RunWithEverything) {
  ParseResult result = Parse({"run",
                              "--kernel",
                              "/k",
                              "--initrd=/i",
                              "--append",
                              "console=ttyS0 quiet",
                              "--cpus",
                              "3",
                              "--memory",
                              "512M",
                              "--confidential",
                              "emulated",
                              "--implicit-conversions",
                              "deny",
                              "--conversion-reports",
                              "fault",
                              "--shared-limit",
                              "80M",
                              "--conversion-rate",
                              "5000",
                              "--console",
                              "none",
                              "--boot-timer",
                              "--id",
                              "a-1",
                              "--log-level",
                              "debug"});
  ASSERT_TRUE(result.command_line.has_value()) << result.output;
  EXPECT_EQ(result.command_line->command, Command::kRun);
  EXPECT_EQ(result.command_line->log_level, base::LogLevel::kDebug);
  const RunOptions& run = result.command_line->run;
  EXPECT_EQ(run.config.kernel.path, "/k");
  EXPECT_EQ(run.config.kernel.initrd_path, "/i");
  EXPECT_EQ(run.config.kernel.command_line, "console=ttyS0 quiet");
  EXPECT_EQ(run.config.cpus.count, 3u);
  EXPECT_EQ(run.config.memory.bytes, 512u << 20);
  EXPECT_EQ(run.config.confidential.backend,
            confidential::BackendChoice::kEmulated);
  EXPECT_EQ(run.config.confidential.policy.implicit,
            memory::ImplicitPolicy::kDeny);
  EXPECT_EQ(run.config.confidential.reports, vmm::ConversionReports::kFault);
  EXPECT_EQ(run.config.confidential.policy.shared_limit, 80u << 20);
  EXPECT_EQ(run.config.confidential.policy.per_second, 5000u);
  EXPECT_EQ(run.console, ConsoleKind::kNone);
  EXPECT_TRUE(run.boot_timer);
  EXPECT_EQ(run.config.id, "a-1");
}

TEST(OptionsTest, TheLastOfTwoCounts) {
  ParseResult result =
      Parse({"run", "--kernel", "/a", "--memory", "1G", "--cpus", "2",
             "--kernel", "/b", "--memory", "2G", "--cpus", "3"});
  ASSERT_TRUE(result.command_line.has_value()) << result.output;
  const vmm::VmConfig& config = result.command_line->run.config;
  EXPECT_EQ(config.kernel.path, "/b");
  EXPECT_EQ(config.memory.bytes, uint64_t{2} << 30);
  EXPECT_EQ(config.cpus.count, 3u);
}

TEST(OptionsTest, Defaults) {
  ParseResult result = Parse({"run", "--kernel", "/k"});
  ASSERT_TRUE(result.command_line.has_value()) << result.output;
  const RunOptions& run = result.command_line->run;
  EXPECT_EQ(run.config.cpus.count, 1u);
  EXPECT_EQ(run.config.confidential.backend,
            confidential::BackendChoice::kAuto);
  EXPECT_EQ(run.config.confidential.reports,
            vmm::ConversionReports::kHypercall);
  EXPECT_EQ(run.config.confidential.policy.shared_limit, UINT64_MAX);
  EXPECT_EQ(run.config.confidential.policy.per_second, 0u);
  EXPECT_EQ(run.console, ConsoleKind::kStdio);
  EXPECT_FALSE(run.console_given);
  EXPECT_FALSE(run.boot_timer);
}

TEST(OptionsTest, AVirtioConsoleIsADeviceToo) {
  for (const char* command : {"run", "measure"}) {
    ParseResult result =
        Parse({command, "--kernel", "/k", "--console", "virtio"});
    ASSERT_TRUE(result.command_line.has_value()) << result.output;
    const RunOptions& run = result.command_line->run;
    EXPECT_EQ(run.console, ConsoleKind::kVirtio);
    EXPECT_TRUE(run.console_given);
    EXPECT_TRUE(run.config.devices.console.has_value());
  }
  for (const char* kind : {"serial", "stdio", "none"}) {
    ParseResult result = Parse({"run", "--kernel", "/k", "--console", kind});
    ASSERT_TRUE(result.command_line.has_value()) << result.output;
    EXPECT_FALSE(result.command_line->run.config.devices.console.has_value());
  }
  EXPECT_EQ(Parse({"run", "--kernel", "/k", "--console", "tty"}).exit_code,
            kExitUsage);
}

TEST(OptionsTest, LimitsOfEntropyAndConsole) {
  ParseResult result = Parse({"run", "--kernel", "/k", "--rng", "--cpus", "2"});
  ASSERT_TRUE(result.command_line.has_value()) << result.output;
  const vmm::DevicesConfig& plain = result.command_line->run.config.devices;
  ASSERT_TRUE(plain.rng.has_value());
  EXPECT_EQ(plain.rng->limit.bandwidth.size, 0u);
  EXPECT_EQ(result.command_line->run.config.cpus.count, 2u);
  result = Parse({"run", "--kernel", "/k", "--rng", "bps=1K", "--console",
                  "virtio,bps=2K,ops_burst=9,ops=8"});
  ASSERT_TRUE(result.command_line.has_value()) << result.output;
  const vmm::DevicesConfig& devices = result.command_line->run.config.devices;
  EXPECT_EQ(devices.rng->limit.bandwidth.size, 1024u);
  EXPECT_EQ(result.command_line->run.console, ConsoleKind::kVirtio);
  EXPECT_EQ(devices.console->tx_limit.bandwidth.size, 2048u);
  EXPECT_EQ(devices.console->tx_limit.operations.one_time_burst, 9u);
  for (const char* wrong : {"serial,bps=1", "virtio,fast", "none,ops=1"}) {
    EXPECT_EQ(Parse({"run", "--kernel", "/k", "--console", wrong}).exit_code,
              kExitUsage)
        << wrong;
  }
}

TEST(OptionsTest, MeasureTakesTheOptionsOfRun) {
  ParseResult result = Parse({"measure", "--kernel", "/k", "--cpus", "2"});
  ASSERT_TRUE(result.command_line.has_value()) << result.output;
  EXPECT_EQ(result.command_line->command, Command::kMeasure);
  EXPECT_EQ(result.command_line->run.config.cpus.count, 2u);
}

TEST(OptionsTest, DoctorAndVersion) {
  EXPECT_TRUE(Parse({"doctor", "--json"}).command_line->doctor.json);
  EXPECT_TRUE(Parse({"doctor", "--can-boot-linux"})
                  .command_line->doctor.can_boot_linux);
  EXPECT_EQ(Parse({"version"}).command_line->command, Command::kVersion);
}

TEST(OptionsTest, SandboxOptions) {
  ParseResult result = Parse({"run", "--kernel", "/k"});
  ASSERT_TRUE(result.command_line.has_value()) << result.output;
  EXPECT_TRUE(result.command_line->run.sandbox.seccomp);
  EXPECT_EQ(result.command_line->run.sandbox.user, "");
  result = Parse({"run", "--kernel", "/k", "--user", "nobody", "--group", "kvm",
                  "--no-seccomp"});
  ASSERT_TRUE(result.command_line.has_value()) << result.output;
  EXPECT_FALSE(result.command_line->run.sandbox.seccomp);
  EXPECT_EQ(result.command_line->run.sandbox.user, "nobody");
  EXPECT_EQ(result.command_line->run.sandbox.group, "kvm");
}

TEST(OptionsTest, LogOptionsOfRunAndServe) {
  for (const char* command : {"run", "serve"}) {
    const bool run = std::string(command) == "run";
    ParseResult result =
        Parse({command, run ? "--kernel" : "--api-sock", "/k", "--log-path",
               "/l", "--level", "warning", "--show-level", "--metrics-path",
               "/m", "--log-level", "error"});
    ASSERT_TRUE(result.command_line.has_value()) << result.output;
    const LogOptions& log =
        run ? result.command_line->run.log : result.command_line->serve.log;
    EXPECT_EQ(log.path, "/l");
    EXPECT_EQ(log.level, "warning");
    EXPECT_TRUE(log.show_level);
    EXPECT_EQ(log.metrics_path, "/m");
    EXPECT_EQ(log.minimum, base::LogLevel::kError);
    EXPECT_EQ(Parse({command, run ? "--kernel" : "--api-sock", "/k", "--level",
                     "loud"})
                  .exit_code,
              kExitUsage);
  }
  EXPECT_EQ(Parse({"measure", "--kernel", "/k", "--log-path", "/l"}).exit_code,
            kExitUsage);
}

TEST(OptionsTest, VersionGoesToStdoutWithExitCodeZero) {
  ParseResult result = Parse({"--version"});
  EXPECT_FALSE(result.command_line.has_value());
  EXPECT_EQ(result.exit_code, kExitOk);
  EXPECT_EQ(result.output.find("cloister "), 0u) << result.output;
}

const OptionHelp* Find(const CommandHelp& command, const std::string& name) {
  for (const OptionHelp& option : command.options) {
    if (std::find(option.names.begin(), option.names.end(), name) !=
        option.names.end()) {
      return &option;
    }
  }
  return nullptr;
}

TEST(OptionsTest, TheDescriptionHasEveryCommandAndOption) {
  const CommandHelp all = DescribeCommandLine();
  EXPECT_EQ(all.name, "cloister");
  ASSERT_NE(Find(all, "--log-level"), nullptr);
  EXPECT_EQ(Find(all, "--log-level")->value, "LEVEL");
  const CommandHelp* run = nullptr;
  const CommandHelp* ctl = nullptr;
  for (const CommandHelp& command : all.commands) {
    if (command.name == "run") run = &command;
    if (command.name == "ctl") ctl = &command;
    EXPECT_NE(command.text, "") << command.name;
    // What --help shows is what is described.
    const std::string help = Parse({command.name.c_str(), "--help"}).output;
    for (const OptionHelp& option : command.options) {
      EXPECT_NE(option.text, "") << command.name;
      for (const std::string& name : option.names) {
        EXPECT_THAT(help, HasSubstr(name)) << command.name;
      }
    }
  }
  ASSERT_NE(run, nullptr);
  ASSERT_NE(Find(*run, "--kernel"), nullptr);
  EXPECT_EQ(Find(*run, "--kernel")->value, "FILE");
  ASSERT_NE(Find(*run, "--no-seccomp"), nullptr);
  EXPECT_EQ(Find(*run, "--no-seccomp")->value, "");
  ASSERT_NE(ctl, nullptr);
  EXPECT_FALSE(ctl->commands.empty());
  ASSERT_NE(Find(*ctl, "--api-sock"), nullptr);
  ASSERT_NE(Find(*ctl, "--api-tcp"), nullptr);
  EXPECT_FALSE(Find(*ctl, "--api-sock")->required) << "either of them";
}

TEST(OptionsTest, HelpGoesToStdoutWithExitCodeZero) {
  ParseResult result = Parse({"run", "--help"});
  EXPECT_FALSE(result.command_line.has_value());
  EXPECT_EQ(result.exit_code, kExitOk);
  EXPECT_THAT(result.output, HasSubstr("--confidential"));
}

// One line that names the option, and the usage exit code.
void ExpectUsageError(std::vector<const char*> arguments, const char* named) {
  ParseResult result = Parse(arguments);
  EXPECT_FALSE(result.command_line.has_value()) << named;
  EXPECT_EQ(result.exit_code, kExitUsage) << named;
  EXPECT_THAT(result.output, HasSubstr(named));
  EXPECT_EQ(result.output.find('\n'), result.output.size() - 1)
      << result.output;
}

TEST(OptionsTest, MistakesNameTheOption) {
  ExpectUsageError({}, "subcommand");
  ExpectUsageError({"walk"}, "walk");
  ExpectUsageError({"run"}, "--kernel");
  ExpectUsageError({"run", "--kernel", "/k", "--frob"}, "--frob");
  ExpectUsageError({"run", "--kernel", "/k", "--memory", "12Q"}, "12Q");
  ExpectUsageError({"run", "--kernel", "/k", "--memory", "12Q"}, "--memory");
  ExpectUsageError({"run", "--kernel", "/k", "--cpus", "-1"}, "--cpus");
  ExpectUsageError({"run", "--kernel", "/k", "--cpus", "many"}, "--cpus");
  ExpectUsageError({"run", "--kernel", "/k", "--confidential", "sev"}, "sev");
  ExpectUsageError({"run", "--kernel", "/k", "--conversion-reports", "smoke"},
                   "hypercall or fault");
  ExpectUsageError({"run", "--kernel", "/k", "--shared-limit", "much"}, "much");
  ExpectUsageError({"run", "--kernel", "/k", "--conversion-rate", "-3"},
                   "--conversion-rate");
  ExpectUsageError({"run", "--kernel", "/k", "--console", "x"},
                   "serial, virtio or none");
  ExpectUsageError({"--log-level", "loud", "doctor"}, "debug, info");
}

}  // namespace
}  // namespace cloister::cli
