// SPDX-License-Identifier: Apache-2.0
//
// Unmodified Linux kernels under `cloister run`, in the lab: every combination
// of kernel, number of vCPUs and backend reaches user space, talks both ways
// over its console, and ends as it should.
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
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kCloister[] = "cli/cloister";

bool Soak() { return std::getenv("CLOISTER_SOAK") != nullptr; }

// A guest of lab/guest_image, as lab_test_group's environment names it.
struct Guest {
  std::string name;  // "DEBIAN_6_1"
  std::string Path(const char* what) const {
    std::string variable = absl::StrCat("CLOISTER_GUEST_", name, "_", what);
    const char* path = std::getenv(variable.c_str());
    return path == nullptr ? absl::StrCat("$", variable, " is not set") : path;
  }
};

struct Options {
  std::string guest = "DEBIAN_6_1";
  int cpus = 1;
  std::string backend = "off";
  std::string append = "";  // "cloister.test=echo"
  std::vector<std::string> more = {};
};

std::vector<std::string> CommandLine(const char* command,
                                     const Options& options) {
  Guest guest{options.guest};
  std::vector<std::string> argv = {
      kCloister,
      command,
      "--kernel",
      guest.Path("KERNEL"),
      "--initrd",
      guest.Path("INITRAMFS"),
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
  EXPECT_THAT((*measure)->Wait(), IsOkAndHolds(0)) << (*measure)->output();
  const std::string key = "\"digest\": \"";
  const std::string& json = (*measure)->output();
  const size_t at = json.find(key);
  EXPECT_NE(at, std::string::npos) << json;
  if (at == std::string::npos) return "no digest";
  return absl::StrCat("launch digest: ", json.substr(at + key.size(), 64),
                      "\n");
}

class BootTest : public ::testing::TestWithParam<Options> {};

TEST_P(BootTest, ReachesUserSpaceEchoesAndPowersOff) {
  Options options = GetParam();
  options.append = "cloister.test=echo";
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(options));
  ASSERT_OK(guest->Expect(absl::StrCat(" ", options.cpus, " CPU(s)")));
  ASSERT_OK(guest->Expect(options.backend == "off"
                              ? "memory encryption: none"
                              : "memory encryption: AMD SEV"));
  ASSERT_OK(guest->Expect("cloister guest: echo ready"));
  ASSERT_OK(guest->Type("both ways\n"));
  ASSERT_OK(guest->Expect("echo: both ways"));
  ASSERT_OK(guest->Type("quit\n"));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
  EXPECT_THAT(guest->output(), Not(HasSubstr("error")));
  if (options.backend == "off") return;
  EXPECT_THAT(guest->output(), HasSubstr(DigestLine(options)));
  EXPECT_THAT(guest->output(), HasSubstr(" backed twice; converted "));
}

std::vector<Options> Combinations() {
  std::vector<Options> all;
  for (const char* guest : {"DEBIAN_6_1", "TINY"}) {
    for (int cpus : {1, 3}) {
      all.push_back({.guest = guest, .cpus = cpus, .backend = "off"});
    }
    for (int cpus : {1, 2}) {
      all.push_back({.guest = guest, .cpus = cpus, .backend = "sw-protected"});
    }
    all.push_back({.guest = guest, .cpus = 1, .backend = "emulated"});
  }
  if (Soak()) {
    for (const char* backend : {"off", "sw-protected"}) {
      all.push_back({.guest = "DEBIAN_6_1", .cpus = 8, .backend = backend});
      all.push_back({.guest = "DEBIAN_6_12", .cpus = 2, .backend = backend});
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Guests, BootTest, ::testing::ValuesIn(Combinations()),
                         [](const ::testing::TestParamInfo<Options>& info) {
                           std::string backend = info.param.backend;
                           for (char& c : backend) c = c == '-' ? '_' : c;
                           return absl::StrCat(info.param.guest, "_",
                                               info.param.cpus, "_", backend);
                         });

struct EndCase {
  const char* guest;
  const char* backend;
};

class EndTest : public ::testing::TestWithParam<EndCase> {
 protected:
  Options With(const std::string& append) const {
    return {.guest = GetParam().guest,
            .backend = GetParam().backend,
            .append = append};
  }
};

TEST_P(EndTest, PowerOff) {
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(With("cloister.test=poweroff")));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
}

TEST_P(EndTest, Reboot) {
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(With("cloister.test=reboot")));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
}

TEST_P(EndTest, PanicReboots) {
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(With("cloister.test=panic")));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
}

TEST_P(EndTest, PowerButton) {
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(With("cloister.test=hold")));
  ASSERT_OK(guest->Expect("cloister guest: holding"));
  guest->Signal(SIGPWR);
  ASSERT_OK(guest->Expect("cloister guest: power button"));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
}

TEST_P(EndTest, SigtermStopsTheGuest) {
  ASSERT_OK_AND_ASSIGN(auto guest, Boot(With("cloister.test=hold")));
  ASSERT_OK(guest->Expect("cloister guest: holding"));
  guest->Signal(SIGTERM);
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(128 + SIGTERM)) << guest->output();
}

std::vector<EndCase> EndCases() {
  std::vector<EndCase> all = {{"TINY", "off"},
                              {"TINY", "sw-protected"},
                              {"DEBIAN_6_1", "sw-protected"}};
  if (Soak()) all.push_back({"DEBIAN_6_1", "off"});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Backends, EndTest, ::testing::ValuesIn(EndCases()),
                         [](const ::testing::TestParamInfo<EndCase>& info) {
                           std::string name = absl::StrCat(
                               info.param.guest, "_", info.param.backend);
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
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
  ASSERT_OK(guest->Expect("memory encryption: AMD SEV"));
  ASSERT_OK(guest->Expect("cloister guest: echo ready"));
  ASSERT_OK(guest->Type("quit\n"));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
  EXPECT_THAT(guest->output(), HasSubstr(" in 0 hypercalls and "));
  EXPECT_THAT(guest->output(), Not(HasSubstr(" and 0 faults")));
}

// Names in a directory; with `owner`, only those that have it in them (the
// lab's host shares its machine's /tmp, where others are at work).
std::set<std::string> Entries(const char* path, const char* owner = "") {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    std::string name = entry.path().filename().string();
    if (name.find(owner) != std::string::npos) names.insert(name);
  }
  return names;
}

// Processes that run the monitor.
int Monitors() {
  int count = 0;
  for (const std::string& name : Entries("/proc")) {
    std::ifstream comm(absl::StrCat("/proc/", name, "/comm"));
    std::string text;
    if (std::getline(comm, text) && text == "cloister") ++count;
  }
  return count;
}

TEST(RepeatTest, BootsInARowLeaveNoProcessAndNoFile) {
  const std::set<std::string> files = Entries("/tmp", "cloister");
  const std::set<std::string> shm = Entries("/dev/shm");
  const int boots = Soak() ? 50 : 3;
  for (int i = 0; i < boots; ++i) {
    ASSERT_OK_AND_ASSIGN(
        auto guest,
        Boot({.guest = "TINY", .append = "cloister.test=poweroff"}));
    ASSERT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
  }
  EXPECT_EQ(Monitors(), 0);
  EXPECT_EQ(Entries("/tmp", "cloister"), files);
  EXPECT_EQ(Entries("/dev/shm"), shm);
}

TEST(DoctorTest, SaysThatTheLabCanBootLinux) {
  ASSERT_OK_AND_ASSIGN(auto doctor, GuestProcess::Start({kCloister, "doctor",
                                                         "--can-boot-linux"}));
  EXPECT_THAT(doctor->Wait(), IsOkAndHolds(0)) << doctor->output();
}

TEST(BootTimerTest, NamesEveryPhase) {
  ASSERT_OK_AND_ASSIGN(auto guest, Boot({.guest = "TINY",
                                         .append = "cloister.test=poweroff",
                                         .more = {"--boot-timer"}}));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0));
  for (const char* phase : {"process start", "VM created", "kernel placed",
                            "first KVM_RUN", "init reached"}) {
    EXPECT_THAT(guest->output(), HasSubstr(phase));
  }
}

}  // namespace
}  // namespace cloister::tests
