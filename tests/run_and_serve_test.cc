// SPDX-License-Identifier: Apache-2.0
//
// `cloister run` and `cloister serve` as processes: what they leave behind
// after each signal, what `run` tells clients of its API, and taps that they
// inherit. Natively on /dev/kvm: the guests need port I/O alone.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/api/client.h"
#include "cloister/base/mutex.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/cli/exit_code.h"
#include "cloister/tests/echo_kernel.h"
#include "cloister/tests/guest_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using base::IsOkAndHolds;
using nlohmann::json;
using ::testing::HasSubstr;

constexpr char kBanner[] = "echo runs";

bool Exists(const std::string& path) {
  struct stat status = {};
  return ::lstat(path.c_str(), &status) == 0;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class ProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no /dev/kvm here that this user may open";
    }
    char name[] = "/tmp/run-serve-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    const std::vector<uint8_t> elf = MakeEchoKernel(kBanner);
    std::ofstream(Path("kernel"), std::ios::binary)
        .write(reinterpret_cast<const char*>(elf.data()),
               static_cast<std::streamsize>(elf.size()));
  }
  void TearDown() override {
    process_.reset();
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }
  std::string Path(const char* name) const {
    return absl::StrCat(folder_, "/", name);
  }
  // Starts a VM by `command` and waits until its guest runs.
  void Start(const std::string& command, std::vector<std::string> more,
             const std::function<void()>& prepare = nullptr) {
    std::vector<std::string> argv = {"cli/cloister", command, "--api-sock",
                                     Path("api")};
    if (command == "run") {
      for (const std::string& word :
           {std::string("--kernel"), Path("kernel"), std::string("--memory"),
            std::string("32M"), std::string("--confidential"),
            std::string("off")}) {
        argv.push_back(word);
      }
    }
    argv.insert(argv.end(), more.begin(), more.end());
    ASSERT_OK_AND_ASSIGN(process_, GuestProcess::Start(argv, prepare));
    ASSERT_OK(process_->Expect(kBanner));
  }
  // A file that describes a VM with a virtio socket device, for `serve`.
  std::string WriteConfig() const {
    std::ofstream(Path("vm.json"))
        << json({{"boot-source", {{"kernel_image_path", Path("kernel")}}},
                 {"machine-config", {{"vcpu_count", 1}, {"mem_size_mib", 32}}},
                 {"confidential", {{"backend", "off"}}},
                 {"vsock", {{"guest_cid", 3}, {"uds_path", Path("vsock")}}}});
    return Path("vm.json");
  }
  // The socket is there before somebody answers.
  std::unique_ptr<api::Client> Connect() {
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    for (;;) {
      auto client = api::Client::Connect(Path("api"));
      if (client.ok()) return *std::move(client);
      if (std::chrono::steady_clock::now() > end) {
        ADD_FAILURE() << client.status();
        return nullptr;
      }
      std::this_thread::yield();
    }
  }

  std::string folder_;
  std::unique_ptr<GuestProcess> process_;
};

class SignalTest
    : public ProcessTest,
      public ::testing::WithParamInterface<std::tuple<const char*, int>> {};

// Those of the API and of the guest's virtio socket device.
TEST_P(SignalTest, LeavesNoSocketBehind) {
  const auto [command, signal] = GetParam();
  if (std::string(command) == "run") {
    Start("run", {"--vsock", absl::StrCat("cid=3,path=", Path("vsock"))});
  } else {
    Start("serve", {"--config-file", WriteConfig()});
  }
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_NE(Connect(), nullptr);
  for (const char* name : {"api", "api.lock", "vsock"}) {
    EXPECT_TRUE(Exists(Path(name))) << name;
  }
  process_->Signal(signal);
  EXPECT_THAT(process_->Wait(), IsOkAndHolds(128 + signal))
      << process_->output();
  for (const char* name : {"api", "api.lock", "vsock"}) {
    EXPECT_FALSE(Exists(Path(name))) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    , SignalTest,
    ::testing::Combine(::testing::Values("run", "serve"),
                       ::testing::Values(SIGTERM, SIGINT, SIGHUP, SIGQUIT,
                                         SIGUSR1, SIGUSR2, SIGALRM, SIGXCPU,
                                         SIGSEGV, SIGABRT, SIGSYS)),
    [](const auto& info) {
      return absl::StrCat(std::get<0>(info.param), "_",
                          sigabbrev_np(std::get<1>(info.param)));
    });

// A folder like /tmp: who made a file there, or the folder, may remove it.
TEST_F(ProcessTest, AnotherUserRemovesItsSockets) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root can become somebody else";
  }
  ASSERT_EQ(::chmod(folder_.c_str(), 01777), 0);
  for (const char* command : {"run", "serve"}) {
    SCOPED_TRACE(command);
    std::vector<std::string> options;
    if (std::string(command) == "run") {
      options.insert(options.end(),
                     {"--vsock", absl::StrCat("cid=3,path=", Path("vsock"))});
    } else {
      options.insert(options.end(), {"--config-file", WriteConfig()});
    }
    // The second takes over what the first, of yet another user, leaves behind.
    for (int end : {SIGKILL, SIGTERM}) {
      std::vector<std::string> all = options;
      all.insert(all.end(), {"--user", end == SIGKILL ? "12345" : "nobody",
                             "--group", "nogroup"});
      Start(command, all);
      ASSERT_FALSE(HasFatalFailure());
      ASSERT_NE(Connect(), nullptr);
      for (const char* name : {"api", "api.lock", "vsock"}) {
        EXPECT_TRUE(Exists(Path(name))) << name;
      }
      process_->Signal(end);
      ASSERT_OK(process_->Wait());
    }
    for (const char* name : {"api", "api.lock", "vsock"}) {
      EXPECT_FALSE(Exists(Path(name))) << name;
    }
  }
}

// A log as large as files may be: writes fail, and the guest goes on.
TEST_F(ProcessTest, ALogThatMayNotGrowEndsNothing) {
  constexpr uint64_t kLimit = 256 << 20;  // the guest's memory is a file, too
  std::ofstream(Path("log")).close();
  std::filesystem::resize_file(Path("log"), kLimit);
  Start("run", {"--log-path", Path("log"), "--level", "Debug"}, [] {
    const rlimit limit = {kLimit, kLimit};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  });
  ASSERT_FALSE(HasFatalFailure());
  process_->Signal(SIGXFSZ);
  ASSERT_OK(process_->Type("a"));
  ASSERT_OK(process_->Expect("a"));
  process_->Signal(SIGTERM);
  EXPECT_THAT(process_->Wait(), IsOkAndHolds(128 + SIGTERM));
  EXPECT_EQ(std::filesystem::file_size(Path("log")), kLimit);
}

TEST_F(ProcessTest, ClientsOfRunSeeItsLogAndItsEnd) {
  Start("run", {"--log-path", Path("log"), "--show-level", "--metrics-path",
                Path("metrics")});
  ASSERT_FALSE(HasFatalFailure());
  auto client = Connect();
  ASSERT_NE(client, nullptr);
  base::Mutex mutex;
  std::vector<json> events;
  std::thread reader([&] {
    // Until the server ends the stream.
    client
        ->Stream(
            "/events",
            [&](absl::string_view line) {
              base::MutexLock lock(&mutex);
              events.push_back(json::parse(std::string(line), nullptr, false));
              return true;
            })
        .IgnoreError();
  });
  // This guest has no power button: a warning. The log limits its own rate, so
  // that what the stream sees first may be how many lines were left out.
  const auto is_warning = [](const json& event) {
    return absl::StrContains(event.value("message", ""), "power button");
  };
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  for (bool seen = false; !seen && std::chrono::steady_clock::now() < end;) {
    process_->Signal(SIGPWR);
    std::this_thread::yield();
    base::MutexLock lock(&mutex);
    seen = std::any_of(events.begin(), events.end(), is_warning);
  }
  process_->Signal(SIGTERM);
  process_->Signal(SIGPWR);  // too late: it ends as the first one says
  EXPECT_THAT(process_->Wait(), IsOkAndHolds(128 + SIGTERM));
  reader.join();
  base::MutexLock lock(&mutex);
  ASSERT_GE(events.size(), 2u);
  const auto warning = std::find_if(events.begin(), events.end(), is_warning);
  ASSERT_NE(warning, events.end()) << json(events);
  EXPECT_EQ(warning->value("event", ""), "log");
  EXPECT_EQ(warning->value("level", ""), "warning");
  EXPECT_EQ(events.back().value("state", ""), "ended");
  EXPECT_EQ(events.back().value("exit_code", 0), 128 + SIGTERM);
  EXPECT_THAT(ReadAll(Path("log")), HasSubstr(":warning] SIGPWR: "));
  const json metrics = json::parse(ReadAll(Path("metrics")), nullptr, false);
  EXPECT_TRUE(metrics.is_object() && metrics.contains("vcpu"))
      << "one line, at the end";
}

// A crash finds its handler on whatever thread it comes: none blocks the
// signals of its own faults.
TEST_F(ProcessTest, NoThreadBlocksItsFaults) {
  Start("serve", {"--config-file", WriteConfig()});
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_NE(Connect(), nullptr);
  // While it starts, a thread blocks everything.
  std::string blocking;
  size_t threads = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  do {
    blocking.clear();
    threads = 0;
    for (const auto& task : std::filesystem::directory_iterator(
             absl::StrCat("/proc/", process_->pid(), "/task"))) {
      const std::string status = ReadAll(task.path().string() + "/status");
      const size_t at = status.find("SigBlk:");
      if (at == std::string::npos) continue;              // it has ended
      if (status.rfind("Name:\tkvm-", 0) == 0) continue;  // the kernel's own
      const uint64_t blocked =
          std::strtoull(status.c_str() + at + 7, nullptr, 16);
      for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS}) {
        if ((blocked >> (fault - 1) & 1) != 0) {
          absl::StrAppend(&blocking, status.substr(0, status.find('\n')), " ",
                          fault, "\n");
        }
      }
      ++threads;
    }
  } while (!blocking.empty() && std::chrono::steady_clock::now() < end);
  EXPECT_EQ(blocking, "");
  EXPECT_GE(threads, 4u);
}

// A queue of the tap `name`, which is there as long as one of them is.
base::UniqueFd OpenQueue(const char* name) {
  base::UniqueFd fd(::open("/dev/net/tun", O_RDWR));  // for the child, too
  ifreq request = {};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
  if (fd.valid() && ::ioctl(fd.get(), TUNSETIFF, &request) != 0) fd.reset();
  return fd;
}

TEST_F(ProcessTest, TapsThatAreInheritedAreQueues) {
  const base::UniqueFd first = OpenQueue("clinherit0");
  if (!first.valid()) {
    GTEST_SKIP() << "this user cannot make a tap: " << std::strerror(errno);
  }
  const base::UniqueFd second = OpenQueue("clinherit0");
  const base::UniqueFd other = OpenQueue("clinherit1");
  ASSERT_TRUE(second.valid() && other.valid());
  Start("run",
        {"--net", absl::StrCat("id=lan,fd=", first.get(), ":", second.get())});
  ASSERT_FALSE(HasFatalFailure());
  auto client = Connect();
  ASSERT_NE(client, nullptr);
  ASSERT_OK_AND_ASSIGN(std::string metrics, client->Get("/metrics"));
  EXPECT_THAT(metrics, HasSubstr("net_lan"));
  process_->Signal(SIGTERM);
  EXPECT_THAT(process_->Wait(), IsOkAndHolds(128 + SIGTERM));

  const struct {
    std::string net, fault;
  } kWrong[] = {
      {absl::StrCat("fd=", first.get(), ":", other.get()), "clinherit1"},
      {absl::StrCat("queues=2,fd=", first.get()), "queues=2"},
      {"fd=0", "fd=0: not an attached tap"},
  };
  for (const auto& wrong : kWrong) {
    ASSERT_OK_AND_ASSIGN(
        process_,
        GuestProcess::Start({"cli/cloister", "run", "--kernel", Path("kernel"),
                             "--memory", "32M", "--confidential", "off",
                             "--net", wrong.net}));
    EXPECT_THAT(process_->Wait(), IsOkAndHolds(int{cli::kExitError}));
    EXPECT_THAT(process_->output(), HasSubstr(wrong.fault)) << wrong.net;
  }
}

}  // namespace
}  // namespace cloister::tests
