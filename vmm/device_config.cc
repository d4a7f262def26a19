// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/device_config.h"

#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/devices/virtio/net_mac.h"
#include "cloister/memory/guest_address.h"

namespace cloister::vmm {
namespace {

constexpr size_t kMaxIdLength = 32;
constexpr size_t kMaxSerial = 20;
constexpr uint32_t kMaxNetQueues = 16;
// IFNAMSIZ, its zero byte included.
constexpr size_t kMaxTapName = 15;
// CIDs 0 to 2 and the last one mean something else (virtio 1.3, 5.10.4).
constexpr uint64_t kMinCid = 3;
constexpr uint64_t kMaxCid = 0xfffffffe;
// sun_path, its zero byte included, and "_" and a port for the other direction.
constexpr size_t kMaxSocketPath = 107 - 11;

absl::Status Bad(absl::string_view option, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(option, ": ", what));
}

absl::Status ValidateId(absl::string_view option, const std::string& id,
                        std::set<std::string>& seen) {
  bool good = !id.empty() && id.size() <= kMaxIdLength;
  for (char c : id) {
    good = good && (absl::ascii_isalnum(c) || c == '-' || c == '_');
  }
  if (!good) {
    return Bad(option,
               absl::StrCat("id=", absl::CHexEscape(id), ": 1 to ",
                            kMaxIdLength, " letters, digits, - and _, please"));
  }
  if (!seen.insert(id).second) {
    return Bad(option, absl::StrCat("two devices with id ", id));
  }
  return absl::OkStatus();
}

absl::Status ValidateDisk(const DiskConfig& disk) {
  if (disk.path.empty()) return Bad("--disk", "a file is needed");
  bool printable = disk.serial.size() <= kMaxSerial;
  for (char c : disk.serial) printable = printable && absl::ascii_isprint(c);
  if (!printable) {
    return Bad("--disk", absl::StrCat("serial=", absl::CHexEscape(disk.serial),
                                      ": at most ", kMaxSerial,
                                      " printable characters, please"));
  }
  return absl::OkStatus();
}

absl::Status ValidateNet(const NetConfig& net) {
  if (net.tap.empty() == net.fds.empty()) {
    return Bad("--net", "either tap= or fd= is needed");
  }
  std::set<int> distinct;
  for (int fd : net.fds) {
    if (fd < 0 || !distinct.insert(fd).second) {
      return Bad("--net",
                 absl::StrCat("fd=", fd, ": not a descriptor, or twice"));
    }
  }
  if (net.tap.size() > kMaxTapName) {
    return Bad("--net",
               absl::StrCat("tap=", net.tap, ": interface names have at most ",
                            kMaxTapName, " characters"));
  }
  if (net.queues == 0 || net.queues > kMaxNetQueues ||
      (!net.fds.empty() && net.queues != net.fds.size())) {
    return Bad("--net",
               absl::StrCat("queues=", net.queues, ": 1 to ", kMaxNetQueues,
                            ", and as many as there are descriptors in fd="));
  }
  if (net.mac.empty()) return absl::OkStatus();
  absl::Status status = devices::virtio::NetMac::Parse(net.mac).status();
  return status.ok() ? status : Bad("--net", status.message());
}

absl::Status ValidateVsock(const VsockConfig& vsock) {
  if (vsock.cid < kMinCid || vsock.cid > kMaxCid) {
    return Bad("--vsock", absl::StrCat("cid=", vsock.cid, " is out of range: ",
                                       kMinCid, " to ", kMaxCid));
  }
  if (vsock.path.empty()) return Bad("--vsock", "path= is needed");
  if (vsock.path.size() > kMaxSocketPath) {
    return Bad(
        "--vsock",
        absl::StrCat("path=", vsock.path, " is too long: ", vsock.path.size(),
                     " bytes, and at most ", kMaxSocketPath, " are possible"));
  }
  return absl::OkStatus();
}

absl::Status ValidateBalloon(const BalloonConfig& balloon) {
  if (balloon.target % memory::kPageSize == 0) return absl::OkStatus();
  return Bad("--balloon", absl::StrCat("target=", balloon.target,
                                       ": not a multiple of 4 KiB"));
}

}  // namespace

std::string DiskId(const DevicesConfig& devices, size_t index) {
  const std::string& id = devices.disks[index].id;
  return id.empty() ? absl::StrCat("disk", index) : id;
}

std::string NetId(const DevicesConfig& devices, size_t index) {
  const std::string& id = devices.nets[index].id;
  return id.empty() ? absl::StrCat("net", index) : id;
}

absl::Status ValidateDevices(const DevicesConfig& devices) {
  if (devices.count() > kMaxVirtioDevices) {
    return absl::InvalidArgumentError(absl::StrCat(
        devices.count(), " virtio devices are more than ", kMaxVirtioDevices));
  }
  std::set<std::string> ids;
  for (size_t i = 0; i < devices.disks.size(); ++i) {
    RETURN_IF_ERROR(ValidateDisk(devices.disks[i]));
    RETURN_IF_ERROR(ValidateId("--disk", DiskId(devices, i), ids));
  }
  for (size_t i = 0; i < devices.nets.size(); ++i) {
    RETURN_IF_ERROR(ValidateNet(devices.nets[i]));
    RETURN_IF_ERROR(ValidateId("--net", NetId(devices, i), ids));
  }
  if (devices.vsock.has_value()) {
    RETURN_IF_ERROR(ValidateVsock(*devices.vsock));
  }
  return devices.balloon.has_value() ? ValidateBalloon(*devices.balloon)
                                     : absl::OkStatus();
}

}  // namespace cloister::vmm
