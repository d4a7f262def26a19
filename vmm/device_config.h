// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_DEVICE_CONFIG_H_
#define CLOISTER_VMM_DEVICE_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cloister/devices/rate_limiter.h"

namespace cloister::vmm {

// How virtio devices are attached.
enum class VirtioTransport {
  kPci,  // registers in I/O ports: works for every guest
  // Registers in memory, where accesses to MMIO can be emulated: announced by
  // ACPI, or by a device tree that the guest gets in place of ACPI tables (for
  // kernels with CONFIG_OF; no power button, no power-off).
  kMmio,
  kMmioFdt,
};

// A raw image, in a file or on a block device.
struct DiskConfig {
  std::string path = {};
  bool read_only = false;
  bool direct = false;      // O_DIRECT
  std::string serial = {};  // what the guest sees; empty: the id
  // Names the disk in messages and in the API; empty: disk0, disk1, ...
  std::string id = {};
  devices::RateLimiterConfig limit = {};
};

// A network interface on a tap of the host: by name, or by descriptors that the
// caller opened and keeps, one for each queue.
struct NetConfig {
  std::string tap = {};
  std::vector<int> fds = {};
  std::string mac = {};  // empty: a random one
  uint32_t queues = 1;
  std::string id = {};  // empty: net0, net1, ...
  devices::RateLimiterConfig rx_limit = {};
  devices::RateLimiterConfig tx_limit = {};
};

// Entropy from the host.
struct RngConfig {
  devices::RateLimiterConfig limit = {};
};

// Sockets between guest and host, the latter's as Unix sockets at `path`.
struct VsockConfig {
  uint64_t cid = 3;
  std::string path = {};
  devices::RateLimiterConfig rx_limit = {};
  devices::RateLimiterConfig tx_limit = {};
};

// Memory that the guest gives up when it is asked to, or by itself.
struct BalloonConfig {
  uint64_t target = 0;  // bytes
  bool deflate_on_oom = false;
  bool reporting = false;      // free pages are given back as they come
  uint32_t stats_seconds = 0;  // 0: no statistics
};

// A console (hvc0 in Linux), beside the serial port.
struct ConsoleConfig {
  devices::RateLimiterConfig tx_limit = {};  // from the guest
};

// Every virtio device of a VM. A device has the same place in each VM with the
// same configuration: disks first, then interfaces, then the rest.
// What the guest sees of each is measured: launch_plan.cc has a line for it.
struct DevicesConfig {
  VirtioTransport transport = VirtioTransport::kPci;
  std::vector<DiskConfig> disks;
  std::vector<NetConfig> nets;
  std::optional<VsockConfig> vsock;
  std::optional<RngConfig> rng;
  std::optional<BalloonConfig> balloon;
  std::optional<ConsoleConfig> console;

  size_t count() const {
    return disks.size() + nets.size() + (vsock.has_value() ? 1 : 0) +
           (rng.has_value() ? 1 : 0) + (balloon.has_value() ? 1 : 0) +
           (console.has_value() ? 1 : 0);
  }
};

// PCI slots 1 to 31, or as many register windows.
inline constexpr size_t kMaxVirtioDevices = 31;

// The names that devices go by, defaults filled in.
std::string DiskId(const DevicesConfig& devices, size_t index);
std::string NetId(const DevicesConfig& devices, size_t index);

// Checks what can be checked without the host. InvalidArgument, naming the
// option as the command line spells it.
absl::Status ValidateDevices(const DevicesConfig& devices);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_DEVICE_CONFIG_H_
