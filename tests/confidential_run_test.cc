// SPDX-License-Identifier: Apache-2.0
//
// `cloister run` with confidential guests of a few instructions, in the lab:
// exit codes that only they have, the digest that `measure` foretells, limits,
// and what other processes can get at.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/tests/guest_process.h"
#include "cloister/vmm/micro_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using vmm::MicroKernel;

constexpr char kCloister[] = "cli/cloister";
constexpr uid_t kNobody = 65534;

std::string TempPath(const std::string& name) {
  return absl::StrCat(::testing::TempDir(), "/", name);
}

using Arguments = std::vector<std::string>;

Arguments With(Arguments first, const Arguments& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

// The options of a VM that runs `kernel`.
Arguments Options(MicroKernel kernel, const std::string& backend) {
  const std::string path = TempPath("micro-kernel");
  EXPECT_OK(vmm::WriteMicroKernel(kernel, path));
  return {"--kernel", path, "--memory", "32M", "--confidential", backend};
}

std::unique_ptr<GuestProcess> Start(const Arguments& argv) {
  auto process = GuestProcess::Start(argv);
  EXPECT_OK(process);
  return process.ok() ? *std::move(process) : nullptr;
}

std::unique_ptr<GuestProcess> RunGuest(const Arguments& options) {
  return Start(With({kCloister, "run"}, options));
}

nlohmann::json Measure(const Arguments& options) {
  auto process = Start(With({kCloister, "measure"}, options));
  if (process == nullptr) return {};
  EXPECT_THAT(process->Wait(), IsOkAndHolds(0)) << process->output();
  return nlohmann::json::parse(process->output(), nullptr, false);
}

// The lab's unpatched kernel cannot decode code in a guest_memfd.
bool RunsPrivateCode() {
  const char* lab = std::getenv("CLOISTER_IN_LAB");
  return lab == nullptr || std::string(lab) == "patched";
}

// The confidential backends whose guests run here.
std::vector<const char*> Backends() {
  if (!RunsPrivateCode()) return {"emulated"};
  return {"emulated", "sw-protected"};
}

class BackendRunTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) == "sw-protected" && !RunsPrivateCode()) {
      GTEST_SKIP() << "not applicable: this kernel cannot decode private code";
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Backends, BackendRunTest,
                         ::testing::Values("emulated", "sw-protected"),
                         [](const auto& info) {
                           return std::string(info.param) == "emulated"
                                      ? "emulated"
                                      : "sw_protected";
                         });

TEST_P(BackendRunTest, PrintsTheDigestThatMeasureForetells) {
  const std::string initrd = TempPath("initrd");
  std::ofstream(initrd) << "not empty";
  for (const Arguments& more :
       std::vector<Arguments>{{},
                              {"--append", "quiet"},
                              {"--cpus", "4", "--threads-per-core", "2"},
                              {"--memory", "5G"},
                              {"--initrd", initrd},
                              {"--conversion-reports", "fault"},
                              {"--shared-limit", "1M"}}) {
    const Arguments options =
        With(Options(MicroKernel::kOff, GetParam()), more);
    const nlohmann::json measured = Measure(options);
    ASSERT_TRUE(measured.contains("digest")) << measured.dump();
    auto guest = RunGuest(options);
    ASSERT_NE(guest, nullptr);
    EXPECT_THAT(guest->Wait(), IsOkAndHolds(0)) << guest->output();
    EXPECT_THAT(guest->output(),
                HasSubstr(absl::StrCat("launch digest: ",
                                       measured["digest"].get<std::string>())));
    EXPECT_EQ(measured["inputs"][1]["hypercalls"].get<bool>(),
              more.empty() || more.front() != "--conversion-reports");
    EXPECT_THAT(guest->output(), HasSubstr(", 0 B backed twice;"));
  }
}

// The larger file behind the shared memory of a VM that starts: all RAM from
// 1 MiB on. Waits until there is one.
base::UniqueFd SharedMemoryOf(pid_t pid) {
  const std::string folder = absl::StrCat("/proc/", pid, "/fd");
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < end) {
    std::error_code ignored;
    for (const auto& entry :
         std::filesystem::directory_iterator(folder, ignored)) {
      char target[256] = {};
      const std::string path = entry.path().string();
      if (::readlink(path.c_str(), target, sizeof(target) - 1) < 0 ||
          !absl::StrContains(target, "cloister-guest-shared")) {
        continue;
      }
      base::UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
      struct stat stat = {};
      if (fd.valid() && ::fstat(fd.get(), &stat) == 0 &&
          stat.st_size > (1 << 20)) {
        return fd;
      }
    }
    std::this_thread::yield();
  }
  return base::UniqueFd();
}

// Changes one byte of the last thing that the shim takes over, while it still
// works on a large initrd.
TEST_P(BackendRunTest, AByteFlippedDuringTheLaunchGivesExitCode5) {
  const std::string initrd = TempPath("large-initrd");
  std::ofstream(initrd) << std::string(16 << 20, 'i');
  const Arguments options = With(Options(MicroKernel::kPrint, GetParam()),
                                 {"--memory", "64M", "--initrd", initrd});
  const nlohmann::json measured = Measure(options);
  const nlohmann::json last = measured["inputs"].back();
  ASSERT_EQ(last["type"], "ACPI tables") << measured.dump();
  uint64_t gpa = 0;
  ASSERT_TRUE(absl::SimpleHexAtoi(last["gpa"].get<std::string>(), &gpa));
  const auto offset = static_cast<off_t>(gpa - (1 << 20));

  auto guest = RunGuest(options);
  ASSERT_NE(guest, nullptr);
  base::UniqueFd memory = SharedMemoryOf(guest->pid());
  ASSERT_TRUE(memory.valid()) << "needs root";
  char byte = 0;
  while (byte == 0) {
    ASSERT_EQ(::pread(memory.get(), &byte, 1, offset), 1);
    std::this_thread::yield();
  }
  byte ^= 1;
  ASSERT_EQ(::pwrite(memory.get(), &byte, 1, offset), 1);

  EXPECT_THAT(guest->Wait(), IsOkAndHolds(5)) << guest->output();
  // Once from the guest's serial port, once from the monitor.
  EXPECT_THAT(guest->output(),
              AllOf(HasSubstr("shim: refused: piece digest mismatch"),
                    HasSubstr("launch not verified: the launch shim refused to "
                              "start the kernel: piece digest mismatch"),
                    Not(HasSubstr("...."))));
}

TEST(ConfidentialRunTest, ADeniedConversionGivesExitCode6AndNoRegisters) {
  if (!RunsPrivateCode()) {
    GTEST_SKIP() << "not applicable: this kernel cannot decode private code";
  }
  auto guest = RunGuest(With(Options(MicroKernel::kTouch, "sw-protected"),
                             {"--implicit-conversions", "deny"}));
  ASSERT_NE(guest, nullptr);
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(6));
  EXPECT_THAT(
      guest->output(),
      AllOf(HasSubstr("conversion refused:"), HasSubstr("0x1a00000"),
            HasSubstr("is private"), HasSubstr(", slot "), HasSubstr("RIP 0x"),
            Not(HasSubstr("r15")), Not(HasSubstr("5ec2e7"))));
}

TEST_P(BackendRunTest, TheSharedLimitIsAnOption) {
  auto guest = RunGuest(With(Options(MicroKernel::kConvert, GetParam()),
                             {"--shared-limit", "0"}));
  ASSERT_NE(guest, nullptr);
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(0));
  EXPECT_THAT(guest->output(),
              AllOf(HasSubstr("P"), HasSubstr("passes the limit of 0")));
}

TEST_P(BackendRunTest, TheConversionRateIsAnOption) {
  const auto start = std::chrono::steady_clock::now();
  auto guest = RunGuest(With(Options(MicroKernel::kConvert, GetParam()),
                             {"--conversion-rate", "50"}));
  ASSERT_NE(guest, nullptr);
  // 64 requests come at once; the 36 others take 20 ms each.
  ASSERT_OK(guest->Expect(std::string(50, '.')));
  EXPECT_GE(std::chrono::steady_clock::now() - start,
            std::chrono::milliseconds(600));
  guest->Signal(SIGTERM);
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(128 + SIGTERM));
}

// A monitor that belongs to an ordinary user, in a folder of its own.
class OrdinaryUserTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // The lab's device belongs to root; nothing outside of it changes.
    ASSERT_EQ(::chmod("/dev/kvm", 0666), 0);
    char folder[] = "/tmp/cloister-user-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    ASSERT_EQ(::chown(folder, kNobody, kNobody), 0);
    std::filesystem::copy_file(kCloister, folder_ + "/cloister");
    ASSERT_OK(vmm::WriteMicroKernel(MicroKernel::kPrint, folder_ + "/kernel"));
    for (const char* file : {"/cloister", "/kernel"}) {
      ASSERT_EQ(::chmod((folder_ + file).c_str(), 0755), 0);
    }
    std::ofstream("/proc/sys/kernel/core_pattern") << "core";
    const rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    ASSERT_EQ(::setrlimit(RLIMIT_CORE, &unlimited), 0);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Started and printing.
  std::unique_ptr<GuestProcess> RunAsNobody(const std::string& backend) {
    auto guest =
        Start({"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
               "env", "-C", folder_, "./cloister", "run", "--kernel", "kernel",
               "--memory", "32M", "--confidential", backend});
    if (guest != nullptr) {
      EXPECT_OK(guest->Expect("...."));
    }
    return guest;
  }

  bool HasCore() const { return std::filesystem::exists(folder_ + "/core"); }

  std::string folder_;
};

// Where a process's heap starts.
uint64_t HeapOf(pid_t pid) {
  std::ifstream maps(absl::StrCat("/proc/", pid, "/maps"));
  std::string line;
  while (std::getline(maps, line)) {
    unsigned long start = 0;
    if (absl::StrContains(line, "[heap]") &&
        std::sscanf(line.c_str(), "%lx-", &start) == 1) {
      return start;
    }
  }
  ADD_FAILURE() << "no heap";
  return 0;
}

// What an ordinary user's process gets for reading `address` of another one of
// the same user: 0 or the error.
int ReadAsNobody(pid_t pid, uint64_t address) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(kNobody) != 0 || ::setuid(kNobody) != 0) ::_exit(255);
    char byte = 0;
    const iovec local = {&byte, 1};
    const iovec remote = {reinterpret_cast<void*>(address), 1};
    ::_exit(::process_vm_readv(pid, &local, 1, &remote, 1, 0) == 1 ? 0 : errno);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(OrdinaryUserTest, NobodyReadsOrDumpsTheMonitorOfAConfidentialGuest) {
  for (const char* backend : Backends()) {
    auto guest = RunAsNobody(backend);
    ASSERT_NE(guest, nullptr);
    EXPECT_EQ(ReadAsNobody(guest->pid(), HeapOf(guest->pid())), EPERM);
    guest->Signal(SIGSEGV);
    EXPECT_THAT(guest->Wait(), IsOkAndHolds(128 + SIGSEGV));
    EXPECT_FALSE(HasCore());
  }
}

TEST_F(OrdinaryUserTest, AnOrdinaryGuestsMonitorCanBeReadAndDumped) {
  auto guest = RunAsNobody("off");
  ASSERT_NE(guest, nullptr);
  EXPECT_EQ(ReadAsNobody(guest->pid(), HeapOf(guest->pid())), 0);
  guest->Signal(SIGSEGV);
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(128 + SIGSEGV));
  EXPECT_TRUE(HasCore());
}

// For an embedder whose process is dumpable all the same.
TEST_F(OrdinaryUserTest, GuestMemoryIsExcludedFromCoreFiles) {
  for (const char* backend : Backends()) {
    auto guest = RunAsNobody(backend);
    ASSERT_NE(guest, nullptr);
    std::ifstream smaps(absl::StrCat("/proc/", guest->pid(), "/smaps"));
    std::string line, mapping;
    int found = 0;
    while (std::getline(smaps, line)) {
      unsigned long start = 0, end = 0;
      if (std::sscanf(line.c_str(), "%lx-%lx", &start, &end) == 2) {
        mapping = line;
      } else if (absl::StartsWith(line, "VmFlags:")) {
        if (absl::StrContains(mapping, "cloister-guest") ||
            absl::StrContains(mapping, "guest_memfd") ||
            absl::StrContains(mapping, "gmem")) {
          ++found;
          EXPECT_THAT(line + " ", HasSubstr(" dd ")) << mapping;
        }
      }
    }
    // The low MiB and the rest of the shared side, and a private one.
    EXPECT_GE(found, 3) << backend;
  }
}

}  // namespace
}  // namespace cloister::tests
