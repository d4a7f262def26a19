// SPDX-License-Identifier: Apache-2.0
//
// The filters against the kernel: each case runs in a process of its own.
#include "cloister/vmm/sandbox/seccomp_filter.h"

#include <fcntl.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string>
#include <thread>

#include "cloister/base/status_matchers.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

constexpr int kFine = 3;
constexpr int kCannotInstall = 4;
constexpr int kNotARefusal = 5;
constexpr int kRefusedBase = 100;  // plus the kind

// For the child's handler: which call should be refused.
thread_local long expected_call = -1;

void OnRefusal(int, siginfo_t* info, void*) {
  auto refusal = DecodeRefusal(*info);
  if (!refusal.has_value() || refusal->syscall != expected_call) {
    ::_exit(kNotARefusal);
  }
  ::_exit(kRefusedBase + static_cast<int>(refusal->kind));
}

// Runs `action` under the filters of `kinds` in a child; its exit code.
int UnderFilters(const std::vector<ThreadKind>& kinds, long call,
                 const std::function<void()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    struct sigaction handler = {};
    handler.sa_sigaction = OnRefusal;
    handler.sa_flags = SA_SIGINFO;
    ::sigaction(SIGSYS, &handler, nullptr);
    // Where a library has blocked everything, SIGSYS must still come.
    sigset_t all;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    expected_call = call;
    auto rules = SeccompRules({.process = ::getpid()});
    for (ThreadKind kind : kinds) {
      auto filter = SeccompFilter::Build(kind, rules);
      if (!filter.ok() || !filter->Install().ok()) ::_exit(kCannotInstall);
    }
    action();
    ::_exit(kFine);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

int Refused(ThreadKind kind) { return kRefusedBase + static_cast<int>(kind); }

class SeccompFilterTest : public ::testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "a sanitizer's runtime makes calls of its own";
#endif
  }
  static constexpr ThreadKind kKinds[] = {
      ThreadKind::kMain, ThreadKind::kVcpu, ThreadKind::kDevice,
      ThreadKind::kConversion, ThreadKind::kApi};
};

TEST_F(SeccompFilterTest, EachKindIsRefusedWhatItHasNoUseForAndSaysWho) {
  for (ThreadKind kind : kKinds) {
    EXPECT_EQ(UnderFilters({kind}, SYS_execve,
                           [] { ::execl("/bin/true", "true", nullptr); }),
              Refused(kind));
    EXPECT_EQ(UnderFilters({kind}, SYS_ptrace,
                           [] { ::syscall(SYS_ptrace, 0, 0, 0, 0); }),
              Refused(kind));
    EXPECT_EQ(UnderFilters({kind}, SYS_kill, [] { ::kill(1, 0); }),
              Refused(kind));
  }
}

TEST_F(SeccompFilterTest, OnlyTheMainThreadOpensFiles) {
  auto open = [] { ::open("/dev/null", O_RDONLY); };
  EXPECT_EQ(UnderFilters({ThreadKind::kMain}, SYS_openat, open), kFine);
  for (ThreadKind kind : {ThreadKind::kVcpu, ThreadKind::kDevice,
                          ThreadKind::kConversion, ThreadKind::kApi}) {
    EXPECT_EQ(UnderFilters({kind}, SYS_openat, open), Refused(kind));
  }
}

// Each way in which a backend looks at what memory backs (the last one where
// the kernel's guest_memfd cannot be mapped), for the end of a run and for the
// API's worker.
TEST_F(SeccompFilterTest, TheMainThreadCountsBackedPages) {
  constexpr long kCachestat = 451;  // Linux 6.5; bookworm's headers lack it.
  for (long call : {long{SYS_mincore}, long{SYS_lseek}, kCachestat}) {
    auto make = [call] { ::syscall(call, -1, 0, 0, 0); };
    EXPECT_EQ(UnderFilters({ThreadKind::kMain}, call, make), kFine) << call;
    EXPECT_EQ(UnderFilters({ThreadKind::kVcpu}, call, make),
              Refused(ThreadKind::kVcpu))
        << call;
  }
}

TEST_F(SeccompFilterTest, MemoryCannotBecomeExecutable) {
  for (ThreadKind kind : kKinds) {
    EXPECT_EQ(UnderFilters({kind}, SYS_mmap,
                           [] {
                             ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                           }),
              kFine);
    EXPECT_EQ(UnderFilters({kind}, SYS_mmap,
                           [] {
                             ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                           }),
              Refused(kind));
    EXPECT_EQ(UnderFilters({kind}, SYS_mprotect,
                           [] {
                             alignas(4096) static char page[4096];
                             ::mprotect(page, 4096, PROT_READ | PROT_EXEC);
                           }),
              Refused(kind));
  }
}

TEST_F(SeccompFilterTest, OnlyKnownFamiliesOfSockets) {
  auto open = [](int family) {
    return [family] { ::socket(family, SOCK_STREAM, 0); };
  };
  EXPECT_EQ(UnderFilters({ThreadKind::kDevice}, SYS_socket, open(AF_UNIX)),
            kFine);
  EXPECT_EQ(UnderFilters({ThreadKind::kDevice}, SYS_socket, open(AF_INET)),
            Refused(ThreadKind::kDevice));
  EXPECT_EQ(UnderFilters({ThreadKind::kMain}, SYS_socket, open(AF_INET6)),
            kFine);
  EXPECT_EQ(UnderFilters({ThreadKind::kMain}, SYS_socket, open(AF_NETLINK)),
            Refused(ThreadKind::kMain));
  EXPECT_EQ(UnderFilters({ThreadKind::kApi}, SYS_socket, open(AF_UNIX)),
            Refused(ThreadKind::kApi));
}

TEST_F(SeccompFilterTest, SignalsStayInTheProcess) {
  for (ThreadKind kind : kKinds) {
    EXPECT_EQ(
        UnderFilters({kind}, SYS_tgkill,
                     [] { ::syscall(SYS_tgkill, ::getpid(), ::gettid(), 0); }),
        kFine);
    EXPECT_EQ(UnderFilters({kind}, SYS_tgkill,
                           [] { ::syscall(SYS_tgkill, 1, 1, 0); }),
              Refused(kind));
  }
}

TEST_F(SeccompFilterTest, TheMainThreadStartsThreadsAndNoProcesses) {
  EXPECT_EQ(UnderFilters({ThreadKind::kMain}, SYS_clone,
                         [] {
                           int answer = 0;
                           std::thread([&] { answer = 42; }).join();
                           if (answer != 42) ::_exit(1);
                         }),
            kFine);
  EXPECT_EQ(UnderFilters({ThreadKind::kMain}, SYS_clone, [] { ::fork(); }),
            Refused(ThreadKind::kMain));
  // A thread that it starts may put itself under another filter on top.
  EXPECT_EQ(UnderFilters({ThreadKind::kMain, ThreadKind::kVcpu}, SYS_openat,
                         [] { ::open("/dev/null", O_RDONLY); }),
            Refused(ThreadKind::kVcpu));
}

TEST_F(SeccompFilterTest, AllocatorLocksAndClocksWorkEverywhere) {
  for (ThreadKind kind : kKinds) {
    EXPECT_EQ(UnderFilters({kind}, -1,
                           [] {
                             std::string large(64 << 20, 'x');
                             large.resize(128 << 20);
                             timespec now, moment = {0, 1000};
                             ::syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
                             ::clock_nanosleep(CLOCK_MONOTONIC, 0, &moment,
                                               nullptr);
                             if (::write(2, "", 0) != 0) ::_exit(1);
                           }),
              kFine)
        << ThreadKindName(kind);
  }
}

TEST_F(SeccompFilterTest, TheDropThatWasAskedForIsTheOnlyOne) {
  auto rules = SeccompRules({.process = ::getpid(), .uid = 7, .gid = 8});
  for (ThreadKind kind : kKinds) {
    ASSERT_OK_AND_ASSIGN(auto with, SeccompFilter::Build(kind, rules));
    ASSERT_OK_AND_ASSIGN(
        auto without,
        SeccompFilter::Build(kind, SeccompRules({.process = ::getpid()})));
    EXPECT_GT(with.program().size(), without.program().size());
  }
}

TEST_F(SeccompFilterTest, UnknownNamesAreErrors) {
  SeccompRule rule;
  rule.name = "no_such_call";
  rule.threads = ThreadBit(ThreadKind::kMain);
  EXPECT_FALSE(SeccompFilter::Build(ThreadKind::kMain, {rule}).ok());
}

TEST(DecodeRefusalTest, OtherSignalsAreNotRefusals) {
  siginfo_t info = {};
  info.si_signo = SIGSYS;
  info.si_code = SI_USER;
  EXPECT_FALSE(DecodeRefusal(info).has_value());
  info.si_code = 1;  // SYS_SECCOMP, of somebody else's filter
  EXPECT_FALSE(DecodeRefusal(info).has_value());
}

}  // namespace
}  // namespace cloister::vmm
