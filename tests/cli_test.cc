// SPDX-License-Identifier: Apache-2.0
//
// The commands that start no guest, as a user runs them.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/boot/fake_kernel.h"
#include "cloister/tests/echo_kernel.h"
#include "cloister/tests/guest_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::testing::HasSubstr;

// What a test's own process leaves with when it may not set up its namespaces.
constexpr int kNoNamespaces = 77;

struct Result {
  int exit_code = -1;
  std::string output;
};

Result RunCloister(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "cli/cloister");
  auto process = GuestProcess::Start(arguments);
  if (!process.ok()) return {-1, process.status().ToString()};
  auto code = (*process)->Wait();
  return {code.ok() ? *code : -1, (*process)->output()};
}

std::string WriteKernel(const char* name, const std::vector<uint8_t>& elf) {
  std::string path = absl::StrCat(::testing::TempDir(), "/", name);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(elf.data()), elf.size());
  return path;
}

std::string Kernel() { return WriteKernel("vmlinux", boot::MakeVmlinux()); }

TEST(CliTest, VersionAndHelp) {
  EXPECT_THAT(RunCloister({"version"}).output, HasSubstr("cloister "));
  Result help = RunCloister({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.output, HasSubstr("doctor"));
}

TEST(CliTest, DoctorPrintsJsonOnAnyHost) {
  Result result = RunCloister({"doctor", "--json"});
  auto json = nlohmann::json::parse(result.output, nullptr, false);
  ASSERT_FALSE(json.is_discarded()) << result.output;
  EXPECT_EQ(result.exit_code, json["kvm"]["usable"].get<bool>() ? 0 : 1);
}

TEST(CliTest, DoctorsVerdictIsTheSameInEveryForm) {
  auto json = nlohmann::json::parse(RunCloister({"doctor", "--json"}).output,
                                    nullptr, false);
  ASSERT_FALSE(json.is_discarded());
  if (!json["kvm"]["usable"].get<bool>()) return;  // NoKvmTest
  const bool works = json["linux_guests"]["works"].get<bool>();
  const std::string text = RunCloister({"doctor"}).output;
  const Result answer = RunCloister({"doctor", "--can-boot-linux"});
  EXPECT_EQ(answer.exit_code, works ? 0 : 1);
  EXPECT_EQ(std::count(answer.output.begin(), answer.output.end(), '\n'), 1);
  if (works) {
    EXPECT_THAT(text, HasSubstr("\nLinux guests: yes\n"));
    EXPECT_EQ(answer.output, "Linux guests run here\n");
  } else {
    const auto why = json["linux_guests"]["reason"].get<std::string>();
    EXPECT_FALSE(why.empty());
    EXPECT_THAT(text, HasSubstr("\nLinux guests: no. "));
    EXPECT_THAT(text, HasSubstr("use the nested lab: ./dev run"));
    EXPECT_THAT(answer.output, HasSubstr("Linux"));
  }
  for (const auto& backend : json["backends"]) {
    const auto name = backend["name"].get<std::string>();
    EXPECT_THAT(text, HasSubstr(absl::StrCat(
                          "\n  ", name, std::string(29 - name.size(), ' '),
                          backend["works"].get<bool>() ? "works" : "lacks ")));
  }
}

TEST(CliTest, MeasureIsRepeatableAndListsItsInputsInOrder) {
  std::vector<std::string> arguments = {
      "measure", "--kernel", Kernel(), "--memory", "64M", "--append", "quiet"};
  Result first = RunCloister(arguments);
  EXPECT_EQ(first.exit_code, 0);
  EXPECT_EQ(first.output, RunCloister(arguments).output);
  auto json = nlohmann::json::parse(first.output, nullptr, false);
  ASSERT_FALSE(json.is_discarded()) << first.output;
  EXPECT_EQ(json["digest"].get<std::string>().size(), 64u);
  ASSERT_GE(json["inputs"].size(), 5u);
  EXPECT_EQ(json["inputs"][0]["type"], "shim");
  EXPECT_EQ(json["inputs"][1]["type"], "start state");
  arguments.back() = "loud";
  EXPECT_NE(first.output, RunCloister(arguments).output);
}

TEST(CliTest, OrdinaryGuestsHaveNoDigest) {
  Result result =
      RunCloister({"measure", "--kernel", Kernel(), "--confidential", "off"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("--confidential off"));
}

// ---- No /dev/kvm, or not for us ----

void WriteFile(const char* path, const std::string& text) {
  base::UniqueFd fd(::open(path, O_WRONLY | O_CLOEXEC));
  if (::write(fd.get(), text.data(), text.size()) !=
      static_cast<ssize_t>(text.size())) {
    ::_exit(kNoNamespaces);
  }
}

// Becomes nobody, without capabilities once it executes something, with a /dev
// of its own that has no kvm or one that nobody may open.
void HideKvm(bool exists) {
  const std::string users = absl::StrCat("65534 ", ::geteuid(), " 1");
  const std::string groups = absl::StrCat("65534 ", ::getegid(), " 1");
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) ::_exit(kNoNamespaces);
  WriteFile("/proc/self/uid_map", users);
  WriteFile("/proc/self/setgroups", "deny");
  WriteFile("/proc/self/gid_map", groups);
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("none", "/dev", "tmpfs", 0, nullptr) != 0) {
    ::_exit(kNoNamespaces);
  }
  if (exists && ::close(::open("/dev/kvm", O_CREAT, 0)) != 0) ::_exit(78);
  // A core file would show in the wait status.
  const rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
  ::setrlimit(RLIMIT_CORE, &unlimited);
}

class NoKvmTest : public ::testing::TestWithParam<bool> {
 protected:
  // Fills in result_, or skips where there are no user namespaces.
  void Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "cli/cloister");
    ASSERT_OK_AND_ASSIGN(auto process, GuestProcess::Start(arguments, [] {
                           HideKvm(GetParam());
                         }));
    ASSERT_OK_AND_ASSIGN(result_.exit_code, process->Wait());
    result_.output = process->output();
    if (result_.exit_code == kNoNamespaces) {
      GTEST_SKIP() << "this user may not make a user and a mount namespace";
    }
  }
  static std::string Reason() {
    return GetParam() ? "no permission to open /dev/kvm"
                      : "/dev/kvm does not exist";
  }
  static std::string Cure() { return GetParam() ? "usermod -aG kvm" : "load"; }

  Result result_;
};

TEST_P(NoKvmTest, RunSaysWhyInOneLine) {
  for (const char* backend : {"off", "auto", "emulated"}) {
    SCOPED_TRACE(backend);
    Run({"run", "--kernel", Kernel(), "--confidential", backend});
    if (IsSkipped()) return;
    EXPECT_EQ(result_.exit_code, 1) << result_.output;
    EXPECT_THAT(result_.output, HasSubstr(Reason()));
    EXPECT_THAT(result_.output, HasSubstr(Cure()));
    EXPECT_EQ(std::count(result_.output.begin(), result_.output.end(), '\n'), 1)
        << result_.output;
  }
}

TEST_P(NoKvmTest, DoctorSaysHowToGetIt) {
  Run({"doctor"});
  if (IsSkipped()) return;
  EXPECT_EQ(result_.exit_code, 1);
  EXPECT_THAT(result_.output, HasSubstr(Reason()));
  EXPECT_THAT(result_.output, HasSubstr(Cure()));
  Run({"doctor", "--json"});
  auto json = nlohmann::json::parse(result_.output, nullptr, false);
  ASSERT_FALSE(json.is_discarded()) << result_.output;
  EXPECT_EQ(json["kvm"]["usable"], false);
  Run({"doctor", "--can-boot-linux"});
  EXPECT_EQ(result_.exit_code, 1);
  EXPECT_THAT(result_.output, HasSubstr(Reason()));
}

TEST_P(NoKvmTest, MeasureNeedsNone) {
  Run({"measure", "--kernel", Kernel(), "--memory", "64M"});
  if (IsSkipped()) return;
  EXPECT_EQ(result_.exit_code, 0) << result_.output;
}

INSTANTIATE_TEST_SUITE_P(, NoKvmTest, ::testing::Bool(), [](const auto& info) {
  return info.param ? "Forbidden" : "Missing";
});

// ---- As many vCPUs as KVM takes ----

std::string EchoKernel();

// Each vCPU is a file, and the soft limit of files is 1024 on most machines.
TEST(ManyCpusTest, AsManyAsKvmTakesAndNotOneMore) {
  auto json = nlohmann::json::parse(RunCloister({"doctor", "--json"}).output,
                                    nullptr, false);
  ASSERT_FALSE(json.is_discarded());
  if (!json["kvm"]["usable"].get<bool>()) {
    GTEST_SKIP() << "no /dev/kvm here that this user may open";
  }
  const int most = json["kvm"]["capabilities"]["max_vcpus"].get<int>();
  auto start = [&](int cpus) {
    return GuestProcess::Start(
        {"cli/cloister", "run", "--kernel", EchoKernel(), "--memory", "64M",
         "--confidential", "off", "--cpus", std::to_string(cpus)},
        [] {
          rlimit files = {};
          ::getrlimit(RLIMIT_NOFILE, &files);
          files.rlim_cur = 256;
          ::setrlimit(RLIMIT_NOFILE, &files);
        });
  };
  ASSERT_OK_AND_ASSIGN(auto refused, start(most + 1));
  ASSERT_OK_AND_ASSIGN(int code, refused->Wait());
  EXPECT_EQ(code, 1);
  EXPECT_THAT(refused->output(), HasSubstr("--cpus: "));
  ASSERT_OK_AND_ASSIGN(auto process, start(most));
  ASSERT_OK(process->Expect("echo here"));
  process->Signal(SIGTERM);
  ASSERT_OK_AND_ASSIGN(code, process->Wait());
  EXPECT_EQ(code, 128 + SIGTERM) << process->output();
}

// ---- Standard descriptors that are not open ----

std::string EchoKernel() {
  return WriteKernel("echo", MakeEchoKernel("echo here"));
}

std::string Target(pid_t pid, int fd) {
  char target[64] = {};
  const std::string link = absl::StrCat("/proc/", pid, "/fd/", fd);
  if (::readlink(link.c_str(), target, sizeof(target) - 1) < 0) return "";
  return target;
}

class ClosedFdTest : public ::testing::Test {
 protected:
  // Starts a guest that runs for ever, with the descriptors in `closed` not
  // open, and waits for `text`.
  void Start(std::vector<int> closed, const char* text) {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no /dev/kvm here that this user may open";
    }
    ASSERT_OK_AND_ASSIGN(
        process_,
        GuestProcess::Start(
            {"cli/cloister", "run", "--kernel", EchoKernel(), "--memory", "32M",
             "--confidential", "off", "--log-level", "debug"},
            [&] {
              for (int fd : closed) ::close(fd);
            }));
    ASSERT_OK(process_->Expect(text));
    for (int fd : closed) EXPECT_EQ(Target(process_->pid(), fd), "/dev/null");
    process_->Signal(SIGTERM);
    ASSERT_OK_AND_ASSIGN(const int code, process_->Wait());
    EXPECT_EQ(code, 128 + SIGTERM);
  }
  std::unique_ptr<GuestProcess> process_;
};

TEST_F(ClosedFdTest, InputAndOutput) { Start({0, 1}, "the guest runs"); }

TEST_F(ClosedFdTest, InputAndErrors) { Start({0, 2}, "echo here"); }

TEST_F(ClosedFdTest, AllThreeChangeNoExitCode) {
  std::string command = absl::StrCat("cli/cloister measure --kernel ", Kernel(),
                                     " <&- >&- 2>&-; echo code $?");
  ASSERT_OK_AND_ASSIGN(auto process,
                       GuestProcess::Start({"/bin/sh", "-c", command}));
  ASSERT_OK(process->Wait().status());
  EXPECT_EQ(process->output(), "code 0\n");
  command =
      "cli/cloister run --kernel /no/such/file <&- >&- 2>&-; echo code $?";
  ASSERT_OK_AND_ASSIGN(process,
                       GuestProcess::Start({"/bin/sh", "-c", command}));
  ASSERT_OK(process->Wait().status());
  EXPECT_EQ(process->output(), "code 1\n");
}

// A reader that leaves does not end the program: this guest goes on to crash.
TEST_F(ClosedFdTest, LostReaderOfTheConsole) {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    GTEST_SKIP() << "no /dev/kvm here that this user may open";
  }
  std::vector<boot::FakeSegment> segments = boot::LinuxLikeSegments();
  segments[0].data = {0x66, 0xba, 0xf8, 0x03,  // mov $0x3f8, %dx
                      0xee, 0x0f, 0x0b};       // out %al, %dx; ud2
  ASSERT_OK_AND_ASSIGN(
      auto process,
      GuestProcess::Start(
          {"cli/cloister", "run", "--kernel",
           WriteKernel("crash", MakeElf(segments, segments[0].physical)),
           "--memory", "32M", "--confidential", "off"},
          [] {
            int fds[2];
            if (::pipe(fds) != 0 || ::dup2(fds[1], 1) != 1) ::_exit(1);
            ::close(fds[0]);
            ::close(fds[1]);
            ::signal(SIGPIPE, SIG_DFL);
          }));
  ASSERT_OK_AND_ASSIGN(const int code, process->Wait());
  EXPECT_EQ(code, 3) << process->output();
}

}  // namespace
}  // namespace cloister::tests
