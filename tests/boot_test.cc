// SPDX-License-Identifier: Apache-2.0
//
// Unmodified Linux kernels under `cloister run`, in the lab: every combination
// of kernel, number of vCPUs and backend reaches user space, talks both ways
// over its console, and ends as it should. Each boot ends in one of the ways
// there are; Debian's kernel without a backend in all of them, the others in
// all of them in the soak.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/guest_process.h"
#include "cloister/tests/lab_settings.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kCloister[] = "cli/cloister";
// However busy the machine is.
constexpr std::chrono::seconds kPatience(800);

struct Options {
  std::string guest = "DEBIAN_6_1";
  int cpus = 1;
  std::string backend = "off";
  std::string append = "";  // "cloister.test=echo"
  std::vector<std::string> more = {};
};

std::vector<std::string> CommandLine(const char* command,
                                     const Options& options) {
  std::vector<std::string> argv = {
      kCloister,
      command,
      "--kernel",
      GuestFile(options.guest, "KERNEL"),
      "--initrd",
      GuestFile(options.guest, "INITRAMFS"),
      "--append",
      absl::StrCat("console=ttyS0 quiet panic=-1 ", options.append),
      "--cpus",
      absl::StrCat(options.cpus),
      "--memory",
      "256M",
      "--confidential",
      options.backend};
  argv.insert(argv.end(), options.more.begin(), options.more.end());
  return argv;
}

absl::StatusOr<std::unique_ptr<GuestProcess>> Boot(const Options& options) {
  return GuestProcess::Start(CommandLine("run", options));
}

// The line that a run prints if it launches what `measure` foretells.
std::string DigestLine(const Options& options) {
  auto measure = GuestProcess::Start(CommandLine("measure", options));
  EXPECT_OK(measure);
  if (!measure.ok()) return "no digest";
  EXPECT_THAT((*measure)->Wait(kPatience), IsOkAndHolds(0))
      << (*measure)->output();
  const std::string key = "\"digest\": \"";
  const std::string& json = (*measure)->output();
  const size_t at = json.find(key);
  EXPECT_NE(at, std::string::npos) << json;
  if (at == std::string::npos) return "no digest";
  return absl::StrCat("launch digest: ", json.substr(at + key.size(), 64),
                      "\n");
}

// A way to end, and what tells it from the others.
enum class End { kPowerOff, kReboot, kPanic, kPowerButton, kSigterm };
constexpr End kEnds[] = {End::kPowerOff, End::kReboot, End::kPanic,
                         End::kPowerButton, End::kSigterm};

std::string EndName(End end) {
  switch (end) {
    case End::kPowerOff:
      return "PowerOff";
    case End::kReboot:
      return "Reboot";
    case End::kPanic:
      return "Panic";
    case End::kPowerButton:
      return "PowerButton";
    case End::kSigterm:
      return "Sigterm";
  }
  return "?";
}

// Makes the guest end; what the monitor exits with.
int Finish(End end, GuestProcess& guest) {
  switch (end) {
    case End::kPowerOff:
      EXPECT_OK(guest.Type("quit\n"));
      EXPECT_OK(guest.Expect("reboot: Power down", kPatience));
      return 0;
    case End::kReboot:
      EXPECT_OK(guest.Type("reboot\n"));
      EXPECT_OK(guest.Expect("reboot: Restarting system", kPatience));
      return 0;
    case End::kPanic:
      EXPECT_OK(guest.Type("panic\n"));
      EXPECT_OK(guest.Expect("Kernel panic - not syncing: sysrq triggered",
                             kPatience));
      return 0;
    case End::kPowerButton:
      guest.Signal(SIGPWR);
      EXPECT_OK(guest.Expect("cloister guest: power button", kPatience));
      EXPECT_OK(guest.Expect("reboot: Power down", kPatience));
      return 0;
    case End::kSigterm:
      guest.Signal(SIGTERM);
      return 128 + SIGTERM;
  }
  return -1;
}

struct BootCase {
  Options options;
  End end = End::kPowerOff;
};

class BootTest : public ::testing::TestWithParam<BootCase> {};

TEST_P(BootTest, ReachesUserSpaceEchoesAndEnds) {
  Options options = GetParam().options;
  options.append = "cloister.test=echo";
  options.more = {"--boot-timer"};
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(options));
  ASSERT_OK(
      guest->Expect(absl::StrCat(" ", options.cpus, " CPU(s)"), kPatience));
  ASSERT_OK(guest->Expect(options.backend == "off"
                              ? "memory encryption: none"
                              : "memory encryption: AMD SEV",
                          kPatience));
  ASSERT_OK(guest->Expect("cloister guest: echo ready", kPatience));
  ASSERT_OK(guest->Type("both ways\n"));
  ASSERT_OK(guest->Expect("echo: both ways", kPatience));
  const int code = Finish(GetParam().end, *guest);
  EXPECT_THAT(guest->Wait(kPatience), IsOkAndHolds(code)) << guest->output();
  if (GetParam().end != End::kPanic) {
    EXPECT_THAT(guest->output(), Not(HasSubstr("error")));
  }
  for (const char* phase : {"process start", "VM created", "kernel placed",
                            "first KVM_RUN", "init reached"}) {
    EXPECT_THAT(guest->output(), HasSubstr(phase));
  }
  if (options.backend == "off") return;
  EXPECT_THAT(guest->output(), HasSubstr(DigestLine(options)));
  EXPECT_THAT(guest->output(), HasSubstr(" backed twice; converted "));
}

std::vector<BootCase> Combinations() {
  std::vector<BootCase> all;
  // Each in one way, a different one for each where that is possible.
  auto add = [&](const char* guest, int cpus, const char* backend, End end) {
    all.push_back({{.guest = guest, .cpus = cpus, .backend = backend}, end});
    for (End other : kEnds) {
      if (!Soak() || other == end) continue;
      all.push_back(
          {{.guest = guest, .cpus = cpus, .backend = backend}, other});
    }
  };
  add("DEBIAN_6_1", 1, "sw-protected", End::kReboot);
  add("DEBIAN_6_1", 2, "sw-protected", End::kPanic);
  add("DEBIAN_6_1", 1, "emulated", End::kPowerButton);
  add("TINY_BZIMAGE", 1, "off", End::kReboot);
  add("TINY", 3, "off", End::kPanic);
  add("TINY", 1, "sw-protected", End::kPowerButton);
  add("TINY", 2, "sw-protected", End::kSigterm);
  add("TINY", 1, "emulated", End::kPowerOff);
  add("DEBIAN_6_1", 3, "off", End::kSigterm);
  for (End end : kEnds) {
    if (end == End::kSigterm) continue;  // With three vCPUs, above.
    all.push_back({{.guest = "DEBIAN_6_1", .cpus = 1, .backend = "off"}, end});
  }
  if (!Soak()) return all;
  for (const char* backend : {"off", "sw-protected"}) {
    add("DEBIAN_6_1", 8, backend, End::kPowerOff);
    add("DEBIAN_6_12", 2, backend, End::kPowerOff);
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Guests, BootTest, ::testing::ValuesIn(Combinations()),
                         [](const ::testing::TestParamInfo<BootCase>& info) {
                           const Options& options = info.param.options;
                           std::string backend = options.backend;
                           for (char& c : backend) c = c == '-' ? '_' : c;
                           return absl::StrCat(options.guest, "_", options.cpus,
                                               "_", backend, "_",
                                               EndName(info.param.end));
                         });

// As on a host without VMMCALL: the guest shares a page by touching it, and
// what was shared stays so.
TEST(FaultReportsTest, LinuxBootsWithoutHypercalls) {
  const Options options = {.guest = "TINY",
                           .cpus = 2,
                           .backend = "sw-protected",
                           .append = "cloister.test=echo",
                           .more = {"--conversion-reports", "fault"}};
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(options));
  ASSERT_OK(guest->Expect("memory encryption: AMD SEV", kPatience));
  ASSERT_OK(guest->Expect("cloister guest: echo ready", kPatience));
  ASSERT_OK(guest->Type("quit\n"));
  EXPECT_THAT(guest->Wait(kPatience), IsOkAndHolds(0)) << guest->output();
  EXPECT_THAT(guest->output(), HasSubstr(" in 0 hypercalls and "));
  EXPECT_THAT(guest->output(), Not(HasSubstr(" and 0 faults")));
}

std::set<std::string> Entries(const std::string& path) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

// Every process but the kernel's own threads, which come and go, and those that
// have ended.
std::set<std::string> Processes() {
  std::set<std::string> pids;
  for (const std::string& name : Entries("/proc")) {
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(absl::StrCat("/proc/", name, "/cmdline"));
    std::string words;
    if (std::getline(file, words, '\0')) pids.insert(name);
  }
  return pids;
}

TEST(RepeatTest, BootsInARowLeaveNoProcessAndNoFile) {
  char folder[] = "/run/repeat-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::set<std::string> processes = Processes();
  const std::set<std::string> shm = Entries("/dev/shm");
  const std::set<std::string> run = Entries("/run");
  const int boots = Soak() ? 50 : 2;
  for (int i = 0; i < boots; ++i) {
    ASSERT_OK_AND_ASSIGN(
        auto guest,
        GuestProcess::Start(
            CommandLine("run",
                        {.guest = "TINY", .append = "cloister.test=poweroff"}),
            [&] { ::setenv("TMPDIR", folder, 1); }));
    ASSERT_THAT(guest->Wait(kPatience), IsOkAndHolds(0)) << guest->output();
  }
  EXPECT_EQ(Processes(), processes);
  EXPECT_EQ(Entries(folder), std::set<std::string>());
  EXPECT_EQ(Entries("/dev/shm"), shm);
  EXPECT_EQ(Entries("/run"), run);
  ::rmdir(folder);
}

TEST(DoctorTest, SaysThatTheLabCanBootLinux) {
  ASSERT_OK_AND_ASSIGN(auto doctor, GuestProcess::Start({kCloister, "doctor",
                                                         "--can-boot-linux"}));
  EXPECT_THAT(doctor->Wait(kPatience), IsOkAndHolds(0)) << doctor->output();
}

}  // namespace
}  // namespace cloister::tests
