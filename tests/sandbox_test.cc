// SPDX-License-Identifier: Apache-2.0
//
// What real VMs may do on this machine's /dev/kvm: filters on every thread of
// the program, its user, and what becomes of it when a thread breaks the rules.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/boot/fake_kernel.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/pty_session.h"
#include "cloister/tests/echo_kernel.h"
#include "cloister/tests/guest_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kBanner[] = "echo runs";

// The fields of /proc/PID/task/TID/status, by the thread's name.
std::map<std::string, std::map<std::string, std::string>> Threads(pid_t pid) {
  std::map<std::string, std::map<std::string, std::string>> threads;
  for (const auto& task : std::filesystem::directory_iterator(
           absl::StrCat("/proc/", pid, "/task"))) {
    std::map<std::string, std::string> fields;
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);) {
      const size_t colon = line.find(":\t");
      if (colon == std::string::npos) continue;
      fields[line.substr(0, colon)] = line.substr(colon + 2);
    }
    threads[fields["Name"]] = fields;
  }
  return threads;
}

class SandboxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no /dev/kvm here that this user may open";
    }
  }

  void TearDown() override {
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }

  // A folder that every user may enter: a test's own may lie below one that
  // only its user may.
  std::string Folder() {
    if (folder_.empty()) {
      char name[] = "/tmp/sandbox-XXXXXX";
      if (::mkdtemp(name) == nullptr || ::chmod(name, 0755) != 0) {
        ADD_FAILURE() << "cannot make " << name;
      }
      folder_ = name;
    }
    return folder_;
  }

  std::string Write(const char* name, const std::vector<uint8_t>& elf) {
    const std::string path = absl::StrCat(Folder(), "/", name);
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(elf.data()), elf.size());
    return path;
  }

  absl::StatusOr<std::unique_ptr<GuestProcess>> Start(
      const std::vector<std::string>& more) {
    std::vector<std::string> argv = {
        "cli/cloister",   "run",
        "--kernel",       Write("echo", MakeEchoKernel(kBanner)),
        "--memory",       "32M",
        "--cpus",         "2",
        "--confidential", "off"};
    argv.insert(argv.end(), more.begin(), more.end());
    auto guest = GuestProcess::Start(argv);
    if (!guest.ok()) return guest;
    absl::Status up = (*guest)->Expect(kBanner);
    if (!up.ok()) return up;
    return guest;
  }

  void End(GuestProcess& guest) {
    guest.Signal(SIGTERM);
    EXPECT_THAT(guest.Wait(), IsOkAndHolds(128 + SIGTERM)) << guest.output();
  }

 private:
  std::string folder_;
};

// The filters of a thread beyond those of the main one.
int OwnFilters(std::map<std::string, std::map<std::string, std::string>>& of,
               const std::string& name) {
  return std::atoi(of[name]["Seccomp_filters"].c_str()) -
         std::atoi(of["cloister"]["Seccomp_filters"].c_str());
}

TEST_F(SandboxTest, EveryThreadIsUnderItsFilter) {
  ASSERT_OK_AND_ASSIGN(auto guest, Start({}));
  auto threads = Threads(guest->pid());
  // The guest speaks when its first vCPU runs; the second may be on its way.
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (OwnFilters(threads, "vcpu1") != 1 &&
         threads["cloister"].count("Seccomp_filters") != 0 &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
    threads = Threads(guest->pid());
  }
  ASSERT_EQ(threads.count("vcpu0"), 1u);
  ASSERT_EQ(threads.count("vcpu1"), 1u);
  ASSERT_EQ(threads.count("cloister"), 1u);
  for (auto& [name, fields] : threads) {
    EXPECT_EQ(fields["Seccomp"], "2") << name;
    EXPECT_EQ(fields["NoNewPrivs"], "1") << name;
    if (fields.count("Seccomp_filters") == 0) continue;  // Before Linux 5.9.
    EXPECT_EQ(OwnFilters(threads, name), name == "cloister" ? 0 : 1) << name;
  }
  End(*guest);
}

TEST_F(SandboxTest, NoSeccompLeavesTheFiltersOut) {
  ASSERT_OK_AND_ASSIGN(auto guest, Start({"--no-seccomp"}));
  auto threads = Threads(guest->pid());
  EXPECT_EQ(threads["vcpu0"]["Seccomp_filters"],
            Threads(::getpid()).begin()->second["Seccomp_filters"]);
  EXPECT_EQ(threads["vcpu0"]["NoNewPrivs"], "1");
  EXPECT_THAT(guest->output(), HasSubstr("seccomp: off"));
  End(*guest);
}

TEST_F(SandboxTest, TheGuestRunsAsTheUserWithoutCapabilities) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  ASSERT_OK_AND_ASSIGN(auto guest,
                       Start({"--user", "nobody", "--group", "nogroup"}));
  for (auto& [name, fields] : Threads(guest->pid())) {
    EXPECT_EQ(fields["Uid"], "65534\t65534\t65534\t65534") << name;
    EXPECT_EQ(fields["Gid"], "65534\t65534\t65534\t65534") << name;
    EXPECT_THAT(fields["Groups"], Not(HasSubstr("0"))) << name;
    for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
      EXPECT_EQ(fields[set], "0000000000000000") << name << " " << set;
    }
  }
  // Not dumpable: its files in /proc are root's.
  struct stat memory;
  ASSERT_EQ(
      ::stat(absl::StrCat("/proc/", guest->pid(), "/mem").c_str(), &memory), 0);
  EXPECT_EQ(memory.st_uid, 0u);
  End(*guest);
}

// What the configuration names, and /dev/kvm, may be root's alone: it is opened
// before, and used after.
TEST_F(SandboxTest, TheApisGuestRunsAsTheUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  const std::string kernel = Write("echo", MakeEchoKernel(kBanner));
  const std::string config = absl::StrCat(Folder(), "/vm.json");
  const std::string disk = absl::StrCat(Folder(), "/disk");
  std::ofstream(disk) << std::string(4096, 'd');
  std::ofstream(config) << R"({"boot-source": {"kernel_image_path": ")"
                        << kernel << R"("}, "machine-config": {"vcpu_count": 1,
      "mem_size_mib": 32}, "confidential": {"backend": "off"}, "drives":
      [{"drive_id": "d", "is_root_device": false, "path_on_host": ")"
                        << disk << R"("}], "metrics": {"metrics_path": ")"
                        << Folder() << "/metrics\"}}";
  for (const std::string& path : {kernel, config, disk}) {
    ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  }
  ASSERT_EQ(::chmod(Folder().c_str(), 0700), 0);
  ASSERT_OK_AND_ASSIGN(
      auto guest,
      GuestProcess::Start({"cli/cloister", "serve", "--no-api", "--config-file",
                           config, "--user", "nobody", "--log-path",
                           Folder() + "/log"}));
  ASSERT_OK(guest->Expect(kBanner));
  for (auto& [name, fields] : Threads(guest->pid())) {
    EXPECT_EQ(fields["Uid"], "65534\t65534\t65534\t65534") << name;
    EXPECT_EQ(fields["CapEff"], "0000000000000000") << name;
    EXPECT_EQ(fields["Seccomp"], "2") << name;
  }
  End(*guest);
}

// What is named later is opened as the user, and an error says so.
TEST_F(SandboxTest, WhatTheApiNamesIsOpenedAsTheUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  const std::string kernel = Write("echo", MakeEchoKernel(kBanner));
  ASSERT_EQ(::chmod(kernel.c_str(), 0600), 0);
  const std::string socket = Folder() + "/api";
  ASSERT_OK_AND_ASSIGN(
      auto server, GuestProcess::Start({"cli/cloister", "serve", "--api-sock",
                                        socket, "--user", "nobody"}));
  auto ask = [&](const std::vector<std::string>& words) {
    std::vector<std::string> argv = {"cli/cloister", "ctl", "--api-sock",
                                     socket};
    argv.insert(argv.end(), words.begin(), words.end());
    auto ctl = GuestProcess::Start(argv);
    if (!ctl.ok()) return ctl.status().ToString();
    (*ctl)->Wait().IgnoreError();
    return (*ctl)->output();
  };
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (ask({"get", "/version"}).find("cloister_version") ==
             std::string::npos &&
         std::chrono::steady_clock::now() < deadline) {
  }
  EXPECT_EQ(ask({"put", "/confidential", R"({"backend": "off"})"}), "");
  EXPECT_EQ(ask({"put", "/boot-source",
                 absl::StrCat(R"({"kernel_image_path": ")", kernel, "\"}")}),
            "");
  EXPECT_THAT(ask({"start"}),
              HasSubstr("(EACCES); the monitor has become user 65534 and group "
                        "65534"));
  EXPECT_THAT(ask({"put", "/metrics",
                   absl::StrCat(R"({"metrics_path": ")", Folder(), "/m\"}")}),
              HasSubstr("the monitor has become user 65534"));
  ASSERT_EQ(::chmod(kernel.c_str(), 0644), 0);
  EXPECT_EQ(ask({"start"}), "");
  ASSERT_OK(server->Expect(kBanner));
  End(*server);
}

TEST_F(SandboxTest, BadNamesAreNamed) {
  ASSERT_OK_AND_ASSIGN(
      auto guest,
      GuestProcess::Start({"cli/cloister", "run", "--kernel", "/dev/null",
                           "--user", "no-such-user-here"}));
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(cli::kExitError));
  EXPECT_THAT(guest->output(), HasSubstr("--user no-such-user-here"));
}

// A device that opens a file on the vCPU's thread ends the program, by name,
// also in the log's file, with its own exit code, the terminal as it was, and
// no socket left.
TEST_F(SandboxTest, ARefusedCallOfAVcpuIsNamedAndTheTerminalRestored) {
  std::vector<boot::FakeSegment> segments = boot::LinuxLikeSegments();
  // mov dx, 0x500; out dx, al; jmp to itself
  segments[0].data = {0x66, 0xba, 0x00, 0x05, 0xee, 0xeb, 0xfe};
  const std::string kernel =
      Write("writer", boot::MakeElf(segments, segments[0].physical));
  ASSERT_OK_AND_ASSIGN(auto pty, cli::PtySession::Create());
  const std::string socket = Folder() + "/api", log = Folder() + "/log";
  ASSERT_OK(pty->Start({"tests/sandbox_vm_child", kernel, socket, log}));
  ASSERT_OK(
      pty->Expect("seccomp: a thread of kind vcpu may not call openat (257)"));
  ASSERT_OK_AND_ASSIGN(const int status, pty->Wait());
  ASSERT_TRUE(WIFEXITED(status)) << "wait status " << status;
  EXPECT_EQ(WEXITSTATUS(status), cli::kExitSeccomp);
  EXPECT_TRUE(pty->restored());
  // The vCPU's thread may not remove a socket: the main one does.
  EXPECT_FALSE(std::filesystem::exists(socket));
  EXPECT_FALSE(std::filesystem::exists(socket + ".lock"));
  std::ifstream lines(log);
  std::string line;
  ASSERT_TRUE(std::getline(lines, line)) << "no line in the log";
  EXPECT_THAT(line, HasSubstr("[child] seccomp: a thread of kind vcpu may not "
                              "call openat (257)"));
}

}  // namespace
}  // namespace cloister::tests
