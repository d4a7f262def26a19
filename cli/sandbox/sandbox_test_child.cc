// SPDX-License-Identifier: Apache-2.0
//
// A process under the program's sandbox that does what one of its threads must
// not. usage: sandbox_test_child [--user U] [--group G] [--seccomp off] KIND
// ACTION
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "cloister/api/worker.h"
#include "cloister/base/log.h"
#include "cloister/cli/sandbox/sandbox.h"
#include "cloister/devices/virtio/worker.h"

namespace cloister::cli {
namespace {

using vmm::ThreadKind;

// What the kernel says of each of the process's threads.
void PrintIdentities() {
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);) {
      for (const char* wanted :
           {"Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp:"}) {
        if (line.rfind(wanted, 0) == 0) std::puts(line.c_str());
      }
    }
  }
}

const std::map<std::string, std::function<void()>>& Actions() {
  static const std::map<std::string, std::function<void()>> actions = {
      {"nothing", [] {}},
      {"date",
       [] {
         const time_t now = 0;
         tm date;
         if (::gmtime_r(&now, &date) == nullptr) std::abort();
       }},
      {"execve", [] { ::execl("/bin/true", "true", nullptr); }},
      {"openat", [] { ::open("/etc/passwd", O_RDONLY); }},
      {"socket", [] { ::socket(AF_NETLINK, SOCK_RAW, 0); }},
      {"mmap",
       [] {
         ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
       }},
      {"identity", PrintIdentities},
  };
  return actions;
}

// Runs `action` on a thread of `kind`, started as the program starts it.
void RunOn(ThreadKind kind, const Sandbox& sandbox,
           const std::function<void()>& action) {
  auto enter = [&sandbox, kind] { sandbox.EnterThread(kind); };
  if (kind == ThreadKind::kMain) return action();
  if (kind == ThreadKind::kDevice) {
    auto worker = devices::virtio::Worker::Create("child0", enter);
    if (!worker.ok()) return;
    std::promise<void> done;
    (*worker)->loop().Post([&] {
      action();
      done.set_value();
    });
    done.get_future().wait();
    return;
  }
  std::thread([&] {
    enter();
    action();
  }).join();
}

int Act(const Sandbox& sandbox, const std::string& kind_name,
        const std::string& action) {
  if (kind_name == "api-worker") {
    // Has no filter but the one that it inherits.
    std::promise<void> done;
    api::Worker worker;
    worker.Run([&] {
      Actions().at(action)();
      done.set_value();
    });
    done.get_future().wait();
    return 0;
  }
  for (int kind = 0; kind < vmm::kThreadKinds; ++kind) {
    if (kind_name == vmm::ThreadKindName(static_cast<ThreadKind>(kind))) {
      RunOn(static_cast<ThreadKind>(kind), sandbox, Actions().at(action));
      std::puts("not refused");
      std::fflush(stdout);
      return 0;
    }
  }
  return 2;
}

int Run(const SandboxOptions& options, const std::string& kind_name,
        const std::string& action) {
  base::Logger log(base::StderrSink(), base::LogLevel::kInfo);
  auto sandbox = Sandbox::Create(options, log);
  if (!sandbox.ok()) {
    log.Error(sandbox.status().message());
    return 1;
  }
  if (absl::Status status = (*sandbox)->EnterMain(); !status.ok()) {
    log.Error(status.message());
    return 1;
  }
  // A thread that is under its filter already must change its user, too.
  int ready[2], go[2];
  if (::pipe2(ready, O_CLOEXEC) < 0 || ::pipe2(go, O_CLOEXEC) < 0) return 1;
  char byte = 0;
  std::thread early([&] {
    (*sandbox)->EnterThread(ThreadKind::kConversion);
    (void)!::write(ready[1], "r", 1);
    char wait;
    (void)!::read(go[0], &wait, 1);
  });
  (void)!::read(ready[0], &byte, 1);
  int result = 0;
  if (absl::Status status = (*sandbox)->DropIdentity(); status.ok()) {
    result = Act(**sandbox, kind_name, action);
  } else {
    log.Error(status.message());
    result = 1;
  }
  (void)!::write(go[1], "g", 1);
  early.join();
  return result;
}

}  // namespace
}  // namespace cloister::cli

int main(int argc, char** argv) {
  cloister::cli::SandboxOptions options;
  int at = 1;
  for (; at + 1 < argc && argv[at][0] == '-'; at += 2) {
    const std::string option = argv[at];
    if (option == "--user") options.user = argv[at + 1];
    if (option == "--group") options.group = argv[at + 1];
    if (option == "--seccomp")
      options.seccomp = std::string(argv[at + 1]) != "off";
  }
  if (at + 1 >= argc) return 2;
  return cloister::cli::Run(options, argv[at], argv[at + 1]);
}
