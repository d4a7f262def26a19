// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/boot_advice.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "cloister/base/bytes.h"
#include "cloister/base/syscall.h"
#include "cloister/base/unique_fd.h"
#include "cloister/devices/virtio/disk_format.h"

namespace cloister::vmm {
namespace {

constexpr uint64_t kSector = 512;
constexpr size_t kEntrySize = 128;
constexpr size_t kEntries = 128;

// As they are on the disk: the first three fields little endian.
using Guid = std::array<uint8_t, 16>;
constexpr Guid kLinuxRoot = {0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d,
                             0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09};
constexpr Guid kLinuxData = {0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47,
                             0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4};

bool IsLinux(const uint8_t* type) {
  return std::memcmp(type, kLinuxRoot.data(), kLinuxRoot.size()) == 0 ||
         std::memcmp(type, kLinuxData.data(), kLinuxData.size()) == 0;
}

// The start of a file; what cannot be read is left out.
std::vector<uint8_t> HeadOf(const std::string& path) {
  // A pipe would be waited for.
  base::UniqueFd fd(
      ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  std::vector<uint8_t> head(kGptHead);
  const ssize_t size = base::RetryOnEintr(
      [&] { return ::pread(fd.get(), head.data(), head.size(), 0); });
  head.resize(size < 0 ? 0 : static_cast<size_t>(size));
  return head;
}

// For a shell.
std::string Quoted(const std::string& path) {
  return absl::StrCat("'", absl::StrReplaceAll(path, {{"'", "'\\''"}}), "'");
}

// How root gets files out of a disk's partition.
std::string CopyCommands(const std::string& disk,
                         const std::optional<RootPartition>& root,
                         absl::string_view files) {
  const std::string where =
      root.has_value() ? absl::StrCat(",offset=", root->offset) : "";
  return absl::StrCat("as root: mount -o ro,loop", where, " ", Quoted(disk),
                      " /mnt; cp ", files, " .; umount /mnt");
}

}  // namespace

std::optional<RootPartition> FindRootPartition(absl::Span<const uint8_t> head) {
  if (head.size() < kGptHead ||
      std::memcmp(head.data() + kSector, "EFI PART", 8) != 0) {
    return std::nullopt;
  }
  std::optional<RootPartition> best;
  uint64_t largest = 0;
  for (size_t i = 0; i < kEntries; ++i) {
    const uint8_t* entry = head.data() + 2 * kSector + i * kEntrySize;
    const uint64_t first = base::LoadLe<uint64_t>(entry + 32);
    const uint64_t last = base::LoadLe<uint64_t>(entry + 40);
    if (!IsLinux(entry) || first < 34 || last < first ||
        last > UINT64_MAX / kSector || last - first < largest) {
      continue;
    }
    largest = last - first;
    best = RootPartition{static_cast<uint32_t>(i + 1), first * kSector};
  }
  return best;
}

std::string MissingKernelAdvice(const std::string& disk) {
  constexpr char kWhy[] =
      "Cloister runs no firmware, so a kernel cannot come from the disk";
  const std::vector<uint8_t> head = HeadOf(disk);
  const auto format = devices::virtio::DetectDiskFormat(
      absl::MakeSpan(head).subspan(0, devices::virtio::kDiskFormatHead), {});
  if (format.has_value()) {
    return absl::StrCat(kWhy, "; ", disk, " is a ", *format,
                        " image: convert it first (", "qemu-img convert -f ",
                        *format, " -O raw ", Quoted(disk), " ",
                        Quoted(disk + ".raw"), "), then ask again with --disk ",
                        Quoted(disk + ".raw"));
  }
  const auto root = FindRootPartition(head);
  return absl::StrCat(
      kWhy, "; take the one that is in ", disk, " (",
      CopyCommands(disk, root, "/mnt/vmlinuz /mnt/initrd.img"),
      ") and add --kernel vmlinuz --initrd initrd.img --append 'root=/dev/vda",
      root.has_value() ? absl::StrCat(root->number) : "", " console=ttyS0'");
}

std::optional<std::string> MissingInitrdAdvice(const std::string& disk) {
  const auto root = FindRootPartition(HeadOf(disk));
  if (!root.has_value()) return std::nullopt;
  return absl::StrCat(
      "--initrd is missing: a distribution's kernel has the drivers for its "
      "disk there, and cannot mount partition ",
      root->number, " of ", disk, " without; take it from there (",
      CopyCommands(disk, root, "/mnt/initrd.img"),
      ") and add --initrd initrd.img, unless this kernel has them built in");
}

}  // namespace cloister::vmm
