// SPDX-License-Identifier: Apache-2.0
//
// A confidential guest that is started, watched and converted through the API
// alone, as the README shows it. In the lab: the backend is sw-protected.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cloister/api/client.h"
#include "cloister/base/mutex.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/guest_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using api::Client;
using api::ClientResponse;
using base::IsOkAndHolds;
using nlohmann::json;
using ::testing::HasSubstr;

constexpr uint64_t kWindow = uint64_t{1} << 32;

std::string GuestFile(const char* what) {
  const char* path =
      std::getenv(absl::StrCat("CLOISTER_GUEST_TINY_", what).c_str());
  return path == nullptr ? absl::StrCat(what, " of the guest is not set")
                         : path;
}

class ApiBootTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/api-boot-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    socket_ = folder_ + "/api.sock";
    ASSERT_OK_AND_ASSIGN(
        process_, GuestProcess::Start({"cli/cloister", "serve", "--api-sock",
                                       socket_, "--id", "lab"}));
    // As SDKs do: ask until somebody answers.
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    absl::Status up = absl::UnavailableError("never tried");
    while (!up.ok() && std::chrono::steady_clock::now() < end) {
      up = Client::Connect(socket_).status();
    }
    ASSERT_OK(up) << process_->output();
    ASSERT_EQ(Send("GET", "/machine-config").status, 200);
  }
  void TearDown() override {
    process_.reset();
    if (listener_.joinable()) listener_.join();
    ::rmdir(folder_.c_str());
  }

  ClientResponse Send(const std::string& method, const std::string& path,
                      const json& body = json()) {
    // A connection for each, as curl does: the server ends an idle one while
    // the guest boots.
    auto client = Client::Connect(socket_);
    auto response =
        client.ok()
            ? (*client)->Call(method, path, body.is_null() ? "" : body.dump())
            : absl::StatusOr<ClientResponse>(client.status());
    if (response.ok()) return *response;
    ADD_FAILURE() << path << ": " << response.status() << "\n"
                  << process_->output();
    return {};
  }
  void Done(const std::string& method, const std::string& path,
            const json& body) {
    const ClientResponse response = Send(method, path, body);
    EXPECT_EQ(response.status, 204) << path << " " << response.body;
  }
  json Get(const std::string& path) {
    const ClientResponse response = Send("GET", path);
    EXPECT_EQ(response.status, 200) << path << " " << response.body;
    return json::parse(response.body, nullptr, false);
  }
  void Listen() {
    listener_ = std::thread([this] {
      auto client = Client::Connect(socket_);
      if (!client.ok()) return;
      listening_ = true;
      // Ends with the server.
      (*client)
          ->Stream("/events",
                   [this](absl::string_view line) {
                     base::MutexLock lock(&mutex_);
                     events_.push_back(
                         json::parse(std::string(line), nullptr, false));
                     return true;
                   })
          .IgnoreError();
    });
    while (!listening_) std::this_thread::yield();
  }
  // Configures a guest, and asks for what it will be.
  void Configure() {
    Done("PUT", "/machine-config", {{"vcpu_count", 1}, {"mem_size_mib", 256}});
    Done("PUT", "/boot-source",
         {{"kernel_image_path", GuestFile("KERNEL")},
          {"initrd_path", GuestFile("INITRAMFS")},
          {"boot_args",
           "console=ttyS0 panic=-1 cloister.run=\"busybox dmesg | busybox grep "
           "IO.TLB; echo told$((40+2)); busybox sleep 600\""}});
    json confidential = {
        {"backend", "sw-protected"},
        {"exchange_windows", {{{"gpa", kWindow}, {"len", "1MiB"}}}}};
    Done("PUT", "/confidential", confidential);
    digest_ = Get("/confidential/measurement")["digest"].get<std::string>();
    ASSERT_EQ(digest_.size(), 64u);
    confidential["expected_digest"] = digest_;
    Done("PUT", "/confidential", confidential);
  }
  ClientResponse Convert(uint64_t gpa, uint64_t size, const char* to) {
    return Send("POST", "/memory/convert",
                {{"ranges", {{{"gpa", gpa}, {"len", size}, {"to", to}}}}});
  }
  json Attributes(uint64_t gpa, uint64_t size) {
    return Get(
        absl::StrCat("/memory/attributes?gpa=", gpa, "&len=", size))["ranges"];
  }
  bool SawEvent(const std::string& event, const std::string& field,
                const json& value) {
    base::MutexLock lock(&mutex_);
    for (const json& seen : events_) {
      if (seen["event"] == event && seen.value(field, json()) == value) {
        return true;
      }
    }
    return false;
  }

  std::string folder_, socket_, digest_;
  std::unique_ptr<GuestProcess> process_;
  std::thread listener_;
  std::atomic<bool> listening_{false};
  base::Mutex mutex_;
  std::vector<json> events_;
};

// "... mapped [mem 0x0000000007a00000-0x000000000ba00000] (64MB)".
bool FindBounceBuffers(const std::string& console, uint64_t* start,
                       uint64_t* size) {
  const size_t at = console.find("mapped [mem ");
  if (at == std::string::npos) return false;
  absl::string_view text = absl::string_view(console).substr(at + 12);
  const size_t dash = text.find('-'), end = text.find(']');
  uint64_t last = 0;
  if (dash == absl::string_view::npos || end == absl::string_view::npos ||
      !absl::SimpleHexAtoi(text.substr(0, dash), start) ||
      !absl::SimpleHexAtoi(text.substr(dash + 1, end - dash - 1), &last)) {
    return false;
  }
  *size = (last - *start + 4095) / 4096 * 4096;
  return true;
}

TEST_F(ApiBootTest, ConfidentialGuestThroughTheApi) {
  Listen();
  Configure();
  Done("PUT", "/actions", {{"action_type", "InstanceStart"}});
  EXPECT_EQ(Get("/")["state"], "Running");
  EXPECT_EQ(Get("/confidential")["backend"], "sw-protected");
  ASSERT_OK(process_->Expect("told42")) << process_->output();

  // What the guest says it shares is what the host sees shared.
  uint64_t start = 0, size = 0;
  ASSERT_TRUE(FindBounceBuffers(process_->output(), &start, &size))
      << process_->output();
  const json bounce = Attributes(start, size);
  ASSERT_EQ(bounce.size(), 1u) << bounce.dump();
  EXPECT_EQ(bounce[0]["state"], "shared");
  EXPECT_EQ(bounce[0]["len"], absl::StrCat("0x", absl::Hex(size)));
  const json conversions = Get("/memory/conversions");
  EXPECT_GE(conversions["to_shared"]["explicit"]["bytes"], size);
  EXPECT_GT(conversions["bytes"]["private"], size);

  // The guest's own pages stay the guest's, whatever else is asked for.
  const ClientResponse refused = Convert(start - 4096, 4096, "shared");
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.body, HasSubstr("guest owns this page"));
  EXPECT_EQ(Convert(start, 4096, "private").status, 400);

  // What no request may name: nothing changes.
  const json before = Attributes(0, uint64_t{8} << 30);
  const struct {
    uint64_t gpa, size;
  } kBad[] = {
      {kWindow + 1, 4096},                 // misaligned
      {kWindow, 4095},                     //
      {kWindow, 0},                        // empty
      {0xfffffffffffff000, 8192},          // wraps
      {kWindow, uint64_t{1} << 63},        // half outside, and huge
      {0, (uint64_t{1} << 52) - 4096},     //
      {0xfec00000, 4096},                  // the IOAPIC
      {0xd0000000, 4096},                  // where BARs go
      {uint64_t{1} << 40, 4096},           // nothing at all
      {kWindow + (1 << 20) - 4096, 8192},  // past the window's end
      {kWindow - 4096, 8192},              // before its start
      {0, 4096},                           // aliased
  };
  for (const auto& bad : kBad) {
    for (const char* to : {"shared", "private"}) {
      EXPECT_EQ(Convert(bad.gpa, bad.size, to).status, 400)
          << std::hex << bad.gpa << " " << bad.size << " " << to;
    }
  }
  EXPECT_EQ(Attributes(0, uint64_t{8} << 30), before);

  // The exchange window is the host's.
  EXPECT_EQ(Attributes(kWindow, 1 << 20)[0]["state"], "private");
  EXPECT_EQ(json::parse(Convert(kWindow, 65536, "shared").body)["bytes"],
            65536);
  EXPECT_EQ(Attributes(kWindow, 1 << 20)[0]["len"], "0x10000");
  EXPECT_EQ(Attributes(kWindow, 1 << 20)[0]["state"], "shared");
  EXPECT_EQ(json::parse(Convert(kWindow, 65536, "private").body)["bytes"],
            65536);
  EXPECT_EQ(Attributes(kWindow, 1 << 20).size(), 1u);

  Done("PATCH", "/vm", {{"state", "Paused"}});
  EXPECT_EQ(Get("/")["state"], "Paused");
  const json paused = Get("/metrics")["vcpus"];
  EXPECT_EQ(Get("/metrics")["vcpus"], paused);
  Done("PATCH", "/vm", {{"state", "Resumed"}});
  EXPECT_THAT(Send("GET", "/memory/map.svg").body, HasSubstr("</svg>"));
  EXPECT_THAT(Send("GET", "/metrics/prometheus").body,
              HasSubstr("cloister_memory_bytes{state=\"private\"}"));

  Done("PUT", "/actions", {{"action_type", "InstanceStop"}});
  EXPECT_THAT(process_->Wait(), IsOkAndHolds(0)) << process_->output();
  EXPECT_NE(::access(socket_.c_str(), F_OK), 0);
  listener_.join();
  EXPECT_TRUE(SawEvent("lifecycle", "state", "running"));
  EXPECT_TRUE(SawEvent("lifecycle", "state", "paused"));
  EXPECT_TRUE(SawEvent("lifecycle", "state", "resumed"));
  EXPECT_TRUE(SawEvent("lifecycle", "state", "ended"));
  EXPECT_TRUE(SawEvent("host_conversion", "to", "shared"));
}

TEST_F(ApiBootTest, AnotherDigestIsNotStarted) {
  Configure();
  Done("PUT", "/confidential",
       {{"backend", "sw-protected"}, {"expected_digest", digest_}});
  // Without the window the digest is another.
  const ClientResponse response =
      Send("PUT", "/actions", {{"action_type", "InstanceStart"}});
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, HasSubstr("expected_digest"));
  EXPECT_EQ(Get("/")["state"], "Not started");
  process_->Signal(SIGTERM);
  EXPECT_THAT(process_->Wait(), IsOkAndHolds(143));
  EXPECT_NE(::access(socket_.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace cloister::tests
