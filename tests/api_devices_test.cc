// SPDX-License-Identifier: Apache-2.0
//
// Devices that change while a guest runs, through the API of a server whose
// threads are under their filters. Natively on /dev/kvm: the guest needs port
// I/O alone, and has no drivers.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cloister/api/client.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/tests/guest_process.h"
#include "cloister/vmm/micro_kernel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// Whether somebody else has the file locked, as a disk does.
bool IsLocked(const std::string& path) {
  base::UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  return ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

// Threads of a process that no filter holds.
int UnfilteredThreads(pid_t pid) {
  int threads = 0;
  for (const auto& task : std::filesystem::directory_iterator(
           absl::StrCat("/proc/", pid, "/task"))) {
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);) {
      if (line.rfind("Seccomp:", 0) == 0 && line != "Seccomp:\t2") ++threads;
    }
  }
  return threads;
}

template <typename Condition>
bool Eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

// A tap of the test's own, which goes with it.
class TestTap {
 public:
  // Why there is none; empty if there is.
  std::string Make(const std::string& name) {
    fd_.reset(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    if (!fd_.valid()) return "no /dev/net/tun that this user may open";
    ifreq request = {};
    std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (::ioctl(fd_.get(), TUNSETIFF, &request) != 0 ||
        ::ioctl(fd_.get(), TUNSETPERSIST, 1) != 0) {
      return absl::StrCat("TUNSETIFF: ", std::strerror(errno));
    }
    // For the monitor to attach to: a tap has one user.
    request_ = request;
    fd_.reset();
    return "";
  }
  ~TestTap() {
    if (request_.ifr_flags == 0) return;
    fd_.reset(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    if (::ioctl(fd_.get(), TUNSETIFF, &request_) == 0) {
      ::ioctl(fd_.get(), TUNSETPERSIST, 0);
    }
  }

 private:
  base::UniqueFd fd_;
  ifreq request_ = {};
};

class ApiDevicesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no /dev/kvm here that this user may open";
    }
    char name[] = "/tmp/api-devices-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    ASSERT_OK(vmm::WriteMicroKernel(vmm::MicroKernel::kPrint, Path("kernel")));
    for (const char* disk : {"a", "b"}) {
      std::ofstream(Path(disk)) << std::string(8192, *disk);
    }
    std::ofstream(Path("larger")) << std::string(1 << 20, 'l');
    ASSERT_OK_AND_ASSIGN(
        process_, GuestProcess::Start(
                      {"cli/cloister", "serve", "--api-sock", Path("socket")}));
    ASSERT_TRUE(Eventually([&] {
      auto client = api::Client::Connect(Path("socket"));
      if (client.ok()) client_ = *std::move(client);
      return client_ != nullptr;
    })) << process_->output();
    Done("PUT", "/confidential", {{"backend", "off"}});
    Done("PUT", "/serial", {{"serial_out_path", "/dev/null"}});
    Done("PUT", "/boot-source", {{"kernel_image_path", Path("kernel")}});
    PutDrive("a", true);
    PutDrive("b", false);
  }
  void TearDown() override {
    client_.reset();
    process_.reset();
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }

  std::string Path(const std::string& name) { return folder_ + "/" + name; }

  api::ClientResponse Send(const char* method, const std::string& path,
                           const json& body = json()) {
    auto response =
        client_->Call(method, path, body.is_null() ? "" : body.dump());
    if (response.ok()) return *response;
    ADD_FAILURE() << path << ": " << response.status() << "\n"
                  << process_->output();
    return {};
  }
  void Done(const char* method, const std::string& path, const json& body) {
    const api::ClientResponse response = Send(method, path, body);
    EXPECT_EQ(response.status, 204) << path << " " << response.body;
  }
  json Get(const std::string& path) {
    const api::ClientResponse response = Send("GET", path);
    EXPECT_EQ(response.status, 200) << path << " " << response.body;
    return json::parse(response.body, nullptr, false);
  }
  std::string Fault(const char* method, const std::string& path,
                    const json& body = json()) {
    const api::ClientResponse response = Send(method, path, body);
    EXPECT_EQ(response.status, 400) << path << " " << response.body;
    return response.body;
  }
  void PutDrive(const std::string& id, bool root) {
    Done("PUT", "/drives/" + id,
         {{"drive_id", id},
          {"path_on_host", Path(id)},
          {"is_root_device", root}});
  }
  void StartVm() {
    Done("PUT", "/actions", {{"action_type", "InstanceStart"}});
  }
  json Device(const std::string& name) {
    json devices = Get("/metrics")["devices"];
    EXPECT_TRUE(devices.contains(name)) << devices;
    return devices[name];
  }
  // The guest still runs, and nothing was killed for a forbidden call.
  void End() {
    if (HasFailure()) return;
    const json before = Get("/metrics")["vcpus"][0];
    EXPECT_TRUE(
        Eventually([&] { return Get("/metrics")["vcpus"][0] != before; }));
    Done("PUT", "/actions", {{"action_type", "InstanceStop"}});
    EXPECT_OK(process_->Wait());
    EXPECT_FALSE(absl::StrContains(process_->output(), "system call"))
        << process_->output();
  }

  std::string folder_;
  std::unique_ptr<GuestProcess> process_;
  std::unique_ptr<api::Client> client_;
};

TEST_F(ApiDevicesTest, DrivesGetOtherFiles) {
  StartVm();
  EXPECT_EQ(UnfilteredThreads(process_->pid()), 0);
  EXPECT_TRUE(IsLocked(Path("b")));
  EXPECT_FALSE(IsLocked(Path("larger")));
  EXPECT_EQ(Device("block_b")["disk_bytes"], 8192);
  Done("PATCH", "/drives/b",
       {{"drive_id", "b"}, {"path_on_host", Path("larger")}});
  EXPECT_EQ(Device("block_b")["disk_bytes"], 1 << 20);
  EXPECT_EQ(Device("block_a")["disk_bytes"], 8192);
  EXPECT_TRUE(IsLocked(Path("larger")));
  // The old file is let go once what was written to it is safe.
  EXPECT_TRUE(Eventually([&] { return !IsLocked(Path("b")); }));
  EXPECT_TRUE(IsLocked(Path("a")));
  EXPECT_EQ(Get("/vm/config")["drives"][1]["path_on_host"], Path("larger"));
  // The same file, grown.
  std::filesystem::resize_file(Path("larger"), 2 << 20);
  Done("PATCH", "/drives/b",
       {{"drive_id", "b"}, {"path_on_host", Path("larger")}});
  EXPECT_EQ(Device("block_b")["disk_bytes"], 2 << 20);
  End();
}

TEST_F(ApiDevicesTest, RefusedUpdatesOfDrivesChangeNothing) {
  StartVm();
  EXPECT_THAT(Fault("PATCH", "/drives/none",
                    {{"drive_id", "none"}, {"path_on_host", Path("larger")}}),
              HasSubstr("there is no drive none"));
  EXPECT_THAT(Fault("PATCH", "/drives/b",
                    {{"drive_id", "b"}, {"path_on_host", Path("missing")}}),
              HasSubstr(Path("missing")));
  EXPECT_THAT(Fault("PATCH", "/drives/b",
                    {{"drive_id", "b"}, {"path_on_host", Path("a")}}),
              HasSubstr("locked"));
  EXPECT_THAT(
      Fault("PATCH", "/drives/b",
            {{"drive_id", "b"},
             {"path_on_host", Path("larger")},
             {"rate_limiter",
              {{"ops", {{"size", 1}, {"refill_time", uint64_t{1} << 62}}}}}}),
      HasSubstr("rate_limiter"));
  EXPECT_FALSE(IsLocked(Path("larger")));
  EXPECT_EQ(Device("block_b")["disk_bytes"], 8192);
  EXPECT_EQ(Get("/vm/config")["drives"][1]["path_on_host"], Path("b"));
  End();
}

TEST_F(ApiDevicesTest, LimitsChangeAndAreShown) {
  StartVm();
  Done("PATCH", "/drives/a",
       {{"drive_id", "a"},
        {"rate_limiter", {{"ops", {{"size", 5}, {"refill_time", 100}}}}}});
  Done("PATCH", "/drives/a",
       {{"drive_id", "a"},
        {"rate_limiter",
         {{"bandwidth", {{"size", 4096}, {"refill_time", 100}}}}}});
  const json limit = Get("/vm/config")["drives"][0]["rate_limiter"];
  EXPECT_EQ(limit["ops"]["size"], 5);
  EXPECT_EQ(limit["bandwidth"]["size"], 4096);
  End();
}

TEST_F(ApiDevicesTest, TheBalloonMovesAndTellsOfItself) {
  Done("PUT", "/balloon",
       {{"amount_mib", 1},
        {"deflate_on_oom", true},
        {"stats_polling_interval_s", 1}});
  StartVm();
  EXPECT_EQ(Get("/balloon/statistics")["target_mib"], 1);
  Done("PATCH", "/balloon", {{"amount_mib", 16}});
  const json statistics = Get("/balloon/statistics");
  EXPECT_EQ(statistics["target_mib"], 16);
  EXPECT_EQ(statistics["target_pages"], 4096);
  EXPECT_EQ(statistics["actual_pages"], 0) << "this guest has no driver";
  EXPECT_EQ(Device("balloon")["target_bytes"], 16 << 20);
  EXPECT_EQ(Get("/balloon")["amount_mib"], 16);
  // More than the guest has.
  EXPECT_THAT(Fault("PATCH", "/balloon", {{"amount_mib", 4096}}),
              HasSubstr("balloon"));
  EXPECT_EQ(Get("/balloon/statistics")["target_mib"], 16);
  Done("PATCH", "/balloon/statistics", {{"stats_polling_interval_s", 3}});
  EXPECT_THAT(
      Fault("PATCH", "/balloon/statistics", {{"stats_polling_interval_s", 0}}),
      HasSubstr("turned off"));
  EXPECT_EQ(Get("/balloon")["stats_polling_interval_s"], 3);
  End();
}

TEST_F(ApiDevicesTest, WhatIsNotThereIsRefusedByName) {
  StartVm();
  EXPECT_THAT(Fault("PATCH", "/network-interfaces/e", {{"iface_id", "e"}}),
              HasSubstr("there is no network interface e"));
  EXPECT_THAT(Fault("PATCH", "/balloon", {{"amount_mib", 1}}),
              HasSubstr("there is no balloon"));
  EXPECT_THAT(Fault("GET", "/balloon/statistics"),
              HasSubstr("there is no balloon"));
  End();
}

TEST_F(ApiDevicesTest, InterfacesGetOtherLimits) {
  TestTap tap;
  const std::string name = absl::StrCat("clo", ::getpid());
  const std::string why_not = tap.Make(name);
  if (!why_not.empty()) GTEST_SKIP() << why_not;
  Done("PUT", "/network-interfaces/eth0",
       {{"iface_id", "eth0"}, {"host_dev_name", name}});
  StartVm();
  EXPECT_EQ(Device("net_eth0")["link_up"], 1);
  Done("PATCH", "/network-interfaces/eth0",
       {{"iface_id", "eth0"},
        {"rx_rate_limiter",
         {{"bandwidth", {{"size", 4096}, {"refill_time", 100}}}}}});
  EXPECT_EQ(Get("/vm/config")["network-interfaces"][0]["rx_rate_limiter"]
                             ["bandwidth"]["size"],
            4096);
  End();
}

TEST_F(ApiDevicesTest, EveryDeviceIsCounted) {
  Done("PUT", "/entropy", json::object());
  Done("PUT", "/vsock", {{"guest_cid", 3}, {"uds_path", Path("vsock")}});
  StartVm();
  const json devices = Get("/metrics")["devices"];
  for (const char* name :
       {"serial", "block_a", "block_b", "entropy", "vsock"}) {
    EXPECT_TRUE(devices.contains(name)) << devices;
  }
  EXPECT_EQ(devices["block_a"]["activations"], 0);
  const std::string text = Send("GET", "/metrics/prometheus").body;
  EXPECT_THAT(text, HasSubstr("cloister_device_events_total{device=\"entropy\","
                              "event=\"requests\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("cloister_device_state{device=\"block_a\","
                              "size=\"disk_bytes\"} 8192\n"));
  End();
}

}  // namespace
}  // namespace cloister::tests
