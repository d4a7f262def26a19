// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/sandbox/seccomp_rules.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <termios.h>

#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "cloister/kvm/thread_requests.h"

namespace cloister::vmm {
namespace {

constexpr ThreadSet kMain = ThreadBit(ThreadKind::kMain);
constexpr ThreadSet kVcpu = ThreadBit(ThreadKind::kVcpu);
constexpr ThreadSet kDevice = ThreadBit(ThreadKind::kDevice);
constexpr ThreadSet kConversion = ThreadBit(ThreadKind::kConversion);
constexpr ThreadSet kApi = ThreadBit(ThreadKind::kApi);
constexpr ThreadSet kAll = kMain | kVcpu | kDevice | kConversion | kApi;
constexpr ThreadSet kLoops = kDevice | kApi;  // threads with an event loop

// The kernel reads these as 32-bit numbers.
constexpr uint64_t kLow32 = 0xffffffff;

// What clone(2) is called with for a thread, as opposed to a process, and what
// would put it into namespaces of its own.
constexpr uint64_t kThreadFlags = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD;
constexpr uint64_t kOtherCloneFlags =
    CLONE_VFORK | CLONE_PTRACE | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS |
    CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

class Table {
 public:
  // Calls that any arguments are fine for.
  void Allow(ThreadSet threads, const char* why,
             std::initializer_list<const char*> names) {
    for (const char* name : names) Add({name, Threads(threads), "", {}, why});
  }
  void AllowIf(ThreadSet threads, const char* name, std::string condition,
               std::vector<ArgumentCheck> checks, const char* why) {
    Add({name, Threads(threads), std::move(condition), std::move(checks), why});
  }
  // One rule for each value of an argument.
  struct Named {
    const char* name;
    uint64_t value;
  };
  void AllowValues(ThreadSet threads, const char* name, unsigned argument,
                   const char* why, std::initializer_list<Named> values) {
    for (const Named& value : values) {
      AllowIf(threads, name, value.name, {{argument, kLow32, value.value}},
              why);
    }
  }
  void Add(SeccompRule rule) { rules_.push_back(std::move(rule)); }
  std::vector<SeccompRule> Take() { return std::move(rules_); }

 private:
  std::vector<SeccompRule> rules_;
};

void AddMemory(Table& table) {
  const char* why = "the C library's allocator, thread stacks";
  table.Allow(kAll, why, {"brk", "munmap", "mremap"});
  table.AllowIf(kAll, "mmap", "without PROT_EXEC", {{2, PROT_EXEC, 0}}, why);
  table.AllowIf(kAll, "mprotect", "without PROT_EXEC", {{2, PROT_EXEC, 0}},
                why);
  table.Allow(kAll, "returns memory, the guest's converted pages included",
              {"madvise"});
  table.Allow(kApi, "counts the pages that are backed", {"mincore"});
  table.Allow(0, "counts the pages of a guest_memfd that cannot be mapped",
              {"cachestat"});
  table.Allow(kVcpu | kDevice | kConversion,
              "frees pages on the side that lost them; discards on disks",
              {"fallocate"});
}

void AddThreads(Table& table, const SeccompFacts& facts) {
  table.Allow(kAll, "locks, condition variables, joining",
              {"futex", "sched_yield"});
  table.Allow(kAll, "the time, where the vDSO cannot tell it",
              {"clock_gettime", "clock_getres", "gettimeofday", "time"});
  table.Allow(kAll, "bounded waits: retries, rate limits",
              {"clock_nanosleep", "nanosleep"});
  table.Allow(kAll, "waits with a deadline that a stop interrupted",
              {"restart_syscall"});
  table.Allow(
      kAll, "signal handlers, and who may run them",
      {"rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "sigaltstack"});
  table.Allow(kAll, "names the process and the thread to signal",
              {"getpid", "gettid"});
  table.AllowIf(kAll, "tgkill", "to this process",
                {{0, kLow32, static_cast<uint64_t>(facts.process)}},
                "takes vCPUs out of the guest; abort");
  table.Allow(kAll, "ends a thread or the process", {"exit", "exit_group"});
  table.Allow(kAll, "seeds of hash tables and allocators", {"getrandom"});
  table.Allow(kAll, "spreads locks over processors",
              {"getcpu", "sched_getaffinity"});
  table.Allow(0, "the C library, as a thread begins",
              {"rseq", "set_robust_list"});
  table.AllowIf(0, "clone", "for a thread",
                {{0, kThreadFlags | kOtherCloneFlags, kThreadFlags}},
                "starts threads, and never processes");
  SeccompRule clone3 = {"clone3",
                        Threads(0),
                        "fails: ENOSYS",
                        {},
                        "hides its flags from filters; clone is used instead"};
  clone3.action = SeccompRule::Action::kNotThere;
  table.Add(clone3);
  table.AllowIf(0, "seccomp", "SECCOMP_SET_MODE_FILTER",
                {{0, kLow32, SECCOMP_SET_MODE_FILTER}},
                "the filters of threads that start later");
}

void AddFiles(Table& table) {
  table.Allow(kAll, "event descriptors, files, sockets, messages on stderr",
              {"read", "write", "readv", "writev", "close"});
  table.Allow(kAll, "never waits for a reader of messages", {"poll", "ppoll"});
  table.Allow(
      kLoops, "event loops and their timers",
      {"epoll_wait", "epoll_pwait", "epoll_ctl", "epoll_create1", "eventfd2",
       "timerfd_create", "timerfd_settime", "timerfd_gettime"});
  table.Allow(kVcpu, "a guest's write that sets a device's timer",
              {"epoll_ctl", "timerfd_settime"});
  table.Allow(kLoops, "sizes and kinds of files", {"fstat", "newfstatat"});
  table.Allow(kDevice, "disks",
              {"pread64", "pwrite64", "preadv", "pwritev", "preadv2",
               "pwritev2", "fsync", "fdatasync", "lseek", "io_uring_setup",
               "io_uring_enter", "io_uring_register"});
  table.Allow(
      0, "kernels, disks and logs are opened",
      {"openat",       "open",       "readlink",   "readlinkat", "access",
       "faccessat",    "faccessat2", "stat",       "lstat",      "statx",
       "fstatfs",      "statfs",     "getdents64", "flock",      "ftruncate",
       "memfd_create", "mlock",      "pipe2",      "dup",        "dup3",
       "signalfd4"});
  table.Allow(0, "sockets and FIFOs are made, given their mode, and removed",
              {"unlink", "unlinkat", "chmod", "fchmod", "fchmodat", "umask",
               "mknodat", "rename", "renameat", "renameat2"});
  table.AllowValues(kLoops, "fcntl", 1, "non-blocking descriptors; locks",
                    {{"F_GETFL", F_GETFL},
                     {"F_SETFL", F_SETFL},
                     {"F_GETFD", F_GETFD},
                     {"F_SETFD", F_SETFD},
                     {"F_DUPFD_CLOEXEC", F_DUPFD_CLOEXEC}});
  table.AllowValues(0, "fcntl", 1,
                    "disks and sockets are locked; guest memory "
                    "is sealed",
                    {{"F_SETLK", F_SETLK},
                     {"F_GETLK", F_GETLK},
                     {"F_OFD_SETLK", F_OFD_SETLK},
                     {"F_OFD_GETLK", F_OFD_GETLK},
                     {"F_ADD_SEALS", F_ADD_SEALS},
                     {"F_GET_SEALS", F_GET_SEALS}});
}

void AddSockets(Table& table) {
  table.Allow(kLoops, "the API's clients; vsock and network back ends",
              {"accept4", "recvfrom", "recvmsg", "sendto", "sendmsg",
               "shutdown", "getsockopt", "getsockname", "getpeername"});
  table.Allow(kLoops, "buffers and linger of sockets", {"setsockopt"});
  table.Allow(kDevice, "connections between vsock and Unix sockets",
              {"connect", "bind", "listen"});
  table.AllowValues(kDevice, "socket", 0,
                    "connections between vsock and Unix sockets",
                    {{"AF_UNIX", AF_UNIX}});
  table.AllowValues(0, "socket", 0,
                    "the API on a loopback port; set-up of tap interfaces",
                    {{"AF_INET", AF_INET}, {"AF_INET6", AF_INET6}});
  table.Allow(0, "the API and vsock wake each other", {"socketpair"});
}

void AddIoctls(Table& table) {
  table.AllowValues(kAll, "ioctl", 1, "a crash restores the terminal",
                    {{"TCGETS", TCGETS}, {"TCSETS", TCSETS}});
  for (const kvm::ThreadRequest& request : kvm::ThreadRequests()) {
    table.AllowIf((request.on_vcpu_threads ? kVcpu : 0) |
                      (request.on_device_threads ? kDevice : 0) |
                      (request.on_api_threads ? kApi : 0),
                  "ioctl", request.name, {{1, kLow32, request.request}},
                  request.why);
  }
  table.AllowIf(0, "ioctl", "any request of KVM",
                {{1, 0xff00, kvm::RequestType() << 8}}, "builds VMs");
  table.AllowValues(kApi | kDevice, "ioctl", 1, "non-blocking sockets",
                    {{"FIONBIO", FIONBIO}});
  table.AllowValues(kVcpu | kDevice, "ioctl", 1,
                    "the guest's driver chooses offloads and queues",
                    {{"TUNSETOFFLOAD", TUNSETOFFLOAD},
                     {"TUNSETQUEUE", TUNSETQUEUE},
                     {"TUNGETIFF", TUNGETIFF}});
  table.AllowValues(kDevice, "ioctl", 1,
                    "how much of a vsock's data its host has yet to read",
                    {{"SIOCOUTQ", SIOCOUTQ}});
  table.AllowIf(0, "ioctl", "any request of tun",
                {{1, 0xff00, TUNSETIFF & 0xff00}}, "opens tap interfaces");
  table.AllowValues(0, "ioctl", 1, "finds network interfaces by name",
                    {{"SIOCGIFINDEX", SIOCGIFINDEX}});
  table.AllowValues(kDevice, "ioctl", 1, "block devices as disks",
                    {{"BLKGETSIZE64", BLKGETSIZE64},
                     {"BLKDISCARD", BLKDISCARD},
                     {"BLKZEROOUT", BLKZEROOUT}});
  table.AllowValues(0, "ioctl", 1, "block devices as disks",
                    {{"BLKSSZGET", BLKSSZGET},
                     {"BLKPBSZGET", BLKPBSZGET},
                     {"BLKROGET", BLKROGET}});
  table.AllowValues(0, "ioctl", 1, "the console and its job control",
                    {{"TIOCGPGRP", TIOCGPGRP},
                     {"TIOCGWINSZ", TIOCGWINSZ},
                     {"FIONREAD", FIONREAD}});
}

void AddProcess(Table& table, const SeccompFacts& facts) {
  table.Allow(0, "who and where the process is",
              {"getuid", "geteuid", "getgid", "getegid", "getresuid",
               "getresgid", "getppid", "getpgrp", "uname", "sysinfo",
               "getrusage", "times", "capget"});
  table.AllowValues(0, "prctl", 0,
                    "names threads; keeps the process's memory "
                    "from others",
                    {{"PR_SET_NAME", PR_SET_NAME},
                     {"PR_GET_NAME", PR_GET_NAME},
                     {"PR_SET_DUMPABLE", PR_SET_DUMPABLE},
                     {"PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS}});
  table.AllowIf(0, "prlimit64", "of this process", {{0, kLow32, 0}},
                "no core files");
  if (facts.gid.has_value()) {
    const uint64_t gid = *facts.gid;
    table.AllowIf(kAll, "setgroups", "to none", {{0, kLow32, 0}}, "--group");
    table.AllowIf(kAll, "setresgid", "to --group",
                  {{0, kLow32, gid}, {1, kLow32, gid}, {2, kLow32, gid}},
                  "--group");
  }
  if (facts.uid.has_value()) {
    const uint64_t uid = *facts.uid;
    table.AllowIf(kAll, "setresuid", "to --user",
                  {{0, kLow32, uid}, {1, kLow32, uid}, {2, kLow32, uid}},
                  "--user");
    table.AllowIf(0, "fchownat", "sockets' files become --user's",
                  {{2, kLow32, uid},
                   {3, kLow32, kLow32},  // the group stays
                   {4, kLow32, AT_EMPTY_PATH}},
                  "--user");
  }
}

}  // namespace

std::vector<SeccompRule> SeccompRules(const SeccompFacts& facts) {
  Table table;
  AddIoctls(table);
  AddFiles(table);
  AddMemory(table);
  AddThreads(table, facts);
  AddSockets(table);
  AddProcess(table, facts);
  return table.Take();
}

std::string SeccompTable(const std::vector<SeccompRule>& rules) {
  std::string text =
      "| call | if | main | vcpu | device | conversion | api | for |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- |\n";
  for (const SeccompRule& rule : rules) {
    absl::StrAppend(&text, "| ", rule.name, " | ", rule.condition, " |");
    for (int kind = 0; kind < kThreadKinds; ++kind) {
      const bool has = rule.threads & ThreadBit(static_cast<ThreadKind>(kind));
      absl::StrAppend(&text, has ? " x |" : "  |");
    }
    absl::StrAppend(&text, " ", rule.why, " |\n");
  }
  return text;
}

}  // namespace cloister::vmm
