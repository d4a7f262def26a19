// SPDX-License-Identifier: Apache-2.0
//
// Whether a guest's secret can be found in its monitor: a scan of everything
// the process maps, all shared pages included, while the guest runs. Needs
// root, since the monitor lets nobody else read it.
#include "cloister/tests/micro_secret.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/guest_process.h"
#include "cloister/tests/microguest.h"
#include "cloister/tests/secret_scan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

SecretScan Scan(pid_t pid, const Secret& needle) {
  absl::StatusOr<SecretScan> scan = ScanProcess(pid, needle);
  EXPECT_OK(scan) << "needs root";
  return scan.ok() ? *scan : SecretScan();
}

struct Machine {
  std::string guest;  // as in CLOISTER_GUEST_<guest>_KERNEL
  int cpus = 1;
  int mebibytes = 128;
  std::string backend;
};

std::unique_ptr<GuestProcess> BootHolder(const Machine& machine,
                                         uint64_t seed) {
  auto file = [&](const char* what) {
    return std::getenv(
        absl::StrCat("CLOISTER_GUEST_", machine.guest, "_", what).c_str());
  };
  const char* kernel = file("KERNEL");
  const char* initramfs = file("INITRAMFS");
  if (kernel == nullptr || initramfs == nullptr) {
    ADD_FAILURE() << "no guest image";
    return nullptr;
  }
  auto guest = GuestProcess::Start(
      {"cli/cloister", "run", "--kernel", kernel, "--initrd", initramfs,
       "--append",
       absl::StrCat("console=ttyS0 quiet panic=-1 cloister.run=\"",
                    "/bin/secret_holder ", seed, "\""),
       "--memory", absl::StrCat(machine.mebibytes, "M"), "--cpus",
       absl::StrCat(machine.cpus), "--confidential", machine.backend});
  EXPECT_OK(guest);
  return guest.ok() ? *std::move(guest) : nullptr;
}

// What a scan of the monitor finds of a secret that a process of its guest has.
SecretScan ScanForHeldSecret(const Machine& machine) {
  std::random_device random;
  const uint64_t seed = uint64_t{random()} << 32 | random();
  SecretScan scan;
  auto guest = BootHolder(machine, seed);
  if (guest == nullptr) return scan;
  absl::Status held = guest->Expect("cloister guest: secret held");
  EXPECT_OK(held);
  // What init says the guest itself sees.
  const std::string text = guest->output();
  EXPECT_THAT(text, HasSubstr(absl::StrCat(", ", machine.cpus, " CPU(s), ")));
  EXPECT_THAT(text, ContainsRegex("cloister guest: memory encryption: AMD SEV; "
                                  "swiotlb: [1-9][0-9]* MiB"));
  if (held.ok()) scan = Scan(guest->pid(), SecretFromSeed(seed));
  std::cout << machine.guest << ", " << machine.backend << ": read "
            << scan.read_bytes / 1024 << " KiB of the monitor, "
            << scan.guest_bytes / 1024
            << " KiB of it shared guest memory; found " << scan.found << "\n";
  guest->Signal(SIGTERM);
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(128 + SIGTERM));
  return scan;
}

TEST(SecretScanTest, SoftwareProtectedGuestsKeepTheirs) {
  const SecretScan scan =
      ScanForHeldSecret({.guest = "TINY", .backend = "sw-protected"});
  EXPECT_EQ(scan.found, 0u);
  EXPECT_GE(scan.guest_bytes, uint64_t{128} << 20) << "all shared pages read";
}

TEST(SecretScanTest, DebianWithTwoVcpusKeepsIts) {
  const SecretScan scan = ScanForHeldSecret({.guest = "DEBIAN_6_1",
                                             .cpus = 2,
                                             .mebibytes = 256,
                                             .backend = "sw-protected"});
  EXPECT_EQ(scan.found, 0u);
  EXPECT_GE(scan.guest_bytes, uint64_t{256} << 20) << "all shared pages read";
}

TEST(SecretScanTest, TheScanFindsItInAnEmulatedGuest) {
  EXPECT_GT(ScanForHeldSecret({.guest = "TINY", .backend = "emulated"}).found,
            0u);
}

TEST(SecretScanTest, TheScanFindsAMarkerInASharedPageOnly) {
  constexpr uint64_t kPage = 4 << 20;
  auto guest = Microguest::Create({});
  ASSERT_OK(guest);
  // Words of a secret that this process computes only for a moment.
  uint64_t written = 0;
  for (uint64_t word : SecretFromSeed(42)) {
    ASSERT_OK((*guest)->Run(0, {.op = Microguest::Op::kWrite,
                                .address = kPage + 8 * written,
                                .count = 1,
                                .value = word}));
    ++written;
  }
  EXPECT_EQ(Scan(::getpid(), SecretFromSeed(42)).found_in_guest_memory, 0u);
  ASSERT_THAT((*guest)->Convert(kPage, 1, 0), IsOkAndHolds(0u));
  written = 0;
  for (uint64_t word : SecretFromSeed(42)) {
    ASSERT_OK(
        (*guest)->Run(0, {.op = Microguest::Op::kWrite,
                          .address = Microguest::SharedVa(kPage) + 8 * written,
                          .count = 1,
                          .value = word}));
    ++written;
  }
  EXPECT_EQ(Scan(::getpid(), SecretFromSeed(42)).found_in_guest_memory, 1u);
}

}  // namespace
}  // namespace cloister::tests
