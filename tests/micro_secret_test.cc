// SPDX-License-Identifier: Apache-2.0
//
// Whether a guest's secret can be found in its monitor: a scan of everything
// the process maps, all shared pages included, while the guest runs. Needs
// root, since the monitor lets nobody else read it.
#include "cloister/tests/micro_secret.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_matchers.h"
#include "cloister/base/unique_fd.h"
#include "cloister/tests/guest_process.h"
#include "cloister/tests/microguest.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

struct Scan {
  uint64_t found = 0;  // places, in everything
  uint64_t found_in_guest_memory = 0;
  uint64_t read_bytes = 0;
  uint64_t guest_bytes = 0;  // of the memfds that hold shared memory
};

// Reads [start, end) of a process a piece at a time. Pages that cannot be read
// (a guest_memfd's) are passed over.
void ScanRange(int memory, uint64_t start, uint64_t end, const Secret& needle,
               bool is_guest_memory, Scan* scan) {
  constexpr uint64_t kPiece = 1 << 20;
  constexpr uint64_t kOverlap = sizeof(Secret) - 1;
  std::vector<char> bytes(kPiece + kOverlap);
  uint64_t kept = 0;  // bytes of the piece before
  for (uint64_t at = start; at < end;) {
    const uint64_t want = std::min(kPiece, end - at);
    const ssize_t got =
        ::pread(memory, bytes.data() + kept, want, static_cast<off_t>(at));
    if (got <= 0) {
      kept = 0;
      at += 4096;
      continue;
    }
    const uint64_t total = kept + static_cast<uint64_t>(got);
    const char* from = bytes.data();
    const char* const stop = from + total;
    while (const void* hit = memmem(from, static_cast<size_t>(stop - from),
                                    needle.data(), sizeof(needle))) {
      ++scan->found;
      scan->found_in_guest_memory += is_guest_memory ? 1 : 0;
      from = static_cast<const char*>(hit) + 1;
    }
    scan->read_bytes += static_cast<uint64_t>(got);
    scan->guest_bytes += is_guest_memory ? static_cast<uint64_t>(got) : 0;
    kept = std::min(kOverlap, total);
    std::memmove(bytes.data(), bytes.data() + total - kept, kept);
    at += static_cast<uint64_t>(got);
  }
}

Scan ScanProcess(pid_t pid, const Secret& needle) {
  Scan scan;
  base::UniqueFd memory(::open(absl::StrCat("/proc/", pid, "/mem").c_str(),
                               O_RDONLY | O_CLOEXEC));
  EXPECT_TRUE(memory.valid()) << "needs root";
  std::ifstream maps(absl::StrCat("/proc/", pid, "/maps"));
  std::string line;
  while (std::getline(maps, line)) {
    unsigned long start = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &start, &end) != 2) continue;
    if (line.find("[vvar") != std::string::npos ||
        line.find("[vsyscall]") != std::string::npos) {
      continue;
    }
    ScanRange(memory.get(), start, end, needle,
              line.find("cloister-guest-shared") != std::string::npos, &scan);
  }
  return scan;
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
Scan ScanForHeldSecret(const Machine& machine) {
  std::random_device random;
  const uint64_t seed = uint64_t{random()} << 32 | random();
  Scan scan;
  auto guest = BootHolder(machine, seed);
  if (guest == nullptr) return scan;
  absl::Status held = guest->Expect("cloister guest: secret held");
  EXPECT_OK(held);
  // What init says the guest itself sees.
  const std::string text = guest->output();
  EXPECT_THAT(text, HasSubstr(absl::StrCat(", ", machine.cpus, " CPU(s), ")));
  EXPECT_THAT(text, ContainsRegex("cloister guest: memory encryption: AMD SEV; "
                                  "swiotlb: [1-9][0-9]* MiB"));
  if (held.ok()) scan = ScanProcess(guest->pid(), SecretFromSeed(seed));
  std::cout << machine.guest << ", " << machine.backend << ": read "
            << scan.read_bytes / 1024 << " KiB of the monitor, "
            << scan.guest_bytes / 1024
            << " KiB of it shared guest memory; found " << scan.found << "\n";
  guest->Signal(SIGTERM);
  EXPECT_THAT(guest->Wait(), IsOkAndHolds(128 + SIGTERM));
  return scan;
}

TEST(SecretScanTest, SoftwareProtectedGuestsKeepTheirs) {
  const Scan scan =
      ScanForHeldSecret({.guest = "TINY", .backend = "sw-protected"});
  EXPECT_EQ(scan.found, 0u);
  EXPECT_GE(scan.guest_bytes, uint64_t{128} << 20) << "all shared pages read";
}

TEST(SecretScanTest, DebianWithTwoVcpusKeepsIts) {
  const Scan scan = ScanForHeldSecret({.guest = "DEBIAN_6_1",
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
  EXPECT_EQ(ScanProcess(::getpid(), SecretFromSeed(42)).found_in_guest_memory,
            0u);
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
  EXPECT_EQ(ScanProcess(::getpid(), SecretFromSeed(42)).found_in_guest_memory,
            1u);
}

}  // namespace
}  // namespace cloister::tests
