// SPDX-License-Identifier: Apache-2.0
//
// A confidential guest with all that it has drivers for at work at once, under
// the default seccomp filters: data arrives as it was sent while the API
// converts memory, a scan of the monitor finds what the guest published and not
// what it kept, and every device moved data while that scan went on; the errors
// of the host's disks and tap are seen in the guest and counted outside. The
// balloon is there and idle: Linux's driver clears ACCESS_PLATFORM, without
// which a confidential guest's device does not come up. A guest whose memory is
// only emulated to be private has the same devices, and there the scan does
// find the secret. In the soak the guest is Debian's, and moves more.
#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "cloister/api/client.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/guest_process.h"
#include "cloister/tests/lab_settings.h"
#include "cloister/tests/micro_secret.h"
#include "cloister/tests/secret_scan.h"
#include "cloister/tests/shell.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using nlohmann::json;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::Not;

constexpr char kTool[] = "tests/virtio_net_guest";
// However busy the machine is.
const std::chrono::seconds kPatience(Soak() ? 1800 : 400);
constexpr uint64_t kWindow = uint64_t{1} << 32;
constexpr uint64_t kWindowPages = 256;
constexpr int64_t kMiB = 1 << 20;

// Each way, in one round of those who move data.
constexpr char kRoundMiB[] = "1";
// Each way over the network and over sockets, before they are told to stop.
uint64_t WantedBytes() { return (Soak() ? 64 : 1) * kMiB; }
const char* Flavour() { return Soak() ? "DEBIAN_6_1" : "TINY"; }
uint64_t MemoryMiB() { return Soak() ? 256 : 128; }

// What the devices are on: a good disk, one whose every sector is bad, one on a
// file system that is nearly full, and a tap.
class Host {
 public:
  Host() {
    folder_ = absl::StrCat("/run/busy-", getpid());
    Sh(absl::StrCat("mkdir ", folder_, "; mount -t tmpfs none ", folder_,
                    "; mkdir ", File("full"),
                    "; mount -t tmpfs -o size=1m none ", File("full"),
                    "; truncate -s 64M ", File("good"), " ", File("full/disk"),
                    "; echo 0 32768 error | dmsetup create --noudevsync ",
                    bad_name(), "; dmsetup mknodes; ip tuntap add dev ", tap(),
                    " mode tap; ip addr add 10.77.0.1/24 dev ", tap(),
                    "; ip link set ", tap(), " up"));
  }
  ~Host() {
    Sh(absl::StrCat("dmsetup remove --noudevsync --retry ", bad_name(),
                    "; umount ", File("full"), "; umount ", folder_, "; rmdir ",
                    folder_));
  }
  std::string File(const char* name) const {
    return absl::StrCat(folder_, "/", name);
  }
  static std::string Bad() { return "/dev/mapper/" + bad_name(); }
  static std::string tap() { return absl::StrCat("busy", getpid()); }

 private:
  static std::string bad_name() { return absl::StrCat("busy-", getpid()); }
  std::string folder_;
};

class BusyTest : public ::testing::Test {
 protected:
  // The VM's description, as the API takes it.
  std::string WriteConfig(const char* backend) {
    auto drive = [](const char* id, const std::string& path) {
      return json{{"drive_id", id},
                  {"path_on_host", path},
                  {"is_root_device", false},
                  {"is_read_only", false}};
    };
    const json config = {
        {"boot-source",
         {{"kernel_image_path", GuestFile(Flavour(), "KERNEL")},
          {"initrd_path", GuestFile(Flavour(), "INITRAMFS")},
          {"boot_args",
           absl::StrCat("console=ttyS0 quiet panic=-1 cloister.run=\"busy ",
                        secret_, " ", marker_, " ", kRoundMiB, "\"")}}},
        {"machine-config",
         {{"vcpu_count", Soak() ? 2 : 1}, {"mem_size_mib", MemoryMiB()}}},
        {"confidential",
         {{"backend", backend},
          {"exchange_windows",
           {{{"gpa", kWindow}, {"len", kWindowPages * 4096}}}}}},
        {"drives",
         {drive("good", host_.File("good")), drive("bad", Host::Bad()),
          drive("full", host_.File("full/disk"))}},
        {"network-interfaces",
         {{{"iface_id", "net"}, {"host_dev_name", Host::tap()}}}},
        {"vsock", {{"guest_cid", 5}, {"uds_path", host_.File("v")}}},
        {"entropy", json::object()},
        // Linux's own driver does without it in a confidential guest.
        {"balloon", {{"amount_mib", 0}, {"deflate_on_oom", false}}}};
    std::ofstream(host_.File("config")) << config.dump();
    return host_.File("config");
  }

  // Returns when every device is at work.
  void BootBusy(const char* backend) {
    ASSERT_OK_AND_ASSIGN(
        server_, GuestProcess::Start({kTool, "serve", "tcp:0.0.0.0:5000",
                                      kRoundMiB, "9", "rounds"}));
    ASSERT_OK(server_->Expect("listening"));
    ASSERT_OK_AND_ASSIGN(
        guest_, GuestProcess::Start({"cli/cloister", "run", "--config-file",
                                     WriteConfig(backend), "--console",
                                     "virtio", "--api-sock", host_.File("a")}));
    ASSERT_OK(guest_->Expect("secret held", kPatience));
    for (const char* driver :
         {"virtio_blk 3", "virtio_net 1", "virtio_rng 1", "virtio_console 1",
          "vmw_vsock_virtio_transport 1", "virtio_balloon 0"}) {
      ASSERT_OK(guest_->Expect(absl::StrCat("busy: ", driver), kPatience));
    }
    // Where KVM can read all that the guest's code is in.
    const bool msi = std::string(backend) == "emulated";
    EXPECT_THAT(guest_->output(),
                ContainsRegex(msi ? "interrupts MSI [1-9][0-9]*, 8259 0\r"
                                  : "interrupts MSI 0, 8259 [1-9]"));
    ASSERT_OK(guest_->Expect("listening", kPatience));
    ASSERT_OK_AND_ASSIGN(
        client_,
        GuestProcess::Start({kTool, "move",
                             absl::StrCat("hybrid:", host_.File("v"), ":5000"),
                             kRoundMiB, "8", "rounds"}));
    ASSERT_OK(guest_->Expect("over hvc0", kPatience));
  }

  SecretScan Scan(const char* what, uint64_t seed) {
    absl::StatusOr<SecretScan> scan =
        ScanProcess(guest_->pid(), SecretFromSeed(seed));
    EXPECT_OK(scan) << "needs root";
    if (!scan.ok()) return {};
    std::cout << "read " << scan->read_bytes / 1024 << " KiB of the monitor, "
              << scan->guest_bytes / 1024
              << " KiB of it shared guest memory; found " << what << " "
              << scan->found << " times, " << scan->found_in_guest_memory
              << " of them in guest memory\n";
    return *scan;
  }

  json Get(const std::string& path) {
    auto client = api::Client::Connect(host_.File("a"));
    EXPECT_OK(client);
    if (!client.ok()) return {};
    auto text = (*client)->Get(path);
    EXPECT_OK(text) << path;
    return text.ok() ? json::parse(*text, nullptr, false) : json();
  }

  // Converts pages of the window, which is the host's to convert.
  void ConvertAtRandom(int times) {
    auto client = api::Client::Connect(host_.File("a"));
    ASSERT_OK(client);
    for (int i = 0; i < times; ++i) {
      const uint64_t page = random_() % kWindowPages;
      const uint64_t pages = 1 + random_() % (kWindowPages - page);
      const json body = {
          {"ranges",
           {{{"gpa", kWindow + page * 4096},
             {"len", pages * 4096},
             {"to", random_() % 2 == 0 ? "shared" : "private"}}}}};
      auto answer = (*client)->Call("POST", "/memory/convert", body.dump());
      ASSERT_OK(answer);
      EXPECT_EQ(answer->status / 100, 2) << answer->body;
    }
  }

  // The names of the monitor's threads; none runs without a filter.
  std::set<std::string> Threads() {
    std::set<std::string> names;
    const std::string tasks = absl::StrCat("/proc/", guest_->pid(), "/task");
    DIR* folder = ::opendir(tasks.c_str());
    EXPECT_NE(folder, nullptr);
    while (const dirent* entry =
               folder == nullptr ? nullptr : ::readdir(folder)) {
      if (entry->d_name[0] == '.') continue;
      std::ifstream status(absl::StrCat(tasks, "/", entry->d_name, "/status"));
      std::string line, name, mode;
      while (std::getline(status, line)) {
        absl::string_view rest = line;
        if (absl::ConsumePrefix(&rest, "Name:\t")) name = std::string(rest);
        if (absl::ConsumePrefix(&rest, "Seccomp:\t")) mode = std::string(rest);
      }
      // The kernel's own threads of io_uring have the name of who asked.
      EXPECT_EQ(mode, "2") << name;
      names.insert(name);
    }
    if (folder != nullptr) ::closedir(folder);
    return names;
  }

  // A part of the guest's script has ended, well.
  void ExpectEnd(const std::string& part) {
    const std::string ended = absl::StrCat("busy: ", part, " ended ");
    ASSERT_OK(guest_->Expect(ended, kPatience));
    ASSERT_OK(guest_->Expect("\n"));
    EXPECT_THAT(guest_->output(), HasSubstr(ended + "0")) << part;
  }

  static uint64_t Count(const json& metrics, const char* group,
                        const char* name) {
    return metrics.value("devices", json::object())
        .value(group, json::object())
        .value(name, uint64_t{0});
  }

  static uint64_t Moved(const json& metrics, const char* device) {
    uint64_t bytes = 0;
    for (const char* name :
         {"read_bytes", "written_bytes", "rx_bytes", "tx_bytes", "bytes"}) {
      bytes += Count(metrics, device, name);
    }
    return bytes;
  }

  static std::vector<std::string> Idle(const json& before, const json& after);
  void ScanWhileAllMove();
  void TransfersEndWell();
  void TheDiskGrows();
  void NoLeaseIsLeft();
  void ErrorsOfTheHostReachTheGuest();

  Host host_;
  std::mt19937_64 random_{std::random_device()()};
  const uint64_t secret_ = random_() >> 1, marker_ = random_() >> 1;
  std::unique_ptr<GuestProcess> server_, client_, guest_;
};

// The devices that moved nothing in between, in either direction.
std::vector<std::string> BusyTest::Idle(const json& before, const json& after) {
  std::vector<std::string> idle;
  for (const char* device :
       {"block_good", "net_net", "vsock", "entropy", "console"}) {
    if (Moved(after, device) <= Moved(before, device)) idle.push_back(device);
  }
  return idle;
}

// Until a scan has gone on while every one of them moved data: one may be too
// short for a slow guest.
void BusyTest::ScanWhileAllMove() {
  bool together = false;
  uint64_t published = 0, least = 0;
  const auto end = std::chrono::steady_clock::now() + kPatience;
  do {
    ConvertAtRandom(Soak() ? 200 : 40);
    const json before = Get("/metrics");
    const SecretScan kept = Scan("the secret", secret_);
    const json after = Get("/metrics");
    EXPECT_EQ(kept.found, 0u);
    EXPECT_GE(kept.guest_bytes, MemoryMiB() << 20) << "all shared pages read";
    const std::vector<std::string> idle = Idle(before, after);
    together |= idle.empty();
    least = std::min({Count(after, "net_net", "rx_bytes"),
                      Count(after, "net_net", "tx_bytes"),
                      Count(after, "vsock", "rx_bytes"),
                      Count(after, "vsock", "tx_bytes")});
    std::cout << "idle during the scan: [" << absl::StrJoin(idle, ", ")
              << "]; moved each way: " << least / 1024 << " KiB" << std::endl;
    // The first round of the disk may not be over yet.
    if (published == 0) {
      published = Scan("what was published", marker_).found_in_guest_memory;
    }
    // All that the console said till then is read: it never has to wait.
    ASSERT_OK(guest_->Type("go on\n"));
    ASSERT_OK(guest_->Expect("busy: heard go on", kPatience));
  } while ((!together || published == 0 || least < WantedBytes()) &&
           !HasFailure() && std::chrono::steady_clock::now() < end);
  EXPECT_TRUE(together) << "no scan went on while every device moved data";
  EXPECT_GE(least, WantedBytes());
  EXPECT_GT(published, 0u)
      << "the scan would find what the guest does not keep to itself";
}

void BusyTest::TransfersEndWell() {
  client_->Signal(SIGTERM);
  ASSERT_OK(guest_->Type("stop\n"));
  ASSERT_OK(guest_->Expect("busy: told stop", kPatience));
  ASSERT_NO_FATAL_FAILURE(ExpectEnd("network"));
  ASSERT_NO_FATAL_FAILURE(ExpectEnd("sockets"));
  EXPECT_THAT(client_->Wait(kPatience), IsOkAndHolds(0)) << client_->output();
  EXPECT_THAT(server_->Wait(kPatience), IsOkAndHolds(0)) << server_->output();
  ASSERT_NO_FATAL_FAILURE(ExpectEnd("disk"));
  ASSERT_NO_FATAL_FAILURE(ExpectEnd("entropy"));
  const json after = Get("/metrics");
  EXPECT_GT(Count(after, "console", "rx_bytes"), 0u);
  for (const char* device :
       {"block_good", "net_net", "vsock", "entropy", "console"}) {
    EXPECT_EQ(Count(after, device, "activations"), 1u) << device;
    EXPECT_EQ(Count(after, device, "needs_reset"), 0u) << device;
    EXPECT_EQ(Count(after, device, "errors"), 0u) << device;
    EXPECT_EQ(Count(after, device, "exit_kicks"), 0u)
        << device << ": every notification came by its ioeventfd";
  }
}

// The guest's driver hears of a new size, and zeroes a part of the new space.
void BusyTest::TheDiskGrows() {
  ASSERT_OK(guest_->Expect("busy: disk of 131072 sectors", kPatience));
  std::fstream file(host_.File("good"),
                    std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(64 * kMiB) << std::string(16 * kMiB, 'x') << std::flush;
  ASSERT_TRUE(file.good());
  auto client = api::Client::Connect(host_.File("a"));
  ASSERT_OK(client);
  const json body = {{"drive_id", "good"},
                     {"path_on_host", host_.File("good")}};
  auto answer = (*client)->Call("PATCH", "/drives/good", body.dump());
  ASSERT_OK(answer);
  EXPECT_EQ(answer->status / 100, 2) << answer->body;
  ASSERT_OK(guest_->Expect("busy: disk of 163840 sectors", kPatience));
  ASSERT_OK(guest_->Expect("blk_guest: zeroed", kPatience));
  const json metrics = Get("/metrics");
  EXPECT_GT(Count(metrics, "block_good", "write_zeroes"), 0u);
  EXPECT_EQ(Count(metrics, "block_good", "refused"), 0u);
  std::string after(16 * kMiB, '\0');
  file.seekg(64 * kMiB).read(after.data(), static_cast<int64_t>(after.size()));
  EXPECT_TRUE(after == std::string(2 * kMiB, 'x') +
                           std::string(4 * kMiB, '\0') +
                           std::string(10 * kMiB, 'x'))
      << "4 MiB from 66 MiB on are zero, and nothing else";
}

// No device keeps a lease while it has nothing to do.
void BusyTest::NoLeaseIsLeft() {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  json leased = Get("/metrics")["leased_bytes"];
  while (leased != 0 && std::chrono::steady_clock::now() < end) {
    leased = Get("/metrics")["leased_bytes"];
  }
  EXPECT_EQ(leased, 0) << "bytes";
}

// In the guest, and outside.
void BusyTest::ErrorsOfTheHostReachTheGuest() {
  ASSERT_OK(guest_->Expect("read: EIO", kPatience));
  ASSERT_OK(guest_->Expect("write: EIO", kPatience));
  ASSERT_OK(guest_->Expect("fsync: EIO", kPatience)) << "of a full host";
  ASSERT_OK(guest_->Expect("busy: pull the tap", kPatience));
  Sh(absl::StrCat("ip link del ", Host::tap()));
  ASSERT_OK(guest_->Type("pulled\n"));
  ASSERT_OK(guest_->Expect("busy: unreachable", kPatience));
  ASSERT_OK(guest_->Expect("busy: carrier 0", kPatience));
  ASSERT_OK(guest_->Expect("busy: look at the counters", kPatience));
  const json metrics = Get("/metrics");
  EXPECT_GT(Count(metrics, "block_bad", "errors_EIO"), 0u) << metrics.dump();
  EXPECT_GT(Count(metrics, "block_full", "errors_ENOSPC"), 0u);
  EXPECT_EQ(Count(metrics, "net_net", "link_down"), 1u);
}

TEST_F(BusyTest, EveryDeviceAtOnce) {
  ASSERT_NO_FATAL_FAILURE(BootBusy("sw-protected"));
  EXPECT_THAT(Threads(), IsSupersetOf({"good", "bad", "full", "net", "vsock0",
                                       "rng0", "balloon0", "console0"}));
  ASSERT_NO_FATAL_FAILURE(ScanWhileAllMove());
  ASSERT_NO_FATAL_FAILURE(TransfersEndWell());
  ASSERT_NO_FATAL_FAILURE(TheDiskGrows());
  ASSERT_NO_FATAL_FAILURE(ErrorsOfTheHostReachTheGuest());
  NoLeaseIsLeft();
  const json conversions = Get("/memory/conversions");
  EXPECT_GT(conversions["to_private"]["explicit"]["requests"], 0);
  EXPECT_GT(conversions["to_private"]["host"]["requests"], 0);
  EXPECT_EQ(conversions["bytes"]["pending_private"], 0) << conversions.dump();

  ASSERT_OK(guest_->Type("end\n"));
  EXPECT_THAT(guest_->Wait(kPatience), IsOkAndHolds(0)) << guest_->output();
  EXPECT_THAT(guest_->output(), Not(HasSubstr("seccomp")));
  EXPECT_THAT(guest_->output(), Not(HasSubstr("blk_guest: at ")));
}

// Nothing is wrong with the scan: where the monitor could read everything it
// does find what the guest keeps to itself.
TEST_F(BusyTest, TheScanFindsTheSecretOfAnEmulatedGuest) {
  ASSERT_NO_FATAL_FAILURE(BootBusy("emulated"));
  EXPECT_GT(Scan("the secret", secret_).found, 0u);
  for (auto* process : {guest_.get(), client_.get(), server_.get()}) {
    process->Signal(SIGTERM);
    EXPECT_OK(process->Wait(kPatience));
  }
  Sh(absl::StrCat("ip link del ", Host::tap()));
}

}  // namespace
}  // namespace cloister::tests
