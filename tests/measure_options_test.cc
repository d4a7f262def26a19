// SPDX-License-Identifier: Apache-2.0
//
// Every option of `run`: either it changes the launch digest, in each of the
// ways listed here, or here is why the guest cannot see it. An option that is
// not listed fails the test.
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/fake_kernel.h"
#include "cloister/boot/shim/launch.h"
#include "cloister/cli/options.h"
#include "cloister/cli/run_config.h"
#include "cloister/vmm/launch_plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::testing::Contains;
using Arguments = std::vector<std::string>;

std::string Path(const char* name) {
  return absl::StrCat(::testing::TempDir(), "/", name);
}

void Write(const char* name, const std::vector<uint8_t>& bytes) {
  std::ofstream(Path(name), std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

void WriteConfig(const char* name, const std::string& windows) {
  std::ofstream(Path(name))
      << R"({"boot-source": {"kernel_image_path": ")" << Path("kernel")
      << R"("}, "machine-config": {"vcpu_count": 3, "mem_size_mib": 64},)"
      << R"("confidential": {"exchange_windows": )" << windows << "}}";
}

struct Listed {
  // Each changes the digest, to one that no other of the option's gives.
  std::vector<Arguments> measured;
  // These leave it as it is, whether the option is measured or not.
  std::vector<Arguments> unseen;
};

// What all command lines begin with.
Arguments Base() { return {"--kernel", Path("kernel"), "--memory", "64M"}; }

const std::map<std::string, Listed>& Table() {
  static const auto& table = *new std::map<std::string, Listed>{
      // What the guest starts from.
      {"--kernel", {{{"--kernel", Path("kernel2")}}, {}}},
      {"--initrd",
       {{{"--initrd", Path("initrd")}, {"--initrd", Path("initrd2")}}, {}}},
      {"--append", {{{"--append", "quiet"}, {"--append", "quiet "}}, {}}},
      // What CPUID, e820 and ACPI tell it.
      {"--cpus", {{{"--cpus", "2"}, {"--cpus", "4"}}, {{"--cpus", "1"}}}},
      {"--threads-per-core",
       {{{"--cpus", "4", "--threads-per-core", "2"},
         {"--cpus", "4", "--threads-per-core", "4"},
         {"--cpus", "4"}},
        {}}},
      {"--memory", {{{"--memory", "65M"}, {"--memory", "5G"}}, {}}},
      {"--conversion-reports",
       {{{"--conversion-reports", "fault"}},
        {{"--conversion-reports", "hypercall"}}}},
      // Its devices; not what is behind them on the host.
      {"--disk",
       {{{"--disk", "/d"},
         {"--disk", "/d,ro"},
         {"--disk", "/d,serial=a"},
         {"--disk", "/d", "--disk", "/e"}},
        {}}},
      {"--net",
       {{{"--net", "tap=t"},
         {"--net", "tap=t,mac=02:00:00:00:00:01"},
         {"--net", "tap=t,queues=2"},
         {"--net", "tap=t", "--net", "tap=u"}},
        {}}},
      {"--rng", {{{"--rng"}}, {}}},
      {"--vsock",
       {{{"--vsock", "cid=3,path=/s"}, {"--vsock", "cid=4,path=/s"}}, {}}},
      {"--balloon",
       {{{"--balloon"},
         {"--balloon", "target=1M"},
         {"--balloon", "oom"},
         {"--balloon", "reporting"},
         {"--balloon", "stats=1"}},
        {}}},
      {"--console",
       {{{"--console", "virtio"}},
        {{"--console", "serial"}, {"--console", "none"}}}},
      {"--virtio-transport",
       {{{"--rng", "--virtio-transport", "mmio"},
         {"--rng", "--virtio-transport", "mmio-fdt"},
         {"--rng", "--virtio-transport", "pci"}},
        {}}},
      // Its devices have MSI-X.
      {"--confidential",
       {{{"--rng", "--confidential", "sw-protected"},
         {"--rng", "--confidential", "emulated"}},
        {{"--confidential", "sw-protected"},
         {"--confidential", "emulated"},
         {"--confidential", "auto"}}}},
      // What the host does with its conversions, which they cannot tell from a
      // slow or full host.
      {"--implicit-conversions", {{}, {{"--implicit-conversions", "deny"}}}},
      {"--shared-limit", {{}, {{"--shared-limit", "1M"}}}},
      {"--conversion-rate", {{}, {{"--conversion-rate", "5"}}}},
      // Of the monitor alone.
      {"--huge-pages", {{}, {{"--huge-pages", "none"}}}},
      {"--id", {{}, {{"--id", "vm"}}}},
      {"--boot-timer", {{}, {{"--boot-timer"}}}},
      {"--log-level", {{}, {{"--log-level", "debug"}}}},
      {"--log-path", {{}, {{"--log-path", "/l"}}}},
      {"--level", {{}, {{"--level", "Debug"}}}},
      {"--show-level", {{}, {{"--show-level"}}}},
      {"--metrics-path", {{}, {{"--metrics-path", "/m"}}}},
      {"--user", {{}, {{"--user", "nobody"}}}},
      {"--group", {{}, {{"--group", "nogroup"}}}},
      {"--no-seccomp", {{}, {{"--no-seccomp"}}}},
      {"--api-sock", {{}, {{"--api-sock", "/s"}}}},
      // Describes the VM instead of the options.
      {"--config-file",
       {{{"--config-file", Path("config")}, {"--config-file", Path("window")}},
        {}}},
      {"--no-api", {}},
      {"--help", {}},
      {"--help-all", {}},
  };
  return table;
}

class MeasureOptionsTest : public ::testing::Test {
 protected:
  MeasureOptionsTest() {
    std::vector<uint8_t> kernel = boot::MakeVmlinux();
    Write("kernel", kernel);
    kernel.back() ^= 1;
    Write("kernel2", kernel);
    Write("initrd", std::vector<uint8_t>(5000, 7));
    Write("initrd2", std::vector<uint8_t>(5000, 8));
    WriteConfig("config", "[]");
    WriteConfig("window", R"([{"gpa": "0x180000000", "len": 2097152}])");
  }

  static cli::CommandLine Parse(const std::string& command,
                                const Arguments& more) {
    Arguments words = {"cloister", command};
    for (const Arguments& part : {Base(), more}) {
      words.insert(words.end(), part.begin(), part.end());
    }
    std::vector<const char*> argv;
    for (const std::string& word : words) argv.push_back(word.c_str());
    cli::ParseResult result =
        cli::ParseCommandLine(static_cast<int>(argv.size()), argv.data());
    EXPECT_TRUE(result.command_line.has_value()) << result.output;
    return result.command_line.value_or(cli::CommandLine());
  }
  // As `measure` computes it, of the config that `command` would take.
  static std::string Digest(const std::string& command, const Arguments& more) {
    cli::RunOptions options = Parse(command, more).run;
    EXPECT_OK(cli::ApplyConfigFile(&options));
    auto plan = vmm::PlanLaunch(options.config, vmm::ConfidentialLaunch());
    if (!plan.ok()) return std::string(plan.status().message());
    auto launch = shim::BuildShimLaunch(*plan->shim);
    return launch.ok() ? shim::DigestHex(launch->digest)
                       : std::string(launch.status().message());
  }
  static std::set<std::string> OptionsOf(const std::string& command) {
    std::set<std::string> names;
    for (const cli::CommandHelp& help : cli::DescribeCommandLine().commands) {
      if (help.name != command) continue;
      for (const cli::OptionHelp& option : help.options) {
        for (const std::string& name : option.names) {
          if (name.rfind("--", 0) == 0) names.insert(name);
        }
      }
    }
    return names;
  }
};

TEST_F(MeasureOptionsTest, EveryOptionOfRunIsListed) {
  const std::set<std::string> options = OptionsOf("run");
  EXPECT_THAT(options, Contains("--kernel"));
  for (const std::string& option : options) {
    if (option.rfind("--api-", 0) == 0) continue;  // how the host is served
    EXPECT_EQ(Table().count(option), 1u)
        << option << ": does it reach the guest? Measure it if so "
        << "(vmm/launch_plan), and list it here.";
  }
}

TEST_F(MeasureOptionsTest, WhatReachesTheGuestChangesTheDigest) {
  const std::string base = Digest("run", {});
  ASSERT_EQ(base.size(), 64u) << base;
  for (const auto& [option, listed] : Table()) {
    std::set<std::string> digests = {base};
    for (const Arguments& words : listed.measured) {
      SCOPED_TRACE(absl::StrJoin(words, " "));
      const std::string digest = Digest("run", words);
      EXPECT_EQ(digest.size(), 64u) << digest;
      EXPECT_TRUE(digests.insert(digest).second);
      // `measure` takes it, and foretells the same.
      EXPECT_EQ(Digest("measure", words), digest);
    }
    for (const Arguments& words : listed.unseen) {
      SCOPED_TRACE(absl::StrJoin(words, " "));
      EXPECT_EQ(Digest("run", words), base);
    }
  }
}

}  // namespace
}  // namespace cloister::tests
