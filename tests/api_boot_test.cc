// SPDX-License-Identifier: Apache-2.0
//
// A confidential guest that is started, watched, converted and changed through
// the API alone, by the commands of docs/api.md. In the lab: the backend is
// sw-protected. And an ordinary one as clients of Firecracker start it.
// CLOISTER_SOAK=1 has it asked by 64 clients for a minute.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cloister/api/client.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/doc_commands.h"
#include "cloister/tests/guest_process.h"
#include "cloister/tests/lab_settings.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using api::Client;
using api::ClientResponse;
using base::IsOkAndHolds;
using nlohmann::json;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr uint64_t kWindow = uint64_t{1} << 32;

// What is waited for happens within minutes, however slow the machine.
template <typename Condition>
bool Eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(3);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    ::usleep(10000);  // The guest has the same processor.
  }
  return true;
}

// The commands of docs/api.md, run as they are printed: by a shell, in a folder
// that has the files they name.
class ApiBootTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/api-boot-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    std::filesystem::create_symlink(GuestFile("TINY", "KERNEL"),
                                    folder_ + "/vmlinuz");
    std::filesystem::create_symlink(std::filesystem::absolute("cli/cloister"),
                                    folder_ + "/cloister");
    // The test guest's files, and an init that comes after them.
    ASSERT_EQ(std::system(absl::StrCat("mkdir ", folder_, "/init && cp ",
                                       "tests/api_guest_init.sh ", folder_,
                                       "/init/init && cp ",
                                       GuestFile("TINY", "INITRAMFS"), " ",
                                       folder_, "/initrd.img && cd ", folder_,
                                       "/init && truncate --size=%4 ",
                                       "../initrd.img && echo init | cpio ",
                                       "--quiet -o -H newc >>../initrd.img")
                              .c_str()),
              0);
    std::ofstream(folder_ + "/data.img") << std::string(1 << 20, 'd');
    ASSERT_OK_AND_ASSIGN(
        commands_,
        DocCommands("docs/api.md", "## A confidential VM with curl"));
    ASSERT_THAT(commands_, SizeIs(Gt(10)));
    std::string serve = TakeCommand("cloister serve --api-sock");
    // Beside the clients under load there are those of the commands.
    if (Soak()) {
      serve.replace(0, std::strlen("cloister serve"),
                    "cloister serve --api-max-connections 80");
    }
    function_ = TakeCommand("api() {");
    ASSERT_OK_AND_ASSIGN(process_, Shell(serve + "\nwait $!"));
    // As SDKs do: ask until somebody answers.
    ASSERT_TRUE(Eventually([&] { return Client::Connect(kSocket).ok(); }));
    ASSERT_EQ(Send("GET", "/machine-config").status, 200);
  }
  void TearDown() override {
    process_.reset();
    events_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  absl::StatusOr<std::unique_ptr<GuestProcess>> Shell(
      const std::string& script) {
    return GuestProcess::Start(
        {"bash", "-c",
         absl::StrCat("cd ", folder_, "; PATH=", folder_, ":$PATH\n", function_,
                      "\n", script)});
  }
  // The page's next command, which must begin with `start`.
  std::string TakeCommand(absl::string_view start) {
    if (next_ == commands_.size()) {
      ADD_FAILURE() << "no more commands; expected " << start;
      return "false";
    }
    EXPECT_THAT(commands_[next_], StartsWith(std::string(start)));
    return commands_[next_++];
  }
  // Runs it; what it prints.
  std::string RunCommand(absl::string_view start) {
    const std::string command = TakeCommand(start);
    auto shell = Shell(command);
    if (!shell.ok()) return shell.status().ToString();
    EXPECT_THAT((*shell)->Wait(), IsOkAndHolds(0)) << command;
    EXPECT_THAT((*shell)->output(), Not(HasSubstr("fault_message")))
        << command << "\n"
        << process_->output();
    return (*shell)->output();
  }
  json RunForJson(absl::string_view start) {
    return json::parse(RunCommand(start), nullptr, false);
  }

  ClientResponse Send(const std::string& method, const std::string& path,
                      const json& body = json()) {
    // A connection for each, as curl does: the server ends an idle one while
    // the guest boots.
    auto client = Client::Connect(kSocket);
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
  // Configures the guest, and asks for what it will be.
  void Configure() {
    EXPECT_EQ(RunCommand("api -X PUT http://localhost/machine-config"), "");
    EXPECT_EQ(RunCommand("api -X PUT http://localhost/boot-source"), "");
    EXPECT_EQ(RunCommand("api -X PUT http://localhost/drives/data"), "");
    EXPECT_EQ(RunCommand("api -X PUT http://localhost/confidential"), "");
    digest_ =
        RunForJson("api http://localhost/confidential/measurement")["digest"]
            .get<std::string>();
    ASSERT_EQ(digest_.size(), 64u);
  }
  // As the commands have it, but for the digest.
  void Expect(const std::string& digest) {
    json confidential = Get("/confidential");
    confidential["expected_digest"] = digest;
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
  void CheckBounceBuffers();
  void CheckWhatNobodyMayConvert();
  void CheckDiskUnderLoad();
  void CheckEvents();
  // Waits for the guest's next pass over its disk with these words in it.
  void ExpectGuest(const std::string& text) {
    ASSERT_OK(process_->Expect(text)) << process_->output();
  }

  static constexpr char kSocket[] = "/tmp/vm.sock";
  std::string folder_, function_, digest_;
  std::vector<std::string> commands_;
  size_t next_ = 0;
  std::unique_ptr<GuestProcess> process_, events_;
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

// What the guest says it shares is what the host sees shared.
void ApiBootTest::CheckBounceBuffers() {
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
}

// What no request may name: nothing changes. The guest works meanwhile, but its
// device's rings and buffers have been shared since it found the device.
void ApiBootTest::CheckWhatNobodyMayConvert() {
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
}

// Asks for one thing after the other until `stop`; what went wrong, or nothing.
std::string KeepAsking(const char* socket, const std::atomic<bool>& stop,
                       std::atomic<int>& answers) {
  constexpr const char* kPaths[] = {"/metrics", "/memory/attributes",
                                    "/memory/map", "/vm/config",
                                    "/metrics/prometheus"};
  auto client = Client::Connect(socket);
  if (!client.ok()) return client.status().ToString();
  for (size_t i = 0; !stop; ++i) {
    auto response = (*client)->Call("GET", kPaths[i % 5], "");
    if (!response.ok()) return response.status().ToString();
    if (response->status != 200) return response->body;
    ++answers;
  }
  return "";
}

// Pauses the guest and lets it go on, until `stop`; in between others get their
// answers. Ends with a guest that runs.
std::string KeepPausing(const char* socket, const std::atomic<bool>& stop,
                        const std::atomic<int>& answers,
                        std::atomic<int>& pauses) {
  auto client = Client::Connect(socket);
  if (!client.ok()) return client.status().ToString();
  while (!stop) {
    for (const char* state : {"Paused", "Resumed"}) {
      auto response = (*client)->Call(
          "PATCH", "/vm", absl::StrCat("{\"state\":\"", state, "\"}"));
      if (!response.ok()) return response.status().ToString();
      if (response->status != 204) return response->body;
      const int seen = answers;
      while (answers < seen + 20 && !stop) ::usleep(1000);
    }
    ++pauses;
  }
  return "";
}

// The guest reads the same, whatever is asked of the API meanwhile and however
// often it is paused, and whoever asks gets an answer.
void ApiBootTest::CheckDiskUnderLoad() {
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::seconds(Soak() ? 60 : 0);
  std::atomic<bool> stop{false};
  std::atomic<int> answers{0}, pauses{0};
  std::vector<std::string> faults(Soak() ? 64 : 8);
  std::string pauser_fault;
  std::vector<std::thread> clients;
  for (std::string& fault : faults) {
    clients.emplace_back([&] { fault = KeepAsking(kSocket, stop, answers); });
  }
  clients.emplace_back(
      [&] { pauser_fault = KeepPausing(kSocket, stop, answers, pauses); });
  // 1 MiB of "d".
  for (int i = 0; i < 3 || std::chrono::steady_clock::now() < end; ++i) {
    ExpectGuest("8fe11529f048c9ec6973443f8a371a84");
    if (HasFatalFailure()) break;
  }
  const int seen = answers;
  EXPECT_TRUE(Eventually([&] { return answers > seen + 100 && pauses > 3; }));
  ExpectGuest("8fe11529f048c9ec6973443f8a371a84");
  stop = true;
  for (std::thread& client : clients) client.join();
  for (const std::string& fault : faults) EXPECT_EQ(fault, "");
  EXPECT_EQ(pauser_fault, "");
  EXPECT_EQ(Get("/")["state"], "Running");
  std::cout << faults.size() << " clients: " << answers << " answers, "
            << pauses << " pauses\n";
}

// What `curl .../events` has printed.
void ApiBootTest::CheckEvents() {
  EXPECT_OK(events_->Wait());
  std::vector<json> events;
  for (absl::string_view line : absl::StrSplit(events_->output(), '\n')) {
    events.push_back(json::parse(std::string(line), nullptr, false));
  }
  const auto saw = [&](const char* event, const char* field,
                       const json& value) {
    for (const json& seen : events) {
      if (seen.is_object() && seen.value("event", "") == event &&
          seen.value(field, json()) == value) {
        return true;
      }
    }
    return false;
  };
  for (const char* state : {"running", "paused", "resumed", "ended"}) {
    EXPECT_TRUE(saw("lifecycle", "state", state)) << state;
  }
  EXPECT_TRUE(saw("host_conversion", "to", "shared"));
  EXPECT_TRUE(saw("host_conversion", "to", "private"));
  EXPECT_THAT(events_->output(), HasSubstr("\"event\":\"conversions\""));
}

TEST_F(ApiBootTest, ConfidentialGuestByTheCommandsOfTheManual) {
  Configure();
  Expect(digest_);
  const std::string events = TakeCommand("api --no-buffer http://localhost/ev");
  ASSERT_OK_AND_ASSIGN(events_, Shell(events + "\nwait"));
  EXPECT_TRUE(
      Eventually([&] { return Get("/metrics")["api"]["connections"] > 5; }));
  EXPECT_EQ(RunCommand("api -X PUT http://localhost/actions"), "");
  EXPECT_EQ(Get("/")["state"], "Running");
  EXPECT_EQ(Get("/confidential")["backend"], "sw-protected");
  ExpectGuest("software IO TLB: mapped");
  ExpectGuest("disk has 2048 sectors");
  ExpectGuest("pass 2: ");
  CheckBounceBuffers();
  CheckWhatNobodyMayConvert();
  CheckDiskUnderLoad();

  // The exchange window is the host's.
  json window =
      RunForJson("api 'http://localhost/memory/attributes?gpa=0x1")["ranges"];
  EXPECT_EQ(window[0]["state"], "private");
  const json converted = RunForJson("api -X POST http://localhost/memory/conv");
  EXPECT_EQ(converted["bytes"], 65536);
  EXPECT_EQ(converted["ranges"][0]["len"], "0x10000");
  window = Attributes(kWindow, 1 << 20);
  EXPECT_EQ(window[0]["state"], "shared");
  EXPECT_EQ(window[0]["len"], "0x10000");
  EXPECT_EQ(json::parse(Convert(kWindow, 65536, "private").body)["bytes"],
            65536);
  EXPECT_EQ(Attributes(kWindow, 1 << 20).size(), 1u);

  // A disk that grows under the guest, and limits that come and go.
  RunCommand("truncate --size=+1M data.img");
  EXPECT_EQ(RunCommand("api -X PATCH http://localhost/drives/data"), "");
  ExpectGuest("disk has 4096 sectors");
  Done("PATCH", "/drives/data",
       {{"drive_id", "data"},
        {"rate_limiter", {{"ops", {{"size", 4}, {"refill_time", 1000}}}}}});
  ExpectGuest("slow: ");
  EXPECT_GT(Get("/metrics")["devices"]["block_data"]["throttled"], 0)
      << Get("/metrics")["devices"]["block_data"];
  Done("PATCH", "/drives/data",
       {{"drive_id", "data"},
        {"rate_limiter", {{"ops", {{"size", 0}, {"refill_time", 0}}}}}});
  ExpectGuest("fast: ");

  // From now on the guest may share no more than it does.
  EXPECT_EQ(RunCommand("api -X PATCH http://localhost/memory/policy"), "");
  EXPECT_EQ(Get("/memory/policy")["shared_limit"], "0x8000000");

  EXPECT_EQ(RunCommand("api -X PATCH http://localhost/vm"), "");
  EXPECT_EQ(Get("/")["state"], "Paused");
  const json paused = Get("/metrics")["vcpus"];
  EXPECT_EQ(Get("/metrics")["vcpus"], paused);
  EXPECT_EQ(RunCommand("api -X PATCH http://localhost/vm"), "");
  ExpectGuest("pass ");
  const std::string map = Send("GET", "/memory/map.svg").body;
  EXPECT_THAT(map, HasSubstr("</svg>"));
  EXPECT_THAT(map, HasSubstr("local APICs"));
  EXPECT_THAT(map, Not(HasSubstr("IOAPIC"))) << "this guest knows of none";
  EXPECT_THAT(Send("GET", "/metrics/prometheus").body,
              HasSubstr("cloister_memory_bytes{state=\"private\"}"));

  EXPECT_EQ(RunCommand("api -X PUT http://localhost/actions"), "");
  EXPECT_EQ(next_, commands_.size());
  EXPECT_THAT(process_->Wait(), IsOkAndHolds(0)) << process_->output();
  EXPECT_NE(::access(kSocket, F_OK), 0);
  CheckEvents();
}

// The requests of Firecracker's getting-started guide, in its order: its
// clients send an ELF kernel and often pci=off, and find their disk by ACPI.
TEST_F(ApiBootTest, FirecrackersRequestsBootAGuestWithoutPci) {
  Done("PUT", "/machine-config", {{"vcpu_count", 1}, {"mem_size_mib", 128}});
  Done("PUT", "/boot-source",
       {{"kernel_image_path", folder_ + "/vmlinuz"},
        {"initrd_path", folder_ + "/initrd.img"},
        {"boot_args", "console=ttyS0 reboot=k panic=1 pci=off"}});
  Done("PUT", "/drives/rootfs",
       {{"drive_id", "rootfs"},
        {"path_on_host", folder_ + "/data.img"},
        {"is_root_device", true},
        {"is_read_only", false}});
  Done("PUT", "/entropy", json::object());
  // The only word that they do not have: with auto it would be confidential.
  Done("PUT", "/confidential", {{"backend", "off"}});
  Done("PUT", "/actions", {{"action_type", "InstanceStart"}});
  ExpectGuest("disk has 2048 sectors");
  ExpectGuest("/LNRO0005:00/virtio0");
  ExpectGuest("pass 1: ");
  EXPECT_THAT(process_->output(), HasSubstr("root=/dev/vda rw"));
  Done("PATCH", "/vm", {{"state", "Paused"}});
  Done("PATCH", "/vm", {{"state", "Resumed"}});
  ExpectGuest("pass ");
  EXPECT_EQ(Send("GET", "/memory/conversions").status, 400)
      << "nothing is private";
  Done("PUT", "/actions", {{"action_type", "InstanceStop"}});
  EXPECT_THAT(process_->Wait(), IsOkAndHolds(0)) << process_->output();
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
}

}  // namespace
}  // namespace cloister::tests
