// SPDX-License-Identifier: Apache-2.0
//
// 64 clients ask a server whose guest keeps a CPU busy. Natively on /dev/kvm:
// the guest needs port I/O alone. Five seconds; a minute with CLOISTER_SOAK,
// when resident memory must not grow either.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/client.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/tests/guest_process.h"
#include "cloister/tests/lab_settings.h"
#include "cloister/vmm/micro_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using Clock = std::chrono::steady_clock;
using base::IsOkAndHolds;
using std::chrono::milliseconds;

constexpr int kClients = 64;
constexpr milliseconds kInterval(100);  // between one client's requests
constexpr double kP99Ms = 5;

// What is asked for, in turn.
constexpr const char* kTargets[] = {"/", "/machine-config", "/metrics",
                                    "/memory/attributes", "/vm/config"};

uint64_t ResidentKib(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/status"));
  for (std::string word; file >> word;) {
    uint64_t kib = 0;
    if (word == "VmRSS:" && file >> kib) return kib;
  }
  return 0;
}

// A connection with one request under way at most.
struct Connection {
  base::UniqueFd fd;
  Clock::time_point due;   // of the next request
  Clock::time_point sent;  // of the one under way
  bool waiting = false;
  size_t turn = 0;
  std::string answer;
};

class ApiLoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/api-load-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    socket_ = folder_ + "/s";
    kernel_ = folder_ + "/kernel";
    ASSERT_OK(vmm::WriteMicroKernel(vmm::MicroKernel::kPrint, kernel_));
    // One more connection configures.
    ASSERT_OK_AND_ASSIGN(
        process_,
        GuestProcess::Start({"cli/cloister", "serve", "--api-sock", socket_,
                             "--api-max-connections", "65"}));
    const auto end = Clock::now() + std::chrono::seconds(30);
    while (client_ == nullptr && Clock::now() < end) {
      auto client = api::Client::Connect(socket_);
      if (client.ok()) client_ = *std::move(client);
    }
    ASSERT_NE(client_, nullptr) << process_->output();
    Put("/confidential", "{\"backend\":\"off\"}");
    Put("/serial", "{\"serial_out_path\":\"/dev/null\"}");
    Put("/boot-source",
        absl::StrCat("{\"kernel_image_path\":\"", kernel_, "\"}"));
    Put("/actions", "{\"action_type\":\"InstanceStart\"}");
  }
  void TearDown() override {
    ::unlink(kernel_.c_str());
    ::rmdir(folder_.c_str());
  }
  void Put(const char* path, const std::string& body) {
    ASSERT_OK_AND_ASSIGN(api::ClientResponse response,
                         client_->Call("PUT", path, body));
    ASSERT_EQ(response.status, 204) << response.body;
  }
  void Connect() {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, socket_.data(), socket_.size());
    const Clock::time_point now = Clock::now();
    for (int i = 0; i < kClients; ++i) {
      Connection connection;
      connection.fd.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      ASSERT_EQ(
          ::connect(connection.fd.get(), reinterpret_cast<sockaddr*>(&address),
                    sizeof(address)),
          0);
      connection.due = now + kInterval * i / kClients;
      connections_.push_back(std::move(connection));
    }
  }
  void SendDue(Connection& connection, Clock::time_point now) {
    if (connection.waiting || now < connection.due) return;
    const std::string request =
        absl::StrCat("GET ", kTargets[connection.turn++ % 5],
                     " HTTP/1.1\r\nHost: x\r\n\r\n");
    ASSERT_EQ(::send(connection.fd.get(), request.data(), request.size(),
                     MSG_NOSIGNAL),
              static_cast<ssize_t>(request.size()));
    connection.sent = Clock::now();
    connection.due += kInterval;
    connection.waiting = true;
  }
  // Takes what has come; an answer is whole when its braces are balanced.
  void Receive(Connection& connection) {
    char part[16384];
    const ssize_t size = ::recv(connection.fd.get(), part, sizeof(part), 0);
    ASSERT_GT(size, 0) << "the server has closed";
    connection.answer.append(part, static_cast<size_t>(size));
    const size_t body = connection.answer.find("\r\n\r\n");
    if (body == std::string::npos) return;
    const auto count = [&](char c) {
      return std::count(connection.answer.begin() + static_cast<long>(body),
                        connection.answer.end(), c);
    };
    if (count('{') == 0 || count('{') != count('}')) return;
    ASSERT_TRUE(absl::StartsWith(connection.answer, "HTTP/1.1 200"))
        << connection.answer;
    latencies_.push_back(std::chrono::duration<double, std::milli>(
                             Clock::now() - connection.sent)
                             .count());
    connection.answer.clear();
    connection.waiting = false;
  }
  void Load(Clock::duration length) {
    const Clock::time_point end = Clock::now() + length;
    std::vector<pollfd> ready(connections_.size());
    while (Clock::now() < end && !HasFatalFailure()) {
      const Clock::time_point now = Clock::now();
      for (size_t i = 0; i < connections_.size(); ++i) {
        SendDue(connections_[i], now);
        ready[i] = {connections_[i].fd.get(), POLLIN, 0};
      }
      if (::poll(ready.data(), ready.size(), 1) <= 0) continue;
      for (size_t i = 0; i < connections_.size(); ++i) {
        if (ready[i].revents != 0) Receive(connections_[i]);
      }
    }
  }

  std::string folder_, socket_, kernel_;
  std::unique_ptr<GuestProcess> process_;
  std::unique_ptr<api::Client> client_;
  std::vector<Connection> connections_;
  std::vector<double> latencies_;
};

TEST_F(ApiLoadTest, SixtyFourClients) {
  const bool soak = Soak();
  Connect();
  Load(std::chrono::seconds(soak ? 10 : 5));
  const uint64_t early = ResidentKib(process_->pid());
  if (soak) Load(std::chrono::seconds(50));
  const uint64_t late = ResidentKib(process_->pid());
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_GT(latencies_.size(), 1000u);
  std::sort(latencies_.begin(), latencies_.end());
  const double p99 = latencies_[latencies_.size() * 99 / 100];
  std::printf("%zu requests: median %.3f ms, p99 %.3f ms, most %.3f ms\n",
              latencies_.size(), latencies_[latencies_.size() / 2], p99,
              latencies_.back());
  // A mark for a machine that has nothing else to do.
  if (soak) {
    EXPECT_LT(p99, kP99Ms);
  }
  EXPECT_GT(early, 0u);
  EXPECT_LE(late, early + 1024) << "KiB";
  connections_.clear();
  client_.reset();
  process_->Signal(SIGTERM);
  EXPECT_THAT(process_->Wait(), IsOkAndHolds(143)) << process_->output();
}

}  // namespace
}  // namespace cloister::tests

int main(int argc, char** argv) {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    std::printf("SKIPPED: api_load_test: no access to /dev/kvm\n");
    return 0;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
